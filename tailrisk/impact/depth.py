"""How much volume the market absorbs: the scale that turns forced units into impact."""

import abc
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._fields import Real, duration, real


class AbstractDepth(eqx.Module):
    """Effective depth of each asset, in units of the asset."""

    @abc.abstractmethod
    def init(self, assets: int, dtype: Any) -> Any:
        """The state before the first step."""

    @abc.abstractmethod
    def relax(
        self, state: Any, log_return: Float[Array, " assets"], crash: Float[Array, ""], dt: Float[Array, ""]
    ) -> Any:
        """One step later; `log_return` is what the market price did since the last call, news and forced flow."""

    @abc.abstractmethod
    def effective(self, state: Any) -> Float[Array, " assets"]:
        """Depth now, units."""


class ConstantDepth(AbstractDepth):
    """Depth that never changes, V_eff = V.

    `volume` is the scale the impact law is written in: a day's volume for the square-root law, the reserve for a pool;
    one number for all assets or one per asset. Wrong in a crash, where makers withdraw: see `EvaporatingDepth`.
    """

    volume: Real = real(unit="units", above=0.0, infinite=True)  # () or (assets,)

    def init(self, assets: int, dtype: Any) -> Float[Array, "0 assets"]:
        return jnp.zeros((0, assets), dtype)  # holds nothing; remembers how many assets there are

    def relax(
        self, state: Any, log_return: Float[Array, " assets"], crash: Float[Array, ""], dt: Float[Array, ""]
    ) -> Any:
        del log_return, crash, dt
        return state

    def effective(self, state: Any) -> Float[Array, " assets"]:
        return jnp.broadcast_to(self.volume, state.shape[1:])


class EvaporatingState(NamedTuple):
    """variance: realized, 1/year. withdrawn: share of depth pulled in a crash. share: effective over normal depth."""

    variance: Float[Array, " assets"]
    withdrawn: Float[Array, ""]
    share: Float[Array, " assets"]


class EvaporatingDepth(AbstractDepth):
    """Depth that shrinks when the market moves and when makers withdraw in a crash.

        V_eff = V max(floor, exp(-a max(RV / RVbar - 1, 0)) (1 - h))
        RV <- RV + (1 - exp(-dt / memory)) (r^2 / dt - RV),    h <- max(h exp(-dt / recovery), crash_loss * crash)

    r is the return of the market price, so forced flow itself makes depth evaporate. RVbar = reference^2 (volatility
    per square root of a year). RV starts at RVbar and h at 0.

    **Simplified:** h is one number for all assets, and depth does not differ between the two sides of the book.
    """

    volume: Real = real(unit="units", above=0.0, infinite=True)  # () or (assets,)
    sensitivity: Real = real(1.5, unit="1", least=0.0)  # a
    floor: Real = real(0.02, unit="1", above=0.0, most=1.0)
    memory: Real = duration("60min")
    reference: Real = real(0.7, unit="1/sqrt(year)", above=0.0)
    crash_loss: Real = real(0.8, unit="1", least=0.0, most=1.0)
    recovery: Real = duration("30min")

    def init(self, assets: int, dtype: Any) -> EvaporatingState:
        calm = jnp.broadcast_to(self.reference * self.reference, (assets,)).astype(dtype)
        return EvaporatingState(calm, jnp.zeros((), dtype), jnp.ones(assets, dtype))

    def relax(
        self, state: Any, log_return: Float[Array, " assets"], crash: Float[Array, ""], dt: Float[Array, ""]
    ) -> EvaporatingState:
        weight = -jnp.expm1(-dt / self.memory)
        variance = state.variance + weight * (log_return * log_return / dt - state.variance)
        withdrawn = jnp.maximum(state.withdrawn * jnp.exp(-dt / self.recovery), self.crash_loss * crash)
        excess = jnp.maximum(variance / (self.reference * self.reference) - 1.0, 0.0)
        share = jnp.maximum(self.floor, jnp.exp(-self.sensitivity * excess) * (1.0 - withdrawn))
        return EvaporatingState(variance, withdrawn, share)

    def effective(self, state: Any) -> Float[Array, " assets"]:
        return self.volume * state.share
