"""Tilts tuned by cross-entropy on a ladder of levels."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from .. import _streams
from .._fields import InputError
from ..simulate import LANES
from . import diagnostics, measures, weighted
from .diagnostics import Row
from .pilot import Pilot, Sums, solve
from .problem import AbstractProblem
from .sampler import CHUNK, Fitted, laws, mixture, paths_of, whole
from .targets import AbstractTarget, Hint, Probability, Tail, weighted_quantile
from .tilt import Aim, Tilt, untilted

ONSET = 0.05  # share of what makes an outcome that comes from paths of lower scores
PLAIN_HITS = 100
"""A level of the pilot is compared with paths of the law itself where so many of them lie beyond it."""


class Round(NamedTuple):
    """Pilot paths of one round."""

    x: np.ndarray
    score: np.ndarray
    weight: np.ndarray
    sums: tuple[Sums, ...]


@dataclasses.dataclass(frozen=True)
class CrossEntropy:
    """Importance sampling whose tilt is fitted in rounds of pilot paths, each nearer to the event.

    A round draws `pilot` paths of the last tilt, raises the level to their `quantile` (never beyond the target), and fits
    the next tilt to those beyond it, weighted back; of the rounds that reach the target, `settle` are made. One in
    `period` paths is drawn from the law itself. Without `feedback` the drift is constant and all distances are one bin.

    **Source:** Rubinstein (1999), "The cross-entropy method for combinatorial and continuous optimization".
    """

    pilot: int = 20_000
    quantile: float = 0.9
    rounds: int = 12
    settle: int = 3
    period: int = 10
    feedback: bool = True
    shocks: bool = False

    def __post_init__(self):
        if not 0.0 < self.quantile < 1.0 or self.period < 2 or self.pilot < 1 or self.rounds < 1 or self.settle < 1:
            raise InputError(
                f"{self}: expected a quantile between 0 and 1, period >= 2, and at least one path and round"
            )

    def begin(self, problem: AbstractProblem, keys: Any, numbers: np.ndarray) -> tuple[Tilt, int]:
        """The tilt that leads to paths of the law itself with the given numbers, and how many paths that took.

        The farthest of many plain paths save the first rounds of a ladder. Which of their steps were shocks is found in a few
        passes over them.
        """
        aim = _unscaled(problem)
        tilt, passes = untilted(aim, problem, self.shocks), 6 if self.shocks else 2
        for number in range(passes):
            pilot = _pilot(self, problem, tilt, aim, 0)
            law = np.zeros(numbers.size, np.int32)
            found = paths_of(lambda _, pilot=pilot: pilot, keys, numbers, law, 4 * LANES)
            tilt = solve(problem, aim, found["sums"], np.ones(numbers.size), self.feedback)
            if number == 0:  # from here on distances have a scale
                aim = _scaled(problem, aim, float(np.mean(np.asarray(found["score"], float))))
                tilt = untilted(aim, problem, self.shocks)
        return tilt, passes * numbers.size

    def fit(self, problem: AbstractProblem, target: AbstractTarget, seed: int, begin: Tilt | None = None) -> Fitted:
        """The tilts for a target: one, or one for each level of a `Tail`; the ladder may begin with a tilt made before."""
        search = _Search(self, problem, target, seed, begin)
        levels = target.levels if isinstance(target, Tail) else (None,)
        tilts, last = tuple(search.climb(level) for level in levels), search.last
        assert last is not None
        y = target.contributions(last.x, last.weight)
        sizes = (last.weight if isinstance(target, Tail) else y)[y > 0.0]
        hint = Hint(float(np.median(sizes)) if sizes.size else 1.0, tuple(search.quantiles), f"{self}")
        return Fitted(target, hint, search.drawn, search.reached, tilts, self.period, search.checks(last))


def _pilot(method: CrossEntropy, problem: AbstractProblem, tilt: Tilt, aim: Aim, law: int) -> Pilot:
    return Pilot(problem, mixture(problem, (tilt,), method.period, law), aim)


def _unscaled(problem: AbstractProblem) -> Aim:
    start = problem.place(problem.init())
    return Aim(start, start + 1.0, jnp.asarray(False), jnp.full_like(start, jnp.inf))


def _scaled(problem: AbstractProblem, aim: Aim, barrier: float) -> Aim:
    start = float(aim.start)
    return aim._replace(barrier=jnp.asarray(barrier if barrier > start else start + 1.0, problem.dtype))


class _Search:
    """The state of a fit: the tilt so far, the level, and the distance scale."""

    def __init__(
        self, method: CrossEntropy, problem: AbstractProblem, target: AbstractTarget, seed: int, begin: Tilt | None
    ):
        self.method, self.problem, self.target, self.seed = method, problem, target, seed
        self.on_score = isinstance(target, Probability) and target.outcome == "score"
        self.start = float(problem.place(problem.init()))
        self.barrier = target.level if isinstance(target, Probability) and self.on_score else None
        self.tilt = begin
        if begin is not None and not self.on_score:
            self.barrier = float(begin.aim.barrier)
        self.onset = np.inf  # of the outcome: a low score of the paths that make it
        self.level = (-np.inf, -np.inf)
        self.drawn = self.number = 0
        self.last: Round | None = None
        self.clipped = 0.0  # share of the steps of the last tilted paths
        self.plain: list[np.ndarray] = []  # outcomes of paths of the law itself, round by round
        self.levels: list[float] = []
        self.reached = False
        self.quantiles: list[float] = []

    def aim(self) -> Aim:
        """Where the next tilt leads."""
        barrier = self.start + 1.0 if self.barrier is None else self.barrier
        dtype = self.problem.dtype
        if barrier <= self.start:  # the event is there from the start
            barrier = self.start + 1.0
        start, barrier, onset = (jnp.asarray(x, dtype) for x in (self.start, barrier, self.onset))
        return Aim(start, barrier, jnp.asarray(self.on_score), onset)

    def draw(self, aim: Aim) -> Round:
        """The paths of one more round."""
        method, problem = self.method, self.problem
        tilts = (untilted(aim, problem, method.shocks) if self.tilt is None else self.tilt,)
        numbers = np.arange(whole(method.pilot, method.period), dtype=np.int64)
        keys = _streams.noise_keys(self.seed, f"pilot/{self.number}")

        def system(law: int) -> Pilot:
            return _pilot(method, problem, tilts[0], aim, law)

        law = laws(numbers, 1, method.period)
        found = paths_of(system, keys, numbers, law, CHUNK)
        self.number, self.drawn = self.number + 1, self.drawn + numbers.size
        if self.target.outcome not in found:
            names = ", ".join(name for name in found if name not in ("log_weight", "clipped", "sums"))
            raise InputError(f"outcome = {self.target.outcome!r}: expected one of {names}")
        x, score = (np.asarray(found[name], float) for name in (self.target.outcome, "score"))
        weight = np.exp(np.asarray(found["log_weight"], float))
        good = np.isfinite(x) & np.isfinite(weight)
        self.clipped = float(np.mean(found["clipped"][law > 0])) / problem.steps
        self.plain.append(x[good & (law == 0)])
        sums: Any = found["sums"]
        self.last = Round(x[good], score[good], weight[good], jax.tree.map(lambda part: part[good], sums))
        return self.last

    def checks(self, last: Round) -> tuple[Row, ...]:
        """How often the drift was clipped, and whether the last round agrees with the plain paths of those before it."""
        plain = np.concatenate([np.zeros(0), *self.plain[:-1]])
        counts = {x: np.count_nonzero(plain >= x) for x in self.levels}
        levels = [x for x, count in counts.items() if PLAIN_HITS <= count < plain.size]  # an atom below is no event
        pairs = [(weighted.probability(last.x >= x, last.weight), measures.probability(plain >= x)) for x in levels]
        seen = [pair for pair in pairs if np.isfinite(pair[0].value)]
        return diagnostics.clipped(self.clipped), diagnostics.ladder_agreement(seen)

    def goal(self, paths: Round, tail: float | None) -> float:
        """The outcome at which the ladder ends."""
        if isinstance(self.target, Probability):
            return self.target.level
        if tail is not None:
            return weighted_quantile(paths.x, paths.weight, tail)
        return float(np.nextafter(paths.x.min(), np.inf))  # a mean: beyond the atom

    def select(self, paths: Round, tail: float | None) -> tuple[Float[np.ndarray, " paths"], bool]:
        """Weights for the fit, and whether they are those of the target itself."""
        order = np.lexsort((paths.score, paths.x))
        place = order[min(int(self.method.quantile * order.size), order.size - 1)]
        found = (float(paths.x[place]), float(paths.score[place]))
        self.level = max(self.level, found)
        self.levels.append(self.level[0])
        goal = self.goal(paths, tail)
        if self.level[0] >= goal:
            if tail is None:
                return self.target.contributions(paths.x, paths.weight), True
            return Tail.beyond(paths.x, paths.weight, tail), True
        beyond = (paths.x > self.level[0]) | ((paths.x == self.level[0]) & (paths.score >= self.level[1]))
        return paths.weight * beyond, False

    def climb(self, tail: float | None) -> Tilt:
        """Rounds until the target is reached and the tilt has settled."""
        method, settled = self.method, 0
        for _ in range(method.rounds):
            aim = self.aim()
            paths = self.draw(aim)
            omega, there = self.select(paths, tail)
            if not omega.sum() > 0.0:
                break
            scaled = self.barrier is not None
            if not self.on_score:
                self.barrier = float(omega @ paths.score / omega.sum())
                order = np.argsort(paths.score)
                place = np.searchsorted(np.cumsum(omega[order]), ONSET * omega.sum())
                self.onset = float(paths.score[order[min(place, order.size - 1)]])
            if not scaled:
                continue  # the features had no scale yet
            self.tilt = solve(self.problem, aim, paths.sums, omega, method.feedback)
            settled += there
            if settled >= method.settle:
                break
        self.reached = settled > 0
        if tail is not None and self.last is not None:
            self.quantiles.append(weighted_quantile(self.last.x, self.last.weight, tail))
        return untilted(self.aim(), self.problem) if self.tilt is None else self.tilt
