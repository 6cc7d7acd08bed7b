"""Derivatives of a policy that was found: of the deciding model, of its smooth twin, by the estimators of `gradients`."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..gradients import AuditRow, audit
from ..leaves import with_parameters
from ..policy import (
    Curvature,
    Problem,
    Refined,
    Slopes,
    Stationarity,
    Stream,
    curvature,
    differences,
    pathwise,
    stationarity,
)
from ..policy.sensitivity import entries
from ..scenario import Scenario
from .front import Z

ROOT = "policy/audit"
Report = Callable[[str], None]


class Audit(NamedTuple):
    """Derivatives at the optimum: of the deciding model by differences, of its smooth twin by gradients (or None)."""

    hard: Slopes
    smooth: Slopes | None
    optimal: Stationarity
    smooth_optimal: Stationarity | None
    bend: Curvature


def derivatives(problem: Problem, refined: Refined, stream: Stream, wanted: Any, report: Report) -> Audit:
    """Derivatives at the optimum before rounding, on the tuning paths."""
    began = time.monotonic()
    hard = differences(problem, refined.optimum, stream, z=Z)
    smooth = smooth_optimal = None
    room = refined.room
    optimal = stationarity(problem, refined.optimum.parameters, refined.at_optimum, hard, z=Z, room=room)
    bend = curvature(problem, refined.optimum, stream, hard, optimal, z=Z, room=room)
    if wanted.audit_paths:
        few = Stream(ROOT, wanted.seed, wanted.audit_paths, 256)
        smooth = pathwise(problem, refined.optimum, few, z=Z)
        smooth_optimal = stationarity(problem, refined.optimum.parameters, refined.at_optimum, smooth, z=Z, room=room)
    report(
        f"derivatives of {len(hard.entries)} numbers: projected gradient {optimal.residual:.2%} of the cost per 10 %, "
        f"noise {optimal.noise:.2%}, {time.monotonic() - began:.0f} s"
    )
    return Audit(hard, smooth, optimal, smooth_optimal, bend)


def estimators(scenario: Scenario, refined: Refined, wanted: Any, report: Report) -> tuple[AuditRow, ...]:
    """The estimator that `gradients` chooses for expected bad debt in each number, against differences on fresh noise."""
    if not wanted.gradient_paths:
        return ()
    began = time.monotonic()
    there = with_parameters(scenario, refined.policy.parameters)
    keys = [
        f"{name}.{place}" if np.size(refined.policy.parameters[name]) > 1 else name
        for name, place in entries(refined.policy.parameters)
    ]
    rows = audit(there, keys, ("bad_debt",), seed=wanted.seed, paths=wanted.gradient_paths).rows
    report(
        f"audit of gradients: {sum(row.passed for row in rows)} of {len(rows)} pass, {time.monotonic() - began:.0f} s"
    )
    return rows
