"""Profile-likelihood intervals of a generalized Pareto fit.

An extrapolated level has a likelihood that is far from symmetric: with 100 excesses and a level exceeded 1,000 times more rarely
than the threshold, delta-method intervals of 95 % cover 0.83 and miss low, while those of the profile cover 0.95.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import optimize, stats

from ..measures import Estimate
from .gpd import HEAVIEST, IMPOSSIBLE, STEEPEST, Fit, log_likelihood, quantile_factor, shortfall_factor
from .gpd import _ratio as exceedance_ratio

GRID = 48
FARTHEST = 1e12  # times the estimate: beyond, an end is infinite
_root: Any = optimize.brentq
Factor = Callable[[np.ndarray, float], np.ndarray]


def two_sided(confidence: float) -> float:
    """The normal quantile of a two-sided interval."""
    return float(stats.norm.ppf(0.5 + 0.5 * confidence))


def allowed_drop(fit: Fit, confidence: float) -> float:
    """Twice the fall of the log-likelihood that an interval allows: the F(1, n - 2) quantile.

    The chi-square quantile is its limit; with 100 excesses it covers 0.93 instead of 0.95 for shapes from -0.2 to 0, the
    F quantile half a percentage point more.
    """
    return float(stats.f.ppf(confidence, 1, max(fit.excesses.size - 2.0, 1.0)))


def shape(fit: Fit, confidence: float = 0.95) -> Estimate:
    """The shape with its interval."""

    def best(xi: float) -> float:
        return likelihood_of_shape(fit, xi)

    low = _end(best, fit, fit.shape, lambda k: max(fit.shape - 0.05 * 2.0**k, STEEPEST), confidence)
    high = _end(best, fit, fit.shape, lambda k: min(fit.shape + 0.05 * 2.0**k, HEAVIEST), confidence)
    return Estimate(fit.shape, fit.std_errors[0], low, high)


def likelihood_of_shape(fit: Fit, xi: float) -> float:
    """Largest log-likelihood among laws of one shape."""
    data = fit.excesses
    least = max(-xi * float(data.value[-1]) * (1.0 + 1e-9), 1e-6 * fit.scale)
    bounds = (np.log(least), np.log(max(least, fit.scale) * 1e3))
    found: Any = optimize.minimize_scalar(
        lambda b: min(-float(log_likelihood(xi, np.exp(b), data)), IMPOSSIBLE), bounds=bounds, method="bounded"
    )
    return -float(found.fun)


def value_at_risk(fit: Fit, level: float, confidence: float = 0.95) -> Estimate:
    """The quantile beyond the threshold, with its interval; the share above the threshold counts as known."""
    return _level(fit, level, confidence, quantile_factor)


def expected_shortfall(fit: Fit, level: float, confidence: float = 0.95) -> Estimate:
    """The mean beyond that quantile; its upper end is infinite where the data allow a shape of one."""
    return _level(fit, level, confidence, shortfall_factor)


def likelihood_of_level(fit: Fit, value: float, level: float, factor: Factor) -> float:
    """Largest log-likelihood among laws whose measure at `level` is `value`: scale = (value - threshold)/factor(shape)."""
    ratio, data = exceedance_ratio(fit.excesses.share, level), fit.excesses
    top = HEAVIEST if factor is quantile_factor else 1.0 - 1e-9
    grid = np.linspace(STEEPEST, top, GRID)

    def along(xi: Any) -> Any:
        return np.maximum(log_likelihood(xi, (value - data.threshold) / factor(xi, ratio), data), -IMPOSSIBLE)

    found = along(grid)
    place = int(np.argmax(found))
    ends = float(grid[max(place - 1, 0)]), float(grid[min(place + 1, GRID - 1)])
    best: Any = optimize.minimize_scalar(lambda xi: -float(along(np.asarray(xi))), bounds=ends, method="bounded")
    return max(-float(best.fun), float(found[place]))


def _level(fit: Fit, level: float, confidence: float, factor: Factor) -> Estimate:
    u = fit.excesses.threshold
    ratio = exceedance_ratio(fit.excesses.share, level)
    reach = fit.scale * float(factor(np.asarray(fit.shape), ratio))
    if not np.isfinite(reach):
        return Estimate(np.inf, np.nan, np.nan, np.inf, note="the fitted law has no mean")

    def best(value: float) -> float:
        return likelihood_of_level(fit, value, level, factor)

    low = _end(best, fit, u + reach, lambda k: u + reach / (1.0 + 0.1 * 2.0**k), confidence)
    drop = allowed_drop(fit, confidence)
    if factor is shortfall_factor and 2.0 * (fit.log_likelihood - likelihood_of_shape(fit, 1.0)) < drop:
        high = np.inf  # all laws of shape one and more have it
    else:
        high = _end(best, fit, u + reach, lambda k: u + reach * (1.0 + 0.1 * 2.0**k), confidence)
    return Estimate(u + reach, _delta(fit, ratio, factor), low, high)


def _delta(fit: Fit, ratio: float, factor: Factor) -> float:
    """Standard error by the delta method, for display."""
    step = 1e-5
    slope = float(factor(np.asarray(fit.shape + step), ratio) - factor(np.asarray(fit.shape - step), ratio)) / (
        2 * step
    )
    gradient = np.array([fit.scale * slope, float(factor(np.asarray(fit.shape), ratio))])
    return float(np.sqrt(max(gradient @ fit.covariance @ gradient, 0.0)))


def _end(
    best: Callable[[float], float], fit: Fit, start: float, outward: Callable[[int], float], confidence: float
) -> float:
    """Where twice the fall of the profile from its maximum reaches the chi-square quantile, in one direction."""
    drop = allowed_drop(fit, confidence)

    def excess(value: float) -> float:
        return 2.0 * (fit.log_likelihood - best(value)) - drop

    inside = start
    for k in range(60):
        outside = outward(k)
        if outside == inside:
            return outside
        if abs(outside) > FARTHEST * max(abs(start), 1.0):
            return float(np.copysign(np.inf, outside - start))
        if excess(outside) > 0.0:
            return float(_root(excess, inside, outside, xtol=1e-9 * max(abs(start), 1e-3), rtol=1e-7))
        inside = outside
    return inside
