"""Systems that ride on the walk of a ladder: a score beside it, or several walks on the same noise."""

from typing import TYPE_CHECKING, Any

import equinox as eqx

from .._streams import Draws
from ..simulate import AbstractSystem
from .walk import LadderWalk


class AbstractCompanion(AbstractSystem):
    """A system with the steps, the precision and the noise of its `walk`."""

    walk: eqx.AbstractVar[LadderWalk]

    if TYPE_CHECKING:  # a type checker takes the properties below for arguments
        steps: int = eqx.field(init=False)
        dtype: Any = eqx.field(init=False)
    else:

        @property
        def steps(self) -> int:
            """Steps of the walk."""
            return self.walk.steps

        @property
        def dtype(self) -> Any:
            """Precision of the walk."""
            return self.walk.dtype

    @property
    def draws(self) -> Draws:
        """Noise of the walk."""
        return self.walk.draws
