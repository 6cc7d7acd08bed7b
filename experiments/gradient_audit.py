"""What does each estimator of the derivative of expected bad debt in a margin cost, and which of them are wrong?

Case (i): a loss of one step beyond a margin, truth -P(L > m). Case (ii): an isolated long that is sold a day after its price
touched the liquidation price. Both are drawn exactly and differ in nothing but how the hard event is seen to move. Case (iii):
a continuum of longs on the smooth ladder of the engine, where the derivative of a path is right.
"""

import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.lines import Line2D

from tailrisk import anchors, breaker, impact, liquidation, margin, market, waterfall
from tailrisk._fields import Real, cast, count, duration, real
from tailrisk.book import AbstractBook, equal_longs
from tailrisk.clearing import Rounds
from tailrisk.figures import style
from tailrisk.gradients import closed_cases as cases
from tailrisk.gradients import fixed_noise
from tailrisk.margin.statistical import breach_probability
from tailrisk.scenario import Scenario, SmoothLadder
from tailrisk.simulate import entry_point, simulate
from tailrisk.study.observed import curve, exact, sampled
from tailrisk.study.published import Setting

LOSS, LONG, LADDER = "loss beyond a margin", "isolated long", "smooth ladder"
ESTIMATORS = {LOSS: cases.ESTIMATORS, LONG: cases.ESTIMATORS, LADDER: (cases.PATHWISE, cases.DIFFERENCES)}
PRINTED = {"E[BD]": (0.0902820, 5e-8), "dE[BD]/dm": (-4.14585, 5e-6)}  # K1, to the digits it is printed with
SMOOTHING = (cases.SMOOTHED, cases.EXTRAPOLATED)
RATES = {cases.SMOOTHED: 2.0, cases.EXTRAPOLATED: 4.0}
FITTED = (5e-3, 0.03)  # temperatures at which the rate is read: the bias is above the noise and still a power
FORM = "closed form, at run time"
PRECISE = 0.02  # largest standard error of an estimate that is checked, share of the truth


class EvenLongs(AbstractBook):
    """Longs of one unit together and of equal size, whose equities are evenly spread."""

    equities: Real = real(unit="1", above=0.0, below=1.0)
    accounts: int = count(100_000, least=1)

    def build(self, price, margin, seed=0):
        del margin, seed
        n, (low, high) = self.accounts, self.equities
        return equal_longs(price, low + (high - low) * (np.arange(n) + 0.5) / n)


class Continuum(eqx.Module):
    """Case (iii): longs at price 1 whose equities are evenly spread, looked at twice; their sales move no price.

    Who is below the margin at the first look is sold and loses what is missing then; the others are sold at the second.
    """

    equities: Real = real(unit="1", above=0.0, below=1.0)
    volatility: Real = real(unit="1/sqrt(year)", above=0.0)
    step: Real = duration()
    cells: int = count(16_384, least=2)

    def expected(self, margin):
        """Expected bad debt, USD: by Gauss-Legendre nodes over accounts, and over prices above the level of each."""
        nodes, weights = (jnp.asarray(x) for x in np.polynomial.legendre.leggauss(64))
        low, high = self.equities
        debt, width = 1.0 - 0.5 * (low + high + (high - low) * nodes), self.volatility * jnp.sqrt(self.step)
        level, half = jnp.log(debt / (1.0 - margin))[:, None], 6.0 * width
        x = level + half * (nodes[None, :] + 1.0)
        density = jnp.exp(-0.5 * (x / width + 0.5 * width) ** 2) / (width * jnp.sqrt(2.0 * jnp.pi))
        put = anchors.zero_rate_put(jnp.exp(x), debt[:, None], self.volatility, self.step)
        later = (density * put) @ weights * half
        return 0.5 * weights @ (anchors.zero_rate_put(jnp.ones_like(debt), debt, self.volatility, self.step) + later)

    def system(self, rate, dtype):
        """The venue on the smooth ladder."""
        return Scenario(
            market=market.GeometricBrownian(volatility=self.volatility),
            book=EvenLongs(self.equities),
            margin=margin.Flat(float(rate), float(rate)),
            impact=impact.Linear(impact.ConstantDepth(1.0), 0.0, memory="inf d"),
            price=[1.0],
            horizon=np.asarray(2.0 * self.step),
            step=self.step,
            positions=SmoothLadder(cells=self.cells, clearing=Rounds(1)),
            liquidation=liquidation.Full(0.0),
            breaker=breaker.NoBreaker(),
            waterfall=waterfall.Waterfall(deleverage="none"),
        ).build(dtype)


class Config(eqx.Module):
    """The cases, the temperatures of the smoothing, and how many paths."""

    loss: cases.LossBeyond
    long: cases.IsolatedLong
    ladder: Continuum
    margins: Real = real(unit="1", above=0.0, below=1.0)
    paths: int = count(least=1_000)  # of one repeat
    repeats: int = count(least=2)
    temperatures: Real = real(unit="log price", above=0.0)
    shown: int = count()
    step: Real = real(unit="1", above=0.0)
    grid_steps: int = count(least=2)
    grid_paths: int = count(least=64)


def repeats(config, setting, case, margin, estimator, temperature):
    """A function from the number of a repeat to the derivatives in the margin of its paths, by an estimator."""
    case, margin, temperature, step = cast((case, margin, temperature, config.step), setting.dtype)
    system = cases.CasePath(case, margin, temperature, estimator, setting.dtype)
    tangent = fixed_noise.direction(system, lambda s: s.margin)

    def run(number):
        given = {"paths": config.paths, "seed": setting.seed * 10_000 + number, "chunk": min(config.paths, 100_000)}
        if estimator != cases.DIFFERENCES:
            return np.asarray(fixed_noise.slopes(system, tangent, **given)[1]["value"], float)
        above, below = (
            simulate(eqx.tree_at(lambda s: s.margin, system, moved), **given)["value"].astype(float)
            for moved in (margin + step, margin - step)
        )
        return (above - below) / (2.0 * float(config.step))

    return run


def on_the_ladder(config, setting, rate):
    """The same of case (iii): the derivative of each path, and differences."""
    system, where = config.ladder.system(rate, setting.dtype), lambda s: s.cascade.positions.rates
    tangent = fixed_noise.direction(system, where)

    def given(number):
        return {"paths": config.paths, "seed": setting.seed * 10_000 + number, "chunk": 16_384}

    def pathwise(number):
        return np.asarray(fixed_noise.slopes(system, tangent, **given(number))[1]["bad_debt"], float)

    def differences(number):
        h = float(config.step)
        above, below = (
            simulate(eqx.tree_at(where, system, where(system) + move), **given(number))["bad_debt"].astype(float)
            for move in (h, -h)
        )
        return (above - below) / (2.0 * h)

    return {cases.DIFFERENCES: differences, cases.PATHWISE: pathwise}


@entry_point
def continuum(ladder, margin, step):
    """Derivative of the expected loss of case (iii), and the bias of differences."""
    truth = jax.grad(ladder.expected)(margin)
    return truth, (ladder.expected(margin + step) - ladder.expected(margin - step)) / (2.0 * step) - truth


@entry_point
def closed_form(case, margin, step, temperatures):
    """Derivative of the expected loss; biases of differences and, over temperatures, of a smoothed event."""
    truth = jax.grad(case.expected)(margin)
    quotient = (case.expected(margin + step) - case.expected(margin - step)) / (2.0 * step)
    smooth = jax.vmap(jax.grad(case.smoothed), (None, 0))(margin, temperatures)
    return truth, quotient - truth, smooth - truth


def stated(config, case, margin):
    """Truth, and the bias that each estimator states over the temperatures, in float64 whatever the run."""
    h = np.asarray(config.temperatures, float)
    with jax.enable_x64(True):
        both = cast((case, margin, config.step, np.concatenate([h, 2.0 * h])), np.float64)
        truth, quotient, smooth = (np.asarray(x) for x in closed_form(*both))
    bias = {estimator: np.zeros_like(h) for estimator in cases.ESTIMATORS}
    bias[cases.DIFFERENCES] += quotient
    bias[cases.SMOOTHED] += smooth[: h.size]
    bias[cases.EXTRAPOLATED] += (4.0 * smooth[: h.size] - smooth[h.size :]) / 3.0
    return float(truth), bias


def race(config, setting, label, margin, runs, stated):
    """Estimates by `runs` beside what is stated, and variance times processor time over that of the differences."""
    found, work, total = {}, {}, config.paths * config.repeats
    for estimator, run in runs.items():
        run(0)  # compiles
        began = time.process_time()
        mean, variance = np.array([(d.mean(), d.var(ddof=1)) for d in map(run, range(config.repeats))]).T
        work[estimator] = variance * (time.process_time() - began) / total
        found[label, estimator] = curve(margin, mean.mean(), np.sqrt(variance.mean() / total), unit="USD", paths=total)
        found[label, f"{estimator}, stated"] = curve(margin, stated[estimator], unit="USD")
        cost = work[estimator] / work[cases.DIFFERENCES].mean()
        error = cost.std(ddof=1) / np.sqrt(cost.size)
        found["work", f"{label}, {estimator}"] = curve(margin, cost.mean(), error, unit="1", paths=total)
        setting.report(f"{label}, {estimator}: {mean.mean():.5g}, truth and stated bias {stated[estimator]:.5g}")
    return found


def main(config: Config, setting: Setting):
    """Estimates, errors, variances and processor time; bias and spread over temperatures."""
    found, one = {}, np.asarray(config.temperatures[config.shown])
    for label, case, rate in zip((LOSS, LONG), (config.loss, config.long), config.margins, strict=False):
        truth, bias = stated(config, case, rate)
        runs = {name: repeats(config, setting, case, rate, name, one) for name in reversed(cases.ESTIMATORS)}
        found |= race(config, setting, label, rate, runs, {name: truth + bias[name][config.shown] for name in runs})
    rate = config.margins[2]
    with jax.enable_x64(True):
        truth, bias = (float(x) for x in continuum(*cast((config.ladder, rate, config.step), np.float64)))
    wanted = {cases.PATHWISE: truth, cases.DIFFERENCES: truth + bias}
    found |= race(config, setting, LADDER, rate, on_the_ladder(config, setting, rate), wanted)
    return found | over_temperatures(config, setting) | naive(config, setting) | truths(config)


def truths(config):
    """Numbers of the closed forms that are printed elsewhere, in float64."""
    with jax.enable_x64(True):
        (long, loss), m = cast((config.long, config.loss), np.float64), jnp.asarray(np.asarray(config.margins))
        named = {
            "value": (long.expected(m[1]), "USD"),
            "slope": (jax.grad(long.expected)(m[1]), "USD"),
            "breach": (-breach_probability(m[0], loss.deviation), "1"),
        }
        return {("truth", name): curve(0.0, float(y), unit=unit) for name, (y, unit) in named.items()}


def over_temperatures(config, setting):
    """Case (ii): bias, measured on the noise of the unbiased score, and standard deviation of one repeat."""
    found, total, h = {}, config.paths * config.repeats, np.asarray(config.temperatures)
    unbiased = repeats(config, setting, config.long, config.margins[1], cases.SCORE, h[0])
    _, bias = stated(config, config.long, config.margins[1])
    for estimator in SMOOTHING:
        run = repeats(config, setting, config.long, config.margins[1], estimator, h)
        rows = []
        for drawn, base in ((run(i), unbiased(i)) for i in range(config.repeats)):
            apart = drawn - base[:, None]
            rows.append((apart.mean(axis=0), apart.var(axis=0, ddof=1), drawn.var(axis=0, ddof=1)))
        apart, noise, variance = np.mean(rows, axis=0)
        found["bias", estimator] = curve(h, apart, np.sqrt(noise / total), unit="USD", paths=total)
        found["bias", f"{estimator}, stated"] = curve(h, bias[estimator], unit="USD")
        spread = np.sqrt(variance / config.paths)
        found["spread", estimator] = curve(h, spread, spread / np.sqrt(2.0 * total), unit="USD", paths=config.paths)
    return found


def naive(config, setting):
    """Automatic differentiation of the path as one would write it: value, and largest derivative of any path."""
    case, margin = cast((config.long, config.margins[1]), setting.dtype)
    hours = config.grid_steps
    delay = jnp.asarray(round(hours * float(config.long.delay / (config.long.delay + config.long.horizon))), jnp.int32)
    system = cases.NaiveSale(case, margin, delay, hours, setting.dtype)
    value, slope = fixed_noise.slopes(
        system, fixed_noise.direction(system, lambda s: s.margin), paths=config.grid_paths, seed=setting.seed
    )
    value, slope = np.asarray(value["value"], float), np.abs(np.asarray(slope["value"], float))
    return {
        ("naive", "value"): curve(
            float(margin), value.mean(), value.std(ddof=1) / np.sqrt(value.size), unit="USD", paths=value.size
        ),
        ("naive", "largest slope of a path"): curve(float(margin), slope.max(), unit="USD", paths=value.size),
    }


def fitted_rate(found, estimator):
    """Order of the measured bias in the temperature, by weighted least squares in logarithms, and its error."""
    here = found["bias", estimator]
    used = (here.x >= FITTED[0]) & (here.x <= FITTED[1])
    x, y = np.log(here.x[used]), np.log(np.abs(here.y[used]))
    weight = (here.y[used] / here.se[used]) ** 2
    x = x - np.average(x, weights=weight)
    return float(np.sum(weight * x * y) / np.sum(weight * x * x)), float(np.sum(weight * x * x) ** -0.5)


def checks(found):
    """Every estimator after its stated bias; the printed numbers of K1; the rate of the bias; the zero that is wrong."""
    for label, estimators in ESTIMATORS.items():
        for estimator in estimators:
            got, wanted = found[label, estimator], found[label, f"{estimator}, stated"]
            yield sampled(
                f"{label}, {estimator}", wanted.y[0], got.y[0], got.se[0], FORM, most=PRECISE * abs(wanted.y[0])
            )
    for estimator in SMOOTHING:
        got, wanted = found["bias", estimator], found["bias", f"{estimator}, stated"]
        for h, truth, value, error in zip(got.x, wanted.y, got.y, got.se, strict=True):
            yield sampled(f"bias, {estimator} at {h:g}", truth, value, error, "quadrature, at run time")
    rate, error = fitted_rate(found, cases.SMOOTHED)
    yield exact(
        "rate of the bias, smoothed", RATES[cases.SMOOTHED], rate, 0.15 + 3.0 * error, "order of a symmetric kernel"
    )
    for (name, (value, tolerance)), got in zip(
        PRINTED.items(), (found["truth", "value"], found["truth", "slope"]), strict=True
    ):
        yield exact(
            f"K1, {name}",
            value,
            got.y[0],
            tolerance,
            "first passage by reflection times the put of Black (1976), evaluated elsewhere",
        )
    yield exact(
        "truth of case (i)", found["truth", "breach"].y[0], found[LOSS, "pathwise, stated"].y[0], 1e-12, "-P(L > m)"
    )
    yield exact(
        "naive differentiation", 0.0, found["naive", "largest slope of a path"].y[0], 0.0, "no path depends on m"
    )


def draw(found):
    """Left: bias, deviation of a repeat and least total error of smoothed derivatives (USD) over temperature (log price).

    Right: variance times processor time of every estimator over that of differences. Bars: 95 %.
    """
    figure, axes = style.new_page(1, 2, height=3.0, width_ratios=[1.15, 1.0])
    left, right = axes[0]
    looks = {cases.SMOOTHED: (style.BLUE, "o", "-"), cases.EXTRAPOLATED: (style.VERMILION, "s", (0, (4, 1.5)))}
    for estimator, (color, marker, line) in looks.items():
        bias, stated = found["bias", estimator], found["bias", f"{estimator}, stated"]
        spread = found["spread", estimator]
        seen, total = np.abs(bias.y) > 2.0 * bias.se, np.hypot(stated.y, spread.y)
        left.plot(stated.x, np.abs(stated.y), color=color, linestyle=line, linewidth=0.8)
        left.errorbar(bias.x[seen], np.abs(bias.y[seen]), 1.96 * bias.se[seen], fmt=marker, ms=3, color=color)
        left.plot(spread.x, spread.y, color=color, linestyle=(0, (1, 1)))
        left.plot(spread.x[total.argmin()], total.min(), "*", ms=8, color=color, mec="black", mew=0.4)
    rate, error = fitted_rate(found, cases.SMOOTHED)
    left.text(0.011, 0.05, f"order {rate:.2f} ± {1.96 * error:.2f}", ha="right", fontsize=7, color=style.BLUE)
    left.set(xscale="log", yscale="log", ylim=(1e-4, 1.0), xlabel="Smoothing temperature (log price)")
    left.set_ylabel("Error of d E[bad debt] / d margin (USD)")
    handles = [
        Line2D([], [], color=color, marker=marker, ms=3, linestyle=line, label=f"bias, {estimator}")
        for estimator, (color, marker, line) in looks.items()
    ]
    handles.append(Line2D([], [], color=style.GRAY, linestyle=(0, (1, 1)), label="deviation of a repeat"))
    handles.append(Line2D([], [], color=style.GRAY, marker="*", ms=7, linestyle="none", label="least total error"))
    left.legend(handles=handles, loc="upper left")
    looks = {LOSS: (style.ORANGE, "D"), LONG: (style.BLACK, "o"), LADDER: (style.GREEN, "s")}
    for place, (label, (color, marker)) in enumerate(looks.items()):
        work = [found["work", f"{label}, {estimator}"] for estimator in ESTIMATORS[label]]
        y, error = np.array([one.y[0] for one in work]), np.array([1.96 * one.se[0] for one in work])
        row = np.array([cases.ESTIMATORS.index(name) for name in ESTIMATORS[label]]) + 0.2 * (place - 1.0)
        right.errorbar(y, row, xerr=error, fmt=marker, ms=3.5, color=color, label=label)
    last = len(cases.ESTIMATORS)
    right.text(0.04, last, "0 on every path: wrong", transform=right.get_yaxis_transform(), va="center", fontsize=7)
    right.set_xscale("log")
    right.set_yticks(np.arange(last + 1), [*cases.ESTIMATORS, "naive autodiff"])
    right.set_ylim(last + 0.6, -2.3)
    right.axvline(1.0, ymax=0.85, color=style.GRAY, linewidth=0.6)
    right.set_xlabel("Variance x processor time, differences = 1")
    right.legend(loc="upper left", ncols=2, columnspacing=1.0)
    return figure
