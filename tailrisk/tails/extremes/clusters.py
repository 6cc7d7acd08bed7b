"""Clusters of exceedances in a dependent series, and the extremal index: one over the mean size of a cluster."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ..._fields import InputError


class Clusters(NamedTuple):
    """Largest value and its place of every cluster; `extremal_index` is clusters over exceedances."""

    maxima: np.ndarray
    place: np.ndarray
    exceedances: int
    extremal_index: float


def runs(x: ArrayLike, threshold: float, gap: int) -> Clusters:
    """Clusters of values above the threshold: a new one begins after at least `gap` values in a row at or below it.

    **Source:** Smith and Weissman (1994), "Estimating the extremal index".
    """
    x = np.asarray(x, float).reshape(-1)
    above = np.flatnonzero(x > threshold)
    if gap < 1:
        raise InputError(f"gap = {gap}: expected at least 1")
    if above.size == 0:
        raise InputError(
            f"threshold = {threshold:g}: no value lies above it; the largest is {x.max(initial=-np.inf):g}"
        )
    first = np.concatenate([[0], np.flatnonzero(np.diff(above) > gap) + 1])
    parts = np.split(above, first[1:])
    place = np.array([part[np.argmax(x[part])] for part in parts])
    return Clusters(x[place], place, above.size, first.size / above.size)


def extremal_index(x: ArrayLike, threshold: float) -> float:
    """The extremal index from times between exceedances, without a choice of gap.

    **Source:** Ferro and Segers (2003), "Inference for clusters of extreme values", equation (5).
    """
    times = np.diff(np.flatnonzero(np.asarray(x, float).reshape(-1) > threshold)).astype(float)
    if times.size < 2:
        raise InputError(f"threshold = {threshold:g}: {times.size + 1} values above, expected at least 3")
    if times.max() <= 2.0:
        value = 2.0 * times.sum() ** 2 / (times.size * (times**2).sum())
    else:
        value = 2.0 * (times - 1.0).sum() ** 2 / (times.size * ((times - 1.0) * (times - 2.0)).sum())
    return float(min(value, 1.0))
