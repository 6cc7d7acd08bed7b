"""Peaks over a threshold: the generalized Pareto law of excesses, its fits and its extrapolations.

P(Y > y) = (1 + xi y/beta)^(-1/xi), and exp(-y/beta) for xi = 0. The fit answers how a tail goes on if it goes on as it began;
beyond the data that is an assumption, so it serves as a check of other estimates and not as the estimate.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy import optimize

from ..._fields import InputError

LEAST = 20  # excesses
STEEPEST, HEAVIEST = -0.95, 4.0  # shapes searched: below -1 the likelihood has no maximum
IMPOSSIBLE = 1e300  # cost outside the support: finite, so that a search may subtract it
_NEAR = 1e-6  # |xi| below which the exponential limit is used
_FLAT = 1e-3  # |xi| below which the information is taken there: its terms cancel like eps/xi^3


class Excesses(NamedTuple):
    """Excesses over a threshold, ascending; `weight` sums to their effective number, `share` is P(X > threshold)."""

    value: np.ndarray
    weight: np.ndarray
    threshold: float
    share: float

    @property
    def size(self) -> float:
        """Effective number of excesses."""
        return float(self.weight.sum())


class Fit(NamedTuple):
    """A fitted law with the covariance of (shape, scale)."""

    shape: float
    scale: float
    covariance: np.ndarray
    log_likelihood: float
    excesses: Excesses

    @property
    def std_errors(self) -> tuple[float, float]:
        """Of shape and scale."""
        return float(np.sqrt(self.covariance[0, 0])), float(np.sqrt(self.covariance[1, 1]))

    @property
    def modified_scale(self) -> tuple[float, float]:
        """scale - shape * threshold, the same for all thresholds in the tail, and its standard error."""
        u, c = self.excesses.threshold, self.covariance
        variance = c[1, 1] - 2.0 * u * c[0, 1] + u**2 * c[0, 0]
        return self.scale - self.shape * u, float(np.sqrt(max(variance, 0.0)))


def excesses(x: ArrayLike, threshold: float, weights: ArrayLike | None = None) -> Excesses:
    """What of a sample lies above a threshold, with likelihood ratios if the sample was drawn under another law.

    Weights enter the likelihood normalized to their effective number (sum w)^2 / sum w^2.
    """
    x = np.asarray(x, float).reshape(-1)
    w = np.ones(x.size) if weights is None else np.asarray(weights, float).reshape(-1)
    if w.size != x.size:
        raise InputError(f"weights: {w.size} for {x.size} values; expected one each")
    above = x > threshold
    if np.count_nonzero(above) < LEAST:
        raise InputError(
            f"threshold = {threshold:g}: {np.count_nonzero(above)} values above, expected at least {LEAST}"
        )
    order = np.argsort(x[above])
    value, weight = x[above][order] - threshold, w[above][order]
    share = float(weight.sum()) / x.size
    return Excesses(value, weight * (float(weight.sum()) / float(weight @ weight)), float(threshold), share)


def log_likelihood(shape: ArrayLike, scale: ArrayLike, data: Excesses) -> Float[np.ndarray, "..."]:
    """Weighted log-likelihood, elementwise over shapes and scales; -inf outside the support."""
    xi, beta = (a[..., None] for a in np.broadcast_arrays(np.asarray(shape, float), np.asarray(scale, float)))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        z = data.value / beta
        inside = np.where(np.abs(xi) < _NEAR, z, (1.0 + 1.0 / xi) * np.log1p(xi * z))
        sums = -(np.log(beta) + inside) @ data.weight
    return np.asarray(np.where(np.isfinite(sums) & (beta[..., 0] > 0.0), sums, -np.inf))


def observed_information(shape: float, scale: float, data: Excesses) -> Float[np.ndarray, "2 2"]:
    """Minus the second derivatives of the log-likelihood in (shape, scale)."""
    xi = shape if abs(shape) >= _FLAT else _FLAT
    z, w = data.value / scale, data.weight
    a = 1.0 + xi * z
    ratio = z / a
    shapes = -2.0 * np.log(a) / xi**3 + 2.0 * ratio / xi**2 + (1.0 + 1.0 / xi) * ratio**2
    mixed = (ratio - (1.0 + xi) * ratio**2) / scale
    scales = (1.0 - (1.0 + xi) * ratio * (1.0 + 1.0 / a)) / scale**2
    return -np.array([[w @ shapes, w @ mixed], [w @ mixed, w @ scales]])


def probability_weighted_moments(data: Excesses) -> Fit:
    """Fit by probability-weighted moments a0 = E[y], a1 = E[y (1 - F(y))]; standard errors hold for shapes below 1/2.

    **Source:** Hosking and Wallis (1987), "Parameter and quantile estimation for the generalized Pareto distribution".
    """
    y, w, n = data.value, data.weight, data.size
    position = (np.cumsum(w) - 0.35 * w) / n
    a0, a1 = float(w @ y) / n, float(w @ (y * (1.0 - position))) / n
    xi, beta = 2.0 - a0 / (a0 - 2.0 * a1), 2.0 * a0 * a1 / (a0 - 2.0 * a1)
    k = -xi
    shapes = (1.0 + k) * (2.0 + k) ** 2 * (1.0 + k + 2.0 * k**2)
    mixed = -beta * (2.0 + k) * (2.0 + 6.0 * k + 7.0 * k**2 + 2.0 * k**3)
    scales = beta**2 * (7.0 + 18.0 * k + 11.0 * k**2 + 2.0 * k**3)
    below = n * (1.0 + 2.0 * k) * (3.0 + 2.0 * k) if xi < 0.5 else np.nan
    covariance = np.array([[shapes, mixed], [mixed, scales]]) / below
    return Fit(xi, beta, covariance, float(log_likelihood(xi, beta, data)), data)


def maximum_likelihood(data: Excesses) -> Fit:
    """Fit by maximum likelihood, the better of two starts (probability-weighted moments and an exponential law).

    **Source:** Smith (1987), "Estimating tails of probability distributions"; regular for shapes above -1/2.
    """
    moments = probability_weighted_moments(data)
    mean = float(data.weight @ data.value) / data.size
    start = float(np.clip(moments.shape, -0.4, 1.0))
    starts = [(start, np.log(max(moments.scale, -1.01 * start * float(data.value[-1])))), (0.01, np.log(mean))]

    def cost(p: np.ndarray) -> float:
        found = -float(log_likelihood(p[0], np.exp(p[1]), data)) if STEEPEST < p[0] < HEAVIEST else IMPOSSIBLE
        return min(found, IMPOSSIBLE)

    options = {"xatol": 1e-9, "fatol": 1e-9, "maxiter": 4000}
    found = min(
        (optimize.minimize(cost, s, method="Nelder-Mead", options=options) for s in starts), key=lambda o: o.fun
    )
    xi, beta = float(found.x[0]), float(np.exp(found.x[1]))
    return Fit(xi, beta, np.linalg.inv(observed_information(xi, beta, data)), -float(found.fun), data)


def _growth(shape: ArrayLike, ratio: float) -> np.ndarray:
    """(ratio^shape - 1)/shape, which is ln ratio at zero."""
    xi = np.asarray(shape, float)
    log = np.log(ratio)
    safe = np.where(np.abs(xi) < _NEAR, 1.0, xi)
    return np.where(np.abs(xi) < _NEAR, log, np.expm1(xi * log) / safe)


def quantile_factor(shape: ArrayLike, ratio: float) -> np.ndarray:
    """(VaR - threshold)/scale where P(X > threshold) is `ratio` times the tail probability."""
    return _growth(shape, ratio)


def shortfall_factor(shape: ArrayLike, ratio: float) -> np.ndarray:
    """(ES - threshold)/scale; infinite for shapes of one and more."""
    xi = np.asarray(shape, float)
    return np.where(xi < 1.0, (_growth(xi, ratio) + 1.0) / np.where(xi < 1.0, 1.0 - xi, 1.0), np.inf)


def value_at_risk(shape: float, scale: float, threshold: float, share: float, level: float) -> float:
    """Quantile beyond the threshold: u + (beta/xi) (((1 - level)/share)^-xi - 1)."""
    return threshold + scale * float(quantile_factor(shape, _ratio(share, level)))


def expected_shortfall(shape: float, scale: float, threshold: float, share: float, level: float) -> float:
    """(VaR + beta - xi u)/(1 - xi)."""
    return threshold + scale * float(shortfall_factor(shape, _ratio(share, level)))


def _ratio(share: float, level: float) -> float:
    if not 0.0 < 1.0 - level <= share:
        raise InputError(f"level = {level}: expected above {1.0 - share:g}, where the threshold lies")
    return share / (1.0 - level)
