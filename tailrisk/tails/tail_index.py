"""How heavy the largest contributions to a mean are: the estimate k-hat of their generalized Pareto shape."""

import math

import numpy as np
from jaxtyping import Float

FEWEST = 20  # excesses; fewer give no estimate


def kept(paths: int) -> int:
    """How many of the largest contributions k-hat is made from."""
    return int(min(paths / 5, 3.0 * math.sqrt(paths), 4096))


def khat(largest: Float[np.ndarray, " largest"], paths: int) -> float:
    """Shape of the generalized Pareto law of the largest contributions (largest first); nan for fewer than 20 excesses.

    Excesses y over the next smaller contribution; for a grid of b, k(b) = mean ln(1 - b y) and the profile likelihood
    M (ln(-b/k) - k - 1); b is its mean under those weights, and k is pulled to 1/2 by ten observations. A mean of
    contributions with k > 1/2 has no variance.

    **Source:** Zhang and Stephens (2009), "A new and efficient estimation method for the generalized Pareto distribution";
    Vehtari et al. (2024), "Pareto smoothed importance sampling", for its use.
    """
    top = largest[largest > 0.0][: kept(paths) + 1]
    y = np.sort(top[:-1] - top[-1]) if top.size else top
    y = y[y > 0.0]
    if y.size < FEWEST:
        return math.nan
    count = y.size
    grid = 30 + math.floor(math.sqrt(count))
    j = np.arange(1, grid + 1)
    b = 1.0 / y[-1] + (1.0 - np.sqrt(grid / (j - 0.5))) / (3.0 * y[math.floor(count / 4 + 0.5) - 1])
    k = np.log1p(-b[:, None] * y[None, :]).mean(axis=1)
    likelihood = count * (np.log(-b / k) - k - 1.0)
    weight = np.exp(likelihood - likelihood.max())
    mean = float(weight @ b / weight.sum())
    return (count * float(np.log1p(-mean * y).mean()) + 5.0) / (count + 10.0)
