"""The studentized bootstrap of a mean from independent batch means."""

import math

import numpy as np
from jaxtyping import Float


def student_ratios(
    means: Float[np.ndarray, " batches"], rng: np.random.Generator, resamples: int = 9_999
) -> Float[np.ndarray, " resamples"]:
    """(mean* - mean)/s.e.* over resampled batches; its left tail is long when losses are skewed to the right.

    **Source:** Efron (1981), "Nonparametric standard errors and confidence intervals"; Hall (1988), "Theoretical
    comparison of bootstrap confidence intervals", for its error of order 1/n.
    """
    batches = means.size
    drawn = means[rng.integers(0, batches, (resamples, batches))]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = (drawn.mean(axis=1) - means.mean()) / (drawn.std(axis=1, ddof=1) / np.sqrt(batches))
    return np.nan_to_num(ratio, nan=0.0)


def student_interval(means: Float[np.ndarray, " batches"], confidence: float) -> tuple[float, float]:
    """The interval of the mean from independent batch means of one size; always the same for the same means."""
    miss = 0.5 * (1.0 - confidence)
    low, high = np.quantile(student_ratios(means, np.random.default_rng(0)), [miss, 1.0 - miss])
    center, spread = float(means.mean()), float(means.std(ddof=1)) / math.sqrt(means.size)
    return center - float(high) * spread, center - float(low) * spread
