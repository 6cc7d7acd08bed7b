"""Measure-valued derivative: a common move of all thresholds as the difference of two runs that start differently.

The derivative of a Gaussian's mean is the difference of two laws, so with R of the Rayleigh law

    d/d mean E[F(mean + sd Z)] = (E[F(mean + sd R)] - E[F(mean - sd R)]) / (sd sqrt(2 pi)).

A rise of all thresholds is a fall of the path in its first step, at fixed distance between them, plus the derivative of F at
fixed events. Jumps and all later noise are common to both runs. A third run, with the normal itself, carries the derivative
at fixed events. R is made of the size of that normal, which neither of the two runs uses otherwise:
R = sqrt(-2 log(2 Phi(-|z|))).

**Source:** Pflug (1989); Heidergott, Vazquez-Abad, Pflug and Farenhorst-Yuan (2010) for the Gaussian.
"""

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.scipy.special import log_ndtr
from jaxtyping import Array, Bool, Float

from .._streams import Noise
from .companion import AbstractCompanion
from .functionals import AbstractFunctional, refuse_jumps
from .ladder import Ladder
from .record import Gradient, gradient, no_bias, require, run_batches
from .walk import WEIGHTS, LadderWalk, WalkState


class PairState(NamedTuple):
    """Runs with the first normal R, -R and z; deviation of the first step, and the likelihood ratio of its z."""

    up: WalkState
    down: WalkState
    plain: WalkState
    deviation: Float[Array, ""]
    first_ratio: Float[Array, ""]
    started: Bool[Array, ""]


class RayleighPair(AbstractCompanion):
    """Three walks on the same noise but for the normal of the first step."""

    walk: LadderWalk

    def init(self) -> PairState:
        """Three walks at the start."""
        state = self.walk.init()
        one = jnp.ones((), self.dtype)
        return PairState(state, state, state, one, one, jnp.zeros((), bool))

    def step(self, state: PairState, noise: Noise) -> tuple[PairState, WalkState]:
        """A step of each walk."""
        z = noise.normal
        size = jnp.sqrt(-2.0 * (log_ndtr(-jnp.abs(z)) + math.log(2.0)))
        tilt = self.walk.law.sampling_tilt  # the walk adds it
        up, _ = self.walk.step(state.up, noise._replace(normal=jnp.where(state.started, z, size - tilt)))
        down, _ = self.walk.step(state.down, noise._replace(normal=jnp.where(state.started, z, -size - tilt)))
        plain, shown = self.walk.step(state.plain, noise)
        increment = self.walk.increment(noise)
        deviation = jnp.where(state.started, state.deviation, increment.deviation)
        ratio = jnp.where(state.started, state.first_ratio, increment.normal_ratio)
        return PairState(up, down, plain, deviation, ratio, jnp.ones_like(state.started)), shown

    def outcome(self, state: PairState) -> dict[str, Float[Array, ""]]:
        """The weight, and the derivative of the mean in a common rise of the thresholds (before weighting)."""
        plain = self.walk.outcome(state.plain)
        higher, lower = (self.walk.outcome(walk)["value"] for walk in (state.up, state.down))
        # R has its own law: the weight of z does not belong to the two runs.
        volume = (lower - higher) / (state.deviation * math.sqrt(2.0 * math.pi)) / state.first_ratio
        return {name: plain[name] for name in WEIGHTS} | {"slope": volume + plain["value_shift"]}


def estimate(
    ladder: Ladder,
    parameters: tuple[str, ...] = ("maintenance",),
    *,
    seed: int = 0,
    paths: int = 64 * 16_384,
    batches: int = 64,
    functional: AbstractFunctional | None = None,
    chunk: int = 16_384,
    dtype: Any = None,
) -> Gradient:
    """Derivative in the maintenance ratio by the measure-valued derivative of the first step, unbiased, breaker or not.

    **Raises:** `InputError` for other parameters, whose thresholds do not move alike, and for a functional that jumps.
    """
    refuse_jumps(functional, "the measure-valued derivative")
    remedy = "other parameters do not move all thresholds alike"
    require(parameters, ("maintenance",), "the measure-valued derivative", remedy)
    velocity = 1.0 / (1.0 - float(ladder.maintenance))

    def contributions(outcome: dict[str, np.ndarray]) -> np.ndarray:
        return velocity * (outcome["weight"] * outcome["slope"])[None, :]

    system = RayleighPair(LadderWalk.build(ladder, functional, dtype))
    return gradient(
        run_batches(system, contributions, seed=seed, paths=paths, batches=batches, chunk=chunk),
        parameters,
        method="measure-valued",
        reason="the parameter moves all thresholds alike; a referee for the absorbed shift",
        bias=no_bias(parameters, "zero: the derivative is taken of the law of the first step"),
    )
