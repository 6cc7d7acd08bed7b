"""Weighted histogram of a loss whose bins are bit patterns: all of them 0.1 % wide, for quantiles in one pass.

The bin of x > 0 is the bit pattern of the float32 x without its last 13 bits, so ten bits of the mantissa stay: 1,024 bins an
octave, 40 octaves from `lowest` on. Before them come a bin for x <= 0 (the atom of paths without a loss) and one for what is
smaller, after them one for what is larger. A bin keeps the sums of w, w^2, w x, w^2 x, w^2 x^2.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .sums import Pair, add_pairs

OCTAVES = 40
SHIFT = 13  # bits of the mantissa that a bin does not see
BINS = OCTAVES << (23 - SHIFT)
ATOM, UNDERFLOW, FIRST, OVERFLOW = 0, 1, 2, 2 + BINS
SUMS = 5  # w, w^2, w x, w^2 x, w^2 x^2


def _offset(lowest: float) -> int:
    return int(np.float32(lowest).view(np.int32)) >> SHIFT


def bins(x: Float[Array, " paths"], lowest: float) -> Int[Array, " paths"]:
    """The bin of every x; `lowest` is a power of two."""
    pattern = jax.lax.bitcast_convert_type(x.astype(jnp.float32), jnp.int32)
    inside = jnp.clip((pattern >> SHIFT) - _offset(lowest) + FIRST, UNDERFLOW, OVERFLOW)
    return jnp.where(x > 0.0, inside, ATOM)


def edges(lowest: float) -> Float[np.ndarray, " edges"]:
    """Edges of the BINS regular bins, the first at `lowest`."""
    patterns = (np.arange(BINS + 1) + _offset(lowest)).astype(np.int64) << SHIFT
    return patterns.astype(np.int32).view(np.float32).astype(float)


def histogram(x: Float[Array, " paths"], weight: Float[Array, " paths"], place: Int[Array, " paths"]) -> Pair:
    """Sums per bin as pairs, in an order that is fixed: a scatter that adds would leave it to the device.

    Paths are sorted by bin and added within a bin over distances 1, 2, 4, ...; the last path of a bin then holds its sums.
    """
    order = jnp.argsort(place, stable=True)
    place, x, weight = place[order], x[order], weight[order]
    square = weight * weight
    terms = jnp.stack([weight, square, weight * x, square * x, square * x * x], axis=-1)
    index = jnp.arange(place.size)

    def double(level: Any, pair: Pair) -> Pair:
        back = index - (1 << level)
        same = (back >= 0) & (place[back] == place)
        added = add_pairs((pair[0][back], pair[1][back]), pair)
        return jnp.where(same[:, None], added[0], pair[0]), jnp.where(same[:, None], added[1], pair[1])

    levels = max(place.size - 1, 1).bit_length()
    hi, lo = jax.lax.fori_loop(0, levels, double, (terms, jnp.zeros_like(terms)))
    last = jnp.concatenate([place[1:] != place[:-1], jnp.ones(1, bool)])
    target = jnp.where(last, place, OVERFLOW + 1)  # dropped
    empty = jnp.zeros((OVERFLOW + 1, SUMS), x.dtype)
    return empty.at[target].set(hi, mode="drop"), empty.at[target].set(lo, mode="drop")
