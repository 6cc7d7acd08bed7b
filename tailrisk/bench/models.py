"""The models that are timed, once as scenarios of this package and once as plain arrays for the hand-written rivals."""

import dataclasses
from typing import Any

import numpy as np

from ..book import CrossMixture, LeverageMixture, LognormalSizes
from ..clearing import Rounds
from ..impact import ConstantDepth, Linear, SquareRoot
from ..liquidation import Full
from ..margin import Brackets, Flat
from ..market import GeometricBrownian
from ..positions.sorted import thresholds
from ..scenario import Accounts, Scenario, SortedLadder

YEAR_MINUTES = 365 * 24 * 60
LADDER_ROUNDS, ACCOUNT_ROUNDS = 4, 2


def ladder_scenario(accounts: int = 20_000) -> Scenario:
    """A day of a stressed market in steps of 5 minutes; tiered margins, square-root impact, a fifth of it permanent."""
    margin = Brackets(
        floors=[0.0, 2e5, 1e6, 5e6],
        maintenance_rates=[0.004, 0.01, 0.025, 0.05],
        max_leverage=[100.0, 50.0, 20.0, 10.0],
    )
    return _scenario(accounts, margin, SortedLadder(clearing=Rounds(LADDER_ROUNDS)))


def accounts_scenario(groups: int = 1_000) -> Scenario:
    """The same day with flat margins, every margin group looked at in every step."""
    margin = Flat(maintenance_rate=0.01, initial_rate=0.02)
    return _scenario(groups, margin, Accounts(clearing=Rounds(ACCOUNT_ROUNDS)))


def basket_scenario(assets: int, groups: int = 256) -> Scenario:
    """The same day with cross accounts over several equal assets, linear impact."""
    return Scenario(
        market=GeometricBrownian(volatility=np.full(assets, 0.8)),
        book=CrossMixture(notional=np.full(assets, 1e9), accounts=groups),
        margin=Flat(maintenance_rate=0.01, initial_rate=0.02),
        impact=Linear(ConstantDepth(np.full(assets, 1e7)), coefficient=0.1),
        price=np.full(assets, 100.0),
        horizon="1d",
        step="5min",
        positions=Accounts(clearing=Rounds(ACCOUNT_ROUNDS)),
    )


def _scenario(accounts: int, margin: Any, positions: Any) -> Scenario:
    return Scenario(
        market=GeometricBrownian(volatility=0.8),
        book=LeverageMixture(accounts=accounts, notional=4e9, sizes=LognormalSizes(1.5)),
        margin=margin,
        impact=SquareRoot(
            ConstantDepth(16_000.0),
            volatility=0.025,
            memory=np.array([30.0 / YEAR_MINUTES, np.inf]),
            share=np.array([0.8, 0.2]),
        ),
        price=[100_000.0],
        horizon="1d",
        step="5min",
        liquidation=Full(0.0075),
        positions=positions,
    )


@dataclasses.dataclass(frozen=True)
class Market:
    """What a rival needs besides the book: steps, mean and deviation of a log return, impact, fee."""

    steps: int
    drift: float
    deviation: float
    price: float
    depth: float
    scale: float  # log-price fall per root of days' volume
    core: float
    decay: float  # of the part of impact that fades, per step
    fading: float  # share of impact that fades; the rest is permanent
    fee: float
    maintenance: float  # flat rate; of the accounts' model only


@dataclasses.dataclass(frozen=True)
class Groups:
    """Margin groups by threshold: row 0 longs, row 1 shorts; levels in s log(p / p0), descending."""

    level: tuple[np.ndarray, np.ndarray]
    units: tuple[np.ndarray, np.ndarray]  # unsigned
    equity: tuple[np.ndarray, np.ndarray]  # USD at p0


def market_of(scenario: Any) -> Market:
    """The numbers of a scenario that the rivals use."""
    volatility, dt = float(scenario.market.volatility), float(scenario.step)
    law = scenario.impact
    rate = float(scenario.margin.maintenance_rate) if isinstance(scenario.margin, Flat) else float("nan")
    return Market(
        steps=scenario.steps,
        drift=(float(scenario.market.drift) - 0.5 * volatility**2) * dt,
        deviation=volatility * dt**0.5,
        price=float(scenario.price[0]),
        depth=float(law.depth.volume),
        scale=float(law.prefactor) * float(law.volatility),
        core=float(law.core),
        decay=float(np.exp(-dt / law.memory[0])),
        fading=float(law.share[0]),
        fee=float(scenario.liquidation.fee),
        maintenance=rate,
    )


def groups_of(scenario: Any) -> Groups:
    """The book of a scenario as sorted arrays."""
    price = np.asarray(scenario.price, float)
    book = scenario.book.build(price, scenario.margin, 0)
    quantity = book.quantity[:, 0]
    equity = book.cash + quantity * (price - book.entry[:, 0])
    level = thresholds(book, price, *(np.asarray(line, float) for line in scenario.margin.lines()))
    order = np.argsort(-level, kind="stable")
    sides = [order[quantity[order] * sign > 0] for sign in (1.0, -1.0)]

    def both(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return values[sides[0]], values[sides[1]]

    return Groups(both(level), both(np.abs(quantity)), both(equity))
