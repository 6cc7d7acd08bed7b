"""The one step: news moves the price, breached positions are sold, the sale moves the price, somebody pays.

The order of stages is a contract: 1 exogenous shock, 2 market price, 3 mark, 4 margin requirement, 5 breach, 6 breaker,
7 execution and impact, 8 loss waterfall, 9 accounts of money. Stages 3 to 7 repeat inside a step until the cascade of the
step has stopped (`Exact`) or a fixed number of times (`Rounds`).
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ._fields import Real
from ._hard import decisive
from ._packed import Packed
from ._rare import rare
from ._streams import Draws, Noise
from ._sums import short_total
from .breaker import AbstractBreaker, NoBreaker
from .clearing import AbstractClearing
from .impact import AbstractImpact
from .margin import AbstractMargin
from .market import AbstractMarket, Shock
from .oracle import AbstractOracle, Spot
from .positions.base import AbstractPositions, Limits
from .waterfall import Closing, Payment, Waterfall


class Totals(NamedTuple):
    """Running sums of the liquidations of one path. USD unless said otherwise."""

    bad_debt: Float[Array, ""]  # deficits of closed groups, before the waterfall
    forced_notional: Float[Array, ""]
    opened: Float[Array, ""]  # initial notional of what was closed
    fee: Float[Array, ""]
    deposit: Float[Array, ""]
    adl_notional: Float[Array, ""]
    peak_notional: Float[Array, ""]  # largest forced notional of one step
    unsettled: Float[Array, ""]  # steps whose cascade had not stopped after the last round


class Ledger(NamedTuple):
    """What a liquidation adds to and no later step looks at."""

    maker_units: Float[Array, " assets"]  # counterparty of all forced flow
    maker_money: Float[Array, ""]
    totals: Totals
    paid: Payment


class Seen(NamedTuple):
    """Extremes and times of one path."""

    halted_time: Float[Array, ""]  # years, mean over assets
    market_low: Float[Array, ""]  # lowest log price of asset 0
    market_high: Float[Array, ""]
    news_low: Float[Array, ""]  # lowest log price of asset 0 had nobody been sold by force
    news_high: Float[Array, ""]
    broken: Float[Array, ""]  # steps with a price that is not finite


class Flow(NamedTuple):
    """What one step shows to an observer."""

    log_price: Float[Array, " assets"]
    log_news: Float[Array, " assets"]
    log_mark: Float[Array, " assets"]
    volume: Float[Array, " assets"]  # net forced selling, units
    notional: Float[Array, ""]
    deficit: Float[Array, ""]
    fund: Float[Array, ""]
    halted: Bool[Array, " assets"]


class Late(NamedTuple):
    """Orders that a halt has held back, as positions write orders, and the deficit with which they were closed, USD."""

    orders: Any
    deficit: Float[Array, ""]


class Books(NamedTuple):
    """Everything a liquidation changes; left untouched in a step without one."""

    impact: Any
    positions: Any
    waterfall: Any
    ledger: Packed  # of a `Ledger`
    volume: Float[Array, " assets"]  # of this step
    notional: Float[Array, ""]
    deficit: Float[Array, ""]
    late: Late | None


class State(NamedTuple):
    """A path between two steps."""

    market: Any
    oracle: Any
    margin: Any
    breaker: Any
    path: Float[Array, " assets"]  # log price of the market law
    books: Books
    seen: Seen


class _Venue(NamedTuple):
    """What is fixed while the orders of one step execute."""

    shock: Shock
    path: Float[Array, " assets"]
    oracle: Any
    mark: Float[Array, " assets"]
    level: Float[Array, " assets"]
    limits: Limits | None
    auction: Bool[Array, " assets"]
    dt: Float[Array, ""]


class Cascade(eqx.Module):
    """The rules of a venue and its market, composed. One path; noise is given.

    A derivative at fixed noise raises `HardThresholdGradientError` where it reaches a comparison that decides an event; on
    a smooth ladder without a breaker there is none for most numbers. Differentiate in the numbers of interest alone.
    """

    market: AbstractMarket
    oracle: AbstractOracle
    margin: AbstractMargin
    positions: AbstractPositions
    impact: AbstractImpact
    breaker: AbstractBreaker
    waterfall: Waterfall
    clearing: AbstractClearing
    couple: Real  # 1: the crash factor reaches depth and top-ups; 0 ablates it
    observed: bool = eqx.field(static=True, default=False)  # the market's prices already contain the forced flow
    delays: bool = eqx.field(
        static=True, default=False
    )  # the bad debt of orders that a halt held back is counted apart

    @property
    def draws(self) -> Draws:
        """Numbers of noise per step."""
        return self.market.draws

    def init(self, dtype: Any) -> State:
        """The state before the first step: price p0, nobody closed, the fund full."""
        assets = self.positions.price.shape[0]
        at_start, zero = jnp.zeros(assets, dtype), jnp.zeros((), dtype)
        positions = self.positions.init(dtype)
        totals, seen = Totals(*([zero] * len(Totals._fields))), Seen(*([zero] * len(Seen._fields)))
        ledger = Ledger(-self.positions.holdings(positions), zero, totals, self.waterfall.unpaid(assets, dtype))
        books = Books(
            impact=self.impact.init(assets, dtype),
            positions=positions,
            waterfall=self.waterfall.init(assets, dtype),
            ledger=Packed.of(ledger),
            volume=at_start,
            notional=zero,
            deficit=zero,
            late=Late(self.positions.standing(positions), zero) if self.delays else None,
        )
        return State(
            self.market.init(dtype),
            self.oracle.init(at_start),
            self.margin.init(dtype, assets),
            self.breaker.init(at_start),
            at_start,
            books,
            seen,
        )

    def price(self, path: Float[Array, " assets"], impact: Any) -> Float[Array, " assets"]:
        """Log market price: the market law's path, pushed down by forced flow unless the path is an observed price."""
        return path if self.observed else path - self.impact.offset(impact)

    def news(self, path: Float[Array, " assets"], impact: Any) -> Float[Array, " assets"]:
        """Log price had nobody been sold by force."""
        return path + self.impact.offset(impact) if self.observed else path

    def step(self, state: State, noise: Noise, dt: Float[Array, ""]) -> tuple[State, Flow]:
        """One step of one path."""
        books = state.books
        shock, market = self.market.move(state.market, noise, dt)  # 1 exogenous shock
        shock = shock._replace(crash=self.couple * shock.crash)
        path = state.path + shock.log_return
        impact = self.impact.relax(books.impact, shock, dt)  # 2 market price, impact decays
        before = self.price(path, impact)
        mark, _ = self.oracle.read(state.oracle, before, dt)  # 3 what the margin engine sees
        margin = self.margin.update(state.margin, shock.log_return, dt)  # 4 margin requirement
        gate = self.breaker.gate(state.breaker, before, dt)  # 6 open, halted, throttled
        limits = None if isinstance(self.breaker, NoBreaker) else self._limits(gate, impact, before)
        venue = _Venue(shock, path, state.oracle, mark, self.margin.level(margin), limits, gate.auction, dt)

        nothing = jnp.zeros_like(dt)
        books = books._replace(impact=impact, volume=jnp.zeros_like(path), notional=nothing, deficit=nothing)
        if self.positions.sparse:  # 5 to 8
            needed = self.positions.needed(books.positions, mark, venue.level)
            books = rare(needed, lambda given, old: given[0]._liquidate(given[1], old), (self, venue), books)
        else:
            books = self._liquidate(venue, books)

        after, news = self.price(path, books.impact), self.news(path, books.impact)
        mark, oracle = self.oracle.read(state.oracle, after, dt)
        breaker = self.breaker.update(state.breaker, before, after, jnp.abs(books.volume), dt)
        halted = ~gate.open
        seen = _observe(state.seen, news, after, halted, dt)
        flow = Flow(after, news, mark, books.volume, books.notional, books.deficit, books.waterfall.fund, halted)
        return State(market, oracle, margin, breaker, path, books, seen), flow

    def _limits(self, gate: Any, impact: Any, before: Float[Array, " assets"]) -> Limits:
        """Turns the venue's price levels into volumes; a price already beyond a level lets nothing execute."""
        trip = "the level of a circuit breaker"
        price = decisive(before, trip)
        inside = (price >= decisive(gate.floor, trip)) & (price <= decisive(gate.ceiling, trip))
        room = self.impact.room(impact, jnp.maximum(before - gate.floor, 0.0))
        room_up = self.impact.room_up(impact, jnp.maximum(gate.ceiling - before, 0.0))
        band = self.impact.room(impact, jnp.maximum(before - gate.band_floor, 0.0))
        band_up = self.impact.room_up(impact, jnp.maximum(gate.band_ceiling - before, 0.0))
        sell_cap = jnp.where(before < gate.band_floor, 0.0, jnp.minimum(gate.cap, band))
        buy_cap = jnp.where(before > gate.band_ceiling, 0.0, jnp.minimum(gate.cap, band_up))
        return Limits(gate.open & inside, sell_cap, buy_cap, room, room_up)

    def _liquidate(self, venue: _Venue, books: Books) -> Books:
        """Stages 3 to 8 for a path that has something to close."""
        positions, impact, p0 = self.positions, books.impact, self.positions.price
        unwound, waterfall = self._unwind(books, venue)

        def round_(order: Any) -> Any:
            volume, _ = positions.volume(books.positions, order, venue.limits)
            price = self.price(venue.path, self.impact.push(impact, volume + unwound))
            mark, _ = self.oracle.read(venue.oracle, price, venue.dt)
            return positions.breached(books.positions, order, mark, venue.level)

        # Without a breaker no order waits, and a sale moves the price the market sees away from the other side.
        alone = venue.limits is None and isinstance(self.oracle, Spot)
        standing = positions.standing(books.positions, venue.mark if alone else None)
        order, settled = self.clearing.resolve(standing, round_)
        order = positions.whole(books.positions, order)
        forced, executed = positions.volume(books.positions, order, venue.limits)
        volume = forced + unwound
        pushed = self.impact.push(impact, volume)
        after = self.price(venue.path, pushed)
        # An auction has one price for all, the price after; otherwise the average along the path of the volume.
        before = after + self.impact.offset(pushed) - self.impact.offset(impact)
        fill = jnp.where(venue.auction, after, before + self.impact.fill(impact, volume))
        held, closing = positions.settle(books.positions, order, executed, fill, venue.shock.crash, venue.dt)
        # Whether a step is recorded must not decide which products the compiler fuses into the sums below.
        closing = jax.lax.optimization_barrier(closing)
        waterfall = self._take_over(waterfall, closing, unwound, p0 * jnp.exp(fill), p0 * jnp.exp(after))
        profit, wealth = positions.profit(held, after), positions.equity(held, after)
        waterfall, payment = self.waterfall.settle(waterfall, closing, profit, p0 * jnp.exp(after), wealth)
        held, closed = self._deleverage(held, payment, after)
        paid_for = short_total(p0 * (volume * jnp.expm1(fill) + closed * jnp.expm1(after)))
        entry = Ledger(
            maker_units=volume + closed,
            maker_money=-paid_for,
            totals=Totals(
                bad_debt=closing.deficit,
                forced_notional=closing.notional,
                opened=closing.opened,
                fee=closing.fee,
                deposit=closing.deposit,
                adl_notional=short_total(payment.adl_contracts * (p0 * jnp.exp(after))[None, :]),
                peak_notional=closing.notional,
                unsettled=jnp.where(settled, 0.0, 1.0).astype(paid_for.dtype),
            ),
            paid=payment,
        )
        return Books(
            impact=pushed,
            positions=held,
            waterfall=waterfall,
            ledger=_booked(books.ledger, entry),
            volume=volume,
            notional=closing.notional,
            deficit=closing.deficit,
            late=None if books.late is None else self._late(venue, books, books.late, order, executed, fill, held),
        )

    def _late(
        self,
        venue: _Venue,
        books: Books,
        late: Late,
        order: Any,
        executed: Any,
        fill: Float[Array, " assets"],
        held: Any,
    ) -> Late:
        """Closes those that an earlier halt held back, apart from the rest, and notes whom this step's halt holds back."""
        positions = self.positions
        among = positions.among(books.positions, order, executed, late.orders)
        _, closing = positions.settle(books.positions, *among, fill, venue.shock.crash, venue.dt)
        closed = jnp.zeros(fill.shape, bool) if venue.limits is None else ~venue.limits.open
        return Late(positions.held_back(held, closed, late.orders), late.deficit + closing.deficit)

    def _deleverage(self, held: Any, payment: Payment, after: Float[Array, " assets"]) -> tuple[Any, Any]:
        """Takes the payments of winners; also their contracts that are closed against the counterparty, in net units."""

        def take(given: Any, old: Any) -> Any:
            positions, adl, contracts, after = given
            held = positions.deleverage(old[0], adl, contracts, after)
            return held, positions.holdings(old[0]) - positions.holdings(held)

        given, old = (self.positions, payment.adl, payment.adl_contracts, after), (held, jnp.zeros_like(after))
        if not self.positions.sparse:  # reverse mode must get through
            return take(given, old)
        return rare(jnp.any(payment.adl > 0.0), take, given, old)

    def _unwind(self, books: Books, venue: _Venue) -> tuple[Float[Array, " assets"], Any]:
        """What the backstop sells of its inventory in this step, as far as its share of depth and the breaker allow."""
        state, backstop = books.waterfall, self.waterfall.backstop
        if backstop is None or not self.positions.backstopped:
            return jnp.zeros_like(books.volume), state
        depth = self.impact.depth.effective(books.impact.depth)
        if venue.limits is not None:
            depth = jnp.where(venue.limits.open, depth, 0.0)
        volume, inventory = backstop.unwind(state.backstop, venue.dt, depth)
        return volume, state._replace(backstop=inventory)

    def _take_over(self, state: Any, closing: Closing, unwound: Any, fill: Any, price: Any) -> Any:
        """Books the backstop's sales and the positions it takes over with what equity they have left."""
        backstop = self.waterfall.backstop
        if backstop is None or not self.positions.backstopped:
            return state
        inventory = backstop.fill(state.backstop, unwound, fill)
        if closing.taken is not None and closing.taken_money is not None:
            inventory = backstop.take(inventory, closing.taken, price)
            equity = closing.taken_money + short_total(closing.taken * (price - self.positions.price))
            inventory = inventory._replace(realized=inventory.realized + equity)
        return state._replace(backstop=inventory)


def _booked(ledger: Packed, entry: Ledger) -> Packed:
    """The ledger after one more entry: sums, and the largest notional of a step."""
    old = ledger.tree
    new = jax.tree.map(jnp.add, old, entry)
    peak = jnp.maximum(old.totals.peak_notional, entry.totals.peak_notional)
    return Packed.of(new._replace(totals=new.totals._replace(peak_notional=peak)))


def _observe(seen: Seen, news: Any, after: Any, halted: Any, dt: Any) -> Seen:
    return Seen(
        halted_time=seen.halted_time + dt * short_total(jnp.where(halted, 1.0, 0.0).astype(dt.dtype)) / halted.size,
        market_low=jnp.minimum(seen.market_low, after[0]),
        market_high=jnp.maximum(seen.market_high, after[0]),
        news_low=jnp.minimum(seen.news_low, news[0]),
        news_high=jnp.maximum(seen.news_high, news[0]),
        broken=seen.broken + jnp.where(jnp.all(jnp.isfinite(after)), 0.0, 1.0),
    )
