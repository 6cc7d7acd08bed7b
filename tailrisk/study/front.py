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
    polish,
    refine,
    stationarity,
)
from ..policy.frontier import front_weights
from ..policy.problem import outcomes
from ..policy.sensitivity import contributions

Z, ROOM = 1.645, 0.03  # of the bounds that are constrained, in every search
_APART, _DEVIATIONS = 0.05, 3.0  # what a price and a slope may differ by: share, standard errors


class Front(eqx.Module):
    """Which limit is moved, by which factors; 0.5, 1 and 2 give the conservative, moderate and aggressive variants."""

    constraint: int = count(0)  # place of the limit in the list of constraints
    factors: Real = real((), unit="1", above=0.0)  # times the limit; none skips the front
    evaluations: int = count(40, least=1)  # of the deciding model, per target


class Target(NamedTuple):
    """One target of the front: `searched` with the room that all targets share, `refined` with what its certificate took.

    `price` is -dC/dlimit by multipliers, `slope` by differences along the front (nan at the ends), with standard errors.
    """

    limit: float
    searched: Refined
    refined: Refined
    certificate: Certificate
    price: float
    price_error: float
    slope: float
    slope_error: float

    @property
    def agree(self) -> bool | None:
        """Whether price and slope are within 5 % or 3 standard errors of each other."""
        if not np.isfinite(self.slope):
            return None
        error = float(np.hypot(self.price_error, self.slope_error))
        return bool(abs(self.price - self.slope) <= max(_APART * abs(self.slope), _DEVIATIONS * error))


Certified = Callable[[Problem, Refined, int], tuple[Certificate, Refined]]
"""Certifies what was refined for a problem under a seed, tuning it again with more room if the certificate fails."""


def certification(wanted: Any) -> Certification:
    """The certificate that a table `tune` asks for; the pilot that sizes it is not larger than it may be."""
    most = wanted.certificate_paths
    return Certification(level=float(wanted.level), most_paths=most, pilot_paths=min(131_072, most // 2))


def trace(
    problem: Problem,
    searched: Refined,
    certified_one: tuple[Certificate, Refined],
    stream: Stream,
    wanted: Any,
    certified: Certified,
    report: Callable[[str], None],
    stage: Callable[[str, Callable[[], Any]], Any],
) -> tuple[Target, ...]:
    """Targets from the strictest to the loosest, each searched from its neighbor, outwards from the policy that is known.

    The slope is that of the cost before rounding, in which a grid of rates would drown it, and before a certificate that
    failed takes more room.
    """
    front, which = wanted.frontier, wanted.frontier.constraint
    factors = sorted({*np.asarray(front.factors, float).tolist(), 1.0}) if front.factors.size else []
    if len(factors) < 2:
        return ()
    limit = float(problem.constraints[which].limit)
    found: dict[float, tuple[Any, ...]] = {1.0: (problem, searched, *certified_one)}
    middle = factors.index(1.0)
    method = TrustRegion(z=Z, room=ROOM, shares=(1.0,), evaluations=front.evaluations, radius=1.0, shrink=0.02)
    for order in (factors[middle + 1 :], factors[:middle][::-1]):
        before = searched
        for factor in order:
            here = eqx.tree_at(lambda p: p.constraints[which].limit, problem, np.asarray(factor * limit))

            def work(here: Problem = here, before: Refined = before, factor: float = factor) -> tuple[Any, ...]:
                began = time.monotonic()
                coarse = refine(here, before.optimum.parameters, stream, method)
                fine = polish(here, coarse.optimum.parameters, stream, z=Z, room=ROOM)
                best = min(coarse, fine, key=lambda one: (max(one.violation, 0.0), one.at_optimum.cost))
                seed = wanted.seed + 1 + factors.index(factor)  # each target has fresh paths of its own
                certificate, taken = certified(here, best, seed)
                report(
                    f"front: limit x {factor:g}: cost {best.at_optimum.cost:.5g}, {certificate.status}, "
                    f"{time.monotonic() - began:.0f} s"
                )
                return best, certificate, taken

            before, *rest = stage(f"front-{factors.index(factor)}", work)
            found[factor] = here, before, *rest
    points = [found[factor] for factor in factors]
    known = [_conditions(here, point, stream) for here, point, _, _ in points]
    slopes, errors = _slopes(points, known, which, stream)
    return tuple(
        Target(
            factor * limit,
            point,
            refined,
            certificate,
            float(optimal.prices[which]),
            float(optimal.price_errors[which]),
            float(slope),
            float(error),
        )
        for factor, (_, point, certificate, refined), optimal, slope, error in zip(
            factors, points, known, slopes, errors, strict=True
        )
    )


def _conditions(problem: Problem, refined: Refined, stream: Stream) -> Stationarity:
    slopes = differences(problem, refined.optimum, stream, z=Z)
    return stationarity(problem, refined.optimum.parameters, refined.at_optimum, slopes, z=Z, room=ROOM)


def _slopes(
    points: list[tuple[Any, ...]], known: list[Stationarity], which: int, stream: Stream
) -> tuple[np.ndarray, np.ndarray]:
    """-dC/dlimit along the front, with standard errors.

    To first order another sample moves the least cost by what it moves the Lagrangian at the optimum (Shapiro, Dentcheva and
    Ruszczynski 2009, theorem 5.7), so the paths of all optima, which are common, say how far a difference of costs is off.
    """
    limits = np.array([float(here.constraints[which].limit) for here, *_ in points])
    if len(points) < 3:
        return np.full(len(points), np.nan), np.full(len(points), np.nan)
    costs = np.array([point.at_optimum.cost for _, point, *_ in points])
    felt = []
    for (here, point, *_), optimal in zip(points, known, strict=True):
        drawn = outcomes(here, point.optimum.parameters, stream)
        cost, carried = contributions(here, drawn, point.optimum.levels)
        felt.append(cost + optimal.prices / (1.0 - ROOM) @ carried)
    weights = front_weights(limits)
    return weights @ costs, (weights @ np.array(felt)).std(axis=1, ddof=1) / np.sqrt(stream.paths)
