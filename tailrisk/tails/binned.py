"""Value-at-risk and expected shortfall of many plain losses from counts in bins of 0.1 %, in any order to the same bits.

The bin of x > 0 is the bit pattern of the float32 x without its last 13 bits, as in `histogram`; what the bin does not see of x
is kept as the sum of those bits, so a bin knows how many values it has and their mean, in whole numbers. What is not positive is
the atom and is not kept. A quantile is off by less than a bin, 2^-10 of its value; a shortfall by far less, because its
derivative in the quantile is zero.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import special, stats

from . import measures
from .histogram import SHIFT
from .measures import SECTIONS, Estimate
from .weighted import section_half

NOTE = "from counts in bins of 0.1 %"


class Bins(NamedTuple):
    """`key` is the pattern times `SECTIONS` plus the section of the path, ascending; `rest` the sum of the last bits."""

    key: Int[np.ndarray, " bins"]
    count: Int[np.ndarray, " bins"]
    rest: Int[np.ndarray, " bins"]


class Ladder(NamedTuple):
    """Bins from the largest down: edges, mean, and how many values lie in it and in those above."""

    low: Float[np.ndarray, " bins"]
    high: Float[np.ndarray, " bins"]
    mean: Float[np.ndarray, " bins"]
    count: Int[np.ndarray, " bins"]
    above: Int[np.ndarray, " bins"]


def count(x: Float[np.ndarray, " paths"], section: Int[np.ndarray, " paths"]) -> Bins:
    """The counts of finite losses."""
    with np.errstate(over="ignore"):
        x = np.asarray(x, np.float32)
    there = (x > 0.0) & np.isfinite(x)
    pattern = x[there].view(np.int32)
    if not pattern.size:
        return empty()
    key = (pattern >> SHIFT).astype(np.int64) * SECTIONS + section[there]
    least = int(key.min())
    number = np.bincount(key - least)
    rest = np.bincount(key - least, pattern & ((1 << SHIFT) - 1))  # whole numbers below 2^53 in float64
    used = np.flatnonzero(number)
    return Bins(used + least, number[used], rest[used].astype(np.int64))


def empty() -> Bins:
    """Of no loss."""
    nothing = np.zeros(0, np.int64)
    return Bins(nothing, nothing, nothing)


def merge(a: Bins, b: Bins) -> Bins:
    """The counts of both sets of losses."""
    key, place = np.unique(np.concatenate([a.key, b.key]), return_inverse=True)
    number, rest = np.zeros(key.size, np.int64), np.zeros(key.size, np.int64)
    for part, where in ((a, place[: a.key.size]), (b, place[a.key.size :])):
        number[where] += part.count
        rest[where] += part.rest
    return Bins(key, number, rest)


def ladder(bins: Bins, section: int | None = None) -> Ladder:
    """The bins of all sections, or of one, as numbers."""
    if section is not None:
        bins = Bins(*(field[bins.key % SECTIONS == section] for field in bins))
    pattern, start = np.unique(bins.key // SECTIONS, return_index=True)
    number, rest = (np.add.reduceat(field, start) if start.size else field for field in (bins.count, bins.rest))
    low, high = (((pattern + i) << SHIFT).astype(np.int32).view(np.float32).astype(float) for i in (0, 1))
    mean = low + (high - low) * (rest / np.maximum(number, 1) / (1 << SHIFT))
    alone = number == 1
    low, high = np.where(alone, mean, low), np.where(alone, mean, high)
    low, high, mean, number = (field[::-1] for field in (low, high, mean, number))
    return Ladder(low, high, mean, number, np.cumsum(number))


def value_at(rungs: Ladder, rank: int) -> tuple[float, float, float]:
    """The value of a rank from the top, as if values were spread evenly over their bin, and the edges of the bin."""
    place = int(np.searchsorted(rungs.above, rank))
    if place == rungs.above.size:
        return 0.0, 0.0, 0.0
    low, high, number = float(rungs.low[place]), float(rungs.high[place]), int(rungs.count[place])
    before = int(rungs.above[place]) - number
    return high - (high - low) * (rank - before - 0.5) / number, low, high


def quantile(bins: Bins, paths: int, level: float, confidence: float = 0.95) -> Estimate:
    """Value-at-risk as in `measures.quantile`; the interval is widened to the edges of the bins of its ends."""
    measures.two_sided(confidence)
    alpha, miss, rungs = measures.tail_share(level), 0.5 * (1.0 - confidence), ladder(bins)
    k, law = measures.rank(paths, alpha), stats.binom(paths, alpha)
    first, last = int(law.ppf(miss)), int(law.isf(miss)) + 1
    value = value_at(rungs, k)[0]
    if first < 1 or last > paths:
        return measures.nothing(f"{paths:,} paths are too few for an interval at level {level:g}", value)
    share = special.betainc(k, paths - k + 1.0, np.concatenate([[0], rungs.above]) / paths)
    weight = np.append(np.diff(share), 1.0 - share[-1])  # what is left falls on the atom
    values = np.append(rungs.mean, 0.0)
    error = float(np.sqrt(weight @ (values - weight @ values) ** 2))
    low, high = value_at(rungs, last)[1], value_at(rungs, first)[2]
    return Estimate(value, error, low, high, note=_atom(rungs, paths, value, low, alpha) or NOTE)


def _atom(rungs: Ladder, paths: int, value: float, low: float, alpha: float) -> str:
    if low > 0.0:
        return ""
    share = int(rungs.count.sum()) / paths
    return f"{'at' if value == 0.0 else 'near'} the atom 0: P(x > 0) = {share:.2g}, the tail is {alpha:.2g}"


def shortfall(
    bins: Bins, paths: int, level: float, sizes: Int[np.ndarray, " sections"], confidence: float = 0.95
) -> Estimate:
    """Expected shortfall as in `measures.expected_shortfall`; `sizes` are the paths of each section."""
    z, alpha, rungs = measures.two_sided(confidence), measures.tail_share(level), ladder(bins)
    v, value = _shortfall(rungs, paths, alpha)
    excess, number = _beyond(rungs, measures.rank(paths, alpha), v)
    most = float(rungs.high[0]) - v if rungs.high.size else 0.0
    note, refused = measures.carried(paths, int(number[excess > 0.0].sum()), most, float(number @ excess))
    if refused:
        return measures.nothing(f"beyond the {level:g} quantile: {note}", value)
    mean = float(number @ excess) / paths
    square, cube = (float(number @ excess**power) / paths for power in (2, 3))
    deviation = float(np.sqrt(max(square - mean**2, 0.0)))
    skew = (cube - 3.0 * mean * square + 2.0 * mean**3) / deviation**3
    error, low, high = measures.skewed_interval(paths, mean, deviation, skew, z, True)
    parts = [_shortfall(ladder(bins, i), int(size), alpha)[1] for i, size in enumerate(sizes)]
    half = section_half(np.array(parts), value, confidence)
    low, high = min(v + low / alpha, value - half), max(v + high / alpha, value + half)
    return Estimate(value, error / alpha, max(low, 0.0), high, note=note or NOTE)


def _shortfall(rungs: Ladder, paths: int, alpha: float) -> tuple[float, float]:
    k = measures.rank(paths, alpha)
    v = value_at(rungs, k)[0]
    excess, number = _beyond(rungs, k, v)
    return v, v + float(number @ excess) / paths / alpha


def _beyond(rungs: Ladder, rank: int, v: float) -> tuple[np.ndarray, np.ndarray]:
    """Excesses over the value of a rank and how often: means of the bins above, half of what is left of its own."""
    place = int(np.searchsorted(rungs.above, rank))
    excess, number = rungs.mean[:place] - v, rungs.count[:place]
    if place < rungs.above.size:
        before = int(rungs.above[place] - rungs.count[place])
        excess = np.append(excess, 0.5 * (float(rungs.high[place]) - v))
        number = np.append(number, rank - before)
    return excess, number
