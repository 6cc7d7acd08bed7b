"""The clock of a halt: closed for a while, one reopening auction, a rest, then armed again.

Clocks count whole steps, because whole numbers are exact in float32 while a sum of many steps in years is not. A time
is rounded to the nearest number of steps and is at least one step if it is positive; the step length of a run does not
change.

A halt begins with the step whose *news* has crossed the level (nothing executes in that step), or with the step after
the one whose *forced orders* crossed it. Either way exactly `length` steps are closed. The first open step is a
reopening auction, in which the breaker cannot trip.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .._fields import Real
from .._hard import decisive

_TRIP = "the level of a circuit breaker"


class Clock(NamedTuple):
    """Steps still closed, open steps before it is armed again, whether the next open step is an auction."""

    closed: Float[Array, " assets"]
    rest: Float[Array, " assets"]
    auction: Bool[Array, " assets"]


def start(log_price: Float[Array, " assets"]) -> Clock:
    """An open, armed breaker."""
    return Clock(jnp.zeros_like(log_price), jnp.zeros_like(log_price), jnp.zeros(log_price.shape, bool))


def armed(clock: Clock) -> Bool[Array, " assets"]:
    """Whether the breaker may trip in this step."""
    return (clock.closed <= 0.0) & (clock.rest <= 0.0)


def auctioning(clock: Clock) -> Bool[Array, " assets"]:
    """Whether this step is the reopening auction."""
    return (clock.closed <= 0.0) & clock.auction


def advance(
    clock: Clock, by_news: Bool[Array, " assets"], by_orders: Bool[Array, " assets"], length: Real, rest: Real
) -> Clock:
    """The clock of the next step; `length` and `rest` in steps, () or (assets,)."""
    was_closed = (clock.closed > 0.0) | by_news
    spent = jnp.where(by_news, length, clock.closed) - 1.0
    closed = jnp.where(was_closed, spent, jnp.where(by_orders, length, 0.0))
    reopens = was_closed & (closed <= 0.0)
    # the auction itself is the first step of the rest
    waits = jnp.where(reopens, jnp.maximum(rest, 1.0), jnp.where(was_closed, clock.rest, clock.rest - 1.0))
    return Clock(closed, jnp.maximum(waits, 0.0), reopens)


def whole_steps(time: Real, dt: Float[Array, ""]) -> Real:
    """A time as a whole number of steps, at least one unless it is zero; it has no pathwise derivative."""
    steps = jnp.maximum(jnp.round(decisive(time / dt, "a time of a breaker in whole steps")), 1.0)
    return jnp.where(time > 0.0, steps, 0.0)


def _slack(log_price: Real) -> float:
    return 16.0 * float(jnp.finfo(log_price.dtype).eps)


def at_or_below(log_price: Real, level: Real) -> Bool[Array, "..."]:
    """Whether a level is reached from above; orders that stop exactly at the level reach it whatever the rounding."""
    return decisive(log_price, _TRIP) <= decisive(level, _TRIP) + _slack(log_price)


def at_or_above(log_price: Real, level: Real) -> Bool[Array, "..."]:
    """Whether a level is reached from below."""
    return decisive(log_price, _TRIP) >= decisive(level, _TRIP) - _slack(log_price)


def log_fall(fraction: Real) -> Real:
    """ln(1 - fraction), minus infinity for a fall of 100 % or more (no level at all)."""
    possible = fraction < 1.0
    return jnp.where(possible, jnp.log1p(-jnp.where(possible, fraction, 0.0)), -jnp.inf)
