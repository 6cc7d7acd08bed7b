"""Who is deleveraged first: rank scores, order, percentile lights, and how unequal the outcome is."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from .._fields import Number
from .closing import positive, ratio_of


def effective_leverage(mark_value: Number, bankrupt_value: Number) -> Array:
    """Leverage left to the bankruptcy price: `|mark value| / (mark value - bankrupt value)`, values signed by side.

    Zero where the account is already worth nothing. **Source:** BitMEX, auto-deleveraging.
    """
    return ratio_of(jnp.abs(mark_value), mark_value - bankrupt_value)


def profit_leverage_score(profit_share: Number, leverage: Number) -> Array:
    """Rank score of BitMEX: profit share x leverage for winners, profit share / leverage for losers.

    Highest goes first. profit_share is profit over entry value, leverage is effective leverage (>= 0).
    """
    return jnp.where(jnp.asarray(profit_share) > 0.0, profit_share * leverage, ratio_of(profit_share, leverage))


def price_leverage_score(price_ratio: Number, leverage: Number) -> Array:
    """Rank index of Hyperliquid: `(mark / entry) (notional / account value)` for a long; a short takes entry / mark."""
    return jnp.asarray(price_ratio * leverage)


def queue_order(
    score: Float[Array, " accounts"], account: Int[Array, " accounts"] | None = None
) -> Int[Array, " accounts"]:
    """Indices from first to last in the queue: highest score first, ties to the lowest account id.

    Without `account` the place in the array is the id; with it the queue does not depend on how rows are ordered.
    """
    if account is None:
        return jnp.argsort(-score, stable=True)
    return jnp.lexsort((account, -score))


def percentile_lights(
    quantity: Float[Array, " accounts"], score: Float[Array, " accounts"], lights: int = 5
) -> Float[Array, " accounts"]:
    """Place in the queue as traders see it, in percent: cumulative share of quantity, rounded up to 100 / lights.

    **Source:** BitMEX, auto-deleveraging (20 = next in line, 100 = last).
    """
    order = queue_order(score)
    reached = jnp.cumsum(quantity[order])
    percent = jnp.ceil(reached * float(lights) / reached[-1]) * (100.0 / lights)
    return jnp.zeros_like(quantity).at[order].set(jnp.clip(percent, 0.0, 100.0))


def overuse(taken: Float[Array, " accounts"], need: Number) -> Float[Array, ""]:
    """Taken over needed: 1 is the least harm that pays the deficit. Both must be the same unit (USD of profit)."""
    return ratio_of(jnp.sum(taken), need)


def gini(haircut: Float[Array, " accounts"]) -> Float[Array, ""]:
    """Gini coefficient of haircuts: 0 when all pay the same, near 1 when one pays all.

    `sum_k (2 k - n - 1) h_(k) / (n sum h)` over haircuts in rising order; 0 when nothing was taken.
    """
    n = haircut.shape[0]
    weight = 2.0 * lax.iota(haircut.dtype, n) + (1.0 - n)
    return ratio_of(jnp.sum(weight * jnp.sort(positive(haircut))), n * jnp.sum(positive(haircut)))
