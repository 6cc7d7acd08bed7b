"""Work that few paths need at a time, done for those paths alone.

In a step most paths have nobody to liquidate. `rare(needed, update, constants, state)` is
`update(constants, state) if needed else state` for one path. Under `vmap` the paths that need the update are packed
into small batches, one after the other until all are done; the program of a batch is the same however many there are,
so a path does not depend on its neighbors. A derivative runs without packing, because packing would give every number a
tangent, and a tangent must reach only what depends on the parameter (see `_hard.py`).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, PyTree, UInt32

from ._hard import symbolic_jvp

_CACHED = 2**17  # bytes of state in a batch, so that what an update makes of them stays in a core's cache
_SHARE = 16  # at most this part of the lanes: few places of the last batch are empty
_LEAST = 8
_ROW = 64  # lanes summed by one row of a matrix product
_WORD = 32  # flags in a word


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
        size = _batch_size(lanes, state)
        flags = Flags.of(needed)

        def batch(carry: Any) -> Any:
            done, state = carry
            # What fills up the last batch points past the end and is dropped.
            lane = flags.lanes_from(done, size)

            def take(leaf: Any) -> Any:
                return jnp.take(leaf, lane, axis=0, mode="clip")

            few = jax.tree.map(lambda is_mapped, leaf: take(leaf) if is_mapped else leaf, constants_mapped, constants)
            new = everyone(few, jax.tree.map(take, state))
            state = jax.tree.map(lambda old, part: old.at[lane].set(part, mode="drop"), state, new)
            return done + size, state

        out = jax.lax.while_loop(lambda carry: carry[0] < flags.count, batch, (jnp.zeros((), jnp.int32), state))[1]
        return out, jax.tree.map(lambda _: True, state)

    return call(needed, constants, state)


def _batch_size(lanes: int, state: PyTree) -> int:
    """Lanes that are updated at a time; no result depends on it."""
    most = max(1, lanes // _SHARE)
    if jax.default_backend() == "cpu":
        lane = sum(leaf.dtype.itemsize * leaf.size // lanes for leaf in jax.tree.leaves(state))
        most = min(most, max(_LEAST, 1 << (_CACHED // max(lane, 1)).bit_length() >> 1))
    return min(lanes, max(_LEAST, most))


class Flags(NamedTuple):
    """Which lanes are flagged, a bit each: bit b of word w is lane b words + w, so that packing is elementwise work.

    Flagged lanes are numbered by word and bit. Finding one by its number is a search over the words, then arithmetic.
    """

    word: UInt32[Array, " words"]
    until: Int[Array, " words"]  # flags up to and with each word
    lanes: int

    @classmethod
    def of(cls, flags: Bool[Array, " lanes"]) -> "Flags":
        (lanes,) = flags.shape
        words = -(-lanes // _WORD)
        bits = jnp.pad(flags, (0, words * _WORD - lanes)).reshape(_WORD, words).astype(jnp.uint32)
        word = bits[0]
        for place in range(1, _WORD):
            word = word | (bits[place] << np.uint32(place))
        return cls(word, running_count(jax.lax.population_count(word).astype(jnp.int32)), lanes)

    @property
    def count(self) -> Int[Array, ""]:
        """All flagged lanes."""
        return self.until[-1]

    def lanes_from(self, first: Int[Array, ""], size: int) -> Int[Array, " size"]:
        """The flagged lanes number `first` (from 0) to `first + size - 1`; the number of lanes where there are no more."""
        wanted = first + 1 + jnp.arange(size, dtype=jnp.int32)
        place = first_at_least(self.until, wanted)
        there = jnp.minimum(place, self.until.size - 1)
        word, bit = self.word[there], jnp.zeros_like(wanted)
        left = wanted - self.until[there] + jax.lax.population_count(word).astype(jnp.int32)
        for width in (16, 8, 4, 2, 1):
            mask = np.uint32((1 << width) - 1)
            low = jax.lax.population_count((word >> bit.astype(jnp.uint32)) & mask).astype(jnp.int32)
            above = left > low
            left, bit = jnp.where(above, left - low, left), jnp.where(above, bit + width, bit)
        return jnp.where(wanted <= self.count, bit * self.word.size + there, self.lanes)


def running_count(counts: Int[Array, " lanes"]) -> Int[Array, " lanes"]:
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
