"""Where a tail begins: goodness of fit over thresholds, and the data of mean-excess, stability and Hill plots."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from ..._fields import InputError
from ..tail_index import pareto_fit
from . import gpd, profile

REPLICATES = 999
MOST_SIMULATED = 300  # excesses per simulated sample: the laws of both statistics hardly depend on their number beyond
_BLOCK = 2_000_000  # numbers held at a time


class Goodness(NamedTuple):
    """Anderson-Darling and Cramer-von Mises statistics of the excesses over one threshold, and their p-values."""

    threshold: float
    excesses: int
    shape: float
    anderson_darling: float
    cramer_von_mises: float
    p_anderson_darling: float
    p_cramer_von_mises: float


class Choice(NamedTuple):
    """Tests of all thresholds, ascending, and the first one at which the generalized Pareto law is not rejected, or nan."""

    tests: tuple[Goodness, ...]
    threshold: float


def goodness(x: ArrayLike, threshold: float, *, replicates: int = REPLICATES, seed: int = 0) -> Goodness:
    """Tests that excesses over a threshold follow a generalized Pareto law with fitted parameters.

    The p-values come from samples of the fitted law that are fitted again, since fitting shrinks both statistics.

    **Source:** Choulakian and Stephens (2001), "Goodness-of-fit tests for the generalized Pareto distribution".
    """
    y = gpd.excesses(x, threshold).value
    if np.ptp(y) == 0.0:
        raise InputError(f"threshold = {threshold:g}: all {y.size} excesses are equal; expected continuous values")
    shape, scale = (float(v) for v in pareto_fit(y))
    found = _distances(y[None, :])
    n, rng = min(y.size, MOST_SIMULATED), np.random.default_rng(seed)
    rows = max(1, _BLOCK // (n * (30 + int(np.sqrt(n)))))
    simulated = []
    for first in range(0, replicates, rows):
        u = rng.random((min(rows, replicates - first), n))
        log = np.log(u)
        drawn = -scale * log if abs(shape) < 1e-6 else scale * np.expm1(-shape * log) / shape
        simulated.append(_distances(np.sort(drawn, axis=1)))
    beyond = [
        (1 + np.count_nonzero(np.concatenate([s[i] for s in simulated]) >= found[i][0])) / (1 + replicates)
        for i in (0, 1)
    ]
    return Goodness(
        float(threshold), y.size, shape, float(found[0][0]), float(found[1][0]), float(beyond[0]), float(beyond[1])
    )


def _distances(y: Float[np.ndarray, "samples n"]) -> tuple[np.ndarray, np.ndarray]:
    """Anderson-Darling and Cramer-von Mises distances of sorted samples from the laws fitted to them."""
    shape, scale = (v[:, None] for v in pareto_fit(y))
    near = np.abs(shape) < 1e-6
    with np.errstate(invalid="ignore", divide="ignore"):
        base = np.maximum(1.0 + shape * y / scale, 0.0)
        log_above = np.where(near, -y / scale, -np.log(base) / np.where(near, 1.0, shape))
    log_above = np.clip(log_above, -700.0, -1e-15)
    n = y.shape[1]
    i = np.arange(1, n + 1)
    below = -np.expm1(log_above)
    anderson = -n - np.mean((2 * i - 1) * (np.log(below) + log_above[:, ::-1]), axis=1)
    cramer = np.sum((below - (2 * i - 1) / (2 * n)) ** 2, axis=1) + 1.0 / (12 * n)
    return anderson, cramer


def choose(
    x: ArrayLike, thresholds: ArrayLike, rate: float = 0.1, *, replicates: int = REPLICATES, seed: int = 0
) -> Choice:
    """The lowest threshold above all that are rejected, by the Anderson-Darling test, with a false-discovery rate.

    The first k thresholds are rejected for the largest k with -(1/k) sum_{i <= k} ln(1 - p_i) <= rate.

    **Source:** Bader, Yan, Zhang (2018), "Automated threshold selection for extreme value analysis via ordered
    goodness-of-fit tests with adjustment for false discovery rate"; G'Sell et al. (2016) for the rule.
    """
    levels = np.sort(np.atleast_1d(np.asarray(thresholds, float)))
    tests = tuple(goodness(x, float(u), replicates=replicates, seed=seed + i) for i, u in enumerate(levels))
    p = np.array([test.p_anderson_darling for test in tests])
    rejected = rejected_in_order(p, rate)
    return Choice(tests, float(levels[rejected]) if rejected < levels.size else float("nan"))


def rejected_in_order(p: Float[np.ndarray, " tests"], rate: float) -> int:
    """How many of the first ordered hypotheses are rejected."""
    average = np.cumsum(-np.log1p(-np.minimum(p, 1.0 - 1e-12))) / np.arange(1, p.size + 1)
    passing = np.flatnonzero(average <= rate)
    return int(passing[-1]) + 1 if passing.size else 0


class Curve(NamedTuple):
    """A curve with pointwise limits over thresholds or ranks."""

    at: np.ndarray
    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


def mean_excess(x: ArrayLike, thresholds: ArrayLike, confidence: float = 0.95) -> Curve:
    """Mean of X - u given X > u: a straight line of slope xi/(1 - xi) where the generalized Pareto law holds."""
    x = np.asarray(x, float).reshape(-1)
    z = profile.two_sided(confidence)
    rows = []
    for u in np.atleast_1d(np.asarray(thresholds, float)):
        y = gpd.excesses(x, float(u)).value
        half = z * float(y.std(ddof=1)) / np.sqrt(y.size)
        rows.append((u, y.mean(), y.mean() - half, y.mean() + half))
    return Curve(*(np.array(column) for column in zip(*rows, strict=True)))


def stability(x: ArrayLike, thresholds: ArrayLike, confidence: float = 0.95) -> tuple[Curve, Curve]:
    """Shape (profile limits) and modified scale (normal limits) over thresholds: both level off where the law holds."""
    z = profile.two_sided(confidence)
    shapes, scales = [], []
    levels = np.atleast_1d(np.asarray(thresholds, float))
    for u in levels:
        fit = gpd.maximum_likelihood(gpd.excesses(x, float(u)))
        estimate = profile.shape(fit, confidence)
        value, error = fit.modified_scale
        shapes.append((u, estimate.value, estimate.low, estimate.high))
        scales.append((u, value, value - z * error, value + z * error))
    shape, scale = (Curve(*(np.array(c) for c in zip(*rows, strict=True))) for rows in (shapes, scales))
    return shape, scale


def hill(x: ArrayLike, ranks: ArrayLike, confidence: float = 0.95) -> Curve:
    """Mean of ln X_(i) - ln X_(k) over the k - 1 values above the k-th largest: 1/index of a power tail, over k.

    **Source:** Hill (1975). A plot, not an estimate: the value depends on k.
    """
    top = np.sort(np.asarray(x, float).reshape(-1))[::-1]
    k = np.atleast_1d(np.asarray(ranks, int))
    positive = int(np.count_nonzero(top > 0.0))
    if k.min() < 2 or k.max() > positive:
        raise InputError(
            f"ranks from {k.min()} to {k.max()}: expected from 2 to {positive}, the number of positive values"
        )
    logs = np.log(top[: k.max()])
    value = np.cumsum(logs)[k - 2] / (k - 1) - logs[k - 1]
    half = profile.two_sided(confidence) * value / np.sqrt(k - 1)
    return Curve(k.astype(float), value, value - half, value + half)
