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
        shape = jax.eval_shape(window, constants, start, stop)

        def add(carry: Any) -> Any:
            first, added = carry
            return first + width, added + window(constants, first, stop)

        return jax.lax.while_loop(lambda carry: carry[0] < stop, add, (start, jnp.zeros(shape.shape, shape.dtype)))[1]

    listed = jax.custom_batching.custom_vmap(alone)
    call = jax.custom_jvp(lambda *given: listed(*given))
    call.defjvp(partial(symbolic_jvp, alone), symbolic_zeros=True)

    @listed.def_vmap
    def batched(lanes: int, mapped: Any, constants: Any, start: Any, stop: Any) -> Any:
        axes = jax.tree.map(lambda is_mapped: 0 if is_mapped else None, tuple(mapped))
        if jax.default_backend() != "cpu" or not (mapped[1] and mapped[2]):
            return jax.vmap(alone, in_axes=axes)(constants, start, stop), True
        count = jnp.maximum(stop - start + (width - 1), 0) // width
        until = running_count(count)
        shape = jax.eval_shape(jax.vmap(window, in_axes=axes), constants, start, stop)

        def batch(carry: Any) -> Any:
            done, added = carry
            place = done + jnp.arange(lanes, dtype=jnp.int32)
            lane = first_at_least(until, place + 1)  # past the end for what fills up the last batch

            def take(leaf: Any) -> Any:
                return jnp.take(leaf, lane, axis=0, mode="clip")

            few = jax.tree.map(lambda is_mapped, leaf: take(leaf) if is_mapped else leaf, mapped[0], constants)
            first = take(start) + (place - take(until) + take(count)) * width
            part = jax.vmap(window, in_axes=axes)(few, first, take(stop))
            return done + lanes, added.at[lane].add(part, mode="drop", indices_are_sorted=True)

        none = jnp.zeros((), jnp.int32), jnp.zeros(shape.shape, shape.dtype)
        return jax.lax.while_loop(lambda carry: carry[0] < until[-1], batch, none)[1], True

    return call(constants, start, stop)
