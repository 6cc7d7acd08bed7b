"""Calm and crash as a hidden Markov chain, by the exact likelihood of the forward recursion."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._fields import count
from ..market import MertonJumps, RegimeSwitching
from .likelihood import AbstractLaw
from .merton import LIMITS, UNITS
from .mixtures import by_number, total
from .returns import Returns


class Regimes(AbstractLaw):
    """`RegimeSwitching` with normal jumps; exact up to switches inside an interval.

    **Source:** Hamilton (1989).
    """

    most: int = count(24, least=1, most=128)  # jumps in an interval that the likelihood sums over
    units: ClassVar[dict[str, str]] = UNITS | {
        "crash_volatility": "1/sqrt(year)",
        "enter": "1/year",
        "leave": "1/year",
        "calm_jumps": "1",
    }
    limits: ClassVar[dict[str, tuple[float, float]]] = LIMITS

    def start(self, data: Returns) -> Float[np.ndarray, " parameters"]:
        spread = float(data.observed.std()) / np.sqrt(data.every)
        rate, deviation = 0.3 / data.every, 1.7 * spread * np.sqrt(data.every)
        switch = 0.035 / data.every
        return np.array([*np.log([0.3 * spread, 0.75 * spread, switch, switch, rate, 0.1, deviation]), 0.0, 0.0])

    def values(self, p: Float[Array, " parameters"]) -> dict[str, Float[Array, ""]]:
        names = ("volatility", "crash_volatility", "enter", "leave", "rate", "calm_jumps", "deviation")
        return {name: jnp.exp(p[i]) for i, name in enumerate(names)} | {"mean": p[7] / 100.0, "drift": p[8]}

    def densities(self, p: Any, moves: Any, seen: Any, every: Any) -> tuple[Any, Any]:
        v = self.values(p)
        rest = v["mean"], v["deviation"], v["drift"]
        parts = []
        for volatility, rate in ((v["volatility"], v["rate"] * v["calm_jumps"]), (v["crash_volatility"], v["rate"])):
            joint, below = by_number(moves, rate * every, (volatility, *rest), every, self.most)
            parts.append(total(joint, below))
        (log_calm, below_calm), (log_wild, below_wild) = parts
        density, chance = forward(log_calm, log_wild, seen, v["enter"], v["leave"], every)
        return density, (1.0 - chance) * below_calm + chance * below_wild

    def market(self, values: dict[str, float]) -> RegimeSwitching:
        jumps = MertonJumps(rate=values["rate"], deviation=values["deviation"], mean=values["mean"], most=8)
        names = ("volatility", "crash_volatility", "enter", "leave", "calm_jumps")
        return RegimeSwitching(jumps, **{name: values[name] for name in names})


def forward(
    log_calm: Any, log_wild: Any, seen: Any, enter: Any, leave: Any, every: Any
) -> tuple[Float[Array, " times"], Float[Array, " times"]]:
    """Log density of every observation given those before, and the chance of a crash before it is seen."""
    pace = enter + leave
    share, memory = enter / pace, jnp.exp(-pace * every)

    def interval(chance: Any, data: Any) -> tuple[Any, Any]:
        calm, wild, known = data
        calm, wild = jnp.log1p(-chance) + calm, jnp.log(chance) + wild
        both = jnp.logaddexp(calm, wild)
        after = jnp.where(known, jnp.exp(wild - both), chance)
        return share + (after - share) * memory, (jnp.where(known, both, 0.0), chance)

    return jax.lax.scan(interval, share, (log_calm, log_wild, seen))[1]
