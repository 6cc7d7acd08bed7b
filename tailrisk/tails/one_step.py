"""Events that one large step makes, counted in every step of every path by a step that might have been.

Let S be a score that never falls, and let the step after a state be drawn twice: once for the path, and once more, from a law q
of shocks, only to look. A path passes the level b once or never, so

    P(S >= b) = sum_t E[ 1{S_t < b} P(S_{t+1} >= b | path to t) ] = E[ sum_t 1{S_t < b} 1{S'_{t+1} >= b} (dp/dq)(noise') ],

and the sum of a path is a mean over as many trial steps as it has steps. What is left to importance sampling is to bring paths to
where a shock would do it: a smooth quantity, positive for many paths, for which a tilt is tuned at once, without levels.

**Source:** Asmussen and Kroese (2006), "Improved algorithms for rare event simulation with heavy tails", for one large term
that is integrated given all others; here given the path before it.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from .._streams import Draws, Noise, Roles, noise_keys, tail_quantile
from .pilot import Pilot, Sums, averaged, joined, no_sums, solve, sums_of
from .problem import AbstractProblem
from .sampler import CHUNK, laws, mixture, paths_of, whole
from .tilt import BINS, FEATURES, Law, Tilt, draw, log_density, without_shock


class Reach(NamedTuple):
    """A path, and its sum over trial steps so far."""

    path: PyTree
    reach: Float[Array, ""]
    trials: Sums | tuple[()]  # of trial steps that passed, weighted


class OneStep(AbstractProblem):
    """A problem with the outcome `reach`, whose mean is the probability that the score reaches `level`.

    Trial steps come from the `laws` with equal shares; wherever p has mass they must have some.
    """

    problem: AbstractProblem
    laws: tuple[Law, ...]
    level: Float[Array, ""]
    learns: bool = eqx.field(static=True)  # whether trial steps are summed up, for a better law
    steps: int = eqx.field(static=True)
    dtype: Any = eqx.field(static=True)

    def __init__(self, problem: AbstractProblem, laws: tuple[Law, ...], level: float, learns: bool = False):
        self.problem, self.laws, self.level = problem, laws, jnp.asarray(level, problem.dtype)
        self.learns = learns
        self.steps, self.dtype = problem.steps, problem.dtype

    @property
    def draws(self) -> Draws:
        """Those of the problem, and uniforms for a trial step: two for each normal, and one that chooses its law."""
        normals, uniforms = self.problem.draws
        return Draws(normals, 2 * uniforms + 2 * normals + 1)

    @property
    def roles(self) -> Roles:
        return self.problem.roles

    def init(self) -> Reach:
        return Reach(self.problem.init(), jnp.zeros((), self.dtype), no_sums(self.problem) if self.learns else ())

    def tried(self, path: PyTree, uniform: Float[Array, " uniforms"]) -> tuple[Noise, PyTree, Float[Array, ""]]:
        """A trial step from a path: its noise, the path after it and dp/dq, from the uniforms beyond those of the problem."""
        normals, uniforms = self.problem.draws
        size, sign = uniform[uniforms : uniforms + normals], uniform[uniforms + normals : uniforms + 2 * normals]
        z = tail_quantile(0.5 * size)
        trial = Noise(jnp.where(sign < 0.5, z, -z), uniform[:uniforms])
        law, chosen = self.laws[0], uniform[uniforms + 2 * normals] * len(self.laws)
        for number, other in enumerate(self.laws[1:], 1):
            law = Law(*(jnp.where(chosen >= number, b, a) for a, b in zip(law, other, strict=True)))
        trial = draw(self.problem, law, path, trial)
        ratios = jnp.stack([log_density(self.problem, law, path, trial) for law in self.laws])
        most = jnp.max(ratios)
        weight = jnp.exp(-most) / jnp.mean(jnp.exp(ratios - most))
        return trial, self.problem.step(path, trial)[0], weight

    def step(self, state: Reach, noise: Noise) -> tuple[Reach, Any]:
        uniforms = self.problem.draws.uniforms
        trial, after, weight = self.tried(state.path, noise.uniform[uniforms:])
        passes = (self.problem.score(state.path) < self.level) & (self.problem.score(after) >= self.level)
        path, shown = self.problem.step(state.path, Noise(noise.normal, noise.uniform[:uniforms]))
        worth, trials = jnp.where(passes, weight, 0.0), state.trials
        if isinstance(trials, Sums):
            phi, here = (jnp.where(jnp.arange(size) == 0, 1.0, 0.0).astype(self.dtype) for size in (FEATURES, BINS))
            more = sums_of(self.problem, state.path, trial, phi, here)
            trials = Sums(*(a + worth * b for a, b in zip(trials, more, strict=True)))
        return Reach(path, state.reach + worth, trials), shown

    def place(self, state: Reach) -> Float[Array, ""]:
        return self.problem.place(state.path)

    def score(self, state: Reach) -> Float[Array, ""]:
        return self.problem.score(state.path)

    def chance(self, state: Reach, noise: Noise, event: int) -> Float[Array, ""]:
        return self.problem.chance(state.path, noise, event)

    def outcome(self, state: Reach) -> dict[str, Any]:
        learned = {"trials": state.trials} if self.learns else {}
        return self.problem.outcome(state.path) | {"reach": state.reach} | learned


def tune(
    problem: AbstractProblem, level: float, begin: Tilt, seed: int, *, pilot: int, rounds: int = 3, period: int = 10
) -> tuple[Law, Tilt, int, float]:
    """The law of trial steps and the tilt of paths for one way to an event, the paths that took, and the share of their steps
    in which a drift was clipped.

    `begin` has the law of shocks to begin with. Each round weighs the trial steps that passed, and the paths by their sums.
    """
    assert begin.shock is not None, "a tilt with shocks is where trial steps begin"
    law, tilt, share = begin.shock.law, without_shock(begin), 0.0
    numbers, drawn_paths = np.arange(whole(pilot, period), dtype=np.int64), 0
    for number in range(rounds):
        one, aim = OneStep(problem, (law,), level, learns=True), tilt.aim

        def system(drawn: int, one: OneStep = one, tilt: Tilt = tilt, aim: Any = aim) -> Pilot:
            return Pilot(one, mixture(one, (tilt,), period, drawn), aim)

        keys = noise_keys(seed, f"trial steps/{number}")
        drawn = laws(numbers, 1, period)
        found = paths_of(system, keys, numbers, drawn, CHUNK)
        share = float(np.mean(found["clipped"][drawn > 0])) / problem.steps
        weight = np.exp(np.asarray(found["log_weight"], float))
        worth = weight * np.asarray(found["reach"], float)
        drawn_paths += numbers.size
        if not worth.sum() > 0.0:
            break
        law = joined(one, averaged(found["trials"], weight / worth.sum()))
        tilt = solve(one, aim, found["sums"], worth, feedback=False)
    return law, tilt, drawn_paths, share
