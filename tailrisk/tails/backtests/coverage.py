"""Tests of how often and when a value-at-risk is exceeded."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import special, stats

from ..._fields import InputError
from .null import HISTORIES, Verdict, p_value


def kupiec_statistic(count: ArrayLike, days: int, alpha: float) -> np.ndarray:
    """LR = -2 [x ln(alpha T/x) + (T - x) ln((1 - alpha)/(1 - x/T))] of x exceptions in T days."""
    x = np.asarray(count, float)
    share = x / days
    right = special.xlogy(x, alpha) + special.xlog1py(days - x, -alpha)
    best = special.xlogy(x, share) + special.xlog1py(days - x, -share)
    return np.asarray(2.0 * np.maximum(best - right, 0.0))


def kupiec(hits: ArrayLike, alpha: float, rng: np.random.Generator | None = None) -> Verdict:
    """Whether exceptions (..., days) are as many as they should be; the p-value is exact.

    It sums the binomial probabilities of all counts at least as unlikely. With `rng` ties count by chance.

    **Source:** Kupiec (1995), "Techniques for verifying the accuracy of risk measurement models".
    """
    hits = _days(hits)
    days = hits.shape[-1]
    statistic = kupiec_statistic(hits.sum(axis=-1), days, alpha)
    counts = np.arange(days + 1)
    all_statistics, probability = kupiec_statistic(counts, days, alpha), stats.binom.pmf(counts, days, alpha)
    order = np.argsort(all_statistics)
    law, above = all_statistics[order], np.concatenate([np.cumsum(probability[order][::-1])[::-1], [0.0]])
    reached = above[np.searchsorted(law, statistic - 1e-9)]
    beyond = above[np.searchsorted(law, statistic + 1e-9, "right")]
    p = reached if rng is None else beyond + (reached - beyond) * rng.random(statistic.shape)
    return Verdict("kupiec", statistic, np.minimum(p, 1.0), np.asarray(stats.chi2.sf(statistic, 1)))


def independence_statistic(hits: ArrayLike) -> np.ndarray:
    """Likelihood ratio of exceptions that depend on the day before against exceptions that do not."""
    hits = np.asarray(hits, bool)
    before, after = hits[..., :-1], hits[..., 1:]
    n11, n1 = (before & after).sum(axis=-1), before.sum(axis=-1)
    n01 = (~before & after).sum(axis=-1)
    n0 = before.shape[-1] - n1

    def best(k: Any, n: Any) -> Any:
        share = k / np.maximum(n, 1)
        return special.xlogy(k, share) + special.xlog1py(n - k, -share)

    return np.asarray(2.0 * np.maximum(best(n01, n0) + best(n11, n1) - best(n01 + n11, n0 + n1), 0.0))


def conditional_statistic(hits: ArrayLike, alpha: float) -> np.ndarray:
    """Sum of the statistics of count and of independence."""
    hits = np.asarray(hits, bool)
    return np.asarray(kupiec_statistic(hits.sum(axis=-1), hits.shape[-1], alpha) + independence_statistic(hits))


def christoffersen_null(
    days: int, alpha: float, histories: int = HISTORIES, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Simulated statistics of independence and of conditional coverage when exceptions are independent."""
    rng, rows = np.random.default_rng(seed), max(1, 4_000_000 // days)
    parts = []
    for first in range(0, histories, rows):
        hits = rng.random((min(rows, histories - first), days)) < alpha
        parts.append((independence_statistic(hits), conditional_statistic(hits, alpha)))
    independence, conditional = (np.concatenate(column) for column in zip(*parts, strict=True))
    return independence, conditional


def christoffersen(
    hits: ArrayLike, alpha: float, *, histories: int = HISTORIES, seed: int = 0, rng: np.random.Generator | None = None
) -> tuple[Verdict, Verdict]:
    """Whether exceptions (..., days) come independently, and whether they do so and are as many as they should be.

    **Source:** Christoffersen (1998), "Evaluating interval forecasts".
    """
    hits = _days(hits)
    simulated = christoffersen_null(hits.shape[-1], alpha, histories, seed)
    out = []
    for name, statistic, law, freedom in (
        ("independence", independence_statistic(hits), simulated[0], 1),
        ("conditional_coverage", conditional_statistic(hits, alpha), simulated[1], 2),
    ):
        p = p_value(statistic, law, "high", rng)
        out.append(Verdict(name, statistic, p, np.asarray(stats.chi2.sf(statistic, freedom))))
    return out[0], out[1]


def _days(hits: ArrayLike) -> np.ndarray:
    array = np.asarray(hits)
    if array.dtype != bool or array.ndim < 1 or array.shape[-1] < 2:
        raise InputError(
            f"hits are {array.dtype} of shape {array.shape}: expected Booleans (..., days), at least two days"
        )
    return array
