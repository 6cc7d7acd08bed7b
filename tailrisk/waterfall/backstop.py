"""Positions the venue takes over, and how it gets rid of them."""

from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._fields import Real, duration, real
from .._hard import decisive
from .closing import covered, positive

_REST = "the size at which the backstop sells the rest"
Assets = Float[Array, " assets"]


def average_price_trade(
    quantity: Assets, average: Assets, change: Assets, price: Assets
) -> tuple[Assets, Assets, Assets]:
    """Books a trade at average price: the new quantity, the new average price and the profit it realizes.

    Additions average the entry; reductions realize `closed (price - average)` and leave the average; a flip closes the
    old lot and opens the rest at the new price. Always: realized + quantity' (p - average') = quantity (p - average) +
    change (p - price), at any p. The average of a flat position is 0.
    """
    after = quantity + change
    adding = quantity * change >= 0.0
    flipped = quantity * after < 0.0
    closed = jnp.where(adding, 0.0, jnp.where(flipped, quantity, -change))
    realized = closed * (price - average)
    flat = after == 0.0
    blend = average + (price - average) * change / jnp.where(flat, 1.0, after)
    kept = jnp.where(adding, blend, jnp.where(flipped, price, average))
    return after, jnp.where(flat, 0.0, kept), realized


class Inventory(NamedTuple):
    """Positions of the backstop; realized counts profit since the start, paid counts deficits it covered (USD)."""

    quantity: Assets  # units, + long, - short
    price: Assets  # average price, USD/unit
    realized: Float[Array, ""]
    paid: Float[Array, ""]
    clock: Float[Array, ""]  # year since the last scheduled trade


class Backstop(eqx.Module):
    """A venue-owned liquidity provider that takes positions over, unwinds them on a schedule and pays deficits.

    Every `interval` it trades `fraction` of the inventory, all of it once at or below `cutoff` units, never more than
    `share` of the depth it is given. Simplified: intervals run from the start of the path, not from the takeover, and a
    trade that finds no room is not made up for before the next interval.
    """

    capital: Real = real(0.0, unit="USD", least=0.0)
    fraction: Real = real(0.1, unit="1", above=0.0, most=1.0)
    interval: Real = duration("1min")
    cutoff: Real = real(0.0, unit="units", least=0.0)
    share: Real = real(0.1, unit="1", above=0.0, most=1.0)

    def init(self, assets: int, dtype: Any) -> Inventory:
        """An empty inventory."""
        none, zero = jnp.zeros((assets,), dtype), jnp.zeros((), dtype)
        return Inventory(none, none, zero, zero, zero)

    def take(self, state: Inventory, quantity: Assets, price: Assets) -> Inventory:
        """Takes positions over at a price, usually the bankruptcy price: + adds longs, - adds shorts."""
        after, average, realized = average_price_trade(state.quantity, state.price, quantity, price)
        return state._replace(quantity=after, price=average, realized=state.realized + jnp.sum(realized))

    def unwind(self, state: Inventory, dt: Any, limit: Assets) -> tuple[Assets, Inventory]:
        """Scheduled volume of this step, net selling in units, and the state with its clock moved on.

        `limit` is the depth (or volume) of the step in units; 0 where active price bounds forbid trading.
        """
        clock = state.clock + dt
        intervals = decisive(clock / self.interval, "the schedule of the backstop")
        passed = jnp.floor(intervals + 1e-3)  # steps of one interval must not miss by rounding
        size = jnp.abs(state.quantity)
        wanted = size * (1.0 - (1.0 - self.fraction) ** passed)
        rest = decisive(size, _REST) <= decisive(self.cutoff, _REST)
        wanted = jnp.where(passed > 0.0, jnp.where(rest, size, wanted), 0.0)
        volume = jnp.sign(state.quantity) * covered(wanted, self.share * positive(limit))
        return volume, state._replace(clock=clock - passed * self.interval)

    def fill(self, state: Inventory, volume: Assets, price: Assets) -> Inventory:
        """Books an executed unwind: `volume` net selling in units at average execution prices."""
        return self.take(state, -volume, price)

    def value(self, state: Inventory, price: Assets) -> Float[Array, ""]:
        """Equity of the backstop at a price, USD: capital + realized - paid + open profit."""
        return self.capital + state.realized - state.paid + jnp.sum(state.quantity * (price - state.price))

    def absorb(self, state: Inventory, need: Float[Array, ""], price: Assets) -> tuple[Inventory, Float[Array, ""]]:
        """Pays a deficit as far as its equity at the price goes; returns the state and what it paid, USD."""
        paid = covered(need, positive(self.value(state, price)))
        return state._replace(paid=state.paid + paid), paid
