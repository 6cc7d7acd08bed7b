"""How much margin does a target for expected bad debt cost, and do tuned rules need less of it than the usual ones?

First where the answer is known: one margin against the loss of a step. Then a venue whose margins follow estimated volatility
and whose forced sales move the price: a rule with four numbers, tuned and certified for every target, beside rules of one
number that is scaled to the same target: value-at-risk of a moving average, the three tools of EU clearing law, a fixed ratio.
"""

import dataclasses

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter

from tailrisk._fields import Real, cast, count, real
from tailrisk.figures import style
from tailrisk.policy import (
    AugmentedLagrangian,
    Certification,
    Mean,
    Policy,
    Problem,
    Rate,
    Scale,
    Stream,
    certify,
    tune,
)
from tailrisk.policy.problem import outcomes
from tailrisk.study.day_ahead import DayAhead, Days, KnownDays, Venue
from tailrisk.study.observed import curve, exact, sampled
from tailrisk.study.published import Setting
from tailrisk.study.step_loss import StepLoss, best_margin, breach_probability, problem, scale_over_deviation

PRINTED = {1e-3: (0.0627565, 17.1426), 1e-4: (0.0971174, 131.7079), 1e-5: (0.1247355, 1099.843)}
LAWS = ("normal", "t")
TUNED = "tuned"
FORM = "formula, at run time"
RIVALS = {
    "EWMA value-at-risk": {},
    "EWMA, 25 % buffer": {"share": 0.25},
    "EWMA, 25 % stressed": {"weight": 0.25},
    "EWMA, floor": {"floor": 0.04},
    "fixed ratio": {"weight": 1.0},
}
LOOKS = {
    TUNED: (style.BLACK, "o"),
    "EWMA value-at-risk": (style.VERMILION, "s"),
    "EWMA, 25 % buffer": (style.ORANGE, "D"),
    "EWMA, 25 % stressed": (style.SKY, "v"),
    "EWMA, floor": (style.GREEN, "^"),
    "fixed ratio": (style.GRAY, "X"),
}


class Config(eqx.Module):
    """Targets, laws and the venue."""

    days: Days
    venue: Venue
    targets: Real = real(unit="1", above=0.0)
    paths: int = count(least=1_000)
    deviation: Real = real(unit="1", above=0.0)
    freedom: int = count(least=3)
    tilt: Real = real(unit="deviations")
    spread: Real = real(unit="1", above=0.0)
    day_tilt: Real = real(unit="deviations")
    certificate_paths: int = count(least=65_536)


def main(config: Config, setting: Setting):
    """Margins and shadow prices in closed form and tuned; the front of the venue and its rivals on fresh paths."""
    return closed_form(config, setting) | front(config, setting)


def closed_form(config, setting):
    """One margin per target by the tuner with the plain sample mean, beside the formula."""
    found, deviation = {}, float(config.deviation)
    method = AugmentedLagrangian(z=0.0, room=0.0)
    for law, freedom in zip(LAWS, (0, config.freedom), strict=True):
        other = {"spread": config.spread} if freedom else {"tilt": config.tilt}
        model, start, rows = StepLoss(deviation=deviation, freedom=freedom, **other), None, []
        for target in config.targets:
            if freedom:  # a pilot says how far out losses must be drawn
                pilot = tune(problem(target, model), seed=setting.seed + 1, paths=config.paths // 4, method=method)
                far = float(pilot.parameters["margin"]) / (deviation * scale_over_deviation(freedom))
                model = dataclasses.replace(model, spread=far)
            tuned = tune(problem(target, model), seed=setting.seed, paths=config.paths, method=method, start=start)
            start, margin = tuned.parameters, float(tuned.parameters["margin"])
            drawn = outcomes(tuned.problem, tuned.parameters, tuned.stream)
            beyond, weight = drawn["bad_debt"] * drawn["weight"], drawn["weight"] * (drawn["bad_debt"] > 0.0)
            chance, root = weight.mean(), config.paths**0.5
            price = float(tuned.shadow_prices[0])
            rows.append((margin, beyond.std(ddof=1) / root / chance, price, price * weight.std(ddof=1) / root / chance))
        margin, error, price, price_error = np.array(rows).T
        exactly = np.array([best_margin(target, deviation, freedom) for target in config.targets])
        slope = np.array([1.0 / breach_probability(margin, deviation, freedom) for margin in exactly])
        given = {"unit": "fraction", "paths": config.paths}
        found[f"margin, {law}", TUNED] = curve(config.targets, margin, error, **given)
        found[f"margin, {law}", "formula"] = curve(config.targets, exactly, unit="fraction")
        found[f"shadow price, {law}", TUNED] = curve(config.targets, price, price_error, **given)
        found[f"shadow price, {law}", "formula"] = curve(config.targets, slope, unit="fraction")
        setting.report(f"{law}: margins {margin.round(5).tolist()}")
    return found


def decided(model, target, rule):
    """The problem of a rule: four numbers, or only how much."""
    more = (
        Rate("weight", start=0.3, lower=0.0, upper=1.0),
        Rate("floor", start=0.03, lower=0.0, upper=0.15),
        Rate("share", start=0.1, lower=0.0, upper=1.0),
    )
    variables = (Scale("k", start=3.0), *(more if rule == TUNED else ()))
    return Problem(
        model=model, variables=variables, cost={"margin": 1.0}, constraints=(Mean("bad_debt", limit=target),)
    )


def front(config, setting):
    """Every rule tuned to every target on known days, certified, and looked at on days of its own."""
    dtype, found, tuned = jnp.zeros(()).dtype, {}, {}
    days = cast(dataclasses.replace(config.days, tilt=config.day_tilt, dtype=dtype), dtype)
    method = Certification(most_paths=config.certificate_paths)
    for rule, held in {TUNED: {}, **RIVALS}.items():
        whole = DayAhead(days, dataclasses.replace(config.venue, held=held))
        known, start = KnownDays.of(whole, "figure/frontier/tuning", setting.seed, config.paths), None
        fresh = KnownDays.of(whole, "figure/frontier/fresh", setting.seed, config.paths)
        prices, states, rows = [], [], []
        for target in config.targets:
            best = tune(
                decided(known, target, rule), seed=setting.seed, paths=config.paths, start=start, chunk=config.paths
            )
            start = best.parameters
            policy = Policy(best.parameters, np.zeros(1))
            if rule == TUNED:
                states.append(certify(decided(whole, target, rule), policy, seed=setting.seed, method=method).status)
                prices.append(float(best.shadow_prices[0]))
            rows.append(
                outcomes(decided(fresh, target, rule), best.parameters, Stream("", 0, config.paths, config.paths))
            )
            seen = fresh.venue.outcomes(cast(fresh.days, dtype), cast(best.parameters, dtype))
            rows[-1]["forced"] = np.asarray(seen["forced_share"], float)
        tuned[rule] = rows
        for name, of in {
            "bad debt": lambda row: row["bad_debt"] * row["weight"],
            "forced share": lambda row: row["forced"] * row["weight"],
            "mean margin": lambda row: row["margin"],  # of days before the last, which are drawn without a tilt
            "tuned less rival": lambda row: row["apart"],
        }.items():
            for row, ours in zip(rows, tuned[TUNED], strict=True):
                row["apart"] = ours["margin"] - row["margin"]
            value, error = np.array([mean(of(row)) for row in rows]).T
            found[name, rule] = curve(config.targets, value, error, unit="fraction", paths=config.paths)
        if rule == TUNED:
            found["front shadow price", rule] = curve(config.targets, prices, unit="fraction", paths=config.paths)
            for state in ("certified", "refused"):
                found[state, rule] = curve(config.targets, [float(one == state) for one in states], unit="1")
        setting.report(f"{rule}: mean margins {found['mean margin', rule].y.round(4).tolist()} {states}")
    return found


def mean(x):
    """Mean and its standard error."""
    return x.mean(), x.std(ddof=1) / np.sqrt(x.size)


def checks(found):
    """Margins and shadow prices in closed form; certificates; no rival needs less margin; the price of a tighter target."""
    for law in LAWS:
        for target, got, wanted in zip(
            *found[f"margin, {law}", TUNED][:2], found[f"margin, {law}", "formula"].y, strict=True
        ):
            yield exact(f"margin, {law}, target {target:g}", wanted, got, 0.01 * wanted, FORM)
        got, wanted = found[f"shadow price, {law}", TUNED], found[f"shadow price, {law}", "formula"]
        for target, price, error, truth in zip(*got[:3], wanted.y, strict=True):
            yield sampled(f"shadow price, {law}, target {target:g}", truth, price, error, FORM, most=0.05 * truth)
    for panel, place in (("margin, normal", 0), ("shadow price, normal", 1)):
        for target, value in zip(*found[panel, "formula"][:2], strict=True):
            for printed, numbers in PRINTED.items():
                if np.isclose(printed, target):
                    digits = (5e-8, (5e-5 if printed > 1e-5 else 5e-4))[place]
                    yield exact(
                        f"formula, {panel}, target {target:g}", numbers[place], value, digits, f"digits of {FORM}"
                    )
    for target, certified, refused in zip(*found["certified", TUNED][:2], found["refused", TUNED].y, strict=True):
        why = "the certificate was refused: too few losses" if refused else ""
        yield exact(f"certified, target {target:g}", 1.0, certified, 0.0, "fresh paths", side=-1)._replace(refused=why)
    for rival in RIVALS:
        for target, apart, error in zip(*found["tuned less rival", rival][:3], strict=True):
            yield sampled(
                f"margin of tuned less {rival}, target {target:g}",
                0.0,
                apart,
                error,
                "an optimum is below every rule that meets the same limit",
                most=1e-3,
                side=1,
            )
    prices = found["front shadow price", TUNED].y
    least = (prices[1:] / prices[:-1]).min()
    yield exact(
        "least rise of the shadow price from target to target",
        1.0,
        least,
        0.0,
        "as without a cascade, where E[(L - m)+] is convex in m",
        side=-1,
    )


def draw(found):
    """Left: margin (% of notional) over the target of expected bad debt (share of notional): tuned, on the closed form.

    Right: mean collateral (% of notional) of the venue's tuned rule and of its rivals over expected bad debt on fresh paths.
    Numbers: shadow prices (cost over target). Size of marks: share sold by force. Bars: 95 %.
    """
    figure, axes = style.new_page(1, 2, height=3.3, width_ratios=[1.0, 1.35])
    left, right = axes[0]
    for law, marker, line in (("normal", "o", "-"), ("t", "s", (0, (4, 1.5)))):
        formula, got, price = (
            found[key]
            for key in ((f"margin, {law}", "formula"), (f"margin, {law}", TUNED), (f"shadow price, {law}", TUNED))
        )
        label = "normal" if law == "normal" else "Student t"
        left.plot(formula.x, 100.0 * formula.y, color=style.GRAY, linestyle=line, label=f"{label}, formula")
        left.errorbar(
            got.x, 100.0 * got.y, 196.0 * got.se, fmt=marker, ms=3.5, color=style.BLUE, label=f"{label}, tuned"
        )
        for x, y, value in zip(got.x, got.y, price.y, strict=True):
            left.annotate(
                f"{style.short_number(value, 2)}",
                (x, 100.0 * y),
                xytext=(3, -9),
                textcoords="offset points",
                fontsize=6,
            )
    left.set(
        xscale="log",
        yscale="log",
        xlabel="Target of expected bad debt (share of notional)",
        ylabel="Margin (% of notional)",
    )
    left.set_yticks(ticks := [5, 10, 20, 50, 100], [str(tick) for tick in ticks])
    left.yaxis.set_minor_formatter(NullFormatter())
    left.invert_xaxis()
    left.legend(loc="upper left")
    for rule, (color, marker) in LOOKS.items():
        debt, margin, forced = (found[panel, rule] for panel in ("bad debt", "mean margin", "forced share"))
        size = 4.0 + 400.0 * forced.y
        right.plot(debt.y, 100.0 * margin.y, color=color, linewidth=1.2 if rule == TUNED else 0.7, zorder=2)
        right.errorbar(
            debt.y, 100.0 * margin.y, 196.0 * margin.se, 1.96 * debt.se, fmt="none", ecolor=color, elinewidth=0.8
        )
        right.scatter(
            debt.y, 100.0 * margin.y, s=size, marker=marker, color=color, linewidths=0.0, zorder=3, label=rule
        )
    debt, margin = found["bad debt", TUNED], found["mean margin", TUNED]
    for x, y, value in zip(debt.y, margin.y, found["front shadow price", TUNED].y, strict=True):
        right.annotate(
            style.short_number(value, 2),
            (x, 100.0 * y),
            xytext=(0, -9),
            textcoords="offset points",
            ha="center",
            fontsize=6,
        )
    right.set(
        xscale="log",
        xlabel="Expected bad debt on fresh paths (share of notional)",
        ylabel="Mean collateral (% of notional)",
    )
    right.invert_xaxis()
    handles = [Line2D([], [], color=color, marker=marker, ms=4, label=rule) for rule, (color, marker) in LOOKS.items()]
    right.legend(
        handles=handles, loc="upper left", title="numbers: shadow price; size: share sold by force", title_fontsize=6.5
    )
    return figure
