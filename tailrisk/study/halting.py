"""What a breaker does in the end: halts, false alarms, and losses with it less without it, on common noise.

A breaker that only moves losses beyond a halt helps nobody. On a price without trend and without impact, closing later never
lowers expected bad debt; whatever a breaker gains comes from forced sales that press the price less, or from a price and depth
that recover meanwhile. So each is switched off in turn.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import equinox as eqx
import numpy as np

from .._fields import InputError
from ..breaker import NoBreaker
from ..leaves import current, with_parameters
from ..policy import Policy, Stream
from ..scenario import Scenario
from ..simulate import AbstractSystem, simulate
from ..tails.measures import Estimate, mean, probability
from .tables import plain
from .trigger import Trigger, distances, trigger, watched
from .trigger import as_json as trigger_json
from .venue import LANES, shares

_RECOVERY = ("impact.memory", "impact.memories", "impact.depth.recovery")
_DEPTH = "impact.depth.volume"


class Halting(NamedTuple):
    """The breaker in one world; money in shares of the book, differences paired.

    `false_halts`: share of paths that are halted though they have no bad debt without the breaker. `time`: share of the time
    halted. `bad_debt`, what of it the fund and what winners pay, and `forced` volume: with the breaker less without it.
    `late_bad_debt`: that of accounts whose orders a halt held back, open deficits at the horizon included.
    """

    world: str
    halts: Estimate
    false_halts: Estimate
    time: Estimate
    bad_debt: Estimate
    fund_paid: Estimate
    adl_profit: Estimate
    forced: Estimate
    late_bad_debt: Estimate
    trigger: Trigger


def switched_off(scenario: Scenario) -> Iterator[tuple[str, Scenario]]:
    """The scenario with a market that takes every forced sale, and with one that never recovers from any."""
    yield "impact off", with_parameters(scenario, {_DEPTH: np.full_like(current(scenario, _DEPTH), np.inf)})
    found = {}
    for key in _RECOVERY:
        try:
            found[key] = np.full_like(current(scenario, key), np.inf)
        except InputError:  # the law has no such number
            continue
    if found:
        yield "recovery off", with_parameters(scenario, found)


def weigh(scenario: Scenario, policy: Policy, stream: Stream, report: Callable[[str], None]) -> tuple[Halting, ...]:
    """The breaker of a policy in the scenario and with impact or recovery off; nothing where there is no breaker."""
    if isinstance(scenario.breaker, NoBreaker):
        return ()
    began, tuned = time.monotonic(), with_parameters(scenario, policy.parameters)
    rows = [_row(name, world, stream) for name, world in (("as tuned", tuned), *switched_off(tuned))]
    report(f"breaker: {rows[0].halts.value:.1%} of paths are halted, {time.monotonic() - began:.0f} s")
    return tuple(rows)


def _row(name: str, world: Scenario, stream: Stream) -> Halting:
    without = eqx.tree_at(lambda s: s.breaker, world, NoBreaker())
    system, still = (one.build(np.float32) for one in (world, without))
    seen = watched(system)
    found = _drawn(seen, stream)
    held, free = shares(found, system), shares(_drawn(still, stream), still)
    halted = held["halted_share"] > 0.0

    def apart(of: Callable[[dict[str, np.ndarray]], np.ndarray]) -> Estimate:
        return mean(of(held) - of(free))

    return Halting(
        world=name,
        halts=probability(halted),
        false_halts=probability(halted & (free["bad_debt"] <= 0.0)),
        time=mean(held["halted_share"]),
        bad_debt=apart(lambda one: one["bad_debt"]),
        fund_paid=apart(lambda one: one["bad_debt"] - one["uncovered_debt"]),
        adl_profit=apart(lambda one: one["adl_profit"]),
        forced=apart(lambda one: one["forced_volume"]),
        late_bad_debt=mean(found["late_bad_debt"].astype(float) / float(system.cascade.positions.gross())),
        trigger=trigger(found, distances(seen)),
    )


def _drawn(system: AbstractSystem, stream: Stream) -> dict[str, np.ndarray]:
    return simulate(system, paths=stream.paths, keys=stream.keys, chunk=LANES)


def as_json(rows: tuple[Halting, ...]) -> list[dict[str, Any]]:
    """The same in plain numbers."""
    return [
        {"world": row.world}
        | {name: plain(getattr(row, name)) for name in row._fields[1:-1]}
        | {"trigger": trigger_json(row.trigger)}
        for row in rows
    ]
