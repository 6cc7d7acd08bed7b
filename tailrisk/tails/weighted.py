"""Estimates from paths with likelihood ratios: y = w f is averaged, and weights are never normalized by their own sum.

`weights` are dp/dq of the law of interest over the law that paths were drawn from. What fewer than `LEAST_HITS` effective hits
(sum y)^2 / sum y^2 carry gets no value, only what can still be said: an upper bound, or a note.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import special, stats

from . import measures
from .bootstrap import student_interval
from .measures import Estimate
from .moments import Moments, moments_of

LEAST_HITS = 100.0
SKEWED = 0.05  # |skewness| / sqrt(paths) beyond which the normal interval of a mean is replaced
BATCHES = 64  # for the bootstrap of a mean
SECTIONS = 10  # for ratios
_ROUNDING = 1e-9


class Tail(NamedTuple):
    """Value-at-risk and expected shortfall at one level, and the effective hits beyond it."""

    level: float
    quantile: Estimate
    shortfall: Estimate
    hits: float


class Ranked(NamedTuple):
    """The largest of `paths` values, largest first, with weights and a section number.

    `floor` is the smallest value of all paths, where losses have their atom. Each of `groups` groups of equal size holds the
    paths of one law of a mixture.
    """

    value: np.ndarray
    weight: np.ndarray
    section: np.ndarray
    paths: int
    floor: float
    group: np.ndarray
    groups: int


def _columns(*columns: ArrayLike) -> tuple[list[np.ndarray], str]:
    measured, wrong = measures.sample(*columns)
    if not wrong and np.any(measured[-1] < 0.0):
        wrong = "a weight is negative"
    return measured, wrong


def refused(note: str, bound: float = np.nan) -> Estimate:
    """No value; `high` is what can still be said."""
    return Estimate(np.nan, np.nan, 0.0 if np.isfinite(bound) else np.nan, bound, note=note)


def few(hits: float) -> str:
    """The sentence of a refusal."""
    return f"{hits:.1f} effective hits, {LEAST_HITS:g} are needed"


def probability(
    hit: ArrayLike, weights: ArrayLike, confidence: float = 0.95, *, nominal: ArrayLike | None = None
) -> Estimate:
    """Probability mean(w 1{hit}) with its interval on the log scale, p exp(+- z se/p).

    Weights that are all one give the interval of Clopper and Pearson. `nominal` marks paths drawn from the law of interest
    itself (a defensive share): with too few effective hits they alone give the upper bound, 3/(their number) without a hit.
    """
    hit = np.asarray(hit)
    if hit.dtype != bool:
        raise ValueError(f"hit is {hit.dtype}: expected one Boolean per path")
    (inside, weight), wrong = _columns(hit, weights)
    if wrong:
        return refused(wrong)
    if np.all(weight == 1.0):
        return measures.probability(hit, confidence)
    moments = moments_of(inside * weight)
    bound = 1.0
    if nominal is not None:
        drawn = np.asarray(nominal, bool)
        bound = one_sided(int(np.count_nonzero(hit & drawn)), int(np.count_nonzero(drawn)), confidence)
    return probability_from(moments, float(moments.std_error), confidence, bound)


def probability_from(moments: Moments, error: float, confidence: float = 0.95, bound: float = 1.0) -> Estimate:
    """The probability from the moments of w 1{hit} and its standard error; `bound` is reported when it is refused."""
    hits = float(moments.effective_hits)
    if hits < LEAST_HITS:
        return refused(few(hits), bound)
    p = float(moments.mean)
    factor = float(np.exp(measures.two_sided(confidence) * error / p))
    return Estimate(p, error, p / factor, min(p * factor, 1.0))


def one_sided(count: int, paths: int, confidence: float = 0.95) -> float:
    """The p with P(X <= count; p) = 1 - confidence: an upper bound from plain paths."""
    return float(special.betaincinv(count + 1.0, paths - count, confidence)) if paths > count else 1.0


def exhaustion(loss: ArrayLike, weights: ArrayLike, fund: float, confidence: float = 0.95) -> Estimate:
    """Probability that a loss exceeds the fund."""
    return probability(np.asarray(loss, float) > fund, weights, confidence)


def mean(x: ArrayLike, weights: ArrayLike, confidence: float = 0.95) -> Estimate:
    """Mean of w x: normal interval, or bootstrap-t over batches where |skewness|/sqrt(paths) exceeds `SKEWED`."""
    (x, weight), wrong = _columns(x, weights)
    if wrong:
        return refused(wrong)
    y = x * weight
    whole = y[: y.size - y.size % BATCHES].reshape(-1, BATCHES).mean(axis=0) if y.size >= BATCHES else y
    moments = moments_of(y)
    return mean_from(moments, float(moments.std_error), whole, confidence)


def mean_from(moments: Moments, error: float, batch_means: np.ndarray, confidence: float = 0.95) -> Estimate:
    """The mean from the moments of w x, its standard error, and the means of batches of one size."""
    hits, value = float(moments.effective_hits), float(moments.mean)
    if hits < LEAST_HITS:
        return refused(few(hits))
    low, high, note = _interval(moments, error, batch_means, confidence)
    return Estimate(value, error, low, high, note=note)


def _interval(moments: Moments, error: float, batch_means: np.ndarray, confidence: float) -> tuple[float, float, str]:
    """The ends of a mean's interval, and how it was made if not by a normal law."""
    if abs(float(moments.skewness)) > SKEWED * np.sqrt(float(moments.count)):
        return *student_interval(batch_means, confidence), "bootstrap-t"
    half = measures.two_sided(confidence) * error
    return float(moments.mean) - half, float(moments.mean) + half, ""


def ratio(x: ArrayLike, y: ArrayLike, weights: ArrayLike, confidence: float = 0.95) -> Estimate:
    """R = E[w x]/E[w y] by the delta method on w (x - R y), widened to the interval of sections where that is larger."""
    (x, y, weight), wrong = _columns(x, y, weights)
    if wrong:
        return refused(wrong)
    a, b = x * weight, y * weight
    hits = min(float(moments_of(a).effective_hits), float(moments_of(b).effective_hits))
    if hits < LEAST_HITS:
        return refused(few(hits))
    delta = measures.ratio_of_means(a, b, confidence)
    if not np.isfinite(delta.low):
        return delta
    parts = np.array([a[i::SECTIONS].mean() / b[i::SECTIONS].mean() for i in range(SECTIONS)])
    half = section_half(parts, delta.value, confidence)
    return delta._replace(low=min(delta.low, delta.value - half), high=max(delta.high, delta.value + half))


def section_half(parts: np.ndarray, center: float, confidence: float) -> float:
    """Half the t interval around `center` from the estimates of independent sections."""
    n = parts.size
    spread = np.sqrt(np.sum((parts - center) ** 2) / (n - 1) / n)
    return float(spread * stats.t.ppf(0.5 + 0.5 * confidence, n - 1))


def quantile(x: ArrayLike, weights: ArrayLike, level: float, confidence: float = 0.95) -> Estimate:
    """Value-at-risk: the largest v with (1/N) sum w 1{x >= v} >= 1 - level; see `tails`."""
    return tails(x, weights, [level], confidence)[0].quantile


def expected_shortfall(x: ArrayLike, weights: ArrayLike, level: float, confidence: float = 0.95) -> Estimate:
    """Expected shortfall v + sum w (x - v)+ / (N (1 - level)), v the value-at-risk; see `tails`."""
    return tails(x, weights, [level], confidence)[0].shortfall


def tails(x: ArrayLike, weights: ArrayLike, levels: ArrayLike, confidence: float = 0.95) -> list[Tail]:
    """Value-at-risk and expected shortfall at several levels from one run; each level may be refused alone.

    The interval of the quantile inverts P(x >= v) at alpha +- z s, s the standard error of P at the estimate, so it needs no
    density. That of the shortfall is the interval of a mean, because the derivative in v vanishes; the larger of it and that of
    ten sections would hold 97 times of 100 where 95 are asked.

    **Source:** Glynn (1996), "Importance sampling for Monte Carlo estimation of quantiles"; Woodruff (1952) for the
    inversion; Rockafellar and Uryasev (2000) for the shortfall.
    """
    levels = np.atleast_1d(np.asarray(levels, float))
    (x, weight), wrong = _columns(x, weights)
    if wrong:
        return [Tail(float(q), refused(wrong), refused(wrong), 0.0) for q in levels]
    order = np.argsort(-x, kind="stable")
    one = np.zeros(x.size, int)
    ranked = Ranked(x[order], weight[order], order % BATCHES, x.size, float(x[order[-1]]), one, 1)
    return [tail_from(ranked, float(level), confidence) for level in levels]


def tail_from(ranked: Ranked, level: float, confidence: float = 0.95, sections: int = BATCHES) -> Tail:
    """Both measures at one level from the largest values of a sample."""
    alpha, z = measures.tail_share(level), measures.two_sided(confidence)
    x, n = ranked.value, ranked.paths
    above = np.cumsum(ranked.weight) / n
    v = _invert(x, above, alpha)
    y = ranked.weight[x >= v if v > ranked.floor else x > v]
    square = float(y @ y)
    hits = float(y.sum()) ** 2 / square if square > 0.0 else 0.0
    if hits < LEAST_HITS:
        return Tail(level, refused(few(hits)), refused(few(hits)), hits)
    p, s = _mean(ranked, ranked.weight * (x > v))
    low, high = _invert(x, above, alpha + z * s), _invert(x, above, alpha - z * s)
    one = 0.5 * (_invert(x, above, alpha - s) - _invert(x, above, alpha + s))
    note = ""
    if v <= ranked.floor:
        note = "atom" if p + z * s < alpha else "near_atom"
    elif low <= ranked.floor:
        note = "near_atom"
    value = Estimate(v, one, low, high, note=note)
    return Tail(level, value, _shortfall(ranked, value, alpha, confidence, sections), hits)


def _mean(ranked: Ranked, y: np.ndarray) -> tuple[float, float]:
    """Mean over all paths of what is y for those that were kept and zero for others, and its standard error within groups."""
    size = ranked.paths / ranked.groups
    one, two = (np.bincount(ranked.group, power, ranked.groups) for power in (y, y * y))
    spread = float(np.sum(np.maximum(two - one**2 / size, 0.0))) * size / max(size - 1.0, 1.0)
    return float(one.sum()) / ranked.paths, math.sqrt(spread) / ranked.paths


def _invert(x: np.ndarray, above: np.ndarray, alpha: float) -> float:
    """The first value, from the top, at which the share above reaches alpha; beyond the last one, the smallest."""
    place = int(np.searchsorted(above, alpha * (1.0 - _ROUNDING)))
    return float(x[min(place, x.size - 1)])


def _shortfall(ranked: Ranked, at: Estimate, alpha: float, confidence: float, sections: int) -> Estimate:
    """The mean of v + w (x - v)+/alpha at the estimated v, in which its derivative vanishes."""
    n, v = ranked.paths, at.value
    y = ranked.weight * np.maximum(ranked.value - v, 0.0) / alpha
    average, error = _mean(ranked, y)
    batches = np.bincount(ranked.section, y, sections) * (sections / n)
    low, high, _ = _interval(moments_of(np.pad(y, (0, n - y.size))), error, batches, confidence)
    return Estimate(v + average, error, max(v + low, at.low), v + high, note=at.note)
