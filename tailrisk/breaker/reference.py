"""References: the price from which a breaker measures a fall or a rise.

A reference is updated at the end of each step with the price after forced flow, so the step that falls is never part of
its own reference. At the start the price is taken to have been constant.
"""

import abc
from collections.abc import Iterable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .._averages import exponential_average, filled, forget, misfit, remember, window_average
from .._fields import Real, choice, count, duration
from .clock import whole_steps


class Sides(NamedTuple):
    """Log prices from which falls and rises are measured."""

    falls: Float[Array, " assets"]
    rises: Float[Array, " assets"]


class AbstractReference(eqx.Module):
    """A reference price of each asset; every leaf of its state has `assets` as last axis."""

    @abc.abstractmethod
    def init(self, log_price: Float[Array, " assets"]) -> Any:
        """The state of a path whose price has been `log_price` for ever."""

    @abc.abstractmethod
    def sides(self, state: Any, dt: Float[Array, ""]) -> Sides:
        """The references of the coming step."""

    @abc.abstractmethod
    def update(self, state: Any, log_price: Float[Array, " assets"], dt: Float[Array, ""]) -> Any:
        """Takes in the price at the end of a step."""

    @abc.abstractmethod
    def reopen(self, state: Any, log_price: Float[Array, " assets"]) -> Any:
        """Takes in the price of a reopening auction, after `update`."""

    @abc.abstractmethod
    def check_step(self, dt_years: float) -> Iterable[tuple[str, str]]:
        """Yields (field, complaint) for what the structural sizes cannot hold at a step length."""


def pick(where: Bool[Array, " assets"], yes: Any, no: Any) -> Any:
    """Chooses between two states of a reference asset by asset."""
    return jax.tree.map(lambda a, b: jnp.where(jnp.broadcast_to(where, a.shape), a, b), yes, no)


class Fixed(NamedTuple):
    """The reference and the steps until it is set anew."""

    log_price: Float[Array, " assets"]
    left: Float[Array, " assets"]


class FixedReference(AbstractReference):
    """The price at the start of each `period` (of the path, if the period is infinite), such as a previous close.

    A reopening leaves it as it is ("keep"), or sets it to the price of the auction for the rest of the period
    ("renew").
    """

    period: Real = duration("inf d")
    reopening: str = choice("keep", "keep", "renew")

    def init(self, log_price: Float[Array, " assets"]) -> Fixed:
        return Fixed(log_price, jnp.zeros_like(log_price))

    def sides(self, state: Fixed, dt: Float[Array, ""]) -> Sides:
        del dt
        return Sides(state.log_price, state.log_price)

    def update(self, state: Fixed, log_price: Float[Array, " assets"], dt: Float[Array, ""]) -> Fixed:
        # zero left at the start of a period; a period of n steps is renewed at the end of its n-th step
        left = jnp.where(state.left <= 0.0, whole_steps(self.period, dt), state.left) - 1.0
        return Fixed(jnp.where(left <= 0.0, log_price, state.log_price), left)

    def reopen(self, state: Fixed, log_price: Float[Array, " assets"]) -> Fixed:
        return state if self.reopening == "keep" else Fixed(log_price, state.left)

    def check_step(self, dt_years: float) -> Iterable[tuple[str, str]]:
        del dt_years
        return ()


class WindowMean(AbstractReference):
    """The arithmetic mean price of the last `window`; a reopening auction starts a new window at its price."""

    window: Real = duration("5min")
    slots: int = count(20, least=1)  # steps of memory

    def init(self, log_price: Float[Array, " assets"]) -> Float[Array, "slots assets"]:
        return filled(log_price, self.slots)

    def sides(self, state: Float[Array, "slots assets"], dt: Float[Array, ""]) -> Sides:
        mean = window_average(state, self.window / dt, "arithmetic")
        return Sides(mean, mean)

    def update(
        self, state: Float[Array, "slots assets"], log_price: Float[Array, " assets"], dt: Float[Array, ""]
    ) -> Float[Array, "slots assets"]:
        del dt
        return remember(state, log_price)

    def reopen(
        self, state: Float[Array, "slots assets"], log_price: Float[Array, " assets"]
    ) -> Float[Array, "slots assets"]:
        del state
        return filled(log_price, self.slots)

    def check_step(self, dt_years: float) -> Iterable[tuple[str, str]]:
        complaint = misfit(self.window, self.slots, dt_years)
        return () if complaint is None else (("window", complaint),)


class RollingExtremes(AbstractReference):
    """Falls are measured from the highest and rises from the lowest price of the last `window` (rounded to steps).

    A reopening auction starts a new window at its price.
    """

    window: Real = duration("1h")
    slots: int = count(60, least=1)  # steps of memory

    def init(self, log_price: Float[Array, " assets"]) -> Float[Array, "slots assets"]:
        return filled(log_price, self.slots)

    def sides(self, state: Float[Array, "slots assets"], dt: Float[Array, ""]) -> Sides:
        rows = jnp.arange(self.slots, dtype=state.dtype)
        steps = jnp.broadcast_to(whole_steps(self.window, dt), state.shape[1:])
        recent = rows[:, None] < steps[None, :]
        return Sides(
            jnp.max(jnp.where(recent, state, -jnp.inf), axis=0), jnp.min(jnp.where(recent, state, jnp.inf), axis=0)
        )

    def update(
        self, state: Float[Array, "slots assets"], log_price: Float[Array, " assets"], dt: Float[Array, ""]
    ) -> Float[Array, "slots assets"]:
        del dt
        return remember(state, log_price)

    def reopen(
        self, state: Float[Array, "slots assets"], log_price: Float[Array, " assets"]
    ) -> Float[Array, "slots assets"]:
        del state
        return filled(log_price, self.slots)

    def check_step(self, dt_years: float) -> Iterable[tuple[str, str]]:
        complaint = misfit(self.window, self.slots, dt_years)
        return () if complaint is None else (("window", complaint),)


class ExponentialReference(AbstractReference):
    """The exponential moving average price; a reopening auction sets it to its price."""

    half_life: Real = duration("5min")

    def init(self, log_price: Float[Array, " assets"]) -> Float[Array, " assets"]:
        return log_price

    def sides(self, state: Float[Array, " assets"], dt: Float[Array, ""]) -> Sides:
        del dt
        return Sides(state, state)

    def update(
        self, state: Float[Array, " assets"], log_price: Float[Array, " assets"], dt: Float[Array, ""]
    ) -> Float[Array, " assets"]:
        return exponential_average(state, log_price, forget(self.half_life, dt), "arithmetic")

    def reopen(self, state: Float[Array, " assets"], log_price: Float[Array, " assets"]) -> Float[Array, " assets"]:
        del state
        return log_price

    def check_step(self, dt_years: float) -> Iterable[tuple[str, str]]:
        del dt_years
        return ()
