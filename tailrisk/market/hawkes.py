"""Brownian motion with jumps that excite each other."""

from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._fields import Real, duration, real
from .._streams import Draws, Noise, Roles
from .base import AbstractMarket, Shock, above_normal, correlate, correlation_complaints, count_assets, diffusion
from .jumps import AbstractJumps, arrival_chance, jump, jump_complaints, jump_roles, loading_complaints


class Hawkes(AbstractMarket):
    """Correlated Brownian log prices plus common jumps whose intensity rises with every jump and decays.

    intensity_t = jumps.rate + sum over past jumps of (branching / memory) exp(-(t - t_j) / memory),

    so a jump has `branching` children on average and the mean intensity is rate / (1 - branching). Within a step the
    intensity is held; the rise per jump is scaled so that the branching number and the mean intensity are exact on
    any grid. Returns are compensated given the intensity, as in `JumpDiffusion`.

    Paths start in the stationary law of the intensity: its excess over `rate` is drawn as c U^g with c and g set to
    the exact stationary mean and variance. This is the exact law where jumps are rare, and an approximation
    otherwise.

    The crash factor is 1 - min(1, crash_from * mean intensity / intensity).

    **Source:** Hawkes (1971); for prices: Ait-Sahalia, Cacho-Diaz, Laeven (2015). Simplified: one jump
    process for all assets; no excitation inside one step.
    """

    jumps: AbstractJumps  # its rate is the intensity without excitation
    volatility: Real = real(unit="1/sqrt(year)", least=0.0)  # of the diffusion; one number or (assets,)
    branching: Real = real(unit="1", least=0.0, below=1.0)  # mean number of children of a jump
    memory: Real = duration()  # decay time of the excitation
    drift: Real = real(0.0, unit="1/year")  # growth rate of the expected price, one number or (assets,)
    correlation: Real = real(0.0, unit="1", least=-1.0, most=1.0)  # of the diffusions
    loading: Real = real(1.0, unit="1")  # of each asset on a jump, one number or (assets,)
    crash_from: Real = real(1.0, unit="1", above=0.0)  # multiple of the mean intensity where a crash begins

    def __check_init__(self):
        count_assets(self.correlation, volatility=self.volatility, drift=self.drift, loading=self.loading)

    def check(self) -> Iterator[tuple[str, str]]:
        yield from correlation_complaints(self.correlation, self.assets)
        yield from loading_complaints(self.jumps, self.loading)
        if float(np.min(np.asarray(self.jumps.rate))) <= 0.0:
            yield (
                "jumps.rate",
                "0 means that no jump ever starts a cascade, expected > 0; use GeometricBrownian for no jumps",
            )

    @property
    def assets(self) -> int:
        return count_assets(self.correlation, volatility=self.volatility, drift=self.drift, loading=self.loading)

    @property
    def draws(self) -> Draws:
        sizes = self.jumps.draws
        return Draws(normals=self.assets + sizes.normals, uniforms=2 + sizes.uniforms)

    def _mean(self) -> Real:
        return self.jumps.rate / (1.0 - self.branching)

    def _deviation(self) -> Real:
        """Stationary standard deviation of the intensity: sqrt(branching^2 mean / (2 memory (1 - branching)))."""
        return self.branching * (0.5 * self._mean() / (self.memory * (1.0 - self.branching))) ** 0.5

    def _stationary(self, uniform: Float[Array, ""]) -> Float[Array, ""]:
        """Excess c U^g: mean c/(1+g) and second moment c^2/(1+2g) give g = r + sqrt(r^2 + r), r = var/mean^2."""
        # variance over squared mean of the excess, with branching cancelled so that 0 is allowed
        ratio = 0.5 / (self.memory * self.jumps.rate)
        power = ratio + jnp.sqrt(ratio * ratio + ratio)
        return self.branching * self._mean() * (1.0 + power) * uniform**power

    def _excess(self, state: Float[Array, ""], noise: Noise) -> Float[Array, ""]:
        return jnp.where(state < 0.0, self._stationary(noise.uniform[0]), state)

    def init(self, dtype: Any) -> Float[Array, ""]:
        return jnp.full((), -1.0, dtype)  # negative: not started

    def move(self, state: Float[Array, ""], noise: Noise, dt: Float[Array, ""]) -> tuple[Shock, Float[Array, ""]]:
        assets = self.assets
        normal = correlate(self.correlation, noise.normal[:assets])
        excess = self._excess(state, noise)
        intensity = self.jumps.rate + excess
        rest = Noise(noise.normal[assets:], noise.uniform[1:])
        number, _, leap = jump(self.jumps, intensity, self.loading, assets, rest, dt)
        forget = -jnp.expm1(-dt / self.memory)
        after = excess * (1.0 - forget) + number * self.branching * forget / dt
        crash = above_normal(intensity, self.crash_from * self._mean())
        return Shock(diffusion(self.volatility, self.drift, normal, dt) + leap, crash), after

    @property
    def roles(self) -> Roles:
        """What the numbers of a step do; that the path starts is an event, with the intensity as its size."""
        return jump_roles(self.jumps, self.assets, (0,), start=(0, 0))

    def chance(self, state: Float[Array, ""], noise: Noise, dt: Float[Array, ""], event: int) -> Float[Array, ""]:
        """Chances of the events: 0 the first step, which is certain or impossible, 1 a step with jumps."""
        return self.arrival(state, noise, dt)[1] if event else jnp.where(state < 0.0, jnp.ones_like(state), 0.0)

    def arrival(self, state: Float[Array, ""], noise: Noise, dt: Float[Array, ""]) -> tuple[int, Float[Array, ""]]:
        """Which uniform counts the jumps of a step, and the chance of any: below it there is one."""
        return 1, arrival_chance(self.jumps.rate + self._excess(state, noise), dt)

    def prepare(self) -> "Hawkes":
        return self

    def check_step(self, dt: float) -> Iterator[tuple[str, str]]:
        if dt > float(np.min(np.asarray(self.memory))):
            yield (
                "memory",
                "the excitation decays within one step, expected a memory of at least one step; shorten the step",
            )
        yield from jump_complaints(self.jumps, float(np.max(np.asarray(self._mean() + 4.0 * self._deviation()))), dt)
