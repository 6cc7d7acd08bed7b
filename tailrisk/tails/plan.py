"""What a run keeps of its weighted paths."""

import dataclasses
import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._fields import InputError
from .sums import GROUP, LANES
from .tail_index import MOST

TOP = MOST + 1


class Integrand(NamedTuple):
    """A function of x whose mean is wanted: "weight" (1), "mean" (x), "above" (1{x >= level}), "excess" ((x - level)+).

    `unit` is a typical size of y = w f(x) for paths that count; its power of two is divided out, so that fourth powers stay
    within float32 for events of any probability.
    """

    kind: str
    level: float = 0.0
    unit: float = 1.0

    def __call__(self, x: Array) -> Array:
        match self.kind:
            case "weight":
                return jnp.ones_like(x)
            case "mean":
                return x
            case "above":
                return (x >= self.level).astype(x.dtype)
            case "excess":
                return jnp.maximum(x - self.level, 0.0)
        raise InputError(f"kind = {self.kind!r}: expected weight, mean, above or excess")


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a summary keeps (structural); summaries merge only if their plans, `tag` of the sampling law included, agree.

    `batches`: classes of path number modulo a power of two. `top`: largest |y| kept, by default all that the
    tail index asks for. `reservoir`: largest x kept with their weights. `lowest`: where the bins of the histogram begin, 0 for
    no histogram. `controls`: columns of control variates. `groups`: each of so many groups of 64 paths in turn comes from one law
    of a mixture, so that errors are those within groups; one where all paths come from one law.
    """

    integrands: tuple[Integrand, ...]
    batches: int = 64
    top: int = TOP
    reservoir: int = 0
    lowest: float = 0.0
    controls: int = 0
    groups: int = 1
    tag: str = ""

    def __post_init__(self):
        if self.batches < 2 or self.batches & (self.batches - 1) or self.batches > LANES:
            raise InputError(f"batches = {self.batches}: expected a power of two from 2 to {LANES}")
        if self.lowest < 0.0 or (self.lowest and math.frexp(self.lowest)[0] != 0.5):
            raise InputError(f"lowest = {self.lowest}: expected a power of two, for example 2.0**-20, or 0")
        if any(integrand.kind == "weight" for integrand in self.integrands):
            raise InputError('integrands: the kind "weight" is always kept; leave it out')
        if self.groups < 1:
            raise InputError(f"groups = {self.groups}: expected at least one")

    @property
    def rows(self) -> tuple[Integrand, ...]:
        """The weight itself and then the integrands."""
        return (Integrand("weight"), *self.integrands)

    @property
    def period(self) -> int:
        """Path numbers after which batches and groups repeat; a chunk begins at a multiple of it."""
        return self.batches if self.groups == 1 else math.lcm(self.batches, GROUP * self.groups)

    @property
    def units(self) -> np.ndarray:
        """Powers of two that are divided out of the rows."""
        return np.array([_power_of_two(row.unit) for row in self.rows])


def _power_of_two(unit: float) -> float:
    return 2.0 ** round(math.log2(unit))
