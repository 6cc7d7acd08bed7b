"""Work that few paths need at a time: done for those paths alone, with the same result as if all had done it.

In a step most paths have nobody to liquidate. `rare(needed, update, constants, state)` is
`update(constants, state) if needed else state` for one path. Under `vmap` the paths that need the update are packed into a
batch an eighth of the size; when more than that need it, all lanes are updated and the others keep their state. Which of the
two runs never changes a number.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PyTree

_SHARE = 8
_LEAST_LANES = 32


def rare(
    needed: Bool[Array, ""],
    update: Callable[[PyTree, PyTree], PyTree],
    constants: PyTree,
    state: PyTree,
) -> PyTree:
    """Applies `update` to the state where it is needed; `update` must keep the structure, shapes and dtypes of the state."""

    @jax.custom_batching.custom_vmap
    def call(needed: Any, constants: Any, state: Any) -> Any:
        return jax.lax.cond(needed, update, lambda _, same: same, constants, state)

    @call.def_vmap
    def batched(lanes: int, mapped: Any, needed: Any, constants: Any, state: Any) -> Any:
        needed_mapped, constants_mapped, state_mapped = mapped
        if not needed_mapped:
            needed = jnp.broadcast_to(needed, (lanes,))
        state = jax.tree.map(
            lambda is_mapped, leaf: leaf if is_mapped else jnp.broadcast_to(leaf, (lanes, *leaf.shape)),
            state_mapped,
            state,
        )
        axes = jax.tree.map(lambda is_mapped: 0 if is_mapped else None, constants_mapped)
        everyone = jax.vmap(update, in_axes=(axes, 0))

        def all_lanes() -> Any:
            new = everyone(constants, state)
            return jax.tree.map(lambda n, o: jnp.where(needed.reshape((lanes,) + (1,) * (n.ndim - 1)), n, o), new, state)

        packed = lanes // _SHARE
        if packed < _LEAST_LANES:
            out = all_lanes()
        else:

            def packed_lanes() -> Any:
                lane = jnp.nonzero(needed, size=packed, fill_value=lanes)[0].astype(jnp.int32)
                take = lambda leaf: jnp.take(leaf, lane, axis=0, mode="clip")  # noqa: E731
                few = jax.tree.map(lambda is_mapped, leaf: take(leaf) if is_mapped else leaf, constants_mapped, constants)
                new = everyone(few, jax.tree.map(take, state))
                return jax.tree.map(lambda o, n: o.at[lane].set(n, mode="drop", unique_indices=True), state, new)

            few_enough = jnp.sum(needed, dtype=jnp.int32) <= packed
            out = jax.lax.cond(few_enough, packed_lanes, all_lanes)
        return out, jax.tree.map(lambda _: True, state)

    return call(needed, constants, state)
