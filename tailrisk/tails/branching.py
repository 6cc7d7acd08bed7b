"""Splitting whose levels are passed by trial steps, so that no path has to make a rare step for the next one to begin.

Every step of every path is tried once more from laws of shocks, as in `one_step`. Let b be the next level of a path. A trial
step to a score s >= b, with its weight dp/dq, either reaches the target or is a place from which another path may go on:

    P(S >= level) = sum_t E[ 1{S_t < b} (dp/dq) (1{S' >= level} + 1{b <= S' < level} P(S >= level | that place)) ].

Each path keeps one such place, chosen in proportion to weight times s^a; some of all places are then chosen by systematic
resampling and go on under the law of the problem itself, each to the level after its own. As P(S >= s) falls about like s^-a,
places are chosen equally often at all heights. No path is tilted, so what a tilt of paths does not reach is seen here.

**Source:** Garvels (2000) for splitting; Asmussen and Kroese (2006) for one large step integrated given all others; Chao
(1982), "A general purpose unequal probability sampling plan", for keeping one of a stream.
"""

import dataclasses
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PyTree

from .. import _streams
from .._streams import Draws, Noise
from ..simulate import entry_point, spread, starts
from .diagnostics import Diagnosis, Result, Row
from .one_step import OneStep
from .problem import AbstractProblem
from .sampler import mixture
from .splitting import BATCH, not_finite, replicated, uniforms_of
from .tilt import Law, Tilt

BEYOND, MANY = 100, 1000
"""Plain paths beyond the first level where a tilt leads there, and where none does."""
FACTOR = 4.0  # by which the probability falls from level to level
STEEPEST = 30.0  # of a
NEAR = 0.99  # of the target: a level beyond is left out


class Places(NamedTuple):
    """Where paths go on from, the next level of each, and what each stands for."""

    state: PyTree
    since: np.ndarray
    bound: np.ndarray
    weight: np.ndarray


class Found(NamedTuple):
    """Of each path: weights of trial steps to the target, and of those to places between; the place that was kept."""

    reach: Any
    mass: Any
    kept: Any
    since: Any
    score: Any


def _stage(
    one: OneStep,
    tilts: tuple[Tilt, ...],
    period: int,
    steepness: Any,
    keys: Any,
    paths: Any,
    law: Any,
    state: PyTree,
    since: Any,
    bound: Any,
) -> Found:
    """Paths from the steps `since` to the end or their bound, with a trial of every step; under tilts they begin at the start."""
    problem = one.problem
    normals, uniforms = problem.draws
    draws = Draws(normals, one.draws.uniforms + 1)

    def advance(step: Any, carried: Any) -> Any:
        def lane(path: Any, law: Any, since: Any, bound: Any, carried: Any) -> Any:
            state, memory, log_weight, found = carried
            noise = _streams.noise(keys, path, step, draws, problem.dtype)
            _, after, weight = one.tried(state, noise.uniform[uniforms:-1])
            weight = weight * jnp.exp(log_weight)  # of the path up to here: what comes later does not matter
            score, moves = problem.score(after), (step >= since) & (problem.score(state) < bound)
            there, between = moves & (score >= one.level), moves & (score >= bound) & (score < one.level)
            more = jnp.where(between, weight * (score / one.level) ** steepness, 0.0)
            mass = found.mass + more
            takes = noise.uniform[-1] * mass < more
            kept = jax.tree.map(lambda new, old: jnp.where(takes, new, old), after, found.kept)
            reach = found.reach + jnp.where(there, weight, 0.0)
            at, height = jnp.where(takes, step + jnp.uint32(1), found.since), jnp.where(takes, score, found.score)
            own = Noise(noise.normal, noise.uniform[:uniforms])
            if tilts:
                own, ratio, memory = mixture(problem, tilts, period, law).draw(memory, state, own)
                log_weight = log_weight + ratio
            new, _ = problem.step(state, own)
            state = jax.tree.map(lambda new, old: jnp.where(moves, new, old), new, state)
            return state, memory, log_weight, Found(reach, mass, kept, at, height)

        return jax.vmap(lane)(paths, law, since, bound, carried)

    zero, memory = jnp.zeros(paths.shape, problem.dtype), ()
    if tilts:
        memory = jax.vmap(lambda law: mixture(problem, tilts, period, law).init(problem.dtype))(law)
    begin = (state, memory, zero, Found(zero, zero, state, since, zero))
    return jax.lax.fori_loop(jnp.min(since), jnp.uint32(problem.steps), advance, begin)[-1]


_jitted = entry_point(_stage)


def _run_stage(
    one: OneStep, tilts: tuple[Tilt, ...], period: int, steepness: float, keys: Any, places: Places, law: np.ndarray
) -> Found:
    size, dtype = places.since.size, one.problem.dtype
    order = np.argsort(places.since, kind="stable")  # lanes of one batch start together
    order = np.concatenate([order, np.full(-size % BATCH, order[-1])])  # one program for all sizes

    def batch(mine: np.ndarray) -> Any:
        state = jax.tree.map(lambda leaf: jnp.asarray(leaf[mine]), places.state)
        paths, since = (jnp.asarray(x.astype(np.uint32)) for x in (mine, places.since[mine]))
        bound, steep = (jnp.asarray(np.asarray(x, dtype)) for x in (places.bound[mine], steepness))
        drawn = jnp.asarray(law[mine].astype(np.int32))
        return jax.tree.map(np.asarray, _jitted(one, tilts, period, steep, keys, paths, drawn, state, since, bound))

    parts = list(spread(batch, order.reshape(-1, BATCH)))
    back = np.argsort(order[:size])
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:size][back], *parts)


class FittedBranching(eqx.Module):
    """Frozen laws of trial steps, levels of the score with that of the target at the end, the a of s^a, and tilts if any.

    With `tilts` the paths from the start come from their mixture, one in `period` from the law itself; those that go on never do.
    """

    laws: tuple[Law, ...]
    levels: tuple[float, ...] = eqx.field(static=True)
    steepness: float = eqx.field(static=True)
    tilts: tuple[Tilt, ...] = ()
    period: int = eqx.field(static=True, default=10)
    replicates: int = eqx.field(static=True, default=16)
    tuning_paths: int = eqx.field(static=True, default=0)
    checks: tuple[Row, ...] = eqx.field(static=True, default=())  # of the pilot

    def plain(self, levels: tuple[float, ...], steepness: float) -> "FittedBranching":
        """The same laws of trial steps without tilts, on another ladder: plain paths need a lower first level."""
        return FittedBranching(self.laws, levels, steepness, replicates=self.replicates, tuning_paths=self.tuning_paths)

    def run(self, problem: AbstractProblem, paths: int, seed: int, *, confidence: float = 0.95) -> dict[str, Result]:
        """The probability: half of `paths` from the start, the others from places, shared by replicates.

        `Result.paths` counts paths.
        """
        one, count, later = OneStep(problem, self.laws, self.levels[-1]), self.replicates, len(self.levels) - 1
        groups = max(len(self.tilts), 1) * self.period  # in which the shares of all laws are exact
        first = groups * max(round(paths / count / groups / (2 if later else 1)), 1)
        size = max((paths // count - first) // max(later, 1), 2)
        law = np.tile(np.arange(first) % groups, count)
        law = np.where(law % self.period == self.period - 1, 0, 1 + law // self.period)
        p, square, drawn, name = np.zeros(count), 0.0, 0, "tilted" if self.tilts else "plain"
        state = jax.tree.map(np.asarray, starts(problem, law.size))
        share, lowest = np.full(law.size, 1.0 / first), np.full(law.size, self.levels[0])
        places, tilts = Places(state, np.zeros(law.size, np.uint32), lowest, share), self.tilts
        for stage in range(len(self.levels)):
            keys = _streams.noise_keys(seed, f"{name} branching/{stage}")
            found = _run_stage(one, tilts, self.period, self.steepness, keys, places, law)
            drawn += places.since.size
            if (broken := not_finite(found.mass + found.reach, drawn, self.tuning_paths)) is not None:
                return broken
            worth = places.weight * np.asarray(found.reach, float)
            p, square = p + worth.reshape(count, -1).sum(axis=1), square + float(worth @ worth)
            if stage + 1 == len(self.levels) or not np.any(found.mass > 0.0):
                break
            places = self._chosen(places, found, size, uniforms_of(seed, f"{name} branches/{stage}", count))
            tilts, law = (), np.zeros(places.since.size, np.int32)
        hits = int(p.sum() ** 2 / square) if square > 0.0 else 0
        result = replicated(p, hits, drawn, self.tuning_paths, confidence)["probability"]
        diagnosis = Diagnosis((*result.diagnosis.rows, *self.checks))
        return {"probability": dataclasses.replace(result, diagnosis=diagnosis)}

    def _chosen(self, places: Places, found: Found, size: int, uniforms: np.ndarray) -> Places:
        """Places to go on from: systematic resampling in each replicate, in proportion to weight times s^a."""
        mass = (places.weight * np.asarray(found.mass, float)).reshape(uniforms.size, -1)
        total = mass.sum(axis=1)
        wanted = (uniforms[:, None] + np.arange(size)) / size
        chosen = [
            np.searchsorted(np.cumsum(m) / t, w) if t > 0.0 else np.zeros(size, int)
            for m, t, w in zip(mass, total, wanted, strict=True)
        ]
        flat = np.minimum(np.stack(chosen), mass.shape[1] - 1) + mass.shape[1] * np.arange(uniforms.size)[:, None]
        flat = flat.reshape(-1)
        score = np.asarray(found.score, float)[flat]
        # as the paths see them: a score that is just a level has passed it
        levels = np.asarray(self.levels, found.score.dtype).astype(float)
        share = np.repeat(total / size, size)
        weight = np.where(share > 0.0, share / np.maximum(score / levels[-1], 1e-30) ** self.steepness, 0.0)
        bound = levels[np.minimum(np.searchsorted(levels, score, side="right"), levels.size - 1)]
        return Places(jax.tree.map(lambda leaf: leaf[flat], found.kept), found.since[flat], bound, weight)


def ladder(scores: Float[np.ndarray, " paths"], level: float, beyond: int = BEYOND) -> tuple[tuple[float, ...], float]:
    """Levels from the score that so many plain paths are beyond, and a, by the Pareto law of these paths.

    **Source:** Hill (1975), "A simple general approach to inference about the tail of a distribution".
    """
    top = np.sort(np.asarray(scores, float))[::-1][: beyond + 1]
    first = float(top[-1])
    if not 0.0 < first < level or scores.size <= beyond:
        return (level,), 1.0
    steepness = min(1.0 / max(float(np.mean(np.log(top[:-1] / first))), 1e-9), STEEPEST)
    count = int(steepness * np.log(level / first) / np.log(FACTOR))
    between = (first * FACTOR ** (np.arange(count + 1) / steepness)).tolist()
    return (*(x for x in between if x < NEAR * level), level), steepness
