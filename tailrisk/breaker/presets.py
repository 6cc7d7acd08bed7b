"""Rules of real venues, as breakers. Dates are those of the rules or of the pages that state them.

`slots` must hold the window of the rule at the step length of the scenario. Rules that differ by the time of day are
given for the middle of the session.
"""

# pyright: reportArgumentType=false
# (fields convert plain numbers and durations, which their annotations do not say)

from .bands import PriceBand
from .halts import MarketWide
from .reference import FixedReference, RollingExtremes, WindowMean
from .throttle import AllOf


def us_market_wide() -> MarketWide:
    """US market-wide circuit breaker: 7/13/20 % below the previous close; 15 min, 15 min, rest of the day.

    Source: NYSE Rule 7.12 (levels of 2013, on the S&P 500). Left out: from 15:25 New York time levels 1 and 2 do not
    halt.
    """
    return MarketWide(levels=[0.07, 0.13, 0.20], lengths=["15min", "15min", "inf d"], session="1d")


def luld_tier1(*, doubled: bool = False, slots: int = 20) -> PriceBand:
    """US limit up/limit down, tier 1 above 3 USD: 5 % around the 5 min mean, 15 s limit state, 5 min pause.

    Source: Plan to Address Extraordinary Market Volatility (2012). `doubled` is the width near the close (in the
    original plan near the open as well).
    """
    return _limit_up_limit_down(0.05, doubled, slots)


def luld_tier2(*, doubled: bool = False, slots: int = 20) -> PriceBand:
    """US limit up/limit down, tier 2 above 3 USD: 10 % around the 5 min mean, 15 s limit state, 5 min pause (2012)."""
    return _limit_up_limit_down(0.10, doubled, slots)


def luld_low_priced(*, doubled: bool = False, slots: int = 20) -> PriceBand:
    """US limit up/limit down, 0.75 to 3 USD: 20 % around the 5 min mean, 15 s limit state, 5 min pause (2012)."""
    return _limit_up_limit_down(0.20, doubled, slots)


def _limit_up_limit_down(width: float, doubled: bool, slots: int) -> PriceBand:
    reference = WindowMean(window="5min", slots=slots)
    return PriceBand(width=2.0 * width if doubled else width, reference=reference, limit_time="15s", pause="5min")


def cme_equity_overnight() -> PriceBand:
    """CME US equity index futures overnight: a hard limit 7 % from the settlement price; trading goes on at the limit.

    Source: CME Group, Understanding price limits and circuit breakers (March 2020).
    """
    return PriceBand(width=0.07, reference=FixedReference(period="1d"), limit_time="inf d", pause="2min")


def cme_dynamic(*, slots: int = 60) -> PriceBand:
    """CME dynamic circuit breaker of equity index futures: 3.5 % within a rolling hour, then a 2 min pause.

    Falls are measured from the high and rises from the low of the window, which starts anew after the pause; no
    monitoring. Source: CME Group, Dynamic circuit breakers, frequently asked questions (2020). Simplified: the width is
    a share of the high or low, not of the settlement price.
    """
    return PriceBand(width=0.035, reference=RollingExtremes(window="1h", slots=slots), limit_time="0s", pause="2min")


def cme_bitcoin_launch() -> AllOf:
    """CME bitcoin futures at launch (December 2017): 7 and 13 % soft limits, 20 % hard limit from the settlement price.

    A soft limit that holds for 2 min of monitoring halts trading for 2 min and is then lifted; the hard limit stays.
    For a horizon of one day: lifted limits do not come back.
    """
    settlement = FixedReference(period="inf d")
    soft = [
        PriceBand(width=width, reference=settlement, limit_time="2min", pause="2min", cooldown="inf d")
        for width in (0.07, 0.13)
    ]
    return AllOf((*soft, PriceBand(width=0.20, reference=settlement, limit_time="inf d", pause="2min")))


def coinbase_derivatives() -> PriceBand:
    """Coinbase Derivatives: 10 % around an hourly reference price, then a 2 min halt.

    Source: Coinbase Derivatives, Price fluctuation limits (help page, 2024). Simplified: after a halt the reference is
    the price of the reopening until the hour ends (the rule says the limit that was reached).
    """
    reference = FixedReference(period="1h", reopening="renew")
    return PriceBand(width=0.10, reference=reference, limit_time="0s", pause="2min")
