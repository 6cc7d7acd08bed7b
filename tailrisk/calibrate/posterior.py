"""A posterior from simulations alone: prior draws weighted by how near their statistics are to what was observed.

The statistics of an event are observed with normal errors, so the weight of a draw is the density of the observation at its
statistics. That is exact up to the number of draws, which the effective number says; and the same draws check it: each may
play the truth, observed with its errors, and its rank among the others under their posterior must be uniform.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

from .._fields import InputError
from ..tails.measures import Estimate

LEAST = 50.0  # effective draws
_BINS = 10


class Posterior(NamedTuple):
    """Weights of the draws, their effective number, each parameter's posterior and the share of its prior variance left."""

    weights: Float[np.ndarray, " draws"]
    effective: float
    estimates: dict[str, Estimate]
    left: dict[str, float]

    def sample(self, draws: Float[np.ndarray, "draws parameters"], count: int, seed: int = 0) -> np.ndarray:
        """Equally weighted rows of the posterior."""
        return draws[np.random.default_rng(seed).choice(len(draws), count, p=self.weights)]


def _weights(
    statistics: Float[np.ndarray, "draws statistics"], observed: np.ndarray, error: np.ndarray
) -> Float[np.ndarray, " draws"]:
    log = -0.5 * np.sum(((statistics - observed) / error) ** 2, axis=1)
    weight = np.exp(log - log.max())
    return weight / weight.sum()


def posterior(
    draws: Float[np.ndarray, "draws parameters"],
    statistics: Float[np.ndarray, "draws statistics"],
    observed: Float[np.ndarray, " statistics"],
    error: Float[np.ndarray, " statistics"],
    names: tuple[str, ...],
) -> Posterior:
    """The posterior of parameters given statistics observed with normal errors, from draws of the prior.

    **Raises:** `InputError` if fewer than 50 draws are effective: the prior hardly ever makes what was observed.

    **Source:** Rubin (1988), importance resampling; Wood (2010) and Wilkinson (2013) for errors that make it exact.
    """
    if not np.all(np.isfinite(statistics)):
        raise InputError("some draws have statistics that are not finite; choose statistics that every draw has")
    weights = _weights(statistics, observed, error)
    effective = float(1.0 / np.sum(weights**2))
    if effective < LEAST:
        raise InputError(
            f"only {effective:.1f} of {len(draws)} draws are effective, expected at least {LEAST:g}: what was observed is "
            "rare under the prior; draw more, widen the prior or the errors"
        )
    estimates, left = {}, {}
    for k, name in enumerate(names):
        x = draws[:, k]
        mean = float(weights @ x)
        deviation = float(np.sqrt(weights @ (x - mean) ** 2))
        low, high = quantiles(x, weights, (0.025, 0.975))
        estimates[name] = Estimate(mean, deviation, low, high, "1")
        left[name] = deviation**2 / max(float(x.var()), 1e-300)
    return Posterior(weights, effective, estimates, left)


def quantiles(
    x: Float[np.ndarray, " draws"], weights: Float[np.ndarray, " draws"], levels: tuple[float, ...]
) -> list[float]:
    """The smallest draw whose weight and that of all below it reach each level of the whole."""
    return np.quantile(x, levels, weights=weights, method="inverted_cdf").tolist()


class Calibrated(NamedTuple):
    """Ranks of truths in (0, 1), (truths, parameters), and p-values that they are uniform."""

    ranks: Float[np.ndarray, "truths parameters"]
    p_values: dict[str, float]
    effective: float  # median over truths


def simulation_based_check(
    draws: Float[np.ndarray, "draws parameters"],
    statistics: Float[np.ndarray, "draws statistics"],
    error: Float[np.ndarray, " statistics"],
    names: tuple[str, ...],
    truths: int = 300,
    seed: int = 0,
) -> Calibrated:
    """Lets the first draws play the truth, one after the other, and ranks each under the posterior from all others.

    Chi-square test of ranks in ten bins. Truths share their draws, which makes the test a little conservative.

    **Source:** Talts, Betancourt, Simpson, Vehtari, Gelman (2018), "Validating Bayesian inference algorithms with
    simulation-based calibration".
    """
    rng, size = np.random.default_rng(seed), min(truths, len(draws))
    ranks, effective = np.empty((size, len(names))), []
    for i in range(size):
        seen = statistics[i] + error * rng.standard_normal(error.size)
        weights = _weights(statistics, seen, error)
        weights[i] = 0.0
        weights /= weights.sum()
        effective.append(1.0 / np.sum(weights**2))
        below = draws < draws[i]
        tie = draws == draws[i]
        ranks[i] = weights @ below + rng.random(len(names)) * (weights @ tie)
    p_values = {}
    for k, name in enumerate(names):
        counts = np.histogram(ranks[:, k], _BINS, (0.0, 1.0))[0]
        p_values[name] = float(stats.chisquare(counts).pvalue)
    return Calibrated(ranks, p_values, float(np.median(effective)))
