"""How well a law fits: the distribution function at each return, if the law is right, is uniform and independent."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import ndtri

from .likelihood import Fit
from .returns import Returns

LAGS = (1, 6, 24)
_EDGE = 1e-12


class Goodness(NamedTuple):
    """Distances of the transforms from uniform, and the clustering that a law leaves.

    `kolmogorov` is the largest distance; `uniform_error` what 95 % of independent uniform samples stay below (an
    understatement of how well a law with estimated values should do). `left_over`: autocorrelation of absolute normal scores
    at lags 1, 6 and 24; `independent_error` is 1.96/sqrt(n). `tails`: returns below and above the law's 0.1 and 1 %
    quantiles, over those expected.
    """

    kolmogorov: float
    uniform_error: float
    left_over: dict[int, float]
    independent_error: float
    tails: dict[str, float]


def goodness(fit: Fit, data: Returns) -> Goodness:
    """Checks a fit by its probability integral transforms.

    **Source:** Diebold, Gunther, Tay (1998), "Evaluating density forecasts".
    """
    rank = np.clip(fit.rank, _EDGE, 1.0 - _EDGE)
    u = np.sort(rank[data.seen])
    n = u.size
    distance = float(np.max(np.maximum(np.arange(1, n + 1) / n - u, u - np.arange(n) / n)))
    size = np.where(data.seen, np.abs(ndtri(rank)), np.nan)
    size = size - np.nanmean(size)
    square = float(np.nanmean(size**2))
    left = {lag: float(np.nanmean(size[lag:] * size[:-lag])) / square for lag in LAGS if lag < n}
    tails = {}
    for level in (0.001, 0.01):
        tails[f"below {level:.1%}"] = float((u < level).mean() / level)
        tails[f"above {1.0 - level:.1%}"] = float((u > 1.0 - level).mean() / level)
    return Goodness(distance, 1.358 / np.sqrt(n), left, 1.96 / np.sqrt(n), tails)


def quantile_plot(fit: Fit, data: Returns, points: int = 400) -> Float[np.ndarray, "points 2"]:
    """Normal scores of the transforms: what a right law gives (first column) and what came out (second)."""
    scores = np.sort(ndtri(np.clip(fit.rank[data.seen], _EDGE, 1.0 - _EDGE)))
    n = scores.size
    spread = np.linspace(ndtri(0.5 / n), ndtri(1.0 - 0.5 / n), points)
    places = (np.arange(n) + 0.5) / n
    return np.column_stack([spread, np.interp(spread, ndtri(places), scores)])
