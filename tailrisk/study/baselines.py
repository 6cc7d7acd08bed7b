"""Margin rules beside a tuned policy: each scaled to the same cost, and to the same expected bad debt, on common noise.

A rule that asks for more margin has less bad debt, so rules are compared at equal cost (who is safer?) and at equal risk (who
is cheaper?), with everything but the margins as the policy has it. Rules that follow volatility need the accounts kernel;
`change` says of which smaller book it is used.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy import optimize

from .._fields import Real, count, duration, real
from ..leaves import with_parameters
from ..margin import AbstractMargin, Brackets, LookbackFloor, MarginBuffer, StressWeight, Untreated, VolatilityScaled
from ..margin.procyclicality import peak_to_trough
from ..policy import Mean, Policy, Problem, Stream
from ..policy.problem import WEIGHT, Judgement, checked, judgement, outcomes
from ..scenario import Accounts, Scenario
from ..simulate import outcomes as paths_of
from .config import ConfigError, merge
from .run import from_table
from .venue import LANES, HardVenue, Held

ROOT = "policy/rivals"
_LEAST, _MOST = 0.2, 8.0  # scales that are tried
_CLOSE = 0.002  # relative precision of a scale
_WATCHED = 256  # paths whose margin levels are followed


class Baselines(eqx.Module):
    """With what the rules are compared: paths, the twin scenario, and the volatilities that follow-the-market rules need."""

    paths: int = count(0)  # 0 skips the comparison
    change: dict[str, Any] = eqx.field(converter=dict, default_factory=dict)  # tables of the twin, over the config
    half_life: Real = duration("6h")  # of the exponentially weighted variance
    volatility: Real = real(0.7, unit="1/sqrt(year)", above=0.0)  # for which the rates of a table were made
    stressed: Real = real(1.4, unit="1/sqrt(year)", above=0.0)  # of the stressed observations


class Rival(NamedTuple):
    """One rule at one scale. `apart`: its cost (at equal risk) or bad debt (at equal cost) less the policy's, paired."""

    name: str
    equal: str  # "cost", "risk", or "itself" for a policy as it stands
    scale: float
    judged: Judgement | None
    apart: float
    apart_error: float
    peak_to_trough: float


class _Twin(NamedTuple):
    scenario: Scenario
    problem: Problem
    stream: Stream
    risk: int  # the constraint that "equal risk" is about


class _Seen(NamedTuple):
    cost: Float[np.ndarray, " paths"]
    debt: Float[np.ndarray, " paths"]
    judged: Judgement


def rules(base: Brackets, settings: Baselines) -> Iterator[tuple[str, Callable[[float], AbstractMargin]]]:
    """Families of margins by one scale: the incumbent table, one ratio, and volatility-scaled tables with each tool."""
    rates, initial = np.asarray(base.maintenance_rates, float), 1.0 / np.asarray(base.max_leverage, float)

    def table(scale: float) -> Brackets:
        return _with_rates(base, np.minimum(scale * rates, 0.95), np.minimum(scale * initial, 1.0))

    def ratio(scale: float) -> Brackets:
        return _with_rates(base, np.full_like(rates, 0.01 * scale), np.full_like(rates, 0.02 * scale))

    yield "brackets in force", table
    yield "one ratio", ratio
    tools = {
        "EWMA volatility": Untreated(),
        "EWMA, 25 % buffer": MarginBuffer(trigger=settings.volatility),
        "EWMA, 25 % stress weight": StressWeight(stressed=settings.stressed),
        "EWMA, look-back floor": LookbackFloor(volatility=settings.volatility),
    }
    for name, tool in tools.items():

        def followed(scale: float, tool: Any = tool) -> VolatilityScaled:
            return VolatilityScaled(
                base=table(scale), tool=tool, half_life=settings.half_life, reference=settings.volatility, floor=0.25
            )

        yield name, followed


def _with_rates(base: Brackets, rates: np.ndarray, initial: np.ndarray) -> Brackets:
    initial = np.maximum(initial, rates)
    return eqx.tree_at(lambda m: (m.maintenance_rates, m.max_leverage), base, (rates, 1.0 / initial))


def twin_of(table: dict[str, Any], settings: Baselines) -> Scenario:
    """The scenario on which rules are compared.

    **Raises:** `ConfigError` if its margins are no table that could be scaled.
    """
    try:
        scenario = from_table(merge(table, settings.change)).scenario
    except ConfigError as error:
        raise ConfigError(f"tune.baselines.change: {error}") from None
    if not isinstance(scenario.margin, Brackets):
        raise ConfigError(
            f'tune.baselines: rules are scaled tables, margin.kind is "{type(scenario.margin).__name__}"; use "Brackets" '
            "or paths = 0"
        )
    return scenario


def compare(
    table: dict[str, Any], problem: Problem, policy: Policy, wanted: Any, report: Callable[[str], None]
) -> tuple[Rival, ...]:
    """The policy and the table in force as they stand, then every rule at equal cost and at equal risk."""
    settings = wanted.baselines
    if not settings.paths:
        return ()
    began = time.monotonic()
    scenario = twin_of(table, settings)
    risk = next((k for k, c in enumerate(problem.constraints) if isinstance(c, Mean)), 0)
    stream = Stream(ROOT, wanted.seed, settings.paths, max(LANES, settings.paths))
    twin = _Twin(with_parameters(scenario, policy.parameters), problem, stream, risk)
    ours, incumbent = _see(twin, twin.scenario.margin), _see(twin, scenario.margin)
    nan = float("nan")
    found = [
        Rival("tuned policy", "itself", 1.0, ours.judged, nan, nan, 1.0),
        Rival("brackets in force", "itself", 1.0, incumbent.judged, nan, nan, 1.0),
    ]
    for name, rule in rules(scenario.margin, settings):  # pyright: ignore[reportArgumentType]
        if not (rule(1.0).is_static or isinstance(scenario.positions, Accounts)):
            continue
        for equal in ("cost", "risk"):
            found.append(_matched(name, rule, equal, twin, ours))
        one = found[-1]
        report(f"rule {name}: scale {found[-2].scale:.3g} at equal cost, {one.scale:.3g} at equal risk")
    report(f"rules: {time.monotonic() - began:.0f} s")
    return tuple(found)


def _see(twin: _Twin, margin: AbstractMargin) -> _Seen:
    scenario = eqx.tree_at(lambda s: s.margin, twin.scenario, margin)
    there = dataclasses.replace(twin.problem, hard=HardVenue(Held(scenario)), variables=())
    drawn = outcomes(there, {}, twin.stream)
    cost = sum((float(p) * drawn[n] for n, p in twin.problem.cost.items()), np.zeros_like(drawn[WEIGHT]))
    constraint = twin.problem.constraints[twin.risk]
    debt = constraint.exact(drawn[constraint.outcome], drawn[WEIGHT], 0.0)
    return _Seen(cost, debt, judgement(checked(there), drawn))


def _matched(name: str, rule: Callable[[float], AbstractMargin], equal: str, twin: _Twin, ours: _Seen) -> Rival:
    """The rule at the scale where its cost, or its expected bad debt, is that of the policy; none within the scales tried."""
    seen: dict[float, _Seen] = {}

    def at(log_scale: float) -> _Seen:
        if log_scale not in seen:
            seen[log_scale] = _see(twin, rule(float(np.exp(log_scale))))
        return seen[log_scale]

    def gap(log_scale: float) -> float:
        its = at(log_scale)  # the gap rises with the scale
        more = its.cost - ours.cost if equal == "cost" else ours.debt - its.debt
        return float(more.mean())

    low, high = float(np.log(_LEAST)), float(np.log(_MOST))
    nan = float("nan")
    if not gap(low) * gap(high) < 0.0:
        return Rival(name, equal, nan, None, nan, nan, nan)
    root: float = optimize.brentq(gap, low, high, xtol=_CLOSE)  # pyright: ignore[reportAssignmentType]
    there = at(root)
    mine, its = (ours.debt, there.debt) if equal == "cost" else (ours.cost, there.cost)
    error = float((its - mine).std(ddof=1)) / np.sqrt(mine.size)
    margin, scale = rule(float(np.exp(root))), float(np.exp(root))
    return Rival(name, equal, scale, there.judged, float((its - mine).mean()), error, _procyclicality(twin, margin))


def _procyclicality(twin: _Twin, margin: AbstractMargin) -> float:
    """Mean over paths of the highest over the lowest margin level; 1 for a table that does not move."""
    if margin.is_static:
        return 1.0
    scenario = eqx.tree_at(lambda s: s.margin, twin.scenario, margin)
    system = scenario.build(np.float32)
    _, flow = paths_of(system, 0, np.arange(_WATCHED), lanes=_WATCHED, record=True, keys=twin.stream.keys)
    log_price = np.asarray(flow.log_price)[:, :, 0].T
    state, levels = margin.init(np.float32, _WATCHED), []
    for move in np.diff(log_price, axis=0, prepend=0.0):  # every path as an asset of its own
        state = margin.update(state, jnp.asarray(move, jnp.float32), jnp.float32(scenario.step))
        levels.append(margin.level(state))
    return float(jnp.mean(peak_to_trough(jnp.array(levels))))


def as_json(rivals: tuple[Rival, ...], problem: Problem, settings: Baselines) -> dict[str, Any]:
    """The comparison in plain numbers; `apart95` is the paired 95 % interval of the difference."""
    names = [constraint.name for constraint in problem.constraints]

    def row(one: Rival) -> dict[str, Any]:
        out: dict[str, Any] = {"rule": one.name, "equal": one.equal, "scale": one.scale}
        if one.judged is None:
            return out | {"note": "no scale between 0.2 and 8 gives it"}
        out |= {"cost": one.judged.cost, "peak_to_trough": one.peak_to_trough}
        out |= dict(zip(names, one.judged.value.tolist(), strict=True))
        reach = 1.96 * one.apart_error
        return out | {"apart": one.apart, "apart95": [one.apart - reach, one.apart + reach]}

    return {"paths": settings.paths, "rules": [row(one) for one in rivals]}
