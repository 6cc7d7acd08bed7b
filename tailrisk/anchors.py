"""Closed forms that simulations must reproduce: first passage, the zero-rate put, bad debt of one delayed liquidation.

All of them are for driftless geometric Brownian motion, differentiable, elementwise; use float64 where small
probabilities matter (a put is a difference of near-equal numbers). Times are in years, volatility in 1/sqrt(year).
"""

import jax.numpy as jnp
from jax.scipy.special import log_ndtr, ndtr
from jax.typing import ArrayLike
from jaxtyping import Array, Float

Numbers = Float[ArrayLike, "..."]

MONITORING_SHIFT = 0.5825971579390106
"""-zeta(1/2) / sqrt(2 pi), Broadie, Glasserman and Kou (1997)."""


def first_passage_probability(
    price: Numbers, barrier: Numbers, volatility: Numbers, horizon: Numbers
) -> Float[Array, "..."]:
    """Probability H that a driftless geometric Brownian motion touches a barrier below its start within a time.

        H = Phi((a + w/2) / sqrt(w)) + exp(-a) Phi((a - w/2) / sqrt(w)),
        a = ln(barrier / price) < 0,   w = volatility^2 T

    1 where the barrier is at or above the price, 0 where it is zero. Source: reflection principle under a change of measure.
    """
    ratio = jnp.asarray(barrier) / price
    inside = (ratio > 0.0) & (ratio < 1.0)
    a = jnp.log(jnp.where(inside, ratio, 0.5))
    sd = jnp.asarray(volatility) * jnp.sqrt(jnp.asarray(horizon))
    touched = ndtr(a / sd + 0.5 * sd) + jnp.exp(-a + log_ndtr(a / sd - 0.5 * sd))
    return jnp.where(inside, touched, jnp.where(ratio > 0.0, 1.0, 0.0))


def zero_rate_put(price: Numbers, strike: Numbers, volatility: Numbers, time: Numbers) -> Float[Array, "..."]:
    """Value of a put at zero rate: K Phi(-d2) - S Phi(-d1), in the unit of the price (Black and Scholes 1973)."""
    price, strike = jnp.asarray(price), jnp.asarray(strike)
    sd = jnp.asarray(volatility) * jnp.sqrt(jnp.asarray(time))
    d1 = jnp.log(price / strike) / sd + 0.5 * sd
    return strike * ndtr(sd - d1) - price * ndtr(-d1)


def expected_bad_debt_delayed(
    maintenance_rate: Numbers,
    *,
    price: Numbers,
    leverage: Numbers,
    volatility: Numbers,
    horizon: Numbers,
    delay: Numbers,
    quantity: Numbers = 1.0,
) -> Float[Array, "..."]:
    """Expected bad debt of one isolated long that is sold exactly `delay` after its mark touched p^L, no impact, USD.

        E[BD] = q H(p0, p^L, sigma, T) Put(p^L, p^B, sigma, delay),   p^B = p0 (1 - 1/L),   p^L = p^B / (1 - m)

    Touches before T count even if the sale comes after it. Its derivative in m is the reference of all gradient
    estimators. Source: the two formulas above, by the strong Markov property at the touch.
    """
    bankruptcy = jnp.asarray(price) * (1.0 - 1.0 / jnp.asarray(leverage))
    liquidation = bankruptcy / (1.0 - jnp.asarray(maintenance_rate))
    touched = first_passage_probability(price, liquidation, volatility, horizon)
    return jnp.asarray(quantity) * touched * zero_rate_put(liquidation, bankruptcy, volatility, delay)


def monitored_barrier(barrier: Numbers, volatility: Numbers, dt: Numbers) -> Float[Array, "..."]:
    """Barrier below the price that, watched continuously, is touched as often as `barrier` watched every `dt`.

        barrier exp(-0.5826 volatility sqrt(dt))

    To make a watched barrier act like a continuous one, divide by the factor instead. The error is o(sqrt(dt)).
    Source: Broadie, Glasserman and Kou (1997).
    """
    return jnp.asarray(barrier) * jnp.exp(-MONITORING_SHIFT * volatility * jnp.sqrt(jnp.asarray(dt)))
