"""How do banks that sell to keep their leverage bring each other down, and which rule or overlap makes the system tip?

Two replications with rules of their own, in plain NumPy because they are deterministic or small. Left: balance sheets of 48
European banks (EBA 2018) after a fall of government bonds, under a threshold rule and under leverage targeting (Cont and
Schaanning; Farmer, Kleinnijenhuis, Nahai-Williamson, Wetzer). Right: banks with overlapping portfolios, one of which fails
(Caccioli, Shrestha, Moore, Farmer 2014).

Of the papers are mechanisms, the table of the banks, and in words a critical leverage, a region that grows with it, and networks
that are robust yet fragile. Recomputed by us are all shares and probabilities; how many banks and assets there are, the shock and
the price impact of the networks are our choices. Pictures beside the code of the first model stem from an earlier version of it.
"""

import csv
from itertools import product
from pathlib import Path
from typing import NamedTuple

import equinox as eqx
import numpy as np
from matplotlib.lines import Line2D
from scipy import sparse

from tailrisk._fields import Real, count, real
from tailrisk.figures import style
from tailrisk.study.config import ConfigError
from tailrisk.study.observed import Claim, curve, exact, sampled
from tailrisk.study.published import DataFile, Setting
from tailrisk.tails import measures

FILE = "eba2018/EBA_2018.csv"
SOURCE = "github.com/ox-inet-resilience/firesale_stresstest at dd861c6dbb, EBA_2018.csv"
DATA = (DataFile(FILE, "Apache-2.0", "EU-wide stress test 2018", SOURCE),)
STEPS, CASH, DEFAULTS, TARGET, FLOOR = 6, 0.05, 0.03, 0.05, 0.05
TOTALS = {"assets": 22_802_400.44, "government bonds": 1_605_635.0, "corporate bonds": 670_591.0, "CET1": 1_223_096.0}
SWEEPS = {"impact": "price impact, threshold", "threshold": "shock, threshold", "targeting": "shock, targeting"}
CASCADES = {2: 0.73, 5: 0.20, 10: 0.0, 20: 0.0, 40: 0.0}  # at leverage 15, of 60 networks
SAMPLE = 60  # networks of the reference
AGAIN = "another implementation of the rules of this file; not a number of the papers"


class Config(eqx.Module):
    """Sweeps over the banks, and the grid of overlapping portfolios."""

    points: int = count(least=2)
    shock: Real = real(unit="1", least=0.0, below=1.0)
    most_shock: Real = real(unit="1", least=0.0, below=1.0)
    impact: Real = real(unit="1", least=0.0, below=1.0)
    most_impact: Real = real(unit="1", least=0.0, below=1.0)
    buffer: Real = real(unit="1", above=0.0)
    networks: int = count(least=2)
    spectra: int = count(least=1)  # networks of a cell whose branching matrix is taken
    banks: int = count(least=20)
    degrees: Real = real(unit="1", above=0.0)
    leverages: Real = real(unit="1", above=1.0)
    cash: Real = real(unit="1", least=0.0, below=1.0)
    price_impact: Real = real(unit="log price", above=0.0)
    large: Real = real(unit="1", above=0.0, below=1.0)


class Banks(NamedTuple):
    """Balance sheets, one row a bank: million euro, bonds as government and corporate."""

    cash: np.ndarray
    bonds: np.ndarray
    other: np.ndarray
    loan: np.ndarray
    fixed: np.ndarray  # other liabilities

    @classmethod
    def of(cls, equity, leverage, securities, government):
        """From CET1, leverage ratio in per cent, debt securities and government bonds."""
        assets = 100.0 * equity / leverage
        cash, debt = CASH * assets, assets - equity
        bonds = np.stack([government, securities - government], axis=1)
        return cls(cash, bonds, assets - securities - cash, 0.5 * debt, 0.5 * debt)


class Outcome(NamedTuple):
    """What a stress did: banks in default after each step, share of bonds sold, prices, equity and leverage at the end."""

    defaults: np.ndarray
    share: float
    price: np.ndarray
    equity: np.ndarray
    ratios: np.ndarray  # equity over assets after the shock and after each step
    residual: float  # change of all equity that no loss on bonds explains, million euro


def read_banks(file: Path) -> Banks:
    """The table of the EBA, checked against its totals.

    **Raises:** `ConfigError` if the file holds something else.
    """
    try:
        with open(file, newline="") as text:
            rows = list(csv.reader(text, delimiter=" ", skipinitialspace=True))[1:]
        numbers = np.array([[sum(map(float, cell.split("+"))) for cell in row[1:5]] for row in rows])
        banks = Banks.of(*numbers.T)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{file}: not the table of the EBA ({error}); get it from {SOURCE}") from None
    for name, total in totals(banks).items():
        if abs(total - TOTALS[name]) > 0.005:
            raise ConfigError(
                f"{file}: {name} add up to {total:,.2f}, expected {TOTALS[name]:,.2f}; get it from {SOURCE}"
            )
    return banks


def totals(banks):
    """Sums over the system that the table must have."""
    assets = banks.cash + banks.bonds.sum(axis=1) + banks.other
    sums = assets, banks.bonds[:, 0], banks.bonds[:, 1], assets - banks.loan - banks.fixed
    return dict(zip(TOTALS, (float(np.sum(part)) for part in sums), strict=True))


def stress(banks: Banks, shock: float, impact: float, buffer: float) -> Outcome:
    """Six steps after government bonds lose `shock`; selling 5 % of a class lowers its price by the share `impact`."""
    beta, whole = -np.log1p(-impact) / 0.05, banks.bonds.sum(axis=0)
    held, cash, loan = banks.bonds.copy(), banks.cash.copy(), banks.loan.copy()
    price, offer = np.array([1.0 - shock, 1.0]), np.zeros_like(held)
    dead, just_dead = np.zeros(loan.size, bool), np.zeros(loan.size, bool)
    counts, ratios, lost = [], [], ordered_sum(held @ np.array([[shock], [0.0]]))[0]

    def sheet():
        assets = cash + held @ price + banks.other
        return assets, assets - loan - banks.fixed

    ratios.append(sheet()[1] / sheet()[0])
    for _ in range(STEPS):
        offer = np.where(just_dead[:, None], held, offer)
        sold = ordered_sum(offer)
        new = price * np.exp(-beta * sold / whole)
        got = offer @ (0.5 * (price + new))
        lost += (ordered_sum(held) - 0.5 * sold) @ (price - new)
        cash, held, price = cash + got, held - offer, new
        assets, equity = sheet()
        ratio = equity / assets
        just_dead = ~dead & (ratio < DEFAULTS)
        dead |= just_dead
        need = np.where(~dead & (ratio < buffer), np.maximum(0.0, assets - equity / TARGET), 0.0)
        paid = np.minimum(np.minimum(need, cash), loan)
        cash, loan = cash - paid, loan - paid
        value = held @ price
        raised = np.where(cash < need - paid, need - paid - cash, 0.0)
        share = np.minimum(np.divide(raised, value, out=np.zeros_like(value), where=value > 0.0), 1.0)
        offer = held * share[:, None]
        counts.append(int(dead.sum()))
        ratios.append(ratio)
    share, equity = 1.0 - held.sum() / banks.bonds.sum(), sheet()[1]
    residual = float(np.sum(equity) + lost - totals(banks)["CET1"])
    return Outcome(np.array(counts), share, price, equity, np.array(ratios), residual)


def ordered_sum(rows):
    """Sums over banks that do not depend on their order: the smallest first."""
    return np.sum(np.sort(rows, axis=0), axis=0)


def extent(outcome):
    """Systemic extent: share of banks in default, 0 below 5 %."""
    share = outcome.defaults[-1] / outcome.equity.size
    return share if share >= FLOOR else 0.0


def overlap(rng, config, degree):
    """Holdings of banks in assets: each linked with a probability, what is not cash spread equally over its links."""
    linked = rng.random((config.banks, config.banks)) < degree / config.banks
    return linked * (1.0 - float(config.cash)) / np.maximum(linked.sum(axis=1, keepdims=True), 1)


def failed(held, equity, first, impact):
    """Banks that have failed when no more do, after one fails and sells all it holds."""
    whole, dead = np.maximum(held.sum(axis=0), 1e-300), np.zeros(held.shape[0], bool)
    dead[first] = True
    while True:
        price = np.exp(-impact * held[dead].sum(axis=0) / whole)
        now = dead | (held @ (1.0 - price) > equity)
        if np.array_equal(now, dead):
            return dead
        dead = now


def branching_matrix(held, equity, impact):
    """B_ij = 1 if the failure of bank i alone makes bank j insolvent."""
    loss = 1.0 - np.exp(-impact * held / np.maximum(held.sum(axis=0), 1e-300))
    links = (sparse.csr_matrix(loss) @ sparse.csr_matrix(held).T).toarray() > equity
    np.fill_diagonal(links, False)
    return links.astype(float)


def spectral_radius(matrix, doublings=10):
    """Largest modulus of the eigenvalues of a matrix >= 0, as |B^k|^(1/k) with k = 2^doublings; 0 if B^k vanishes."""
    log = 0.0
    for _ in range(doublings):
        size = matrix.max()
        if size == 0.0:
            return 0.0
        matrix = (matrix / size) @ (matrix / size)
        log = 2.0 * (log + np.log(size))
    size = matrix.sum(axis=1).max()
    return 0.0 if size == 0.0 else float(np.exp((log + np.log(size)) / 2.0**doublings))


def main(config: Config, setting: Setting):
    """The three sweeps over the banks, repeated in another order, and the grid of overlapping portfolios."""
    setting.need_double("this model runs in NumPy, in double precision")
    banks = read_banks(setting.data / FILE)
    found = {("system", name): curve(0.0, total, unit="million EUR") for name, total in totals(banks).items()}
    found["system", "banks"] = curve(0.0, banks.cash.size, unit="1")
    sweep, shock, impact = float(config.buffer), float(config.shock), float(config.impact)
    shocks = np.linspace(0.0, float(config.most_shock), config.points)
    runs = {
        "impact": [(shock, pi, sweep) for pi in np.linspace(0.0, float(config.most_impact), config.points)],
        "threshold": [(one, impact, sweep) for one in shocks],
        "targeting": [(one, impact, 1.0) for one in shocks],
    }
    order = np.random.default_rng(setting.seed).permutation(banks.cash.size)
    mixed = Banks(*(part[order] for part in banks))
    apart = residual = 0.0
    for key, cases in runs.items():
        outcomes = [stress(banks, *case) for case in cases]
        again = [stress(mixed, *case) for case in cases]
        for ours, other in zip(outcomes, again, strict=True):
            apart = max(apart, abs(ours.share - other.share), np.abs(ours.defaults - other.defaults).max())
            residual = max(residual, abs(ours.residual) / totals(banks)["assets"])
        panel, x = SWEEPS[key], [case[1] if key == "impact" else case[0] for case in cases]
        found[panel, "defaults"] = curve(x, [round(extent(one), 4) for one in outcomes], unit="fraction")
        found[panel, "sold"] = curve(x, [round(100.0 * one.share, 3) for one in outcomes], unit="%")
        for step in range(STEPS):
            found[panel, f"defaults after step {step + 1}"] = curve(
                x, [one.defaults[step] for one in outcomes], unit="banks"
            )
        setting.report(f"{panel}: {found[panel, 'sold'].y[0]:g} to {found[panel, 'sold'].y[-1]:g} % sold")
    found["system", "largest change in another order"] = curve(0.0, apart, unit="fraction")
    found["system", "ledger residual, of assets"] = curve(0.0, residual, unit="fraction")
    return found | portfolios(config, setting)


def portfolios(config, setting):
    """Probability of a cascade, its mean extent, and the spectral radius of the branching matrix, by degree and leverage."""
    degrees, leverages = np.atleast_1d(config.degrees), np.atleast_1d(config.leverages)
    impact, shape = float(config.price_impact), (leverages.size, degrees.size)
    hit, radius, size = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    for j, degree in enumerate(degrees):
        for n in range(config.networks):
            rng = np.random.default_rng((setting.seed, j, n))
            held, first = overlap(rng, config, degree), int(rng.integers(config.banks))
            for i, leverage in enumerate(leverages):  # the same networks at every leverage
                share = failed(held, 1.0 / leverage, first, impact).mean()
                hit[i, j] += share > float(config.large)
                size[i, j] += share if share > float(config.large) else 0.0
                if n < config.spectra:
                    radius[i, j] += spectral_radius(branching_matrix(held, 1.0 / leverage, impact)) / config.spectra
        setting.report(f"mean degree {degree:g}: P(cascade) {hit[:, j] / config.networks}")
    found = {}
    for i, leverage in enumerate(leverages):
        name, share = f"leverage {leverage:g}", hit[i] / config.networks
        low, high = measures.binomial_interval(hit[i], config.networks)
        error = np.sqrt(share * (1.0 - share) / config.networks)
        found["P(cascade)", name] = curve(degrees, share, error, unit="1", paths=config.networks, low=low, high=high)
        mean = np.divide(size[i], hit[i], out=np.zeros_like(share), where=hit[i] > 0.0)
        found["failed banks in a cascade", name] = curve(degrees, mean, unit="fraction", paths=hit[i])
        found["spectral radius", name] = curve(degrees, radius[i], unit="1", paths=config.spectra)
    return found


def checks(found):
    """Totals, order, money; what price impact, shock and targeting must do; the row of leverage 15; what degree does."""
    for name, total in TOTALS.items():
        yield exact(f"system, {name}", total, found["system", name].y[0], 0.005, SOURCE)
    yield exact("system, banks", 48, found["system", "banks"].y[0], 0.0, SOURCE)
    yield exact(
        "banks in another order",
        0.0,
        found["system", "largest change in another order"].y[0],
        1e-12,
        "banks act at once",
    )
    residual = found["system", "ledger residual, of assets"].y[0]
    yield exact("ledger residual, of assets", 0.0, residual, 1e-13, "equity changes by losses on bonds alone")
    impact, shock, targeting = SWEEPS.values()
    first = found[impact, "defaults after step 1"].y[0]
    last = found[impact, f"defaults after step {STEPS}"].y[0]
    yield exact(
        "no price impact: defaults after the first round", 0.0, last - first, 0.0, "prices stand, so nobody follows"
    )
    falls = np.diff(found[shock, "defaults"].y)
    low, high = zone(found)
    said = f"from below 50 % to above 80 % sold within 3 points; {AGAIN}"
    yield exact("tipping zone, points of the shock", 0.03, high - low, 1e-9, said, side=1)
    yield exact("falls of defaults with the shock", 1, float(np.sum(falls < 0.0)), 0.0, AGAIN, side=-1)
    none = found[shock, "sold"].y[0], found[targeting, "sold"].y[0]
    yield exact("targeting without a shock, % sold", 10.0, none[1], 0.0, AGAIN, side=-1)
    yield exact("targeting over threshold, no shock", 3.0, none[1] / max(none[0], 1e-9), 0.0, AGAIN, side=-1)
    row = found["P(cascade)", "leverage 15"]
    for degree, hit, share in zip(row.x, np.rint(row.y * row.paths), row.y, strict=True):
        law = CASCADES.get(int(degree))
        if law is None:  # the reference looked at five degrees
            continue
        name, n = f"leverage 15, degree {degree:g}", row.paths[0]
        if law == 0.0:
            yield exact(
                f"{name}: cascades per 60 networks", 0.0, hit * SAMPLE / n, 1.0, f"{AGAIN}; 60 networks", side=1
            )
        else:
            error = np.sqrt(law * (1.0 - law) * (1.0 / n + 1.0 / SAMPLE))
            yield sampled(name, law, share, error, f"{AGAIN}; 60 networks", most=0.1)
    grid = np.array([one.y for (panel, _), one in found.items() if panel == "P(cascade)"])
    yield exact("falls of P(cascade) with leverage", 0.0, -min(np.diff(grid, axis=0).min(), 0.0), 0.0, "same networks")


def zone(found):
    """Largest shock under which the threshold rule sells a minority, and smallest under which it sells four fifths."""
    one = found[SWEEPS["threshold"], "sold"]
    return one.x[one.y < 50.0].max(initial=-np.inf), one.x[one.y > 80.0].min(initial=np.inf)


def card(found):
    """Mechanisms are published; no number of these papers is quoted with a page."""
    row = found["P(cascade)", "leverage 15"]
    ours = ", ".join(f"{share:.2f} at degree {degree:g}" for degree, share in zip(row.x, row.y, strict=True))
    yield Claim(
        "cascades of overlapping portfolios",
        "a critical leverage; an unstable region that grows with leverage; robust yet fragile; too much diversification can hurt",
        f"P(cascade) at leverage 15, {row.paths[0]} networks: {ours}",
        "Caccioli, Shrestha, Moore, Farmer (2014), abstract. Banks, assets, shock and the constant 1.0536 are our choices",
    )
    low, high = zone(found)
    none = [found[SWEEPS[key], "sold"].y[0] for key in ("threshold", "targeting")]
    yield Claim(
        "fire sales of 48 banks",
        "",
        f"the threshold rule sells less than half up to a shock of {low:.1%} and more than 80 % from {high:.1%} on; without "
        f"a shock it sells {none[0]:.1f} %, leverage targeting {none[1]:.1f} %",
        f"recomputed by us; rules and data: {SOURCE}; the pictures stored there stem from an earlier version of that code",
    )


def draw(found):
    """(a), (b): banks in default and bonds sold (%) over the price impact of selling 5 % (%) and over the fall of bonds (%).

    (c): P(cascade) over the mean number of assets of a bank and its leverage; line: spectral radius one of the branching matrix,
    where the failure of one bank alone makes others insolvent.
    """
    figure, axes = style.new_page(1, 3, height=2.5, width_ratios=[1.0, 1.0, 1.15])
    (left, middle, right), looks = axes[0], {"defaults": (style.VERMILION, "o"), "sold": (style.BLUE, "s")}
    names = {"defaults": "banks in default", "sold": "bonds sold"}
    rules = {"impact": "-", "threshold": "-", "targeting": (0, (3, 1.5))}
    for ax, keys in ((left, ("impact",)), (middle, ("threshold", "targeting"))):
        for key, (series, (color, marker)) in product(keys, looks.items()):
            one, filled = found[SWEEPS[key], series], "white" if key == "targeting" else color
            y = one.y if series == "sold" else 100.0 * one.y
            ax.plot(
                100.0 * one.x, y, color=color, marker=marker, ms=2.4, mfc=filled, ls=rules[key], label=names[series]
            )
        ax.set_ylim(-2.0, 108.0)
    left.set(xlabel="Price impact of selling 5 % (%)", ylabel="Share of banks, of bonds (%)", title="(a) shock 20 %")
    middle.set(xlabel="Fall of government bonds (%)", title="(b) price impact 1 %")
    left.legend(loc="center right")
    solid, dashed = (Line2D([], [], color=style.BLACK, ls=rules[key]) for key in ("threshold", "targeting"))
    middle.legend(
        [solid, dashed], ["threshold rule", "leverage targeting"], loc="center right", bbox_to_anchor=(1.0, 0.65)
    )
    rows = {series: one for (panel, series), one in found.items() if panel == "P(cascade)"}
    degrees = next(iter(rows.values())).x
    leverages = np.array([float(series.split()[1]) for series in rows])
    share = np.array([one.y for one in rows.values()])
    radius = np.array([found["spectral radius", series].y for series in rows])
    corner = {"fontsize": 6.5, "ha": "right", "va": "center"}
    at = np.arange(degrees.size), np.arange(leverages.size)
    picture = right.pcolormesh(*at, share, cmap="Purples", vmin=0.0, vmax=1.0, shading="nearest", rasterized=True)
    if radius.min() < 1.0 < radius.max():
        right.contour(*at, radius, levels=[1.0], colors="black", linewidths=0.9)
        right.text(0.97, 0.065, "line: spectral radius 1\nof the branching matrix", transform=right.transAxes, **corner)
    few = at[0][:: max(1, at[0].size // 6)], at[1][:: max(1, at[1].size // 6)]
    right.set_xticks(few[0], [f"{degrees[k]:g}" for k in few[0]])
    right.set_yticks(few[1], [f"{leverages[k]:g}" for k in few[1]])
    right.set(
        xlabel="Mean number of assets of a bank",
        ylabel="Leverage (assets / equity)",
        title="(c) overlapping portfolios",
    )
    figure.colorbar(picture, ax=right, label="P(cascade)", pad=0.02)
    return figure
