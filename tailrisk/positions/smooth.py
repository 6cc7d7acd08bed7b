"""The continuum ladder: monotone tables instead of accounts, so that plain differentiation is exact.

Coordinates are those of `sorted.py`. A class is a side and a margin tier; inside a class an account is a point

    a = s log((q p0 - s (E0 + D)) / (q p0)),       threshold = a + shift,   shift = -s log(1 - s r)

with r and D the tier's rate and deduction. Tables hold the units and the equity of all accounts of a class above a; rates
enter through the shifts alone, so the derivative with respect to a margin rate flows through table look-ups.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from .._fields import AnyArray, InputError, Real, to_real
from .._hard import decisive
from ..waterfall.base import Closing
from .base import LIMIT, AbstractPositions, Book, Limits

LOWEST = -2.5  # side-coordinate of the last table entry: a fall of 92 %; who is safe beyond is never closed
HIGHEST = 0.1


class SmoothState(NamedTuple):
    """`sold` and `ordered`: side-coordinates down to which each side is closed and to be closed; `haircut` as in the
    exact ladder."""

    sold: Float[Array, "2"]
    ordered: Float[Array, "2"]
    haircut: Float[Array, "2"]


class SmoothThresholds(AbstractPositions):
    """A book as densities of liquidation levels, closed in full when in breach.

    A step's forced volume is a difference of two table entries and is piecewise linear in every parameter. Against the exact
    ladder of the same book the error is that of spreading accounts over a cell (1/cells); against the limit of infinitely
    many accounts, exact to the same order.

    **Simplified:** accounts of one tier share one mean deduction per unit in the test for a deficit (exact under flat
    margins and in the first tier). The rest as in `SortedThresholds`.
    """

    price: Real  # (1,)
    units: Float[Array, "2 tiers nodes"]  # cumulative from the top of the grid down
    money: Float[Array, "2 tiers nodes"]  # USD equity at p0, cumulative
    rates: Float[AnyArray, " tiers"]
    deduction: Float[AnyArray, "2 tiers"]  # mean deduction of a tier per unit notional at p0
    fee: Real
    sparse = False
    backstopped = False

    @classmethod
    def build(cls, book: Book, price: Any, margin: Any, fee: Any, cells: int, dtype: Any) -> "SmoothThresholds":
        """Spreads the accounts of a book over a grid of `cells` cells, linearly between the two nearest nodes.

        Cash and weights of the book and lines of the margin may be traced: the tables are then differentiable in them.
        """
        if np.asarray(book.quantity).shape[1] != 1:
            raise InputError('a ladder holds one asset; use positions.kind = "Accounts" for several')
        spot = np.asarray(price, float).reshape(1)
        rates, deductions = (line[0] for line in margin.lines())
        xp = jnp if any(isinstance(x, jax.Array) for x in (book.cash, book.weight, rates, deductions)) else np
        quantity, weight = np.asarray(book.quantity, float)[:, 0], xp.asarray(book.weight, float)
        equity = book.cash + quantity * (spot - np.asarray(book.entry, float)[:, 0])
        size, side = np.abs(quantity), np.sign(quantity)
        value = size * spot
        relative = (value[:, None] - side[:, None] * (equity[:, None] + deductions[None, :])) / value[:, None]
        # A level below the grid is nobody's: the bound keeps its logarithm finite.
        level = side[:, None] * xp.log(xp.maximum(relative, 0.5 * np.exp(LOWEST)))
        breach = level - side[:, None] * xp.log(1.0 - side[:, None] * rates[None, :])
        tier = breach.argmax(axis=1)
        place = xp.take_along_axis(level, tier[:, None], axis=1)[:, 0]
        # A node's amount is spread over the cell above it, so its middle lies half a cell higher.
        position = (HIGHEST - xp.maximum(place, LOWEST)) / (HIGHEST - LOWEST) * cells
        position = xp.clip(position + 0.5, 0.0, cells - 1e-9)
        cell = position.astype(int)
        part = position - cell.astype(position.dtype)
        shape = (2, rates.size, cells + 1)
        row = (np.where(side < 0, rates.size, 0) + tier) * (cells + 1) + cell

        def table(amount: Any) -> Any:
            # Linear spreading keeps each account's amount and mean level; the cell's upper node is filled first.
            both = xp.concatenate([amount * (1.0 - part), amount * part])
            return _added(xp, shape, xp.concatenate([row, row + 1]), both)

        units, money = table(weight * size), table(weight * equity)
        mean = _added(xp, shape[:2], row // (cells + 1), weight * xp.asarray(deductions)[tier])
        held = spot[0] * units.sum(axis=2)
        mean = xp.where(
            held > 0.0, mean / xp.where(held > 0.0, held, 1.0), 0.0
        )  # an empty tier has no derivative either
        return cls(  # pyright: ignore[reportCallIssue]
            price=to_real(spot),
            units=jnp.asarray(xp.cumsum(units, axis=2), dtype),
            money=jnp.asarray(xp.cumsum(money, axis=2), dtype),
            rates=to_real(rates),
            deduction=to_real(mean),
            fee=to_real(fee),
        )

    def init(self, dtype: Any) -> SmoothState:
        """Nobody is closed: both sides stand at the top of the grid."""
        top = jnp.full(2, HIGHEST, dtype)
        return SmoothState(top, top, jnp.zeros(2, dtype))

    def _sign(self) -> Float[Array, "2"]:
        return jnp.asarray([1.0, -1.0], self.units.dtype)

    def _above(self, place: Float[Array, "2 tiers"]) -> Float[Array, "2 tiers 2"]:
        """(units, money) of each class above a place on its grid, linear between nodes."""
        nodes = self.units.shape[2]
        position = (HIGHEST - place) * ((nodes - 1) / (HIGHEST - LOWEST))
        position = jnp.clip(position, 0.0, nodes - 1.0)
        cell = jnp.minimum(position.astype(jnp.int32), nodes - 2)
        part = (position - cell.astype(position.dtype))[..., None]
        row = jnp.arange(place.size, dtype=jnp.int32).reshape(place.shape) * nodes + cell
        flat = jnp.stack([self.units.reshape(-1), self.money.reshape(-1)], axis=-1)
        first, second = flat[row], flat[row + 1]
        return first + part * (second - first)

    def _places(self, side_level: Float[Array, "2"]) -> Float[Array, "2 tiers"]:
        """Grid places of the accounts whose threshold is a side level."""
        sign = self._sign()[:, None]
        return side_level[:, None] + sign * jnp.log1p(-sign * self.rates[None, :])

    def _between(self, high: Float[Array, "2"], low: Float[Array, "2"]) -> Float[Array, "2 tiers 2"]:
        """Amounts with a threshold in (low, high]."""
        return self._above(self._places(low)) - self._above(self._places(high))

    def standing(self, state: SmoothState, log_mark: Any = None) -> Float[Array, "2"]:
        """The levels ordered closed so far."""
        return state.ordered

    def whole(self, state: SmoothState, order: Float[Array, "2"]) -> Float[Array, "2"]:
        """Nothing is ever left out."""
        del state
        return order

    def needed(self, state: SmoothState, log_mark: Any, level: Any) -> Bool[Array, ""]:
        """Always: a continuum has somebody at every level."""
        del state, log_mark, level
        return jnp.asarray(True)

    def breached(self, state: SmoothState, order: Float[Array, "2"], log_mark: Float[Array, " 1"], level: Any) -> Any:
        """Lowers the ordered level of each side to the mark."""
        del state, level
        return jnp.minimum(order, jnp.concatenate([log_mark, -log_mark]))

    def volume(self, state: SmoothState, order: Float[Array, "2"], limits: Limits | None) -> tuple[Any, Any]:
        """Net selling between the sold and the ordered level, cut where a limit is reached."""
        executed = order if limits is None else self._limited(state.sold, order, limits)
        units = jnp.sum(self._between(state.sold, executed)[..., 0], axis=1)
        return units[:1] - units[1:], executed

    def _limited(self, sold: Float[Array, "2"], order: Float[Array, "2"], limits: Limits) -> Float[Array, "2"]:
        cap = jnp.concatenate([limits.sell_cap, limits.buy_cap])
        room = jnp.concatenate([limits.sell_room, limits.buy_room]) * (1.0 + 1e-4)  # just past the level it may trip
        # The bisection below finds the level but not its derivative.
        allowed = decisive(jnp.where(limits.open, jnp.minimum(cap, room), 0.0), LIMIT)

        def halve(ends: Any, _: None) -> tuple[Any, None]:
            good, bad = ends
            middle = 0.5 * (good + bad)
            fits = decisive(jnp.sum(self._between(sold, middle)[..., 0], axis=1), LIMIT) <= allowed
            return (jnp.where(fits, middle, good), jnp.where(fits, bad, middle)), None

        whole = decisive(jnp.sum(self._between(sold, order)[..., 0], axis=1), LIMIT) <= allowed
        (good, _), _ = jax.lax.scan(halve, (sold, order), None, length=30)
        return jnp.where(whole, order, good)

    def _equity(self, sums: Float[Array, "2 tiers 2"], side_level: Float[Array, "2"]) -> Float[Array, "2 tiers"]:
        sign = self._sign()
        move = self.price[0] * sign * jnp.expm1(sign * side_level)
        return sums[..., 1] + sums[..., 0] * move[:, None]

    def _negative(self, high: Any, low: Any, side_level: Float[Array, "2"], fee: Any) -> tuple[Any, Any]:
        """Sum of (fee notional - equity) where positive, over thresholds in (low, high], and its units."""
        sign = self._sign()[:, None]
        price = jnp.exp(sign * side_level[:, None])
        worthless = jnp.maximum(price * (1.0 - sign * fee) - sign * self.deduction, 1e-6)
        turn = sign * jnp.log(worthless)  # the account whose equity is just the fee
        start, stop = self._places(high), self._places(low)
        turn = jnp.clip(turn, jnp.minimum(stop, start), start)
        sums = self._above(turn) - self._above(start)
        owed = fee * self.price[0] * sums[..., 0] * price - self._equity(sums, side_level)
        return jnp.sum(jnp.maximum(owed, 0.0), axis=1), jnp.sum(sums[..., 0], axis=1)

    def settle(
        self, state: SmoothState, order: Any, executed: Any, log_fill: Float[Array, " 1"], crash: Any, dt: Any
    ) -> tuple[SmoothState, Closing]:
        """Closes the levels from `sold` to `executed` at one fill price."""
        del crash, dt
        fill = jnp.concatenate([log_fill, -log_fill])
        sums = self._between(state.sold, executed)
        deficit, bankrupt = self._negative(state.sold, executed, fill, jnp.zeros_like(self.fee))
        short_of_fee, _ = self._negative(state.sold, executed, fill, self.fee)
        units = jnp.sum(sums[..., 0], axis=1)
        notional = units * self.price[0] * jnp.exp(log_fill[0])
        fee = self.fee * notional - short_of_fee + deficit
        surplus = jnp.sum(self._equity(sums, fill), axis=1) + deficit - fee
        closing = Closing(
            deficit=jnp.sum(deficit),
            fee=jnp.sum(fee),
            surplus=jnp.sum(surplus),
            deposit=jnp.zeros_like(deficit[0]),
            notional=jnp.sum(notional),
            opened=jnp.sum(units) * self.price[0],
            bankrupt=bankrupt[:1] - bankrupt[1:],
        )
        return state._replace(sold=executed, ordered=jnp.minimum(order, executed)), closing

    def held_back(self, state: SmoothState, closed: Bool[Array, " 1"], orders: Float[Array, "2"]) -> Float[Array, "2"]:
        """The level of each side down to which an order has stood in a closed market."""
        return jnp.minimum(orders, jnp.where(closed, state.ordered, HIGHEST))

    def among(self, state: SmoothState, order: Any, executed: Any, orders: Float[Array, "2"]) -> tuple[Any, Any]:
        """Those that execute down to the level of `orders`."""
        return order, jnp.minimum(jnp.maximum(executed, orders), state.sold)

    def _all_open(self, state: SmoothState) -> Float[Array, "2 tiers 2"]:
        return jnp.stack([self.units[..., -1], self.money[..., -1]], axis=-1) - self._above(self._places(state.sold))

    def equity(self, state: SmoothState, log_price: Float[Array, " 1"]) -> Float[Array, ""]:
        """Open positions at a price, after haircuts."""
        level = jnp.concatenate([log_price, -log_price])
        return jnp.sum(self._equity(self._all_open(state), level)) - jnp.sum(state.haircut)

    def open_deficit(self, state: SmoothState, log_price: Float[Array, " 1"]) -> tuple[Any, Any]:
        """Negative equity of open positions, and their signed units."""
        level = jnp.concatenate([log_price, -log_price])
        low = jnp.full_like(state.sold, LOWEST)
        deficit, units = self._negative(state.sold, low, level, jnp.zeros_like(self.fee))
        return jnp.sum(deficit), units[:1] - units[1:]

    def holdings(self, state: SmoothState) -> Float[Array, " 1"]:
        """Net open units."""
        units = jnp.sum(self._all_open(state)[..., 0], axis=1)
        return units[:1] - units[1:]

    def gross(self) -> Float[Array, ""]:
        """Gross initial notional, USD."""
        return jnp.sum(self.units[..., -1]) * self.price[0]

    def profit(self, state: SmoothState, log_price: Float[Array, " 1"]) -> Float[Array, "2 1"]:
        """Gain since the start of each side's open positions, less what was already taken."""
        units = jnp.sum(self._all_open(state)[..., 0], axis=1)
        gain = jnp.maximum(self._sign() * units * self.price * jnp.expm1(log_price), 0.0)
        return jnp.maximum(gain - state.haircut, 0.0)[:, None]

    def deleverage(
        self, state: SmoothState, amount: Float[Array, "2 1"], contracts: Any, log_price: Any
    ) -> SmoothState:
        """Takes profit from the winners; their positions stay."""
        del contracts, log_price
        return state._replace(haircut=state.haircut + amount[:, 0])


def _added(xp: Any, shape: tuple[int, ...], place: Any, amount: Any) -> Any:
    """Sums of amounts by place, as an array of a shape."""
    if xp is np:
        return np.bincount(place, amount, int(np.prod(shape))).reshape(shape)
    return jnp.zeros(int(np.prod(shape)), amount.dtype).at[place].add(amount).reshape(shape)
