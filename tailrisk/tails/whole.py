"""A problem of few steps as a problem of one, so that a law of sampling sees all normals of a path at once."""

from typing import Any

import equinox as eqx
from jaxtyping import Array, Float, PyTree

from .._fields import InputError
from .._streams import MAX_DRAWS, Draws, Noise
from ..simulate import rollout
from .problem import AbstractProblem, Roles


class Whole(AbstractProblem):
    """Another problem in one step, whose normals and uniforms are those of all its steps, one step after the other."""

    problem: AbstractProblem
    steps: int = eqx.field(static=True)
    dtype: Any = eqx.field(static=True)

    def __init__(self, problem: AbstractProblem):
        self.problem, self.steps, self.dtype = problem, 1, problem.dtype
        if max(self.draws) > MAX_DRAWS:
            raise InputError(
                f"{problem.steps} steps of {problem.draws}: expected at most {MAX_DRAWS} normals in all; "
                "use CrossEntropy, whose tilt follows the path, where there are many steps"
            )

    @property
    def draws(self) -> Draws:
        return Draws(*(self.problem.steps * count for count in self.problem.draws))

    @property
    def roles(self) -> Roles:
        return Roles()

    def init(self) -> PyTree:
        return self.problem.init()

    def step(self, state: PyTree, noise: Noise) -> tuple[PyTree, PyTree]:
        del state  # that of the start, from where the path runs to its end
        normal, uniform = (x.reshape(self.problem.steps, -1) for x in noise)
        return rollout(self.problem, lambda step: Noise(normal[step], uniform[step]))

    def place(self, state: PyTree) -> Float[Array, ""]:
        return self.problem.place(state)

    def score(self, state: PyTree) -> Float[Array, ""]:
        return self.problem.score(state)

    def chance(self, state: PyTree, noise: Noise, event: int) -> Float[Array, ""]:
        raise InputError("a path in one step has no events; its roles name none")

    def outcome(self, state: PyTree) -> dict[str, Any]:
        return self.problem.outcome(state)
