"""Sums over a short axis, written out."""

import jax.numpy as jnp
from jaxtyping import Array, Float


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
