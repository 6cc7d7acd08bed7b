"""Subset simulation: levels are reached one after the other by moves in noise space that keep the law of the noise.

All noise of a path is standard normal here (a uniform is Phi of one). From the paths that reached a level, some are chosen
and moved on by

    z' = r z + sqrt(1 - r^2) xi,     accepted if the path of z' reaches the level too (else z stays),

which leaves the law of the noise given the level as it is. With fixed levels p = prod_k hits_k / paths has no bias; levels and
r, steered to an acceptance of 0.44, come from a pilot run. Paths of one run hang together, so the interval is that of Student
over replicates.

**Source:** Au and Beck (2001), "Estimation of small failure probabilities in high dimensions by subset simulation"; Papaioannou,
Betz, Zwirglmaier, Straub (2015), "MCMC algorithms for subset simulation"; Del Moral (2004) for the absence of bias.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.scipy.special as jsp
import numpy as np
from jaxtyping import Array, Float

from .. import _streams
from .._fields import InputError
from .._streams import Noise
from ..simulate import LANES, entry_point, rollout, spread
from .diagnostics import Result
from .problem import AbstractProblem
from .splitting import MOST_LEVELS, next_level, not_finite, replicated, systematic, uniforms_of
from .targets import AbstractTarget, Probability

BATCH = 512
ACCEPTANCE = 0.44
WIDEST, BISECTIONS = 1.4, 6  # largest angle of a move, whose cosine is r; halvings in the search of one


class Particles(NamedTuple):
    """Normals of paths, for the normals and uniforms of the problem, and scores."""

    z: Float[np.ndarray, "particles steps draws"]
    score: Float[np.ndarray, " particles"]


def score_of(problem: AbstractProblem, z: Float[Array, "steps draws"]) -> Float[Array, ""]:
    """The score of the path with this noise."""
    first, info = problem.draws.normals, jnp.finfo(z.dtype)
    uniform = jnp.clip(jsp.ndtr(z[:, first:]), info.tiny, 1.0 - info.epsneg)
    state, _ = rollout(problem, lambda step: Noise(z[step, :first], uniform[step]))
    return problem.score(state)


def _fresh(problem: AbstractProblem, key: Any, path: Any, move: Any) -> Float[Array, "steps draws"]:
    first, steps = jnp.asarray(move).astype(jnp.uint32) * np.uint32(problem.steps), jnp.arange(problem.steps)

    def one(step: Any) -> Float[Array, " draws"]:
        return _streams.normals(key, path, first + step, sum(problem.draws), problem.dtype)

    return jax.vmap(one)(steps.astype(jnp.uint32))


def _start(problem: AbstractProblem, key: Any, paths: Any) -> tuple[Any, Any]:
    z = jax.vmap(lambda path: _fresh(problem, key, path, 0))(paths)
    return z, jax.vmap(lambda z: score_of(problem, z))(z)


def _chains(
    problem: AbstractProblem, key: Any, moves: int, keep: Any, level: Any, paths: Any, z: Any, score: Any
) -> Any:
    """Chains of moves from given paths: noise and scores after each, and the share of moves that were accepted."""

    def one(path: Any, z: Any, score: Any) -> Any:
        def body(carry: Any, move: Any) -> Any:
            z, score = carry
            tried = keep * z + jnp.sqrt(1.0 - keep * keep) * _fresh(problem, key, path, move)
            reached = score_of(problem, tried)
            accept = reached >= level
            now = jnp.where(accept, tried, z), jnp.where(accept, reached, score)
            return now, (*now, accept)

        return jax.lax.scan(body, (z, score), jnp.arange(moves))[1]

    return jax.vmap(one)(paths, z, score)


_jitted_start, _jitted_chains = entry_point(_start), entry_point(_chains)


def _batches(call: Any, *columns: np.ndarray) -> Any:
    """The call on batches of one size, joined."""
    size = columns[0].shape[0]
    lanes = min(BATCH, size + -size % LANES)
    order = np.concatenate([np.arange(size), np.zeros(-size % lanes, int)]).reshape(-1, lanes)
    parts = list(spread(lambda mine: jax.tree.map(np.asarray, call(*(c[mine] for c in columns))), order))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:size], *parts)


def _begin(problem: AbstractProblem, key: Any, size: int) -> Particles:
    return Particles(*_batches(lambda paths: _jitted_start(problem, key, paths), np.arange(size, dtype=np.uint32)))


def _moved(
    problem: AbstractProblem, key: Any, seeds: Particles, moves: int, keep: float, level: float
) -> tuple[Particles, float]:
    """All states of chains from the seeds, chain by chain, and the acceptance."""
    numbers = (jnp.asarray(x, problem.dtype) for x in (keep, level))
    given = (problem, key, moves, *numbers)
    paths = np.arange(seeds.score.size, dtype=np.uint32)
    z, score, accept = _batches(lambda *columns: _jitted_chains(*given, *columns), paths, *seeds)
    return Particles(z.reshape(-1, *z.shape[2:]), score.reshape(-1)), float(accept.mean())


def _seeds(particles: Particles, reached: np.ndarray, chains: int, uniform: float) -> Particles:
    """Systematic resampling of those that reached the level; all if none did."""
    hits = np.flatnonzero(reached) if reached.any() else np.arange(reached.size)
    chosen = systematic(hits, chains, uniform)
    return Particles(*(leaf[chosen] for leaf in particles))


@dataclasses.dataclass(frozen=True)
class FittedSubset:
    """Frozen levels for a probability of the score, and r of the moves that follow each but the last."""

    target: Probability
    levels: tuple[float, ...]
    keeps: tuple[float, ...]
    moves: int
    replicates: int
    tuning_paths: int

    def run(self, problem: AbstractProblem, paths: int, seed: int, *, confidence: float = 0.95) -> dict[str, Result]:
        """The probability from about `paths` paths in all, shared by replicates and levels."""
        chains = max(paths // (self.replicates * len(self.levels) * self.moves), 1)
        size, count = chains * self.moves, self.replicates
        particles = _begin(problem, _streams.stream_key(seed, "subset"), count * size)
        p, hits = np.ones(count), 0
        for stage, level in enumerate(self.levels):
            if (broken := not_finite(particles.score, paths, self.tuning_paths)) is not None:
                return broken
            reached = (particles.score >= level).reshape(count, size)
            hits = int(np.count_nonzero(reached[p > 0.0]))
            p = p * reached.mean(axis=1)
            if stage + 1 == len(self.levels):
                break
            uniforms = uniforms_of(seed, f"subset resample/{stage}", count)
            runs = [Particles(*(leaf[r * size : (r + 1) * size] for leaf in particles)) for r in range(count)]
            seeds = [_seeds(run, reached[r], chains, uniforms[r]) for r, run in enumerate(runs)]
            joined = Particles(*(np.concatenate(leaves) for leaves in zip(*seeds, strict=True)))
            key = _streams.stream_key(seed, f"subset/{stage}")
            particles, _ = _moved(problem, key, joined, self.moves, self.keeps[stage], level)
        return replicated(p, hits, count * size * len(self.levels), self.tuning_paths, confidence)


@dataclasses.dataclass(frozen=True)
class Subset:
    """Subset simulation with levels that are each reached by a share `conditional` of the paths that reached the last.

    It changes no law of a tilt, so it is a second family; but all paths of a run descend from few, and a part of the event
    that the first levels do not lead to is missed: never trust it alone.
    """

    conditional: float = 0.1
    pilot: int = 2_000
    replicates: int = 16

    def __post_init__(self):
        if not 0.0 < self.conditional <= 0.5 or self.pilot * self.conditional < 2.0 or self.replicates < 2:
            raise InputError(
                f"{self}: expected a conditional probability up to 1/2, pilot paths enough for 2 to reach a level, and at "
                "least 2 replicates"
            )

    def fit(self, problem: AbstractProblem, target: AbstractTarget, seed: int) -> FittedSubset:
        """Levels and moves from one run that chooses them as it goes."""
        if not isinstance(target, Probability) or target.outcome != "score":
            raise InputError(f"{target}: expected a Probability of the score; use CrossEntropy for other targets")
        moves = round(1.0 / self.conditional)
        chains = self.pilot // moves
        particles = _begin(problem, _streams.stream_key(seed, "subset pilot"), self.pilot)
        levels, keeps, drawn = [], [], self.pilot
        while len(levels) < MOST_LEVELS:
            level = next_level(particles.score, levels, self.conditional, target.level)
            if level >= target.level or np.mean(particles.score >= target.level) >= 0.5 * self.conditional:
                break
            levels.append(level)
            uniform = float(uniforms_of(seed, f"subset pilot resample/{len(levels)}", 1)[0])
            seeds = _seeds(particles, particles.score >= level, chains, uniform)
            key = _streams.stream_key(seed, f"subset pilot/{len(levels)}")
            low, high = 0.0, WIDEST
            for _ in range(BISECTIONS):
                angle = 0.5 * (low + high)
                _, accepted = _moved(problem, key, seeds, 1, float(np.cos(angle)), level)
                low, high = (angle, high) if accepted > ACCEPTANCE else (low, angle)
            keeps.append(float(np.cos(0.5 * (low + high))))
            particles, _ = _moved(problem, key, seeds, moves, keeps[-1], level)
            drawn += chains * (BISECTIONS + moves)
        return FittedSubset(target, (*levels, target.level), tuple(keeps), moves, self.replicates, drawn)
