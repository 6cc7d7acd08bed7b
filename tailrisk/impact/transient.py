"""Linear impact that decays as a sum of exponentials."""

from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._fields import AnyArray, Real, duration, real
from ._means import log_mean
from .base import AbstractImpact, require_equal_shapes
from .depth import AbstractDepth
from .linear import linear_reach


class Transient(AbstractImpact):
    """Linear propagator, offset_t = sum over past sales of G(t - s) volume_s / V_eff, G(t) = sum_k weight_k exp(-t /
    memory_k).

    `weights` are log falls when one depth is sold, `memories` years (inf = permanent); both (memories,). One finite
    memory is the model of Obizhaeva and Wang; an infinite one beside it adds permanent impact. A kernel that falls and
    is convex, as this one, leaves no profitable round trip when impact is small.

    **Source:** Bouchaud, Gefen, Potters, Wyart (2004); Obizhaeva and Wang (2013), "Optimal trading strategy and
    supply/demand dynamics".
    """

    depth: AbstractDepth
    weights: Real = real(unit="1", least=0.0)  # (memories,)
    memories: Real = duration()  # (memories,)

    def __check_init__(self):
        require_equal_shapes(self, "weights", "memories")

    def check(self) -> Iterator[tuple[str, str]]:
        if float(np.sum(np.asarray(self.weights))) <= 0.0:
            yield (
                "weights",
                "all weights are zero, expected at least one > 0; use a Linear law with coefficient 0 instead",
            )

    def mix(self) -> tuple[Float[AnyArray, " memories"], Float[AnyArray, " memories"]]:
        weights = jnp.atleast_1d(self.weights)
        return jnp.atleast_1d(self.memories), weights / jnp.sum(weights)

    def curve(self, net: Float[Array, " assets"]) -> Float[Array, " assets"]:
        return jnp.sum(self.weights) * net

    def reach(self, net: Float[Array, " assets"], change: Float[Array, " assets"]) -> Float[Array, " assets"]:
        del net
        return linear_reach(jnp.sum(self.weights), change)

    def average(self, net: Float[Array, " assets"], extra: Float[Array, " assets"]) -> Float[Array, " assets"]:
        del net
        return log_mean(jnp.sum(self.weights) * extra)
