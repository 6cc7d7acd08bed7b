"""What moves the price: the square-root prefactor of signed flow, of resting orders, and over many markets.

Volumes are in days' volume and returns in days' volatility, so that numbers of different markets can be pooled.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import optimize, stats

from .._fields import SECONDS_PER_YEAR, InputError, parse_duration
from ..data.tables import Bars, Depth
from ..tails.measures import Estimate

DAY = 86_400e6  # microseconds
LEAST = 50  # windows
_Z = float(stats.norm.isf(0.025))


class Activity(NamedTuple):
    """A market before an event: volatility per root of a day, and volume per day in units."""

    volatility: float
    volume: float
    days: float


def activity(bars: Bars) -> Activity:
    """Volatility from closes of bars and mean daily volume; gaps carry no variance."""
    days = (float(bars.time[-1] - bars.time[0]) + bars.every) / DAY
    moves = np.diff(np.log(bars.close))
    return Activity(float(np.sqrt(np.sum(moves**2) / days)), float(np.nansum(bars.volume)) / days, days)


class FlowImpact(NamedTuple):
    """r = Y sigma sign(Q) sqrt(|Q|/V) over windows, and the exponent that fits best in its place."""

    prefactor: Estimate
    exponent: Estimate
    explained: float  # share of the variance of returns
    windows: int


def flow_impact(bars: Bars, window: str = "15min", draws: int = 200, seed: int = 0) -> FlowImpact:
    """Least squares of returns on net aggressive flow in windows, with intervals from resampled hours.

    **Bias:** flow of one venue stands for that of all, and follows the price as well as moving it, so this is what goes along
    with flow and bounds what flow does from above. Parent orders have the same law with a prefactor near 1.

    **Source:** Bouchaud, Farmer, Lillo (2009), "How markets slowly digest changes in supply and demand".
    """
    span = parse_duration(window) * SECONDS_PER_YEAR * 1e6
    normal = activity(bars)
    place = ((bars.time - bars.time[0]) // span).astype(int)
    count = int(place[-1]) + 1
    sold = bars.volume - bars.taker_buy_volume
    if np.isnan(sold).any():
        raise InputError(
            f"{bars.source.paths[0]}: no volume of aggressive buyers, expected taker_buy_volume in every bar"
        )
    flow = np.bincount(place, bars.taker_buy_volume - sold, count) / normal.volume
    last = np.searchsorted(place, np.arange(count), side="right") - 1
    close = np.log(bars.close[np.maximum(last, 0)])
    move = np.diff(close, prepend=np.log(bars.open[0])) / normal.volatility
    kept = np.bincount(place, minlength=count) > 0
    kept[1:] &= kept[:-1]
    flow, move = flow[kept], move[kept]
    if flow.size < LEAST:
        raise InputError(f"{bars.source.paths[0]}: {flow.size} windows of {window}, expected at least {LEAST}")
    per_hour = max(1, round(3600e6 / span))
    hours = np.arange(flow.size) // per_hour
    rng, blocks = np.random.default_rng(seed), int(hours[-1]) + 1
    signed = np.sign(flow) * np.sqrt(np.abs(flow))
    xx, xy = (np.bincount(hours, v, blocks) for v in (signed**2, signed * move))
    value = float(xy.sum() / xx.sum())
    weights = rng.multinomial(blocks, np.full(blocks, 1.0 / blocks), draws)
    samples = (weights @ xy) / (weights @ xx)
    best = _exponent(flow, move)
    powers = [_exponent(flow, move, weights[i][hours].astype(float)) for i in range(min(draws, 100))]
    explained = 1.0 - float(np.sum((move - value * signed) ** 2) / np.sum(move**2))
    return FlowImpact(_from(value, samples, "1"), _from(best, np.array(powers), "1"), explained, flow.size)


def _from(value: float, samples: np.ndarray, unit: str) -> Estimate:
    low, high = np.quantile(samples, (0.025, 0.975))
    return Estimate(value, float(samples.std(ddof=1)), float(low), float(high), unit)


def _exponent(flow: np.ndarray, move: np.ndarray, weight: np.ndarray | None = None) -> float:
    """Exponent in (0.05, 1.5) with the least squared error, its scale profiled out."""
    weight = np.ones_like(flow) if weight is None else weight

    def gain(power: float) -> float:
        x = np.sign(flow) * np.abs(flow) ** power
        return -float((weight @ (x * move)) ** 2 / (weight @ x**2))

    return float(optimize.minimize_scalar(gain, bounds=(0.05, 1.5), method="bounded").x)  # pyright: ignore


class Pooled(NamedTuple):
    """The mean over markets, their spread, and where the number of another market lies with 95 %."""

    mean: Estimate
    between: float
    predicted: tuple[float, float]


def pool(found: list[Estimate]) -> Pooled:
    """Random-effects mean of estimates of different markets.

    **Source:** DerSimonian and Laird (1986); prediction interval of Higgins, Thompson, Spiegelhalter (2009).
    """
    if len(found) < 3:
        raise InputError(f"{len(found)} markets, expected at least 3 to say how much they differ")
    value, variance = (np.array(column) for column in zip(*((e.value, e.std_error**2) for e in found), strict=True))
    weight = 1.0 / variance
    fixed = float(weight @ value / weight.sum())
    excess = float(weight @ (value - fixed) ** 2) - (value.size - 1)
    between = max(0.0, excess / float(weight.sum() - weight @ weight / weight.sum()))
    weight = 1.0 / (variance + between)
    mean, error = float(weight @ value / weight.sum()), float(1.0 / np.sqrt(weight.sum()))
    reach = float(stats.t.isf(0.025, value.size - 2)) * np.sqrt(between + error**2)
    center = Estimate(mean, error, mean - _Z * error, mean + _Z * error, "1")
    return Pooled(center, float(np.sqrt(between)), (mean - float(reach), mean + float(reach)))


class BookImpact(NamedTuple):
    """Y of walking the resting bids down to each band (sides apart), and the exponent of the impact of doing so at once."""

    bands: Float[np.ndarray, " bands"]
    prefactor: list[Estimate]
    exponent: Estimate  # of the impact of a sale that walks the bids


def book_impact(depth: Depth, normal: Activity, draws: int = 200, seed: int = 0) -> BookImpact:
    """Y = band / (sigma sqrt(resting units/V)) at each band, medians of snapshots with intervals from resampled hours.

    **Bias:** resting orders are what a sale meets in one moment. Refills make the impact of a slow sale smaller; orders that
    are pulled make that of a sale in a crash larger.
    """
    bands = np.array(depth.bands)
    hours = ((depth.time - depth.time[0]) // 3600e6).astype(int)
    share = depth.depth / normal.volume
    implied = np.abs(bands) / (normal.volatility * np.sqrt(share))
    bids = bands < 0.0
    x = np.log(np.abs(bands[bids]))
    slope = ((x - x.mean()) @ np.log(share[:, bids]).T) / np.sum((x - x.mean()) ** 2)  # of log depth over log band
    table = np.column_stack([implied, 1.0 / slope])
    rng, groups = np.random.default_rng(seed), [np.flatnonzero(hours == h) for h in np.unique(hours)]
    if len(groups) < 4:
        raise InputError(f"{depth.source.paths[0]}: {len(groups)} hours of snapshots, expected at least 4")
    medians = np.stack([np.nanmedian(table[group], axis=0) for group in groups])
    value = np.nanmedian(table, axis=0)
    samples = np.stack([np.median(medians[rng.integers(0, len(groups), len(groups))], axis=0) for _ in range(draws)])
    every = [_from(float(v), samples[:, k], "1") for k, v in enumerate(value)]
    return BookImpact(bands, every[:-1], every[-1])
