"""A venue, its market and its positions over a horizon: what is estimated."""

import abc
from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from ._fields import InputError, Real, cast, count, duration, flag, problems, real
from ._hard import indicator
from ._streams import MAX_STEPS, Draws, Noise
from ._sums import short_total
from .book import AbstractBook
from .breaker import AbstractBreaker, NoBreaker
from .cascade import Cascade, Flow, Late, State
from .clearing import AbstractClearing, Rounds
from .impact import AbstractImpact
from .liquidation import AbstractLiquidation, Full
from .margin import AbstractMargin, Call
from .market import AbstractMarket
from .oracle import AbstractOracle, Spot
from .positions.accounts import MarginGroups
from .positions.base import AbstractPositions, Book
from .positions.smooth import SmoothThresholds
from .positions.sorted import SortedThresholds
from .simulate import AbstractSystem
from .waterfall import AbstractAllocation, CappedProRata, Closing, ProRata, Queue, Waterfall


class AbstractKernel(eqx.Module):
    """Which representation of the positions a run uses, and how the cascade inside a step is resolved."""

    clearing: eqx.AbstractVar[AbstractClearing]

    @abc.abstractmethod
    def build(
        self, book: Book, price: Any, margin: AbstractMargin, liquidation: AbstractLiquidation, dtype: Any
    ) -> AbstractPositions:
        """Tables of the book for a run in a precision."""


def _ladder_fee(kernel: str, margin: AbstractMargin, liquidation: AbstractLiquidation) -> Any:
    if not isinstance(liquidation, Full):
        raise InputError(
            f'positions.kind = "{kernel}" closes accounts in full, liquidation.kind is "{type(liquidation).__name__}"; '
            'use liquidation.kind = "Full" or positions.kind = "Accounts"'
        )
    if not margin.is_static:
        raise InputError(
            f'positions.kind = "{kernel}" needs margins that do not move, margin.kind is "{type(margin).__name__}"; '
            'use positions.kind = "Accounts"'
        )
    return liquidation.fee


class SortedLadder(AbstractKernel):
    """Exact for N isolated accounts in one asset by sorted thresholds: O(log N) per step."""

    clearing: AbstractClearing = eqx.field(default_factory=Rounds)

    def build(self, book, price, margin, liquidation, dtype) -> SortedThresholds:
        fee = _ladder_fee("SortedLadder", margin, liquidation)
        return SortedThresholds.build(book, price, margin, fee, dtype)


class SmoothLadder(AbstractKernel):
    """The continuum of the book: monotone tables on a grid of liquidation prices, differentiable."""

    cells: int = count(4096, least=2)
    clearing: AbstractClearing = eqx.field(default_factory=Rounds)

    def build(self, book, price, margin, liquidation, dtype) -> SmoothThresholds:
        fee = _ladder_fee("SmoothLadder", margin, liquidation)
        return SmoothThresholds.build(book, price, margin, fee, self.cells, dtype)


class Accounts(AbstractKernel):
    """Margin groups x assets: cross and isolated margin, partial closes, calls with top-ups, moving margins."""

    call: Call | None = None
    allocation: AbstractAllocation = eqx.field(default_factory=ProRata)  # of deleveraging over the winners
    clearing: AbstractClearing = eqx.field(default_factory=lambda: Rounds(2))

    def check(self) -> Iterator[tuple[str, str]]:
        if isinstance(self.allocation, Queue) and self.allocation.fill == "whole":
            yield "allocation.fill", 'is "whole", which takes more than is needed and gives it to nobody; use "partial"'
        if isinstance(self.allocation, CappedProRata) and float(self.allocation.cap) < 1.0:
            yield "allocation.cap", f"is {float(self.allocation.cap):g}; in a run profits must be able to pay, use 1"

    def build(self, book, price, margin, liquidation, dtype) -> MarginGroups:
        return MarginGroups.build(book, price, margin, liquidation, self.call, allocation=self.allocation)


class Scenario(eqx.Module):
    """Everything a run needs to know about the world.

    With `observed`, prices are taken as they were: forced sales happen at them and do not move them again, and the impact law
    says what the price would have been without the sales (news), so the amplification of a real crash is an attribution.
    """

    market: AbstractMarket
    book: AbstractBook
    margin: AbstractMargin
    impact: AbstractImpact
    price: Real = real(unit="USD/unit", above=0.0)  # (assets,) at the start
    horizon: Real = duration(above=0.0, infinite=False)
    step: Real = duration(above=0.0, infinite=False)
    positions: AbstractKernel = eqx.field(default_factory=SortedLadder)
    liquidation: AbstractLiquidation = eqx.field(default_factory=Full)
    oracle: AbstractOracle = eqx.field(default_factory=Spot)
    breaker: AbstractBreaker = eqx.field(default_factory=NoBreaker)
    waterfall: Waterfall = eqx.field(default_factory=Waterfall)
    observed: bool = flag(False)  # the market replays real prices, which contain the forced flow: see below
    crash_coupling: Real = real(1.0, unit="1", least=0.0, most=1.0)  # 0 cuts depth and top-ups off the crash factor

    @property
    def steps(self) -> int:
        """Number of steps of a path."""
        return round(float(self.horizon) / float(self.step))

    def check(self) -> Iterator[tuple[str, str]]:
        for name in ("horizon", "step"):
            if np.ndim(getattr(self, name)):
                yield name, f'a list of {np.size(getattr(self, name))} times, expected one, for example "1d"'
                return
        ratio = float(self.horizon) / float(self.step)
        if not 1 <= round(ratio) < MAX_STEPS or abs(ratio - round(ratio)) > 1e-6 * ratio:
            yield "step", f"the horizon is {ratio:g} steps long, expected a whole number from 1 to {MAX_STEPS - 1:,}"
            return
        for name in ("market", "oracle", "breaker"):
            for field, complaint in getattr(self, name).check_step(float(self.step)):
                yield f"{name}.{field}", complaint

    def build(self, dtype: Any = np.float32, draw: int = 0) -> "VenueSystem":
        """The system an estimator runs, in a precision; `draw` numbers the draw of the book.

        **Raises:** `ValueError` naming the first value that is out of bounds, or parts that do not fit together.
        """
        wrong = list(problems(self))
        if wrong:
            raise InputError(wrong[0])
        return self.assemble(dtype, draw, check=True)

    def assemble(self, dtype: Any, draw: int = 0, check: bool = False, positions: Book | None = None) -> "VenueSystem":
        """As `build`, but the values were checked before and may be traced, as far as the book and the kernel allow it.

        `positions` take the place of those that the book would draw; their weights may be traced on a smooth ladder.
        """
        if isinstance(self.positions, Accounts) and self.liquidation.backstopped and self.waterfall.backstop is None:
            raise InputError(
                f'liquidation.kind = "{type(self.liquidation).__name__}" hands groups to a backstop; give waterfall.backstop'
            )
        market = self.market.prepare()
        price = np.asarray(self.price, float).reshape(-1)
        if market.assets != price.size:
            raise InputError(
                f'price: {price.size} price(s), but market.kind = "{type(self.market).__name__}" has {market.assets} '
                "asset(s); give each asset one starting price"
            )
        book = self.book.build(price, self.margin, draw) if positions is None else positions
        wrong = list(problems(book, "book")) if check else []
        if wrong:
            raise InputError(wrong[0])
        held = np.asarray(book.quantity).shape[1]
        if held != price.size:
            raise InputError(
                f'book.kind = "{type(self.book).__name__}" has positions in {held} asset(s), price has {price.size}; '
                'use book.kind = "CrossMixture" or "PositionTable"'
            )
        traced = isinstance(book.weight, Tracer)
        gross = 1.0 if traced else float((np.abs(book.quantity) @ price * book.weight).sum())
        if not 0.0 < gross < float(np.finfo(dtype).max):
            raise InputError(
                f"book: gross notional is {gross:g} USD, expected a number > 0 that {np.dtype(dtype)} holds"
            )
        cascade = Cascade(
            market=market,
            oracle=self.oracle,
            margin=jax.lax.stop_gradient(self.margin) if self.margin.is_static else self.margin,  # it is in the tables
            positions=self.positions.build(book, price, self.margin, self.liquidation, dtype),
            impact=self.impact,
            breaker=self.breaker,
            waterfall=self.waterfall,
            clearing=self.positions.clearing,
            couple=self.crash_coupling,
            observed=self.observed,
        )
        return VenueSystem(
            cascade=cast(cascade, dtype),
            dt=jnp.asarray(float(self.step), dtype),
            steps=self.steps,
            dtype=np.dtype(dtype),
        )


class VenueSystem(AbstractSystem):
    """A built scenario: one path of a leveraged market and what it cost whom."""

    cascade: Cascade
    dt: Float[Array, ""]
    steps: int = eqx.field(static=True)
    dtype: Any = eqx.field(static=True)

    @property
    def draws(self) -> Draws:
        return self.cascade.draws

    def init(self) -> State:
        return self.cascade.init(self.dtype)

    def step(self, state: State, noise: Noise) -> tuple[State, Flow]:
        return self.cascade.step(state, noise, self.dt)

    def outcome(self, state: State) -> dict[str, Float[Array, ""]]:
        """Money in USD; falls are log-price falls of the first asset.

        Deficits of accounts that are still open at the horizon count as bad debt and go through the waterfall, so a halt
        or a slow liquidation cannot hide them behind the end of the run. Derivatives: see `Cascade`; that of an
        indicator (`fund_depleted`, `flag_unsettled`) is nan where a number it was decided by carries a tangent.
        """
        cascade, books, seen = self.cascade, state.books, state.seen
        ledger, positions, p0 = books.ledger.tree, cascade.positions, cascade.positions.price
        totals = ledger.totals
        log_price = cascade.price(state.path, books.impact)
        price, gross = p0 * jnp.exp(log_price), positions.gross()
        nothing = jnp.zeros_like(self.dt)
        open_deficit, bankrupt = positions.open_deficit(books.positions, log_price)
        closing = Closing(
            deficit=open_deficit,
            fee=nothing,
            surplus=nothing,
            deposit=nothing,
            notional=nothing,
            opened=nothing,
            bankrupt=bankrupt,
        )
        wealth = positions.equity(books.positions, log_price)
        profit = positions.profit(books.positions, log_price)
        waterfall, last = cascade.waterfall.settle(books.waterfall, closing, profit, price, wealth + open_deficit)
        paid = jax.tree.map(jnp.add, ledger.paid, last)
        # Everyone's money at the end against what they brought: traders, counterparty book, fund, capital and backstop.
        traders = wealth + open_deficit - short_total(last.adl) + paid.returned
        maker = ledger.maker_money + short_total(ledger.maker_units * p0 * jnp.expm1(log_price))
        venue = cascade.waterfall.wealth(waterfall, price) - paid.socialized - paid.venue + paid.fees_out
        start = positions.equity(positions.init(self.dtype), jnp.zeros_like(log_price))
        brought = start + cascade.waterfall.wealth(cascade.waterfall.init(price.shape[0], self.dtype), price)
        adl_notional = totals.adl_notional + short_total(last.adl_contracts * price[None, :])
        late = {} if books.late is None else {"late_bad_debt": self._late(state, books.late, log_price)}
        return late | {
            "bad_debt": totals.bad_debt + open_deficit,
            "open_deficit": open_deficit,
            "forced_notional": totals.forced_notional,
            "peak_notional": totals.peak_notional,
            "liquidated_share": totals.opened / gross,
            "fees": totals.fee,
            "surplus_returned": paid.returned,
            "deposits": totals.deposit,
            "fund_end": waterfall.fund,
            "fund_paid": paid.fund,
            "fund_depleted": indicator(jnp.where(waterfall.ruined, 1.0, 0.0).astype(self.dtype), paid.fund),
            "backstop_paid": paid.backstop,
            "capital_paid": paid.capital,
            "adl_pnl": short_total(paid.adl),
            "adl_notional": adl_notional,
            "adl_contracts": short_total(paid.adl_contracts),
            "socialized_loss": paid.socialized,
            "residual_loss": paid.venue,
            "halted_time": seen.halted_time,
            "market_fall": -seen.market_low,
            "market_rise": seen.market_high,
            "news_fall": -seen.news_low,
            "news_rise": seen.news_high,
            "final_log_price": log_price[0],
            "ledger_residual": (traders + maker + venue - brought - totals.deposit) / gross,
            "flag_unsettled": indicator(totals.unsettled, positions.standing(books.positions)),
            "flag_broken": seen.broken,
        }

    def _late(self, state: State, late: Late, log_price: Float[Array, " assets"]) -> Float[Array, ""]:
        """Bad debt of the groups whose orders a halt held back: of those that were closed, and of those still waiting."""
        positions, held = self.cascade.positions, state.books.positions
        _, executed = positions.volume(held, late.orders, None)
        among = positions.among(held, late.orders, executed, late.orders)
        _, closing = positions.settle(held, *among, log_price, jnp.zeros_like(self.dt), self.dt)
        return late.deficit + closing.deficit
