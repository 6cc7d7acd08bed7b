"""From a config with a table `tune` to a certified policy: search, refinement on the hard model, certificate, checks.

Every choice of structural keys is searched on a quarter of the tuning paths; the best goes on to all of them, is rounded
and certified. A policy that misses its limits on fresh paths is tuned once more with as much more room as it lacked.
"""

import copy
import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .. import _streams
from .._fields import InputError, Real, count, problems, real, to_real
from ..gradients import AuditRow
from ..leaves import current
from ..policy import (
    AbstractConstraint,
    AbstractVariable,
    AugmentedLagrangian,
    Certificate,
    Problem,
    Refined,
    Stream,
    TrustRegion,
    Tuned,
    certify,
    polish,
    refine,
    restore,
    tune,
)
from ..policy.lagrangian import ROOT
from ..policy.problem import Judgement, checked, judgement, outcomes
from ..policy.variables import sizes
from ..policy.variables import values as values_of
from ..scenario import Scenario
from .baselines import Baselines, Rival, compare, twin_of
from .config import ConfigError, apply_override, read_toml, structure
from .derivatives import Audit, derivatives, estimators
from .front import ROOM, Front, Target, Z, certification, trace
from .replay import Replay, Replayed, event_of, relive
from .robustness import Panel, Robustness, examine, posterior_worlds, world_of
from .run import Study, from_table, prepare
from .stages import Stages
from .surface import Cell, Surface, cell_of, scan
from .venue import LANES, OUTCOMES, HardVenue, Held, SmoothVenue

BASELINE = "policy/baseline"
LOSSES = {"bad_debt", "uncovered_debt", "beyond_fund"}
Report = Callable[[str], None]


class Tune(eqx.Module):
    """What is decided, what it costs and what must hold; outcomes are those of `venue.OUTCOMES`, in shares of the book."""

    variables: tuple[AbstractVariable, ...] = eqx.field(converter=tuple)  # named by the dotted keys of the scenario
    constraints: tuple[AbstractConstraint, ...] = eqx.field(converter=tuple)
    cost: dict[str, Any] = eqx.field(converter=lambda prices: {name: to_real(p) for name, p in prices.items()})
    choices: dict[str, Any] = eqx.field(converter=dict, default_factory=dict)  # structural keys: every value is tried
    starts: int = count(1, least=1)  # of every coarse search: that of the variables, then random ones around it
    paths: int = count(32_768, least=1_024)  # fixed paths of the refinement on the hard model
    smooth_paths: int = count(2_048)  # fixed paths of the search by gradients on the smooth twin; 0 skips it
    gradient_paths: int = count(0)  # of the audit of the library's own choice of gradient estimators; 0 skips it
    audit_paths: int = count(2_048)  # paths of the smooth twin's gradient that the audit compares; 0 skips it
    evaluations: int = count(40, least=1)  # of the hard model, per stage of the refinement
    certificate_paths: int = count(1_048_576, least=65_536)  # most paths of the certificate
    attempts: int = count(2, least=1)  # certificates at most, each with half the error that was left
    tolerance: Real = real(2e-3, unit="1", above=0.0)  # converged: no step of 10 % saves a larger share of the cost
    seed: int = count(0, most=2**64 - 1)
    level: Real = real(0.95, unit="1", above=0.0, below=1.0)
    frontier: Front = eqx.field(default_factory=Front)
    robustness: Robustness = eqx.field(default_factory=Robustness)
    baselines: Baselines = eqx.field(default_factory=Baselines)
    surface: Surface = eqx.field(default_factory=Surface)
    replay: Replay = eqx.field(default_factory=Replay)

    def check(self) -> Iterator[tuple[str, str]]:
        known = ", ".join(OUTCOMES)
        for i, constraint in enumerate(self.constraints):
            if constraint.outcome not in OUTCOMES:
                yield f"constraints[{i}].outcome", f"{constraint.outcome!r} is no outcome; known: {known}"
        for name in ("variables", "constraints", "cost"):
            if not getattr(self, name):
                yield name, "is empty; say what is decided, what must hold and what it costs"
        for name, price in self.cost.items():
            if name not in OUTCOMES:
                yield "cost", f"{name!r} is no outcome; known: {known}"
            elif not float(price) > 0.0:
                yield "cost", f"{name} = {float(price):g}: expected a price > 0"
        if self.cost and set(self.cost) <= LOSSES:
            yield (
                "cost",
                "prices losses alone, which a margin that closes everybody makes small; price posted_margin too",
            )
        if self.constraints and self.frontier.factors.size and self.frontier.constraint >= len(self.constraints):
            yield (
                "frontier.constraint",
                f"is {self.frontier.constraint}, there are {len(self.constraints)}; count from 0",
            )


class Search(NamedTuple):
    """A coarse search: which choice of structural keys, from which start, and what it found."""

    choice: dict[str, Any]
    start: int
    paths: int
    scenario: Scenario
    problem: Problem
    tuned: Tuned | None
    refined: Refined


class Outcome(NamedTuple):
    """The best policy found, how it was found, and what it is measured against.

    `status` is "converged", "infeasible" (no policy was found that holds; this one misses least), "budget_exhausted" or
    "not_finite".
    """

    status: str
    wanted: Tune
    scenario: Scenario
    problem: Problem
    choice: dict[str, Any]
    tuned: Tuned | None
    refined: Refined
    certificate: Certificate
    searches: tuple[Search, ...]
    incumbent: Judgement
    policy: Judgement
    split: dict[str, float]
    incumbent_split: dict[str, float]
    audit: Audit
    front: tuple[Target, ...]
    panel: Panel | None
    rivals: tuple[Rival, ...]
    surface: tuple[Cell, ...]
    replayed: Replayed | None
    gradients: tuple[AuditRow, ...]
    seconds: float
    processor_seconds: float

    @property
    def certified(self) -> bool:
        """Converged and certified: only then it may be called a tuned policy."""
        return self.status == "converged" and self.certificate.status == "certified"


def tables(path: Path, overrides: tuple[str, ...] = ()) -> dict[str, Any]:
    """The tables of a config with its overrides."""
    table = read_toml(path)
    for text in overrides:
        apply_override(table, text)
    return table


def load(path: Path, overrides: tuple[str, ...] = ()) -> tuple[dict[str, Any], Study, Tune]:
    """Reads a config with a table `tune`; returns its tables without that one as well, for `choices`."""
    table = tables(path, overrides)
    given = table.pop("tune", None)
    if given is None:
        raise ConfigError(f"{path}: no table [tune]; say there what is decided, what it costs and what must hold")
    study, wanted = from_table(table), structure(given, Tune, "tune")
    for variable in wanted.variables:
        shape, start = current(study.scenario, variable.name).size, np.size(variable.start)
        if shape != start:
            raise ConfigError(f"tune.variables: {variable.name} holds {shape} number(s), its start {start}")
    for key in wanted.robustness.deviations:
        current(study.scenario, key)
    for world in wanted.robustness.worlds:
        world_of(table, world)
    posterior_worlds(table, wanted.robustness)
    for row, column in itertools.product(wanted.surface.row_values, wanted.surface.column_values):
        cell_of(table, wanted.surface, row, column)
    for choice in combinations(wanted.choices):
        try:
            scenario = from_table(_merged(table, choice)).scenario
        except InputError as error:
            raise ConfigError(f"tune.choices: {choice}: {error}") from None
        if wrong := list(problems(_problem(scenario, wanted))):
            raise ConfigError("\n".join(f"tune.{text}" for text in wrong))
    event_of(table, wanted.replay)
    if wanted.baselines.paths:
        twin_of(table, wanted.baselines)
    return table, study, wanted


def execute(
    table: dict[str, Any], wanted: Tune, report: Report = lambda text: None, stages: Stages | None = None
) -> Outcome:
    """Searches every combination of `choices`, refines on the hard model, certifies on fresh paths, and checks the result.

    Best is the cheapest of those that meet every limit on the tuning paths, or the one that misses least. What `stages` has
    kept is not done again, and changes nothing.
    """
    stage = stages or Stages()
    jax.config.update("jax_enable_x64", True)
    began, worked = time.monotonic(), time.process_time()
    small = Stream(ROOT, wanted.seed, max(wanted.paths // 4, LANES), max(LANES, wanted.paths // 4))
    whole = small._replace(paths=wanted.paths)
    searches = tuple(
        _search(scenario, choice, start, wanted, small, report, partial(stage, f"search-{number}-{start}"))
        for number, choice in enumerate(combinations(wanted.choices))
        for scenario in (_chosen(table, choice),)
        for start in range(wanted.starts)
    )
    best = min(searches, key=lambda one: _rank(one.refined))
    scenario, problem, choice = best.scenario, best.problem, best.choice
    searched = stage("refined", lambda: _refined(problem, best.refined, whole, wanted, ROOM, report))

    def certified(here: Problem, found: Refined, seed: int) -> tuple[Certificate, Refined]:
        return _certified(here, found, whole, wanted, seed, report)

    certificate, refined = stage("certificate", lambda: certified(problem, searched, wanted.seed))
    checks = stage("derivatives", lambda: derivatives(problem, refined, whole, wanted, report))
    status = _status(refined, checks, float(wanted.tolerance))
    report(f"search: {status}")
    stream = Stream(BASELINE, wanted.seed, wanted.paths, whole.chunk)
    held = {variable.name: current(scenario, variable.name) for variable in wanted.variables}
    incumbent, incumbent_split = stage("incumbent", lambda: _split(problem, held, stream))
    policy, split = stage("policy", lambda: _split(problem, refined.policy.parameters, stream))
    front, panel, rivals, surface, replayed, gradients = (), None, (), (), None, ()
    if status != "not_finite":
        front = trace(problem, searched, (certificate, refined), whole, wanted, certified, report, stage)
        there, found = _merged(table, choice), refined.policy
        panel = stage("robustness", lambda: examine(there, scenario, problem, found, wanted, report))
        rivals = stage("baselines", lambda: compare(there, problem, found, wanted, report))
        surface = stage("surface", lambda: scan(there, problem, found, wanted, report))
        replayed = stage("replay", lambda: relive(there, problem, found, wanted, report))
        gradients = stage("gradients", lambda: estimators(scenario, refined, wanted, report))
    return Outcome(
        status=status,
        wanted=wanted,
        scenario=scenario,
        problem=problem,
        choice=choice,
        tuned=best.tuned,
        refined=refined,
        certificate=certificate,
        searches=searches,
        incumbent=incumbent,
        policy=policy,
        split=split,
        incumbent_split=incumbent_split,
        audit=checks,
        front=front,
        panel=panel,
        rivals=rivals,
        surface=surface,
        replayed=replayed,
        gradients=gradients,
        seconds=time.monotonic() - began,
        processor_seconds=time.process_time() - worked,
    )


def _split(problem: Problem, parameters: Any, stream: Stream) -> tuple[Judgement, dict[str, float]]:
    """A policy on paths that no search has seen, and what each part of its cost comes to."""
    drawn = outcomes(problem, parameters, stream)
    split = {name: float(price) * float(drawn[name].mean()) for name, price in problem.cost.items()}
    return judgement(checked(problem), drawn), split


def _rank(refined: Refined) -> tuple[float, float]:
    return max(refined.violation, 0.0), refined.judged.cost


def combinations(choices: dict[str, Any]) -> list[dict[str, Any]]:
    """Every way to take one value of each key."""
    for key, values in choices.items():
        if not isinstance(values, list) or not values:
            raise ConfigError(f"tune.choices: {key} = {values!r}, expected a list of the values to try")
    return [dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())]


def _merged(table: dict[str, Any], choice: dict[str, Any]) -> dict[str, Any]:
    table = copy.deepcopy(table)
    for key, value in choice.items():
        apply_override(table, f"{key}={value!r}" if not isinstance(value, str) else f'{key}="{value}"')
    return table


def _chosen(table: dict[str, Any], choice: dict[str, Any]) -> Scenario:
    study = from_table(_merged(table, choice))
    prepare(study)
    return study.scenario


def _problem(scenario: Scenario, wanted: Tune) -> Problem:
    """What is tuned in a scenario: its smooth twin for gradients, the scenario as it stands for judging."""
    return Problem(
        model=SmoothVenue.of(scenario),
        variables=wanted.variables,
        cost=wanted.cost,
        constraints=wanted.constraints,
        hard=HardVenue(Held(scenario)),
    )


def _search(
    scenario: Scenario,
    choice: dict[str, Any],
    number: int,
    wanted: Tune,
    stream: Stream,
    report: Report,
    kept: Callable[[Callable[[], tuple[Tuned | None, Refined]]], tuple[Tuned | None, Refined]],
) -> Search:
    """The coarse stage: gradients on the smooth twin if asked, then a wide trust region on few paths."""
    problem = _problem(scenario, wanted)
    said = ", ".join([*(f"{key} = {value}" for key, value in choice.items()), f"start {number + 1}"])

    def work() -> tuple[Tuned | None, Refined]:
        start, tuned = _start(wanted, number), None
        if wanted.smooth_paths:
            began = time.monotonic()
            method = AugmentedLagrangian(rounds=5, steps=12, tolerance=1e-3, gradient_tolerance=1e-2)
            tuned = tune(problem, seed=wanted.seed, paths=wanted.smooth_paths, method=method, start=start)
            start, spent = tuned.parameters, time.monotonic() - began
            report(f"smooth twin, {said}: {tuned.status} after {tuned.evaluations} gradients, {spent:.0f} s")
        began = time.monotonic()
        method = TrustRegion(shares=(1.0,), evaluations=wanted.evaluations, radius=2.0)
        refined = refine(problem, start, stream, method)
        report(
            f"coarse search, {said}: {refined.evaluations} evaluations of {stream.paths:,} paths, cost "
            f"{refined.at_optimum.cost:.5g}, worst limit {refined.violation:+.1%}, {time.monotonic() - began:.0f} s"
        )
        return tuned, refined

    return Search(choice, number, stream.paths, scenario, problem, *kept(work))


def _start(wanted: Tune, number: int) -> dict[str, Any]:
    """The start of the variables, or one some 20 % away in every number."""
    free = np.zeros(sizes(wanted.variables))
    if number:
        key = _streams.stream_key(wanted.seed, f"{ROOT}/start/{number}")
        free = 2.0 * np.random.default_rng([int(word) for word in np.asarray(key)]).standard_normal(free.size)
    return {name: np.asarray(value, float) for name, value in values_of(wanted.variables, jnp.asarray(free)).items()}


def _refined(problem: Problem, before: Refined, stream: Stream, wanted: Tune, room: float, report: Report) -> Refined:
    """The fine stage from an earlier optimum, polished; if nothing holds, the least violation and then the cost once more."""
    began = time.monotonic()
    method = TrustRegion(shares=(1.0,), evaluations=wanted.evaluations, radius=0.5, shrink=0.02, room=room)
    found = refine(problem, before.optimum.parameters, stream, method)
    spent = found.evaluations
    if found.violation > 0.0:
        wide = dataclasses.replace(method, radius=2.0)
        least = restore(problem, found.optimum.parameters, stream, wide)
        spent += least.evaluations
        if least.violation <= 0.0:
            again = refine(problem, least.optimum.parameters, stream, method)
            least, spent = min(least, again, key=_rank), spent + again.evaluations
        found = min(found, least, key=_rank)
    polished = polish(problem, found.optimum.parameters, stream, z=Z, room=room)
    found, spent = min(found, polished, key=_rank), spent + polished.evaluations
    report(
        f"refined: {spent} evaluations of {stream.paths:,} paths, cost {found.judged.cost:.5g} on its grid, worst limit "
        f"{found.violation:+.1%}, {time.monotonic() - began:.0f} s"
    )
    return dataclasses.replace(found, evaluations=spent)


def _certified(
    problem: Problem, refined: Refined, stream: Stream, wanted: Tune, seed: int, report: Report
) -> tuple[Certificate, Refined]:
    """Certificates until one passes or the attempts are spent; after a miss the search keeps more room."""
    method = certification(wanted)
    certificate, room = None, ROOM
    while True:
        began = time.monotonic()
        certificate = certify(problem, refined.policy, seed=seed, method=method, previous=certificate)
        last = certificate.attempts[-1]
        report(f"certificate: {last.status} on {last.paths:,} fresh paths, {time.monotonic() - began:.0f} s")
        if last.status != "not_certified" or len(certificate.attempts) >= wanted.attempts or refined.violation > 0.0:
            return certificate, refined
        missed = max(line.upper_bound / line.limit for line in last.lines if not line.note)
        room = 1.0 - (1.0 - room) / (1.02 * max(missed, 1.0))
        refined = _refined(problem, refined, stream, wanted, room, report)


def _status(refined: Refined, audit: Audit, tolerance: float) -> str:
    numbers = (refined.judged.cost, *refined.judged.value)
    if not np.all(np.isfinite(numbers)):
        return "not_finite"
    if refined.violation > 0.0:
        return "infeasible"
    return "converged" if audit.optimal.holds(tolerance) else "budget_exhausted"
