"""Closed forms of execution cost from the literature: to set the parameters of impact laws and to check them.

Pure functions of numbers, on the host. Fractions are of price (0.01 = 1 %), volatilities per square root of a day,
volumes in the units of the asset or all in USD. The laws a simulation uses are in `tailrisk.impact`.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float


class BookWalk(NamedTuple):
    """filled: units executed (less than asked when the book is too thin). notional: USD. average: USD/unit, nan if
    nothing was filled. last: worst price touched."""

    filled: float
    notional: float
    average: float
    last: float


def book_walk(
    price: Float[np.ndarray, " levels"] | list[float], size: Float[np.ndarray, " levels"] | list[float], quantity: float
) -> BookWalk:
    """Walks one side of an order book, best level first, with a market order of `quantity` > 0 units.

    Buying walks asks given in rising order, selling walks bids given in falling order.
    """
    price, size = np.asarray(price, np.float64), np.asarray(size, np.float64)
    if price.shape != size.shape or price.ndim != 1 or price.size == 0:
        raise ValueError(f"price has shape {price.shape} and size {size.shape}, expected two equal lists of levels")
    before = np.cumsum(size) - size
    taken = np.clip(quantity - before, 0.0, size)
    filled, notional = float(taken.sum()), float(taken @ price)
    touched = price[taken > 0.0]
    return BookWalk(
        filled,
        notional,
        notional / filled if filled > 0.0 else math.nan,
        float(touched[-1]) if touched.size else math.nan,
    )


def vwap_linear(price: float, sold: float, slope: float = 1.0) -> float:
    """Average price when each unit sold lowers the price by `slope` USD: price - slope * sold / 2; buying is sold < 0.

    The average of the prices before and after the trade.
    """
    return price - 0.5 * slope * sold


class AlmgrenCost(NamedTuple):
    """Fractions of price. permanent: I, stays. temporary: K, paid by this order only. cost: I / 2 + K."""

    permanent: float
    temporary: float
    cost: float


def almgren_2005_cost(
    quantity: float,
    daily_volume: float,
    shares_outstanding: float,
    daily_volatility: float,
    days: float,
    permanent: float = 0.314,
    temporary: float = 0.142,
) -> AlmgrenCost:
    """Impact of an order of `quantity` units executed evenly over `days`, fitted to orders in US shares.

    I = gamma sigma (X / V) (Theta / V)^(1/4),    K = eta sigma |X / (V T)|^(3/5)

    **Source:** Almgren, Thum, Hauptmann, Li (2005), "Direct estimation of equity market impact".
    """
    participation = quantity / daily_volume
    lasting = permanent * daily_volatility * participation * (shares_outstanding / daily_volume) ** 0.25
    passing = math.copysign(temporary * daily_volatility * abs(participation / days) ** 0.6, quantity)
    return AlmgrenCost(lasting, passing, 0.5 * lasting + passing)


class KyleEquilibrium(NamedTuple):
    """price_impact: lambda, USD/unit per unit of order flow. aggressiveness: beta, units per USD of mispricing."""

    price_impact: float
    aggressiveness: float


def kyle_1985(value_variance: float, noise_std: float) -> KyleEquilibrium:
    """One-period equilibrium of an informed trader, noise traders and a market maker.

    lambda = sqrt(Sigma0) / (2 sigma_u),    beta = sigma_u / sqrt(Sigma0)

    **Source:** Kyle (1985), "Continuous auctions and insider trading", theorem 1.
    """
    value_std = math.sqrt(value_variance)
    return KyleEquilibrium(value_std / (2.0 * noise_std), noise_std / value_std)


def market_depth(daily_volume: float, daily_volatility: float, days: float, factor: float = 0.4) -> float:
    """Depth D of linear impact for selling over `days`: a sale S moves the price by S / D.

    D = factor * ADV / sigma * sqrt(days). It is the depth of a `Linear` law with coefficient 1.

    **Source:** Cont and Schaanning (2017), "Fire sales, indirect contagion and systemic stress testing".
    """
    return factor * daily_volume / daily_volatility * math.sqrt(days)


class AlmgrenChriss(NamedTuple):
    """holdings: (periods + 1,) units left. expected: USD cost. variance: USD^2. urgency: kappa, 1/day."""

    holdings: Float[np.ndarray, " periods_plus_1"]
    expected: float
    variance: float
    urgency: float


def almgren_chriss_schedule(
    quantity: float,
    days: float,
    periods: int,
    volatility: float,
    half_spread: float,
    permanent: float,
    temporary: float,
    risk_aversion: float,
) -> AlmgrenChriss:
    """Selling schedule that minimizes expected cost plus `risk_aversion` (1/USD) times variance.

        eta' = eta - gamma dt / 2,    kappa = arccosh(1 + lambda sigma^2 dt^2 / (2 eta')) / dt
        x_j = X sinh(kappa (T - t_j)) / sinh(kappa T),    E = gamma X^2 / 2 + epsilon X + (eta' / dt) sum n_j^2

    `volatility` in USD per unit and root day, `permanent` in USD/unit^2, `temporary` in USD day/unit^2. At risk
    aversion 0 the schedule is a straight line.

    **Source:** Almgren and Chriss (2000), "Optimal execution of portfolio transactions", eqs. 17 to 20.
    """
    step = days / periods
    eased = temporary - 0.5 * permanent * step
    if eased <= 0.0:
        raise ValueError(
            f"temporary = {temporary:g} must exceed permanent * days / (2 periods) = {0.5 * permanent * step:g}; "
            f"use more periods or check the units"
        )
    urgency = math.acosh(1.0 + 0.5 * risk_aversion * volatility**2 * step**2 / eased) / step
    left = days - step * np.arange(periods + 1)
    holdings = quantity * (np.sinh(urgency * left) / math.sinh(urgency * days) if urgency > 0.0 else left / days)
    sold = -np.diff(holdings)
    expected = 0.5 * permanent * quantity**2 + half_spread * abs(quantity) + eased / step * float(sold @ sold)
    variance = volatility**2 * step * float(holdings[1:] @ holdings[1:])
    return AlmgrenChriss(holdings, expected, variance, urgency)


class ObizhaevaWang(NamedTuple):
    """block: units traded at once at the start and again at the end. rate: units per time in between."""

    block: float
    rate: float


def obizhaeva_wang_schedule(quantity: float, resilience: float, horizon: float) -> ObizhaevaWang:
    """Cheapest way to trade against a book that refills exponentially at rate `resilience`.

    block = X / (rho T + 2) at each end, and rate = rho * block in between.

    **Source:** Obizhaeva and Wang (2013), "Optimal trading strategy and supply/demand dynamics", proposition 3.
    """
    block = quantity / (resilience * horizon + 2.0)
    return ObizhaevaWang(block, resilience * block)


def constant_product_out(amount_in: Any, reserve_in: Any, reserve_out: Any, fee: tuple[int, int] = (3, 1000)) -> int:
    """What an integer constant-product pool pays out, in its smallest units, rounded down.

    out = floor(a (d - n) y / (x d + a (d - n))) with the fee n / d taken from the incoming amount.

    **Source:** Uniswap v2 (Adams, Zinsmeister, Robinson 2020).
    """
    whole = [int(value) for value in (amount_in, reserve_in, reserve_out)]
    if any(value <= 0 for value in whole) or not 0 <= fee[0] < fee[1]:
        raise ValueError(
            f"amount and reserves {whole} must be positive whole numbers and the fee {fee} a fraction below 1"
        )
    amount, x, y = whole
    kept = amount * (fee[1] - fee[0])
    return kept * y // (x * fee[1] + kept)
