"""Leverage, open interest and the funding of perpetual contracts, as far as they enter margin."""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

Numbers = Float[ArrayLike, "..."]


def leverage(quantity: Numbers, mark: Numbers, cash: Numbers) -> Float[Array, "..."]:
    """|quantity| x mark / cash: notional in units of the cash posted (not of equity)."""
    return jnp.abs(jnp.asarray(quantity)) * mark / cash


def open_interest(quantity: Float[Array, " accounts"], mark: Numbers) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """(long, short) notional of signed quantities, USD, both >= 0."""
    return jnp.sum(jnp.maximum(quantity, 0.0)) * mark, jnp.sum(jnp.maximum(-quantity, 0.0)) * mark


def funding_rate(
    long: Numbers, short: Numbers, mark: Numbers, oracle: Numbers, sensitivity: Numbers = 1.0
) -> Float[Array, "..."]:
    """gamma = sensitivity x (long/short open interest - mark/oracle), a fraction of notional per funding interval.

    Source: Chitra (2025), arXiv 2512.01112.
    """
    return jnp.asarray(sensitivity) * (jnp.asarray(long) / short - jnp.asarray(mark) / oracle)


def funding_cash(rate: Numbers, mark: Numbers, quantity: Numbers) -> Float[Array, "..."]:
    """Cash *to* a position of signed quantity, USD: rate x mark x quantity.

    Sums to zero only if long and short open interest agree. Source: Chitra (2025), arXiv 2512.01112.
    """
    return jnp.asarray(rate) * mark * quantity


def premium_funding(
    venue: Numbers,
    spot: Numbers,
    dt: Numbers,
    interest: Numbers = 0.0,
    *,
    lower: Numbers = -jnp.inf,
    upper: Numbers = jnp.inf,
) -> Float[Array, "..."]:
    """Payment of a long to a short per unit: f - s + clip((1 + dt r) s - f, lower s, upper s), USD/unit.

    f is the time-weighted price of the venue, s that of an external spot market, dt the interval and 1/r in the same
    unit of time; the clamps are fractions of s. Source: Vega perpetual futures specification.
    """
    f, s = jnp.asarray(venue), jnp.asarray(spot)
    return f - s + jnp.clip((1.0 + dt * interest) * s - f, lower * s, upper * s)


def funding_margin(quantity: Numbers, payment: Numbers, factor: Numbers = 0.5) -> Float[Array, "..."]:
    """Margin for funding that is due but not yet paid: factor x max(quantity x payment, 0), USD; only who owes adds it.

    Source: Vega perpetual futures specification.
    """
    return jnp.asarray(factor) * jnp.maximum(jnp.asarray(quantity) * payment, 0.0)
