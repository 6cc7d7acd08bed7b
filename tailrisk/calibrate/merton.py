"""Merton's jump diffusion by its exact likelihood."""

from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._fields import count
from ..market import JumpDiffusion, MertonJumps
from .likelihood import FREE, AbstractLaw
from .mixtures import by_number, total
from .returns import Returns

SHAPE = ("volatility", "mean", "deviation", "drift")
UNITS = {
    "volatility": "1/sqrt(year)",
    "rate": "1/year",
    "mean": "1",
    "deviation": "1",
    "drift": "1/year",
}
LIMITS = {"mean": FREE, "drift": FREE}


def start_of(data: Returns, jumpy: float = 0.2) -> tuple[float, float, float]:
    """Volatility, rate and deviation of a first guess: a share `jumpy` of intervals has a jump of three standard deviations."""
    scale = float(np.median(np.abs(data.observed - np.median(data.observed)))) / 0.6745
    scale = max(scale, 1e-3 * float(data.observed.std()))
    return scale / np.sqrt(data.every), jumpy / data.every, 3.0 * scale


class Merton(AbstractLaw):
    """`JumpDiffusion` with normal jumps: independent returns, a mixture of normals over 0..`most` jumps.

    **Source:** Merton (1976); the likelihood as in Press (1967), "A compound events model for security prices".
    """

    most: int = count(16, least=1, most=128)  # jumps in an interval that the likelihood sums over
    units: ClassVar[dict[str, str]] = UNITS
    limits: ClassVar[dict[str, tuple[float, float]]] = LIMITS

    def start(self, data: Returns) -> Float[np.ndarray, " parameters"]:
        volatility, rate, deviation = start_of(data)
        return np.array([np.log(volatility), np.log(rate), np.log(deviation), 0.0, 0.0])

    def values(self, p: Float[Array, " parameters"]) -> dict[str, Float[Array, ""]]:
        return {
            "volatility": jnp.exp(p[0]),
            "rate": jnp.exp(p[1]),
            "deviation": jnp.exp(p[2]),
            "mean": p[3] / 100.0,
            "drift": p[4],
        }

    def densities(self, p: Any, moves: Any, seen: Any, every: Any) -> tuple[Any, Any]:
        v = self.values(p)
        shape = tuple(v[name] for name in SHAPE)
        density, below = total(*by_number(moves, v["rate"] * every, shape, every, self.most))  # pyright: ignore
        return jnp.where(seen, density, 0.0), below

    def market(self, values: dict[str, float]) -> JumpDiffusion:
        jumps = MertonJumps(rate=values["rate"], deviation=values["deviation"], mean=values["mean"])
        return JumpDiffusion(jumps, volatility=values["volatility"])
