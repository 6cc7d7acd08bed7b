"""From a smoothed model to the one that decides: a ladder of temperatures, then a derivative-free trust region.

A smoothed model is only a way to get gradients. Its optimum is moved by the smoothing, so the last word belongs to the
hard model, on the same paths and against the same upper confidence bounds.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy import optimize

from .._fields import InputError
from . import variables as variables_
from .lagrangian import Tuned, tune
from .problem import AbstractSampledModel, Judgement, Policy, Problem, Stream, checked, judge


class Stage(NamedTuple):
    """One temperature: what tuning the smoothed model gave, and what the deciding model says about it."""

    tuned: Tuned
    judged: Judgement


def anneal(problem: Problem, models: Sequence[AbstractSampledModel], **settings: Any) -> list[Stage]:
    """Tunes smoothed models in turn, from the warmest on, each started where the one before ended.

    `settings` are those of `tune`. All models of one structure (a traced temperature) share one compiled evaluation.
    """
    stages: list[Stage] = []
    for model in models:
        tuned = tune(dataclasses.replace(problem, model=model), **settings)
        stages.append(Stage(tuned, judge(tuned.problem, tuned.parameters, tuned.stream)))
        settings = settings | {"start": tuned.parameters}
    return stages


@dataclasses.dataclass(frozen=True)
class TrustRegion:
    """Settings of the refinement: radii in free units (a unit is about 10 % of a value), one stage per sample size.

    `radius` shrinks by `shrink` from stage to stage while the share of the paths grows through `shares`, because a
    short step needs a smaller error to be told from noise. `z` and `room` are as in `AugmentedLagrangian`.
    """

    z: float = 1.645
    room: float = 0.03
    radius: float = 1.0
    shrink: float = 0.1
    shares: tuple[float, ...] = (0.0625, 0.25, 1.0)
    evaluations: int = 60

    def options(self, radius: float) -> dict[str, float]:
        """What one stage asks of the trust region."""
        return {
            "initial_tr_radius": radius,
            "final_tr_radius": self.shrink * radius,
            "maxfev": self.evaluations,
        }

    def __post_init__(self):
        if not (self.radius > 0.0 and 0.0 < self.shrink < 1.0 and self.shares and self.shares[-1] == 1.0):
            raise InputError(f"{self}: expected radius > 0, 0 < shrink < 1 and shares that end with 1")


@dataclasses.dataclass(frozen=True)
class Refined:
    """A policy on its grid, judged by the deciding model on the tuning paths.

    `violation` is the largest upper bound over its limit (less the room), minus one: positive if a bound is missed. `room`
    is the share of every limit that was left for the bound of a certificate.
    `optimum` and `at_optimum` are the policy before rounding and its judgement.
    """

    policy: Policy
    judged: Judgement
    bounds: Float[np.ndarray, " constraints"]
    violation: float
    evaluations: int
    optimum: Policy
    at_optimum: Judgement
    room: float


class Trials:
    """Cost and relative violations of the deciding model as functions of free numbers, each point evaluated once."""

    def __init__(self, problem: Problem, stream: Stream, z: float, room: float):
        self.problem, self.stream, self.z = problem, stream, z
        self.limits = (1.0 - room) * np.array([float(c.limit) for c in problem.constraints])
        self.seen: dict[bytes, tuple[np.ndarray, Judgement]] = {}

    def values(self, free: np.ndarray) -> dict[str, np.ndarray]:
        found = variables_.values(self.problem.variables, jnp.asarray(free))
        return {name: np.asarray(value, float) for name, value in found.items()}

    def at(self, free: np.ndarray) -> Judgement:
        key = free.tobytes()
        if key not in self.seen:
            self.seen[key] = free.copy(), judge(self.problem, self.values(free), self.stream)
        return self.seen[key][1]

    def violations(self, judged: Judgement) -> np.ndarray:
        return (judged.value + self.z * judged.std_error) / self.limits - 1.0

    def best(self) -> np.ndarray:
        """The cheapest point seen that holds, or the one that violates least."""

        def rank(entry: tuple[np.ndarray, Judgement]) -> tuple[float, float]:
            return max(float(self.violations(entry[1]).max()), 0.0), entry[1].cost

        return min(self.seen.values(), key=rank)[0]


def refine(
    problem: Problem,
    start: Mapping[str, Any],
    stream: Stream,
    method: TrustRegion | None = None,
) -> Refined:
    """Lowers the cost under the deciding model without derivatives, then rounds every parameter to the safe side.

    A trust region with quadratic models of cost and constraints moves the variables; the level of a shortfall is at its
    best place in every evaluation. All samples are the first paths of the stream, so common random numbers hold.

    **Source:** Ragonneau (2022), "Model-based derivative-free optimization methods and software", for the method
    (COBYQA); Shashaani, Hashemi and Pasupathy (2018), "ASTRO-DF", for tying the sample to the radius.
    """
    method, cast = method or TrustRegion(), checked(problem)
    free, radius, evaluations = variables_.free_numbers(problem.variables, start), method.radius, 0
    for share in method.shares:
        paths = min(max(int(share * stream.paths), 2), stream.paths)
        hard = Trials(cast, stream._replace(paths=paths), method.z, method.room)
        scale = abs(hard.at(free).cost) or 1.0
        optimize.minimize(
            lambda u, hard=hard, scale=scale: hard.at(u).cost / scale,
            free,
            method="COBYQA",
            constraints=optimize.NonlinearConstraint(lambda u, hard=hard: hard.violations(hard.at(u)), -np.inf, 0.0),
            options=method.options(radius),
        )
        free, radius, evaluations = hard.best(), method.shrink * radius, evaluations + len(hard.seen)
    best = variables_.values(problem.variables, jnp.asarray(free))
    return settle(problem, best, stream, z=method.z, room=method.room, evaluations=evaluations)


def restore(problem: Problem, start: Mapping[str, Any], stream: Stream, method: TrustRegion | None = None) -> Refined:
    """The policy that misses its limits least, whatever it costs: what is left to say when a search finds none that holds.

    Minimizes the sum of squared violations under the deciding model; stops at the first policy without any.
    """
    method, cast = method or TrustRegion(), checked(problem)
    hard = Trials(cast, stream, method.z, method.room)

    def excess(free: np.ndarray) -> float:
        over = np.maximum(hard.violations(hard.at(free)), 0.0)
        return float(over @ over)

    free = variables_.free_numbers(problem.variables, start)
    options = method.options(method.radius) | {"f_target": 0.0}
    optimize.minimize(excess, free, method="COBYQA", options=options)
    best = variables_.values(problem.variables, jnp.asarray(hard.best()))
    return settle(problem, best, stream, z=method.z, room=method.room, evaluations=len(hard.seen))


def settle(
    problem: Problem,
    parameters: Mapping[str, Any],
    stream: Stream,
    *,
    z: float = 1.645,
    room: float = 0.03,
    evaluations: int = 0,
) -> Refined:
    """Rounds parameters to the safe side and judges the policy that results, without moving them any further."""
    cast = checked(problem)
    plain = {name: np.asarray(value, float) for name, value in parameters.items()}
    parameters = variables_.rounded(problem.variables, plain)  # the grid in double precision, whatever the run
    judged, before = (judge(cast, values, stream) for values in (parameters, plain))
    violation = Trials(cast, stream, z, room).violations(judged).max()
    bounds = judged.value + z * judged.std_error
    optimum = Policy(plain, before.levels)
    return Refined(
        Policy(parameters, judged.levels), judged, bounds, float(violation), evaluations + 2, optimum, before, room
    )
