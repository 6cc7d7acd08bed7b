"""The law of textbooks: log prices are Brownian."""

from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from .._fields import Real, real
from .._streams import Draws, Noise
from .base import AbstractMarket, Shock, correlate, correlation_complaints, count_assets, diffusion


class GeometricBrownian(AbstractMarket):
    """Log prices move as correlated Brownian motions, d log S = (drift - volatility^2/2) dt + volatility dW.

    Exact on any time grid. The crash factor is always 0. Made for tests and closed forms: pure diffusion almost never
    makes bad debt against an engine that reacts in seconds.

    **Source:** Black and Scholes (1973).
    """

    volatility: Real = real(unit="1/sqrt(year)", least=0.0)  # one number or (assets,)
    drift: Real = real(0.0, unit="1/year")  # growth rate of the expected price, one number or (assets,)
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

    def init(self, dtype: Any) -> tuple[()]:
        del dtype
        return ()

    def move(self, state: tuple[()], noise: Noise, dt: Float[Array, ""]) -> tuple[Shock, tuple[()]]:
        log_return = diffusion(self.volatility, self.drift, correlate(self.correlation, noise.normal), dt)
        return Shock(log_return, jnp.zeros((), log_return.dtype)), state

    def prepare(self) -> "GeometricBrownian":
        return self

    def check_step(self, dt: float) -> Iterator[tuple[str, str]]:
        del dt
        yield from ()
