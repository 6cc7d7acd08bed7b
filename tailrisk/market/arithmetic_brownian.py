"""Price differences, not log prices, are Brownian."""

from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from .._fields import Real, real
from .._streams import Draws, Noise
from .base import AbstractMarket, Shock, correlate, correlation_complaints, count_assets

_FLOOR = 1e-6  # lowest price, as a share of the first


class ArithmeticBrownian(AbstractMarket):
    """Prices move as correlated Brownian motions, dS / S_0 = drift dt + volatility dW.

    Profit and loss of a linear position is then normal, which gives closed forms for joint barriers (the reflection
    principle). Exact on any time grid until a price reaches the floor of 1e-6 of its start, where it is held; with a
    volatility of 60 %/year that is an event of probability 1e-200 in a day. The crash factor is always 0.

    **Source:** Bachelier (1900).
    """

    volatility: Real = real(unit="1/sqrt(year)", least=0.0)  # of S / S_0; one number or (assets,)
    drift: Real = real(0.0, unit="1/year")  # expected change of S / S_0 per year; one number or (assets,)
    correlation: Real = real(0.0, unit="1", least=-1.0, most=1.0)  # one number for all pairs, or (assets, assets)

    def __check_init__(self):
        count_assets(self.correlation, volatility=self.volatility, drift=self.drift)

    def check(self) -> Iterator[tuple[str, str]]:
        yield from correlation_complaints(self.correlation, self.assets)

    @property
    def assets(self) -> int:
        return count_assets(self.correlation, volatility=self.volatility, drift=self.drift)

    @property
    def draws(self) -> Draws:
        return Draws(normals=self.assets)

    def init(self, dtype: Any) -> Float[Array, " assets"]:
        return jnp.ones((self.assets,), dtype)

    def move(
        self, state: Float[Array, " assets"], noise: Noise, dt: Float[Array, ""]
    ) -> tuple[Shock, Float[Array, " assets"]]:
        drift, volatility = (jnp.broadcast_to(x, state.shape) for x in (self.drift, self.volatility))
        change = drift * dt + volatility * jnp.sqrt(dt) * correlate(self.correlation, noise.normal)
        price = jnp.maximum(state + change, _FLOOR)
        return Shock(jnp.log(price / state), jnp.zeros((), state.dtype)), price

    def prepare(self) -> "ArithmeticBrownian":
        return self

    def check_step(self, dt: float) -> Iterator[tuple[str, str]]:
        del dt
        yield from ()
