"""Memory of past log prices: a shift register, and averages that are exact for a price that does not move.

A history has shape (slots, assets); row j is j steps older than row 0. Lengths of time come in steps and may be
fractions: the weights of the rows are continuous in them, so a delay or a window has an exact pathwise derivative.
"""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ._fields import SECONDS_PER_YEAR, Real


def remember(history: Float[Array, "slots assets"], value: Float[Array, " assets"]) -> Float[Array, "slots assets"]:
    """Puts a value in row 0 and forgets the oldest row."""
    return jnp.concatenate([value[None, :], history])[: history.shape[0]]


def filled(value: Float[Array, " assets"], slots: int) -> Float[Array, "slots assets"]:
    """A history in which the value has always been the same."""
    return jnp.broadcast_to(value, (slots, *value.shape))


def lookup(history: Float[Array, "slots assets"], steps: Real) -> Float[Array, " assets"]:
    """The value `steps` ago, linear between rows: row k and row k + 1 with weights 1 - a and a at k + a steps."""
    rows = jnp.arange(history.shape[0], dtype=history.dtype)
    back = jnp.broadcast_to(jnp.minimum(steps, history.shape[0] - 1.0), history.shape[1:])
    weight = jnp.maximum(1.0 - jnp.abs(rows[:, None] - back[None, :]), 0.0)
    return jnp.sum(weight * history, axis=0)


def window_average(history: Float[Array, "slots assets"], steps: Real, mean: str) -> Float[Array, " assets"]:
    """Log of the average price of the last `steps` rows (at least one); `mean` is "arithmetic" or "geometric"."""
    rows = jnp.arange(history.shape[0], dtype=history.dtype)
    long = jnp.broadcast_to(jnp.clip(steps, 1.0, float(history.shape[0])), history.shape[1:])
    weight = jnp.clip(long[None, :] - rows[:, None], 0.0, 1.0) / long[None, :]
    away = history - history[0][None, :]
    if mean == "geometric":
        return history[0] + jnp.sum(weight * away, axis=0)
    return history[0] + jnp.log1p(jnp.sum(weight * jnp.expm1(away), axis=0))


def forget(half_life: Real, dt: Float[Array, ""]) -> Real:
    """Weight of the newest value in an exponential average, 1 - 2^(-dt / half_life)."""
    return -jnp.expm1(-math.log(2.0) * (dt / half_life))


def exponential_average(
    average: Float[Array, " assets"], value: Float[Array, " assets"], weight: Real, mean: str
) -> Float[Array, " assets"]:
    """Log of the exponential average price after one more value; `mean` is "arithmetic" or "geometric"."""
    if mean == "geometric":
        return average + weight * (value - average)
    return average + jnp.log1p(weight * jnp.expm1(value - average))


def misfit(length: Any, slots: int, dt_years: float) -> str | None:
    """Says so if `slots` steps do not hold a length of time (years); a part in a million is rounding."""
    steps = float(np.max(np.asarray(length))) / dt_years
    if steps <= slots * (1.0 + 1e-6):
        return None
    step = dt_years * SECONDS_PER_YEAR
    need = f"slots={math.ceil(steps * (1.0 - 1e-6))}" if math.isfinite(steps) else "a finite time"
    return f"{steps:g} steps of {step:g} s are longer than the {slots} slots kept; use {need} or a longer step"
