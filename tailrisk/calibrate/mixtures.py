"""Returns of an interval with normal jumps: a mixture of normals over the number of jumps."""

from typing import Any

import jax.numpy as jnp
from jax.scipy.special import gammaln, logsumexp, ndtr
from jaxtyping import Array, Float


def by_number(
    move: Float[Array, "..."], expected: Any, shape: tuple[Any, Any, Any, Any], every: Any, most: int
) -> tuple[Float[Array, "... numbers"], Float[Array, "... numbers"]]:
    """Joint log density of a return and 0..most jumps, and the distribution function of the return given their number.

    `shape` is (volatility, mean, deviation, drift); `expected` the mean number of jumps. Compensated as in the package.
    """
    volatility, mean, deviation, drift = shape
    n = jnp.arange(most + 1.0).reshape((1,) * jnp.ndim(move) + (-1,))
    growth = jnp.expm1(mean + 0.5 * deviation**2)
    expected = jnp.broadcast_to(expected, jnp.shape(move))[..., None]
    center = (drift - 0.5 * volatility**2) * every - expected * growth + n * mean
    variance = volatility**2 * every + n * deviation**2
    weight = -expected + n * jnp.log(expected) - gammaln(n + 1.0)
    distance = move[..., None] - center
    joint = weight - 0.5 * distance**2 / variance - 0.5 * jnp.log(2.0 * jnp.pi * variance)
    return joint, jnp.exp(weight) * ndtr(distance / jnp.sqrt(variance))


def total(joint: Any, below: Any) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Log density and distribution function of the return."""
    return logsumexp(joint, axis=-1), jnp.sum(below, axis=-1)
