"""How likely does a lending protocol become under-collateralized, and what is the fastest path of a set worth as a headline?

A replication of Gudgeon, Perez, Harz, Livshits, Gervais (2020): the collateral of all debt must be sold into a thinning market
while the price falls. Its rules are its own and each day is a few additions, so it runs in NumPy on blocks of paths.

Of the paper are the mechanism and the headline of 19 days. Recomputed by us are all probabilities and all fastest days, with the
parameters of the config, of which the price law is ours.
"""

from itertools import product

import equinox as eqx
import numpy as np

from tailrisk._fields import Real, count, real
from tailrisk.figures import style
from tailrisk.study.observed import Claim, curve, exact, sampled
from tailrisk.study.published import Setting
from tailrisk.tails import measures

EXPECTED = {"with reserve": {0.0: 0.006, 0.01: 0.014, 0.02: 0.025, 0.03: 0.039}}
EXPECTED |= {"without reserve": {0.0: 0.145, 0.01: 0.211, 0.03: 0.319}}
SAMPLE = 5_000  # paths of the reference
AGAIN = "another implementation of the rules of this file, 5,000 paths; not a number of the paper"
HEADLINE = 19  # days
BLOCK = 5_000  # paths at a time


class Config(eqx.Module):
    """Protocol, prices, and what is swept."""

    paths: int = count(least=100)
    days: int = count(least=2)
    debts: Real = real(unit="USD", above=0.0)
    thinning: Real = real(unit="1/day", least=0.0)
    correlations: Real = real(unit="1", least=-1.0, most=1.0)
    price: Real = real(unit="USD", above=0.0)
    drift: Real = real(unit="1/day")
    volatility: Real = real(unit="1/sqrt(day)", least=0.0)
    collateral: Real = real(unit="1", above=0.0)  # over debt
    reserve: Real = real(unit="units", least=0.0)
    volume: Real = real(unit="ETH/day", above=0.0)


def prices(config, rng, paths, correlation):
    """Daily closes of ETH and of the reserve asset, from day 0."""
    z = rng.standard_normal((2, paths, config.days - 1))
    eth, other = z[0], correlation * z[0] + np.sqrt(1.0 - correlation**2) * z[1]
    drift, sigma = float(config.drift), float(config.volatility)
    parts = ((eth, sigma), (other, 0.5 * sigma))
    logs = [np.cumsum(drift + scale * part, axis=1) for part, scale in parts]
    return [float(config.price) * np.exp(np.pad(log, ((0, 0), (1, 0)))) for log in logs]


def margins(config, price, reserve, debt, rho):
    """Margin of each day from 1 on, USD: collateral left and reserve at the day's prices less the debt left; and sales."""
    units = np.full(price.shape[0], float(config.collateral) * debt / float(config.price))
    owed, rows, sold = np.full(price.shape[0], debt), [], []
    for day in range(1, price.shape[1]):
        mean = 0.5 * (price[:, day - 1] + price[:, day])
        most = np.minimum(float(config.volume) * np.exp(-rho * day), units)
        sale = np.minimum(most, owed / mean)
        owed = np.where(sale < most, 0.0, owed - sale * mean)
        units = units - sale
        rows.append(units * price[:, day] + reserve[:, day] - owed)
        sold.append(sale * mean)
    return np.stack(rows, axis=1), np.stack(sold, axis=1)


def first_failure(margin):
    """First day with a negative margin, the number of days where there is none."""
    negative = margin < 0.0
    return np.where(negative.any(axis=1), negative.argmax(axis=1) + 1, margin.shape[1] + 1)


def main(config: Config, setting: Setting):
    """P(failed by day t) of every debt and thinning, with and without reserve, and the fastest failure by path count."""
    setting.need_double("this model runs in NumPy, in double precision")
    debts, thinning = np.atleast_1d(config.debts), np.atleast_1d(config.thinning)
    correlations = np.atleast_1d(config.correlations)
    cases = [(debt, rho, True, correlations[0]) for debt, rho in product(debts, thinning)]
    cases += [(debts[0], rho, False, correlations[0]) for rho in thinning]
    cases += [(debts[0], 0.01, True, correlation) for correlation in correlations[1:]]
    days = {case: np.empty(config.paths, np.int64) for case in cases}
    for block, start in enumerate(range(0, config.paths, BLOCK)):
        paths = min(BLOCK, config.paths - start)
        for correlation in correlations:  # the same ETH prices under each
            rng = np.random.default_rng((setting.seed, block))
            eth, other = prices(config, rng, paths, correlation)
            for debt, rho, backed, rate in days:
                if rate == correlation:
                    units = float(config.reserve) if backed else 0.0
                    margin, _ = margins(config, eth, units * other, debt, rho)
                    days[debt, rho, backed, rate][start : start + paths] = first_failure(margin)
    found, horizon = {}, np.arange(1, config.days)
    for (debt, rho, backed, rate), day in days.items():
        failed = np.searchsorted(np.sort(day), horizon, side="right")
        low, high = measures.binomial_interval(failed, config.paths)
        share = failed / config.paths
        error = np.sqrt(share * (1.0 - share) / config.paths)
        name = series(debt, rho, backed, None if rate == correlations[0] else rate)
        found["P(failed by day)", name] = curve(horizon, share, error, unit="1", paths=config.paths, low=low, high=high)
        counts = np.unique(np.geomspace(min(100, config.paths), config.paths, 25).astype(int))
        fastest = np.minimum.accumulate(day)[counts - 1].astype(float)
        found["fastest failure", name] = curve(counts, fastest, unit=f"day ({config.days}: none)", paths=counts)
        setting.report(f"{name}: P(fail) {share[-1]:.4f}, fastest {fastest[-1]:g} of {config.paths} paths")
    return found | limits(config, debts[0])


def series(debt, rho, backed=True, correlation=None):
    """Name of a case."""
    text = f"{debt / 1e6:g} M USD, rho {rho:g}, {'with' if backed else 'without'} reserve"
    return text if correlation is None else f"{text}, correlation {correlation:g}"


def limits(config, debt):
    """Constant price: days it takes to sell, the largest debt that can be sold, and where the money went."""
    days = 4_000
    flat = np.full((1, days), float(config.price))
    _, sold = margins(config, flat, np.zeros_like(flat), debt, 0.0)
    full = float(config.volume * config.price)
    took = np.sum(sold[0] >= full * (1.0 - 1e-12)) + sold[0][sold[0] < full * (1.0 - 1e-12)].sum() / full
    _, much = margins(config, flat, np.zeros_like(flat), 1e12, 0.01)
    rng = np.random.default_rng(0)
    eth, other = prices(config, rng, 1_000, 0.9)
    _, paid = margins(config, eth, 0.0 * other, debt, 0.0)
    over = np.max(paid.sum(axis=1) - debt)
    return {
        ("constant price", "days to sell the debt"): curve(debt, took, unit="day"),
        ("constant price", "largest debt that can be sold at rho 0.01"): curve(0.01, much.sum(), unit="USD"),
        ("money", "most that is repaid beyond the debt"): curve(debt, over, unit="USD"),
        ("formula", "days to sell the debt"): curve(debt, debt / full, unit="day"),
        ("formula", "largest debt that can be sold at rho 0.01"): curve(0.01, full / np.expm1(0.01), unit="USD"),
    }


def checks(found):
    """The shares of the reference, the fastest path, and constant prices."""
    for reserve, row in EXPECTED.items():
        for rho, share in row.items():
            name = series(400e6, rho, reserve.startswith("with "))
            one = found["P(failed by day)", name]
            error = np.sqrt(share * (1.0 - share) * (1.0 / one.paths[-1] + 1.0 / SAMPLE))
            yield sampled(f"P(fail), {name}", share, one.y[-1], error, AGAIN, most=0.02)
    fastest = [found["fastest failure", series(400e6, rho)] for rho in EXPECTED["with reserve"]]
    at = [one.y[np.argmin(np.abs(one.x - SAMPLE))] for one in fastest]
    said = "another implementation: 22 to 24 days, which other seeds move by several"
    yield exact(f"fastest failure of {SAMPLE} paths, day, with reserve", 23.0, min(at), 6.0, said)
    for name, digits in (("days to sell the debt", 59.8), ("largest debt that can be sold at rho 0.01", 665.66e6)):
        value, formula = found["constant price", name].y[0], found["formula", name].y[0]
        yield exact(f"constant price, {name}", formula, value, 1e-9 * formula, "closed form")
        yield exact(f"formula, {name}", digits, formula, 1e-3 * digits, "debt / (V0 P), V0 P / (e^rho - 1), by hand")
    over = found["money", "most that is repaid beyond the debt"].y[0]
    yield exact("most that is repaid beyond the debt, USD", 0.0, over, 1e-5, "sales stop when the debt is paid", side=1)


def card(found):
    """The headline beside the probability that it hides."""
    for rho in EXPECTED["with reserve"]:
        name = series(400e6, rho)
        chance, fastest = found["P(failed by day)", name], found["fastest failure", name]
        by = chance.x == HEADLINE
        yield Claim(
            f"400 M USD of debt, rho {rho:g}",
            f"can become under-collateralized within {HEADLINE} days" if rho == 0.0 else "",
            f"fastest of {fastest.paths[-1]:,} paths: day {fastest.y[-1]:g}; P(failed by day {HEADLINE}) {chance.y[by][0]:.2g} "
            f"(95 %: {chance.low[by][0]:.2g} to {chance.high[by][0]:.2g}), by day {chance.x[-1]:g} {chance.y[-1]:.3g} "
            f"({chance.low[-1]:.3g} to {chance.high[-1]:.3g})",
            "Gudgeon and others (2020), abstract; our numbers with the parameters of the config"
            if rho == 0.0
            else "recomputed by us",
        )


def draw(found):
    """Left: P(failed by day t) with bands of 95 %, and the published day. Right: the fastest failure (day) by number of paths."""
    figure, axes = style.new_page(1, 2, height=2.7)
    left, right = axes[0]
    shown = ((400e6, 0.0, style.BLUE, "-"), (400e6, 0.03, style.BLUE, (0, (3, 1.5))))
    shown += ((600e6, 0.01, style.GREEN, (0, (4, 1, 1, 1))), (800e6, 0.0, style.VERMILION, "-"))
    shown += ((800e6, 0.03, style.VERMILION, (0, (3, 1.5))),)
    for debt, rho, color, line in shown:
        if ("P(failed by day)", series(debt, rho)) not in found:
            continue
        one, fastest = (found[panel, series(debt, rho)] for panel in ("P(failed by day)", "fastest failure"))
        some = one.y > 0.0
        label = f"{debt / 1e6:g} M, " + rf"$\rho$ = {rho:g}"
        left.fill_between(one.x[some], one.low[some], one.high[some], color=color, alpha=0.15, linewidth=0)
        left.plot(one.x[some], one.y[some], color=color, ls=line, label=label)
        seen = fastest.y < one.x[-1] + 1
        right.step(fastest.x[seen], fastest.y[seen], where="post", color=color, ls=line)
    left.axvline(HEADLINE, color=style.GRAY, lw=0.8)
    left.text(HEADLINE - 1.0, 0.9, f"published: {HEADLINE} days", rotation=90, ha="right", va="top", fontsize=6.5)
    left.set(yscale="log", xlabel="Day t", ylabel="P(failed by day t)", ylim=(1e-4, 1.0))
    left.legend(loc="lower right", fontsize=6.5)
    right.axhline(HEADLINE, color=style.GRAY, lw=0.8)
    right.set(xscale="log", xlabel="Number of paths", ylabel="Fastest failure (day)")
    return figure
