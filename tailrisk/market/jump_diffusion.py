"""Brownian motion with jumps that arrive at a constant rate."""

from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._fields import Real, duration, real
from .._hard import crosses
from .._streams import Draws, Noise, Roles
from .base import AbstractMarket, Shock, correlate, correlation_complaints, count_assets, diffusion
from .jumps import AbstractJumps, arrival_chance, jump, jump_complaints, jump_roles, loading_complaints


class JumpDiffusion(AbstractMarket):
    """Correlated Brownian log prices plus jumps common to all assets: asset a jumps by loading_a J.

    log return = (drift - volatility^2/2) dt + volatility sqrt(dt) Z + loading J - log E[exp(loading J)] with J the
    sum of a Poisson(rate dt) number of sizes. The crash factor becomes 1 when a step's J is below -crash_size and
    decays as exp(-t / crash_memory).

    **Source:** Merton (1976); Kou (2002). Simplified: at most `jumps.most` jumps in one step.
    """

    jumps: AbstractJumps
    volatility: Real = real(unit="1/sqrt(year)", least=0.0)  # of the diffusion; one number or (assets,)
    drift: Real = real(0.0, unit="1/year")  # growth rate of the expected price, one number or (assets,)
    correlation: Real = real(0.0, unit="1", least=-1.0, most=1.0)  # of the diffusions
    loading: Real = real(1.0, unit="1")  # of each asset on a jump, one number or (assets,)
    crash_size: Real = real(0.02, unit="1", above=0.0)  # smallest fall (log) that counts as a crash
    crash_memory: Real = duration("1h")

    def __check_init__(self):
        count_assets(self.correlation, volatility=self.volatility, drift=self.drift, loading=self.loading)

    def check(self) -> Iterator[tuple[str, str]]:
        yield from correlation_complaints(self.correlation, self.assets)
        yield from loading_complaints(self.jumps, self.loading)

    @property
    def assets(self) -> int:
        return count_assets(self.correlation, volatility=self.volatility, drift=self.drift, loading=self.loading)

    @property
    def draws(self) -> Draws:
        sizes = self.jumps.draws
        return Draws(normals=self.assets + sizes.normals, uniforms=1 + sizes.uniforms)

    def init(self, dtype: Any) -> Float[Array, ""]:
        return jnp.zeros((), dtype)

    def move(self, state: Float[Array, ""], noise: Noise, dt: Float[Array, ""]) -> tuple[Shock, Float[Array, ""]]:
        assets = self.assets
        normal = correlate(self.correlation, noise.normal[:assets])
        rest = Noise(noise.normal[assets:], noise.uniform)
        _, total, leap = jump(self.jumps, self.jumps.rate, self.loading, assets, rest, dt)
        log_return = diffusion(self.volatility, self.drift, normal, dt) + leap
        falls = crosses(total, -self.crash_size, "a jump that counts as a crash")
        crash = jnp.where(falls, 1.0, state * jnp.exp(-dt / self.crash_memory))
        return Shock(log_return, crash), crash

    @property
    def roles(self) -> Roles:
        """What the numbers of a step do."""
        return jump_roles(self.jumps, self.assets, ())

    def chance(self, state: Any, noise: Noise, dt: Float[Array, ""], event: int) -> Float[Array, ""]:
        """Chance of the one event, a step with jumps."""
        del event
        return self.arrival(state, noise, dt)[1]

    def arrival(self, state: Any, noise: Noise, dt: Float[Array, ""]) -> tuple[int, Float[Array, ""]]:
        """Which uniform counts the jumps of a step, and the chance of any: below it there is one."""
        del state, noise
        return 0, arrival_chance(self.jumps.rate, dt)

    def prepare(self) -> "JumpDiffusion":
        return self

    def check_step(self, dt: float) -> Iterator[tuple[str, str]]:
        yield from jump_complaints(self.jumps, float(np.max(np.asarray(self.jumps.rate))), dt)
