"""A constrained choice on a sampled model, and its two evaluations: with gradients for tuning, by counting for judging.

A model is a pure function from parameters and path numbers to named outcomes per path. Equal keys are common random
numbers, so a fixed set of paths makes cost and constraints deterministic functions of the parameters. `jit` and the loop
over chunks of paths live here alone.
"""

import abc
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .. import _fields, _streams
from .._fields import InputError
from ..simulate import entry_point
from . import variables as variables_
from .constraints import AbstractConstraint
from .variables import Above, AbstractVariable

WEIGHT = "weight"  # name of the outcome that holds importance weights
MOST_FREE = 16  # forward mode carries one tangent per free number

_PLACING = 65_536  # paths that place a level at the start of a search, whatever the chunk


class AbstractSampledModel(eqx.Module):
    """What is tuned: outcomes of paths under named parameters. It knows nothing of costs, limits or optimisers."""

    @abc.abstractmethod
    def sample(
        self, parameters: Mapping[str, Any], keys: tuple[Any, Any], first: Any, paths: int
    ) -> dict[str, Float[Array, " paths"]]:
        """Outcomes of the paths `first` to `first + paths - 1`, differentiable in the parameters in forward mode.

        `keys` are those of `_streams.noise_keys`, `first` is an unsigned 32-bit number, `paths` is structural. A path
        may depend on its number and the keys only. Under importance sampling the outcome "weight" is the likelihood
        ratio of the path; as long as the parameters do not change the law of the noise, it does not depend on them.
        """


def _cost(value: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _fields.to_real(price) for name, price in value.items()}


class Problem(eqx.Module):
    """Minimise the mean of sum_i price_i outcome_i over the variables so that all constraints hold.

    `hard` is the model that decides when `model` is a smoothed one. It is sampled with plain numbers outside any trace,
    so it may build tables on the host, and brings its own compiled program.
    """

    model: AbstractSampledModel
    variables: tuple[AbstractVariable, ...]
    cost: dict[str, Any] = eqx.field(converter=_cost)
    constraints: tuple[AbstractConstraint, ...]
    hard: AbstractSampledModel | None = None

    def check(self) -> Iterator[tuple[str, str]]:
        """What does not fit together."""
        names = [variable.name for variable in self.variables]
        if len(set(names)) != len(names):
            yield "variables", f"{names}: expected different names"
        for i, variable in enumerate(self.variables):
            if isinstance(variable, Above) and variable.base not in names[:i]:
                yield f"variables.{variable.name}", f"base = {variable.base!r}: expected a variable listed before it"
                return
        if not self.constraints or not self.cost:
            yield "cost and constraints", "expected at least one of each; a cost alone runs to a bound"
        if self.size > MOST_FREE:
            yield "variables", f"{self.size} free numbers with the levels: expected at most {MOST_FREE}"
        start = variables_.values(self.variables, jnp.zeros(variables_.sizes(self.variables)))
        for name, value in start.items():
            if not np.all(np.isfinite(np.asarray(value))):
                yield f"variables.{name}", "the start does not lie strictly inside its bounds and orders"

    @property
    def size(self) -> int:
        """Free numbers: those of the variables, then one per level."""
        return variables_.sizes(self.variables) + sum(c.has_level for c in self.constraints)

    def levels(self, free: Float[Array, " free"]) -> list[Float[Array, ""]]:
        """The level of every constraint (zero without one)."""
        place, out = variables_.sizes(self.variables), []
        for constraint in self.constraints:
            out.append(constraint.level_at(free[place] if constraint.has_level else jnp.zeros((), free.dtype)))
            place += constraint.has_level
        return out


class Stream(NamedTuple):
    """Which paths: those numbered 0 to paths - 1 under a seed and a named root; `chunk` bounds memory alone."""

    root: str
    seed: int
    paths: int
    chunk: int = 65_536

    @property
    def keys(self) -> tuple[Any, Any]:
        return _streams.noise_keys(self.seed, self.root)


class Evaluation(NamedTuple):
    """Cost and constrained quantities of a stream with their gradients in the free numbers; float64 on the host."""

    cost: float
    cost_gradient: Float[np.ndarray, " free"]
    value: Float[np.ndarray, " constraints"]
    value_gradient: Float[np.ndarray, "constraints free"]
    std_error: Float[np.ndarray, " constraints"]
    std_error_gradient: Float[np.ndarray, "constraints free"]


class Policy(NamedTuple):
    """Plain parameters with the levels of shortfalls and probabilities at which they are judged."""

    parameters: dict[str, np.ndarray]
    levels: Float[np.ndarray, " constraints"]


class Judgement(NamedTuple):
    """Cost and constrained quantities of plain parameters under the model that decides, with the levels used."""

    cost: float
    value: Float[np.ndarray, " constraints"]
    std_error: Float[np.ndarray, " constraints"]
    levels: Float[np.ndarray, " constraints"]


def checked(problem: Problem) -> Problem:
    """The problem in the precision of the run.

    **Raises:** `InputError` listing every value out of bounds and everything that does not fit together.
    """
    wrong = list(_fields.problems(problem))
    if wrong:
        raise InputError("; ".join(wrong))
    return _fields.cast(problem, jnp.zeros(()).dtype)


@entry_point
def _sums(problem: Problem, keys: Any, first: Any, last: Any, paths: int, free: Any) -> tuple[Any, Any]:
    """Sums over the paths of a chunk that come before `last`, and their derivatives in the free numbers."""

    def rows(free: Any) -> tuple[Any, Any]:
        outcome = problem.model.sample(variables_.values(problem.variables, free), keys, first, paths)
        ones = jnp.ones(paths, free.dtype)
        weight = outcome.get(WEIGHT, ones)
        terms = [weight, sum((price * outcome[name] for name, price in problem.cost.items()), 0.0 * ones) * weight]
        for constraint, t in zip(problem.constraints, problem.levels(free), strict=True):
            carried = constraint.carried(outcome[constraint.outcome], weight, t)
            terms += [constraint.offset(t) * ones, carried, carried**2]
        inside = first + jnp.arange(paths, dtype=jnp.uint32) < last
        sums = jnp.stack([jnp.sum(jnp.where(inside, term, jnp.zeros_like(term))) for term in terms])
        return sums, sums

    slope, value = jax.jacfwd(rows, has_aux=True)(free)
    return value, slope


def evaluate(problem: Problem, stream: Stream, free: Float[np.ndarray, " free"]) -> Evaluation:
    """Cost and constrained quantities of the differentiable model with gradients, accumulated over chunks in float64.

    The cost is normalized by the mean weight, so that a certain cost stays certain; the constrained quantities are not,
    because that would bias rare ones.
    """
    n, keys = stream.paths, stream.keys
    free_cast = jnp.asarray(free, jnp.zeros(()).dtype)
    chunks = [
        _sums(problem, keys, jnp.uint32(first), jnp.uint32(n), stream.chunk, free_cast)
        for first in range(0, n, stream.chunk)
    ]  # all are dispatched before the first is read
    value = np.sum([np.asarray(v, float) for v, _ in chunks], axis=0)
    slope = np.sum([np.asarray(s, float) for _, s in chunks], axis=0)
    cost = value[1] / value[0]
    cost_gradient = (slope[1] - cost * slope[0]) / value[0]
    offset, carried, square = (value[k::3] / n for k in (2, 3, 4))
    d_offset, d_carried, d_square = (slope[k::3] / n for k in (2, 3, 4))
    error = np.sqrt(np.maximum(square - carried**2, 0.0) / (n - 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        d_error = (d_square - 2.0 * carried[:, None] * d_carried) / (2.0 * (n - 1) * error[:, None])
    d_error = np.where(error[:, None] > 0.0, d_error, 0.0)
    return Evaluation(cost, cost_gradient, offset + carried, d_offset + d_carried, error, d_error)


@entry_point
def _outcomes(problem: Problem, parameters: Any, keys: Any, first: Any, paths: int) -> dict[str, Any]:
    return problem.model.sample(parameters, keys, first, paths)


def outcomes(
    problem: Problem, parameters: Mapping[str, Any], stream: Stream, first: int = 0, last: int | None = None
) -> dict[str, np.ndarray]:
    """Outcomes per path of the model that decides, for the paths `first` to `last - 1` of a stream, with weights.

    **Raises:** `InputError` if cost or constraints name an outcome that the model does not have.
    """
    last, keys = stream.paths if last is None else last, stream.keys
    wanted = {constraint.outcome for constraint in problem.constraints} | set(problem.cost)
    parts = []
    for start in range(first, last, stream.chunk):
        if problem.hard is None:
            drawn = _outcomes(problem, _cast_values(parameters), keys, jnp.uint32(start), stream.chunk)
        else:
            drawn = problem.hard.sample(parameters, keys, jnp.uint32(start), stream.chunk)
        if missing := wanted - drawn.keys():
            raise InputError(f"the model has no outcome {sorted(missing)}: expected some of {', '.join(sorted(drawn))}")
        kept = {name: np.asarray(drawn[name], float)[: last - start] for name in wanted}
        ones = np.ones(min(stream.chunk, last - start))
        parts.append(kept | {WEIGHT: np.asarray(drawn.get(WEIGHT, ones), float)[: last - start]})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _cast_values(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {name: jnp.asarray(value, jnp.zeros(()).dtype) for name, value in parameters.items()}


def judge(problem: Problem, parameters: Mapping[str, Any], stream: Stream) -> Judgement:
    """Cost and exact constrained quantities under the model that decides, each level at its best place."""
    return judgement(problem, outcomes(problem, parameters, stream))


def judgement(problem: Problem, drawn: Mapping[str, np.ndarray]) -> Judgement:
    """The same of outcomes that were drawn before."""
    weight = drawn[WEIGHT]
    cost = mean_cost(problem, drawn)
    value, error, levels = [], [], []
    for constraint in problem.constraints:
        x = drawn[constraint.outcome]
        placed = constraint.placed(x, weight)
        t = float(placed.level_at(jnp.zeros(())))
        carried = placed.exact(x, weight, t)
        value.append(float(placed.offset(t)) + carried.mean())
        error.append(carried.std(ddof=1) / np.sqrt(carried.size))
        levels.append(t)
    return Judgement(float(cost), np.array(value), np.array(error), np.array(levels))


def placed(problem: Problem, free: Float[np.ndarray, " free"], stream: Stream) -> Problem:
    """The problem with every level at its best place for the first paths under the variables' free numbers."""
    parameters = variables_.values(problem.variables, jnp.asarray(free, jnp.zeros(()).dtype))
    drawn = outcomes(problem, parameters, stream, last=min(_PLACING, stream.paths))
    constraints = tuple(c.placed(drawn[c.outcome], drawn[WEIGHT]) for c in problem.constraints)
    return checked(eqx.tree_at(lambda p: p.constraints, problem, constraints))


def mean_cost(problem: Problem, drawn: Mapping[str, np.ndarray]) -> float:
    """Mean cost of drawn outcomes, normalized by the mean weight."""
    weight = drawn[WEIGHT]
    return float(sum(price * np.sum(drawn[name] * weight) for name, price in problem.cost.items()) / np.sum(weight))
