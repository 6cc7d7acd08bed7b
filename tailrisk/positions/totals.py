"""Sums in an order that is written down, so that they do not depend on how many paths are computed together."""

import jax.numpy as jnp
from jaxtyping import Array, Float

RADIX = 8


def total(terms: Float[Array, "*rest groups"]) -> Float[Array, "*rest"]:
    """Sum over the last axis as a tree that adds eight slices at a time.

    A compiler may order a plain sum as it likes, and does so differently for batches of 1, 4 and 64 paths, so that the
    last bit of a path would depend on its neighbors. Slices add elementwise, which leaves nothing to choose, is
    vectorized, and has the rounding error of a pairwise sum.
    """
    while (groups := terms.shape[-1]) > 1:
        parts = min(RADIX, groups)
        size = -(-groups // parts)
        if parts * size > groups:
            terms = jnp.pad(terms, [(0, 0)] * (terms.ndim - 1) + [(0, parts * size - groups)])
        added = terms[..., :size]
        for part in range(1, parts):
            added = added + terms[..., part * size : (part + 1) * size]
        terms = added
    return terms[..., 0]


def over_assets(terms: Float[Array, "assets *rest"]) -> Float[Array, "*rest"]:
    """Sum over the first, short axis, written out: it stays part of the elementwise work around it."""
    added = terms[0]
    for asset in range(1, terms.shape[0]):
        added = added + terms[asset]
    return added
