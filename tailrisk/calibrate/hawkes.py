"""Jumps that excite each other, by an observation-driven filter."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import sigmoid
from jaxtyping import Array, Float

from .._fields import count
from ..market import Hawkes, MertonJumps
from .likelihood import SHARE, AbstractLaw
from .merton import LIMITS, SHAPE, UNITS
from .mixtures import by_number
from .returns import Returns


class HawkesFilter(AbstractLaw):
    """`Hawkes` with normal marks: jumps are not seen, so the excitation after an interval uses the expected number of jumps
    given its return, as observation-driven models do.

    **Bias:** the filter knows less than the law, and its intervals are those of the filter: of 22 histories of 8,000 hours of the
    law in configs/markets they held the law's rate in 9 % and the deviation and memory in none. `indirect.corrected` gives
    numbers and intervals of the law (docs/calibration_coverage.md).

    **Source:** Ait-Sahalia, Cacho-Diaz, Laeven (2015) for the law; Creal, Koopman, Lucas (2013) for filters of this kind.
    """

    note: ClassVar[str] = "of the filter, which is biased for the law; market.indirect = true gives numbers of the law"
    most: int = count(48, least=1, most=128)  # jumps in an interval that the likelihood sums over
    units: ClassVar[dict[str, str]] = UNITS | {"branching": "1", "memory": "year"}
    limits: ClassVar[dict[str, tuple[float, float]]] = LIMITS | {"branching": SHARE}

    def start(self, data: Returns) -> Float[np.ndarray, " parameters"]:
        spread = float(data.observed.std()) / np.sqrt(data.every)
        rate = 0.04 / data.every
        deviation = spread * np.sqrt(data.every)
        return np.array(
            [np.log(0.35 * spread), np.log(rate), np.log(deviation), 0.0, 0.0, 3.0, np.log(2.5 * data.every)]
        )

    def values(self, p: Float[Array, " parameters"]) -> dict[str, Float[Array, ""]]:
        return {
            "volatility": jnp.exp(p[0]),
            "rate": jnp.exp(p[1]),
            "deviation": jnp.exp(p[2]),
            "mean": p[3] / 100.0,
            "drift": p[4],
            "branching": sigmoid(p[5]),
            "memory": jnp.exp(p[6]),
        }

    def densities(self, p: Any, moves: Any, seen: Any, every: Any) -> tuple[Any, Any]:
        v, n = self.values(p), jnp.arange(self.most + 1.0)
        shape: Any = tuple(v[name] for name in SHAPE)
        forget = -jnp.expm1(-every / v["memory"])

        def interval(excess: Any, data: Any) -> tuple[Any, Any]:
            move, known = data
            expected = (v["rate"] + excess) * every
            joint, below = by_number(move, expected, shape, every, self.most)
            top = jnp.max(joint)
            weight = jnp.exp(joint - top)
            total = jnp.sum(weight)
            number = jnp.where(known, jnp.sum(weight * n) / total, expected)
            after = excess * (1.0 - forget) + number * v["branching"] * forget / every
            return after, (jnp.where(known, jnp.log(total) + top, 0.0), jnp.sum(below))

        start = v["rate"] * v["branching"] / (1.0 - v["branching"])
        return jax.lax.scan(jax.checkpoint(interval), start, (moves, seen))[1]

    def market(self, values: dict[str, float]) -> Hawkes:
        jumps = MertonJumps(rate=values["rate"], deviation=values["deviation"], mean=values["mean"], most=16)
        memory: Any = np.asarray(values["memory"])
        return Hawkes(jumps, volatility=values["volatility"], branching=values["branching"], memory=memory)
