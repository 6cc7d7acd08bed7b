"""Margin rules on a real history: what they cover, what they leave uncovered, and how they move when cash is short.

A rule charges a volatility s_t, known the day before, and asks for k s_t. k is fitted on the first part of the history (so that
99 % of its days are covered), and everything is judged on the rest. Longs and shorts are margined alike: the loss is |r|.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy import optimize

from .._fields import InputError
from ..margin.procyclicality import (
    AbstractVolatilityTool,
    LookbackFloor,
    MarginBuffer,
    StressWeight,
    Untreated,
    largest_call,
    peak_to_trough,
)
from ..tails import backtests
from ..tails.measures import Estimate, binomial_interval

LEVEL = 0.99
LEAST = 500  # days in each part


class Judged(NamedTuple):
    """A rule on the days that it was not fitted to."""

    rule: str
    multiple: float  # k
    coverage: Estimate
    uncovered: Estimate  # mean loss beyond the margin, per notional and day
    worst_uncovered: float
    mean_margin: float
    peak_to_trough: float
    five_day_call: float
    p_values: dict[str, float]  # Kupiec, Christoffersen, Acerbi-Szekely


def ewma(moves: Float[np.ndarray, " days"], half_life: float, start: float) -> Float[np.ndarray, " days"]:
    """Exponentially weighted volatility of the days before each (RiskMetrics 1996)."""
    keep, variance = 2.0 ** (-1.0 / half_life), start**2
    out = np.empty(moves.size)
    for i, move in enumerate(moves):
        out[i] = np.sqrt(variance)
        variance = keep * variance + (1.0 - keep) * move**2
    return out


def rules(moves: np.ndarray, train: int, half_life: float) -> dict[str, Float[np.ndarray, " days"]]:
    """Charged volatility of every rule: flat, exponentially weighted, and with each of the three tools of EMIR."""
    past = moves[:train]
    volatility = ewma(moves, half_life, float(past[:30].std()))
    normal = float(np.median(volatility[:train]))
    stressed = float(np.quantile(volatility[:train], 0.95))
    tools: dict[str, AbstractVolatilityTool] = {
        "EWMA": Untreated(),
        "EWMA, 25 % buffer": MarginBuffer(trigger=normal),
        "EWMA, 25 % stress weight": StressWeight(stressed=stressed),
        "EWMA, look-back floor": LookbackFloor(volatility=normal),
    }
    flat = {"flat": np.full(moves.size, float(past.std()))}
    return flat | {name: np.asarray(tool.charged(jnp.asarray(volatility))) for name, tool in tools.items()}


def tuned(moves: np.ndarray, train: int, half_life: float, most_call: float) -> Float[np.ndarray, " days"]:
    """The charge of all three tools together that costs least on the first part, by share, weight and floor.

    Least mean margin over buffer share, stress weight and floor, k set to the coverage, with the five-day call no larger
    than `most_call` times that of the plain rule.
    """
    past = moves[:train]
    volatility = ewma(moves, half_life, float(past[:30].std()))
    normal, stressed = (float(np.quantile(volatility[:train], q)) for q in (0.5, 0.95))

    def charged(p: np.ndarray) -> np.ndarray:
        raw: Any = jnp.asarray(volatility)
        for tool in (
            StressWeight(stressed=stressed, weight=p[1]),
            LookbackFloor(volatility=p[2] * stressed),
            MarginBuffer(trigger=normal, share=p[0]),
        ):
            raw = tool.charged(raw)
        return np.asarray(raw)

    def margin(p: np.ndarray) -> np.ndarray:
        s = charged(p)
        return multiple(past, s[:train]) * s[:train]

    limit = most_call * _call(margin(np.zeros(3)))

    def cost(p: np.ndarray) -> float:
        m = margin(p)
        return float(m.mean()) + 10.0 * max(0.0, _call(m) - limit)

    ends = [(0.0, 1.0), (0.0, 0.9), (0.0, 1.0)]
    search: Any = optimize.differential_evolution  # its stubs do not know `seed`
    found = search(cost, ends, seed=0, maxiter=30, popsize=10, tol=1e-6, polish=False)
    return charged(found.x)


def _call(margin: np.ndarray) -> float:
    return float(largest_call(jnp.asarray(margin), 5))


def multiple(moves: np.ndarray, charged: np.ndarray) -> float:
    """k that covers 99 % of the days."""
    return float(np.quantile(np.abs(moves) / charged, LEVEL))


def judge(name: str, moves: np.ndarray, charged: np.ndarray, train: int, histories: int = 20_000) -> Judged:
    """Fits k on the first days and judges the rule on the rest.

    The law of the tests is that of the rule: |r| is s_t times what |r|/s was on the first days.
    """
    if not LEAST <= train <= moves.size - LEAST:
        raise InputError(f"train = {train} of {moves.size} days: expected at least {LEAST} days before and after")
    scores = np.sort(np.abs(moves[:train]) / charged[:train])
    k, alpha = multiple(moves[:train], charged[:train]), 1.0 - LEVEL
    grid = (np.arange(scores.size) + 0.5) / scores.size

    def quantile(u: np.ndarray) -> np.ndarray:  # of profit, which is minus the loss
        return -np.interp(1.0 - u, grid, scores)

    s, loss = charged[train:], np.abs(moves[train:])
    k_law = -float(quantile(np.array([alpha]))[0])
    shortfall = -float(quantile(alpha * (np.arange(2_000) + 0.5) / 2_000).mean())
    given = backtests.forecast(k_law * s, shortfall * s, alpha)
    hits = backtests.exceptions(-loss, given)
    independent, conditional = backtests.christoffersen(hits, alpha, histories=histories)
    expected = backtests.shortfall_tests(-loss, given, backtests.scaled(quantile, s), histories=histories)
    p_values = {"kupiec": float(backtests.kupiec(hits, alpha).p_value)}
    p_values |= {f"christoffersen {v.name}": float(v.p_value) for v in (independent, conditional)}
    p_values |= {v.name: float(v.p_value) for v in expected if v.name.startswith("acerbi")}
    margin = k * s
    over = np.maximum(loss - margin, 0.0)
    count = int((over > 0.0).sum())
    low, high = (float(end) for end in binomial_interval(loss.size - count, loss.size))
    share = 1.0 - count / loss.size
    coverage = Estimate(share, float(np.sqrt(share * (1.0 - share) / loss.size)), low, high, "1")
    swing = float(peak_to_trough(jnp.asarray(margin)))
    return Judged(
        name, k, coverage, _bootstrapped(over), float(over.max()), float(margin.mean()), swing, _call(margin), p_values
    )


def _bootstrapped(over: np.ndarray, draws: int = 2_000) -> Estimate:
    """Mean with percentiles of resampled months: rough, since a dozen days carry it."""
    months = over.size // 30
    sums = over[: months * 30].reshape(months, 30).mean(axis=1)
    means = sums[np.random.default_rng(0).integers(0, months, (draws, months))].mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return Estimate(float(over.mean()), float(means.std(ddof=1)), float(low), float(high), "1")


def backtest(
    moves: Float[np.ndarray, " days"], train: int, half_life: float = 20.0, most_call: float = 0.6,
    report: Callable[[str], None] = lambda text: None,
) -> Mapping[str, Judged]:  # fmt: skip
    """All rules and the tuned one on a history of daily returns."""
    charges = rules(moves, train, half_life)
    charges["tuned tools"] = tuned(moves, train, half_life, most_call)
    out = {}
    for name, charged in charges.items():
        out[name] = judge(name, moves, charged, train)
        report(f"margin rule {name}: covers {out[name].coverage.value:.2%}")
    return out
