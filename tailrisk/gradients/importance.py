"""Which steps of a pool have been worth most to branch at, learned from pools that no estimate reports.

A step is put in a cell by how many steps later the path jumps next (what is on either side of a threshold comes apart when
it does), by its mass and by its level. The factor of a cell is the root mean square of what its branches were worth, over
the mass they were drawn with: shrunk to that of all steps as far from a jump, and that to the overall one, and never below
a floor. The branch goes on with the path's own later noise, so that a choice may look at it.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

NEVER = 2**29  # steps: later than any path is long
_LAGS = (2, 4, 8, 16, NEVER)
_MASSES = (0.01, 0.1, 1.0)  # over the mean of the pool
_LEVELS = 8
_CELLS = (len(_LAGS) + 1, len(_MASSES) + 1, _LEVELS)
_FLOOR = 0.02
_TO_LAG, _TO_ALL = 20.0, 2.0  # pseudo-counts of the shrinkage


class Importance(NamedTuple):
    """Factors of the cells, the largest of them 1, and the inner edges of the levels."""

    factor: Float[np.ndarray, " cells"]
    levels: Float[np.ndarray, " edges"]


def flat(thresholds: Float[np.ndarray, " accounts"]) -> Importance:
    """All factors 1, levels between the lowest and the highest threshold."""
    edges = np.linspace(thresholds.min(), thresholds.max(), _LEVELS - 1)
    return Importance(np.ones(int(np.prod(_CELLS))), edges)


def next_jump(jump: Bool[np.ndarray, "paths steps"]) -> Int[np.ndarray, "paths steps"]:
    """Steps from each step to the path's next jump after it; `NEVER` or more if there is none."""
    paths, steps = jump.shape
    lag, ahead = np.empty((steps, paths), np.int32), np.full(paths, NEVER, np.int32)
    for step, here in reversed(list(enumerate(np.ascontiguousarray(jump.T)))):
        lag[step] = ahead
        ahead = np.where(here, np.int32(1), ahead + np.int32(1))
    return lag.T


def _bin(values: np.ndarray, edges: Iterable[float]) -> np.ndarray:
    """How many edges are not above each value; for a few edges far faster than a search."""
    found = np.zeros_like(values, np.int16)
    for edge in edges:
        found += values >= edge
    return found


def cells(
    importance: Importance,
    lag: Int[np.ndarray, "paths steps"],
    mass: Float[np.ndarray, "paths steps"],
    level: Float[np.ndarray, "paths steps"],
) -> Int[np.ndarray, "paths steps"]:
    """The cell of each step."""
    typical = mass.mean(dtype=np.float64)
    by_lag, by_mass = _bin(lag, _LAGS), _bin(mass, [share * typical for share in _MASSES])
    return (by_lag * np.int16(_CELLS[1]) + by_mass) * np.int16(_CELLS[2]) + _bin(level, importance.levels)


def learn(
    importance: Importance, cell: Int[np.ndarray, " branches"], worth: Float[np.ndarray, " branches"]
) -> Importance:
    """Factors from branches: their cells and what they were worth over their mass."""
    size = importance.factor.size
    count = np.bincount(cell, minlength=size).reshape(_CELLS)
    total = np.bincount(cell, weights=np.square(worth), minlength=size).reshape(_CELLS)
    if total.sum() == 0.0:
        return importance
    overall = total.sum() / count.sum()
    by_lag = (total.sum((1, 2)) + _TO_ALL * overall) / (count.sum((1, 2)) + _TO_ALL)
    square = (total + _TO_LAG * by_lag[:, None, None]) / (count + _TO_LAG)
    factor = np.sqrt(square / square.max()).reshape(-1)
    return importance._replace(factor=np.maximum(factor, _FLOOR))
