"""Sums over the entries of a table from a first to a last one, where every path has its own range.

A range is summed in windows of a fixed width, one after the other. Under `vmap` on a CPU the windows of all paths are laid
out in one list and taken in equal batches, so that a long range holds up nobody; a path's windows are still added in their
own order, so its bits do not depend on its neighbors. Elsewhere, and in a derivative, the paths go window by window together.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree

from ._hard import symbolic_jvp
from ._rare import first_at_least, running_count


def range_sum(
    window: Callable[[PyTree, Any, Any], Any],
    constants: PyTree,
    start: Int[Array, ""],
    stop: Int[Array, ""],
    width: int,
) -> Any:
    """The sum of `window(constants, first, stop)` over first = start, start + width, ... below stop.

    A window sums the entries first <= i < min(first + width, stop) to an array. Differentiable in forward mode.
    """

    def alone(constants: Any, start: Any, stop: Any) -> Any:
        def add(carry: Any) -> Any:
            first, added = carry
            return first + width, added + window(constants, first, stop)

        begun = start + width, window(constants, start, stop)
        return jax.lax.while_loop(lambda carry: carry[0] < stop, add, begun)[1]

    listed = jax.custom_batching.custom_vmap(alone)
    call = jax.custom_jvp(lambda *given: listed(*given))
    call.defjvp(partial(symbolic_jvp, alone), symbolic_zeros=True)

    @listed.def_vmap
    def batched(lanes: int, mapped: Any, constants: Any, start: Any, stop: Any) -> Any:
        axes = jax.tree.map(lambda is_mapped: 0 if is_mapped else None, tuple(mapped))
        if jax.default_backend() != "cpu" or not (mapped[1] and mapped[2]):
            return jax.vmap(alone, in_axes=axes)(constants, start, stop), True
        everyone = jax.vmap(window, in_axes=axes)
        # Most ranges end in the first window; the others are listed.
        begun, start = everyone(constants, start, stop), start + width
        count = jnp.maximum(stop - start + (width - 1), 0) // width
        until = running_count(count)

        def batch(carry: Any) -> Any:
            done, added = carry
            place = done + jnp.arange(lanes, dtype=jnp.int32)
            lane = first_at_least(until, place + 1)  # past the end for what fills up the last batch

            def take(leaf: Any) -> Any:
                return jnp.take(leaf, lane, axis=0, mode="clip")

            few = jax.tree.map(lambda is_mapped, leaf: take(leaf) if is_mapped else leaf, mapped[0], constants)
            first = take(start) + (place - take(until) + take(count)) * width
            part = everyone(few, first, take(stop))
            return done + lanes, added.at[lane].add(part, mode="drop", indices_are_sorted=True)

        return jax.lax.while_loop(lambda carry: carry[0] < until[-1], batch, (jnp.zeros((), jnp.int32), begun))[1], True

    return call(constants, start, stop)
