"""Likelihood-ratio scores: parameters of the noise, and the common move of all thresholds put into the first increment.

For a parameter of the law the derivative of E[F] is E[F score] with the score of the increments under the true law,

    drift: z/sd    deviation: (z^2 - 1) deviation / sd^2    jump probability: J/p - (1 - J)/(1 - p)
    jump mean: J z/sd    jump deviation: J (z^2 - 1) jump_deviation / sd^2        (each summed over steps)

exact however the thresholds lie. A rise of all thresholds is undone by raising the path in its first step, score -z_1/sd_1,
plus the derivative of F at fixed events. That holds with a breaker too, whose window does not hold the price at the start.
A multiple of the score, whose weighted mean is zero, is subtracted; the multiple comes from a pilot. Errors grow with the
number of steps (law) and with 1/sd_1 (thresholds).

**Source:** Glynn (1990); Rubinstein (1992) for pushing a parameter out of the sample performance into the law.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from .._fields import InputError
from .._streams import Noise
from .companion import AbstractCompanion
from .functionals import AbstractFunctional, refuse_jumps
from .ladder import Ladder
from .record import Gradient, gradient, no_bias, pilot, require, run_batches
from .walk import WEIGHTS, LadderWalk, WalkState

PARAMETERS = (
    "maintenance",
    "law.drift",
    "law.deviation",
    "law.jump_probability",
    "law.jump_mean",
    "law.jump_deviation",
)


class ScoreState(NamedTuple):
    """A path with its score in each parameter asked for (for maintenance: in a common rise of the thresholds)."""

    walk: WalkState
    scores: tuple[Float[Array, ""], ...]
    first: Bool[Array, ""]


class Scores(AbstractCompanion):
    """A `LadderWalk` with scores of its noise."""

    walk: LadderWalk
    parameters: tuple[str, ...] = eqx.field(static=True)

    def init(self) -> ScoreState:
        """All scores zero."""
        zero = jnp.zeros((), self.dtype)
        return ScoreState(self.walk.init(), (zero,) * len(self.parameters), jnp.ones((), bool))

    def step(self, state: ScoreState, noise: Noise) -> tuple[ScoreState, WalkState]:
        """A step of the walk and of its scores."""
        walk, shown = self.walk.step(state.walk, noise)
        law, increment = self.walk.law, self.walk.increment(noise)
        jump, p = increment.jump, law.jump_probability
        place = increment.normal / increment.deviation
        scale = (increment.normal**2 - 1.0) / increment.deviation**2
        terms = {
            "maintenance": jnp.where(state.first, -place, 0.0),
            "law.drift": place,
            "law.deviation": scale * law.deviation,
            "law.jump_probability": jnp.where(jump, 1.0 / p, -1.0 / (1.0 - p)),
            "law.jump_mean": jnp.where(jump, place, 0.0),
            "law.jump_deviation": jnp.where(jump, scale * law.jump_deviation, 0.0),
        }
        scores = tuple(old + terms[name] for old, name in zip(state.scores, self.parameters, strict=True))
        return ScoreState(walk, scores, jnp.zeros_like(state.first)), shown

    def outcome(self, state: ScoreState) -> dict[str, Float[Array, ""]]:
        """What the estimator needs of the walk's outcome, and the scores by parameter."""
        out = self.walk.outcome(state.walk)
        scores = {f"score_{name}": score for name, score in zip(self.parameters, state.scores, strict=True)}
        return {name: out[name] for name in ("value", "value_shift", *WEIGHTS)} | scores


def control_coefficients(outcome: dict[str, np.ndarray], parameters: tuple[str, ...]) -> np.ndarray:
    """Multiple of each score that is subtracted, by least squares in a pilot."""
    scores = np.stack([outcome[f"score_{name}"] for name in parameters]) * outcome["weight"]
    spread = np.square(scores).sum(axis=1)
    product = np.square(scores) * outcome["value"]
    return product.sum(axis=1) / np.where(spread > 0.0, spread, 1.0)


def estimate(
    ladder: Ladder,
    parameters: tuple[str, ...] = ("maintenance",),
    *,
    seed: int = 0,
    paths: int = 64 * 16_384,
    batches: int = 64,
    functional: AbstractFunctional | None = None,
    pilot_paths: int = 65_536,
    chunk: int = 16_384,
    dtype: Any = None,
) -> Gradient:
    """Derivatives in the maintenance ratio and in the law of the walk by scores, unbiased, breaker or not, in one pass.

    **Raises:** `InputError` for other parameters, for the jump probability where it is zero, and for the maintenance ratio
    with a functional that jumps.
    """
    require(parameters, PARAMETERS, "the score", "other parameters are no parameters of the noise: use differences")
    if "maintenance" in parameters:
        refuse_jumps(functional, "the score of a threshold")
    if "law.jump_probability" in parameters and ladder.get("law.jump_probability") == 0.0:
        raise InputError("law.jump_probability = 0 has no score; use the quadrature, or a small positive probability")
    system = Scores(LadderWalk.build(ladder, functional, dtype), tuple(parameters))
    control = control_coefficients(pilot(system, seed=seed, paths=pilot_paths, chunk=chunk), parameters)
    pushed = np.array([name == "maintenance" for name in parameters])
    velocity = np.where(pushed, 1.0 / (1.0 - float(ladder.maintenance)), 1.0)

    def contributions(outcome: dict[str, np.ndarray]) -> np.ndarray:
        scores = np.stack([outcome[f"score_{name}"] for name in parameters])
        volume = scores * (outcome["value"][None, :] - control[:, None])
        rise = np.where(pushed[:, None], outcome["value_shift"], 0.0)
        return velocity[:, None] * outcome["weight"] * (volume + rise)

    return gradient(
        run_batches(system, contributions, seed=seed, paths=paths, batches=batches, chunk=chunk),
        parameters,
        method="score",
        reason="the parameter is one of the law of the noise, or moves all thresholds alike",
        bias=no_bias(parameters, "zero: the derivative is taken of the density of the noise"),
    )
