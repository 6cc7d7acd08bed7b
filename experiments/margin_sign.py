"""Where does a stricter maintenance margin raise bad debt instead of lowering it?

Longs with equities evenly spread over a range meet sudden falls of the price; what is sold by force moves the price for good,
in proportion. The derivative of expected bad debt in the margin is pathwise on the ladder of the continuum, where it is exact.
"""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from matplotlib.colors import SymLogNorm
from matplotlib.ticker import NullFormatter

from tailrisk import breaker, fragility, impact, liquidation, margin, market, waterfall
from tailrisk._fields import SECONDS_PER_YEAR, Real, count, duration, real
from tailrisk.book import AbstractBook, equal_longs
from tailrisk.clearing import Rounds
from tailrisk.figures import style
from tailrisk.gradients import fixed_noise
from tailrisk.scenario import Accounts, Scenario, SmoothLadder
from tailrisk.simulate import simulate
from tailrisk.study.observed import curve, exact, sampled
from tailrisk.study.published import Setting

COMPARED = 10  # random cells
PRICE = 100.0
DENSE = 20_000  # accounts that stand for the continuum


class Config(eqx.Module):
    """Grid of impacts and margins, the book and the market."""

    paths: int = count(least=64)
    impacts: int = count(least=3)
    margins: int = count(least=3)
    most_impact: Real = real(unit="log price", above=0.0)
    least_margin: Real = real(unit="1", above=0.0)
    most_margin: Real = real(unit="1", above=0.0, below=1.0)
    equities: Real = real(unit="1", above=0.0, below=1.0)
    jump: Real = real(unit="1", above=0.0, below=1.0)
    jumps_per_day: Real = real(unit="1/day", above=0.0)
    volatility: Real = real(unit="1/sqrt(year)", least=0.0)
    horizon: Real = duration()
    step: Real = duration()
    cells: int = count(least=16)
    cut: Real = real(unit="1", above=0.0)
    accounts: Real = real(unit="1", least=1.0)
    account_paths: int = count(least=64)
    account_impact: Real = real(unit="log price", above=0.0)


class SpreadLongs(AbstractBook):
    """Equal longs on the quantiles of an even spread of equity, together one unit; each may be held as several equal rows."""

    equities: Real = real(unit="1", above=0.0, below=1.0)
    accounts: int = count(least=1)
    rows: int = count(1, least=1)  # of each account, so that books of different size share a program

    def build(self, price, margin, seed=0):
        del margin, seed
        low, high = self.equities
        share = low + (high - low) * (np.repeat(np.arange(self.accounts), self.rows) + 0.5) / self.accounts
        return equal_longs(price, share)


def venue(config, kernel, book, dtype):
    """The market and its longs, with one round of sales in a step."""
    rate = float(config.jumps_per_day) * SECONDS_PER_YEAR / 86_400.0
    jumps = market.MertonJumps(rate=rate, deviation=0.0, mean=float(np.log1p(-config.jump)))
    return Scenario(
        market=market.JumpDiffusion(jumps, config.volatility),
        book=book,
        margin=margin.Flat(float(config.least_margin), float(config.most_margin)),
        impact=impact.Linear(impact.ConstantDepth(1.0), float(config.account_impact), memory="inf d"),
        price=[PRICE],
        horizon=config.horizon,
        step=config.step,
        positions=kernel,
        liquidation=liquidation.Full(0.0),
        breaker=breaker.NoBreaker(),
        waterfall=waterfall.Waterfall(deleverage="none"),
    ).build(dtype)


def at(system, kappa, rate):
    """The ladder with another impact and maintenance margin."""
    places = lambda s: (s.cascade.impact.coefficient, s.cascade.positions.rates)  # noqa: E731
    impact_, rates = places(system)
    return eqx.tree_at(places, system, (jnp.full_like(impact_, kappa), jnp.full_like(rates, rate)))


def main(config: Config, setting: Setting):
    """Derivative, bad debt, forced share and branching number of every cell; ten cells by differences; accounts."""
    kappas = np.linspace(0.0, float(config.most_impact), config.impacts)
    rates = np.geomspace(float(config.least_margin), float(config.most_margin), config.margins)
    ladder = venue(
        config, SmoothLadder(cells=config.cells, clearing=Rounds(1)), SpreadLongs(config.equities, DENSE), setting.dtype
    )
    tangent = fixed_noise.direction(ladder, lambda s: s.cascade.positions.rates)
    given, found = {"paths": config.paths, "seed": setting.seed, "chunk": config.paths}, {}
    picked = np.random.default_rng(setting.seed).choice(kappas.size * rates.size, COMPARED, replace=False)
    for row, rate in enumerate(rates):
        columns = []
        for column, kappa in enumerate(kappas):
            cell = at(ladder, kappa, rate)
            values, slopes = fixed_noise.slopes(cell, tangent, **given)
            debt, slope = (np.asarray(part["bad_debt"], float) / PRICE for part in (values, slopes))
            columns.append([mean(slope), mean(debt), mean(values["liquidated_share"].astype(float))])
            if row * kappas.size + column in picked:
                found |= compared(config, cell, kappa, rate, slope, given)
        for k, name in enumerate(("slope", "bad debt", "liquidated share")):
            value, error = np.array([cell[k] for cell in columns]).T
            found[name, f"margin {rate:.6g}"] = curve(kappas, value, error, unit="fraction", paths=config.paths)
        found["branching", f"margin {rate:.6g}"] = curve(kappas, branching(config, kappas, rate), unit="1")
        setting.report(f"margin {rate:.2%}: slope {columns[0][0][0]:.3g} at no impact, {columns[-1][0][0]:.3g} at most")
    return found | account_kernel(config, setting)


def mean(x):
    """Mean and its standard error."""
    return x.mean(), x.std(ddof=1) / np.sqrt(x.size)


def compared(config, cell, kappa, rate, slope, given):
    """A cell by central differences on the same noise, and the error of the difference between the two."""
    cut = float(config.cut)
    above, below = (simulate(at(cell, kappa, rate + d), **given)["bad_debt"].astype(float) for d in (cut, -cut))
    quotient = (above - below) / (2.0 * cut * PRICE)
    name = f"impact {kappa:.6g}, margin {rate:.6g}"
    return {
        ("differences", name): curve(kappa, *mean(quotient), unit="fraction", paths=slope.size),
        ("pathwise less differences", name): curve(kappa, *mean(slope - quotient), unit="fraction", paths=slope.size),
    }


def branching(config, kappas, rate):
    """Largest branching number on the way down."""
    low, high = config.equities
    share = low + (high - low) * (np.arange(DENSE) + 0.5) / DENSE
    levels = jnp.asarray(np.log1p(-share) - np.log1p(-rate))
    grid = jnp.linspace(levels.min() - 0.01, 0.0, 512, dtype=levels.dtype)
    law = impact.Linear(impact.ConstantDepth(1.0), 1.0, memory="inf d")
    r = fragility.branching_map(levels, jnp.full_like(levels, 1.0 / DENSE), law, grid, bandwidth=0.02)
    return kappas * float(jnp.max(r))


def account_kernel(config, setting):
    """Root mean square, over paths, of the bad debt of K accounts less that of the ladder on the same noise."""
    given = {"paths": config.account_paths, "seed": setting.seed, "chunk": 4_096}
    base = venue(
        config, SmoothLadder(cells=config.cells, clearing=Rounds(1)), SpreadLongs(config.equities, DENSE), setting.dtype
    )
    limit = simulate(base, **given)["bad_debt"].astype(float)
    counts = config.accounts.astype(int).tolist()
    rows = []
    for accounts in counts:
        book = SpreadLongs(config.equities, accounts, max(counts) // accounts)
        system = venue(config, Accounts(clearing=Rounds(1)), book, setting.dtype)
        square, error = mean(((simulate(system, **given)["bad_debt"].astype(float) - limit) / PRICE) ** 2)
        rows.append((square**0.5, 0.5 * error / square**0.5))
    value, error = np.array(rows).T
    return {("accounts", "distance to the ladder"): curve(counts, value, error, unit="fraction", paths=given["paths"])}


def grid(found, panel):
    """Impacts, margins, and the numbers of a panel by margin and impact."""
    rows = {series: one for (name, series), one in found.items() if name == panel}
    margins = np.array([float(series.removeprefix("margin ")) for series in rows])
    return next(iter(rows.values())).x, margins, np.array([one.y for one in rows.values()]), list(rows.values())


SIGN = "a sale saves its own account and sets off R others: R < 1 helps in all, R > 1 hurts"


def checks(found):
    """No impact: never positive. Signs about R = 0.4 and from 2.5 on. Differences. Accounts."""
    _, margins, slope, rows = grid(found, "slope")
    for rate, row in zip(margins, rows, strict=True):
        yield sampled(f"no impact, margin {rate:.2%}", 0.0, row.y[0], row.se[0], "optional sampling", most=2e-3, side=1)
    for (panel, series), one in found.items():
        if panel == "pathwise less differences":
            yield sampled(f"differences at {series}", 0.0, one.y[0], one.se[0], "central differences, same noise")
    number, error = grid(found, "branching")[2][0], np.array([row.se for row in rows])
    weak, strong = [np.abs(number - 0.4).argmin()], number >= 2.5
    for label, columns, sign in (("about 0.4", weak, -1.0), ("2.5 and more", strong, 1.0)):
        # cells share their noise, so their errors add up at worst
        size = sign * slope[:, columns].mean() / error[:, columns].mean()
        yield exact(f"sign where R is {label}, in standard errors", 3.0, size, 0.0, SIGN, side=-1)
    near = found["accounts", "distance to the ladder"]
    rate = np.polyfit(np.log(near.x), np.log(near.y), 1)[0]
    yield exact(
        "accounts approach the ladder, exponent", -1.0, rate, 0.15, "cells of an even book of K accounts have width 1/K"
    )


def edges(x):
    """Borders of cells around points, half way between them."""
    inner = 0.5 * (x[1:] + x[:-1])
    return np.concatenate([[2.0 * x[0] - inner[0]], inner, [2.0 * x[-1] - inner[-1]]])


def draw(found):
    """Over impact (log price) and maintenance margin (%): left d E[bad debt] / d margin, right the share sold by force.

    Lines: derivative zero. Dots: cells within two standard errors of zero. Above: largest branching number.
    """
    figure, axes = style.new_page(1, 2, height=2.9)
    kappas, margins, slope, rows = grid(found, "slope")
    share, number = grid(found, "liquidated share")[2], grid(found, "branching")[2][0]
    error = np.array([row.se for row in rows])
    mesh = edges(kappas), np.exp(edges(np.log(margins)))
    largest = float(np.quantile(np.abs(slope), 0.98))
    norm = SymLogNorm(linthresh=0.01 * largest, vmin=-largest, vmax=largest)
    panels = (
        (slope, {"cmap": "PuOr_r", "norm": norm}, "d E[bad debt] / d margin"),
        (share, {"cmap": "Greys", "vmin": 0.0, "vmax": 1.0}, "Share of open interest sold by force"),
    )
    for ax, (value, look, label) in zip(axes[0], panels, strict=True):
        picture = ax.pcolormesh(*mesh, value, rasterized=True, **look)
        figure.colorbar(picture, ax=ax, label=label, pad=0.02)
        ax.contour(kappas, margins, slope, levels=[0.0], colors=style.BLACK if value is slope else style.VERMILION)
        ax.set(yscale="log", xlabel="Impact of selling all open interest (log price)")
        ax.set_yticks([0.003, 0.01, 0.03, 0.08], ["0.3", "1", "3", "8"])
        ax.yaxis.set_minor_formatter(NullFormatter())
        top = ax.secondary_xaxis(
            "top", functions=(lambda x: x * number[-1] / kappas[-1], lambda r: r * kappas[-1] / number[-1])
        )
        top.set_xlabel("Largest branching number R")
    at, row = np.meshgrid(kappas, margins)
    unsure = np.abs(slope) < 2.0 * error
    axes[0, 0].plot(at[unsure], row[unsure], ".", ms=1.5, color=style.GRAY)
    for x, text in ((0.03, "helps"), (0.6, "a stricter margin\nhurts")):
        axes[0, 0].text(x, 0.05, text, transform=axes[0, 0].transAxes, fontsize=6.5)
    axes[0, 0].set_ylabel("Maintenance margin (%)")
    return figure
