"""Stochastic volatility with the leverage effect."""

from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._fields import Real, real
from .._streams import Draws, Noise
from .base import AbstractMarket, Shock, above_normal, correlate, correlation_complaints, count_assets, diffusion, root


class Heston(AbstractMarket):
    """One variance v for all assets, reverting to its long-run level and correlated with the prices (leverage effect).

    d log S_a = (drift_a - loading_a^2 v/2) dt + loading_a sqrt(v) (leverage dB + sqrt(1 - leverage^2) dW_a),
    dv = mean_reversion (long_variance - v) dt + vol_of_variance sqrt(v) dB,

    with W correlated by `correlation` and independent of B. A step holds v at its value at the start (so prices are
    exact martingales up to the drift) and moves v by a normal with the exact conditional mean and variance; where
    that leaves v negative, its positive part is used (full truncation). The bias is of order dt. The crash factor is
    1 - min(1, crash_from * long_variance / v).

    **Source:** Heston (1993), eqs. (1) and (4); full truncation: Lord, Koekkoek, van Dijk (2010). Simplified: one
    variance factor for all assets.
    """

    initial_variance: Real = real(unit="1/year", least=0.0)
    mean_reversion: Real = real(unit="1/year", above=0.0)
    long_variance: Real = real(unit="1/year", above=0.0)
    vol_of_variance: Real = real(unit="1/year", least=0.0)
    leverage: Real = real(0.0, unit="1", least=-1.0, most=1.0)  # correlation of prices with their variance
    drift: Real = real(0.0, unit="1/year")  # growth rate of the expected price, one number or (assets,)
    loading: Real = real(1.0, unit="1", least=0.0)  # volatility of each asset over sqrt(v), one number or (assets,)
    correlation: Real = real(0.0, unit="1", least=-1.0, most=1.0)  # of W: one number for all pairs, or (assets, assets)
    crash_from: Real = real(1.0, unit="1", above=0.0)  # multiple of the long-run variance where a crash begins

    def __check_init__(self):
        count_assets(self.correlation, drift=self.drift, loading=self.loading)

    def check(self) -> Iterator[tuple[str, str]]:
        yield from correlation_complaints(self.correlation, self.assets)

    @property
    def assets(self) -> int:
        return count_assets(self.correlation, drift=self.drift, loading=self.loading)

    @property
    def draws(self) -> Draws:
        return Draws(normals=self.assets + 1)

    def init(self, dtype: Any) -> Float[Array, ""]:
        return jnp.asarray(self.initial_variance, dtype)

    def move(self, state: Float[Array, ""], noise: Noise, dt: Float[Array, ""]) -> tuple[Shock, Float[Array, ""]]:
        own, common = noise.normal[:-1], noise.normal[-1]
        variance = jnp.maximum(state, 0.0)
        normal = self.leverage * common + root(1.0 - self.leverage**2) * correlate(self.correlation, own)
        log_return = diffusion(self.loading * root(variance), self.drift, normal, dt)
        forget = -jnp.expm1(-self.mean_reversion * dt)
        spread = (variance * (1.0 - forget) + 0.5 * self.long_variance * forget) * forget / self.mean_reversion
        after = state + (self.long_variance - state) * forget + self.vol_of_variance * root(spread) * common
        crash = above_normal(variance, self.crash_from * self.long_variance)
        return Shock(log_return, crash), after

    def prepare(self) -> "Heston":
        return self

    def check_step(self, dt: float) -> Iterator[tuple[str, str]]:
        speed = float(np.max(np.asarray(self.mean_reversion))) * dt
        if speed > 0.5:
            yield (
                "mean_reversion",
                f"the variance reverts by {speed:.3g} time constants in one step, expected at most 0.5; take shorter "
                "steps",
            )
