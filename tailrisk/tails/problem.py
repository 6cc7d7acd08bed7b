"""What an estimator of rare events asks of a system: where a path is, how far it came, and what its noise decides."""

import abc
from typing import Any

from jaxtyping import Array, Float, PyTree

from .._streams import ALWAYS as ALWAYS
from .._streams import Noise
from .._streams import Roles as Roles
from ..simulate import AbstractSystem


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
