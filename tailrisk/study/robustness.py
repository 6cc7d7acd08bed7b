"""How a policy stands in worlds it was not tuned for: draws of estimated numbers, and other laws."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import numpy as np
from jaxtyping import Float

from .._fields import Real, count, problems, real, to_duration, to_real
from .._streams import stream_key
from ..leaves import current, with_parameters
from ..policy import Policy, Probability, Problem, Shortfall, Stream
from ..policy.constraints import upper_quantile
from ..policy.problem import Judgement, checked, judge, mean_cost, outcomes
from ..scenario import Scenario
from . import halting
from .config import ConfigError, merge, parse_override, put
from .halting import Halting, switched_off, weigh
from .run import from_table
from .venue import LANES, HardVenue, Held

ROOT = "policy/robustness"
_TRIES = 100  # draws out of bounds before the deviations are called too wide


def _deviation(value: Any) -> Any:
    """A standard error; that of a time is written with its unit."""
    return to_duration(value) if isinstance(value, str) else to_real(value)


class World(eqx.Module):
    """A world with its tables merged over those of the config."""

    name: str
    change: dict[str, Any] = eqx.field(converter=dict)


class Posterior(eqx.Module):
    """Draws of numbers that depend on each other: lines of overrides, as `tailrisk calibrate` writes from a posterior."""

    path: str = eqx.field(static=True, converter=str)
    book: str = eqx.field(static=True, converter=str, default="book")  # where the mixture of leverages stands

    def changes(self, draws: int) -> list[dict[str, Any]]:
        """The tables that the first draws change.

        **Raises:** `ConfigError` if the file cannot be read, holds fewer, or has words that are no overrides.
        """
        try:
            lines = Path(self.path).read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"tune.robustness.posterior.path: {self.path}: cannot be read ({error})") from None
        if len(lines) < draws:
            raise ConfigError(
                f"tune.robustness.draws = {draws}: {self.path} holds {len(lines)}; lower it, or calibrate with posterior.keep"
            )
        out = []
        for line in lines[:draws]:
            out.append(table := {})
            for word in line.split():
                key, value = parse_override(word)
                put(table, f"{self.book}{key.removeprefix('book')}" if key.startswith("book.") else key, value)
        return out


class Robustness(eqx.Module):
    """Numbers that were estimated, with their standard errors, and worlds in which another law holds."""

    draws: int = count(
        0
    )  # of all estimated numbers together: `deviations` from independent normal laws, on a draw of `posterior`
    paths: int = count(4_096, least=1_024)  # per draw and world, the same noise for all
    deviations: dict[str, Any] = eqx.field(
        converter=lambda given: {key: _deviation(value) for key, value in given.items()}, default_factory=dict
    )  # standard error of each number, by dotted key
    posterior: Posterior | None = None
    worlds: tuple[World, ...] = eqx.field(converter=tuple, default=())
    likelihood: Real = real(2.0, unit="1", least=1.0)  # times as likely as drawn that any path may be; 1 skips it

    def check(self) -> Iterator[tuple[str, Any]]:
        if self.draws and not self.deviations and self.posterior is None:
            yield (
                "deviations",
                f"draws = {self.draws}, but no number has a standard error; give deviations, a posterior or draws = 0",
            )


class Panel(NamedTuple):
    """Every constraint over its limit in every draw and world, and the same with everything as it was tuned."""

    names: tuple[str, ...]
    base: Judgement
    draws: Float[np.ndarray, "draws constraints"]
    worlds: tuple[tuple[str, Judgement], ...]
    breaker: tuple[Halting, ...]
    paths: int

    @property
    def holds(self) -> Float[np.ndarray, " constraints"]:
        """Share of draws in which the estimate of each constraint meets its limit."""
        return (self.draws <= 1.0).mean(axis=0)

    @property
    def worst_decile(self) -> Float[np.ndarray, " constraints"]:
        """What each constraint over its limit exceeds in one draw in ten."""
        return np.quantile(self.draws, 0.9, axis=0)


def examine(
    table: dict[str, Any],
    scenario: Scenario,
    problem: Problem,
    policy: Policy,
    wanted: Any,
    report: Callable[[str], None],
) -> Panel | None:
    """Judges a policy in every draw and world of `wanted.robustness`, on common noise."""
    panel = wanted.robustness
    if not panel.draws and not panel.worlds:
        return None
    began = time.monotonic()
    stream = Stream(ROOT, wanted.seed, panel.paths, max(LANES, panel.paths))
    limits = np.array([float(c.limit) for c in problem.constraints])

    def seen(world: Scenario) -> Judgement:
        there = dataclasses.replace(problem, hard=HardVenue(Held(world)))
        return judge(checked(there), policy.parameters, stream)

    drawn = [seen(world).value / limits for world in _draws(table, scenario, panel, wanted.seed)]
    report(f"robustness: {panel.draws} draws of {panel.paths:,} paths, {time.monotonic() - began:.0f} s")
    worlds = []
    others = ((world.name, world_of(table, world)) for world in panel.worlds)
    for name, world in (*others, *switched_off(scenario)):
        began = time.monotonic()
        worlds.append((name, seen(world)))
        report(f"robustness: {name}, {time.monotonic() - began:.0f} s")
    times = float(panel.likelihood)
    if times > 1.0:
        worlds.append((f"any path up to {times:g} times as likely", worst_case(problem, policy, stream, times)))
    names = tuple(constraint.name for constraint in problem.constraints)
    breaker = weigh(scenario, policy, stream, report)
    return Panel(names, seen(scenario), np.array(drawn).reshape(-1, limits.size), tuple(worlds), breaker, panel.paths)


def worst_case(problem: Problem, policy: Policy, stream: Stream, times: float) -> Judgement:
    """Every constraint in the worst world whose probabilities are at most `times` those drawn, its own for each.

    The worst mean is that of the worst 1/times of all paths; a shortfall at level a becomes that at 1 - (1 - a)/times; a
    probability grows by `times`. Unlike a ball of relative entropy this asks for no light tails.

    **Source:** Rockafellar, Uryasev and Zabarankin (2006), "Generalized deviations in risk analysis", on risk envelopes.
    """
    drawn = outcomes(problem, policy.parameters, stream)
    value, error, levels = [], [], []
    for constraint in problem.constraints:
        x, n = drawn[constraint.outcome], stream.paths
        if isinstance(constraint, Probability):
            share = float(np.mean(x > float(constraint.threshold)))
            worst, spread, t = min(times * share, 1.0), times * np.sqrt(share * (1.0 - share) / n), np.nan
        else:
            tail = (1.0 - float(constraint.level) if isinstance(constraint, Shortfall) else 1.0) / times
            t = upper_quantile(x, np.ones(n), tail)
            beyond = np.maximum(x - t, 0.0) / tail
            worst, spread = t + float(beyond.mean()), float(beyond.std(ddof=1)) / np.sqrt(n)
        value.append(worst)
        error.append(spread)
        levels.append(t)
    return Judgement(mean_cost(problem, drawn), np.array(value), np.array(error), np.array(levels))


def world_of(table: dict[str, Any], world: World) -> Scenario:
    """The scenario of another world.

    **Raises:** `ConfigError` naming the world whose tables do not make one.
    """
    try:
        return from_table(merge(table, world.change)).scenario
    except ConfigError as error:
        raise ConfigError(f"tune.robustness.worlds: {world.name}: {error}") from None


def _draws(table: dict[str, Any], scenario: Scenario, panel: Robustness, seed: int) -> Iterator[Scenario]:
    """The scenario with estimated numbers drawn around their values; draws out of bounds are drawn again."""
    rng = np.random.default_rng([int(word) for word in np.asarray(stream_key(seed, f"{ROOT}/draws"))])
    for number, there in enumerate(posterior_worlds(table, panel) or [scenario] * panel.draws):
        center = {key: current(there, key) for key in panel.deviations}
        for _ in range(_TRIES):
            drawn = {
                key: value + np.asarray(panel.deviations[key]) * rng.standard_normal(value.shape)
                for key, value in center.items()
            }
            world = with_parameters(there, drawn)
            if not any(problems(world)):
                yield world
                break
        else:
            raise ConfigError(
                f"tune.robustness.deviations: draw {number} left the bounds of the scenario {_TRIES} times; make them smaller"
            )


def posterior_worlds(table: dict[str, Any], panel: Robustness) -> list[Scenario]:
    """The scenario of every draw of the posterior, none without one.

    **Raises:** `ConfigError` naming the row whose numbers do not make one.
    """
    if panel.posterior is None:
        return []
    worlds, path = [], panel.posterior.path
    for number, change in enumerate(panel.posterior.changes(panel.draws), start=1):
        try:
            worlds.append(from_table(merge(table, change)).scenario)
        except ConfigError as error:
            raise ConfigError(
                f"tune.robustness.posterior.path: {path} row {number}: {error}; `book` says where the mixture of "
                f'leverages stands, now "{panel.posterior.book}"'
            ) from None
    return worlds


def as_json(panel: Panel, limits: Mapping[str, float]) -> dict[str, Any]:
    """The panel in plain numbers."""

    def row(judged: Judgement) -> dict[str, Any]:
        return {
            name: {"estimate": value, "std_error": error, "holds": bool(value <= limits[name])}
            for name, value, error in zip(panel.names, judged.value, judged.std_error, strict=True)
        } | {"cost": judged.cost}

    rows = zip(panel.names, panel.holds, panel.worst_decile, strict=True) if len(panel.draws) else ()
    return {
        "paths": panel.paths,
        "base": row(panel.base),
        "draws": len(panel.draws),
        "share_of_draws": {name: {"holds": share, "worst_decile": worst} for name, share, worst in rows},
        "worlds": {name: row(judged) for name, judged in panel.worlds},
        "breaker": halting.as_json(panel.breaker),
    }
