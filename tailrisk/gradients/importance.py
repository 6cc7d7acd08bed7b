"""Which steps of a pool have been worth most to branch at, learned from pools that no estimate reports.

Steps are put in cells: for the thresholds of accounts by the deficit that hindsight tells, by how far above the next
threshold the walk is, and by whether a jump into deficit is most of the mass; for trip points by the fall over a halt and by
the level. The mass of a cell is multiplied by the root mean square of what its branches were worth when they were drawn by
their masses alone, shrunk to that of all and never below a floor.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .hindsight import Hindsight
from .pool import Steps
from .walk import LadderWalk

DEFICITS = (-1e9, -4.0, -2.0, 0.0, 1.0, 2.0, 4.0, 8.0, 16.0)  # deviations of a step; first: never comes back
DISTANCES = (1.0, 2.0, 4.0)
_FALLS = (-4.0, 0.0, 2.0, 4.0, 8.0, 16.0)
_LEVELS = 8
CELLS = ((len(DEFICITS) + 1) * (len(DISTANCES) + 1) * 2, (len(_FALLS) + 1) * _LEVELS)
_FLOOR = 0.02
_TO_ALL = 2.0  # pseudo-counts of the shrinkage


def bins(values: Array, edges: tuple[float, ...]) -> Array:
    """How many edges are not above each value."""
    return sum((values >= edge).astype(jnp.int16) for edge in edges)  # pyright: ignore[reportReturnType]


def margin_cells(walk: LadderWalk, steps: Steps, seen: Hindsight, is_deep: Array) -> Int[Array, "steps paths"]:
    """Cells of steps for the thresholds of accounts; `is_deep`: a jump into deficit is most of the mass."""
    distance = (steps.level - walk.clearing.thresholds[steps.sold]) / walk.law.deviation
    cell = bins(seen.deficit, DEFICITS) * jnp.int16(len(DISTANCES) + 1) + bins(distance, DISTANCES)
    return cell * jnp.int16(2) + is_deep.astype(jnp.int16)


def trip_cells(walk: LadderWalk, steps: Steps, seen: Hindsight) -> Int[Array, "steps paths"]:
    """Cells of steps for trip points."""
    thresholds = walk.clearing.thresholds[:-1]
    lowest, highest = jnp.min(thresholds), jnp.max(thresholds)
    place = (steps.level - lowest) / jnp.maximum(highest - lowest, walk.law.deviation) * (_LEVELS - 1.0)
    level = jnp.clip(jnp.floor(place), 0.0, _LEVELS - 1.0).astype(jnp.int16)
    return bins(seen.fall, _FALLS) * jnp.int16(_LEVELS) + level


def learn(
    factor: Float[np.ndarray, " cells"], cell: Int[np.ndarray, " branches"], worth: Float[np.ndarray, " branches"]
) -> Float[np.ndarray, " cells"]:
    """Factors from branches that were drawn with factors: their cells and what they were worth."""
    count = np.bincount(cell, minlength=factor.size)
    total = np.bincount(cell, weights=np.square(worth), minlength=factor.size)
    if total.sum() == 0.0:
        return factor
    square = (total + _TO_ALL * total.sum() / count.sum()) / (count + _TO_ALL)
    new = factor * np.sqrt(square)
    return np.maximum(new / new.max(), _FLOOR)
