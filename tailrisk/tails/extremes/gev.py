"""Block maxima: the generalized extreme-value law, its fits and return levels.

P(M <= x) = exp(-(1 + xi (x - mu)/sigma)^(-1/xi)); a share p of blocks exceeds mu + (sigma/xi) ((-ln(1 - p))^-xi - 1).
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy import optimize, special, stats

from ..._fields import InputError
from ..measures import Estimate
from .gpd import IMPOSSIBLE

LEAST = 20  # blocks
_NEAR = 1e-6
_root: Any = optimize.brentq
_OPTIONS = {"xatol": 1e-8, "fatol": 1e-8, "maxiter": 8000}


class Fit(NamedTuple):
    """Location, scale and shape with their covariance."""

    location: float
    scale: float
    shape: float
    covariance: np.ndarray
    log_likelihood: float
    maxima: np.ndarray

    @property
    def std_errors(self) -> tuple[float, float, float]:
        """Of location, scale and shape."""
        a, b, c = np.sqrt(np.diag(self.covariance))
        return float(a), float(b), float(c)


def block_maxima(x: ArrayLike, block: int) -> Float[np.ndarray, " blocks"]:
    """The largest value of every whole block of a series."""
    x = np.asarray(x, float).reshape(-1)
    if block < 1 or x.size < block:
        raise InputError(f"block = {block}: expected from 1 to {x.size}, the number of values")
    return x[: x.size - x.size % block].reshape(-1, block).max(axis=1)


def return_level(location: float, scale: float, shape: float, p: float) -> float:
    """The level that the maximum of a block exceeds with probability p."""
    return location + scale * _reach(shape, p)


def _reach(shape: float, p: float) -> float:
    rate = -np.log1p(-p)
    return float(-np.log(rate) if abs(shape) < _NEAR else np.expm1(-shape * np.log(rate)) / shape)


def log_likelihood(location: float, scale: float, shape: float, maxima: np.ndarray) -> float:
    """Log-likelihood of block maxima; -inf outside the support."""
    if scale <= 0.0:
        return -np.inf
    z = (maxima - location) / scale
    if abs(shape) < _NEAR:
        return float(-maxima.size * np.log(scale) - np.sum(z + np.exp(-z)))
    if np.any(1.0 + shape * z <= 0.0):
        return -np.inf
    log = np.log1p(shape * z) / shape
    return float(-maxima.size * np.log(scale) - np.sum((1.0 + shape) * log + np.exp(-log)))


def probability_weighted_moments(maxima: ArrayLike) -> tuple[float, float, float]:
    """(location, scale, shape) from the first three probability-weighted moments.

    **Source:** Hosking, Wallis, Wood (1985), "Estimation of the generalized extreme-value distribution by the method of
    probability-weighted moments".
    """
    x = np.sort(np.asarray(maxima, float))
    n, i = x.size, np.arange(x.size)
    b0, b1 = float(x.mean()), float((x * i).sum() / n / (n - 1))
    b2 = float((x * i * (i - 1)).sum() / n / (n - 1) / (n - 2))
    c = (2.0 * b1 - b0) / (3.0 * b2 - b0) - np.log(2.0) / np.log(3.0)
    k = float(7.8590 * c + 2.9554 * c**2)
    k = k if abs(k) > _NEAR else _NEAR
    gamma = float(special.gamma(1.0 + k))
    scale = (2.0 * b1 - b0) * k / (gamma * (1.0 - 2.0**-k))
    return b0 + scale * (gamma - 1.0) / k, scale, -k


def maximum_likelihood(maxima: ArrayLike) -> Fit:
    """Fit by maximum likelihood, the better of two starts (probability-weighted moments and a Gumbel law)."""
    x = np.asarray(maxima, float).reshape(-1)
    if x.size < LEAST:
        raise InputError(f"{x.size} block maxima: expected at least {LEAST}; use shorter blocks")
    spread = float(x.std()) * np.sqrt(6.0) / np.pi
    gumbel = (float(x.mean()) - 0.5772 * spread, spread, 0.01)
    starts = [(m, np.log(s), k) for m, s, k in (probability_weighted_moments(x), gumbel)]

    def cost(p: np.ndarray) -> float:
        return min(-log_likelihood(p[0], np.exp(p[1]), p[2], x) if -0.95 < p[2] < 4.0 else IMPOSSIBLE, IMPOSSIBLE)

    runs = [optimize.minimize(cost, s, method="Nelder-Mead", options=_OPTIONS) for s in starts]
    found = min(runs, key=lambda o: o.fun)
    point = np.array([found.x[0], np.exp(found.x[1]), found.x[2]])
    location, scale, shape = (float(value) for value in point)
    return Fit(location, scale, shape, np.linalg.inv(_information(point, x)), -float(found.fun), x)


def _information(point: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Minus the second derivatives, by central differences of the log-likelihood."""
    steps = np.array([point[1], point[1], 1.0]) * 1e-4
    out = np.zeros((3, 3))
    for i in range(3):
        for j in range(3):
            total = 0.0
            for a in (1, -1):
                for b in (1, -1):
                    moved = point.copy()
                    moved[i] += a * steps[i]
                    moved[j] += b * steps[j]
                    total += a * b * log_likelihood(moved[0], moved[1], moved[2], x)
            out[i, j] = -total / (4.0 * steps[i] * steps[j])
    return out


def return_level_interval(fit: Fit, p: float, confidence: float = 0.95) -> Estimate:
    """The return level with its profile-likelihood interval: location = level - scale ((-ln(1 - p))^-shape - 1)/shape."""
    center = return_level(fit.location, fit.scale, fit.shape, p)
    drop = float(stats.chi2.ppf(confidence, 1))
    warm = np.array([np.log(fit.scale), fit.shape])

    def excess(level: float) -> float:
        nonlocal warm

        def cost(q: np.ndarray) -> float:
            scale = np.exp(q[0])
            likelihood = log_likelihood(level - scale * _reach(q[1], p), scale, q[1], fit.maxima)
            return min(-likelihood if -0.95 < q[1] < 4.0 else IMPOSSIBLE, IMPOSSIBLE)

        options = {"xatol": 1e-6, "fatol": 1e-7, "maxiter": 4000}
        starts = (warm, np.array([np.log(fit.scale), fit.shape]))
        found = min((optimize.minimize(cost, s, method="Nelder-Mead", options=options) for s in starts), key=_cost)
        warm = found.x
        return 2.0 * (fit.log_likelihood + float(found.fun)) - drop

    ends = []
    for side in (-1.0, 1.0):
        warm, inside, step = np.array([np.log(fit.scale), fit.shape]), center, 0.2 * fit.scale
        while excess(outside := inside + side * step) < 0.0:
            inside, step = outside, 2.0 * step
        ends.append(float(_root(excess, inside, outside, xtol=1e-7 * fit.scale, rtol=1e-7)))
    slope = np.array([_moved(fit, p, i) for i in range(3)])
    return Estimate(center, float(np.sqrt(slope @ fit.covariance @ slope)), ends[0], ends[1])


def _cost(found: Any) -> float:
    return float(found.fun)


def _moved(fit: Fit, p: float, i: int) -> float:
    """Derivative of the return level in parameter i, by central differences."""
    point, h = np.array([fit.location, fit.scale, fit.shape]), 1e-5
    ends = []
    for moved in (point + h * np.eye(3)[i], point - h * np.eye(3)[i]):
        ends.append(return_level(float(moved[0]), float(moved[1]), float(moved[2]), p))
    return (ends[0] - ends[1]) / (2.0 * h)
