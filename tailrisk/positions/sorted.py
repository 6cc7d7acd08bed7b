"""The exact ladder: static one-asset positions as sorted thresholds.

With static positions who has been closed is a place on a sorted list, one for longs and one for shorts, so a path carries
four whole numbers whatever the number of accounts. Both sides are written in *side coordinates*: z = s log(p / p0) with
s = +1 for longs and -1 for shorts, so that a position is in breach when z is below its threshold.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from .._fields import InputError, Real, to_real
from .._hard import crosses, decisive
from .._sums import short_total
from ..liquidation import BREACH
from ..waterfall.base import Closing
from .base import LIMIT, AbstractPositions, Book, Limits
from .search import Dominance, PrefixSums, count_above


class LadderState(NamedTuple):
    """`sold` and `ordered`: how many of each side's sorted groups are closed and to be closed; `haircut`: USD taken from
    each side's winners by deleveraging."""

    sold: Int[Array, "2"]
    ordered: Int[Array, "2"]
    haircut: Float[Array, "2"]


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
    sums: PrefixSums  # of (units, USD equity at p0)
    short: Dominance  # longs, shorts by the level where equity is zero; then by where it equals the liquidation fee
    fee: Real  # 1, of traded notional
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
        zero_equity, fee_equity = level.copy(), level.copy()
        amounts = np.zeros((2, places, 2))
        for s, rows in enumerate(sides):
            rows = rows[np.argsort(-breach[rows], kind="stable")]
            n, sign, size = len(rows), 1.0 - 2.0 * s, np.abs(quantity[rows])
            level[s, :n] = breach[rows]
            amounts[s, :n, 0], amounts[s, :n, 1] = weight[rows] * size, weight[rows] * equity[rows]
            leverage_free = sign - equity[rows] / (size * price_)  # e^x where equity is zero, times the side
            with np.errstate(divide="ignore"):
                zero_equity[s, :n] = sign * np.log(np.maximum(sign * leverage_free, 0.0))
                fee_equity[s, :n] = sign * np.log(np.maximum(leverage_free / (sign - fee_), 0.0))
        return cls(  # pyright: ignore[reportCallIssue]
            price=to_real(price_),
            level=jnp.asarray(level, dtype),
            sums=PrefixSums.build(amounts, dtype),
            short=Dominance.build(np.concatenate([zero_equity, fee_equity]), np.concatenate([amounts, amounts]), dtype),
            fee=to_real(fee_),
        )

    def init(self, dtype: Any) -> LadderState:
        """Nobody is closed."""
        none = jnp.zeros(2, jnp.int32)
        return LadderState(none, none, jnp.zeros(2, dtype))

    def _side_level(self, log_price: Float[Array, " 1"]) -> Float[Array, "2"]:
        return jnp.concatenate([log_price, -log_price])

    def standing(self, state: LadderState) -> Int[Array, "2"]:
        """The orders given so far."""
        return state.ordered

    def needed(self, state: LadderState, log_mark: Float[Array, " 1"], level: Any) -> Bool[Array, ""]:
        """Whether any order stands or is triggered by the mark: one look at the next threshold of each side."""
        del level
        places = self.level.shape[1]
        following = self.level.reshape(-1)[
            jnp.arange(2, dtype=jnp.int32) * places + jnp.minimum(state.sold, places - 1)
        ]
        waiting = crosses(self._side_level(log_mark), following, BREACH) & (state.sold < places)
        waiting = waiting | (state.ordered > state.sold)
        return waiting[0] | waiting[1]

    def breached(
        self, state: LadderState, order: Int[Array, "2"], log_mark: Float[Array, " 1"], level: Any
    ) -> Int[Array, "2"]:
        """Groups whose threshold lies above the mark."""
        del state, level
        return jnp.maximum(order, count_above(self.level, self._side_level(log_mark), BREACH))

    def volume(
        self, state: LadderState, order: Int[Array, "2"], limits: Limits | None
    ) -> tuple[Float[Array, " 1"], Int[Array, "2"]]:
        """Net selling of the groups from `sold` to `order`, whole groups, as far as the limits let them."""
        executed = order if limits is None else self._limited(state.sold, order, limits)
        units = self.sums.between(state.sold, executed)[:, 0]
        return units[:1] - units[1:], executed

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
        order: Int[Array, "2"],
        executed: Int[Array, "2"],
        log_fill: Float[Array, " 1"],
        crash: Any,
        dt: Any,
    ) -> tuple[LadderState, Closing]:
        """Closes the groups from `sold` to `executed` at one fill price; the fee comes out of what equity is left."""
        del crash, dt
        start = state.sold
        fill = self._side_level(log_fill)
        sums = self.sums.between(start, executed)
        deficit, short_of_fee, bankrupt = self._short(start, executed, fill)
        notional = sums[:, 0] * self.price * jnp.exp(log_fill)
        fee = self.fee * notional - short_of_fee + deficit
        surplus = self._equity(sums, fill) + deficit - fee
        closing = Closing(
            deficit=short_total(deficit),
            fee=short_total(fee),
            surplus=short_total(surplus),
            deposit=jnp.zeros_like(deficit[0]),
            notional=short_total(notional),
            opened=short_total(sums[:, 0] * self.price),
            bankrupt=bankrupt[:1] - bankrupt[1:],
        )
        return state._replace(sold=executed, ordered=jnp.maximum(order, executed)), closing

    def _equity(self, sums: Float[Array, "2 2"], side_level: Float[Array, "2"]) -> Float[Array, "2"]:
        sign = jnp.asarray([1.0, -1.0], side_level.dtype)
        return sums[:, 1] + sign * sums[:, 0] * self.price * jnp.expm1(sign * side_level)

    def _short(
        self, start: Any, stop: Any, side_level: Float[Array, "2"]
    ) -> tuple[Float[Array, "2"], Float[Array, "2"], Float[Array, "2"]]:
        """Negative equity, what equity lacks to the full fee (deficits included), and the units in deficit; per side."""
        sign = jnp.asarray([1.0, -1.0], side_level.dtype)
        twice = [jnp.concatenate([x, x]) for x in (start, stop, side_level)]
        sums = self.short.above(*twice)
        deficit = -self._equity(sums[:2], side_level)
        lacking = self.fee * sums[2:, 0] * self.price * jnp.exp(sign * side_level) - self._equity(sums[2:], side_level)
        return jnp.maximum(deficit, 0.0), jnp.maximum(lacking, 0.0), sums[:2, 0]

    def _open(self, state: LadderState) -> tuple[Int[Array, "2"], Int[Array, "2"]]:
        return state.sold, jnp.full_like(state.sold, self.level.shape[1])

    def equity(self, state: LadderState, log_price: Float[Array, " 1"]) -> Float[Array, ""]:
        """Open groups at a price, after haircuts."""
        sums = self.sums.between(*self._open(state))
        return short_total(self._equity(sums, self._side_level(log_price)) - state.haircut)

    def open_deficit(self, state: LadderState, log_price: Float[Array, " 1"]) -> tuple[Float[Array, ""], Any]:
        """Negative equity of groups that are still open, and their signed units."""
        deficit, _, units = self._short(*self._open(state), self._side_level(log_price))
        return short_total(deficit), units[:1] - units[1:]

    def holdings(self, state: LadderState) -> Float[Array, " 1"]:
        """Net open units."""
        units = self.sums.between(*self._open(state))[:, 0]
        return units[:1] - units[1:]

    def entries(self, side: int) -> tuple[Float[Array, " entries"], Float[Array, " entries"]]:
        """Liquidation levels in side coordinates and units of the groups of a side (0 longs, 1 shorts); on the host."""
        level = np.asarray(self.level[side])
        table = np.asarray(self.sums.table[side], float)
        units = np.diff(table[:, 0] + table[:, 1])
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
