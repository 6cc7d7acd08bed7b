"""Work that few paths need at a time, done for those paths alone.

In a step most paths have nobody to liquidate. `rare(needed, update, constants, state)` is
`update(constants, state) if needed else state` for one path. Under `vmap` the paths that need the update are packed
into small batches, one after the other until all are done; the program of a batch is the same however many there are,
so a path does not depend on its neighbors. A derivative runs without packing, because packing would give every number a
tangent, and a tangent must reach only what depends on the parameter (see `_hard.py`).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, PyTree

from ._hard import symbolic_jvp

_SHARE = 16  # a batch is this part of the lanes: few places of the last batch are empty
_LEAST = 32
_ROW = 64  # lanes summed by one row of a matrix product


def rare(
    needed: Bool[Array, ""],
    update: Callable[[PyTree, PyTree], PyTree],
    constants: PyTree,
    state: PyTree,
) -> PyTree:
    """Applies `update` to the state where it is needed; it must keep the structure, shapes and dtypes of the state.

    Differentiable; under `vmap` in forward mode only.
    """

    def alone(needed: Any, constants: Any, state: Any) -> Any:
        return jax.lax.cond(needed, update, lambda _, same: same, constants, state)

    packed = jax.custom_batching.custom_vmap(alone)
    call = jax.custom_jvp(lambda *given: packed(*given))
    call.defjvp(partial(symbolic_jvp, alone), symbolic_zeros=True)

    @packed.def_vmap
    def batched(lanes: int, mapped: Any, needed: Any, constants: Any, state: Any) -> Any:
        needed_mapped, constants_mapped, state_mapped = mapped
        needed = needed if needed_mapped else jnp.broadcast_to(needed, (lanes,))
        state = jax.tree.map(
            lambda is_mapped, leaf: leaf if is_mapped else jnp.broadcast_to(leaf, (lanes, *leaf.shape)),
            state_mapped,
            state,
        )
        axes = jax.tree.map(lambda is_mapped: 0 if is_mapped else None, constants_mapped)
        everyone = jax.vmap(update, in_axes=(axes, 0))
        size = min(lanes, max(_LEAST, lanes // _SHARE))
        rank = running_count(needed)
        count = rank[-1]

        def batch(carry: Any) -> Any:
            done, state = carry
            # What fills up the last batch points past the end and is dropped.
            lane = first_at_least(rank, done + 1 + jnp.arange(size, dtype=jnp.int32))

            def take(leaf: Any) -> Any:
                return jnp.take(leaf, lane, axis=0, mode="clip")

            few = jax.tree.map(lambda is_mapped, leaf: take(leaf) if is_mapped else leaf, constants_mapped, constants)
            new = everyone(few, jax.tree.map(take, state))
            state = jax.tree.map(lambda old, part: old.at[lane].set(part, mode="drop"), state, new)
            return done + size, state

        out = jax.lax.while_loop(lambda carry: carry[0] < count, batch, (jnp.zeros((), jnp.int32), state))[1]
        return out, jax.tree.map(lambda _: True, state)

    return call(needed, constants, state)


def running_count(counts: Bool[Array, " lanes"] | Int[Array, " lanes"]) -> Int[Array, " lanes"]:
    """Sums of counts up to each lane by matrix products: exact below 2^24 and far faster than a scan."""
    (lanes,) = counts.shape
    rows = -(-lanes // _ROW)
    ones = jnp.pad(counts, (0, rows * _ROW - lanes)).astype(jnp.float32).reshape(rows, _ROW)
    along = ones @ np.triu(np.ones((_ROW, _ROW), np.float32))
    before = along[:, -1] @ np.triu(np.ones((rows, rows), np.float32), 1)
    return (along + before[:, None]).reshape(-1)[:lanes].astype(jnp.int32)


def first_at_least(rank: Int[Array, " lanes"], wanted: Int[Array, " places"]) -> Int[Array, " places"]:
    """The first lane whose rank reaches what is wanted, or the number of lanes: a binary search."""
    (lanes,) = rank.shape
    found = jnp.zeros_like(wanted)
    for bit in reversed(range(lanes.bit_length())):
        ahead = found + 2**bit
        short = rank[jnp.minimum(ahead, lanes) - 1] < wanted
        found = jnp.where((ahead <= lanes) & short, ahead, found)
    return found
