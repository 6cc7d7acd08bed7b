"""The chance of the event from where a path is, on a table of a surrogate, as the score of splitting.

A path with jumps that is far may be nearer to the event than one that is close late: what counts is the committor

    h(t, x) = P(event | state x before step t),     h = 1 in the event,     h(t, x) = E[h(t + 1, x')],

which is what levels should be made of. Here it comes from a surrogate whose state is two numbers, by backward recursion on a grid
with Gauss-Hermite nodes for the noise, bilinear in ln h. A wrong table costs work, never bias.

**Source:** Garvels, Ott, Rubinstein (2002), "On the importance function in splitting simulation".
"""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from .._fields import InputError
from .._streams import Draws, Noise, middle
from ..simulate import entry_point
from .problem import AbstractProblem, Roles

FLOOR = -40.0  # ln h of what never gets there


class Grid(NamedTuple):
    """Equally spaced points of two coordinates, as (first, last, count) of each."""

    first: tuple[float, float, int]
    second: tuple[float, float, int]

    def points(self) -> tuple[np.ndarray, np.ndarray]:
        return np.linspace(*self.first), np.linspace(*self.second)


class Guided(AbstractProblem):
    """A problem whose score is the largest ln h so far: it is 0 in the event, so the target is `Probability(0.0)`."""

    problem: AbstractProblem
    level: Float[Array, ""]
    table: Float[Array, "times first second"]
    origin: Float[Array, "2"]
    spacing: Float[Array, "2"]
    coordinates: Callable[[Any], tuple[Any, Any]] = eqx.field(static=True)
    steps: int = eqx.field(static=True)
    dtype: Any = eqx.field(static=True)

    @property
    def draws(self) -> Draws:
        return self.problem.draws

    @property
    def roles(self) -> Roles:
        return self.problem.roles

    def init(self) -> tuple[PyTree, Any, Any]:
        state = self.problem.init()
        return state, jnp.zeros((), jnp.int32), self._log_committor(state, jnp.zeros((), jnp.int32))

    def step(self, state: Any, noise: Noise) -> tuple[Any, PyTree]:
        path, step, best = state
        path, shown = self.problem.step(path, noise)
        return (path, step + 1, jnp.maximum(best, self._log_committor(path, step + 1))), shown

    def _log_committor(self, path: PyTree, step: Any) -> Float[Array, ""]:
        _, rows, columns = self.table.shape
        (i, u), (j, v) = (
            _cell((x - first) / gap, count)
            for x, first, gap, count in zip(
                self.coordinates(path), self.origin, self.spacing, (rows, columns), strict=True
            )
        )
        flat, at = self.table.reshape(-1), (step * rows + i) * columns + j
        near = (1.0 - v) * flat[at] + v * flat[at + 1]
        far = (1.0 - v) * flat[at + columns] + v * flat[at + columns + 1]
        # below zero before the event, however the table is off
        before = jnp.minimum((1.0 - u) * near + u * far, -1e-3)
        return jnp.where(self.problem.score(path) >= self.level, jnp.zeros_like(before), before)

    def place(self, state: Any) -> Float[Array, ""]:
        return self._log_committor(state[0], state[1])

    def score(self, state: Any) -> Float[Array, ""]:
        return state[2]

    def chance(self, state: Any, noise: Noise, event: int) -> Float[Array, ""]:
        return self.problem.chance(state[0], noise, event)

    def outcome(self, state: Any) -> dict[str, Any]:
        return self.problem.outcome(state[0]) | {"score": state[2]}


def _cell(x: Any, count: int) -> tuple[Any, Any]:
    """The cell of a coordinate in units of the spacing, and how far it is in it; outside the grid its edge counts."""
    x = jnp.clip(x, 0.0, count - 1.0)
    cell = jnp.minimum(jnp.floor(x), count - 2.0)
    return cell.astype(jnp.int32), x - cell


def quadrature(problem: AbstractProblem, points: int = 16) -> tuple[Noise, np.ndarray]:
    """Noise of a step with weights: Gauss-Hermite nodes for normals, both cells of each event; marks only where it happens."""
    roles, node = problem.roles, np.polynomial.hermite_e.hermegauss(points)
    x, weight = node[0], node[1] / node[1].sum()
    nothing = middle(problem.draws, problem.dtype)
    chances = [float(problem.chance(problem.init(), nothing, k)) for k in range(len(roles.events))]
    normals, uniforms, weights = [], [], []
    for happens in itertools.product((False, True), repeat=len(chances)):
        used = [*roles.free(problem.draws), *(normal for normal, event in roles.marks if happens[event])]
        for chosen in itertools.product(range(points), repeat=len(used)):
            normal, uniform, mass = np.zeros(problem.draws.normals), np.full(problem.draws.uniforms, 0.5), 1.0
            for place, k in zip(used, chosen, strict=True):
                normal[place], mass = x[k], mass * weight[k]
            for place, chance, yes in zip(roles.events, chances, happens, strict=True):
                uniform[place], mass = (
                    (0.5 * chance, mass * chance) if yes else (0.5 + 0.5 * chance, mass * (1.0 - chance))
                )
            normals.append(normal)
            uniforms.append(uniform)
            weights.append(mass)
    return Noise(np.array(normals), np.array(uniforms)), np.array(weights)  # pyright: ignore[reportArgumentType]


def _moves(surrogate: AbstractProblem, make: Any, coordinates: Any, noise: Noise, a: Any, b: Any) -> Any:
    def one(a: Any, b: Any, noise: Noise) -> Any:
        state, _ = surrogate.step(make(a, b), noise)
        return *coordinates(state), surrogate.score(state)

    return jax.vmap(jax.vmap(one, (None, None, 0)), (0, 0, None))(a, b, noise)


_jitted = entry_point(_moves)


def guided(
    problem: AbstractProblem,
    surrogate: AbstractProblem,
    level: float,
    grid: Grid,
    coordinates: Callable[[Any], tuple[Any, Any]],
    make: Callable[[Any, Any], Any],
    points: int = 16,
) -> Guided:
    """A problem with the committor of a surrogate for `score >= level`.

    `coordinates` of a state of either; `make` a state of the surrogate from them. Chances of events must not depend on the state.
    """
    if surrogate.steps != problem.steps or surrogate.draws != problem.draws:
        raise InputError(
            f"the surrogate has {surrogate.steps} steps of {surrogate.draws}, the problem {problem.steps} of {problem.draws}; "
            "both must use the same noise"
        )
    first, second = grid.points()
    a, b = (x.reshape(-1) for x in np.meshgrid(first, second, indexing="ij"))
    noise, weight = quadrature(surrogate, points)
    dtype = surrogate.dtype
    arrays = jax.tree.map(lambda x: jnp.asarray(x.astype(dtype)), (noise, a, b))
    *after, score = (np.asarray(x, float) for x in _jitted(surrogate, make, coordinates, *arrays))
    hit = score >= level
    x, y = (
        np.clip((place - axis[0]) / (axis[1] - axis[0]), 0.0, axis.size - 1.0)
        for place, axis in zip(after, (first, second), strict=True)
    )
    i, j = (np.minimum(np.floor(c), axis.size - 2).astype(int) for c, axis in ((x, first), (y, second)))
    u, v, at = x - i, y - j, i * second.size + j
    there = np.asarray(jax.vmap(lambda a, b: surrogate.score(make(a, b)))(*arrays[1:])) >= level
    now = np.where(there, 0.0, FLOOR)
    table = [now]
    for _ in range(problem.steps):
        near = (1.0 - v) * now[at] + v * now[at + 1]
        far = (1.0 - v) * now[at + second.size] + v * now[at + second.size + 1]
        chance = np.where(hit, 1.0, np.exp((1.0 - u) * near + u * far)) @ weight
        now = np.where(there, 0.0, np.maximum(np.log(np.maximum(chance, 1e-300)), FLOOR))
        table.append(now)
    shaped = np.stack(table[::-1]).reshape(-1, first.size, second.size)
    steps = np.array([first[1] - first[0], second[1] - second[0]])
    numbers = (np.asarray(level), shaped, np.array([first[0], second[0]]), steps)
    level_, table_, origin, spacing = (jnp.asarray(x.astype(problem.dtype)) for x in numbers)
    return Guided(
        problem=problem,
        level=level_,
        table=table_,
        origin=origin,
        spacing=spacing,
        coordinates=coordinates,
        steps=problem.steps,
        dtype=problem.dtype,
    )
