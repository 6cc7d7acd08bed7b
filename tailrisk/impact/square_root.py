"""The square-root law, charged along the path."""

from collections.abc import Iterator

import jax.numpy as jnp
from jaxtyping import Array, Float

from .._fields import AnyArray, Real, duration, real
from ._means import moments
from .base import AbstractImpact, require_equal_shapes, share_complaints
from .depth import AbstractDepth


class SquareRoot(AbstractImpact):
    """Log price falls with the root of net forced sales, offset = sign(w) Y sigma (sqrt(|w| + core) - sqrt(core)).

    `volatility` is per day and depth is a day's volume; `core` (in days' volume, the size at the top of the book) makes
    the slope at zero finite. The fill is exact: in r = offset / (Y sigma) price falls exponentially and volume is
    quadratic, so the average is a closed form on each side of w = 0. `memory` may be a list, with `share` the weight of
    each.

    **Source:** the empirical law of parent orders, e.g. Bouchaud, Farmer, Lillo (2009). **Simplified:** decay acts on
    volume, not on price, so a half-decayed sale keeps 71 % of its impact.
    """

    depth: AbstractDepth
    prefactor: Real = real(1.0, unit="1", least=0.0)  # Y
    volatility: Real = real(0.035, unit="1/sqrt(day)", least=0.0)  # sigma
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
        return self.prefactor * self.volatility * self._root(net)

    def reach(self, net: Float[Array, " assets"], change: Float[Array, " assets"]) -> Float[Array, " assets"]:
        scale = self.prefactor * self.volatility
        moves = scale > 0.0
        before, edge = self._root(net), jnp.sqrt(self.core)
        step = change / jnp.where(moves, scale, 1.0)
        after = before + step
        # w = r (|r| + 2 edge); the difference of two such values, without subtracting near-equal squares
        same_side = step * (jnp.abs(before) + jnp.abs(after))
        across = jnp.sign(step) * (before * before + after * after)
        extra = jnp.where(before * after < 0.0, across, same_side) + 2.0 * edge * step
        return jnp.where(moves | (change == 0.0), extra, jnp.sign(change) * jnp.inf)

    def average(self, net: Float[Array, " assets"], extra: Float[Array, " assets"]) -> Float[Array, " assets"]:
        scale, edge, end = self.prefactor * self.volatility, jnp.sqrt(self.core), net + extra
        across = net * end < 0.0  # the path passes w = 0: average each side on its own
        start_root, end_root = jnp.sqrt(jnp.abs(net) + self.core), jnp.sqrt(jnp.abs(end) + self.core)
        turn_root = jnp.where(across, edge, start_root)
        to_zero = jnp.where(across, -net, 0.0)
        drop_to_zero = scale * to_zero / (start_root + edge)
        drop = scale * (extra - to_zero) / (turn_root + end_root)
        mean_to_zero, at_turn = _panel(start_root, edge, drop_to_zero)
        mean, _ = _panel(turn_root, end_root, drop)
        weight = to_zero / jnp.where(across, extra, 1.0)
        return jnp.log1p(weight * mean_to_zero + (1.0 - weight) * (at_turn + mean + at_turn * mean))

    def _root(self, net: Float[Array, " assets"]) -> Float[Array, " assets"]:
        return net / (jnp.sqrt(jnp.abs(net) + self.core) + jnp.sqrt(self.core))


def _panel(
    start: Float[Array, " assets"], end: Float[Array, "..."], drop: Float[Array, " assets"]
) -> tuple[Float[Array, " assets"], Float[Array, " assets"]]:
    """Average and last price over the first, less 1, when volume per log price goes evenly from 2 start to 2 end."""
    zeroth, first = moments(drop)
    return 2.0 * (start * zeroth + (end - start) * first) / (start + end), -drop * (1.0 + zeroth)
