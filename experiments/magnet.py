"""Does a circuit breaker attract the price, or does the cascade below the price do so?

A price that has no drift meets longs whose thresholds lie evenly below it. How likely does it fall by d, where a breaker would
trip, with forced sales over without them? And how does the next move depend on the distance to a trigger: near it the price is
mostly at its low, where thresholds wait, and falls are amplified. (Skewness is most negative where only some moves are amplified:
near the trigger for weak cascades, before it for strong ones.) Steps are joined by the crossing probability of a bridge, and rare
falls are drawn by a mixture of drifts.

Of the paper that the card names is a sign alone, of market-wide halts. All numbers are ours, of a synthetic book.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from tailrisk import impact, liquidation, margin, market, waterfall
from tailrisk._fields import Real, count, duration, real
from tailrisk._streams import Draws, Noise
from tailrisk.book import AbstractBook, equal_longs
from tailrisk.clearing import Exact
from tailrisk.figures import style
from tailrisk.scenario import Scenario, SortedLadder
from tailrisk.simulate import AbstractSystem, simulate
from tailrisk.study.observed import Claim, curve, exact, sampled
from tailrisk.study.published import Setting

LAW = "2 Phi(ln(1 - d) / (sigma sqrt(T))): reflection principle"
SIGN = "the sign of Chen, Petukhov, Wang, Xing (2024), Journal of Finance 79, abstract"
MAINTENANCE = 0.005
BATCHES = 16  # of paths, for errors of ratios
POWERS = 4  # of the next move: 0 to 3


class Config(eqx.Module):
    """Cascades, distances, market, and the drifts of the mixture."""

    paths: int = count(least=BATCHES)
    gains: Real = real(unit="1", least=0.0, below=1.0)  # kg
    distances: Real = real(unit="1", above=0.0, below=1.0)
    bins: int = count(least=2)
    volatility: Real = real(unit="1/sqrt(year)", above=0.0)
    horizon: Real = duration(above=0.0)
    step: Real = duration(above=0.0)
    accounts: int = count(least=10)
    width: Real = real(unit="log price", above=0.0)
    drifts: Real = real(unit="deviations")  # of the log price over the horizon


class Longs(AbstractBook):
    """Equal longs, together one unit, liquidated at even steps of log price down to the width."""

    accounts: int = count(least=1)
    width: Real = real(unit="log price", above=0.0)

    def build(self, price, margin, seed=0):
        del margin, seed
        levels = -float(self.width) * np.arange(self.accounts) / self.accounts
        return equal_longs(price, 1.0 - (1.0 - MAINTENANCE) * np.exp(levels))


class Watched(AbstractSystem):
    """A venue whose noise has one of several drifts, with the survival above each level and the powers of the next move."""

    venue: AbstractSystem
    levels: Real = real(unit="log price", below=0.0)
    edges: Real = real(unit="log price")  # of the bins of the price before a move, from the trigger upwards
    drifts: Real = real(unit="1")  # of the normal of a step
    variance: Real = real(unit="1", above=0.0)  # of the log price over a step
    steps: int = eqx.field(static=True, default=1)
    dtype: Any = eqx.field(static=True, default=None)

    @property
    def draws(self):
        return Draws(normals=1, uniforms=1)

    def init(self):
        zero = jnp.zeros((), self.dtype)
        powers = jnp.zeros((POWERS, self.edges.size - 1), self.dtype)
        return self.venue.init(), zero, zero, zero, zero, jnp.zeros_like(self.levels), powers, zero

    def step(self, state, noise: Noise):
        path, price, news, drift, total, alive, powers, clock = state
        cell = jnp.floor(noise.uniform[0] * self.drifts.size)
        drawn = jnp.sum(jnp.where(jnp.arange(self.drifts.size, dtype=cell.dtype) == cell, self.drifts, 0.0))
        drift = jnp.where(clock == 0.0, drawn, drift)
        normal = noise.normal + drift
        path, flow = self.venue.step(path, Noise(normal, noise.uniform[:0]))
        moved = price + flow.log_news[0] - news  # before forced sales
        above, below = price - self.levels, moved - self.levels
        exponent = 2.0 * jnp.maximum(above, 0.0) * jnp.maximum(below, 0.0) / self.variance
        safe = jnp.where(flow.log_price[0] > self.levels, -jnp.expm1(-exponent), 0.0)  # a bridge stays above the level
        here = (price >= self.edges[:-1]) & (price < self.edges[1:]) & (alive[-1] > -jnp.inf)
        move = flow.log_price[0] - price
        counted = move ** jnp.arange(POWERS, dtype=move.dtype)[:, None] * here.astype(move.dtype)[None, :]
        alive = alive + jnp.log(jnp.where(alive > -jnp.inf, safe, 1.0))
        state = (
            path,
            flow.log_price[0],
            flow.log_news[0],
            drift,
            total + normal[0],
            alive,
            powers + counted,
            clock + 1.0,
        )
        return state, None

    def outcome(self, state):
        _, _, _, _, total, alive, powers, _ = state
        ratios = self.drifts * total - 0.5 * self.steps * self.drifts**2
        weight = jnp.exp(-(jax.nn.logsumexp(ratios) - np.log(self.drifts.size)))
        return {"hit": weight * -jnp.expm1(alive), "powers": weight * powers, "weight": weight}


def venue(config, gain, dtype):
    """Longs with a density of one over the width, under linear impact of strength gain x width."""
    sigma = float(config.volatility)
    return Scenario(
        market=market.GeometricBrownian(sigma, 0.5 * sigma**2),  # the log price has no drift
        book=Longs(config.accounts, config.width),
        margin=margin.Flat(MAINTENANCE, 0.01),
        impact=impact.Linear(impact.ConstantDepth(1.0), gain * float(config.width), memory="inf d"),
        price=[1.0],
        horizon=config.horizon,
        step=config.step,
        positions=SortedLadder(clearing=Exact()),
        liquidation=liquidation.Full(0.0),
        waterfall=waterfall.Waterfall(deleverage="none"),
    ).build(dtype)


def main(config: Config, setting: Setting):
    """P(hit) by cascade and distance, ratios to the closed form without, and moments of the next move by distance."""
    levels, spread = np.log1p(-config.distances), float(config.volatility * config.horizon**0.5)
    trigger = levels[-1]
    places = np.linspace(0.0, 1.2 * float(config.distances[-1]), config.bins + 1)  # distances 1 - trigger / price
    found, paths = {}, config.paths
    plain = 2.0 * special.ndtr(levels / spread)
    found["law", "P(hit) without cascade"] = curve(config.distances, plain, unit="1")
    found["law", "distance in deviations"] = curve(config.distances, -levels / spread, unit="deviations")
    found["law", "volatility"] = curve(0.0, float(config.volatility), unit="1/sqrt(year)")
    for gain in np.atleast_1d(config.gains):
        inner = venue(config, gain, setting.dtype)
        numbers = {
            "levels": levels,
            "edges": trigger - np.log1p(-places),
            "drifts": np.atleast_1d(config.drifts) / np.sqrt(inner.steps),
            "variance": spread**2 / inner.steps,
        }
        numbers = {name: jnp.asarray(value, setting.dtype) for name, value in numbers.items()}
        system = Watched(inner, **numbers, steps=inner.steps, dtype=inner.dtype)
        out = {name: x.astype(float) for name, x in simulate(system, paths=paths, seed=setting.seed).items()}
        name = f"kg = {gain:g}"
        hit, error = out["hit"].mean(axis=0), out["hit"].std(axis=0, ddof=1) / np.sqrt(paths)
        found["P(hit)", name] = curve(config.distances, hit, error, unit="1", paths=paths)
        found["P(hit) over that without", name] = curve(
            config.distances, hit / plain, error / plain, unit="1", paths=paths
        )
        limit = 2.0 * special.ndtr((1.0 - gain) * levels / spread)
        found["limit of short steps", name] = curve(config.distances, limit / plain, unit="1")
        weight = out["weight"]
        found["mean weight", name] = curve(0.0, weight.mean(), weight.std() / np.sqrt(paths), unit="1", paths=paths)
        middle = 0.5 * (places[1:] + places[:-1])
        for row, (value, wrong) in moments(out["powers"], float(config.step)).items():
            found[row, name] = curve(middle, value, wrong, unit=UNITS[row], paths=paths)
        setting.report(f"{name}: P(hit) {hit[0]:.3g} to {hit[-1]:.3g}, ratio {hit[-1] / plain[-1]:.3g} at the farthest")
    return found


UNITS = {"volatility of the next move": "1/sqrt(year)", "skewness of the next move": "1"}


def moments(powers, step):
    """Volatility and skewness in each bin, and standard errors from batches of paths left out."""
    sums = np.array([part.sum(axis=0) for part in np.array_split(powers, BATCHES)])

    def found(total):
        zeroth, first, second, third = total
        seen = zeroth > 0.0
        mean, square, cube = (np.divide(x, zeroth, out=np.zeros_like(x), where=seen) for x in (first, second, third))
        variance = np.maximum(square - mean**2, 1e-300)
        return np.sqrt(variance / step), (cube - 3.0 * mean * square + 2.0 * mean**3) / variance**1.5

    whole = sums.sum(axis=0)
    left = np.array([found(whole - part) for part in sums])
    errors = left.std(axis=0) * np.sqrt(BATCHES - 1.0)
    return dict(zip(UNITS, zip(found(whole), errors, strict=True), strict=True))


def checks(found):
    """The closed form without a cascade; ratios rise with kg and distance; the next move near the trigger."""
    law = found["law", "P(hit) without cascade"]
    none = found["P(hit)", "kg = 0"]
    for d, wanted, got, error in zip(law.x, law.y, none.y, none.se, strict=True):
        yield sampled(f"no cascade, P(fall by {d:.1%})", wanted, got, error, LAW, most=0.03 * wanted)
    names = [name for panel, name in found if panel == "P(hit)"]
    for name in names:
        one = found["mean weight", name]
        yield sampled(f"{name}, mean weight", 1.0, one.y[0], one.se[0], "importance sampling", most=0.02)
    ratios = [found["P(hit) over that without", name] for name in names]
    for low, high, name in zip(ratios[:-1], ratios[1:], names[1:], strict=True):
        gain = np.min((high.y - low.y) / np.hypot(low.se, high.se))
        yield exact(
            f"{name}: least rise over the weaker cascade, standard errors",
            3.0,
            gain,
            0.0,
            "further sales on the way down",
            side=-1,
        )
        # one run gives all distances, so the difference of two is no noisier than if they were independent
        rise = np.min(np.diff(high.y) / np.hypot(high.se[1:], high.se[:-1]))
        yield exact(
            f"{name}: least rise with the distance, standard errors",
            3.0,
            rise,
            0.0,
            "more thresholds on a longer way",
            side=-1,
        )
        limit = found["limit of short steps", name]
        over = np.max((high.y - limit.y) / high.se)
        said = "sales at the ends of steps are fewer than those at every new low"
        yield exact(f"{name}: above the limit of short steps, standard errors", 0.0, over, 4.0, said, side=1)
    volatility, skewness = ({name: found[row, name] for name in names} for row in UNITS)
    sigma = found["law", "volatility"].y[0]
    for k, d in enumerate(volatility["kg = 0"].x):
        for row, flat, most in ((volatility, sigma, 0.02 * sigma), (skewness, 0.0, 0.05)):
            one, label = row["kg = 0"], "volatility" if row is volatility else "skewness"
            yield sampled(f"no cascade, {label} at {d:.2%}", flat, one.y[k], one.se[k], "independent moves", most=most)
    for name in names[1:]:
        one = volatility[name]
        rise = (one.y[0] - one.y[-1]) / np.hypot(one.se[0], one.se[-1])
        yield exact(f"{name}: volatility near over far, standard errors", 3.0, rise, 0.0, SIGN, side=-1)
        if float(name.removeprefix("kg = ")) > 0.5:
            continue  # nearly every move near the trigger is amplified, and a law that is only wider is less skewed
        one = skewness[name]
        fall = (one.y[-1] - one.y[0]) / np.hypot(one.se[0], one.se[-1])
        yield exact(f"{name}: skewness more negative near, standard errors", 3.0, fall, 0.0, SIGN, side=-1)


def card(found):
    """The sign is published, of halts of stock markets; sizes here are of a synthetic book."""
    for row, label in zip(
        UNITS, ("volatility rises near the trigger", "skewness turns more negative near it"), strict=True
    ):
        for name in [name for panel, name in found if panel == row and name != "kg = 0"]:
            one = found[row, name]
            ours = f"{one.y[0]:.3g} at {one.x[0]:.1%}, {one.y[-1]:.3g} at {one.x[-1]:.1%}"
            yield Claim(f"{row}, {name}", label, ours, SIGN)


def draw(found):
    """Left: P(hit) with a cascade over that without, against the fall to the trigger (%); dotted: steps of no length.

    Middle and right: volatility (1/sqrt(year)) and skewness of the next move against the distance to the trigger (%). Bars: 95 %.
    """
    figure, axes = style.new_page(1, 3, height=2.6)
    looks = ((style.GRAY, "-", "o"), (style.SKY, (0, (4, 1, 1, 1)), "s"), (style.BLUE, (0, (3, 1.5)), "^"))
    looks += ((style.BLACK, "-", "D"),)
    panels = (("P(hit) over that without", "P(hit) / P(hit) without cascade"), *((row, None) for row in UNITS))
    names = [name for panel, name in found if panel == "P(hit)"]
    for ax, (panel, label) in zip(axes[0], panels, strict=True):
        for name, (color, line, marker) in zip(names, looks, strict=False):
            one = found[panel, name]
            x, bars = 100.0 * one.x, 1.96 * one.se
            ax.errorbar(x, one.y, bars, color=color, ls=line, marker=marker, ms=2.6, lw=0.9, label=name)
            if label:
                limit = found["limit of short steps", name]
                ax.plot(x, limit.y, color=color, lw=0.6, ls=(0, (1, 1)))
        ax.set_ylabel(label or panel[0].upper() + panel[1:])
        ax.set_xlabel("Fall to the trigger (%)" if label else "Distance to the trigger (%)")
    axes[0, 0].set_yscale("log")
    axes[0, 0].text(0.03, 0.7, "dotted: steps\nof no length", transform=axes[0, 0].transAxes, fontsize=6.5)
    axes[0, 0].legend(loc="upper left", ncols=2, columnspacing=0.8)
    axes[0, 1].set_ylabel(r"Volatility of the next move (1/$\sqrt{\mathrm{year}}$)")
    return figure
