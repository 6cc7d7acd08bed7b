"""Who pays a deficit: insurance fund, backstop, venue capital, winners, everybody, or the venue after all."""

from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .._fields import Real, choice, real
from .._sums import short_sum, short_total
from .backstop import Backstop, Inventory
from .base import Closing
from .closing import covered, fund_update, positive, ratio_of

Assets = Float[Array, " assets"]
Sides = Float[Array, "2 assets"]  # row 0 longs, row 1 shorts
Scalar = Float[Array, ""]


class Payment(NamedTuple):
    """Who paid, USD unless said otherwise. fund + backstop + capital + sum(adl) + socialized + venue = deficit.

    The three units of deleveraging stay apart: `adl` is USD of profit taken, `adl_contracts` is units closed, and their
    notional is `adl_contracts` x price.
    """

    fund: Scalar  # insurance fund
    backstop: Scalar  # equity of the backstop
    capital: Scalar  # venue capital that stands before winners
    adl: Sides  # profit taken from winning longs (row 0) and shorts (row 1)
    adl_contracts: Sides  # units of theirs that are closed
    socialized: Scalar  # charged to all users
    venue: Scalar  # residual that nobody covered
    returned: Scalar  # surplus given back to the closed accounts
    kept: Scalar  # surplus that went to the fund
    fees_out: Scalar  # liquidation fees that left the system

    @property
    def deficit(self) -> Scalar:
        """Bad debt before the waterfall."""
        return self.fund + self.backstop + self.capital + self.after_fund

    @property
    def after_fund(self) -> Scalar:
        """Bad debt after fund, backstop and venue capital, before winners pay."""
        return short_total(self.adl) + self.adl_shortfall

    @property
    def adl_shortfall(self) -> Scalar:
        """What deleveraging did not cover and all users or the venue carry."""
        return self.socialized + self.venue


class WaterfallState(NamedTuple):
    """What a path carries: fund and venue capital left (USD), the backstop's inventory."""

    fund: Scalar
    capital: Scalar
    backstop: Inventory | tuple[()]
    ruined: Bool[Array, ""]  # the fund was empty with a deficit unpaid


class Waterfall(eqx.Module):
    """The loss waterfall of a venue.

    Of a step's closings the fund first receives `fee_to_fund` of the fees and `keep` of the surplus. The deficit is
    then paid by the fund, the equity of the backstop, `venue_capital`, and as last resort (`deleverage`) by:
    "adl": profit of winners opposite to the bankrupt positions, in the bankrupt asset first and then in the other
    assets with bankrupt positions; "adl_then_socialize": the same, the rest by all users; "socialize": all users at
    once; "none": nobody. What is left is the residual loss of the venue. Each source is used once, up to what it has.

    Simplified: bankrupt positions share the unpaid deficit by notional, because a cross account has no deficit per
    asset.
    **Source:** mechanism common to derivatives venues; order as published by BitMEX, dYdX and Hyperliquid.
    """

    fund: Real = real(0.0, unit="USD", least=0.0)
    keep: Real = real(0.0, unit="1", least=0.0, most=1.0)
    fee_to_fund: Real = real(1.0, unit="1", least=0.0, most=1.0)
    venue_capital: Real = real(0.0, unit="USD", least=0.0)
    deleverage: str = choice("adl", "adl", "adl_then_socialize", "socialize", "none")
    backstop: Backstop | None = None

    def init(self, assets: int, dtype: Any) -> WaterfallState:
        """The state before the first step: a full fund."""
        zero = jnp.zeros((), dtype)
        inventory = () if self.backstop is None else self.backstop.init(assets, dtype)
        return WaterfallState(zero + self.fund, zero + self.venue_capital, inventory, jnp.zeros((), bool))

    def unpaid(self, assets: int, dtype: Any) -> Payment:
        """Nothing paid yet: where sums of payments start."""
        zero, sides = jnp.zeros((), dtype), jnp.zeros((2, assets), dtype)
        return Payment(zero, zero, zero, sides, sides, zero, zero, zero, zero, zero)

    def wealth(self, state: WaterfallState, price: Assets) -> Scalar:
        """What the venue's own waterfall hold at prices in USD/unit: fund, capital and the backstop's equity; USD."""
        own = state.fund + state.capital
        if self.backstop is not None and isinstance(state.backstop, Inventory):
            own = own + self.backstop.value(state.backstop, price)
        return own

    def settle(
        self, state: WaterfallState, closing: Closing, profit: Sides, price: Assets, wealth: Scalar | None = None
    ) -> tuple[WaterfallState, Payment]:
        """Pays the deficit of a step.

        profit: positive profit of winning longs (row 0) and shorts (row 1), USD. price: mark, USD/unit. wealth: equity
        of all users before they pay anything, the most that can be taken of them, USD; without it there is no limit.
        """
        zero = jnp.zeros_like(closing.deficit)
        kept = self.keep * closing.surplus
        to_fund = self.fee_to_fund * closing.fee
        fund, by_fund, unpaid = fund_update(state.fund, to_fund + kept, closing.deficit)
        ruined = state.ruined | (unpaid > 0.0)

        inventory, by_backstop = state.backstop, zero
        if self.backstop is not None and isinstance(inventory, Inventory):
            inventory, by_backstop = self.backstop.absorb(inventory, unpaid, price)
        unpaid = unpaid - by_backstop
        by_capital = covered(unpaid, state.capital)
        unpaid = unpaid - by_capital

        adl = contracts = jnp.zeros_like(profit)
        if self.deleverage in ("adl", "adl_then_socialize"):
            adl, contracts, unpaid = _deleverage(unpaid, closing, profit, price)
        socialized = zero
        if self.deleverage in ("adl_then_socialize", "socialize"):
            socialized = unpaid if wealth is None else covered(unpaid, positive(wealth - short_total(adl)))
        payment = Payment(
            fund=by_fund,
            backstop=by_backstop,
            capital=by_capital,
            adl=adl,
            adl_contracts=contracts,
            socialized=socialized,
            venue=unpaid - socialized,
            returned=closing.surplus - kept,
            kept=kept,
            fees_out=closing.fee - to_fund,
        )
        return WaterfallState(fund, state.capital - by_capital, inventory, ruined), payment


def _deleverage(unpaid: Scalar, closing: Closing, profit: Sides, price: Assets) -> tuple[Sides, Sides, Scalar]:
    """Profit taken and units closed of the winners opposite to bankrupt positions, and the loss they cannot carry.

    Each asset's winners pay the deficit of its own bankrupt positions as far as they can; what is missing there is
    taken from the others pro rata to the profit they have left.
    """
    bankrupt = closing.bankrupt
    opposite = jnp.stack([bankrupt < 0.0, bankrupt > 0.0])
    winners = jnp.where(opposite, positive(profit), 0.0)
    most = short_sum(winners)
    notional = jnp.abs(bankrupt) * price
    own = covered(unpaid * ratio_of(notional, short_total(notional)), most)
    rest, room = positive(unpaid - short_total(own)), most - own
    taken = own + covered(ratio_of(rest, short_total(room)), 1.0) * room
    share = ratio_of(unpaid, closing.deficit)  # of the bankrupt quantity: its deficit was paid by nobody so far
    amount = jnp.where(winners > 0.0, taken[None, :], 0.0)
    contracts = jnp.where(winners > 0.0, (share * jnp.abs(bankrupt))[None, :], 0.0)
    return amount, contracts, positive(unpaid - short_total(most))
