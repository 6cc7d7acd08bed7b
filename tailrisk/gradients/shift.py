"""Absorbed-shift score: thresholds that all move alike are undone by raising the path, and the noise pays for it.

A rise of all thresholds by delta and a rise of the path by delta D_t leave every event as it is if D_t = 1 from the moment a
threshold can be touched. The rise is phased in over several steps, so that no single increment carries all of it:

    left_0 = 1,  share_t = left_(t-1) f_t(u_t),  left_t = left_(t-1) - share_t,  D_t = 1 - left_t
    f_t(u) = k_t + (1 - k_t) h((a_0 + width - u) / width),  h(y) = y^2 (3 - 2 y) on [0, 1],  k_t = 1 / (n - t + 1) up to t = n
    score = sum_t share_t (-z_t / sd_t) + d share_t / d u_t

with a_0 the highest threshold and the last term from the Jacobian, which is triangular. f = 1 at and below a_0 exactly, so
the shift is complete before the first sale; above it the part that is left is second order in the distance, so that no
comparison changes its sign. The derivative of the mean of F in the common move of the thresholds is the mean of F score
plus the derivative of F at fixed events when the path rises.

**Source:** Gobet and Kohatsu-Higa (2003) and Chen and Glasserman (2007) for weights of this kind before one barrier; the
adapted form in discrete time with jumps, on a cascade, is this project's.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._fields import InputError
from .._streams import Noise
from .companion import AbstractCompanion
from .functionals import AbstractFunctional, refuse_jumps
from .ladder import Ladder
from .record import Gradient, gradient, no_bias, pilot, require, run_batches
from .walk import FIXED_EVENTS, WEIGHTS, LadderWalk, WalkState

NINE_FIELDS = tuple((n, width) for n in (3, 6, 12) for width in (0.01, 0.02, 0.03))
_RIDGE = 0.05


class ShiftState(NamedTuple):
    """A path with, per field, the share of the shift still to be absorbed and the score so far."""

    walk: WalkState
    left: Float[Array, " fields"]
    score: Float[Array, " fields"]
    clock: Float[Array, ""]


class AbsorbedShift(AbstractCompanion):
    """A `LadderWalk` that carries the score of a common shift beside its own state, for several fields (n, width)."""

    walk: LadderWalk
    increments: Float[Array, " fields"]
    width: Float[Array, " fields"]

    def init(self) -> ShiftState:
        """Nothing absorbed."""
        none = jnp.zeros_like(self.width)
        return ShiftState(self.walk.init(), none + 1.0, none, jnp.zeros((), self.dtype))

    def step(self, state: ShiftState, noise: Noise) -> tuple[ShiftState, WalkState]:
        """A step of the walk and of the score."""
        walk, shown = self.walk.step(state.walk, noise)
        increment = self.walk.increment(noise)
        first = self.walk.clearing.thresholds[0]
        y = jnp.clip((first + self.width - walk.level) / self.width, 0.0, 1.0)
        k = jnp.where(state.clock < self.increments, 1.0 / jnp.maximum(self.increments - state.clock, 1.0), 0.0)
        share = state.left * (k + (1.0 - k) * y * y * (3.0 - 2.0 * y))
        slope = state.left * (1.0 - k) * (-6.0 * y * (1.0 - y) / self.width)
        score = state.score - share * (increment.normal / increment.deviation) + slope
        return ShiftState(walk, state.left - share, score, state.clock + 1.0), shown

    def outcome(self, state: ShiftState) -> dict[str, Float[Array, ""]]:
        """What the estimator needs of the walk's outcome, and the score of each field."""
        out = self.walk.outcome(state.walk)
        scores = {f"score_{i}": state.score[i] for i in range(self.width.shape[0])}
        fixed = (f"value_{name}" for name in FIXED_EVENTS)
        return {name: out[name] for name in ("value", *fixed, *WEIGHTS)} | scores


def _scores(outcome: dict[str, np.ndarray]) -> np.ndarray:
    return np.stack([outcome[f"score_{i}"] for i in range(sum(name.startswith("score_") for name in outcome))])


def coefficients(outcome: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """From a pilot: control coefficient of each field's score, whose weighted mean is zero, and the fields' shares.

    Shares are proportional to the row sums of the inverse covariance, with a ridge of 5 % of the mean variance.
    """
    weighted = outcome["weight"] * _scores(outcome)
    product = outcome["value"] * weighted
    spread = np.square(weighted).mean(axis=1)
    control = (product * weighted).mean(axis=1) / np.where(spread > 0.0, spread, 1.0)
    rest = product - control[:, None] * weighted + outcome["weight"] * outcome["value_shift"]
    covariance = np.atleast_2d(np.cov(rest))
    ridge = _RIDGE * np.trace(covariance) / covariance.shape[0]
    if ridge == 0.0:
        return control, np.full(control.size, 1.0 / control.size)
    shares = np.linalg.solve(covariance + ridge * np.eye(control.size), np.ones(control.size))
    return control, shares / shares.sum()


def uniform_shift(outcome: dict[str, np.ndarray], control: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Per path: contribution to the derivative of the mean in a common rise of all thresholds."""
    score = _scores(outcome)
    volume = (shares[:, None] * score * (outcome["value"][None, :] - control[:, None])).sum(axis=0)
    return outcome["weight"] * (volume + outcome["value_shift"])


def default_increments(steps: int) -> int:
    """A quarter of the steps: fewer put the score on few increments, more leave it to the last steps before a threshold."""
    return min(steps, max(2, steps // 4))


def estimate(
    ladder: Ladder,
    parameters: tuple[str, ...] = ("maintenance",),
    *,
    seed: int = 0,
    paths: int = 64 * 16_384,
    batches: int = 64,
    functional: AbstractFunctional | None = None,
    fields: tuple[tuple[int, float], ...] | None = None,
    pilot_paths: int = 65_536,
    chunk: int = 16_384,
    dtype: Any = None,
) -> Gradient:
    """Derivative in the maintenance ratio by the absorbed shift, unbiased, in one pass.

    `fields`: pairs (n, width) of how many increments absorb the shift and how far above the first threshold it is
    completed (log price); by default one field (`default_increments`, 2 deviations). With several, fixed shares from the pilot
    combine them.

    **Raises:** `InputError` for other parameters, whose thresholds do not move alike; for more than one increment with an
    active breaker, which compares prices with different shares of the shift; for a width that is not positive; for a
    functional that jumps.
    """
    refuse_jumps(functional, "the absorbed shift")
    require(parameters, ("maintenance",), "the absorbed shift", "other parameters do not move all thresholds alike")
    fields = (
        ((default_increments(ladder.steps), 2.0 * float(ladder.law.deviation)),) if fields is None else tuple(fields)
    )
    if not fields or any(n < 1 or n != int(n) or not width > 0.0 for n, width in fields):
        raise InputError(f"fields = {fields}: expected pairs of a whole number of 1 or more and a positive width")
    if ladder.has_breaker and any(n > 1 for n, _ in fields):
        raise InputError(
            f"fields = {fields} with band = {float(ladder.band):g}: a breaker compares prices that have absorbed "
            "different shares of the shift; use fields of one increment (n = 1), measure_valued or differences"
        )
    walk = LadderWalk.build(ladder, functional, dtype)
    n, width = (jnp.asarray(np.array(column, np.float64).astype(walk.dtype)) for column in zip(*fields, strict=True))
    system = AbsorbedShift(walk, n, width)
    control, shares = coefficients(pilot(system, seed=seed, paths=pilot_paths, chunk=chunk))
    velocity = 1.0 / (1.0 - float(ladder.maintenance))

    def contributions(outcome: dict[str, np.ndarray]) -> np.ndarray:
        return velocity * uniform_shift(outcome, control, shares)[None, :]

    return gradient(
        run_batches(system, contributions, seed=seed, paths=paths, batches=batches, chunk=chunk),
        parameters,
        method="absorbed shift" if len(fields) == 1 else f"absorbed shift, {len(fields)} fields",
        reason="the parameter moves all thresholds alike and there is no active breaker"
        if not ladder.has_breaker
        else "the parameter moves all thresholds alike; one increment, because there is a breaker",
        bias=no_bias(parameters, "zero: an exact change of variables of the noise"),
    )
