"""Two regimes, calm and crash, that change volatility, correlation, drift and jumps together."""

from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._fields import InputError, Real, real
from .._hard import crosses
from .._streams import Draws, Noise, Roles
from .base import AbstractMarket, Shock, correlate, correlation_complaints, count_assets, diffusion
from .jumps import AbstractJumps, arrival_chance, jump, jump_complaints, jump_roles, loading_complaints


class RegimeSwitching(AbstractMarket):
    """A crash indicator switches volatility, correlation, drift and the rate of common jumps.

    The indicator is a two-state Markov chain in continuous time with rates `enter` and `leave`, sampled exactly at
    the steps and started in its stationary law, P(crash) = enter / (enter + leave). A step is calm or in crash as a
    whole. The crash factor is the indicator.

    **Source:** Hamilton (1989), here in continuous time and with jumps.
    """

    jumps: AbstractJumps  # its rate is the rate in crash
    volatility: Real = real(unit="1/sqrt(year)", least=0.0)  # of the diffusion in calm; one number or (assets,)
    crash_volatility: Real = real(unit="1/sqrt(year)", least=0.0)  # of the diffusion in crash; one number or (assets,)
    enter: Real = real(unit="1/year", above=0.0)  # calm -> crash
    leave: Real = real(unit="1/year", above=0.0)  # crash -> calm
    calm_jumps: Real = real(0.0, unit="1", least=0.0)  # rate of jumps in calm over the rate in crash
    drift: Real = real(0.0, unit="1/year")  # growth rate of the expected price in calm, one number or (assets,)
    crash_drift: Real = real(0.0, unit="1/year")  # the same in crash
    correlation: Real = real(0.0, unit="1", least=-1.0, most=1.0)  # of the diffusions in calm
    crash_correlation: Real = real(0.0, unit="1", least=-1.0, most=1.0)  # of the diffusions in crash
    loading: Real = real(1.0, unit="1")  # of each asset on a jump, one number or (assets,)

    def __check_init__(self):
        for name in ("correlation", "crash_correlation"):
            shape = np.shape(getattr(self, name))
            if shape and shape[0] != self.assets:
                raise InputError(f"{name} is for {shape[0]} assets, expected {self.assets} as in the other fields")

    def _count(self) -> int:
        vectors = {
            name: getattr(self, name) for name in ("volatility", "crash_volatility", "drift", "crash_drift", "loading")
        }
        return max(count_assets(c, **vectors) for c in (self.correlation, self.crash_correlation))

    def check(self) -> Iterator[tuple[str, str]]:
        yield from correlation_complaints(self.correlation, self.assets)
        yield from correlation_complaints(self.crash_correlation, self.assets, "crash_correlation")
        yield from loading_complaints(self.jumps, self.loading)

    @property
    def assets(self) -> int:
        return self._count()

    @property
    def draws(self) -> Draws:
        sizes = self.jumps.draws
        return Draws(normals=self.assets + sizes.normals, uniforms=2 + sizes.uniforms)

    def init(self, dtype: Any) -> Float[Array, ""]:
        return jnp.full((), -1.0, dtype)  # negative: not started

    def _crash_chance(self, state: Float[Array, ""], dt: Float[Array, ""]) -> Float[Array, ""]:
        pace = self.enter + self.leave
        share = self.enter / pace
        memory = jnp.where(state < 0.0, 0.0, jnp.exp(-pace * dt))  # of the indicator; none before the first step
        return share * (1.0 - memory) + jnp.maximum(state, 0.0) * memory

    def _crash(self, state: Float[Array, ""], noise: Noise, dt: Float[Array, ""]) -> Float[Array, ""]:
        chance = self._crash_chance(state, dt)
        return jnp.astype(crosses(noise.uniform[0], chance, "the switch of a regime"), chance.dtype)

    def _rate(self, crash: Float[Array, ""]) -> Float[Array, ""]:
        return self.jumps.rate * jnp.where(crash > 0.0, 1.0, self.calm_jumps)

    def move(self, state: Float[Array, ""], noise: Noise, dt: Float[Array, ""]) -> tuple[Shock, Float[Array, ""]]:
        assets = self.assets
        crash = self._crash(state, noise, dt)
        own, rest = noise.normal[:assets], Noise(noise.normal[assets:], noise.uniform[1:])
        calm = diffusion(self.volatility, self.drift, correlate(self.correlation, own), dt)
        wild = diffusion(self.crash_volatility, self.crash_drift, correlate(self.crash_correlation, own), dt)
        _, _, leap = jump(self.jumps, self._rate(crash), self.loading, assets, rest, dt)
        return Shock(jnp.where(crash > 0.0, wild, calm) + leap, crash), crash

    @property
    def roles(self) -> Roles:
        """What the numbers of a step do."""
        return jump_roles(self.jumps, self.assets, (0,))

    def chance(self, state: Float[Array, ""], noise: Noise, dt: Float[Array, ""], event: int) -> Float[Array, ""]:
        """Chances of the events: 0 that the step is in crash, 1 a step with jumps."""
        return self.arrival(state, noise, dt)[1] if event else self._crash_chance(state, dt)

    def arrival(self, state: Float[Array, ""], noise: Noise, dt: Float[Array, ""]) -> tuple[int, Float[Array, ""]]:
        """Which uniform counts the jumps of a step, and the chance of any: below it there is one."""
        return 1, arrival_chance(self._rate(self._crash(state, noise, dt)), dt)

    def prepare(self) -> "RegimeSwitching":
        return self

    def check_step(self, dt: float) -> Iterator[tuple[str, str]]:
        rate = float(np.max(np.asarray(self.jumps.rate))) * max(1.0, float(np.max(np.asarray(self.calm_jumps))))
        yield from jump_complaints(self.jumps, rate, dt)
