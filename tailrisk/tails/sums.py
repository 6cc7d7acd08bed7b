"""Sums of many terms on the device that keep what one addition rounds away.

Path i belongs to lane i mod LANES; each lane is an unevaluated pair (hi, lo), updated by the two-sum of Knuth, and lanes
are added as a written-out tree. In float32 the error of a pair is that of the terms, not of their number.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..simulate import LANES as GROUP
from ..simulate import entry_point

LANES = 1024
UNROLL = 4
Pair = tuple[Float[Array, "..."], Float[Array, "..."]]


def add_pairs(a: Pair, b: Pair) -> Pair:
    """Sum of two pairs; the rounding error of hi goes to lo.

    **Source:** Knuth, "The Art of Computer Programming" 2, 4.2.2, theorem B (two-sum without a branch).
    """
    hi = a[0] + b[0]
    back = hi - a[0]
    error = (a[0] - (hi - back)) + (b[0] - back)
    return hi, a[1] + b[1] + error


def lane_sums(terms: Float[Array, "rows lanes *rest"]) -> Pair:
    """One pair per lane, over the rows in order."""

    def body(pair: Pair, row: Array) -> tuple[Pair, None]:
        return add_pairs(pair, (row, jnp.zeros_like(row))), None

    start = jnp.zeros(terms.shape[1:], terms.dtype)
    return jax.lax.scan(body, (start, start), terms, unroll=UNROLL)[0]


def fold(pair: Pair, parts: int) -> Pair:
    """Adds lanes that are equal modulo `parts`, as a tree: lane l to lane l + half."""
    while (half := pair[0].shape[0] // 2) >= parts:
        pair = add_pairs((pair[0][:half], pair[1][:half]), (pair[0][half:], pair[1][half:]))
    return pair


def rows_of_lanes(x: Float[Array, "paths *rest"], fill: float = 0.0) -> Float[Array, "rows lanes *rest"]:
    """Path i in lane i mod LANES, filled up to whole rows."""
    rows = max(math.ceil(x.shape[0] / LANES), 1)
    padding = [(0, rows * LANES - x.shape[0])] + [(0, 0)] * (x.ndim - 1)
    return jnp.pad(x, padding, constant_values=fill).reshape(rows, LANES, *x.shape[1:])


def compensated_sum(x: Float[Array, "paths *rest"], parts: int = 1) -> Pair:
    """Sums over paths, one for each class of path number modulo `parts` (a power of two), as pairs."""
    return fold(lane_sums(rows_of_lanes(x)), parts)


def group_sums(x: Float[Array, "paths columns"], groups: int) -> Pair:
    """Sums over paths of which `GROUP` at a time belong to one of `groups` groups in turn, one for each, as pairs.

    With several groups the paths are whole turns of them.
    """
    if groups == 1:
        return compensated_sum(x)
    turns = x.reshape(-1, groups, GROUP, x.shape[1]).swapaxes(1, 2)
    return fold(lane_sums(turns.reshape(-1, GROUP * groups, x.shape[1])), groups)


@functools.cache
def compensation_survives(platform: str) -> bool:
    """Whether the compiler of this platform has left the two-sum alone: 2^20 float32 terms of 1, one of them 1 + 2^-23, tell.

    No float32 holds their sum; a compiler that simplifies (a + b) - a loses the 2^-23.
    """
    terms = np.ones(2**20, np.float32)
    terms[7] += np.float32(2.0**-23)
    hi, lo = entry_point(compensated_sum)(jax.device_put(terms, jax.devices(platform)[0]))
    return float(np.asarray(hi, float)[0] + np.asarray(lo, float)[0]) == 2.0**20 + 2.0**-23
