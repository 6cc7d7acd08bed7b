"""Sums whose order is written down: over a short axis, and over many terms."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

RADIX = 8


def short_sum(terms: Float[Array, "few *rest"]) -> Float[Array, "*rest"]:
    """Sum over the first axis, term by term.

    It stays part of the elementwise work around it, where XLA on CPUs calls a library for a reduction, which costs more
    than a whole step when there are two terms per path.
    """
    if terms.shape[0] == 0:
        return jnp.zeros(terms.shape[1:], terms.dtype)
    added = terms[0]
    for i in range(1, terms.shape[0]):
        added = added + terms[i]
    return added


def short_total(terms: Float[Array, "..."]) -> Float[Array, ""]:
    """Sum over all axes of a small array, as `short_sum`."""
    return short_sum(terms.reshape(-1))


def total(terms: Float[Array, "*rest groups"]) -> Float[Array, "*rest"]:
    """Sum over the last axis as a tree that adds eight slices at a time.

    A compiler may order a plain sum as it likes, and does so differently for batches of 1, 4 and 64 paths, so that the
    last bit of a path would depend on its neighbors. Slices add elementwise, which leaves nothing to choose, is
    vectorized, and has the rounding error of a pairwise sum.
    """
    return _tree(terms, jnp.add)


def any_of(flags: Bool[Array, "*rest groups"]) -> Bool[Array, "*rest"]:
    """Whether any flag of the last axis is set, as a tree like `total`: XLA on CPUs walks through a plain `any` bit by bit."""
    return _tree(flags, jnp.logical_or)


def _tree(terms: Any, join: Callable[[Any, Any], Any]) -> Any:
    while (groups := terms.shape[-1]) > 1:
        parts = min(RADIX, groups)
        size = -(-groups // parts)
        if parts * size > groups:
            terms = jnp.pad(terms, [(0, 0)] * (terms.ndim - 1) + [(0, parts * size - groups)])
        joined = terms[..., :size]
        for part in range(1, parts):
            joined = join(joined, terms[..., part * size : (part + 1) * size])
        terms = joined
    return terms[..., 0]


def halving_total(terms: Float[Array, "*rest power_of_two"]) -> Float[Array, "*rest"]:
    """As `total`, for a short last axis: both halves of it are added until one term is left."""
    while (left := terms.shape[-1] // 2) > 0:
        terms = terms[..., :left] + terms[..., left:]
    return terms[..., 0]
