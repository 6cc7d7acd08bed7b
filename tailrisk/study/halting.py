"""What a breaker does in the end: halts, false alarms, and bad debt with it less without it, on common noise.

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
from ..simulate import simulate
from ..tails.measures import Estimate, mean, probability
from .tables import plain
from .venue import LANES, shares

_RECOVERY = ("impact.memory", "impact.memories", "impact.depth.recovery")
_DEPTH = "impact.depth.volume"


class Halting(NamedTuple):
    """The breaker in one world; money in shares of the book, differences paired.

    `false_halts`: share of paths that are halted though they have no bad debt without the breaker. `bad_debt`, `forced`:
    with the breaker less without it.
    """

    world: str
    halts: Estimate
    false_halts: Estimate
    bad_debt: Estimate
    forced: Estimate


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
    held, free = (_drawn(one, stream) for one in (world, without))
    halted = held["halted_share"] > 0.0
    return Halting(
        name,
        probability(halted),
        probability(halted & (free["bad_debt"] <= 0.0)),
        mean(held["bad_debt"] - free["bad_debt"]),
        mean(held["forced_volume"] - free["forced_volume"]),
    )


def _drawn(world: Scenario, stream: Stream) -> dict[str, np.ndarray]:
    system = world.build(np.float32)
    return shares(simulate(system, paths=stream.paths, keys=stream.keys, chunk=LANES), system)


def as_json(rows: tuple[Halting, ...]) -> list[dict[str, Any]]:
    """The same in plain numbers."""
    return [{"world": row.world} | {name: plain(getattr(row, name)) for name in row._fields[1:]} for row in rows]
