"""The front of cost against one limit, with shadow prices checked against its slope."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import equinox as eqx
import numpy as np
from jaxtyping import Float

from .._fields import InputError
from .certificate import Certificate, Certification, certify
from .lagrangian import Tuned, tune
from .problem import Problem
from .refine import Refined, TrustRegion, refine, settle


class FrontPoint(NamedTuple):
    """One target: what was tuned, refined and certified for it, and the slope of the front there (`nan` at the ends)."""

    limit: float
    tuned: Tuned
    refined: Refined
    certificate: Certificate
    shadow_price: float
    slope: float


def frontier(
    problem: Problem,
    constraint: int,
    limits: Sequence[float] | np.ndarray,
    *,
    seed: int,
    refinement: TrustRegion | None = None,
    certification: Certification | None = None,
    **settings: Any,
) -> list[FrontPoint]:
    """Tunes and certifies for each limit of one constraint (its index), each from the solution before.

    `settings` are those of `tune`. All points share tuning paths and compiled evaluation. Every certificate is a
    statement about its own point; together they hold at the level less the errors of all points.

    **Raises:** `InputError` if there are fewer than three limits or they do not fall or rise strictly.
    """
    steps = np.diff(limits)
    if len(limits) < 3 or not (np.all(steps > 0.0) or np.all(steps < 0.0)):
        raise InputError(f"limits = {list(limits)}: expected at least three that rise or fall strictly")
    parts = []
    for limit in limits:
        here = eqx.tree_at(lambda p: p.constraints[constraint].limit, problem, np.asarray(float(limit)))
        tuned = tune(here, seed=seed, **settings)
        settings = settings | {"start": tuned.parameters}
        if here.hard is None:
            refined = settle(here, tuned.parameters, tuned.stream)
        else:
            refined = refine(here, tuned.parameters, tuned.stream, refinement)
        parts.append((limit, tuned, refined, certify(here, refined.policy, seed=seed, method=certification)))
    slopes = front_weights(np.asarray(limits, float)) @ np.array([part[1].evaluation.cost for part in parts])
    return [
        FrontPoint(limit, tuned, refined, certificate, float(tuned.shadow_prices[constraint]), float(slope))
        for (limit, tuned, refined, certificate), slope in zip(parts, slopes, strict=True)
    ]


def front_weights(limits: Float[np.ndarray, " points"]) -> Float[np.ndarray, "points points"]:
    """What -dC/dlimit at every point takes of the costs: three-point differences in log limit; `nan` at the ends."""
    x, n = np.log(limits), len(limits)
    out = np.zeros((n, n))
    out[[0, -1]] = np.nan
    for k in range(1, n - 1):
        before, after = x[k] - x[k - 1], x[k + 1] - x[k]
        low, high = after / (before * (before + after)), before / (after * (before + after))
        out[k, k - 1 : k + 2] = np.array([low, high - low, -high]) / limits[k]
    return out
