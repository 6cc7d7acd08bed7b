"""How much do margins that follow volatility rise just when cash is short, and what do the three tools against it cost?

Days with clustered volatility (GARCH), a venue that charges a multiple of its estimate, and the three tools of the European
rules: a buffer that may be drawn down, a weight on stressed observations, a floor from a long look-back. Every rule is shown with
the same multiple, and scaled so that its margin covers the same share of falls; then it covers fewer of them in stress. That
multiple is set on the even paths and shown on the odd ones.
"""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from matplotlib.lines import Line2D
from scipy import special

from tailrisk._fields import Real, cast, count, real
from tailrisk.figures import style
from tailrisk.margin.procyclicality import (
    LookbackFloor,
    MarginBuffer,
    StressWeight,
    Untreated,
    largest_call,
    peak_to_trough,
)
from tailrisk.simulate import outcomes
from tailrisk.study.day_ahead import Days
from tailrisk.study.observed import curve, exact, sampled
from tailrisk.study.published import Setting
from tailrisk.tails import backtests

PLAIN, BUFFER, STRESS, FLOOR = "untreated", "buffer of 25 %", "stress weight of 25 %", "long look-back floor"
LOOKS = ((style.GRAY, "-", "o"), (style.BLUE, (0, (3, 1.5)), "s"), (style.VERMILION, (0, (4, 1, 1, 1)), "^"))
LOOKS += ((style.BLACK, "-", "D"),)
STRESSED = 0.05  # share of days that count as stress, by true volatility
LEVEL = 0.05  # of Kupiec's test
WHY = "the tool compresses the ratio of what is charged in stress and in calm"
RAISED = "max(s, floor) of an estimate s: rises are cut by what lies below the floor, and no level falls"
NORMAL = "normal quantile of a normal law, with Kupiec (1995)"


class Config(eqx.Module):
    """Days, the estimate, and the tools."""

    paths: int = count(least=16)
    days: int = count(least=100)
    deviation: Real = real(unit="1", above=0.0)
    reaction: Real = real(unit="1", least=0.0, below=1.0)
    persistence: Real = real(unit="1", least=0.0, below=1.0)
    half_life: Real = real(unit="day", above=0.0)
    coverage: Real = real(unit="1", above=0.5, below=1.0)
    call: int = count(least=1)
    trigger: Real = real(unit="1", above=0.0)
    stressed: Real = real(unit="1", above=0.0)
    floor: Real = real(unit="1", above=0.0)


def tools(config):
    """The rules, from estimated to charged volatility of a day."""
    return {
        PLAIN: Untreated(),
        BUFFER: MarginBuffer(trigger=config.trigger),
        STRESS: StressWeight(stressed=config.stressed),
        FLOOR: LookbackFloor(volatility=config.floor),
    }


def main(config: Config, setting: Setting):
    """Margins of every rule over all paths: level, largest call, peak over trough, coverage."""
    setting.need_double("ratios of a path are compared to a billionth")
    numbers = {name: getattr(config, name) for name in ("deviation", "reaction", "persistence", "half_life")}
    model = cast(Days(**numbers, steps=config.days, dtype=np.dtype(setting.dtype)), np.dtype(setting.dtype))
    _, shown = outcomes(model, setting.seed, np.arange(config.paths), record=True)
    seen, fall, true = (np.asarray(part, float) for part in shown)
    share, size = float(config.coverage), {"paths": config.paths}
    quantile, found = float(special.ndtri(share)), {}
    found["model", "variance"] = curve(0.0, *mean((true**2).mean(axis=1)), unit="1", **size)
    found["model", "mean squared estimate"] = curve(0.0, *mean((seen**2).mean(axis=1)), unit="1", **size)
    found["model", "long-run variance"] = curve(0.0, float(config.deviation) ** 2, unit="1")
    covered = fall <= quantile * true
    found["true volatility", "coverage"] = curve(share, *mean(covered.mean(axis=1)), unit="fraction", **size)
    rejected = np.asarray(backtests.kupiec(~covered, 1.0 - share).p_value) < LEVEL
    found["true volatility", "rejected by Kupiec"] = curve(
        LEVEL, *mean(rejected.astype(float)), unit="fraction", **size
    )
    stress = true >= np.quantile(true, 1.0 - STRESSED)
    crisis = int(np.argsort(seen.max(axis=1))[config.paths // 2])  # the path whose peak is the median one
    peak = int(np.argmax(seen[crisis]))
    window = np.arange(max(0, peak - 60), min(config.days, peak + 90))
    base, odd = {}, np.arange(config.paths) % 2 == 1
    for name, tool in tools(config).items():
        charged = np.asarray(tool.charged(jnp.asarray(seen.reshape(-1))), float).reshape(seen.shape)
        equal = float(np.quantile(fall[~odd] / charged[~odd], share))
        for rule, multiple, kept in (("same multiple", quantile, odd | True), ("equal coverage", equal, odd)):
            margin, falls, stressed, size = multiple * charged[kept], fall[kept], stress[kept], {"paths": kept.sum()}
            history = jnp.asarray(margin.T)
            rows = {
                "mean margin": margin.mean(axis=1),
                "largest call": np.asarray(largest_call(history, config.call)),
                "peak over trough": np.asarray(peak_to_trough(history)),
                "coverage": (falls <= margin).mean(axis=1),
            }
            for row, column in rows.items():
                unit = "1" if row == "peak over trough" else "fraction"
                found[f"{row}, {rule}", name] = curve(multiple, *mean(column), unit=unit, **size)
                less = column - base.setdefault((row, rule), column)
                found[f"{row} less untreated, {rule}", name] = curve(multiple, *mean(less), unit=unit, **size)
                found[f"{row} less untreated, {rule}, largest", name] = curve(multiple, less.max(), unit=unit, **size)
            inside = ((falls <= margin) & stressed).sum(axis=1), stressed.sum(axis=1)
            found[f"coverage in stress, {rule}", name] = curve(multiple, *ratio(*inside), unit="fraction", **size)
        shown = equal * charged[crisis, window]
        found["margin through a crisis, equal coverage", name] = curve(window - peak, shown, unit="fraction", paths=1)
        setting.report(f"{name}: a multiple of {equal:.3f} covers {share:.1%}")
    return found


def mean(x):
    """Mean over paths and its standard error."""
    return x.mean(), x.std(ddof=1) / np.sqrt(x.size)


def ratio(x, base):
    """Mean of x over mean of base on the same paths, and its standard error."""
    share = x.mean() / base.mean()
    return share, (x - share * base).std(ddof=1) / np.sqrt(x.size) / base.mean()


def checks(found):
    """The model and its coverage; what each tool does to calls and levels on the same paths."""
    variance, law = (found["model", name] for name in ("variance", "long-run variance"))
    seen, most = found["model", "mean squared estimate"], 0.05 * law.y[0]
    yield sampled("variance", law.y[0], variance.y[0], variance.se[0], "GARCH, long run", most=most)
    said = "GARCH, long run: weights of the estimate add up to one"
    yield sampled("mean squared estimate", law.y[0], seen.y[0], seen.se[0], said, most=most)
    covered = found["true volatility", "coverage"]
    yield sampled("coverage of the true volatility", covered.x[0], covered.y[0], covered.se[0], NORMAL, most=1e-3)
    rejected = found["true volatility", "rejected by Kupiec"]
    yield sampled(
        "share of paths that Kupiec's test rejects", LEVEL, rejected.y[0], rejected.se[0], NORMAL, most=0.02, side=1
    )
    for rule in ("same multiple", "equal coverage"):
        for name in (BUFFER, STRESS, FLOOR):
            one = found[f"peak over trough less untreated, {rule}", name]
            yield exact(
                f"{name}, {rule}: peak over trough, standard errors below",
                3.0,
                -one.y[0] / one.se[0],
                0.0,
                WHY,
                side=-1,
            )
            most = found[f"peak over trough less untreated, {rule}, largest", name].y[0]
            yield exact(f"{name}, {rule}: largest rise of peak over trough", 0.0, most, 1e-9, WHY, side=1)
    calls = found["largest call less untreated, same multiple", FLOOR]
    yield exact("floor: largest call, standard errors below", 3.0, -calls.y[0] / calls.se[0], 0.0, RAISED, side=-1)
    most = found["largest call less untreated, same multiple, largest", FLOOR].y[0]
    yield exact("floor: largest rise of the largest call on any path", 0.0, most, 1e-12, RAISED, side=1)
    level = found["mean margin less untreated, same multiple", FLOOR]
    yield exact("floor: mean margin, standard errors above", 3.0, level.y[0] / level.se[0], 0.0, RAISED, side=-1)
    for name in (BUFFER, STRESS, FLOOR):
        less, plain = (found["coverage in stress, equal coverage", one] for one in (name, PLAIN))
        gap = (plain.y[0] - less.y[0]) / np.hypot(less.se[0], plain.se[0])
        yield exact(f"{name}: coverage in stress, standard errors below", 3.0, gap, 0.0, "what a tool costs", side=-1)
    for name in (PLAIN, BUFFER, STRESS, FLOOR):
        one, wanted = found["coverage, equal coverage", name], found["true volatility", "coverage"].x[0]
        error = np.sqrt(2.0) * one.se[0]  # the multiple has that of the other half
        yield sampled(f"{name}: coverage of other paths", wanted, one.y[0], error, "set on half the paths", most=1e-3)


def draw(found):
    """Left: margin (% of notional) through a crisis (days). Middle: largest five-day call and mean margin (% of notional).

    Right: peak over trough of the margin, and coverage in stress (%). Open marks: the same multiple; full ones: equal coverage.
    Bars: 95 %, most of them smaller than the marks.
    """
    figure, axes = style.new_page(1, 3, height=2.6, width_ratios=[1.3, 1.0, 1.0])
    for name, (color, line, marker) in zip((PLAIN, BUFFER, STRESS, FLOOR), LOOKS, strict=True):
        one = found["margin through a crisis, equal coverage", name]
        axes[0, 0].plot(one.x, 100.0 * one.y, color=color, ls=line, label=name)
        for rule, fill in (("same multiple", "white"), ("equal coverage", color)):
            rows = ("mean margin", "largest call", "coverage in stress", "peak over trough")
            level, call, stress, swing = (found[f"{row}, {rule}", name] for row in rows)
            bars = {"fmt": marker, "color": color, "mfc": fill, "ms": 4, "lw": 0.8}
            for ax, x, y, scale in ((axes[0, 1], level, call, 100.0), (axes[0, 2], stress, swing, 1.0)):
                ax.errorbar(100.0 * x.y, scale * y.y, 1.96 * scale * y.se, 196.0 * x.se, **bars)
    axes[0, 0].set(xlabel="Days from the peak of the estimate", ylabel="Margin (% of notional)")
    axes[0, 1].set(xlabel="Mean margin (% of notional)", ylabel="Largest five-day call (% of notional)")
    axes[0, 2].set(xlabel="Coverage in stress (% of falls)", ylabel="Peak over trough of the margin")
    axes[0, 2].set_ylim(bottom=1.0)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    shapes = [Line2D([], [], marker="o", ls="", ms=4, color=style.GRAY, mfc=fill) for fill in ("white", style.GRAY)]
    axes[0, 1].legend(shapes, ["same multiple", "equal coverage"], loc="best", fontsize=6.5, handletextpad=0.1)
    return figure
