"""Log prices that return to where they started: pegs, and the noise trader without funds."""

from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from .._fields import Real, duration, real
from .._streams import Draws, Noise
from .base import AbstractMarket, Shock, correlate, correlation_complaints, count_assets


class MeanReverting(AbstractMarket):
    """The log price x = log(S / S_0) is an Ornstein-Uhlenbeck process around 0, started at 0.

    On a grid it is the autoregression x' = a x + deviation sqrt(1 - a^2) Z with a = exp(-dt / memory), exactly. The
    stationary law of x is normal with standard deviation `deviation`; returns then have variance 2 deviation^2 (1 -
    a) and lag-1 autocorrelation -(1 - a)/2. The crash factor is always 0.

    **Source:** Uhlenbeck and Ornstein (1930); as the demand of noise traders: Thurner, Farmer, Geanakoplos (2012).
    """

    deviation: Real = real(
        unit="1", least=0.0
    )  # stationary standard deviation of the log price; one number or (assets,)
    memory: Real = duration()  # time in which a displacement shrinks by the factor e; one time or (assets,)
    correlation: Real = real(0.0, unit="1", least=-1.0, most=1.0)  # one number for all pairs, or (assets, assets)

    def __check_init__(self):
        count_assets(self.correlation, deviation=self.deviation, memory=self.memory)

    def check(self) -> Iterator[tuple[str, str]]:
        yield from correlation_complaints(self.correlation, self.assets)

    @property
    def assets(self) -> int:
        return count_assets(self.correlation, deviation=self.deviation, memory=self.memory)

    @property
    def draws(self) -> Draws:
        return Draws(normals=self.assets)

    def init(self, dtype: Any) -> Float[Array, " assets"]:
        return jnp.zeros((self.assets,), dtype)

    def move(
        self, state: Float[Array, " assets"], noise: Noise, dt: Float[Array, ""]
    ) -> tuple[Shock, Float[Array, " assets"]]:
        deviation = jnp.broadcast_to(self.deviation, state.shape)
        speed = jnp.broadcast_to(dt / self.memory, state.shape)
        spread = deviation * jnp.sqrt(-jnp.expm1(-2.0 * speed))
        change = jnp.expm1(-speed) * state + spread * correlate(self.correlation, noise.normal)
        return Shock(change, jnp.zeros((), state.dtype)), state + change

    def prepare(self) -> "MeanReverting":
        return self

    def check_step(self, dt: float) -> Iterator[tuple[str, str]]:
        del dt
        yield from ()
