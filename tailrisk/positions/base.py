"""What the cascade asks of positions, whatever they are made of.

Positions come in two kinds behind this one interface: a *ladder* (static positions in one asset; who has been liquidated is
a place on a sorted list) and *accounts* (margin groups x assets; cross margin, partial closes, top-ups). Orders are a value
of the positions' own type: what the venue has decided to close. They only grow inside a step.
"""

import abc
from typing import Any, NamedTuple

import equinox as eqx
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from .._fields import Real
from ..waterfall.base import Closing


class Book(eqx.Module):
    """A population of margin groups, as it stands before the first step.

    A margin group is what shares one pool of cash: one isolated position, or all positions of a cross account. Equity of
    group g at prices p is `cash[g] + sum_a quantity[g, a] (p[a] - entry[g, a])`.
    """

    quantity: Float[np.ndarray, "groups assets"]  # units, + long, - short
    entry: Float[np.ndarray, "groups assets"]  # USD/unit
    cash: Float[np.ndarray, " groups"]  # USD posted
    account: Int[np.ndarray, " groups"]  # owner; several isolated groups may have one owner
    weight: Float[np.ndarray, " groups"]  # how many identical groups a row stands for
    reserve: Float[np.ndarray, " groups"]  # USD the owner could still post when called

    def check(self):
        rows = self.quantity.shape[0]
        if rows == 0:
            yield "quantity", "the book is empty; give it at least one position"
        for name in ("quantity", "entry", "cash", "weight", "reserve"):
            value = np.asarray(getattr(self, name))
            wrong = np.argwhere(~np.isfinite(value))
            if wrong.size:
                yield name, f"row {wrong[0][0]} is {value[tuple(wrong[0])]}, expected a finite number"
        if (np.asarray(self.weight) <= 0).any():
            yield "weight", "expected weights > 0"
        if (np.asarray(self.entry) <= 0).any():
            yield "entry", "expected entry prices > 0"


class Limits(NamedTuple):
    """How much may execute in a step, per asset. Volumes are gross units of forced selling (sell_*) or buying (buy_*).

    `cap` is strict: executed volume stays at or below it. `room` is inclusive: orders execute until the volume passes it
    (a breaker is checked before each order, so the order that trips it is the last one to execute).
    """

    open: Bool[Array, " assets"]
    sell_cap: Float[Array, " assets"]
    buy_cap: Float[Array, " assets"]
    sell_room: Float[Array, " assets"]
    buy_room: Float[Array, " assets"]


LIMIT = "the volume that a breaker lets through"


class AbstractPositions(eqx.Module):
    """Positions of one scenario, built once from a `Book`; tables are leaves, the state of a path is small or P x N."""

    price: eqx.AbstractVar[Real]  # p0, (assets,) USD/unit
    sparse: eqx.AbstractClassVar[bool]  # few paths have something to do in a step, and `needed` says which
    backstopped: eqx.AbstractClassVar[bool]  # positions may be handed over to a backstop

    @abc.abstractmethod
    def init(self, dtype: Any) -> Any:
        """The state of a path before the first step."""

    @abc.abstractmethod
    def standing(self, state: Any, log_mark: Float[Array, " assets"] | None = None) -> Any:
        """Orders the venue still holds from earlier steps (the backlog of a halt or throttle).

        A mark is given where nothing can wait and sales cannot bring what is not in breach at the mark on the other side
        into breach.
        """

    @abc.abstractmethod
    def whole(self, state: Any, order: Any) -> Any:
        """The orders of the whole book, where `standing` left a part out: what is booked from here on has the same bits."""

    @abc.abstractmethod
    def needed(self, state: Any, log_mark: Float[Array, " assets"], level: Float[Array, " assets"]) -> Bool[Array, ""]:
        """Whether the step has anything to close: an order that stands, or a breach at the mark."""

    @abc.abstractmethod
    def breached(
        self, state: Any, order: Any, log_mark: Float[Array, " assets"], level: Float[Array, " assets"]
    ) -> Any:
        """Adds what is below maintenance at the mark to the orders. `level` multiplies the margin requirement."""

    @abc.abstractmethod
    def volume(self, state: Any, order: Any, limits: Limits | None) -> tuple[Float[Array, " assets"], Any]:
        """Net forced selling that executes under the limits (None: all), in units, and the executed part of the orders."""

    @abc.abstractmethod
    def settle(
        self, state: Any, order: Any, executed: Any, log_fill: Float[Array, " assets"], crash: Float[Array, ""], dt: Any
    ) -> tuple[Any, Closing]:
        """Books settle at the fill: closed positions become cash, deficits and surpluses are counted and set to zero."""

    @abc.abstractmethod
    def held_back(self, state: Any, closed: Bool[Array, " assets"], orders: Any) -> Any:
        """`orders` and those that stand in a market that is closed."""

    @abc.abstractmethod
    def among(self, state: Any, order: Any, executed: Any, orders: Any) -> tuple[Any, Any]:
        """The orders, and what of them executes, of groups in `orders` alone: what `settle` then books is theirs."""

    @abc.abstractmethod
    def equity(self, state: Any, log_price: Float[Array, " assets"]) -> Float[Array, ""]:
        """Sum of equities of all groups that are still open, marked at a price; USD."""

    @abc.abstractmethod
    def open_deficit(
        self, state: Any, log_price: Float[Array, " assets"]
    ) -> tuple[Float[Array, ""], Float[Array, " assets"]]:
        """Sum of negative equities (>= 0, USD) of groups still open at a price, and their signed units."""

    @abc.abstractmethod
    def gross(self) -> Float[Array, ""]:
        """Gross initial notional of the whole book, USD."""

    @abc.abstractmethod
    def holdings(self, state: Any) -> Float[Array, " assets"]:
        """Net open quantity, units (the counterparty book holds the opposite)."""

    @abc.abstractmethod
    def profit(self, state: Any, log_price: Float[Array, " assets"]) -> Float[Array, "2 assets"]:
        """Unrealised profit since the start of open longs (row 0) and shorts (row 1) in profit: what deleveraging can take."""

    @abc.abstractmethod
    def deleverage(
        self, state: Any, amount: Float[Array, "2 assets"], contracts: Float[Array, "2 assets"], log_price: Any
    ) -> Any:
        """Takes USD `amount` of profit from winning longs (row 0) and shorts (row 1) and closes `contracts` of theirs."""
