"""From a config with a table `tune` to a certified policy: search, refinement on the hard model, certificate, files."""

import copy
import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np

from .._fields import Real, count, real, to_real
from ..leaves import current, with_parameters
from ..policy import (
    AbstractConstraint,
    AbstractVariable,
    AugmentedLagrangian,
    Certificate,
    Certification,
    Problem,
    Refined,
    Stream,
    TrustRegion,
    Tuned,
    certify,
    refine,
    tune,
)
from ..policy.lagrangian import ROOT
from ..policy.problem import Judgement, checked, judge
from ..scenario import Scenario
from .config import ConfigError, apply_override, read_toml, structure
from .folder import write_atomic, write_json
from .run import Study, from_table, prepare, resolved
from .venue import LANES, OUTCOMES, HardVenue, Held, SmoothVenue

BASELINE = "policy/baseline"


class Tune(eqx.Module):
    """What is decided, what it costs and what must hold; outcomes are those of `venue.OUTCOMES`, in shares of the book."""

    variables: tuple[AbstractVariable, ...] = eqx.field(converter=tuple)  # named by the dotted keys of the scenario
    constraints: tuple[AbstractConstraint, ...] = eqx.field(converter=tuple)
    cost: dict[str, Any] = eqx.field(converter=lambda prices: {name: to_real(p) for name, p in prices.items()})
    choices: dict[str, Any] = eqx.field(converter=dict, default_factory=dict)  # structural keys: every value is tried
    paths: int = count(32_768, least=1_024)  # fixed paths of the refinement on the hard model
    smooth_paths: int = count(2_048)  # fixed paths of the search by gradients on the smooth twin; 0 skips it
    evaluations: int = count(40, least=1)  # of the hard model, per sample size of the refinement
    certificate_paths: int = count(1_048_576, least=65_536)  # most paths of the certificate
    seed: int = count(0, most=2**64 - 1)
    level: Real = real(0.95, unit="1", above=0.0, below=1.0)

    def check(self) -> Iterator[tuple[str, str]]:
        known = ", ".join(OUTCOMES)
        for i, constraint in enumerate(self.constraints):
            if constraint.outcome not in OUTCOMES:
                yield f"constraints[{i}].outcome", f"{constraint.outcome!r} is no outcome; known: {known}"
        for name in self.cost:
            if name not in OUTCOMES:
                yield "cost", f"{name!r} is no outcome; known: {known}"


class Outcome(NamedTuple):
    """The best policy found, how it was found, and what it is measured against."""

    scenario: Scenario
    problem: Problem
    choice: dict[str, Any]
    tuned: Tuned | None
    refined: Refined
    certificate: Certificate
    incumbent: Judgement
    policy: Judgement

    @property
    def certified(self) -> bool:
        return self.certificate.status == "certified"


def load(path: Path, overrides: tuple[str, ...] = ()) -> tuple[dict[str, Any], Study, Tune]:
    """Reads a config with a table `tune`; returns its tables without that one as well, for `choices`."""
    table = read_toml(path)
    for text in overrides:
        apply_override(table, text)
    given = table.pop("tune", None)
    if given is None:
        raise ConfigError(f"{path}: no table [tune]; say there what is decided, what it costs and what must hold")
    study, wanted = from_table(table), structure(given, Tune, "tune")
    for variable in wanted.variables:
        shape, start = current(study.scenario, variable.name).size, np.size(variable.start)
        if shape != start:
            raise ConfigError(f"tune.variables: {variable.name} holds {shape} number(s), its start {start}")
    return table, study, wanted


def execute(table: dict[str, Any], wanted: Tune, report: Callable[[str], None] = lambda text: None) -> Outcome:
    """Searches every combination of `choices`, refines on the hard model, and certifies the best on fresh paths.

    Best is the cheapest of those that meet every limit on the tuning paths, or the one that misses least.
    """
    jax.config.update("jax_enable_x64", True)
    found = [_search(_chosen(table, choice), choice, wanted, report) for choice in combinations(wanted.choices)]

    def rank(entry: Any) -> tuple[float, float]:
        refined = entry[-1]
        return max(refined.violation, 0.0), refined.judged.cost

    scenario, problem, choice, tuned, refined = min(found, key=rank)
    report(f"certifying on at most {wanted.certificate_paths:,} fresh paths")
    method = Certification(level=float(wanted.level), most_paths=wanted.certificate_paths)
    certificate = certify(problem, refined.policy, seed=wanted.seed, method=method)
    stream = Stream(BASELINE, wanted.seed, wanted.paths, wanted.paths)
    held = {variable.name: current(scenario, variable.name) for variable in wanted.variables}
    incumbent, policy = (judge(checked(problem), values, stream) for values in (held, refined.policy.parameters))
    return Outcome(scenario, problem, choice, tuned, refined, certificate, incumbent, policy)


def combinations(choices: dict[str, Any]) -> list[dict[str, Any]]:
    """Every way to take one value of each key."""
    for key, values in choices.items():
        if not isinstance(values, list) or not values:
            raise ConfigError(f"tune.choices: {key} = {values!r}, expected a list of the values to try")
    return [dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())]


def _chosen(table: dict[str, Any], choice: dict[str, Any]) -> Scenario:
    table = copy.deepcopy(table)
    for key, value in choice.items():
        apply_override(table, f"{key}={value!r}" if not isinstance(value, str) else f'{key}="{value}"')
    study = from_table(table)
    prepare(study)
    return study.scenario


def _search(scenario: Scenario, choice: dict[str, Any], wanted: Tune, report: Any) -> tuple[Any, ...]:
    problem = Problem(
        model=SmoothVenue.of(scenario),
        variables=wanted.variables,
        cost=wanted.cost,
        constraints=wanted.constraints,
        hard=HardVenue(Held(scenario)),
    )
    said = ", ".join(f"{key} = {value}" for key, value in choice.items())
    start, tuned = {v.name: np.asarray(v.start) for v in wanted.variables}, None
    if wanted.smooth_paths:
        began = time.monotonic()
        method = AugmentedLagrangian(rounds=5, steps=12, tolerance=1e-3, gradient_tolerance=1e-2)
        tuned = tune(problem, seed=wanted.seed, paths=wanted.smooth_paths, method=method)
        start = tuned.parameters
        report(
            f"smooth twin{' with ' + said if said else ''}: {tuned.status} after {tuned.evaluations} gradients, "
            f"{time.monotonic() - began:.0f} s"
        )
    began = time.monotonic()
    stream = Stream(ROOT, wanted.seed, wanted.paths, max(LANES, wanted.paths // 4))
    refined = refine(problem, start, stream, TrustRegion(shares=(0.25, 1.0), evaluations=wanted.evaluations))
    report(
        f"hard model{' with ' + said if said else ''}: {refined.evaluations} evaluations, cost "
        f"{refined.judged.cost:.5g}, worst limit {refined.violation:+.1%}, {time.monotonic() - began:.0f} s"
    )
    return scenario, problem, choice, tuned, refined


def write(folder: Path, study: Study, outcome: Outcome) -> None:
    """`policy.toml`, a config of its own for `tailrisk run`, and `policy.json` with everything that was found."""
    scenario = with_parameters(outcome.scenario, outcome.refined.policy.parameters)
    text = "# Certified" if outcome.certified else "# NOT CERTIFIED"
    text += f" on fresh paths at {outcome.certificate.level:.0%}: see policy.json.\n\n"
    text += resolved(Study(scenario=scenario, run=study.run))
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "policy.toml", lambda file: file.write(text.encode()))
    write_json(folder / "policy.json", as_json(outcome))


def as_json(outcome: Outcome) -> dict[str, Any]:
    """Everything that was found, in plain numbers."""
    attempt = outcome.certificate.attempts[-1]
    names = [constraint.name for constraint in outcome.problem.constraints]
    limits = [float(constraint.limit) for constraint in outcome.problem.constraints]

    def lines(judged: Judgement) -> dict[str, Any]:
        rows = zip(names, judged.value, judged.std_error, limits, strict=True)
        return {name: {"estimate": v, "std_error": e, "limit": limit} for name, v, e, limit in rows}

    return {
        "status": outcome.certificate.status,
        "level": outcome.certificate.level,
        "choice": outcome.choice,
        "parameters": {name: value.tolist() for name, value in outcome.refined.policy.parameters.items()},
        "cost": {"tuning": outcome.refined.judged.cost, "fresh": attempt.cost, "incumbent": outcome.incumbent.cost},
        "tuning": lines(outcome.refined.judged),
        "fresh": {line.name: line._asdict() for line in attempt.lines},
        "incumbent": lines(outcome.incumbent),
        "attempts": [
            {"root": a.root, "status": a.status, "error": a.error, "paths": a.paths}
            for a in outcome.certificate.attempts
        ],
        "smooth": None
        if outcome.tuned is None
        else {
            "status": outcome.tuned.status,
            "evaluations": outcome.tuned.evaluations,
            "shadow_prices": dict(zip(names, outcome.tuned.shadow_prices, strict=True)),
        },
        "evaluations": outcome.refined.evaluations,
    }
