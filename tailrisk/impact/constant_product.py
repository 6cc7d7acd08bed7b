"""An automated pool as the only place to sell."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from .._fields import AnyArray, Real, duration, real
from .base import AbstractImpact
from .depth import AbstractDepth

_LEFT = 1e-6  # smallest share of its reserve that a pool can be left with


class ConstantProduct(AbstractImpact):
    """A constant-product pool, offset = 2 log(1 + w): depth is its reserve of the asset, w net sales over the reserve.

    The average price of a sale u from w is (1 + w) / (1 + w + u) of the price before. `fee` is charged in money,
    outside the pool: sellers get a share 1 - fee of it, buyers pay 1 / (1 - fee). `memory` is how fast arbitrage brings
    the pool back to the outside price. A pool cannot be emptied: buying stops moving the price when a millionth of the
    reserve is left (a price of 1e12 times), which marks such a path unmistakably without a number that is not finite.

    **Source:** Uniswap v2 (Adams, Zinsmeister, Robinson 2020). **Simplified:** there the fee is taken on the incoming
    token and stays in the reserves; see `execution.constant_product_out` for the integer rule.
    """

    depth: AbstractDepth
    fee: Real = real(0.003, unit="1", least=0.0, below=1.0)
    memory: Real = duration("60min")

    def mix(self) -> tuple[Float[AnyArray, " memories"], Float[AnyArray, " memories"]]:
        memory = jnp.reshape(self.memory, (1,))
        return memory, jnp.ones_like(memory)

    def curve(self, net: Float[Array, " assets"]) -> Float[Array, " assets"]:
        return 2.0 * jnp.log1p(jnp.maximum(net, _LEFT - 1.0))

    def reach(self, net: Float[Array, " assets"], change: Float[Array, " assets"]) -> Float[Array, " assets"]:
        return (1.0 + jnp.maximum(net, _LEFT - 1.0)) * jnp.expm1(0.5 * change)

    def average(self, net: Float[Array, " assets"], extra: Float[Array, " assets"]) -> Float[Array, " assets"]:
        grown = extra / (1.0 + jnp.maximum(net, _LEFT - 1.0))
        return jnp.sign(extra) * jnp.log1p(-self.fee) - jnp.log1p(jnp.maximum(grown, _LEFT - 1.0))
