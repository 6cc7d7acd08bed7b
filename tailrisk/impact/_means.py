"""Averages of an exponential that keep their digits when the exponent is small."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

_NEAR = 0.5  # below it the series are exact to rounding in double precision
_LOG_MEAN = (1 / 24, -1 / 2880, 1 / 181440, -1 / 9676800, 1 / 479001600)
_FIRST_MOMENT = (
    *(-1 / 3, 1 / 8, -1 / 30, 1 / 144, -1 / 840, 1 / 5760, -1 / 45360, 1 / 403200, -1 / 3991680),
    *(1 / 43545600, -1 / 518918400, 1 / 6706022400),
)


def _series(coefficients: tuple[float, ...], x: Any) -> Any:
    value = jnp.full_like(x, coefficients[-1])
    for c in reversed(coefficients[:-1]):
        value = value * x + c
    return value


def log_mean(drop: Float[Array, " assets"]) -> Float[Array, " assets"]:
    """log of int_0^1 exp(-D y) dy = log((1 - e^-D) / D), the average price while log price falls evenly by D."""
    small = jnp.abs(drop) < _NEAR
    near = jnp.where(small, drop, 0.0)
    far = jnp.where(small, 1.0, jnp.abs(drop))
    square = near * near
    return jnp.where(
        small,
        square * _series(_LOG_MEAN, square) - 0.5 * near,
        jnp.log(-jnp.expm1(-far) / far) + jnp.maximum(-drop, 0.0),
    )


def moments(drop: Float[Array, " assets"]) -> tuple[Float[Array, " assets"], Float[Array, " assets"]]:
    """int_0^1 exp(-D y) dy - 1 and int_0^1 y exp(-D y) dy - 1/2; both vanish like D."""
    small = jnp.abs(drop) < _NEAR
    near, far = jnp.where(small, drop, 0.0), jnp.where(small, 1.0, drop)
    first_near = near * _series(_FIRST_MOMENT, near)
    zeroth_far = -jnp.expm1(-far) / far - 1.0
    first_far = zeroth_far / far + zeroth_far + 0.5
    zeroth = jnp.where(small, near * (first_near - 0.5) / (1.0 + near), zeroth_far)
    return zeroth, jnp.where(small, first_near, first_far)
