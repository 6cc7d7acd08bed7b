"""How depth goes and comes back in an event, from bars: volume over variance, relative to normal.

The square-root law moves the price by sigma sqrt(volume/V_eff), so the variance that a given volume goes along with is
inverse to effective depth: share = (volume / variance) / (volume / variance in normal times).
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import optimize

from .._fields import SECONDS_PER_YEAR, InputError
from ..data import microseconds
from ..data.tables import Bars
from ..tails.measures import Estimate

_LOG = np.log(2.0)
_TOGETHER = 60.0  # minutes that stay together when bars are resampled
_STARTS = [(np.log(a), np.log(f)) for a in (1.0, 0.1, 0.01) for f in (0.05, 0.3)]


class Evaporation(NamedTuple):
    """Constants of `EvaporatingDepth` with 95 % intervals from resampled hours of bars, and the deepest share seen."""

    reference: float  # 1/sqrt(year), before the event
    sensitivity: Estimate
    floor: Estimate
    recovery: Estimate  # minutes
    lowest: float  # mean share of the worst hour
    share: Float[np.ndarray, " bars"]
    excess: Float[np.ndarray, " bars"]  # realized over normal variance, less 1, known before the bar


def parkinson(bars: Bars) -> Float[np.ndarray, " bars"]:
    """Variance of each bar from its range, (ln high/low)^2 / (4 ln 2) (Parkinson 1980)."""
    return np.log(bars.high / bars.low) ** 2 / (4.0 * _LOG)


def evaporation(
    bars: Bars, start: str, end: str, memory_minutes: float = 60.0, draws: int = 200, seed: int = 0
) -> Evaporation:
    """Fits share = max(floor, exp(-a max(RV/RVbar - 1, 0))) to the bars of an event, and the way back after the worst.

    RV is the exponential mean of variance up to the bar before, so no bar explains itself. Least squares in logs.
    """
    first, last = microseconds(start, "start"), microseconds(end, "end")
    variance = np.maximum(parkinson(bars), 1e-12)
    before = bars.time < first
    if before.sum() < 100:
        raise InputError(f"{bars.source.paths[0]}: {before.sum()} bars before {start}, expected at least 100")
    years = bars.every / 1e6 / SECONDS_PER_YEAR
    normal = float(np.mean(variance[before]))
    keep = float(np.exp(-bars.every / 60e6 / memory_minutes))
    level, seen = np.empty(len(bars)), normal
    for i, value in enumerate(variance):
        level[i] = seen
        seen = keep * seen + (1.0 - keep) * value
    excess = np.maximum(level / normal - 1.0, 0.0)
    ratio = np.maximum(bars.volume, 1e-12) / variance
    log_share = np.log(ratio / np.exp(np.mean(np.log(ratio[before]))))
    inside = (bars.time >= first) & (bars.time < last)
    x, y = excess[inside], log_share[inside]
    if x.size < 24:
        raise InputError(f"{bars.source.paths[0]}: {x.size} bars from {start} to {end}, expected at least 24")
    point = _fit(x, y, _STARTS)
    rng, sample = np.random.default_rng(seed), []
    for _ in range(draws):
        pick = _resampled(bars, x.size, rng)
        sample.append(_fit(x[pick], y[pick], [(np.log(point[0]), np.log(point[1]))]))
    samples = np.array(sample)
    found = [_estimate(point[k], samples[:, k], "1") for k in (0, 1)]
    per_hour = max(1, round(3600e6 / bars.every))
    hourly = np.convolve(np.exp(np.minimum(y, 0.0)), np.ones(per_hour) / per_hour, "valid")
    return Evaporation(
        float(np.sqrt(normal / years)), found[0], found[1], _way_back(bars, y, inside, draws, rng),
        float(hourly.min()), np.exp(log_share), excess,
    )  # fmt: skip


def _resampled(bars: Bars, size: int, rng: np.random.Generator) -> Int[np.ndarray, " size"]:
    """Places of as many bars, an hour of neighbors at a time, whatever the length of a bar."""
    block = max(1, min(round(_TOGETHER * 60e6 / bars.every), size))
    starts = rng.integers(0, size, (-(-size // block), 1))
    return (starts + np.arange(block)).ravel()[:size] % size


def _estimate(value: float, samples: np.ndarray, unit: str) -> Estimate:
    low, high = np.quantile(samples, (0.025, 0.975))
    return Estimate(float(value), float(samples.std(ddof=1)), float(low), float(high), unit)


def _fit(x: np.ndarray, y: np.ndarray, starts: list[tuple[float, float]]) -> tuple[float, float]:
    """Sensitivity and floor, from the best of several starts on the scale of logs."""

    def miss(p: np.ndarray) -> np.ndarray:
        return y - np.maximum(-np.exp(p[0]) * x, p[1])

    low, high = np.array([-12.0, -9.0]), np.array([3.0, 0.0])
    runs = [
        optimize.least_squares(miss, np.clip(p, low + 1e-3, high - 1e-3), loss="soft_l1", bounds=(low, high))
        for p in starts
    ]
    best = min(runs, key=lambda run: run.cost)
    return float(np.exp(best.x[0])), float(np.exp(best.x[1]))


def _way_back(bars: Bars, y: np.ndarray, inside: np.ndarray, draws: int, rng: np.random.Generator) -> Estimate:
    """Minutes in which the missing share falls by e, over 12 hours after the half hour in which it was largest.

    share = 1 - lost exp(-t/recovery) in logs; the interval is from resampled hours of residuals.
    """
    minutes = (bars.time[inside] - bars.time[inside][0]) / 60e6
    width = max(1, round(1800e6 / bars.every))
    smooth = np.convolve(y, np.ones(width) / width, "valid")
    worst = int(np.argmin(smooth))
    after = (minutes >= minutes[worst]) & (minutes < minutes[worst] + 720.0)
    t, z = minutes[after] - minutes[worst], y[after]

    def curve(p: np.ndarray) -> np.ndarray:
        return np.log1p(-np.exp(-np.exp(p[0]) - t / np.exp(p[1])))

    def fitted(z: np.ndarray, start: Any) -> np.ndarray:
        run = optimize.least_squares(lambda p: z - curve(p), start, loss="soft_l1", bounds=([-7.0, 0.0], [3.0, 9.0]))
        return run.x

    point = fitted(z, [-2.0, np.log(120.0)])
    left, found = z - curve(point), []
    for _ in range(draws):
        found.append(np.exp(fitted(curve(point) + left[_resampled(bars, t.size, rng)], point)[1]))
    return _estimate(float(np.exp(point[1])), np.array(found), "min")
