"""The front of cost against one limit on the deciding model: every target refined, certified, and priced."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import numpy as np

from .._fields import Real, count, real
from ..policy import (
    Certificate,
    Certification,
    Problem,
    Refined,
    Stationarity,
    Stream,
    TrustRegion,
    differences,
    refine,
    stationarity,
)
from ..policy.frontier import front_slopes

Z, ROOM = 1.645, 0.03


class Front(eqx.Module):
    """Which limit is moved, by which factors; 0.5, 1 and 2 give the conservative, moderate and aggressive variants."""

    constraint: int = count(0)  # place of the limit in the list of constraints
    factors: Real = real((), unit="1", above=0.0)  # times the limit; none skips the front
    evaluations: int = count(40, least=1)  # of the deciding model, per target


class Target(NamedTuple):
    """One target of the front. `price` is -dC/dlimit by multipliers, `slope` by differences along the front (nan at ends)."""

    limit: float
    refined: Refined
    certificate: Certificate
    price: float
    price_error: float
    slope: float


Certified = Callable[[Problem, Refined, int], tuple[Certificate, Refined]]
"""Certifies what was refined for a problem under a seed, tuning it again with more room if the certificate fails."""


def certification(wanted: Any) -> Certification:
    """The certificate that a table `tune` asks for; the pilot that sizes it is not larger than it may be."""
    most = wanted.certificate_paths
    return Certification(level=float(wanted.level), most_paths=most, pilot_paths=min(131_072, most // 2))


def trace(
    problem: Problem,
    refined: Refined,
    certificate: Certificate,
    optimal: Stationarity,
    stream: Stream,
    wanted: Any,
    certified: Certified,
    report: Callable[[str], None],
) -> tuple[Target, ...]:
    """Targets from the strictest to the loosest, each searched from its neighbor, outwards from the policy that is known.

    The slope is that of the cost before rounding, in which a grid of rates would drown it.
    """
    front, which = wanted.frontier, wanted.frontier.constraint
    factors = sorted({*np.asarray(front.factors, float).tolist(), 1.0}) if front.factors.size else []
    if len(factors) < 2:
        return ()
    limit = float(problem.constraints[which].limit)
    found: dict[float, tuple[Any, ...]] = {1.0: (problem, refined, certificate)}
    middle = factors.index(1.0)
    for order in (factors[middle + 1 :], factors[:middle][::-1]):
        before = refined
        for factor in order:
            began = time.monotonic()
            here = eqx.tree_at(lambda p: p.constraints[which].limit, problem, np.asarray(factor * limit))
            method = TrustRegion(z=Z, room=ROOM, shares=(1.0,), evaluations=front.evaluations, radius=1.0, shrink=0.02)
            before = refine(here, before.optimum.parameters, stream, method)
            seed = wanted.seed + 1 + factors.index(factor)  # each target has fresh paths of its own
            judged, before = certified(here, before, seed)
            found[factor] = here, before, judged
            report(
                f"front: limit x {factor:g}: cost {before.at_optimum.cost:.5g}, {found[factor][2].status}, "
                f"{time.monotonic() - began:.0f} s"
            )
    costs = np.array([found[factor][1].at_optimum.cost for factor in factors])
    slopes = np.full(len(factors), np.nan)
    if len(factors) > 2:
        slopes = front_slopes(limit * np.array(factors), costs)
    targets = []
    for factor, slope in zip(factors, slopes, strict=True):
        here, point, judged = found[factor]
        known = optimal if factor == 1.0 else _conditions(here, point, stream) if np.isfinite(slope) else None
        price, error = (np.nan, np.nan) if known is None else (known.prices[which], known.price_errors[which])
        targets.append(Target(factor * limit, point, judged, float(price), float(error), float(slope)))
    return tuple(targets)


def _conditions(problem: Problem, refined: Refined, stream: Stream) -> Stationarity:
    slopes = differences(problem, refined.optimum, stream, z=Z)
    return stationarity(problem, refined.optimum.parameters, refined.at_optimum, slopes, z=Z, room=ROOM)
