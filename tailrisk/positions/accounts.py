"""Margin groups x assets: cross and isolated margin, partial closes, margin calls, moving margins.

Inside, arrays are (assets, groups), groups last, so that a step is elementwise work and sums over the last axis. Money
is counted relative to the initial prices p0: the equity of a group at prices p is `money + sum_a held[a] (p[a] -
p0[a])`, and selling d units at the fill f adds `d (f - p0)` to its money. Price differences come from `expm1` of logs.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from .._fields import AnyArray, InputError, Real, to_real
from .._hard import crosses, decisive
from .._sums import RADIX, any_of, short_sum, total
from ..liquidation import BREACH, AbstractLiquidation
from ..margin.base import AbstractMargin
from ..margin.calls import Call
from ..waterfall.base import Closing
from ..waterfall.deleveraging import AbstractAllocation, ProRata
from .base import AbstractPositions, Book, Limits
from .search import DEFICIT

MET = "a margin call that is met"
ROOM_PASSED = 1e-4  # orders execute until they pass the room of a breaker, by this share of it
_CLOCK_SLACK = 1e-5  # a clock that is a sum of steps may fall short of the grace by rounding
_GOLDEN = 0.6180339887498949


class GroupsState(NamedTuple):
    """What changes along a path. `queue`: orders given and not yet executed, as (1, groups) booleans where groups are
    closed in full and as shares (assets, groups) of what is held where they may be closed in part. Clocks are in years,
    negative when stopped. Parts that the rules do not need are None."""

    held: Float[Array, "assets groups"]  # units
    money: Float[Array, " groups"]  # USD
    queue: Bool[Array, "1 groups"] | Float[Array, "assets groups"]
    clock: Any  # (groups,), of the liquidation rule
    reserve: Any  # (groups,) USD
    called: Any  # (groups,), time since the margin call


class GroupsOrder(NamedTuple):
    """What the venue has decided: `share` like the queue, who the backstop takes over, what was called for.

    `shortfall` is the negative equity of a group when it was taken over, `call` what would restore the initial margin.
    """

    share: Bool[Array, "1 groups"] | Float[Array, "assets groups"]
    taken: Any  # (groups,) booleans
    shortfall: Any  # (groups,) USD
    call: Any  # (groups,) USD


class Executed(NamedTuple):
    """Part of the orders that executes, for closing longs (row 0) and shorts (row 1); None: all. Units, gross."""

    part: Float[Array, "2 assets"] | None
    gross: Float[Array, " assets"]


class MarginGroups(AbstractPositions):
    """A book of margin groups, held in full: every group of every path is looked at in every step.

    A group is in breach when E < level MM, the sum over its assets. All legs of a group are ordered closed by the same
    share; each leg executes as far as its own market allows, pro rata to all orders on its side, and the group is
    closed when its last leg is. Orders once given stand even if the price recovers.
    A call (E below `call_level` x initial margin) is met at the end of a step, after the grace, by owners whose `rank`
    is below the probability of meeting it; cash comes out of the group's own reserve until that is empty, and never
    once the group has been ordered closed.
    With rules that sell in part use a fixed number of rounds: shares grow by ever smaller amounts within a step.

    **Left out:** the order in which a venue closes the legs of a cross group.
    """

    price: Real  # (assets,)
    quantity: Float[AnyArray, "assets groups"]  # units at the start
    start: Float[AnyArray, " groups"]  # USD equity at p0
    weight: Float[AnyArray, " groups"]
    reserve: Float[AnyArray, " groups"]
    rank: Float[AnyArray, " groups"]  # in (0, 1): an owner meets a call if it is below the probability of doing so
    account: Int[AnyArray, " groups"]  # owner; -1 in rows that only fill up
    margin: AbstractMargin
    liquidation: AbstractLiquidation
    call: Call | None
    allocation: (
        AbstractAllocation  # whose profit is taken, and whose contracts are closed, when winners are deleveraged
    )

    @classmethod
    def build(
        cls,
        book: Book,
        price: Any,
        margin: AbstractMargin,
        liquidation: AbstractLiquidation,
        call: Call | None = None,
        rank: Any = None,
        allocation: AbstractAllocation | None = None,
    ) -> "MarginGroups":
        """Tables of a book at the initial prices; on the host, in float64.

        `rank` (groups,) defaults to a uniform sequence over account ids, so that all groups of an owner act alike.
        Rows of weight 0 fill the book up to a multiple of eight groups (see `total`).
        """
        spot, quantity = np.asarray(price, float).reshape(-1), np.asarray(book.quantity, float)
        if quantity.ndim != 2 or quantity.shape[1] != spot.size:
            raise InputError(
                f"the book has quantities of shape {quantity.shape} and price has {spot.size} asset(s); give one price "
                "for each asset of the book"
            )
        account = np.asarray(book.account)
        rank = (0.5 + _GOLDEN * account) % 1.0 if rank is None else np.asarray(rank, float)
        start = np.asarray(book.cash, float) + (quantity * (spot - np.asarray(book.entry, float))).sum(axis=1)
        rows = len(quantity)
        fill = -rows % RADIX if rows > RADIX else 0

        def filled(value: Any, by: float = 0.0) -> Any:
            value = np.asarray(value)
            return np.pad(value, [(0, 0)] * (value.ndim - 1) + [(0, fill)], constant_values=by)

        return cls(  # pyright: ignore[reportCallIssue]  (`sparse` is a property here)
            price=to_real(spot),
            quantity=filled(quantity.T),
            start=filled(start),
            weight=filled(np.asarray(book.weight, float)),
            reserve=filled(np.asarray(book.reserve, float)),
            rank=filled(rank, 1.0),
            account=filled(account, -1),
            margin=margin,
            liquidation=liquidation,
            call=call,
            allocation=ProRata() if allocation is None else allocation,
        )

    @property
    def sparse(self) -> bool:
        """Unless clocks or calls must run, a step without a breach changes nothing."""
        return self.call is None and not self.liquidation.timed

    @property
    def backstopped(self) -> bool:
        """Groups may be handed over where the liquidation rule has a backstop."""
        return self.liquidation.backstopped

    def init(self, dtype: Any) -> GroupsState:
        """The book as it was built."""
        held, money = jnp.asarray(self.quantity, dtype), jnp.asarray(self.start, dtype)
        queue = jnp.zeros_like(held) if self.liquidation.partial else jnp.zeros((1, money.size), bool)
        return GroupsState(
            held=held,
            money=money,
            queue=queue,
            clock=jnp.full_like(money, -1.0) if self.liquidation.timed else None,
            reserve=None if self.call is None else jnp.asarray(self.reserve, dtype),
            called=None if self.call is None else jnp.full_like(money, -1.0),
        )

    def standing(self, state: GroupsState, log_mark: Any = None) -> GroupsOrder:
        """The queue."""
        zero, called = jnp.zeros_like(state.money), self.call is not None
        backstopped = self.liquidation.backstopped
        return GroupsOrder(
            share=state.queue,
            taken=jnp.zeros(zero.shape, bool) if backstopped else None,
            shortfall=zero if backstopped else None,
            call=zero if called else None,
        )

    def whole(self, state: GroupsState, order: GroupsOrder) -> GroupsOrder:
        """Nothing is ever left out."""
        del state
        return order

    def _sum(self, terms: Float[Array, "*rest groups"]) -> Float[Array, "*rest"]:
        """Sum over groups, each as often as its weight says."""
        return total(self.weight.reshape((1,) * (terms.ndim - 1) + (-1,)) * terms)

    def _moved(self, log_price: Float[Array, " assets"]) -> Float[Array, "assets 1"]:
        return (self.price * jnp.expm1(log_price))[:, None]

    def _equities(self, state: GroupsState, log_price: Float[Array, " assets"]) -> Float[Array, " groups"]:
        return state.money + short_sum(state.held * self._moved(log_price))

    def _required(self, state: GroupsState, log_price: Any, level: Any, schedule: Any) -> tuple[Any, Any]:
        """Requirement and gross notional by group, USD."""
        notional = jnp.abs(state.held) * (self.price * jnp.exp(log_price))[:, None]
        requirement = level[None, :] * schedule(notional.T)
        return short_sum(requirement.T), short_sum(notional)

    def needed(self, state: GroupsState, log_mark: Any, level: Any) -> Bool[Array, ""]:
        """Whether a group is in breach or an order stands; always where clocks or calls must run."""
        if not self.sparse:
            return jnp.asarray(True)
        required, _ = self._required(state, log_mark, level, self.margin.maintenance)
        breach = crosses(self._equities(state, log_mark), required, BREACH)
        return any_of(breach | self._any_leg(state.queue))

    def breached(self, state: GroupsState, order: GroupsOrder, log_mark: Any, level: Any) -> GroupsOrder:
        """Groups with E < level MM at the mark, by the liquidation rule; shares only grow."""
        equity = self._equities(state, log_mark)
        required, notional = self._required(state, log_mark, level, self.margin.maintenance)
        share, taken = self.liquidation.share(equity, required, notional, state.clock)
        now, partial = share[None, :], self.liquidation.partial
        order = order._replace(share=jnp.maximum(order.share, now) if partial else order.share | (now > 0.0))
        if taken is not None:
            owed = jnp.where(order.taken, order.shortfall, jnp.maximum(-equity, 0.0))
            order = order._replace(taken=order.taken | taken, shortfall=jnp.where(order.taken | taken, owed, 0.0))
        if self.call is not None:
            initial, _ = self._required(state, log_mark, level, self.margin.initial)
            short = crosses(equity, self.call.call_level * initial, "the equity below which an owner is called")
            order = order._replace(call=jnp.where(short, initial - equity, 0.0))
        return order

    def _any_leg(self, share: Any) -> Bool[Array, " groups"]:
        """Groups with something on order."""
        return crosses(0.0, short_sum(share), "an order of a group") if self.liquidation.partial else share[0]

    def _ordered(self, state: GroupsState, order: GroupsOrder) -> Float[Array, "assets groups"]:
        """Signed units on order."""
        held = state.held
        units = order.share * held if self.liquidation.partial else jnp.where(order.share, held, 0.0)
        return units if order.taken is None else jnp.where(order.taken[None, :], 0.0, units)

    def volume(
        self, state: GroupsState, order: GroupsOrder, limits: Limits | None
    ) -> tuple[Float[Array, " assets"], Executed]:
        """Net selling; where a limit binds, all orders of an asset and side execute by the same part."""
        units = self._ordered(state, order)
        if limits is None:
            return self._sum(units), Executed(None, self._sum(jnp.abs(units)))
        sells, buys = self._sum(jnp.maximum(units, 0.0)), self._sum(jnp.maximum(-units, 0.0))
        wanted = jnp.stack([sells, buys])
        cap = jnp.stack([limits.sell_cap, limits.buy_cap])
        room = jnp.stack([limits.sell_room, limits.buy_room]) * (1.0 + ROOM_PASSED)
        allowed = jnp.where(limits.open[None, :], jnp.minimum(wanted, jnp.minimum(cap, room)), 0.0)
        part = jnp.where(allowed < wanted, allowed / jnp.where(wanted > 0.0, wanted, 1.0), 1.0)
        return allowed[0] - allowed[1], Executed(part, jnp.sum(allowed, axis=0))

    def settle(
        self,
        state: GroupsState,
        order: GroupsOrder,
        executed: Executed,
        log_fill: Float[Array, " assets"],
        crash: Float[Array, ""],
        dt: Float[Array, ""],
    ) -> tuple[GroupsState, Closing]:
        """Sells what executes at the fill, takes the fee, and counts what is left of groups without a position."""
        fill, moved = self.price * jnp.exp(log_fill), self._moved(log_fill)
        units = self._ordered(state, order)
        sold = units if executed.part is None else units * _by_side(state.held, executed.part)
        held = state.held - sold
        money = state.money + short_sum(sold * moved)
        equity = money + short_sum(held * moved)
        fee = self.liquidation.charge(short_sum(jnp.abs(sold) * fill[:, None]), equity)
        ordered = self._any_leg(order.share)
        closed = ordered & (decisive(short_sum(jnp.abs(held)), "a group that is closed") == 0.0)
        deficit = jnp.where(closed, jnp.maximum(-equity, 0.0), 0.0)
        surplus = jnp.where(closed, jnp.maximum(equity - fee, 0.0), 0.0)
        bankrupt = jnp.where((closed & crosses(equity, 0.0, DEFICIT))[None, :], sold, 0.0)
        money = jnp.where(closed, 0.0, money - fee)
        opened, taken, taken_money = executed.gross, None, None
        if order.taken is not None:  # off the market, at the mark; the backstop gets an equity >= 0
            over = jnp.where(order.taken[None, :], held, 0.0)
            taken = self._sum(over)
            taken_money = self._sum(jnp.where(order.taken, money + order.shortfall, 0.0))
            opened = opened + self._sum(jnp.abs(over))
            deficit = jnp.where(order.taken, order.shortfall, deficit)
            bankrupt = jnp.where(crosses(0.0, order.shortfall, DEFICIT)[None, :], over, bankrupt)
            held, money = held - over, jnp.where(order.taken, 0.0, money)
            closed = closed | order.taken
        posted, reserve, called = self._posted(state, order, ordered | closed, crash, dt)
        closing = Closing(
            deficit=self._sum(deficit),
            fee=self._sum(fee),
            surplus=self._sum(surplus),
            deposit=jnp.zeros_like(dt) if posted is None else self._sum(posted),
            notional=jnp.sum(executed.gross * fill),
            opened=jnp.sum(opened * self.price),
            bankrupt=self._sum(bankrupt),
            taken=taken,
            taken_money=taken_money,
        )
        state = GroupsState(
            held=held,
            money=money if posted is None else money + posted,
            queue=self._queue(state, order, executed, closed),
            clock=self.liquidation.advance(state.clock, ordered & ~closed, dt),
            reserve=reserve,
            called=called,
        )
        return state, closing

    def held_back(self, state: GroupsState, closed: Bool[Array, " assets"], orders: GroupsOrder) -> GroupsOrder:
        """Groups, with all their legs, that have had something on order in a closed market."""
        here = jnp.any(state.queue.astype(bool) & closed[:, None] & (state.held != 0.0), axis=0)
        return orders._replace(share=jnp.maximum(orders.share, here[None, :].astype(orders.share.dtype)))

    def among(self, state: GroupsState, order: GroupsOrder, executed: Any, orders: GroupsOrder) -> Any:
        """The orders of the groups in `orders`, of which the same part executes."""
        del state
        theirs = orders.share.astype(bool)
        order = order._replace(share=jnp.where(theirs, order.share, jnp.zeros_like(order.share)))
        if order.taken is not None:
            owed = jnp.where(theirs[0], order.shortfall, 0.0)
            order = order._replace(taken=order.taken & theirs[0], shortfall=owed)
        return order, executed

    def _queue(self, state: GroupsState, order: GroupsOrder, executed: Executed, closed: Any) -> Any:
        """What stays on order: where the part c of a share s executed, s (1 - c) / (1 - s c) of what is still held."""
        if not self.liquidation.partial:
            return order.share & ~closed[None, :]
        if executed.part is None:
            return jnp.zeros_like(order.share)
        part = _by_side(state.held, executed.part)
        kept = 1.0 - order.share * part
        rest = order.share * (1.0 - part) / jnp.where(kept > 0.0, kept, 1.0)
        return jnp.where(closed[None, :], 0.0, rest)

    def _posted(self, state: GroupsState, order: GroupsOrder, busy: Any, crash: Any, dt: Any) -> tuple[Any, Any, Any]:
        """Top-ups in USD, what is left of the reserves, and the clocks of the calls."""
        if self.call is None:
            return None, None, None
        waiting = crosses(0.0, order.call, MET) & ~busy
        elapsed = jnp.maximum(state.called, 0.0)
        due = decisive(elapsed, MET) >= decisive(self.call.grace, MET) * (1.0 - _CLOCK_SLACK)
        meets = waiting & due & crosses(self.rank, self.call.probability(crash), MET)
        posted = jnp.where(meets, jnp.minimum(order.call, state.reserve), 0.0)
        called = jnp.where(waiting & ~meets, elapsed + dt, -1.0)
        return posted, state.reserve - posted, called

    def equity(self, state: GroupsState, log_price: Float[Array, " assets"]) -> Float[Array, ""]:
        """Money plus the value of what is held; USD."""
        return self._sum(self._equities(state, log_price))

    def open_deficit(
        self, state: GroupsState, log_price: Float[Array, " assets"]
    ) -> tuple[Float[Array, ""], Float[Array, " assets"]]:
        """Negative equities at a price, as a positive sum, and the signed units of those groups."""
        equity = self._equities(state, log_price)
        units = jnp.where(crosses(equity, 0.0, DEFICIT)[None, :], state.held, 0.0)
        return self._sum(jnp.maximum(-equity, 0.0)), self._sum(units)

    def gross(self) -> Float[Array, ""]:
        """Gross initial notional of the book, USD."""
        return jnp.sum(self.price * self._sum(jnp.abs(jnp.asarray(self.quantity))))

    def holdings(self, state: GroupsState) -> Float[Array, " assets"]:
        """Net open units."""
        return self._sum(state.held)

    def _gains(self, state: GroupsState, log_price: Float[Array, " assets"]) -> Float[Array, "assets groups"]:
        """Profit since the start of each leg in profit, cut so that a group never loses more than its equity."""
        gain = jnp.maximum(state.held * self._moved(log_price), 0.0)
        equity, all_legs = jnp.maximum(self._equities(state, log_price), 0.0), short_sum(gain)
        short = equity < all_legs
        return jnp.where(short, equity / jnp.where(short, all_legs, 1.0), 1.0)[None, :] * gain

    def profit(self, state: GroupsState, log_price: Float[Array, " assets"]) -> Float[Array, "2 assets"]:
        """Profit since the start of the legs in profit, as far as the equity of their groups goes."""
        gain, risen = self._sum(self._gains(state, log_price)), log_price > 0.0
        return jnp.stack([jnp.where(risen, gain, 0.0), jnp.where(risen, 0.0, gain)])

    def deleverage(
        self, state: GroupsState, amount: Float[Array, "2 assets"], contracts: Float[Array, "2 assets"], log_price: Any
    ) -> GroupsState:
        """Takes `amount` of profit as the allocation says, and closes `contracts` where profit is taken.

        A winner is not closed beyond what it holds: contracts that find no holder are left open.
        """
        gain = self._gains(state, log_price)
        need, wanted = short_sum(amount), short_sum(contracts)
        value = jnp.abs(state.held) * self.price[:, None]
        equity = self._equities(state, log_price)
        notional = short_sum(value * jnp.exp(log_price)[:, None])
        leverage = notional / jnp.where(equity > 0.0, equity, jnp.inf)
        weight = self.weight
        taken = jnp.stack(
            [
                self.allocation.allocate(need[a], weight * gain[a], weight * equity, leverage, weight * value[a])
                for a in range(gain.shape[0])
            ]
        )
        taken = taken / jnp.where(weight > 0.0, weight, 1.0)[None, :]  # of one group of a row
        part = _share(wanted, need)[:, None] * taken  # units to close where this much profit is taken
        closed = jnp.sign(state.held) * jnp.minimum(part, jnp.abs(state.held))
        money = state.money + short_sum(closed * self._moved(log_price) - taken)
        return state._replace(held=state.held - closed, money=money)


def _by_side(held: Float[Array, "assets groups"], part: Float[Array, "2 assets"]) -> Float[Array, "assets groups"]:
    return jnp.where(held > 0.0, part[0][:, None], part[1][:, None])


def _share(wanted: Float[Array, " assets"], whole: Float[Array, " assets"]) -> Float[Array, " assets"]:
    return jnp.where(whole > 0.0, wanted / jnp.where(whole > 0.0, whole, 1.0), 0.0)
