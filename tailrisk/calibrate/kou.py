"""Kou's jump diffusion, its density by inverting the characteristic function."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import sigmoid
from jaxtyping import Array, Float

from .._fields import InputError, Real, count, real
from ..market import JumpDiffusion, KouJumps
from .likelihood import FREE, SHARE, AbstractLaw
from .merton import UNITS, start_of
from .returns import Returns

_FLOOR = 1e-10  # density below which the inversion has no digits


class Kou(AbstractLaw):
    """`JumpDiffusion` with double exponential jumps: independent returns.

    log phi(u) = every (i u m - volatility^2 u^2/2 + rate (up/(1 - i u up_mean) + (1 - up)/(1 + i u down_mean) - 1)),

    inverted by a fast Fourier transform on `points` returns in [-reach, reach) and interpolated. m makes the price grow at
    `drift`. The grid must resolve the diffusion of one interval; `start` checks that it does.

    **Source:** Kou (2002); Carr and Madan (1999) for the inversion on a grid.
    """

    reach: Real = real(0.6, unit="1", above=0.0)  # largest log return of the grid
    points: int = count(4096, least=256)
    units: ClassVar[dict[str, str]] = {
        "volatility": UNITS["volatility"],
        "rate": UNITS["rate"],
        "up": "1",
        "up_mean": "1",
        "down_mean": "1",
        "drift": UNITS["drift"],
    }
    limits: ClassVar[dict[str, tuple[float, float]]] = {"up": SHARE, "drift": FREE}

    def start(self, data: Returns) -> Float[np.ndarray, " parameters"]:
        volatility, rate, deviation = start_of(data)
        largest, spacing = float(np.abs(data.observed).max()), 2.0 * float(self.reach) / self.points
        if 1.5 * largest > float(self.reach) or volatility * np.sqrt(data.every) < 3.0 * spacing:
            raise InputError(
                f"reach = {float(self.reach):g} with {self.points} points: returns go up to {largest:.3g} and their core "
                f"is {volatility * np.sqrt(data.every):.2g} wide; expected reach above {1.5 * largest:.2g} and a spacing "
                f"below a third of the core; raise points"
            )
        mean = np.log(0.5 * deviation)
        return np.array([np.log(volatility), np.log(rate), 0.0, mean, mean, 0.0])

    def values(self, p: Float[Array, " parameters"]) -> dict[str, Float[Array, ""]]:
        return {
            "volatility": jnp.exp(p[0]),
            "rate": jnp.exp(p[1]),
            "up": sigmoid(p[2]),
            "up_mean": jnp.exp(p[3]),
            "down_mean": jnp.exp(p[4]),
            "drift": p[5],
        }

    def densities(self, p: Any, moves: Any, seen: Any, every: Any) -> tuple[Any, Any]:
        v, n = self.values(p), self.points
        spacing = 2.0 * jnp.asarray(self.reach, p.dtype) / n
        x = jnp.arange(-n / 2, n / 2) * spacing
        u = 2.0 * jnp.pi * jnp.arange(n / 2 + 1) / (n * spacing)
        up, down, share = v["up_mean"], v["down_mean"], v["up"]
        growth = share * up / (1.0 - up) - (1.0 - share) * down / (1.0 + down)
        center = v["drift"] - 0.5 * v["volatility"] ** 2 - v["rate"] * growth
        # 1/(1 - iy) = (1 + iy)/(1 + y^2), in real numbers
        up_part, down_part = share / (1.0 + (u * up) ** 2), (1.0 - share) / (1.0 + (u * down) ** 2)
        size = every * (v["rate"] * (up_part + down_part - 1.0) - 0.5 * (v["volatility"] * u) ** 2)
        turn = every * u * (center + v["rate"] * (up_part * up - down_part * down))
        # irfft sums exp(+i u x), the density exp(-i u x): the conjugate for a real result
        waves = jax.lax.complex(jnp.exp(size) * jnp.cos(turn), -jnp.exp(size) * jnp.sin(turn))
        density = jnp.roll(jnp.fft.irfft(waves, n), n // 2) / spacing
        below = jnp.cumsum(density) * spacing - 0.5 * density * spacing
        found = jnp.maximum(jnp.interp(moves, x, density), _FLOOR)
        return jnp.where(seen, jnp.log(found), 0.0), jnp.clip(jnp.interp(moves, x, below), 0.0, 1.0)

    def market(self, values: dict[str, float]) -> JumpDiffusion:
        jumps = KouJumps(rate=values["rate"], up=values["up"], up_mean=values["up_mean"], down_mean=values["down_mean"])
        return JumpDiffusion(jumps, volatility=values["volatility"])
