"""Systems that ride on the walk of a ladder: a score beside it, or several walks on the same noise."""

from typing import TYPE_CHECKING

import equinox as eqx

from ..simulate import AbstractSystem, AbstractWrapper
from .walk import LadderWalk


class AbstractCompanion(AbstractWrapper):
    """A system with the steps, the precision and the noise of its `walk`."""

    walk: eqx.AbstractVar[LadderWalk]

    if TYPE_CHECKING:  # a type checker takes the property below for an argument
        system: AbstractSystem = eqx.field(init=False)
    else:

        @property
        def system(self) -> AbstractSystem:
            """The walk."""
            return self.walk
