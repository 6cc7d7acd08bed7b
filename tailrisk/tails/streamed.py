"""Estimates from a summary of weighted paths: the same measures as `weighted`, without the paths."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike

from .._fields import InputError
from . import histogram, measures, weighted
from .accumulator import Accumulator, means, row_moments, std_error
from .bootstrap import student_interval
from .measures import Estimate
from .sums import GROUP
from .weighted import Ranked, Tail

SECTIONS = 16  # of the batches, for ratios


def probability(acc: Accumulator, row: int, confidence: float = 0.95, bound: float = 1.0) -> Estimate:
    """The probability of the event of a row (an integrand "above"); `bound` is reported when it is refused."""
    return weighted.probability_from(row_moments(acc, row), std_error(acc, row), confidence, bound)


def mean(acc: Accumulator, row: int, confidence: float = 0.95) -> Estimate:
    """The mean of a row."""
    batches = acc.moments.mean[row] * acc.plan.units[row]
    return weighted.mean_from(row_moments(acc, row), std_error(acc, row), batches, confidence)


def ratio(acc: Accumulator, top: int, bottom: int, confidence: float = 0.95) -> Estimate:
    """R, the mean of one column over that of another: bootstrap-t over batch means of a - R b, or sections where they say more.

    The standard error is that of the delta method.
    """
    value, covariance = means(acc)
    if value[bottom] == 0.0:
        return Estimate(np.nan, np.nan, np.nan, np.nan)
    found = float(value[top] / value[bottom])
    units = np.concatenate([acc.plan.units, np.ones(acc.plan.controls)])
    a, b = acc.moments.mean[[top, bottom]] * units[[top, bottom], None]
    low, high = student_interval((a - found * b) / value[bottom], confidence)
    parts = a.reshape(-1, SECTIONS).sum(axis=0) / b.reshape(-1, SECTIONS).sum(axis=0)
    half = weighted.section_half(parts, found, confidence)
    slope = np.zeros(value.size)
    slope[[top, bottom]] = 1.0 / value[bottom], -found / value[bottom]
    error = float(np.sqrt(max(slope @ covariance @ slope, 0.0)))
    return Estimate(found, error, found + min(low, -half), found + max(high, half), note="bootstrap-t")


def tail(acc: Accumulator, level: float, confidence: float = 0.95) -> Tail:
    """Value-at-risk and expected shortfall: exact from the reservoir where it reaches, else to 0.1 % from the histogram.

    The histogram knows neither batches nor groups: the interval of a shortfall from it is that of the delta method alone, and
    under a mixture of laws errors are those of paths whose law is drawn as well, which is more.

    **Raises:** `InputError` if neither reaches so deep.
    """
    alpha, n = measures.tail_share(level), acc.paths
    kept = acc.reservoir
    used = kept.value > -np.inf
    weight = np.exp(kept.log_weight[used])
    whole = n <= kept.value.size
    reach = float(weight.sum()) / n
    spread = np.sqrt(max(float(weight @ weight) / n - reach**2, 0.0) / n)
    if whole or reach > alpha + measures.two_sided(confidence) * spread:
        floor = float(kept.value[used].min()) if whole else 0.0
        place, groups = kept.place[used], acc.plan.groups
        ranked = Ranked(kept.value[used], weight, place % acc.plan.batches, n, floor, place // GROUP % groups, groups)
        return weighted.tail_from(ranked, level, confidence, acc.plan.batches)
    if not acc.plan.lowest:
        raise InputError(
            f"reservoir = {kept.value.size}: reaches {reach:.2g} of the paths, {alpha:.2g} is wanted; keep more"
        )
    return _binned(acc, level, confidence)


def _binned(acc: Accumulator, level: float, confidence: float) -> Tail:
    alpha, z, n = measures.tail_share(level), measures.two_sided(confidence), acc.paths
    sums = acc.histogram[:0:-1]  # from the largest bin down, without the atom
    w, square, wx, square_x, square_xx = sums.T
    above = np.cumsum(w) / n
    v, place = _inside(acc, above, alpha)
    hits = float(w[: place + 1].sum()) ** 2 / max(float(square[: place + 1].sum()), np.finfo(float).tiny)
    if hits < weighted.LEAST_HITS:
        nothing = weighted.refused(weighted.few(hits))
        return Tail(level, nothing, nothing, hits)
    s = float(np.sqrt(max(float(square[:place].sum()) / n - float(above[max(place - 1, 0)]) ** 2, 0.0) / n))
    low, high = _inside(acc, above, alpha + z * s)[0], _inside(acc, above, alpha - z * s)[0]
    one = 0.5 * (_inside(acc, above, alpha - s)[0] - _inside(acc, above, alpha + s)[0])
    inside = alpha - (float(above[place - 1]) if place else 0.0)  # of the bin of v, what lies above v
    upper = _edge(acc, place, upper=True)
    average = float((wx[:place] - v * w[:place]).sum()) / n + inside * 0.5 * max(upper - v, 0.0)
    spread = float((square_xx[:place] - 2.0 * v * square_x[:place] + v**2 * square[:place]).sum())
    error = float(np.sqrt(max(spread / n - average**2, 0.0) / n) / alpha)
    value = v + average / alpha
    note = "atom" if v <= 0.0 else "near_atom" if low <= 0.0 else "from bins of 0.1 %"
    shortfall = Estimate(value, error, max(value - z * error, low), value + z * error, note=note)
    return Tail(level, Estimate(v, one, low, high, note=note), shortfall, hits)


def _edge(acc: Accumulator, place: int, upper: bool) -> float:
    """An edge of the bin at a place counted from the largest bin down; the bin below all is [0, lowest)."""
    edges = np.concatenate([[0.0], histogram.edges(acc.plan.lowest)])
    bottom = edges.size - 1 - place
    return float(edges[min(bottom + upper, edges.size - 1)])


def _inside(acc: Accumulator, above: np.ndarray, alpha: float) -> tuple[float, int]:
    """The value at which the share above is alpha, by linear interpolation in its bin, and the place of the bin."""
    place = int(np.searchsorted(above, alpha * (1.0 - 1e-9)))
    if place >= above.size:
        return 0.0, above.size
    before = float(above[place - 1]) if place else 0.0
    part = (alpha - before) / (float(above[place]) - before)
    low, high = _edge(acc, place, upper=False), _edge(acc, place, upper=True)
    return float(high - min(max(part, 0.0), 1.0) * (high - low)), place


def exact_quantile(acc: Accumulator, level: float, replay: Iterable[tuple[ArrayLike, ArrayLike]]) -> float:
    """The exact value-at-risk from a second pass over the same chunks of (x, log w), which keeps one bin of paths."""
    alpha, n = measures.tail_share(level), acc.paths
    above = np.cumsum(acc.histogram[:0:-1, 0]) / n
    _, place = _inside(acc, above, alpha)
    if place >= above.size:
        return 0.0
    low, high = _edge(acc, place, upper=False), _edge(acc, place, upper=True)
    kept = []
    for x, log_weight in replay:
        x, w = np.asarray(x, float), np.exp(np.asarray(log_weight, float))
        here = np.asarray(x, np.float32).astype(float)
        mine = (here >= low) & (here > 0.0) & ((here < high) | (place == 0))
        kept.append(np.stack([x[mine], w[mine]]))
    value, weight = np.concatenate(kept, axis=1)
    order = np.argsort(-value, kind="stable")
    share = (float(above[place - 1]) if place else 0.0) + np.cumsum(weight[order]) / n
    return float(value[order][min(int(np.searchsorted(share, alpha * (1.0 - 1e-9))), value.size - 1)])


def reservoir_size(paths: int, deepest: float) -> int:
    """1.2 times the paths expected beyond the quantile that reaches a share `deepest` of the sampled paths."""
    return int(np.ceil(1.2 * paths * deepest))


def largest_contributions(acc: Accumulator, row: int) -> np.ndarray:
    """The largest |w f| of a row, largest first."""
    return acc.top[row][acc.top[row] > 0.0] * acc.plan.units[row]
