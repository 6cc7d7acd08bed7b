"""Does a trading halt lower bad debt, or does it only stop the sales that would have closed positions in time?

Equal longs meet sudden falls of the price, forced sales press it further, and the pressure fades with a memory. A halt of some
length trips once at some fall. News ends long enough before the horizon that every halt is over and its backlog sold.
"""

from itertools import product

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import TwoSlopeNorm

from tailrisk import breaker, impact, liquidation, margin, market, waterfall
from tailrisk._fields import SECONDS_PER_YEAR, Real, count, duration, real
from tailrisk.book import AbstractBook, equal_longs
from tailrisk.figures import style
from tailrisk.market.base import AbstractMarket
from tailrisk.scenario import Scenario
from tailrisk.simulate import outcomes, simulate
from tailrisk.study.observed import curve, exact, sampled
from tailrisk.study.published import Setting

PRICE = 100.0
NAMES = ("none", "slow", "fast")
NAMED = {"none": "no", "slow": "slow", "fast": "fast"}
ROWS = {"bad debt": "bad_debt", "forced volume": "forced_notional"}
NEVER = {
    "numbers that differ under an infinite trigger": "a halt that never trips is none, bit for bit",
    "paths halted at the end": "the horizon is past the last reopening",
}
LATER = "without recovery a later fill has the same impact and, by Jensen, no smaller mean deficit"
LAW = "optional sampling: later closing never lowers the mean deficit of a martingale"


class Config(eqx.Module):
    """Grid of halts, recoveries, the book and the market."""

    paths: int = count(least=64)
    least_trigger: Real = real(unit="1", above=0.0)
    most_trigger: Real = real(unit="1", above=0.0, below=1.0)
    triggers: int = count(least=2)
    shortest: Real = duration()
    lengths: int = count(least=2)
    length_step: int = count(least=1)
    recoveries: Real = duration()
    impact: Real = real(unit="log price", least=0.0)
    accounts: int = count(least=1)
    equities: Real = real(unit="1", above=0.0, below=1.0)
    maintenance: Real = real(unit="1", above=0.0, below=1.0)
    jump: Real = real(unit="1", above=0.0, below=1.0)
    jumps_per_day: Real = real(unit="1/day", above=0.0)
    volatility: Real = real(unit="1/sqrt(year)", least=0.0)
    news: Real = duration()
    step: Real = duration()
    throttle: Real = real(unit="1/hour", above=0.0)
    watched: int = count(least=64)


class Longs(AbstractBook):
    """Equal longs with evenly spread equity, together one unit of open interest."""

    equities: Real = real(unit="1", above=0.0, below=1.0)
    accounts: int = count(least=1)

    def build(self, price, margin, seed=0):
        del margin, seed
        return equal_longs(price, np.linspace(*self.equities, self.accounts))


class NewsUntil(AbstractMarket):
    """Another market whose news stops after a while; a martingale if that one is."""

    law: AbstractMarket
    until: Real = duration()

    @property
    def assets(self):
        return self.law.assets

    @property
    def draws(self):
        return self.law.draws

    def init(self, dtype):
        return self.law.init(dtype), jnp.zeros((), dtype)

    def move(self, state, noise, dt):
        shock, law = self.law.move(state[0], noise, dt)
        still = state[1] >= self.until - 0.5 * dt
        return shock._replace(log_return=jnp.where(still, 0.0, shock.log_return)), (law, state[1] + dt)

    def prepare(self):
        return self

    def check_step(self, dt):
        yield from self.law.check_step(dt)


def venue(config, rule, dtype):
    """The market and its longs under a breaker, over news, the longest halt and an hour more."""
    rate = float(config.jumps_per_day) * SECONDS_PER_YEAR / 86_400.0
    jumps = market.MertonJumps(rate=rate, deviation=0.0, mean=float(np.log1p(-config.jump)))
    longest = float(lengths(config)[-1])
    hour = 3_600.0 / SECONDS_PER_YEAR
    return Scenario(
        market=NewsUntil(market.JumpDiffusion(jumps, config.volatility), config.news),
        book=Longs(config.equities, config.accounts),
        margin=margin.Flat(float(config.maintenance), float(np.min(config.equities))),
        impact=impact.Linear(impact.ConstantDepth(1.0), float(config.impact), memory="inf d"),
        price=[PRICE],
        horizon=np.asarray(float(config.news) + longest + hour),
        step=config.step,
        liquidation=liquidation.Full(0.0),
        breaker=rule,
        waterfall=waterfall.Waterfall(deleverage="none"),
    ).build(dtype)


def lengths(config):
    """Lengths of halts, years."""
    return float(config.shortest) + np.arange(config.lengths) * config.length_step * float(config.step)


def with_memory(system, memory, coefficient=None):
    """The venue with another recovery, and another impact if given."""
    system = eqx.tree_at(lambda s: s.cascade.impact.memory, system, jnp.full_like(system.cascade.impact.memory, memory))
    if coefficient is None:
        return system
    place = lambda s: s.cascade.impact.coefficient  # noqa: E731
    return eqx.tree_at(place, system, jnp.full_like(place(system), coefficient))


def halted(system, trigger, length):
    """The venue with another halt."""
    place = lambda s: (s.cascade.breaker.threshold, s.cascade.breaker.length)  # noqa: E731
    return eqx.tree_at(
        place, system, tuple(jnp.full_like(old, new) for old, new in zip(place(system), (trigger, length), strict=True))
    )


def relative(x, base):
    """Mean of x over mean of base on the same paths, and its standard error."""
    ratio = x.mean() / base.mean()
    return ratio, (x - ratio * base).std(ddof=1) / np.sqrt(x.size) / base.mean()


def main(config: Config, setting: Setting):
    """The surfaces, the best halt of each on fresh paths, and what the checks need."""
    open_ = venue(config, breaker.NoBreaker(), setting.dtype)
    halt = venue(config, breaker.Halt(0.1, "1h", cooldown="inf d"), setting.dtype)
    triggers = np.linspace(float(config.least_trigger), float(config.most_trigger), config.triggers)
    given, found = {"paths": config.paths, "chunk": min(config.paths, 16_384)}, {}

    def run(system, seed=setting.seed, **more):
        return {name: column.astype(float) for name, column in simulate(system, seed=seed, **given | more).items()}

    for name, memory in zip(NAMES, config.recoveries, strict=True):
        base = run(with_memory(open_, memory))
        best = (np.inf, 0.0, 0.0)
        for length in lengths(config):
            cells = [run(halted(with_memory(halt, memory), trigger, length)) for trigger in triggers]
            for row, outcome in ROWS.items():
                ratio, error = np.array([relative(cell[outcome], base[outcome]) for cell in cells]).T
                series = f"halt of {length * SECONDS_PER_YEAR / 3600.0:g} h"
                found[f"{row}, {name} recovery", series] = curve(triggers, ratio, error, unit="1", paths=config.paths)
            least = int(np.argmin([cell["bad_debt"].mean() for cell in cells]))
            best = min(best, (cells[least]["bad_debt"].mean(), triggers[least], length))
        fresh, seed = with_memory(halt, memory), setting.seed + 1
        again = run(halted(fresh, *best[1:]), seed)["bad_debt"], run(with_memory(open_, memory), seed)["bad_debt"]
        hours = best[2] * SECONDS_PER_YEAR / 3600.0
        found[f"best, {name} recovery", f"halt of {hours:g} h"] = curve(
            best[1], *relative(*again), unit="1", paths=config.paths
        )
        setting.report(
            f"{name} recovery: least bad debt at {best[1]:.1%} and {hours:g} h, {relative(*again)[0]:.3f} of none"
        )
    return found | limits(config, setting, open_, halt, run)


def limits(config, setting, open_, halt, run):
    """What must hold whatever the numbers: no trip, no impact, a throttle's cap, and an end at which all is open."""
    few, memory, found = {"paths": config.watched}, config.recoveries[-1], {}
    never = halted(with_memory(halt, memory), np.inf, lengths(config)[0])
    pairs = [(run(never, **few)[name], column) for name, column in run(with_memory(open_, memory), **few).items()]
    differing = sum(np.count_nonzero(ours != theirs) for ours, theirs in pairs)
    found["limits", "numbers that differ under an infinite trigger"] = curve(
        0.0, differing, unit="1", paths=config.watched
    )

    off, trigger = with_memory(halt, memory, 0.0), float(config.least_trigger)
    debts = [run(halted(off, trigger, length))["bad_debt"] / PRICE for length in lengths(config)]
    rises = np.array([(np.mean(d), np.std(d, ddof=1) / np.sqrt(d.size)) for d in np.diff(debts, axis=0)]).T
    hours = lengths(config)[1:] * SECONDS_PER_YEAR / 3600.0
    found["no impact", "rise of bad debt with length"] = curve(hours, *rises, unit="fraction", paths=config.paths)

    cap = float(config.throttle) * float(config.step) * SECONDS_PER_YEAR / 3600.0
    rule = breaker.Throttle(volume=float(config.throttle), window="1h")
    _, flow = outcomes(venue(config, rule, setting.dtype), setting.seed, np.arange(config.watched), record=True)
    found["limits", "largest step over the throttle's cap"] = curve(
        cap, np.abs(flow.volume).max() / cap, unit="1", paths=config.watched
    )

    tight = halted(with_memory(halt, memory), trigger, lengths(config)[-1])
    _, flow = outcomes(tight, setting.seed, np.arange(config.watched), record=True)
    tripped, still = flow.halted.any(axis=(1, 2)), flow.halted[:, -1].any(axis=1)
    found["limits", "paths with a halt"] = curve(trigger, tripped.mean(), unit="1", paths=config.watched)
    found["limits", "paths halted at the end"] = curve(trigger, still.sum(), unit="1", paths=config.watched)
    return found


def surface(found, panel):
    """Triggers, lengths in hours, and ratios with their errors, of a panel."""
    rows = {series: one for (name, series), one in found.items() if name == panel}
    hours = np.array([float(series.split()[2]) for series in rows])
    ratio, error = (np.array([getattr(one, name) for one in rows.values()]) for name in ("y", "se"))
    return next(iter(rows.values())).x, hours, ratio, error


def best(found, name):
    """Trigger, length in hours, ratio and standard error of the halt that was best, on fresh paths."""
    ((series, one),) = [(s, one) for (panel, s), one in found.items() if panel == f"best, {name} recovery"]
    return one.x[0], float(series.split()[2]), one.y[0], one.se[0]


def checks(found):
    """The limits; no recovery: no halt helps; fast recovery: the best halt is inside; a tight and long one costs."""
    for name in ("numbers that differ under an infinite trigger", "paths halted at the end"):
        yield exact(name, 0.0, found["limits", name].y[0], 0.0, NEVER[name])
    tripped = found["limits", "paths with a halt"].y[0]
    yield exact("paths with a halt", 0.25, tripped, 0.0, "or the check of the end would see none", side=-1)
    share = found["limits", "largest step over the throttle's cap"].y[0]
    yield exact("largest step over the throttle's cap", 1.0, share, 1e-6, "volume cap of a step", side=1)
    for hours, rise, error in zip(*found["no impact", "rise of bad debt with length"][:3], strict=True):
        yield sampled(f"no impact, halt up to {hours:g} h", 0.0, rise, error, LAW, most=1e-5, side=-1)
    triggers, hours, ratio, error = surface(found, "bad debt, none recovery")
    for (i, j), value in np.ndenumerate(ratio):
        yield sampled(
            f"no recovery, {triggers[j]:.1%} and {hours[i]:g} h",
            1.0,
            value,
            error[i, j],
            LATER,
            most=0.1,
            side=-1,
        )
    trigger, _, value, error = best(found, "fast")
    yield exact(
        "fast recovery, best halt in standard errors below none",
        3.0,
        (1.0 - value) / error,
        0.0,
        "fresh paths",
        side=-1,
    )
    outside = float(trigger in (triggers[0], triggers[-1]))
    yield exact(
        "fast recovery, best trigger at the edge", 0.0, outside, 0.0, "tighter, noise trips it; wider, nothing does"
    )
    for name in NAMES:
        for row, sign in (("bad debt", 1.0), ("forced volume", -1.0)):
            _, _, ratio, error = surface(found, f"{row}, {name} recovery")
            size = sign * (ratio[-1, 0] - 1.0) / error[-1, 0]
            said = "more bad debt" if sign > 0.0 else "fewer sales"
            yield exact(
                f"{name} recovery, tight and long: {said}",
                3.0,
                size,
                0.0,
                "orders wait while equity goes on moving",
                side=-1,
            )


def draw(found):
    """Over trigger (% fall) and length (hours) of a halt, relative to no breaker: expected bad debt and forced volume.

    Columns: how fast the price recovers from forced sales. Lines: ratio 1. Stars: least bad debt, with its 95 % interval on fresh
    paths above.
    """
    figure, axes = style.new_page(2, 3, height=3.9, sharex=True, sharey=True)
    looks = {
        "bad debt": ("PuOr_r", TwoSlopeNorm(1.0, 0.2, 3.2)),
        "forced volume": ("PuOr_r", TwoSlopeNorm(1.0, 0.4, 1.6)),
    }
    for (i, row), (j, name) in product(enumerate(ROWS), enumerate(NAMES)):
        ax = axes[i, j]
        triggers, hours, ratio, _ = surface(found, f"{row}, {name} recovery")
        color, norm = looks[row]
        ax.pcolormesh(100.0 * triggers, hours, ratio, cmap=color, norm=norm, shading="nearest", rasterized=True)
        if ratio.min() < 1.0 < ratio.max():
            ax.contour(100.0 * triggers, hours, ratio, levels=[1.0], colors="black", linewidths=0.9)
        if i == 0:
            trigger, length, value, error = best(found, name)
            ax.plot(100.0 * trigger, length, "*", ms=8, color="white", mec="black", mew=0.6, clip_on=False)
            ax.set_title(f"{NAMED[name]} recovery\nleast {value:.2f} ± {1.96 * error:.2f}")
        else:
            ax.set_xlabel("Trigger (% fall)")
        if j == 0:
            ax.set_ylabel("Halt (hours)")
    for i, label in enumerate(("E[bad debt]\nover no breaker", "Forced volume\nover no breaker")):
        color, norm = looks[list(ROWS)[i]]
        figure.colorbar(ScalarMappable(norm, color), ax=axes[i, :], label=label, pad=0.01, aspect=14)
    return figure
