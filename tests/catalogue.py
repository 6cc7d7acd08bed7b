"""Named constructors of every component, and small scenarios that together use them all.

Everything lives on a grid of 24 steps of a minute in which a calm law moves the price by about 6 %, so that breakers of
seconds and minutes act and a book of 60 accounts is cut into.
"""

from typing import Any

import equinox as eqx
import numpy as np

from tailrisk import book, breaker, impact, liquidation, margin, market, oracle, waterfall
from tailrisk.clearing import Exact, Rounds
from tailrisk.data.series import PriceArray
from tailrisk.margin.procyclicality import LookbackFloor, MarginBuffer, StressWeight
from tailrisk.positions.base import Book
from tailrisk.scenario import Accounts, Scenario, SmoothLadder, SortedLadder

UNITS = 2e6  # open interest of the books below
DEEP = 0.3 * UNITS


def prices(assets: int = 1, times: int = 300, seed: int = 3) -> np.ndarray:
    """A made-up series with fat tails and a common factor."""
    rng = np.random.default_rng(seed)
    moves = 0.007 * (rng.standard_t(4, (times, assets)) + rng.standard_t(4, (times, 1)))
    return 100.0 * np.exp(np.cumsum(moves, axis=0))


def merton() -> Any:
    return market.MertonJumps(rate=5e4, deviation=0.03, mean=-0.02)


MARKETS = {
    "geometric brownian": lambda: market.GeometricBrownian(9.6, drift=0.1),
    "arithmetic brownian": lambda: market.ArithmeticBrownian(9.6),
    "mean reverting": lambda: market.MeanReverting(0.05, "10min"),
    "merton": lambda: market.JumpDiffusion(merton(), 6.0, crash_memory="5min"),
    "kou": lambda: market.JumpDiffusion(market.KouJumps(rate=5e4, up=0.4, up_mean=0.02, down_mean=0.03), 6.0),
    "heston": lambda: market.Heston(90.0, 5e3, 90.0, 900.0, -0.5),
    "hawkes": lambda: market.Hawkes(
        market.MertonJumps(rate=2e5, deviation=0.01, most=16), 4.0, branching=0.7, memory="5min"
    ),
    "regime switching": lambda: market.RegimeSwitching(
        merton(), volatility=6.0, crash_volatility=18.0, enter=2e4, leave=5e4, calm_jumps=0.1
    ),
    "block bootstrap": lambda: market.BlockBootstrap(PriceArray(prices(), "1min"), block="8min", crash_memory="5min"),
    "replay": lambda: market.Replay(PriceArray(prices(times=30, seed=12), "1min")),
}
TWO_ASSET_MARKETS = {
    "geometric brownian, 2 assets": lambda: market.GeometricBrownian([8.0, 10.0], correlation=0.7),
    "merton, 2 assets": lambda: market.JumpDiffusion(merton(), [6.0, 7.0], correlation=-0.3, loading=[1.0, 1.5]),
    "block bootstrap, 2 assets": lambda: market.BlockBootstrap(PriceArray(prices(2), "1min"), block="8min"),
}
DEPTHS = {
    "constant": lambda: impact.ConstantDepth(DEEP),
    "evaporating": lambda: impact.EvaporatingDepth(
        DEEP, sensitivity=0.3, reference=9.6, memory="5min", recovery="10min"
    ),
}
IMPACTS = {
    "square root": lambda depth: impact.SquareRoot(depth, volatility=0.05, memory="20min"),
    "square root, 2 memories": lambda depth: impact.SquareRoot(
        depth, volatility=0.05, memory=["5min", "1d"], share=[0.6, 0.4]
    ),
    "linear": lambda depth: impact.Linear(depth, 0.05, memory="20min"),
    "permanent linear": lambda depth: impact.Linear(depth, 0.05, memory="inf y"),
    "power": lambda depth: impact.Power(depth, volatility=0.05, exponent=0.6, memory="20min"),
    "transient": lambda depth: impact.Transient(depth, weights=[0.02, 0.03], memories=["10min", "inf y"]),
    "constant product": lambda depth: impact.ConstantProduct(  # a reserve that this book cannot empty
        eqx.tree_at(lambda d: d.volume, depth, np.asarray(20.0 * DEEP)), memory="20min"
    ),
}
SYMMETRIC_IMPACTS = tuple(name for name in IMPACTS if name != "constant product")
ORACLES = {
    "spot": lambda: oracle.Spot(),
    "lagged": lambda: oracle.Lagged("90s", slots=4),
    "window average": lambda: oracle.WindowAverage("4min", slots=5),
    "geometric window average": lambda: oracle.WindowAverage("4min", slots=5, mean="geometric"),
    "exponential average": lambda: oracle.ExponentialAverage("2min"),
    "deviation": lambda: oracle.Deviation(0.02, "5min"),
}


def brackets(**more: Any) -> margin.Brackets:
    return margin.Brackets(
        floors=[0.0, 2e5, 1e6, 5e6],
        maintenance_rates=[0.004, 0.01, 0.025, 0.05],
        max_leverage=[100.0, 50.0, 20.0, 10.0],
        **more,
    )


MARGINS = {
    "brackets": lambda: brackets(),
    "flat": lambda: margin.Flat(0.01, 0.02),
    "volatility scaled": lambda: margin.VolatilityScaled(margin.Flat(0.01, 0.02), reference=9.6, half_life="10min"),
    "buffer": lambda: margin.VolatilityScaled(brackets(), MarginBuffer(12.0), reference=9.6, half_life="10min"),
    "stress weight": lambda: margin.VolatilityScaled(brackets(), StressWeight(20.0), reference=9.6, half_life="10min"),
    "look-back floor": lambda: margin.VolatilityScaled(
        brackets(), LookbackFloor(9.0), reference=9.6, half_life="10min"
    ),
}
LIQUIDATIONS = {
    "full": lambda: liquidation.Full(0.005),
    "slice": lambda: liquidation.Slice(),
    "schedule": lambda: liquidation.Schedule(0.002, size_limit=1e6, wait="2min"),
}
BREAKERS = {
    "none": lambda: breaker.NoBreaker(),
    "halt": lambda: breaker.Halt(0.04, "5min", cooldown="2min"),
    "halt both ways": lambda: breaker.Halt(0.05, "3min", breaker.RollingExtremes("10min", slots=10), direction="both"),
    "halt from average": lambda: breaker.Halt(0.05, "3min", breaker.ExponentialReference("5min")),
    "us market wide": breaker.us_market_wide,
    "luld tier 1": breaker.luld_tier1,
    "statistical band": lambda: breaker.StatisticalBand(9.6, outside=0.05, horizon="10min", pause="2min"),
    "throttle": lambda: breaker.Throttle(2e6, "1h"),
    "all of": lambda: breaker.AllOf((breaker.Halt(0.06, "4min"), breaker.Throttle(4e6, "1h"))),
    "cme equity overnight": breaker.cme_equity_overnight,
    "cme dynamic": breaker.cme_dynamic,
    "cme bitcoin launch": breaker.cme_bitcoin_launch,
    "coinbase derivatives": breaker.coinbase_derivatives,
    "luld tier 2": breaker.luld_tier2,
    "luld low priced": breaker.luld_low_priced,
}
BREAKERS_LIKE = {  # the same program with other numbers
    "luld tier 2": "luld tier 1",
    "luld low priced": "luld tier 1",
    "coinbase derivatives": "cme equity overnight",
}
WATERFALLS = {
    "adl": lambda: waterfall.Waterfall(fund=2e5),
    "adl, then everybody": lambda: waterfall.Waterfall(
        fund=2e5, keep=0.5, fee_to_fund=0.7, venue_capital=1e5, deleverage="adl_then_socialize"
    ),
    "everybody": lambda: waterfall.Waterfall(fund=2e5, keep=1.0, deleverage="socialize"),
    "venue": lambda: waterfall.Waterfall(fund=1e5, deleverage="none"),
    "backstop": lambda: waterfall.Waterfall(fund=2e5, backstop=waterfall.Backstop(3e5, cutoff=1e3)),
}
KERNELS = {
    "sorted": lambda: SortedLadder(),
    "sorted, exact": lambda: SortedLadder(clearing=Exact()),
    "smooth": lambda: SmoothLadder(cells=512),
    "accounts": lambda: Accounts(clearing=Rounds(2)),
    "accounts with calls": lambda: Accounts(margin.Call(grace="2min"), clearing=Rounds(2)),
    "accounts, queue": lambda: Accounts(allocation=waterfall.Queue()),
    "accounts, capped": lambda: Accounts(allocation=waterfall.CappedProRata()),
    "accounts, risk-aware": lambda: Accounts(allocation=waterfall.RiskAware()),
}
CLOSING_ONLY = {"sorted", "sorted, exact", "smooth"}  # kernels for static margins and full closes
BOOKS = {
    "pareto": lambda: book.LeverageMixture(1e2 * UNITS, 60, reserve=0.5),
    "lognormal": lambda: book.LeverageMixture(1e2 * UNITS, 60, sizes=book.LognormalSizes()),
    "equal": lambda: book.LeverageMixture(1e2 * UNITS, 60, sizes=book.EqualSizes(), long_share=0.5),
    "cross": lambda: book.CrossMixture(1e2 * UNITS, 60, reserve=0.5),
}
BASE = {
    "market": "geometric brownian",
    "depth": "constant",
    "impact": "square root",
    "oracle": "spot",
    "margin": "brackets",
    "liquidation": "full",
    "breaker": "none",
    "waterfall": "adl",
    "kernel": "sorted",
    "book": "pareto",
}
KINDS = {
    "market": MARKETS | TWO_ASSET_MARKETS,
    "depth": DEPTHS,
    "impact": IMPACTS,
    "oracle": ORACLES,
    "margin": MARGINS,
    "liquidation": LIQUIDATIONS,
    "breaker": BREAKERS,
    "waterfall": WATERFALLS,
    "kernel": KERNELS,
    "book": BOOKS,
}


def named(**names: str) -> dict[str, str]:
    """Base names with changes, made to fit: what a ladder cannot hold goes to accounts, a schedule has a backstop."""
    found = BASE | names
    if found["market"] in TWO_ASSET_MARKETS:
        found["book"] = "cross"
    moving = found["margin"] not in ("brackets", "flat")
    if (moving or found["liquidation"] != "full" or found["book"] == "cross") and found["kernel"] in CLOSING_ONLY:
        found["kernel"] = "accounts"
    if found["liquidation"] == "schedule":
        found["waterfall"] = "backstop"
    return found


def scenario(names: dict[str, str], **parts: Any) -> Scenario:
    """The scenario of a set of names; `parts` replace whole components."""
    made = {kind: KINDS[kind][name] for kind, name in names.items()}
    built = {kind: make() for kind, make in made.items() if kind not in ("depth", "impact", "kernel")}
    assets = 2 if names["market"] in TWO_ASSET_MARKETS else 1
    return Scenario(
        **built
        | {
            "impact": made["impact"](made["depth"]()),
            "positions": made["kernel"](),
            "price": [100.0, 50.0][:assets],
            "horizon": "24min",
            "step": "1min",
        }
        | parts
    )


def covering(rows: int = 12) -> list[dict[str, str]]:
    """Few scenarios in which every component of the catalogue appears; even rows are ladders, odd ones accounts."""
    ladders, accounts = ("sorted", "smooth", "sorted, exact"), [name for name in KERNELS if name not in CLOSING_ONLY]
    markets = [name for name in KINDS["market"] if name != "block bootstrap, 2 assets"]
    breakers = [name for name in BREAKERS if name not in BREAKERS_LIKE]
    found = []
    for row in range(rows):
        nth, ladder = row // 2, row % 2 == 0
        names = {"market": markets[row % len(markets)], "breaker": breakers[row % len(breakers)]}
        for kind in ("depth", "impact", "oracle"):
            names[kind] = list(KINDS[kind])[row % len(KINDS[kind])]
        names["waterfall"] = list(WATERFALLS)[nth % len(WATERFALLS)]
        names["kernel"] = ladders[nth % 3] if ladder else accounts[nth % len(accounts)]
        names["book"] = list(BOOKS)[nth % (3 if ladder else 4)]
        if ladder:
            names["margin"] = ("brackets", "flat")[nth % 2]
        else:
            names |= {"margin": list(MARGINS)[nth], "liquidation": ("schedule", "full", "slice")[nth % 3]}
        found.append(named(**names))
    return found


def one_at_a_time() -> list[dict[str, str]]:
    """Every component once, all others those of the base."""
    changes = [{kind: name} for kind, items in KINDS.items() for name in items if name != BASE[kind]]
    return [named(**change) for change in changes]


class GivenBook(book.AbstractBook):
    """A book that is there already: isolated positions in one asset, entered at the initial price."""

    quantity: Any = eqx.field(converter=np.asarray)
    cash: Any = eqx.field(converter=np.asarray)

    def build(self, price: np.ndarray, margin: Any, seed: int = 0) -> Book:
        del margin, seed
        quantity, rows = np.asarray(self.quantity, float).reshape(-1, 1), np.size(self.quantity)
        entry = np.full((rows, 1), float(np.asarray(price).reshape(-1)[0]))
        cash = np.asarray(self.cash, float).reshape(-1)
        return Book(quantity, entry, cash, np.arange(rows), np.ones(rows), np.zeros(rows))


class Shuffled(book.AbstractBook):
    """Another book with its rows in random order."""

    inner: book.AbstractBook

    def build(self, price: np.ndarray, margin: Any, seed: int = 0) -> Book:
        found = self.inner.build(price, margin, seed)
        order = np.random.default_rng(8).permutation(len(np.asarray(found.cash)))
        return Book(**{name: np.asarray(getattr(found, name))[order] for name in Book.__dataclass_fields__})


def long_with_level(level: Any, maintenance: float, price: float = 100.0) -> np.ndarray:
    """Cash of a long of one unit that is in breach below the log price `level` (of p0) under flat maintenance."""
    return price * (1.0 - np.exp(np.asarray(level)) * (1.0 - maintenance))


def short_with_level(level: Any, maintenance: float, price: float = 100.0) -> np.ndarray:
    """Cash of a short of one unit that is in breach above the log price `level` (of p0) under flat maintenance."""
    return price * (np.exp(np.asarray(level)) * (1.0 + maintenance) - 1.0)
