"""How rare are deep falls of the reference cascade, and do three ways to find out agree down to one in a hundred million?

Importance sampling with a tilt fitted at every level, one direction integrated exactly, and strata by the number of jumps. They
share neither law of sampling nor error. Without impact the answer is known from the density of the walk.
"""

import equinox as eqx
import numpy as np

from tailrisk import tails
from tailrisk._fields import Real, cast, count, real
from tailrisk.bench.tail_cases import JumpCascade, jump_walk_referee
from tailrisk.figures import style
from tailrisk.study.observed import curve, exact, sampled
from tailrisk.study.published import Setting
from tailrisk.tails import CrossEntropy, Direction, Plain, Probability, Stratified

TILT, DIRECTION, STRATA, PLAIN = "tilt", "direction integrated", "jump strata", "plain paths"
LOOKS = {
    TILT: (style.BLUE, "o"),
    DIRECTION: (style.VERMILION, "s"),
    STRATA: (style.GREEN, "^"),
    PLAIN: (style.GRAY, "x"),
}
CASCADE, WALK, RATIO = "cascade", "no impact", "ratio"
CURVES = 5  # that are sampled, each from noise of its own, so that their agreement says something
PRECISE = 0.06  # largest relative standard error of an estimate that is checked


class Config(eqx.Module):
    """Levels of the depth, and how many paths are drawn for each."""

    levels: Real = real(unit="log price", above=0.0)
    walk_levels: Real = real(unit="log price", above=0.0)
    paths: int = count(least=1_000)
    pilot: int = count(least=500)
    lines: int = count(least=500)
    plain: int = count(least=1_000)
    beyond: Real = real(unit="1", above=0.0)  # mass of numbers of jumps that no stratum has


def exceedance(problem, levels, method, paths, setting, name, number):
    """A curve of P(peak depth >= level), a fit and a run for every level; curves of other numbers share no noise."""
    rows = []
    for place, level in enumerate(np.asarray(levels, float)):
        target, seed = Probability(float(level)), 1_000 * (CURVES * setting.seed + number) + place  # nor do levels
        result = tails.run(problem, tails.fit(problem, target, method, seed), paths, seed)["probability"]
        rows.append((np.nan,) * 4 if result.refused else (result.value, result.std_error, *result.interval))
        setting.report(f"{name} at {level:g}: " + (result.reason if result.refused else f"{result.value:.3g}"))
    value, error, low, high = np.array(rows).T
    return curve(levels, value, error, unit="1", paths=paths, low=low, high=high)


def main(config: Config, setting: Setting):
    """Curves with and without impact."""
    cascade, walk = (
        cast(JumpCascade(impact=impact, dtype=setting.dtype), setting.dtype) for impact in (JumpCascade().impact, 0.0)
    )
    tilt, constant = CrossEntropy(pilot=config.pilot), CrossEntropy(pilot=config.pilot, feedback=False)
    strata = Stratified(beyond=float(config.beyond), method=CrossEntropy(pilot=max(config.pilot // 4, 640)))
    methods = {
        TILT: (tilt, config.paths),
        DIRECTION: (Direction(constant), config.lines),
        STRATA: (strata, config.paths),
    }
    found = {}
    for number, (name, (method, paths)) in enumerate(methods.items()):
        found[CASCADE, name] = exceedance(cascade, config.levels, method, paths, setting, name, number)
    plain = exceedance(cascade, config.levels[:3], Plain(), config.plain, setting, PLAIN, 3)
    seen = np.isfinite(plain.y)
    found[CASCADE, PLAIN] = plain._replace(
        **{k: getattr(plain, k)[seen] for k in ("x", "y", "se", "low", "high", "paths")}
    )
    found[WALK, TILT] = exceedance(walk, config.walk_levels, tilt, config.paths, setting, f"{TILT}, no impact", 4)
    density = [jump_walk_referee(float(level)) for level in config.walk_levels]
    found[WALK, "density"] = curve(config.walk_levels, density, unit="1")
    fine = np.linspace(np.min(config.walk_levels), np.max(config.walk_levels), 15)
    found[WALK, "line"] = curve(fine, [jump_walk_referee(float(level)) for level in fine], unit="1")
    base = found[CASCADE, TILT]
    for name in methods:
        here = found[CASCADE, name]
        error = here.y / base.y * (np.hypot(here.se / here.y, base.se / base.y) if name != TILT else base.se / base.y)
        found[RATIO, name] = curve(here.x, here.y / base.y, error, unit="1", paths=here.paths)
    return found


def checks(found):
    """The three agree at every level, plain paths where there are enough; the walk without impact against its density."""
    base = found[CASCADE, TILT]
    none = curve([], [], [], unit="1")
    plain = found.get((CASCADE, PLAIN), none).x.size
    yield exact("levels that plain paths give", 1, plain, 0.0, "the commonest one at least", side=-1)
    for name in (DIRECTION, STRATA, PLAIN):
        here = found.get((CASCADE, name), none)
        for x, y, se in zip(here.x, here.y, here.se, strict=True):
            place = int(np.flatnonzero(base.x == x)[0])
            error, wanted = np.hypot(se, base.se[place]), base.y[place]
            yield sampled(f"{name} at {x:g}", wanted, y, error, "tilt with feedback, this run", most=PRECISE * wanted)
    walk, density = found[WALK, TILT], found[WALK, "density"]
    for x, y, se, truth in zip(walk.x, walk.y, walk.se, density.y, strict=True):
        yield sampled(f"no impact at {x:g}", truth, y, se, "density of the walk, at run time", most=PRECISE * truth)


def draw(found):
    """Top: P(peak depth at or above a level) of the cascade and of the walk without impact, against the level (log price).

    Bottom: each estimator over the tilt. Bars: 95 %.
    """
    figure, (top, bottom) = style.new_figure(height=3.9, rows=2, height_ratios=[2.2, 1.0])
    line, base = found[WALK, "line"], found[CASCADE, TILT]
    top.plot(line.x, line.y, color=style.BLACK, linewidth=0.9, label="no impact, density")
    walk = found[WALK, TILT]
    top.errorbar(walk.x, walk.y, _bars(walk), fmt="o", ms=3, mfc="white", color=style.BLACK, label="no impact, tilt")
    top.fill_between(base.x, base.low, base.high, color=style.BLUE, alpha=0.25, linewidth=0)
    offset = {TILT: 0.0, DIRECTION: -0.003, STRATA: 0.003, PLAIN: 0.0}
    for name, (color, marker) in LOOKS.items():
        if (CASCADE, name) not in found:
            continue  # plain paths, all refused
        here = found[CASCADE, name]
        top.errorbar(
            here.x, here.y, _bars(here), fmt=marker, ms=3.2, color=color, linewidth=0.8,
            linestyle="-" if name == TILT else "none", mfc="none" if name != TILT else color, label=name,
        )  # fmt: skip
        if (RATIO, name) in found:
            ratio = found[RATIO, name]
            bottom.errorbar(
                ratio.x + offset[name], ratio.y, 1.96 * ratio.se, fmt=marker, ms=3, color=color, linewidth=0.8
            )
    top.set(yscale="log", ylabel="P(peak depth ≥ level)")
    top.legend(loc="lower left")
    bottom.axhline(1.0, color=style.GRAY, linewidth=0.6)
    bottom.set(xlabel="Level of the depth (log price)", ylabel="Over the tilt")
    return figure


def _bars(one):
    return np.abs(np.array([one.y - one.low, one.high - one.y]))
