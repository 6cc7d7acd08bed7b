"""Augmented Lagrangian on a fixed set of paths, with every constraint on its upper confidence bound.

    minimise over u   C(u)/|C(0)| + sum_k [max(0, lam_k + rho_k g_k)^2 - lam_k^2] / (2 rho_k),
    g_k = (mean_k + z s.e._k) / ((1 - room) limit_k) - 1

A plain sample average that just meets its limit misses it on about half of all new samples, however large the sample;
the bound and the room are what makes a tuned policy hold elsewhere. The inner minimization is L-BFGS (optax) with
backtracking on the host, so that all steps run one compiled evaluation.

**Source:** Nocedal and Wright (2006), "Numerical Optimization", eqs. 17.57-17.65; Shapiro, Dentcheva and Ruszczynski
(2009), "Lectures on Stochastic Programming", section 5.2, for fixed samples.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float

from .._fields import InputError
from . import variables as variables_
from .problem import Evaluation, Problem, Stream, checked, evaluate, placed

ROOT = "policy/tune"
_SUFFICIENT = 1e-4  # share of the predicted decrease that a step must reach (Armijo)
_LONGEST = 5.0  # free units moved by one step: about half of a value
_SHORTEST = 1e-7  # free units; a minimum of a piecewise smooth sample function can be a kink
_KINK = 0.05  # share of the cost's gradient that may jump at a kink; more is a gradient that misleads
_DOUBTS = 3  # rounds in a row that raise a penalty before infeasibility is looked into
_HOPELESS = 100.0  # tolerances of violation left at the point of least violation
_LBFGS = optax.scale_by_lbfgs(memory_size=10)


@dataclasses.dataclass(frozen=True)
class AugmentedLagrangian:
    """Settings of the tuner.

    `z`: standard errors between the mean and the bound that is constrained (0: the plain mean). `room`: share of every
    limit left for the bound of the certificate. `penalty`, `growth`: first rho, and its factor when the violation did
    not shrink by `growth`. `tolerance`: of the relative violation; `gradient_tolerance`: of the gradient of the
    Lagrangian relative to that of the cost. `most_paths`: simulated paths after which the search stops.
    """

    z: float = 1.645
    room: float = 0.03
    penalty: float = 10.0
    growth: float = 4.0
    rounds: int = 20
    steps: int = 100
    tolerance: float = 1e-5
    gradient_tolerance: float = 1e-4
    most_paths: float = 1e10

    def __post_init__(self):
        if not (self.z >= 0.0 and 0.0 <= self.room < 1.0 and self.penalty > 0.0 and self.growth > 1.0):
            raise InputError(f"{self}: expected z >= 0, 0 <= room < 1, penalty > 0 and growth > 1")


class Round(NamedTuple):
    """One outer round: multipliers and penalties after it, and the constraints (g_k) it ended with."""

    multipliers: Float[np.ndarray, " constraints"]
    penalties: Float[np.ndarray, " constraints"]
    constraints: Float[np.ndarray, " constraints"]
    cost: float


@dataclasses.dataclass(frozen=True)
class Tuned:
    """What a search found, and how it ended.

    `status` is "converged", "infeasible" (then this is the point of least violation and `rounds` shows the multipliers
    grow), "budget_exhausted" or "not_finite". `shadow_prices` are cost per unit of each limit, -dC/dlimit.
    """

    status: str
    parameters: dict[str, np.ndarray]
    free: Float[np.ndarray, " free"]
    problem: Problem
    evaluation: Evaluation
    bounds: Float[np.ndarray, " constraints"]
    violation: float
    shadow_prices: Float[np.ndarray, " constraints"]
    gradient_norm: float
    rounds: tuple[Round, ...]
    evaluations: int
    stream: Stream


class Point(NamedTuple):
    """Free numbers with what is known there; at a `kink` no step down the gradient decreases the value."""

    free: Float[np.ndarray, " free"]
    evaluation: Evaluation
    value: float
    gradient: Float[np.ndarray, " free"]
    kink: bool = False


Merit = Callable[[Evaluation], tuple[float, np.ndarray]]
"""A function to minimize, with its gradient, made of one evaluation."""


class _Search:
    """The evaluations of one search: counted, and normalized by cost and limits."""

    def __init__(self, problem: Problem, stream: Stream, method: AugmentedLagrangian, free: np.ndarray):
        self.problem, self.stream, self.method, self.evaluations = problem, stream, method, 0
        self.limits = (1.0 - method.room) * np.array([float(c.limit) for c in problem.constraints])
        self.start = self.at(free)
        self.cost_scale = abs(self.start.cost) or 1.0

    @property
    def spent(self) -> bool:
        return (self.evaluations + 1) * self.stream.paths > self.method.most_paths

    def at(self, free: np.ndarray) -> Evaluation:
        self.evaluations += 1
        return evaluate(self.problem, self.stream, free)

    def bounds(self, e: Evaluation) -> np.ndarray:
        return e.value + self.method.z * e.std_error

    def constraints(self, e: Evaluation) -> tuple[np.ndarray, np.ndarray]:
        """g_k and their gradients."""
        slope = e.value_gradient + self.method.z * e.std_error_gradient
        return self.bounds(e) / self.limits - 1.0, slope / self.limits[:, None]

    def lagrangian(self, multipliers: np.ndarray, penalties: np.ndarray) -> Merit:
        def merit(e: Evaluation) -> tuple[float, np.ndarray]:
            g, slope = self.constraints(e)
            force = np.maximum(multipliers + penalties * g, 0.0)
            value = e.cost / self.cost_scale + np.sum((force**2 - multipliers**2) / (2.0 * penalties))
            return float(value), e.cost_gradient / self.cost_scale + force @ slope

        return merit

    def excess(self, e: Evaluation) -> tuple[float, np.ndarray]:
        """Half the sum of squared violations."""
        g, slope = self.constraints(e)
        over = np.maximum(g, 0.0)
        return 0.5 * float(over @ over), over @ slope


@eqx.filter_jit
def _direction(gradient: Any, state: Any, free: Any) -> Any:
    with jax.numpy_dtype_promotion("standard"):  # optax mixes widths of integers
        return _LBFGS.update(gradient, state, free)


def _backtrack(search: _Search, merit: Merit, here: Point, step: np.ndarray) -> Point | None:
    """The first of the steps 1, 1/3, 1/9, ... that is finite and decreases enough, or nothing."""
    while np.linalg.norm(step) > _SHORTEST and not search.spent:
        evaluation = search.at(here.free + step)
        value, gradient = merit(evaluation)
        enough = value <= here.value + _SUFFICIENT * (here.gradient @ step)  # never for nan
        if enough and np.isfinite(value) and np.all(np.isfinite(gradient)):
            return Point(here.free + step, evaluation, value, gradient)
        step = step / 3.0
    return None


def _minimize(search: _Search, merit: Merit, free: np.ndarray, evaluation: Evaluation, tolerance: float) -> Point:
    """L-BFGS with backtracking, until the gradient is small or no step down the gradient decreases the value.

    The latter is a kink if the gradient is small: sample means of losses beyond a threshold are piecewise smooth, and
    their minimum may be one. If it is not, the gradient is not that of the value.
    """
    here, state = Point(free, evaluation, *merit(evaluation)), None
    for _ in range(search.method.steps):
        norm = float(np.linalg.norm(here.gradient))
        if norm <= tolerance or search.spent:
            break
        fresh = state is None
        point = jnp.asarray(here.free)
        step, state = _direction(jnp.asarray(here.gradient), _LBFGS.init(point) if fresh else state, point)
        step = -np.asarray(step, float)
        step *= min(1.0, _LONGEST / np.linalg.norm(step))
        found = _backtrack(search, merit, here, step) if here.gradient @ step < 0.0 else None
        if found is not None:
            here = found
        elif fresh:
            return here._replace(kink=not search.spent)
        else:
            state = None  # what was learnt about the curvature misleads here
    return here


def tune(
    problem: Problem,
    *,
    seed: int,
    paths: int,
    method: AugmentedLagrangian | None = None,
    start: Mapping[str, Any] | None = None,
    chunk: int = 65_536,
) -> Tuned:
    """The cheapest parameters that meet every limit by its upper confidence bound, on a fixed set of paths.

    `start` are named parameters (default: the starts of the variables); the levels of shortfalls and probabilities begin
    at their best places there. The search never sees the roots of `certificate`.

    **Raises:** `InputError` for a problem or a start that is out of bounds or does not fit together.
    """
    if paths < 2 or chunk < 1:
        raise InputError(f"paths = {paths}, chunk = {chunk}: expected at least 2 paths and 1 in a chunk")
    method = method or AugmentedLagrangian()
    problem, stream = checked(problem), Stream(ROOT, seed, paths, min(chunk, paths))
    free = np.zeros(problem.size)
    if start is not None:
        moved = variables_.free_numbers(problem.variables, start)
        free[: moved.size] = moved
    problem = placed(problem, free, stream)
    search = _Search(problem, stream, method, free)
    multipliers = np.zeros(len(problem.constraints))
    penalties = np.full_like(multipliers, method.penalty)
    here = Point(free, search.start, *search.lagrangian(multipliers, penalties)(search.start))
    if not (np.isfinite(here.value) and np.all(np.isfinite(here.gradient))):
        return _tuned("not_finite", search, here, multipliers, ())
    pull = float(np.linalg.norm(search.start.cost_gradient)) / search.cost_scale
    slack = method.gradient_tolerance * pull
    rounds, status, doubts, before = [], "budget_exhausted", 0, np.full_like(multipliers, np.inf)
    for _ in range(method.rounds):
        here = _minimize(search, search.lagrangian(multipliers, penalties), here.free, here.evaluation, slack)
        g, _slope = search.constraints(here.evaluation)
        missed = np.abs(np.maximum(g, -multipliers / penalties))
        multipliers = np.maximum(multipliers + penalties * g, 0.0)
        rounds.append(Round(multipliers, penalties, g, here.evaluation.cost))
        if missed.max() <= method.tolerance and np.linalg.norm(here.gradient) <= (_KINK * pull if here.kink else slack):
            status = "converged"
            break
        slow = (missed > method.tolerance) & (missed > before / method.growth)
        doubts = doubts + 1 if np.any(slow & (g > method.tolerance)) else 0
        penalties, before = np.where(slow, method.growth * penalties, penalties), missed
        if doubts >= _DOUBTS:
            here, doubts = _minimize(search, search.excess, here.free, here.evaluation, method.tolerance**2), 0
            if search.constraints(here.evaluation)[0].max() > _HOPELESS * method.tolerance and not search.spent:
                status = "infeasible"
                break
        if search.spent:
            break
    return _tuned(status, search, here, multipliers, tuple(rounds))


def _tuned(status: str, search: _Search, here: Point, multipliers: np.ndarray, rounds: tuple[Round, ...]) -> Tuned:
    problem = search.problem
    limits = np.array([float(c.limit) for c in problem.constraints])
    values = variables_.values(problem.variables, jnp.asarray(here.free))
    return Tuned(
        status=status,
        parameters={name: np.asarray(value, float) for name, value in values.items()},
        free=here.free,
        problem=problem,
        evaluation=here.evaluation,
        bounds=search.bounds(here.evaluation),
        violation=float(np.max(search.constraints(here.evaluation)[0])),
        shadow_prices=multipliers * search.cost_scale / limits,
        gradient_norm=float(np.linalg.norm(here.gradient)),
        rounds=rounds,
        evaluations=search.evaluations,
        stream=search.stream,
    )
