"""A policy in a real event: the prices of a dated day, as they were, hit draws of the book. Nothing is tuned afterwards."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import numpy as np
from scipy import stats

from .._fields import count
from .._streams import noise_keys
from ..leaves import with_parameters
from ..policy import Policy, Problem
from ..scenario import Scenario
from ..simulate import simulate
from ..tails.measures import Estimate
from .config import ConfigError, merge
from .run import from_table
from .venue import shares

ROOT = "policy/replay"


class Replay(eqx.Module):
    """The tables of the event over those of the config; `market.series.path` names its price file."""

    name: str = ""
    change: dict[str, Any] = eqx.field(converter=dict, default_factory=dict)  # none skips the replay
    books: int = count(20, least=2)  # draws of the book: the prices are known, the positions are not

    @property
    def file(self) -> Path | None:
        """The price file, if the event comes from one."""
        series = self.change.get("market", {}).get("series", {})
        return Path(series["path"]) if "path" in series else None


class Replayed(NamedTuple):
    """What the event does to each policy, means over books; `missing` names the price file where it was not there."""

    name: str
    missing: str
    books: int
    rows: dict[str, dict[str, Estimate]]


def event_of(table: dict[str, Any], replay: Replay) -> Scenario | None:
    """The scenario of the event, or nothing where no event is asked for or its prices are not there.

    **Raises:** `ConfigError` if its tables make no scenario.
    """
    if not replay.change or (replay.file is not None and not replay.file.is_file()):
        return None
    try:
        return from_table(merge(table, replay.change)).scenario
    except ConfigError as error:
        raise ConfigError(f"tune.replay.change: {error}") from None


def relive(
    table: dict[str, Any], problem: Problem, policy: Policy, wanted: Any, report: Callable[[str], None]
) -> Replayed | None:
    """The policy and the numbers in force before it, in the event."""
    replay, began = wanted.replay, time.monotonic()
    if not replay.change:
        return None
    event = event_of(table, replay)
    if event is None:
        report(f"replay: skipped, no file {replay.file}")
        return Replayed(replay.name, str(replay.file), 0, {})
    names = sorted({*problem.cost, *(c.outcome for c in problem.constraints), "forced_volume"})
    policies = {"policy": with_parameters(event, policy.parameters), "incumbent": event}
    rows = {name: _lived(there, names, replay.books, wanted.seed) for name, there in policies.items()}
    report(f"replay: {replay.name}, {replay.books} books, {time.monotonic() - began:.0f} s")
    return Replayed(replay.name, "", replay.books, rows)


def _lived(event: Scenario, names: list[str], books: int, seed: int) -> dict[str, Estimate]:
    keys, drawn = noise_keys(seed, ROOT), []
    for book in range(books):
        system = event.build(np.float64, book)
        drawn.append(shares(simulate(system, paths=1, keys=keys), system))
    return {name: _between(np.concatenate([one[name] for one in drawn])) for name in names}


def _between(x: np.ndarray) -> Estimate:
    """Mean over books with Student's interval: books are alike and few, and what is rare is in the prices, which are known."""
    value, error = float(x.mean()), float(x.std(ddof=1)) / np.sqrt(x.size)
    reach = error * float(stats.t.isf(0.025, x.size - 1))
    return Estimate(value, error, value - reach, value + reach)


def as_json(lived: Replayed | None) -> dict[str, Any] | None:
    """The same in plain numbers."""
    if lived is None:
        return None
    rows = {
        who: {
            name: {"value": one.value, "std_error": one.std_error, "ci95": [one.low, one.high]}
            for name, one in row.items()
        }
        for who, row in lived.rows.items()
    }
    return {"event": lived.name, "missing": lived.missing or None, "books": lived.books, "rows": rows}
