"""What a venue lets through in a step, and the interface of the rules that decide it.

Everything is elementwise over assets: each asset has its own clocks and references. Prices are log prices relative to
the initial price. News goes on while an asset is halted: the price that is passed in keeps moving, only forced orders
wait.
"""

import abc
from collections.abc import Iterable
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


class Gate(NamedTuple):
    """What the venue lets through this step.

    `floor` and `ceiling` are trip levels and inclusive: orders execute one after the other while the price is inside,
    so the order that crosses the level is the last one to execute. `band_floor` and `band_ceiling` are limits and
    strict: nothing sells below the one or buys above the other, the rest of an order waits. Infinite where there is
    none.
    """

    open: Bool[Array, " assets"]  # forced orders may execute
    cap: Float[Array, " assets"]  # most forced volume of the step on each side, units
    floor: Float[Array, " assets"]  # log price; selling trips here
    ceiling: Float[Array, " assets"]  # log price; buying trips here
    band_floor: Float[Array, " assets"]  # log price; selling stops here
    band_ceiling: Float[Array, " assets"]  # log price; buying stops here
    auction: Bool[Array, " assets"]  # reopening auction: the backlog clears at one price, the price after


def open_gate(log_price: Float[Array, " assets"]) -> Gate:
    """A gate that lets everything through."""
    none = jnp.full_like(log_price, jnp.inf)
    yes = jnp.ones(log_price.shape, bool)
    return Gate(yes, none, -none, none, -none, none, ~yes)


class AbstractBreaker(eqx.Module):
    """Decides per step and asset what forced orders may do: `init`, `gate`, `update`, `halted`."""

    @abc.abstractmethod
    def init(self, log_price: Float[Array, " assets"]) -> Any:
        """The state of a path that starts at a price and has never been halted."""

    @abc.abstractmethod
    def gate(self, state: Any, log_price: Float[Array, " assets"], dt: Float[Array, ""]) -> Gate:
        """What may execute in this step, given the market price before forced flow. Pure: the state does not change."""

    @abc.abstractmethod
    def update(
        self,
        state: Any,
        log_price_before: Float[Array, " assets"],
        log_price_after: Float[Array, " assets"],
        volume: Float[Array, " assets"],
        dt: Float[Array, ""],
    ) -> Any:
        """Ends the step: clocks, references, trips by news or by forced orders.

        `log_price_before` is the price that `gate` has seen, `log_price_after` the price after forced flow, `volume`
        the size of the net forced volume executed, units.
        """

    @abc.abstractmethod
    def halted(self, state: Any) -> Bool[Array, " assets"]:
        """Whether the next step is closed, whatever its news."""

    @abc.abstractmethod
    def check_step(self, dt_years: float) -> Iterable[tuple[str, str]]:
        """Yields (field, complaint) for what the structural sizes cannot hold at a step length."""


class NoBreaker(AbstractBreaker):
    """Everything executes at once."""

    def init(self, log_price: Float[Array, " assets"]) -> Bool[Array, " assets"]:
        return jnp.zeros(log_price.shape, bool)

    def gate(self, state: Any, log_price: Float[Array, " assets"], dt: Float[Array, ""]) -> Gate:
        del state, dt
        return open_gate(log_price)

    def update(self, state: Any, log_price_before: Any, log_price_after: Any, volume: Any, dt: Any) -> Any:
        del log_price_before, log_price_after, volume, dt
        return state

    def halted(self, state: Bool[Array, " assets"]) -> Bool[Array, " assets"]:
        return state

    def check_step(self, dt_years: float) -> Iterable[tuple[str, str]]:
        del dt_years
        return ()
