"""Where does a small fall of the price become a large one, and where does the price jump?

A fall x from outside breaches a density g of thresholds and every forced sale moves the price. Left: impact in proportion, where
the total fall is x / (1 - kg) up to kg = 1 and runs away beyond. Middle: square-root impact, where a fall of nearly nothing ends
at a finite distance. Right: a book with a crowd of thresholds, whose total fall jumps where the branching number passes one.
Maps are noiseless fixed points; the engine repeats cells of them path by path, with falls at random. `vmap` here runs the cells
of a map as one batch.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from matplotlib import colormaps
from matplotlib.colors import LogNorm
from matplotlib.ticker import NullFormatter

from tailrisk import feedback, fragility, impact, liquidation, margin, waterfall
from tailrisk._fields import Real, count, real
from tailrisk._streams import Draws
from tailrisk.book import AbstractBook, equal_longs
from tailrisk.clearing import Exact
from tailrisk.figures import style
from tailrisk.market.base import AbstractMarket, Shock
from tailrisk.scenario import Scenario, SortedLadder
from tailrisk.simulate import outcomes
from tailrisk.study.observed import curve, exact
from tailrisk.study.published import Setting

LINEAR = "D = x + k g D"
ROOT = "D = x + a sqrt(D), a = Y sigma sqrt(g / V); law of impact as in Bouchaud, Farmer, Lillo (2009)"
SEARCH = "the same book by a search in its thresholds (tailrisk/fragility.py), to rounding"
JUMPS = (0.02, 0.05, 0.1, 0.2)  # a = Y sigma sqrt(g / V), of the curves of the inset
COARSE = 8  # cells that the engine repeats, in each direction of a map
CORE = 1e-18
MAINTENANCE = 0.005
GONE = 5.0  # fall of log price that counts as running away
SHARP = 1e-7  # log price, to which the engine's jump is found
BLOCK = 16_384  # paths at a time
RANDOM = 0.5  # spread of the logarithm of the random falls


class Config(eqx.Module):
    """Maps, the book of the engine, and the book with a crowd."""

    cells: int = count(least=3)
    shock: Real = real(unit="log price", above=0.0)
    density: Real = real(unit="1/log price", above=0.0)  # least and most
    strength: Real = real(unit="log price", above=0.0)  # impact of selling all: least and most
    root_strength: Real = real(unit="log price", above=0.0)  # the same under the square root
    paths: int = count(least=8)  # of a cell that the engine repeats
    accounts: int = count(least=100)
    crowd_share: Real = real(unit="1", least=0.0, most=1.0)
    crowd_level: Real = real(unit="log price", above=0.0)
    crowd_width: Real = real(unit="log price", above=0.0)
    crowd_impact: Real = real(unit="log price", above=0.0)
    shocks: int = count(least=10)
    most_shock: Real = real(unit="log price", above=0.0)


class Fall(AbstractMarket):
    """One fall of log price, size exp(spread z)."""

    size: Real = real(unit="log price", least=0.0)
    spread: Real = real(unit="1", least=0.0)

    @property
    def assets(self):
        return 1

    @property
    def draws(self):
        return Draws(normals=1)

    def init(self, dtype):
        del dtype
        return ()

    def move(self, state, noise, dt):
        del dt
        fall = self.size * jnp.exp(self.spread * noise.normal)
        return Shock(-fall, jnp.zeros((), fall.dtype)), state

    def prepare(self):
        return self

    def check_step(self, dt):
        del dt
        yield from ()


class Longs(AbstractBook):
    """Equal longs, together one unit, that are liquidated at given log prices below the first."""

    levels: Real = real(unit="log price", most=0.0)

    def build(self, price, margin, seed=0):
        del margin, seed
        return equal_longs(price, 1.0 - (1.0 - MAINTENANCE) * np.exp(self.levels))


def venue(levels, law, dtype):
    """One step in which the price falls and the whole cascade is cleared."""
    return Scenario(
        market=Fall(0.01, 0.0),
        book=Longs(levels),
        margin=margin.Flat(MAINTENANCE, 0.01),
        impact=law,
        price=[1.0],
        horizon="1h",
        step="1h",
        positions=SortedLadder(clearing=Exact()),
        liquidation=liquidation.Full(0.0),
        waterfall=waterfall.Waterfall(deleverage="none"),
    ).build(dtype)


def with_fall(system, size, spread=0.0):
    """The venue under another fall."""
    place = lambda s: (s.cascade.market.size, s.cascade.market.spread)  # noqa: E731
    new = (jnp.full_like(old, value) for old, value in zip(place(system), (size, spread), strict=True))
    return eqx.tree_at(place, system, tuple(new))


def linear(coefficient):
    return impact.Linear(impact.ConstantDepth(1.0), coefficient, memory="inf d")


def root(coefficient):
    return impact.SquareRoot(impact.ConstantDepth(1.0), volatility=coefficient, core=CORE, memory="inf d")


def fixed_points(make, strength, density, shock):
    """Fixed points of D = x + I(g D) over arrays of cells, and their derivatives in the strength of the impact I."""

    def fall(parameters, drop):
        strength, density = parameters
        return strength * make(1.0).curve((density * drop)[None])[0]

    def one(k, g, x):
        def drop(k):
            found = feedback.fixed_point(fall, (k, g), x, most=GONE)
            return found.drop, found

        slope, found = jax.jacfwd(drop, has_aux=True)(k)
        return found, slope

    return jax.vmap(one)(*(jnp.asarray(part) for part in np.broadcast_arrays(strength, density, shock)))


def spaced(ends, count):
    """Numbers of six digits, evenly spaced in logarithm."""
    return np.array([float(f"{value:.6g}") for value in np.geomspace(*np.asarray(ends), count)])


def main(config: Config, setting: Setting):
    """Both maps, the engine against the diagnostics, and the book with a crowd."""
    setting.need_double("fixed points are compared to a millionth")
    density, x, found = spaced(config.density, config.cells), float(config.shock), {}
    for name, make, ends in (("linear", linear, config.strength), ("square root", root, config.root_strength)):
        strength = spaced(ends, config.cells)
        fixed, slope = fixed_points(make, np.repeat(strength, config.cells), np.tile(density, config.cells), x)
        maps = {"fall over shock": np.asarray(fixed.drop) / x}
        if name == "linear":
            maps["runaway"], maps["derivative in k"] = fixed.runaway.astype(float), np.where(fixed.runaway, 0.0, slope)
        for label, values in maps.items():
            for k, row in zip(strength, values.reshape(config.cells, -1), strict=True):
                found[f"{name}: {label}", f"k = {k:g}"] = curve(density, row, unit="1")
        away = int(np.sum(fixed.runaway))
        found["cells that run away", name] = curve(0.0, away, unit="1")
        setting.report(f"{name}: {config.cells} x {config.cells} cells, {away} run away")
    found["shock of the maps", "x"] = curve(0.0, x, unit="log price")
    small = np.geomspace(1e-12, 1e-2, 41)
    fixed, _ = fixed_points(root, np.repeat(JUMPS, small.size), 1.0, np.tile(small, len(JUMPS)))
    for a, row in zip(JUMPS, np.asarray(fixed.drop).reshape(len(JUMPS), -1), strict=True):
        found["square root: fall against shock", f"a = {a:g}"] = curve(small, row, unit="log price")
    return found | engine(config, setting) | crowd(config, setting)


def falls(system, seed, paths):
    """Falls of the news and of the price on each path."""
    parts = []
    for block in np.array_split(paths, -(-paths.size // BLOCK)):
        _, flow = outcomes(system, seed, block, lanes=min(64, paths.size), record=True)
        parts.append(-np.stack([flow.log_news[:, 0, 0], flow.log_price[:, 0, 0]]))
    return np.concatenate(parts, axis=1)


def engine(config, setting):
    """A coarse part of both maps by the engine with random falls, against the diagnostics and closed bounds of its book."""
    n, step, found = config.accounts, max(1, config.cells // COARSE), {}
    density = spaced(config.density, config.cells)[::step]
    maps = (
        ("linear", linear, config.strength, feedback.even_linear),
        ("square root", root, config.root_strength, feedback.even_square_root),
    )
    for name, make, ends, bound in maps:
        for k in spaced(ends, config.cells)[::step]:
            rows = []
            for g in density:
                levels = -(np.arange(n) + 0.5) / (n * g)  # an even book of one unit over the width 1/g
                system = with_fall(venue(levels, make(k), setting.dtype), float(config.shock) / 2.0, RANDOM)
                news, drop = falls(system, setting.seed, np.arange(config.paths))
                told = fragility.shock_to_drop(jnp.asarray(levels), jnp.full(n, 1.0 / n), make(k), jnp.asarray(news))
                below, above = (bound(news, k, g, error / n) for error in (-0.5, 0.5))  # counting whole accounts
                mean = drop.mean() / news.mean()
                spread = (drop - mean * news).std(ddof=1) / news.mean() / np.sqrt(news.size)
                outside = max(np.max(below - drop), np.max(drop - above), 0.0)
                rows.append((mean, spread, np.abs(drop - np.asarray(told.drop)).max(), outside))
            ratio, spread, apart, outside = np.array(rows).T
            series, size = f"k = {k:g}", {"paths": config.paths}
            found[f"engine, {name}: fall over shock", series] = curve(density, ratio, spread, unit="1", **size)
            for label, values in (("distance to the diagnostics", apart), ("distance to the bounds", outside)):
                found[f"engine, {name}: largest {label}", series] = curve(density, values, unit="log price", **size)
        setting.report(f"engine, {name}: {density.size} x {density.size} cells, {config.paths} paths each")
    levels = -(np.arange(n) + 0.5) / n
    system = with_fall(venue(levels, linear(1.1), setting.dtype), float(config.shock))
    end, _ = outcomes(system, setting.seed, np.arange(1))
    found["engine, runaway", "share of the book sold at kg = 1.1"] = curve(1.1, end["liquidated_share"], unit="1")
    return found


def crowd(config, setting):
    """Total fall over the outside fall in a book with a crowd of thresholds: the curve, its folded part, and the engine."""
    n, top = config.accounts, float(config.most_shock)
    even = round(n * (1.0 - float(config.crowd_share)))
    spread = 4.0 * top * (np.arange(even) + 0.5) / even
    normal = np.sqrt(2.0) * jax.scipy.special.erfinv(2.0 * (np.arange(n - even) + 0.5) / (n - even) - 1.0)
    depth = np.sort(
        np.concatenate([spread, float(config.crowd_level) + float(config.crowd_width) * np.asarray(normal)])
    )
    levels, units, law = -np.maximum(depth, 1e-6), np.full(n, 1.0 / n), linear(float(config.crowd_impact))
    shocks = np.linspace(top / config.shocks, top, config.shocks)
    given = jnp.asarray(levels), jnp.asarray(units), law
    told = fragility.shock_to_drop(*given, jnp.asarray(shocks))
    grid = -np.linspace(0.0, 2.0 * top, 801)
    band = 0.5 * float(config.crowd_width)
    jumps, blur = fold(config, grid[0] - grid[1], band)
    number = np.asarray(fragility.branching_map(*given, jnp.asarray(grid), bandwidth=band))
    edge = fragility.distance_to_criticality(*given, jnp.asarray(grid), bandwidth=band)
    system, paths = venue(levels, law, setting.dtype), np.arange(1)

    def fall(size):
        return falls(with_fall(system, size), setting.seed, paths)[1, 0]

    # the engine at some shocks, and the shock at which it jumps, to a millionth
    some = shocks[:: max(1, config.shocks // 24)]
    ours = [fall(size) for size in some]
    jump = np.argmax(np.diff(np.asarray(told.drop)))
    low, high = shocks[jump], shocks[jump + 1]
    level = 0.5 * float(told.drop[jump] + told.drop[jump + 1])
    while high - low > SHARP:
        middle = 0.5 * (low + high)
        low, high = (low, middle) if fall(middle) > level else (middle, high)
    drops = np.linspace(0.0, 2.0 * top, 400)
    outside = drops - float(config.crowd_impact) * np.asarray(fragility.forced_volume(*given[:2], jnp.asarray(drops)))
    setting.report(f"crowd: jump at {high:.6f}, diagnostics say {float(edge.distance):.6f}; R up to {number.max():.2f}")
    return {
        ("crowd: fall against shock", "diagnostics"): curve(shocks, told.drop, unit="log price"),
        ("crowd: fall against shock", "all solutions"): curve(outside, drops, unit="log price"),
        ("crowd: fall against shock", "engine"): curve(some, ours, unit="log price", paths=1),
        ("crowd: branching number", "R"): curve(-grid, number, unit="1"),
        ("crowd: jump", "engine"): curve(0.0, high, unit="log price", paths=1),
        ("crowd: jump", "diagnostics"): curve(0.0, edge.distance, unit="log price"),
        ("crowd: jump", "closed form"): curve(0.0, jumps, unit="log price"),
        ("crowd: jump", "impact of an account"): curve(0.0, float(config.crowd_impact) / n, unit="log price"),
        ("crowd: jump", "error of the zone"): curve(0.0, blur, unit="log price"),
    }


def fold(config, spacing, band):
    """Shock at which a smooth book with the crowd jumps, and how far below it a blurred zone puts the jump.

    A box of width b shifts the drop where k f = 1 by b^2 f'' / (24 f'), counting n accounts in it by 2 / (n b f'), a grid by its
    spacing and accounts by k / n. A zone that starts too early by d misses the maximum of D - k F(D) by k f' d^2 / 2.
    """
    k, n, share = float(config.crowd_impact), config.accounts, float(config.crowd_share)
    even = (1.0 - share) / (4.0 * float(config.most_shock))
    at = feedback.crowded_fold(k, even, share, float(config.crowd_level), float(config.crowd_width))
    early = spacing + band**2 * abs(at.bend) / (24.0 * at.slope) + 2.0 / (n * band * at.slope) + k / n
    return float(at.shock), float(0.5 * k * at.slope * early**2)


def grid(found, panel):
    """Densities, strengths and values of a map."""
    rows = {series: one for (name, series), one in found.items() if name == panel}
    strength = np.array([float(series.removeprefix("k = ")) for series in rows])
    return next(iter(rows.values())).x, strength, np.array([one.y for one in rows.values()])


def checks(found):
    """Closed forms of both maps, their derivative, the status, the engine, and the jump."""
    g, k, ratio = grid(found, "linear: fall over shock")
    runaway, slope = (grid(found, f"linear: {name}")[2] for name in ("runaway", "derivative in k"))
    gain, x = k[:, None] * g[None, :], found["shock of the maps", "x"].y[0]
    below = x < GONE * (1.0 - gain)
    yield exact("linear: D/x against 1/(1 - kg), relative", 0.0, apart(ratio, 1.0 / (1.0 - gain), below), 1e-5, LINEAR)
    law = g[None, :] * x / (1.0 - gain) ** 2
    yield exact(
        "linear: derivative in k against g x / (1 - kg)^2, relative", 0.0, apart(slope, law, below), 1e-5, LINEAR
    )
    wrong = float(np.sum(runaway.astype(bool) == below))
    label = f"linear: cells whose status is not runaway from kg = 1, or D = {GONE:g}, on"
    yield exact(label, 0.0, wrong, 0.0, LINEAR)
    odd = float(np.sum(~np.isfinite(ratio)) + np.sum(~np.isfinite(slope)))
    yield exact("linear: numbers that are not finite", 0.0, odd, 0.0, LINEAR)
    yield exact("linear: share of cells beyond the boundary", 0.1, np.mean(~below), 0.0, "or nothing is seen", side=-1)
    g, k, ratio = grid(found, "square root: fall over shock")
    law = np.asarray(feedback.square_root_feedback(x, jnp.asarray(k[:, None] * np.sqrt(g)[None, :]))) / x
    yield exact("square root: D/x against the closed form, relative", 0.0, apart(ratio, law), 1e-5, ROOT)
    unsafe = found["cells that run away", "square root"].y[0]
    yield exact("square root: cells that run away", 0.0, unsafe, 0.0, "R is at most 1/2 at the fixed point")
    for name, one in ((s, one) for (panel, s), one in found.items() if panel == "square root: fall against shock"):
        a = float(name.removeprefix("a = "))
        closed = np.asarray(feedback.square_root_feedback(jnp.asarray(one.x), a))
        yield exact(f"square root, {name}: closed form, relative", 0.0, apart(one.y, closed), 1e-5, ROOT)
        yield exact(f"square root, {name}: limit a^2 of no shock", a * a, one.y[0], 1e-4 * a * a, ROOT)
    for name in ("linear", "square root"):
        for label, said in (("diagnostics", SEARCH), ("bounds", "closed forms, half an account more or less")):
            far = grid(found, f"engine, {name}: largest distance to the {label}")[2].max()
            yield exact(f"engine, {name}: largest distance to the {label}", 0.0, far, 1e-9, said)
    sold = found["engine, runaway", "share of the book sold at kg = 1.1"].y[0]
    yield exact("engine: share of the book sold at kg = 1.1", 1.0, sold, 1e-9, "everything, and a finite fall")
    ours, told, law, bucket, blur = (
        found["crowd: jump", name].y[0]
        for name in ("engine", "diagnostics", "closed form", "impact of an account", "error of the zone")
    )
    yield exact("crowd: shock at the jump", law, ours, bucket + SHARP, "closed form, to the impact of an account")
    said = "a zone that starts early by d misses the maximum of D - k F(D) by k f' d^2 / 2"
    yield exact("crowd: distance to criticality", ours, told, blur + SHARP, said)
    engine_, curve_ = (found["crowd: fall against shock", name] for name in ("engine", "diagnostics"))
    same = np.abs(engine_.y - curve_.y[np.searchsorted(curve_.x, engine_.x - 1e-12)])
    yield exact("crowd: engine against diagnostics", 0.0, same.max(), 1e-9, SEARCH)
    leap = np.diff(curve_.y).max() / np.diff(curve_.x).max()
    yield exact("crowd: steepest rise of the fall", 20.0, leap, 0.0, "a jump", side=-1)


def apart(values, law, where=True):
    """Largest relative distance."""
    return float(np.max(np.abs(np.where(where, values / law - 1.0, 0.0))))


def draw(found):
    """(a), (b): total fall over outside fall, D/x, against open interest per log price and impact (log price); gray runs away.

    White dots: cells that the engine repeats path by path. Inset: total fall against outside fall at four impacts. (c): total
    against outside fall (% log price) of a book with a crowd of thresholds; shaded where the branching number R is above one.
    """
    figure, axes = style.new_page(1, 3, height=2.6, width_ratios=[1.2, 1.2, 1.0])
    marks = (("linear", "Impact k (log price)", "(a) linear impact"),)
    marks += (("square root", r"Impact $Y\sigma / \sqrt{V}$ (log price)", "(b) square-root impact"),)
    for ax, (name, label, title) in zip(axes[0], marks, strict=False):
        g, k, ratio = grid(found, f"{name}: fall over shock")
        shown = ratio
        if name == "linear":
            shown = np.ma.masked_where(grid(found, "linear: runaway")[2].astype(bool), ratio)
        ax.set_facecolor("0.75")
        picture = ax.pcolormesh(
            g, k, shown, cmap="viridis", norm=LogNorm(1.0, 100.0), shading="nearest", rasterized=True
        )
        if name == "linear":
            ax.plot(g, 1.0 / g, color=style.VERMILION)
            ax.text(0.96, 0.93, "runaway", transform=ax.transAxes, ha="right", va="top", fontsize=7)
            ax.text(2.2, 0.24, "kg = 1", color="white", fontsize=7, ha="right")
        at, strength, _ = grid(found, f"engine, {name}: fall over shock")
        ax.plot(*(part.ravel() for part in np.meshgrid(at, strength)), ".", ms=1.2, color="white", alpha=0.5)
        ax.set(xscale="log", yscale="log", xlabel="Open interest per log price", ylabel=label, title=title)
        ax.yaxis.set_minor_formatter(NullFormatter())
        ax.set_xlim(g[0], g[-1])
        ax.set_ylim(k[0], k[-1])
        figure.colorbar(picture, ax=ax, pad=0.02).ax.set_title("D / x", fontsize=7)
    inset = axes[0, 1].inset_axes((0.22, 0.2, 0.45, 0.36))
    for (panel, _), one in found.items():
        if panel == "square root: fall against shock":
            inset.loglog(one.x, one.y, color=style.SKY, lw=0.9)
    inset.set_facecolor(colormaps["viridis"](0.03))
    inset.set_title("fall over shock:\nlevels off at $a^2$", color="white", fontsize=6)
    inset.tick_params(labelsize=5.5, colors="white", which="both")
    inset.spines[:].set_color("white")
    inset.set_xticks([1e-12, 1e-7, 1e-2])
    inset.minorticks_off()
    right, number = axes[0, 2], found["crowd: branching number", "R"]
    every, told, ours = (
        found["crowd: fall against shock", name] for name in ("all solutions", "diagnostics", "engine")
    )
    right.plot(100.0 * every.x, 100.0 * every.y, color=style.GRAY, lw=0.7, ls=(0, (3, 1.5)), label="all solutions")
    right.plot(100.0 * told.x, 100.0 * told.y, color=style.BLUE, label="diagnostics")
    right.plot(100.0 * ours.x, 100.0 * ours.y, "o", ms=2.6, color=style.VERMILION, label="engine")
    top = 100.0 * told.x[-1]
    right.set(xlim=(0.0, top), ylim=(0.0, 2.0 * top), title="(c) a crowd")
    right.set(xlabel="Outside fall x (% log price)", ylabel="Total fall D (% log price)")
    critical = 100.0 * number.x[number.y >= 1.0]
    right.axhspan(critical.min(), critical.max(), color=style.ORANGE, alpha=0.25, lw=0)
    right.text(0.97 * top, 0.5 * (critical.min() + critical.max()), "R > 1", ha="right", va="center", fontsize=6.5)
    right.legend(loc="upper left")
    return figure
