"""Margin that follows the market: a static schedule times the ratio of volatility now to a reference."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._fields import AnyArray, InputError, Real, choice, duration, real
from .base import AbstractMargin
from .procyclicality import AbstractVolatilityTool, Untreated


class VolatilityState(NamedTuple):
    """variance: exponentially weighted mean of squared log returns per year, (assets,)."""

    variance: Float[Array, " assets"]


class VolatilityScaled(AbstractMargin):
    """Both requirements of `base` times level = max(floor, charged volatility / reference volatility).

    Volatility is estimated from returns up to now, v <- w v + (1 - w) r^2 / dt with w = 2^(-dt / half_life), starts at
    the reference, and passes through the anti-procyclicality `tool`. The reference is

        form = "ratio":    `reference`, the volatility the static table was made for
        form = "k_sigma":  i / (k sqrt(horizon)), i the initial rate of the first tier, so that the initial rate becomes
                           max(floor i, k sigma sqrt(horizon))

    `reference` is a scalar or one number per asset; `floor` is the lowest level, 1 if the table of the venue is a
    minimum. Source: J.P. Morgan, RiskMetrics Technical Document (1996), of the estimate.

    **Left out:** GARCH estimates, and the lag and rounding with which a venue announces a new table.
    """

    base: AbstractMargin
    tool: AbstractVolatilityTool = Untreated()
    half_life: Real = duration("1d")
    reference: Real = real(0.7, unit="1/sqrt(year)", above=0.0)
    form: str = choice("ratio", "ratio", "k_sigma")
    k: Real = real(3.0, unit="1", above=0.0)
    horizon: Real = duration("1d")
    floor: Real = real(1.0, unit="1", least=0.0)

    def __check_init__(self) -> None:
        if not self.base.is_static:
            raise InputError(
                f"base is a {type(self.base).__name__}, which moves with the market already; expected a static "
                "schedule such as Flat or Brackets"
            )
        if np.ndim(self.reference) > 1:
            shape = np.shape(self.reference)
            raise InputError(f"reference has shape {shape}; expected one number, or a list with one number per asset")

    @property
    def is_static(self) -> bool:
        return False

    def maintenance(self, notional: Float[AnyArray, "*rest assets"]) -> Float[AnyArray, "*rest assets"]:
        return self.base.maintenance(notional)

    def initial(self, notional: Float[AnyArray, "*rest assets"]) -> Float[AnyArray, "*rest assets"]:
        return self.base.initial(notional)

    def lines(self) -> tuple[Float[AnyArray, "#assets tiers"], Float[AnyArray, "#assets tiers"]]:
        return self.base.lines()

    def reference_volatility(self) -> Float[Array, " #assets"]:
        """Volatility at which the level is 1, 1/sqrt(year)."""
        own = jnp.atleast_1d(self.reference)
        if self.form == "ratio":
            return own
        unit = jnp.ones_like(self.base.level(()))
        rate = self.base.initial(unit)  # of 1 USD: the rate of the first tier
        return rate / (self.k * jnp.sqrt(self.horizon))

    def init(self, dtype: Any, assets: int = 1) -> VolatilityState:
        variance = jnp.asarray(self.reference_volatility() ** 2, dtype)
        known = max(variance.size, self.base.level(()).size, assets)
        return VolatilityState(jnp.broadcast_to(variance, (known,)))

    def update(self, state: VolatilityState, log_return: Float[Array, " assets"], dt: Any) -> VolatilityState:
        if state.variance.shape != log_return.shape:
            raise InputError(
                f"margin was set up for {state.variance.size} assets, the market has {log_return.size}; give "
                "`reference` one number per asset"
            )
        weight = jnp.exp2(-dt / self.half_life)
        return VolatilityState(weight * state.variance + (1.0 - weight) * (log_return**2 / dt))

    def level(self, state: VolatilityState) -> Float[Array, " assets"]:
        charged = self.tool.charged(jnp.sqrt(state.variance))
        return jnp.maximum(charged / self.reference_volatility(), self.floor)

    def check(self) -> Iterator[tuple[str, str]]:
        large = jnp.full_like(self.base.level(()), 1e18)
        highest = np.max(np.asarray(self.base.maintenance(large) / large))
        if np.max(np.asarray(self.floor)) * highest >= 1.0:
            yield (
                "floor",
                f"{np.max(np.asarray(self.floor)):g} times the highest maintenance rate {highest:g} is 1 or more, "
                "so such a position is never healthy; lower it",
            )
