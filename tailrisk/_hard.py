"""Comparisons that decide an event, and what they do to a derivative.

Whether a position is liquidated, a breaker trips or a jump arrives is a step function of numbers. Its derivative at fixed
noise is zero almost everywhere, but the derivative of an expectation is not: a small change of the threshold moves a small
part of the paths across it, and on those the outcome changes by a whole liquidation. Automatic differentiation drops that
part in silence. Here a tangent that reaches such a comparison raises instead; without one the comparison is free.

A comparison that only chooses between two branches of a continuous function (a maximum, a clip, a guarded division) loses
nothing and stays a plain one. A number that is detached on purpose with `jax.lax.stop_gradient` carries no tangent.

**Source:** Glasserman, "Monte Carlo Methods in Financial Engineering" (2003), section 7.2.2, on when pathwise derivatives
are unbiased.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero, zero_from_primal
from jaxtyping import Array, Bool, Float, PyTree


class HardThresholdGradientError(TypeError):
    """A derivative was asked for through a comparison that decides an event, where it would silently lose a part.

    A `TypeError`, as for other functions that cannot be differentiated: what was asked is wrong, not a value.
    """


_REMEDIES = (
    "Use differences of simulations with common random numbers (`simulate` at theta + h and theta - h with one seed), which "
    "are right for any parameter, or an estimator of `tailrisk.gradients` (shift, score, measure_valued), which moves the "
    "events with the noise. "
    '`positions.kind = "SmoothLadder"` without a breaker has no such thresholds. Differentiate with respect to the numbers '
    "of interest alone: a tangent of explicit zeros counts as one. To differentiate at fixed events on purpose, detach what "
    "is compared with `jax.lax.stop_gradient`"
)


def refused(what: str) -> HardThresholdGradientError:
    """The error for a derivative that arrives where the event `what` is decided."""
    return HardThresholdGradientError(
        f"a derivative reaches a comparison that decides an event ({what}); a pathwise derivative would lose what happens "
        f"when paths cross it. {_REMEDIES}"
    )


def decisive(value: Any, what: str) -> Any:
    """The value itself, about to be compared to decide the event `what` (text for the message).

    **Raises:** `HardThresholdGradientError` while tracing a derivative, if the value carries a tangent.
    """
    # what is built on the host cannot carry a tangent and stays NumPy
    may_carry = isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jnp.inexact)
    return _decisive(what, value) if may_carry else value


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _decisive(what: str, value: Any) -> Any:
    return value


@partial(_decisive.defjvp, symbolic_zeros=True)
def _decisive_jvp(what: str, primals: Any, tangents: Any) -> Any:
    if live(tangents):
        raise refused(what)
    return primals[0], tangents[0]


def crosses(value: Any, threshold: Any, what: str) -> Bool[Array, "..."]:
    """Whether value < threshold, elementwise, where this decides the event `what`.

    **Raises:** `HardThresholdGradientError` while tracing a derivative, if either side carries a tangent.
    """
    return decisive(value, what) < decisive(threshold, what)


@jax.custom_jvp
def indicator(number: Float[Array, "..."], decided_by: PyTree) -> Float[Array, "..."]:
    """A number that only counts events, reported beside outcomes that do have a derivative; returned as it is.

    Its own derivative is nan, never a silent zero, if a number it was decided by carries a tangent. In reverse mode ask
    for one outcome at a time: a cotangent of explicit zeros makes nan of all.
    """
    del decided_by
    return number


@partial(indicator.defjvp, symbolic_zeros=True)
def _indicator_jvp(primals: Any, tangents: Any) -> Any:
    number, along = primals[0], live(tangents)
    if not along:
        return number, tangents[0]
    # linear in the tangents, so that it is nan in reverse mode as well
    return number, jnp.full_like(number, jnp.nan) * sum(jnp.sum(change) for change in along)


def live(tangents: PyTree) -> list[Any]:
    """The tangents that a rule with symbolic zeros was really given."""
    return [change for change in jax.tree.leaves(tangents) if not isinstance(change, SymbolicZero)]


def symbolic_jvp(function: Callable[..., PyTree], primals: Any, tangents: Any) -> tuple[PyTree, PyTree]:
    """`jax.jvp` that takes symbolic zeros and gives them back where the value does not depend on what moves.

    `jax.jvp` makes arrays of such zeros; which they are is seen by a rule that stands on the way out.
    """
    given, tree = jax.tree.flatten(primals)
    changes = jax.tree.leaves(tangents)
    moving = [i for i, change in enumerate(changes) if live(change)]
    reached: list[bool] = []

    @jax.custom_jvp
    def seen(leaves: list[Any]) -> list[Any]:
        reached[:] = [False] * len(leaves)
        return leaves

    def see(leaves: Any, arriving: Any) -> Any:
        reached[:] = [bool(live(change)) for change in arriving[0]]
        return leaves[0], arriving[0]

    seen.defjvp(see, symbolic_zeros=True)

    def along(moved: list[Any]) -> PyTree:
        leaves = list(given)
        for i, leaf in zip(moving, moved, strict=True):
            leaves[i] = leaf
        out, kept = jax.tree.flatten(function(*jax.tree.unflatten(tree, leaves)))
        return jax.tree.unflatten(kept, seen(out))

    value, change = jax.jvp(along, ([given[i] for i in moving],), ([changes[i] for i in moving],))
    leaves, kept = jax.tree.flatten(value)
    change = [
        part if hit else zero_from_primal(leaf, symbolic_zeros=True)
        for leaf, part, hit in zip(leaves, jax.tree.leaves(change), reached, strict=True)
    ]
    return value, jax.tree.unflatten(kept, change)
