"""What an estimator of rare events asks of a system: where a path is, how far it came, and what its noise decides."""

import abc
from typing import Any, NamedTuple

from jaxtyping import Array, Float, PyTree

from .._streams import Draws, Noise
from ..simulate import AbstractSystem

ALWAYS = -1  # in place of an event: the number is used in every step


class Roles(NamedTuple):
    """What the numbers of a step do, so that a tilt knows how to move them (structural).

    Normals that are not named are used in every step; uniforms that are not named are left as they are.
    """

    events: tuple[int, ...] = ()
    """Uniforms below whose chance something happens; a later one may depend on an earlier one of the same step."""
    marks: tuple[tuple[int, int], ...] = ()
    """(normal, number of its event): used only in a step in which the event happens."""
    sizes: tuple[tuple[int, int], ...] = ()
    """(uniform, number of its event or ALWAYS): the smaller, the larger an effect, as in -log u."""

    def free(self, draws: Draws) -> tuple[int, ...]:
        """Normals used in every step."""
        return tuple(i for i in range(draws.normals) if i not in {normal for normal, _ in self.marks})


class AbstractProblem(AbstractSystem):
    """A system whose paths move towards an event; it still knows no finance.

    The `score` of a state never falls along a path, and is one of its outcomes.
    """

    @property
    @abc.abstractmethod
    def roles(self) -> Roles:
        """What the numbers of a step do."""

    @abc.abstractmethod
    def place(self, state: PyTree) -> Float[Array, ""]:
        """Where the path is, in the units of the score."""

    @abc.abstractmethod
    def score(self, state: PyTree) -> Float[Array, ""]:
        """How far the path came so far."""

    @abc.abstractmethod
    def chance(self, state: PyTree, noise: Noise, event: int) -> Float[Array, ""]:
        """Chance of the event with this number in the step after the state; it may read earlier uniforms of the step."""

    @abc.abstractmethod
    def outcome(self, state: PyTree) -> dict[str, Any]:
        """Named numbers of a finished path, `score` among them."""
