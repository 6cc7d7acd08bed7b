"""Impact with any exponent, charged along the path."""

from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._fields import AnyArray, Real, duration, real
from .base import AbstractImpact, require_equal_shapes, share_complaints
from .depth import AbstractDepth

_NODES = 8  # on each side of w = 0
_POINTS, _WEIGHTS = (tuple(column.tolist()) for column in np.polynomial.legendre.leggauss(_NODES))


class Power(AbstractImpact):
    """Log price falls with a power of net forced sales, offset = sign(w) Y sigma ((|w| + core)^gamma - core^gamma).

    `volatility` is per day, depth a day's volume, `core` (in days' volume) makes the slope at zero finite. The fill is
    a Gauss-Legendre average in (|w| + core)^(1/4), in which the curve is smooth: for exponents 0.3 to 0.8 the average
    price is right to 1e-8 (relative) while price moves by less than a factor of two, to 1e-6 while it moves by less
    than e. At gamma = 1/2 `SquareRoot` is the same law, exact and several times faster. `memory` may be a list, with
    `share` the weight of each.

    **Source:** Almgren, Thum, Hauptmann, Li (2005) find gamma = 0.6 for the temporary part; the law of parent orders
    has 0.4 to 0.7, e.g. Bouchaud, Farmer, Lillo (2009). **Simplified:** decay acts on volume, not on price.
    """

    depth: AbstractDepth
    prefactor: Real = real(1.0, unit="1", least=0.0)  # Y
    volatility: Real = real(0.035, unit="1/sqrt(day)", least=0.0)  # sigma
    exponent: Real = real(0.5, unit="1", above=0.0, most=2.0)  # gamma
    core: Real = real(1e-6, unit="1", above=0.0)
    memory: Real = duration("60min")  # () or (memories,)
    share: Real = real(1.0, unit="1", least=0.0)  # like memory; sums to one

    def __check_init__(self):
        require_equal_shapes(self, "memory", "share")

    def check(self) -> Iterator[tuple[str, str]]:
        yield from share_complaints(self.share)

    def mix(self) -> tuple[Float[AnyArray, " memories"], Float[AnyArray, " memories"]]:
        return jnp.atleast_1d(self.memory), jnp.atleast_1d(self.share)

    def curve(self, net: Float[Array, " assets"]) -> Float[Array, " assets"]:
        size = jnp.where(net < 0.0, -net, net)  # unlike abs, has a slope at zero
        rise = self._edge() * jnp.expm1(self.exponent * jnp.log1p(size / self.core))
        return jnp.where(net < 0.0, -rise, rise)

    def reach(self, net: Float[Array, " assets"], change: Float[Array, " assets"]) -> Float[Array, " assets"]:
        edge = self._edge()
        moves = edge > 0.0
        after = self.curve(net) + change
        rise = jnp.where(after < 0.0, -after, after) / jnp.where(moves, edge, 1.0)
        size = self.core * jnp.expm1(jnp.log1p(rise) / self.exponent)
        extra = jnp.where(after < 0.0, -size, size) - net
        return jnp.where(moves, extra, jnp.where(change == 0.0, 0.0, jnp.sign(change) * jnp.inf))

    def average(self, net: Float[Array, " assets"], extra: Float[Array, " assets"]) -> Float[Array, " assets"]:
        end = net + extra
        across = net * end < 0.0  # the path passes w = 0: average each side on its own
        start_root, end_root, edge_root = self._root(net), self._root(end), self._root(jnp.zeros_like(net))
        turn_root = jnp.where(across, edge_root, start_root)
        side = jnp.where(across | (net == 0.0), jnp.where(end < 0.0, -1.0, 1.0), jnp.where(net < 0.0, -1.0, 1.0))
        mean = self._panel(turn_root, end_root, side.astype(net.dtype))
        mean_to_zero = self._panel(start_root, jnp.where(across, edge_root, start_root), -side.astype(net.dtype))
        at_turn = jnp.expm1(jnp.where(across, self.curve(net), 0.0))
        weight = jnp.where(across, -net, 0.0) / jnp.where(across, extra, 1.0)
        return jnp.log1p(weight * mean_to_zero + (1.0 - weight) * (at_turn + mean + at_turn * mean))

    def _edge(self) -> Real:
        return self.prefactor * self.volatility * self.core**self.exponent

    def _root(self, net: Float[Array, " assets"]) -> Float[Array, " assets"]:
        return jnp.sqrt(jnp.sqrt(jnp.abs(net) + self.core))

    def _panel(
        self, start: Float[Array, " assets"], end: Float[Array, " assets"], side: Float[Array, " assets"]
    ) -> Float[Array, " assets"]:
        """Average price over the first, less 1, while (|w| + core)^(1/4) goes from `start` to `end` on one side."""
        scale, power = self.prefactor * self.volatility, 4.0 * self.exponent
        level = jnp.exp(power * jnp.log(start))
        total = jnp.zeros_like(start)
        for point, weight in zip(_POINTS, _WEIGHTS, strict=True):
            root = start + (0.5 + 0.5 * point) * (end - start)
            fall = scale * (jnp.exp(power * jnp.log(root)) - level)
            total = total + weight * root * root * root * jnp.expm1(-side * fall)
        return 2.0 * total / ((start + end) * (start * start + end * end))
