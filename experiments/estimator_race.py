"""What does the error of each estimator of a rare event become as the event gets rarer, at the same work?

Depths of the reference jump cascade from one in five hundred to one in three hundred million. Every estimator is tuned once for a
level and then run under several seeds; its relative standard error is set to a fixed number of whole paths. What its own checks
refuse is not shown.
"""

import equinox as eqx
import numpy as np

from tailrisk._fields import Real, cast, count, real
from tailrisk.bench.tail_cases import JumpCascade
from tailrisk.bench.tail_rows import Entry
from tailrisk.bench.tails import measure
from tailrisk.figures import style
from tailrisk.study.observed import curve, exact, sampled
from tailrisk.study.published import Setting
from tailrisk.tails import RQMC, CrossEntropy, Direction, Probability, Splitting, Stratified, Subset

PLAIN, TILT, CONSTANT, SPLIT = "plain paths", "tilt with feedback", "constant tilt", "splitting"
STRATA, SUBSET, DIRECTION, POINTS = "jump strata", "subset simulation", "direction integrated", "point sets x tilt"
LOOKS = {
    PLAIN: (style.GRAY, "none", "-"),
    SUBSET: (style.SKY, "v", (0, (1, 1))),
    SPLIT: (style.ORANGE, "D", (0, (4, 1.5))),
    DIRECTION: (style.VERMILION, "s", (0, (4, 1.5, 1, 1.5))),
    CONSTANT: (style.GREEN, "^", (0, (4, 1.5))),
    STRATA: (style.BLACK, "x", (0, (1, 1))),
    TILT: (style.BLUE, "o", "-"),
    POINTS: (style.BLUE, "P", (0, (1, 1))),
}
SHARES = {SUBSET: 4.0, SPLIT: 24.0, DIRECTION: 0.2, POINTS: 1.65}
WORK = 100_000  # whole paths
GROWTH = 2.0  # of the error of a tilt, from the commonest to the rarest event
LEAD = 10.0  # of the tilt over splitting in work, at the rarest


class Config(eqx.Module):
    """Levels of the depth, paths of a run, pilot paths of a round, and seeds."""

    levels: Real = real(unit="log price", above=0.0)
    paths: int = count(least=1_000)
    pilot: int = count(least=500)
    seeds: int = count(least=2)
    beyond: Real = real(unit="1", above=0.0)


def methods(config):
    """The estimators in turn."""
    tilt = CrossEntropy(pilot=config.pilot)
    constant = CrossEntropy(pilot=config.pilot, feedback=False)
    strata = Stratified(beyond=float(config.beyond), method=CrossEntropy(pilot=max(config.pilot // 4, 640)))
    return {
        SUBSET: Subset(),
        SPLIT: Splitting(),
        DIRECTION: Direction(constant),
        CONSTANT: constant,
        STRATA: strata,
        TILT: tilt,
        POINTS: RQMC(tilt),
    }


def main(config: Config, setting: Setting):
    """Values and relative standard errors at the same work, over the level and over the probability."""
    problem, found = cast(JumpCascade(dtype=setting.dtype), setting.dtype), {}
    rows = {name: [] for name in LOOKS}
    for name, method in methods(config).items():
        for level in np.asarray(config.levels, float):
            entry = Entry(name, problem, method, Probability(float(level)), SHARES.get(name, 1.0))
            row = measure(entry, config.paths, config.seeds)
            error = np.sqrt((1.0 - row.value) / row.value / row.gain / WORK)
            spread = 0.5 * error * row.gain_error / row.gain  # of a square root
            keep = np.nan if row.refused else 1.0
            rows[name].append((level, row.value * keep, row.std_error, error * keep, spread, row.paths))
            setting.report(f"{name} at {level:g}: {row.value:.3g}, gain {row.gain:.3g} {row.refused}")
    for name, table in rows.items():
        if not table:
            continue
        level, value, std_error, error, spread, paths = np.array(table).T
        given = np.isfinite(value)
        level, value, std_error, error, spread, paths = (
            x[given] for x in (level, value, std_error, error, spread, paths)
        )
        found["value", name] = curve(level, value, std_error, unit="1", paths=paths.astype(int))
        found["error", name] = curve(value, error, spread, unit="1", paths=paths.astype(int))
    p = np.geomspace(1e-9, 1e-2, 15)
    found["error", PLAIN] = curve(p, np.sqrt((1.0 - p) / p / WORK), unit="1")
    return found


def checks(found):
    """All agree on the probabilities; the tilt's error hardly grows and leaves splitting far behind."""
    base = found["value", TILT]
    for name in LOOKS:
        if name in (PLAIN, TILT):
            continue
        here = found["value", name]
        for x, y, se in zip(here.x, here.y, here.se, strict=True):
            place = np.flatnonzero(base.x == x)
            if place.size:
                error, wanted = np.hypot(se, base.se[place[0]]), base.y[place[0]]
                yield sampled(f"{name} at {x:g}", wanted, y, error, "tilt with feedback, this run", most=0.35 * wanted)
    tilt, split = found["error", TILT], found["error", SPLIT]
    growth = tilt.y[tilt.x.argmin()] / tilt.y[tilt.x.argmax()]
    yield exact("growth of the tilt's error", 1.0, growth, GROWTH - 1.0, "specification: 1.7 to 2.4 a path", side=1)
    lead = (split.y[split.x.argmin()] / tilt.y[tilt.x.argmin()]) ** 2
    yield exact("work of splitting over tilt", LEAD, lead, 0.0, "specification: 300 and more", side=-1)


def draw(found):
    """Relative standard error over the probability, both in logarithms."""
    figure, (axes,) = style.new_figure(height=3.6)
    for name, (color, marker, line) in LOOKS.items():
        here = found["error", name]
        order = np.argsort(here.x)
        if name == PLAIN:
            axes.plot(here.x, here.y, color=color, linewidth=0.9, label=name)
            continue
        x, y, bars = here.x[order], here.y[order], 1.96 * here.se[order]
        fill = color if name == TILT else "none"
        axes.errorbar(x, y, bars, fmt=marker, ms=3.2, mfc=fill, color=color, linestyle=line, linewidth=0.9, label=name)
    axes.set(xscale="log", yscale="log", xlim=(2e-2, 1e-9), ylim=(1e-3, 3.0))
    axes.set(xlabel="Probability of the event", ylabel=f"Relative standard error of {WORK:,} paths")
    figure.legend(loc="outside upper center", ncols=2, columnspacing=1.0)
    return figure
