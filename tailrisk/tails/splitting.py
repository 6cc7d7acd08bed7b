"""Multilevel splitting: paths that come far are continued many times, so no law is changed and no weight arises.

A path counts for a level when its score reaches it. Stage k starts `particles` paths from states in which stage k - 1 was
reached, chosen by systematic resampling, and lets them run to the next level or the end:

    p = prod_k hits_k / particles,

which has no bias. Replicates of the whole run are independent and give the interval. Levels come from a pilot run.

**Source:** Garvels (2000), "The splitting method in rare event simulation"; Cerou and Guyader (2007), "Adaptive multilevel
splitting for rare event analysis", for levels from quantiles.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree
from scipy import stats

from .. import _streams
from .._fields import InputError
from ..simulate import LANES, entry_point, spread, starts, until
from . import diagnostics
from .diagnostics import Diagnosis, Result, Row
from .measures import Estimate
from .problem import AbstractProblem
from .targets import AbstractTarget, Probability

BATCH = 1024
MOST_LEVELS = 60
MOST_SPREAD = (0.7, 1.5)  # of replicates over their mean: warn, and refuse the t interval of so few


class Particles(NamedTuple):
    """States of paths and the step from which each goes on."""

    state: PyTree
    since: np.ndarray


def _stage(problem: AbstractProblem, keys: Any, paths: Any, state: PyTree, since: Any, level: Any) -> Any:
    found, stopped, after = until(problem, keys, paths, state, since, lambda state: problem.score(state) >= level)
    return found, stopped, after, jax.vmap(problem.score)(found)


_jitted = entry_point(_stage)


def _run_stage(
    problem: AbstractProblem, keys: Any, particles: Particles, level: float
) -> tuple[Particles, np.ndarray, np.ndarray]:
    """All particles until the level: where they stopped, whether they reached it, and their scores."""
    size = particles.since.size
    lanes = min(BATCH, size + -size % LANES)
    order = np.argsort(particles.since, kind="stable")  # lanes of one batch start together
    order = np.concatenate([order, np.full(-size % lanes, order[-1])])

    def one(mine: np.ndarray) -> Any:
        state = jax.tree.map(lambda leaf: jnp.asarray(leaf[mine]), particles.state)
        since, paths = (jnp.asarray(x.astype(np.uint32)) for x in (particles.since[mine], mine))
        return jax.tree.map(np.asarray, _jitted(problem, keys, paths, state, since, jnp.asarray(level, problem.dtype)))

    parts = list(spread(one, order.reshape(-1, lanes)))
    back = np.argsort(order[:size])
    state, stopped, after, score = jax.tree.map(lambda *leaves: np.concatenate(leaves)[:size][back], *parts)
    return Particles(state, after), stopped, score


def _resample(particles: Particles, stopped: np.ndarray, uniforms: np.ndarray) -> tuple[Particles, np.ndarray]:
    """Systematic resampling within each replicate; a replicate without a hit keeps what it has, and counts no more."""
    size = stopped.shape[1]
    chosen = np.tile(np.arange(size), (stopped.shape[0], 1))
    for replicate, reached in enumerate(stopped):
        entries = np.flatnonzero(reached)
        if entries.size:
            chosen[replicate] = systematic(entries, size, uniforms[replicate])
    flat = (chosen + size * np.arange(stopped.shape[0])[:, None]).reshape(-1)
    return jax.tree.map(lambda leaf: leaf[flat], particles), stopped.mean(axis=1)


def systematic(entries: np.ndarray, count: int, uniform: float) -> np.ndarray:
    """Systematic resampling: `count` of the entries, each as often as any other but for one."""
    return entries[((uniform + np.arange(count)) * entries.size / count).astype(int)]


def next_level(score: np.ndarray, levels: list[float], conditional: float, goal: float) -> float:
    """The level that about a share `conditional` of the scores reach; at an atom, the next value above the last level."""
    level = float(np.quantile(score, 1.0 - conditional, method="lower"))
    if not levels or level > levels[-1]:
        return level
    above = score[score > levels[-1]]
    return float(above.min()) if above.size else goal


def refused(row: Row, paths: int, tuning_paths: int) -> dict[str, Result]:
    """No probability, for the reason of a row."""
    nothing = Estimate(np.nan, np.nan, np.nan, np.nan)
    return {"probability": Result(nothing, Diagnosis((row,)), np.nan, paths, tuning_paths)}


def replicated(p: np.ndarray, hits: int, paths: int, tuning_paths: int, confidence: float) -> dict[str, Result]:
    """The mean of the estimates of replicates, with an interval of Student's law on the log scale."""
    value, error = float(p.mean()), float(p.std(ddof=1) / np.sqrt(p.size))
    rows = [diagnostics.not_finite(0), diagnostics.low("effective_hits", hits, diagnostics.DEFAULT.effective_hits)]
    if value == 0.0:
        return refused(rows[1], paths, tuning_paths)
    rows.append(diagnostics.high("replicate_spread", float(p.std(ddof=1)) / value, MOST_SPREAD))
    half = float(stats.t.ppf(0.5 + 0.5 * confidence, p.size - 1)) * error / value
    estimate = Estimate(value, error, value * np.exp(-half), min(value * np.exp(half), 1.0))
    return {"probability": Result(estimate, Diagnosis(tuple(rows)), np.nan, paths, tuning_paths)}


def not_finite(score: np.ndarray, paths: int, tuning_paths: int) -> dict[str, Result] | None:
    """The refusal of a run with scores that are no numbers, if there are any."""
    broken = int(np.count_nonzero(~np.isfinite(score)))
    return refused(diagnostics.not_finite(broken), paths, tuning_paths) if broken else None


def _begin(problem: AbstractProblem, lanes: int) -> Particles:
    state = jax.tree.map(np.asarray, starts(problem, lanes))
    return Particles(state, np.zeros(lanes, np.uint32))


def uniforms_of(seed: int, name: str, replicates: int) -> np.ndarray:
    key = _streams.stream_key(seed, name)
    return np.asarray(_streams.uniforms(key, 0, 0, replicates, np.float32), float)


@dataclasses.dataclass(frozen=True)
class FittedSplitting:
    """Frozen levels for a probability of the score."""

    target: Probability
    levels: tuple[float, ...]
    replicates: int
    tuning_paths: int

    def run(self, problem: AbstractProblem, paths: int, seed: int, *, confidence: float = 0.95) -> dict[str, Result]:
        """The probability from `paths` starts in all, shared by the replicates and levels.

        `Result.paths` counts steps: how many whole paths would have cost as much.
        """
        count = len(self.levels)
        size = max(paths // (self.replicates * count), 2)
        particles = _begin(problem, self.replicates * size)
        p, steps, hits = np.ones(self.replicates), 0, 0
        for stage, level in enumerate(self.levels):
            keys = _streams.noise_keys(seed, f"splitting/{stage}")
            after, stopped, score = _run_stage(problem, keys, particles, level)
            if (broken := not_finite(score, paths, self.tuning_paths)) is not None:
                return broken
            steps += int((after.since.astype(int) - particles.since.astype(int)).sum())
            reached = stopped.reshape(self.replicates, size)
            particles, share = _resample(after, reached, uniforms_of(seed, f"resample/{stage}", self.replicates))
            hits = int(np.count_nonzero(reached[p > 0.0]))
            p = p * share
        return replicated(p, hits, -(-steps // problem.steps), self.tuning_paths, confidence)


@dataclasses.dataclass(frozen=True)
class Splitting:
    """Splitting with levels that are each reached by about a share `conditional` of the paths from the one before."""

    conditional: float = 0.4
    pilot: int = 2_000
    replicates: int = 16

    def __post_init__(self):
        if not 0.0 < self.conditional < 1.0 or self.pilot < 2 or self.replicates < 2:
            raise InputError(f"{self}: expected 0 < conditional < 1, at least 2 pilot paths and 2 replicates")

    def fit(self, problem: AbstractProblem, target: AbstractTarget, seed: int) -> FittedSplitting:
        """Levels from quantiles of the scores of pilot paths, which are then replayed up to the new level."""
        if not isinstance(target, Probability) or target.outcome != "score":
            raise InputError(f"{target}: expected a Probability of the score; use CrossEntropy for other targets")
        particles, levels, drawn = _begin(problem, self.pilot), [], 0
        while len(levels) < MOST_LEVELS:
            keys = _streams.noise_keys(seed, f"splitting pilot/{len(levels)}")
            _, _, score = _run_stage(problem, keys, particles, target.level)
            drawn += self.pilot
            level = next_level(score, levels, self.conditional, target.level)
            if level >= target.level:
                break
            levels.append(level)
            after, stopped, _ = _run_stage(problem, keys, particles, level)
            particles, _ = _resample(after, stopped[None, :], uniforms_of(seed, f"pilot resample/{len(levels)}", 1))
        return FittedSplitting(target, (*levels, target.level), self.replicates, drawn)
