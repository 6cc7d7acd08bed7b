"""Impact in proportion to volume."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from .._fields import AnyArray, Real, duration, real
from ._means import log_mean
from .base import AbstractImpact
from .depth import AbstractDepth


class Linear(AbstractImpact):
    """Log price falls in proportion to net forced sales, offset = coefficient * w.

    `coefficient` is the log fall when one depth has been sold. The fill is the exact average along the path,
    log((1 - e^-D) / D) for a sale that lowers log price by D. With `memory="inf y"` there is no profitable round trip.

    **Source:** Kyle (1985), "Continuous auctions and insider trading"; here in log price and over depth.
    """

    depth: AbstractDepth
    coefficient: Real = real(unit="1", least=0.0)  # () or (assets,)
    memory: Real = duration("60min")

    def mix(self) -> tuple[Float[AnyArray, " memories"], Float[AnyArray, " memories"]]:
        memory = jnp.reshape(self.memory, (1,))
        return memory, jnp.ones_like(memory)

    def curve(self, net: Float[Array, " assets"]) -> Float[Array, " assets"]:
        return self.coefficient * net

    def reach(self, net: Float[Array, " assets"], change: Float[Array, " assets"]) -> Float[Array, " assets"]:
        del net
        return linear_reach(self.coefficient, change)

    def average(self, net: Float[Array, " assets"], extra: Float[Array, " assets"]) -> Float[Array, " assets"]:
        del net
        return log_mean(self.coefficient * extra)


def linear_reach(slope: Real, change: Float[Array, " assets"]) -> Float[Array, " assets"]:
    """Sales that change the offset by `change` at a constant slope; +-inf where the slope is zero."""
    moves = slope > 0.0
    needed = change / jnp.where(moves, slope, 1.0)
    return jnp.where(moves | (change == 0.0), needed, jnp.sign(change) * jnp.inf)
