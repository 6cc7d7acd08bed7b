"""What a forced sale does to the price.

One state serves every law: the net forced volume w in units of the depth that was there when it was sold, decaying with
time. A law is a curve offset = g(w) (g(0) = 0, increasing), its inverse and the average price along it. Impact is
therefore charged over the accumulated volume and never per clip, a change of depth changes the impact of the next sale
and not of the past ones, and buying undoes selling.
"""

import abc
from collections.abc import Iterator
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._fields import AnyArray, InputError
from .._sums import short_sum
from ..market.base import Shock
from .depth import AbstractDepth


class ImpactState(NamedTuple):
    """sold: net forced sales over depth, one row per memory. resting: offset when the state was last relaxed."""

    sold: Float[Array, "memories assets"]
    depth: Any
    resting: Float[Array, " assets"]


class AbstractImpact(eqx.Module):
    """Log depression of the market price by forced flow, and the price at which the flow executes.

        w_k <- w_k exp(-dt / memory_k),    w_k <- w_k + volume / V_eff,    w = sum_k share_k w_k,    offset = g(w)

    Volumes are net selling in units (buying is negative), offsets are in log price (positive = depressed). A new law
    gives `mix`, `curve`, `reach` and `average`; all four are elementwise over assets.
    """

    depth: eqx.AbstractVar[AbstractDepth]

    @abc.abstractmethod
    def mix(self) -> tuple[Float[AnyArray, " memories"], Float[AnyArray, " memories"]]:
        """Memories in years (inf = permanent) and their shares of impact, which sum to one."""

    @abc.abstractmethod
    def curve(self, net: Float[Array, " assets"]) -> Float[Array, " assets"]:
        """g(w): offset at net sales w over depth; finite slope everywhere."""

    @abc.abstractmethod
    def reach(self, net: Float[Array, " assets"], change: Float[Array, " assets"]) -> Float[Array, " assets"]:
        """The extra sales over depth that change the offset by `change` (finite, either sign); +-inf if none do."""

    @abc.abstractmethod
    def average(self, net: Float[Array, " assets"], extra: Float[Array, " assets"]) -> Float[Array, " assets"]:
        """log of (average price / price before) when `extra` over depth is sold from w; 0 at extra = 0.

        log( (1/u) int_0^u exp(g(w) - g(w + v)) dv )
        """

    def init(self, assets: int, dtype: Any) -> ImpactState:
        """No forced flow yet."""
        rest = jnp.zeros(assets, dtype)
        return ImpactState(jnp.zeros((self.mix()[0].shape[0], assets), dtype), self.depth.init(assets, dtype), rest)

    def relax(self, state: ImpactState, shock: Shock, dt: Float[Array, ""]) -> ImpactState:
        """Impact decays, depth sees what the market price did since the last call; once per step, before pushes."""
        memory, _ = self.mix()
        sold = state.sold * jnp.exp(-dt / memory)[:, None]
        resting = self.curve(self._net(sold))
        log_return = shock.log_return - (resting - state.resting)
        return ImpactState(sold, self.depth.relax(state.depth, log_return, shock.crash, dt), resting)

    def offset(self, state: ImpactState) -> Float[Array, " assets"]:
        """Log depression of the price now."""
        return self.curve(self._net(state.sold))

    def push(self, state: ImpactState, volume: Float[Array, " assets"]) -> ImpactState:
        """Adds net forced sales in units."""
        extra = volume / self.depth.effective(state.depth)
        return state._replace(sold=state.sold + extra[None, :])

    def fill(self, state: ImpactState, volume: Float[Array, " assets"]) -> Float[Array, " assets"]:
        """log of (average execution price / price before) along the path of the volume; 0 where the volume is 0."""
        return self.average(self._net(state.sold), volume / self.depth.effective(state.depth))

    def room(self, state: ImpactState, drop: Float[Array, " assets"]) -> Float[Array, " assets"]:
        """Net sales >= 0 that move the log price down by `drop` >= 0; inf where no amount does."""
        return self._room(state, drop, 1.0)

    def room_up(self, state: ImpactState, rise: Float[Array, " assets"]) -> Float[Array, " assets"]:
        """Net purchases >= 0 that move the log price up by `rise` >= 0; inf where no amount does."""
        return self._room(state, rise, -1.0)

    def _net(self, sold: Float[Array, "memories assets"]) -> Float[Array, " assets"]:
        return short_sum(self.mix()[1][:, None] * sold)

    def _room(self, state: ImpactState, change: Float[Array, " assets"], side: float) -> Float[Array, " assets"]:
        finite = jnp.isfinite(change)  # an infinite room must not send nan into tangents
        extra = self.reach(self._net(state.sold), side * jnp.where(finite, change, 0.0))
        room = jnp.maximum(side * extra, 0.0) * self.depth.effective(state.depth)
        return jnp.where(finite, room, jnp.inf)


def require_equal_shapes(owner: Any, first: str, second: str) -> None:
    """Refuses two fields that should have one entry per memory and do not."""
    shapes = [np.shape(getattr(owner, name)) for name in (first, second)]
    if shapes[0] != shapes[1] or len(shapes[0]) > 1:
        raise InputError(
            f"{type(owner).__name__}: {first} has shape {shapes[0]} and {second} has shape {shapes[1]}; "
            f"give one number each, or one list each with an entry per memory"
        )


def share_complaints(share: Any) -> Iterator[tuple[str, str]]:
    """Says when shares of impact do not sum to one."""
    total = float(np.sum(np.asarray(share)))
    if abs(total - 1.0) > 1e-6:
        yield "share", f"shares sum to {total:g}, expected 1; divide them by their sum"
