"""The exact ladder: static one-asset positions as sorted thresholds.

With static positions who has been closed is a place on a sorted list, one for longs and one for shorts, so a path carries
four whole numbers whatever the number of accounts. Both sides are written in *side coordinates*: z = s log(p / p0) with
s = +1 for longs and -1 for shorts, so that a position is in breach when z is below its threshold.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from .._fields import InputError, Real, to_real
from .._hard import crosses, decisive
from .._ranges import range_sum
from .._rare import rare
from .._sums import halving_total, short_total
from ..liquidation import BREACH
from ..waterfall.base import Closing
from .base import LIMIT, AbstractPositions, Book, Limits
from .search import Descending, Dominance, PrefixSums

WINDOW = 32  # groups that are settled at a time
APART = 1e-3  # log price between the first thresholds of the two sides, far above rounding


class LadderState(NamedTuple):
    """`sold` and `ordered`: how many of each side's sorted groups are closed and to be closed; `haircut`: USD taken from
    each side's winners by deleveraging."""

    sold: Int[Array, "2"]
    ordered: Int[Array, "2"]
    haircut: Float[Array, "2"]


class Orders(NamedTuple):
    """Of each side looked at (0 longs, 1 shorts), how many of its sorted groups are to be closed; `alone`: the only side of
    which there are any, where that is known."""

    side: Int[Array, " sides"]
    place: Int[Array, " sides"]
    alone: Int[Array, " one"] | None = None


def thresholds(book: Book, price: np.ndarray, rates: np.ndarray, deductions: np.ndarray) -> np.ndarray:
    """Side-coordinate level below which each group is in breach; host, float64, one asset.

    Maintenance is max_k(r_k n - D_k) of the notional n, so with equity E0 at p0 a long breaches below
    max_k (q p0 - E0 - D_k) / (q (1 - r_k)) and a short above min_k (|q| p0 + E0 + D_k) / (|q| (1 + r_k)).
    A group that is never in breach has the level -inf.
    """
    quantity = np.asarray(book.quantity, float)[:, 0]
    equity = np.asarray(book.cash, float) + quantity * (price - np.asarray(book.entry, float)[:, 0])
    size, side = np.abs(quantity)[:, None], np.sign(quantity)[:, None]
    owed = size * price - side * (equity[:, None] + deductions)
    level = owed / np.where(size > 0, size * (1.0 - side * rates), 1.0)
    level = np.where(side[:, 0] > 0, level.max(axis=1), level.min(axis=1))
    with np.errstate(divide="ignore"):
        found = side[:, 0] * np.log(np.maximum(level, 0.0) / price)
    return np.where(size[:, 0] > 0, found, -np.inf)


class SortedThresholds(AbstractPositions):
    """N margin groups in one asset, closed in full when in breach, in the order of their liquidation prices.

    Exact: equal, path by path, to looping over the groups. O(log N) per step. A group that has been ordered closed stays
    so (the venue has taken it over) even if the price recovers before a halt or throttle lets the order through.

    **Left out:** partial closes, top-ups and margins that move with volatility need `MarginGroups`; deleveraging takes
    profit from winners but leaves their positions open, because a ladder's positions are static.
    """

    price: Real  # (1,) USD/unit
    level: Float[Array, "2 groups"]  # thresholds, descending
    search: Descending  # the same
    units: Float[Array, " entries"]  # of each group; longs, shorts, and a window of nothing
    money: Float[Array, " entries"]  # USD, equity of each group at p0
    sums: PrefixSums  # of (units, USD equity at p0)
    bankrupt: Dominance  # the same by the level where equity is zero
    fee: Real  # 1, of traded notional
    apart: bool = eqx.field(static=True)  # no price is below a long's threshold and above a short's
    sparse = True
    backstopped = False

    @classmethod
    def build(cls, book: Book, price: Any, margin: Any, fee: Any, dtype: Any) -> "SortedThresholds":
        """Tables of a book under a static convex margin schedule; on the host, in float64."""
        if np.asarray(book.quantity).shape[1] != 1:
            raise InputError(
                f"a ladder holds one asset, the book has {np.asarray(book.quantity).shape[1]}; use positions.kind = "
                '"Accounts"'
            )
        price_, fee_ = np.asarray(price, float).reshape(1), float(np.asarray(fee))
        rates, deductions = (np.asarray(line, float) for line in margin.lines())
        quantity = np.asarray(book.quantity, float)[:, 0]
        weight = np.asarray(book.weight, float)
        equity = np.asarray(book.cash, float) + quantity * (price_ - np.asarray(book.entry, float)[:, 0])
        breach = thresholds(book, price_, rates, deductions)
        sides = [np.flatnonzero(quantity > 0), np.flatnonzero(quantity < 0)]
        # A power of two: books of the same size but another seed share one compiled program.
        places = 1 << max(len(rows) - 1 for rows in sides).bit_length()
        level = np.full((2, places), -np.inf)
        zero_equity = level.copy()
        amounts = np.zeros((2, places, 2))
        for s, rows in enumerate(sides):
            rows = rows[np.argsort(-breach[rows], kind="stable")]
            n, sign, size = len(rows), 1.0 - 2.0 * s, np.abs(quantity[rows])
            level[s, :n] = breach[rows]
            amounts[s, :n, 0], amounts[s, :n, 1] = weight[rows] * size, weight[rows] * equity[rows]
            leverage_free = sign - equity[rows] / (size * price_)  # e^x where equity is zero, times the side
            with np.errstate(divide="ignore"):
                zero_equity[s, :n] = sign * np.log(np.maximum(sign * leverage_free, 0.0))
        entries = np.concatenate([amounts.reshape(-1, 2), np.zeros((WINDOW, 2))])
        return cls(  # pyright: ignore[reportCallIssue]
            price=to_real(price_),
            level=jnp.asarray(level, dtype),
            search=Descending.build(level, dtype),
            sums=PrefixSums.build(amounts, dtype),
            units=jnp.asarray(entries[:, 0], dtype),
            money=jnp.asarray(entries[:, 1], dtype),
            bankrupt=Dominance.build(zero_equity, amounts, dtype),
            fee=to_real(fee_),
            apart=bool(level[:, 0].sum() < -APART),
        )

    def init(self, dtype: Any) -> LadderState:
        """Nobody is closed."""
        none = jnp.zeros(2, jnp.int32)
        return LadderState(none, none, jnp.zeros(2, dtype))

    def standing(self, state: LadderState, log_mark: Float[Array, " 1"] | None = None) -> Orders:
        """The orders given so far; of the side in breach alone if a mark is given and the sides are apart."""
        if log_mark is None or not self.apart:
            return Orders(jnp.arange(2, dtype=jnp.int32), state.ordered)
        side = jnp.where(crosses(log_mark, self.level[0, :1], BREACH), 0, 1).astype(jnp.int32)
        return Orders(side, _of(side, state.ordered))

    def needed(self, state: LadderState, log_mark: Float[Array, " 1"], level: Any) -> Bool[Array, ""]:
        """Whether any order stands or is triggered by the mark: one look at the next threshold of each side."""
        del level
        places = self.level.shape[1]
        side = jnp.arange(2, dtype=jnp.int32)
        following = self.level.reshape(-1)[side * places + jnp.minimum(state.sold, places - 1)]
        waiting = crosses(_sign(side, log_mark) * log_mark, following, BREACH) & (state.sold < places)
        waiting = waiting | (state.ordered > state.sold)
        return waiting[0] | waiting[1]

    def breached(self, state: LadderState, order: Orders, log_mark: Float[Array, " 1"], level: Any) -> Orders:
        """Groups whose threshold lies above the mark."""
        del state, level
        marks = _sign(order.side, log_mark) * log_mark
        reached = [self.search.count_above(side, mark, BREACH) for side, mark in zip(order.side, marks, strict=True)]
        return order._replace(place=jnp.maximum(order.place, jnp.stack(reached)))

    def whole(self, state: LadderState, order: Orders) -> Orders:
        """The orders of both sides, whichever was looked at."""
        both, alone = jnp.arange(2, dtype=jnp.int32), order.side if order.side.shape == (1,) else None
        return Orders(both, _into(state.ordered, order.side, order.place), alone)

    def volume(self, state: LadderState, order: Orders, limits: Limits | None) -> tuple[Float[Array, " 1"], Orders]:
        """Net selling of the groups from `sold` to the order, whole groups, as far as the limits let them."""
        sold = _of(order.side, state.sold)
        place = order.place if limits is None else self._limited(sold, order.place, limits)
        units = self.sums.between(sold, place, order.side)[:, 0]
        return short_total(_sign(order.side, units) * units)[None], order._replace(place=place)

    def _limited(self, sold: Int[Array, "2"], order: Int[Array, "2"], limits: Limits) -> Int[Array, "2"]:
        cap = decisive(jnp.concatenate([limits.sell_cap, limits.buy_cap]), LIMIT)
        room = decisive(jnp.concatenate([limits.sell_room, limits.buy_room]), LIMIT)
        places = self.level.shape[1]
        bits = int(places).bit_length()

        def halve(i: Any, found: tuple[Any, Any]) -> tuple[Any, Any]:
            # Both close in on the last place whose volume does not exceed the cap, or the room.
            def closer(place: Int[Array, "2"], most: Float[Array, "2"]) -> Int[Array, "2"]:
                ahead = jnp.minimum(place + (jnp.int32(1) << (bits - 1 - i)), places)
                fits = decisive(self.sums.between(sold, ahead)[:, 0], LIMIT) <= most
                return jnp.where(fits, ahead, place)

            return closer(found[0], cap), closer(found[1], room)

        within, passed = jax.lax.fori_loop(0, bits, halve, (sold, sold))
        inclusive = jnp.minimum(passed + 1, places)  # the order that passes the room is the last to execute
        executed = jnp.minimum(order, jnp.minimum(within, inclusive))
        return jnp.where(limits.open, jnp.maximum(executed, sold), sold)

    def settle(
        self,
        state: LadderState,
        order: Orders,
        executed: Orders,
        log_fill: Float[Array, " 1"],
        crash: Any,
        dt: Any,
    ) -> tuple[LadderState, Closing]:
        """Closes the groups from `sold` to `executed` at one fill price; the fee comes out of what equity is left."""
        del crash, dt
        side, sold = order.side, state.sold
        sign = _sign(side, log_fill)
        sums = self.sums.between(sold, executed.place, side)
        first, price, move = (
            side * self.level.shape[1],
            self.price * jnp.exp(log_fill),
            self.price * jnp.expm1(log_fill),
        )
        given = (self.units, self.money, self.fee * price[0])

        def closed(of: Int[Array, ""]) -> Float[Array, "3"]:
            return range_sum(
                _window, (*given, sign[of] * move[0]), first[of] + sold[of], first[of] + executed.place[of], WINDOW
            )

        if executed.alone is None:
            parts = jnp.stack([closed(of) for of in side])
        else:
            parts = jnp.where(side[:, None] == executed.alone[None], closed(executed.alone[0])[None], 0.0)
        deficit, fee, bankrupt = parts.T
        closing = Closing(
            deficit=short_total(deficit),
            fee=short_total(fee),
            surplus=short_total(self._equity(side, sums, log_fill) + deficit - fee),
            deposit=jnp.zeros_like(deficit[0]),
            notional=short_total(sums[:, 0] * price),
            opened=short_total(sums[:, 0] * self.price),
            bankrupt=short_total(sign * bankrupt)[None],
        )
        return state._replace(sold=executed.place, ordered=jnp.maximum(order.place, executed.place)), closing

    def held_back(self, state: LadderState, closed: Bool[Array, " 1"], orders: Orders) -> Orders:
        """The place on each side up to which an order has stood in a closed market."""
        return orders._replace(place=jnp.maximum(orders.place, jnp.where(closed, state.ordered, 0)))

    def among(self, state: LadderState, order: Orders, executed: Orders, orders: Orders) -> tuple[Orders, Orders]:
        """Those that execute up to the place of `orders`."""
        place = jnp.maximum(jnp.minimum(executed.place, orders.place), state.sold)
        return order, executed._replace(place=place)

    def _equity(
        self, side: Int[Array, " sides"], sums: Float[Array, "sides 2"], log_price: Float[Array, " 1"]
    ) -> Float[Array, " sides"]:
        return sums[:, 1] + _sign(side, log_price) * sums[:, 0] * (self.price * jnp.expm1(log_price))

    def _open(self, state: LadderState) -> tuple[Int[Array, "2"], Int[Array, "2"]]:
        return state.sold, jnp.full_like(state.sold, self.level.shape[1])

    def equity(self, state: LadderState, log_price: Float[Array, " 1"]) -> Float[Array, ""]:
        """Open groups at a price, after haircuts."""
        sums = self.sums.between(*self._open(state))
        return short_total(self._equity(jnp.arange(2, dtype=jnp.int32), sums, log_price) - state.haircut)

    def open_deficit(self, state: LadderState, log_price: Float[Array, " 1"]) -> tuple[Float[Array, ""], Any]:
        """Negative equity of groups that are still open, and their signed units; nothing where nobody is in breach."""

        def owed(given: Any, nothing: Any) -> Any:
            # made in here: what a derivative traces must not close over a traced array
            ladder, state, log_price, sides = *given, jnp.arange(2, dtype=jnp.int32)
            sign = _sign(sides, log_price)
            sums = ladder.bankrupt.above(*ladder._open(state), sign * log_price)
            return jnp.maximum(-ladder._equity(sides, sums, log_price), 0.0), sign * sums[:, 0]

        nothing = jnp.zeros((2, 2), log_price.dtype)
        breach = self.needed(state, log_price, None)
        deficit, units = rare(breach, owed, (self, state, log_price), (nothing[0], nothing[1]))
        return short_total(deficit), short_total(units)[None]

    def holdings(self, state: LadderState) -> Float[Array, " 1"]:
        """Net open units."""
        units = self.sums.between(*self._open(state))[:, 0]
        return units[:1] - units[1:]

    def entries(self, side: int) -> tuple[Float[Array, " entries"], Float[Array, " entries"]]:
        """Liquidation levels in side coordinates and units of the groups of a side (0 longs, 1 shorts); on the host."""
        level = np.asarray(self.level[side])
        units = np.asarray(self.units, float)[side * level.size :][: level.size]
        real = np.isfinite(level) & (units > 0)
        return jnp.asarray(level[real]), jnp.asarray(units[real], self.level.dtype)

    def gross(self) -> Float[Array, ""]:
        """Gross initial notional of the book, USD."""
        whole = self.sums.between(jnp.zeros(2, jnp.int32), jnp.full(2, self.level.shape[1], jnp.int32))
        return short_total(whole[:, 0] * self.price)

    def profit(self, state: LadderState, log_price: Float[Array, " 1"]) -> Float[Array, "2 1"]:
        """Gain since the start of each side's open groups, less what was already taken."""
        units = self.sums.between(*self._open(state))[:, 0]
        sign = jnp.asarray([1.0, -1.0], log_price.dtype)
        gain = jnp.maximum(sign * units * self.price * jnp.expm1(log_price), 0.0)
        return jnp.maximum(gain - state.haircut, 0.0)[:, None]

    def deleverage(
        self, state: LadderState, amount: Float[Array, "2 1"], contracts: Any, log_price: Any
    ) -> LadderState:
        """Takes profit from the winners; their positions stay (see the class)."""
        del contracts, log_price
        return state._replace(haircut=state.haircut + amount[:, 0])


def _sign(side: Int[Array, " sides"], like: Any) -> Float[Array, " sides"]:
    """+1 for longs, -1 for shorts."""
    return (1 - 2 * side).astype(like.dtype)


def _of(side: Int[Array, " sides"], pair: Int[Array, "2"]) -> Int[Array, " sides"]:
    """What a pair says about the sides looked at."""
    return pair if side.shape == (2,) else jnp.where(side == 0, pair[:1], pair[1:])


def _into(pair: Int[Array, "2"], side: Int[Array, " sides"], value: Int[Array, " sides"]) -> Int[Array, "2"]:
    """The pair with new values of the sides looked at."""
    return value if side.shape == (2,) else jnp.where(side == jnp.arange(2, dtype=jnp.int32), value, pair)


def _window(given: Any, first: Int[Array, ""], stop: Int[Array, ""]) -> Float[Array, "3"]:
    """Deficits, fees paid and units in deficit of the groups of one window.

    The equity of a group is its money at p0 + units x `move`; it pays `fee` per unit as far as its equity goes.
    """
    units, money, fee, move = given
    here = [jax.lax.dynamic_slice(table, (first,), (WINDOW,)) for table in (units, money)]
    units, money = jax.lax.optimization_barrier(here)  # or the compiler fetches them anew for every term of the sums
    inside = first + jnp.arange(WINDOW, dtype=jnp.int32) < stop
    equity = money + units * move
    paid = jnp.minimum(fee * units, jnp.maximum(equity, 0.0))
    terms = jnp.maximum(-equity, 0.0), paid, jnp.where(equity < 0.0, units, 0.0)
    return jnp.stack([halving_total(jnp.where(inside, term, 0.0)) for term in terms])
