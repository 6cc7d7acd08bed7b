"""How heavy the largest contributions to a mean are: the estimate k-hat of their generalized Pareto shape."""

import math

import numpy as np
from jaxtyping import Float

from .._fields import Real

FEWEST = 20  # excesses; fewer give no estimate
MOST = 4096


def kept(paths: int) -> int:
    """How many of the largest contributions k-hat is made from."""
    return int(min(paths / 5, 3.0 * math.sqrt(paths), MOST))


def pareto_fit(y: Float[np.ndarray, "*samples n"]) -> tuple[Real, Real]:
    """Shape and scale of the generalized Pareto law of positive excesses, ascending along the last axis, without a search.

    For a grid of b, k(b) = mean ln(1 - b y) and the profile likelihood n (ln(-b/k) - k - 1); b is its mean under those
    weights, the shape k(b), the scale -k/b.

    **Source:** Zhang and Stephens (2009), "A new and efficient estimation method for the generalized Pareto distribution".
    """
    n = y.shape[-1]
    grid = 30 + math.floor(math.sqrt(n))
    j = np.arange(1, grid + 1)
    quarter = y[..., math.floor(n / 4 + 0.5) - 1, None]
    b = 1.0 / y[..., -1, None] + (1.0 - np.sqrt(grid / (j - 0.5))) / (3.0 * quarter)
    k = np.log1p(-b[..., :, None] * y[..., None, :]).mean(axis=-1)
    likelihood = n * (np.log(-b / k) - k - 1.0)
    weight = np.exp(likelihood - likelihood.max(axis=-1, keepdims=True))
    mean = (weight * b).sum(axis=-1) / weight.sum(axis=-1)
    shape = np.log1p(-mean[..., None] * y).mean(axis=-1)
    return shape, -shape / mean


def khat(largest: Float[np.ndarray, " largest"], paths: int) -> float:
    """Shape of the generalized Pareto law of the largest contributions (largest first); nan for fewer than 20 excesses.

    Where the largest is so close to the smallest of n that a Pareto law of index 1/2 would have gone beyond it with a chance of
    0.999, n (smallest/largest)^2 > ln 1000, the shape is 1/2 at most, and that if excesses are few; -inf if all are equal.
    Excesses over the next smaller contribution are fitted, and the shape is pulled to 1/2 by ten observations. A mean of
    contributions with k > 1/2 has no variance.

    **Source:** Vehtari et al. (2024), "Pareto smoothed importance sampling".
    """
    top = largest[largest > 0.0][: kept(paths) + 1]
    y = np.sort(top[:-1] - top[-1]) if top.size else top
    y = y[y > 0.0]
    if y.size == 0 and top.size > FEWEST:
        return -math.inf
    bounded = top.size > FEWEST and top.size * float(top[-1] / top[0]) ** 2 > math.log(1000.0)
    if y.size < FEWEST:
        return 0.5 if bounded else math.nan
    shape = (y.size * float(pareto_fit(y)[0]) + 5.0) / (y.size + 10.0)
    return min(shape, 0.5) if bounded else shape
