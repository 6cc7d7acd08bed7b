"""Deleveraging and socialized loss in whole numbers. Results are floats that hold whole numbers."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from .closing import covered, positive


def largest_remainder(need: Float[Array, ""], size: Float[Array, " accounts"]) -> Float[Array, " accounts"]:
    """Splits a need into whole contracts in proportion to size.

    The need is rounded up. Everyone gets the whole part of `need size / sum(size)`; what is left goes one contract each
    to the largest remainders, equal remainders to the later index. Sizes <= 0 (the other side) take nothing and nobody
    takes more than the whole part of his size, so at most `sum(floor(size))` is allocated.

    **Source:** Hamilton's method; order of ties as in arXiv 2512.01112. The cap at the own size is ours: with
    fractional sizes the bare method can ask for more than somebody holds.
    """
    size = positive(size)
    total = jnp.sum(size)
    room = jnp.floor(size)
    need = covered(jnp.ceil(need), jnp.sum(room))
    divisor = jnp.where(total > 0.0, total, 1.0)
    whole = jnp.minimum(jnp.floor(size * need / divisor), room)
    remainder = jnp.where(size > 0.0, size * need - whole * divisor, -1.0)  # exact for whole sizes, so ties are ties
    order = jnp.flip(jnp.argsort(remainder, stable=True))
    for most in (1.0, jnp.inf):  # one each; then, if caps left something over, down the same order
        space = jnp.minimum(room - whole, most)[order]
        before = jnp.cumsum(space) - space
        more = jnp.clip(need - jnp.sum(whole) - before, 0.0, space)
        whole = whole.at[order].add(more)
    return whole


def socialize_integers(collected: Float[Array, ""], gain: Float[Array, " accounts"]) -> Float[Array, " accounts"]:
    """Pays collected cash to winners in proportion to their gain, in whole units.

    `floor(collected gain / sum(gain))`; the rounding remainder goes to one party, the largest gain (lowest index among
    equals). Nobody is paid more than his gain in total: cash above the sum of gains is not paid out.

    **Source:** Vega protocol, loss socialization.
    """
    gain = positive(gain)
    total = jnp.sum(gain)
    collected = jnp.floor(covered(collected, total))
    paid = jnp.floor(collected * gain / jnp.where(total > 0.0, total, 1.0))
    return paid.at[jnp.argmax(gain)].add(collected - jnp.sum(paid))
