"""Margin rules on a real history: what they cover, what they leave uncovered, and how they move when cash is short.

A rule charges a volatility s_t, known the period before, and asks for k s_t. k is fitted on the first part of the history (so
that 99 % of its periods are covered), and everything is judged on the rest. Longs and shorts are margined alike: the loss is
|r|. The margins of a venue or of a tuned policy are judged as they stand: s_t is the margin itself and k = 1.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy import optimize

from .._fields import InputError
from ..margin import AbstractMargin
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
LEAST = 500  # periods in each part


class Settings(NamedTuple):
    """How rules are fitted and judged; all but `most_call` in periods."""

    train: int = 1_200  # at first, that rules are fitted to
    half_life: float = 20.0  # of the weighted volatility
    most_call: float = 0.6  # largest call of the tuned rule over that of the plain one
    call: int = 5  # in which a call is raised
    block: int = 30  # that stay together when periods are resampled
    histories: int = 20_000  # simulated for the laws of the tests


class Judged(NamedTuple):
    """A rule on the periods that it was not fitted to."""

    rule: str
    multiple: float  # k
    coverage: Estimate
    uncovered: Estimate  # mean loss beyond the margin, per notional and period
    worst_uncovered: float
    mean_margin: float
    peak_to_trough: float
    largest_call: float
    p_values: dict[str, float]  # Kupiec, Christoffersen, Acerbi-Szekely


def ewma(moves: Float[np.ndarray, " periods"], half_life: float, start: float) -> Float[np.ndarray, " periods"]:
    """Exponentially weighted volatility of the periods before each (RiskMetrics 1996)."""
    keep, variance = 2.0 ** (-1.0 / half_life), start**2
    out = np.empty(moves.size)
    for i, move in enumerate(moves):
        out[i] = np.sqrt(variance)
        variance = keep * variance + (1.0 - keep) * move**2
    return out


def rules(moves: np.ndarray, settings: Settings) -> dict[str, Float[np.ndarray, " periods"]]:
    """Charged volatility of every rule: flat, exponentially weighted, and with each of the three tools of EMIR."""
    train = settings.train
    past = moves[:train]
    volatility = ewma(moves, settings.half_life, float(past[:30].std()))
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


def tuned(moves: np.ndarray, settings: Settings) -> Float[np.ndarray, " periods"]:
    """The charge of all three tools together that costs least on the first part, by share, weight and floor.

    Least mean margin over buffer share, stress weight and floor, k set to the coverage, with the largest call no larger
    than `most_call` times that of the plain rule.
    """
    train = settings.train
    past = moves[:train]
    volatility = ewma(moves, settings.half_life, float(past[:30].std()))
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

    def call(m: np.ndarray) -> float:
        return float(largest_call(jnp.asarray(m), settings.call))

    limit = settings.most_call * call(margin(np.zeros(3)))

    def cost(p: np.ndarray) -> float:
        m = margin(p)
        return float(m.mean()) + 10.0 * max(0.0, call(m) - limit)

    ends = [(0.0, 1.0), (0.0, 0.9), (0.0, 1.0)]
    search: Any = optimize.differential_evolution  # its stubs do not know `seed`
    found = search(cost, ends, seed=0, maxiter=30, popsize=10, tol=1e-6, polish=False)
    return charged(found.x)


def as_it_stands(
    margin: AbstractMargin, moves: Float[np.ndarray, " periods"], every: float, notional: float
) -> dict[str, Float[np.ndarray, " periods"]]:
    """Initial and maintenance margin of a position of `notional` USD, per notional, before each period of `every` years.

    **Raises:** `InputError` if the schedule has rows for several assets.
    """
    state = margin.init(np.float64)
    if margin.level(state).size != 1:
        raise InputError(f"the margin has rows for {margin.level(state).size} assets, expected one")
    size: Any = np.array([float(notional)])
    rates = {"initial": margin.initial(size), "maintenance": margin.maintenance(size)}
    level = np.ones(moves.size)
    if not margin.is_static:
        step = jax.jit(lambda state, move: margin.update(state, move, jnp.asarray(every)))
        for i, move in enumerate(moves):
            level[i] = float(margin.level(state)[0])
            state = step(state, jnp.asarray([move]))
    return {name: float(np.asarray(rate)[0]) / float(notional) * level for name, rate in rates.items()}


def multiple(moves: np.ndarray, charged: np.ndarray) -> float:
    """k that covers 99 % of the periods."""
    return float(np.quantile(np.abs(moves) / charged, LEVEL, method="hazen"))  # that of the law of the tests


def _check(size: int, settings: Settings) -> None:
    train, judged = settings.train, size - settings.train
    if not min(train, judged) >= LEAST:
        raise InputError(f"margins.train = {train} of {size} periods: expected at least {LEAST} before and after")
    for name in ("call", "block"):
        span = getattr(settings, name)
        if judged < 2 * span:
            raise InputError(f"margins.{name} = {span}: expected at most half of the {judged} periods that are judged")


def judge(name: str, moves: np.ndarray, charged: np.ndarray, settings: Settings, k: float | None = None) -> Judged:
    """Judges a rule on the periods after the first ones, to which k is fitted unless it is given.

    The law of the tests is that of the rule: |r| is s_t times what |r|/s was on the first periods. Where k is given that law
    is scaled so that k covers what it should, 99 %: the tests ask whether the margin does.
    """
    _check(moves.size, settings)
    train, histories = settings.train, settings.histories
    scores = np.sort(np.abs(moves[:train]) / charged[:train])
    fitted, alpha = multiple(moves[:train], charged[:train]), 1.0 - LEVEL
    k = fitted if k is None else k
    scores = scores * (k / fitted)
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
    return Judged(
        name, k, coverage, _bootstrapped(over, settings.block), float(over.max()), float(margin.mean()),
        float(peak_to_trough(jnp.asarray(margin))), float(largest_call(jnp.asarray(margin), settings.call)), p_values,
    )  # fmt: skip


def _bootstrapped(over: np.ndarray, block: int, draws: int = 2_000) -> Estimate:
    """Mean with percentiles of resampled blocks: rough, since few periods carry it."""
    blocks = over.size // block
    sums = over[: blocks * block].reshape(blocks, block).mean(axis=1)
    means = sums[np.random.default_rng(0).integers(0, blocks, (draws, blocks))].mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return Estimate(float(over.mean()), float(means.std(ddof=1)), float(low), float(high), "1")


def backtest(
    moves: Float[np.ndarray, " periods"], settings: Settings, fixed: Mapping[str, Float[np.ndarray, " periods"]],
    report: Callable[[str], None] = lambda text: None,
) -> Mapping[str, Judged]:  # fmt: skip
    """All rules, the tuned one, and margins that are given on a history of returns."""
    _check(moves.size, settings)
    charges = rules(moves, settings)
    charges["tuned tools"] = tuned(moves, settings)
    out = {name: judge(name, moves, charged, settings) for name, charged in charges.items()}
    out |= {name: judge(name, moves, margin, settings, 1.0) for name, margin in fixed.items()}
    for name, one in out.items():
        report(f"margin rule {name}: covers {one.coverage.value:.2%}")
    return out
