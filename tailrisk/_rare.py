"""Work that few paths need at a time, done for those paths alone.

In a step most paths have nobody to liquidate. `rare(needed, update, constants, state)` is
`update(constants, state) if needed else state` for one path. Under `vmap` the paths that need the update are packed into
small batches, one after the other until all are done; the program of a batch is the same however many there are, so a path
does not depend on its neighbors.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PyTree

_SHARE = 8  # a batch is an eighth of the lanes: about what a step of a quiet market needs
_LEAST = 32


def rare(
    needed: Bool[Array, ""],
    update: Callable[[PyTree, PyTree], PyTree],
    constants: PyTree,
    state: PyTree,
) -> PyTree:
    """Applies `update` to the state where it is needed; `update` must keep the structure, shapes and dtypes of the state.

    Differentiable in forward mode only.
    """

    @jax.custom_batching.custom_vmap
    def call(needed: Any, constants: Any, state: Any) -> Any:
        return jax.lax.cond(needed, update, lambda _, same: same, constants, state)

    @call.def_vmap
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
        # Lanes that need the update, in order; what fills up the last batch points past the end and is dropped.
        waiting = jnp.nonzero(needed, size=lanes + size, fill_value=lanes)[0].astype(jnp.int32)
        count = jnp.sum(needed, dtype=jnp.int32)

        def batch(carry: Any) -> Any:
            done, state = carry
            lane = jax.lax.dynamic_slice(waiting, (done,), (size,))

            def take(leaf: Any) -> Any:
                return jnp.take(leaf, lane, axis=0, mode="clip")

            few = jax.tree.map(lambda is_mapped, leaf: take(leaf) if is_mapped else leaf, constants_mapped, constants)
            new = everyone(few, jax.tree.map(take, state))
            state = jax.tree.map(lambda old, part: old.at[lane].set(part, mode="drop"), state, new)
            return done + size, state

        out = jax.lax.while_loop(lambda carry: carry[0] < count, batch, (jnp.zeros((), jnp.int32), state))[1]
        return out, jax.tree.map(lambda _: True, state)

    return call(needed, constants, state)
