"""What does the error of each estimator of a rare event become as the event gets rarer, at the same work?

Depths of the reference jump cascade from one in five hundred to one in three hundred million. Every estimator is tuned once for a
level and then run under several seeds; its relative standard error is set to a fixed number of whole paths. What its own checks
refuse under any seed has no value and is marked above the others.
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
WEIGHTED = (DIRECTION, CONSTANT, STRATA, TILT, POINTS)  # must give every level
REACHED = 2e-5  # a probability that the others must still give, where plain paths would need 1e8 of them for 2 %
GROWTH = 2.0  # of the error of a tilt, from the commonest to the rarest event
LEAD = 100.0  # of the tilt over splitting in work, at the rarest event that both give
GAINS = (
    "gains at level 0.30 of tailrisk/bench/tail_rows.py: 2.6e4 for the tilt, 50 to 76 for splitting, 340 to 520 apart"
)
SPREADS = "deviations a path of tailrisk/bench/tail_rows.py: 1.73 at level 0.30, 2.37 at 0.44; that of plain paths grows 800-fold"


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
    """Values and relative standard errors at the same work, over the level and over the probability; and what was refused."""
    problem, found = cast(JumpCascade(dtype=setting.dtype), setting.dtype), {}
    levels = np.asarray(config.levels, float)
    for name, method in methods(config).items():
        rows = []
        for level in levels:
            entry = Entry(name, problem, method, Probability(float(level)), SHARES.get(name, 1.0))
            row = measure(entry, config.paths, config.seeds, setting.seed)
            rows.append(row)
            setting.report(f"{name} at {level:g}: {row.value:.3g}, gain {row.gain:.3g} {row.refused}")
        refused = np.array([bool(row.refused) for row in rows])
        found["refused", name] = curve(levels, refused.astype(float), unit="1")
        rows = [row for row in rows if not row.refused]
        if rows:
            value, error, gain, spread, paths = np.array(
                [(row.value, row.std_error, row.gain, row.gain_error, row.paths) for row in rows]
            ).T
            size = {"unit": "1", "paths": paths.astype(int)}
            relative = np.sqrt((1.0 - value) / value / gain / WORK)
            found["value", name] = curve(levels[~refused], value, error, **size)
            found["error", name] = curve(value, relative, 0.5 * relative * spread / gain, **size)  # of a square root
    p = np.geomspace(1e-9, 1e-2, 15)
    found["error", PLAIN] = curve(p, np.sqrt((1.0 - p) / p / WORK), unit="1")
    return found


def given(found, panel, name):
    """A curve, without points if all of it was refused."""
    return found.get((panel, name), curve([], [], [], unit="1"))


def checks(found):
    """Nobody is refused where it must work; all agree; the tilt's error hardly grows and leaves splitting far behind."""
    base, tilt = given(found, "value", TILT), given(found, "error", TILT)
    for name in LOOKS:
        if name == PLAIN:
            continue
        here = given(found, "value", name)
        if name in WEIGHTED:
            yield exact(f"{name}: levels refused", 0, found["refused", name].y.sum(), 0.0, "its own checks")
        else:
            rarest = here.y.min(initial=1.0)
            yield exact(f"{name}: rarest event that is given", REACHED, rarest, 0.0, "its own checks", side=1)
        for x, y, se in zip(here.x, here.y, here.se, strict=True):
            place = np.flatnonzero(base.x == x)
            if place.size and name != TILT:
                error, wanted = np.hypot(se, base.se[place[0]]), base.y[place[0]]
                yield sampled(f"{name} at {x:g}", wanted, y, error, "tilt with feedback, this run", most=0.35 * wanted)
    if base.x.size:
        growth, error = ratio(tilt, base.x.argmax(), tilt, base.x.argmin())
        yield sampled("growth of the tilt's error", GROWTH, growth, error, SPREADS, most=0.2 * GROWTH, side=1)
    split = given(found, "value", SPLIT)
    both = np.intersect1d(base.x, split.x)
    if both.size:
        places = (int(np.flatnonzero(one.x == both.max())[0]) for one in (split, base))
        lead, error = ratio(given(found, "error", SPLIT), next(places), tilt, next(places))
        name = f"work of splitting over tilt at {both.max():g}"
        yield sampled(name, LEAD, lead**2, 2.0 * lead * error, GAINS, most=0.3 * LEAD, side=-1)


def ratio(one, place, other, there):
    """A point of one curve over a point of another, and its standard error."""
    found = one.y[place] / other.y[there]
    return found, found * np.hypot(one.se[place] / one.y[place], other.se[there] / other.y[there])


def draw(found):
    """Relative standard error at equal work over the probability of the event, with bars of 95 % from seeds.

    Above: what the estimator's own checks refuse, at the probability that the others agree on.
    """
    figure, (top, axes) = style.new_figure(height=4.0, rows=2, height_ratios=[0.13, 1.0])
    agreed = {}
    for name in (*LOOKS, TILT):  # its value where it has one, else anybody's
        one = given(found, "value", name)
        agreed |= dict(zip(one.x, one.y, strict=True))
    places = {}
    for name, (color, marker, line) in LOOKS.items():
        here = given(found, "error", name)
        if name == PLAIN:
            axes.plot(here.x, here.y, color=color, linewidth=0.9, label=name)
            continue
        order = np.argsort(here.x)
        x, y, bars = here.x[order], here.y[order], 1.96 * here.se[order]
        look = {"fmt": marker, "ms": 3.2, "mfc": color if name == TILT else "none", "color": color}
        axes.errorbar(x, y, bars, **look, linestyle=line, linewidth=0.9, label=name)
        one = found["refused", name]
        for level in one.x[one.y > 0.0]:
            rank = places[level] = places.get(level, 0) + 1
            top.plot(agreed.get(level, np.nan), rank, marker, ms=3.2, mfc="none", color=color)
    top.set(ylim=(0.4, max([2, *places.values()]) + 0.6), yticks=[], ylabel="Refused")
    top.set_ylabel("Refused", rotation=0, ha="right", va="center")
    top.tick_params(bottom=False, which="both")
    top.spines[["left", "bottom"]].set_visible(False)
    top.set_facecolor("0.94")
    axes.set(xscale="log", yscale="log", xlim=(2e-2, 1e-9), ylim=(1e-3, 3.0))
    axes.set(xlabel="Probability of the event", ylabel=f"Relative standard error of {WORK:,} paths")
    figure.legend(loc="outside upper center", ncols=2, columnspacing=1.0)
    return figure
