"""One Gaussian direction integrated exactly, so that the probability of an event is smooth in everything.

    P(hit) = E[w P(hit | line)],     d ln P / d theta = E[w dP(hit | line)/dtheta] / P(hit)

over lines z' + s e in noise space; see `line.py`. Events and their marks are drawn from another law, that of a tilt, with
weight w. It looks at the path of one s on the line, so w is the same on all of it and holds no parameter.

**Source:** Glasserman (2003), section 7.2.3, for smoothing by conditional expectation; Koutsourelakis, Pradlwarter, Schueller
(2004) for line sampling.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from .. import _streams
from .._fields import InputError, Real
from ..simulate import LANES, spread
from . import diagnostics, sampler, streamed
from .accumulator import Nodes, insert, row_moments, summarize, total
from .coordinates import Along
from .crossentropy import CrossEntropy
from .diagnostics import Result
from .line import HIGHEST, Crossing, Drawn, Lines, crossings
from .plan import Integrand, Plan
from .problem import AbstractProblem
from .proposal import Tilted
from .targets import AbstractTarget, Extra, Probability
from .tilt import Tilt

CHUNK = 512  # lines in one compiled batch
CELLS = 16  # in which several roots on a line are looked for
FLAT = (1e-3, 1e-2)  # share of roots at which the score does not move along the line: warn, refuse
UNSURE = (1e-4, 1e-2)  # last step of the search over the estimate: warn, refuse
CHECKED = 100  # one line in so many is looked at in cells


@dataclasses.dataclass(frozen=True)
class FittedDirection:
    """A frozen direction and tilt of events; `cells` are several where lines with several roots were seen."""

    target: Probability
    direction: Real
    seen_at: float
    tilts: tuple[Tilt, ...]
    period: int
    cells: int
    evaluations: int
    tuning_paths: int
    checks: tuple[diagnostics.Row, ...] = ()  # of the pilot of the tilt

    def _lines(self, problem: AbstractProblem) -> Lines:
        direction = np.zeros((problem.steps, problem.draws.normals))
        direction[:, problem.roles.free(problem.draws)] = self.direction
        seen_at, level = (jnp.asarray(x, problem.dtype) for x in (self.seen_at, self.target.level))
        return Lines(
            jnp.asarray(direction, problem.dtype), seen_at, level, cells=self.cells, evaluations=self.evaluations
        )

    def crossings(
        self,
        problem: AbstractProblem,
        keys: Any,
        numbers: np.ndarray,
        tangents: tuple[PyTree, ...] = (),
        law: np.ndarray | None = None,
    ) -> Crossing:
        """The lines of paths with the given numbers, in compiled batches of one size."""
        lines = self._lines(problem)
        law = sampler.laws(numbers, len(self.tilts), self.period) if law is None else law
        jobs, lanes = [], min(CHUNK, -(-numbers.size // LANES) * LANES)
        for k in np.unique(law):
            drawn = None
            if self.tilts:
                drawn = Drawn(Tilted(problem, sampler.mixture(problem, self.tilts, self.period, int(k))))
            mine = np.flatnonzero(law == k)
            jobs += [(drawn, mine[start : start + lanes]) for start in range(0, mine.size, lanes)]

        def one(job: tuple[Drawn | None, np.ndarray]) -> Any:
            filled = np.concatenate([numbers[job[1]], np.zeros(lanes - job[1].size, numbers.dtype)])
            found = crossings(lines, problem, job[0], tangents, keys, jnp.asarray(filled.astype(np.uint32)))
            return jax.tree.map(lambda x: np.asarray(x)[: job[1].size], found)

        parts = list(spread(one, jobs))
        order = np.argsort(np.concatenate([mine for _, mine in jobs]))
        return jax.tree.map(lambda *leaves: np.concatenate(leaves)[order], *parts)

    def points(self, problem: AbstractProblem, keys: Any, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities and log weights of the first `count` lines of a source, all from the tilt, and an eighth of them
        from the law itself; the first normal of the source is the coordinate that is integrated.
        """
        free = problem.roles.free(problem.draws)
        keys = Along(keys, jnp.asarray(self.direction, problem.dtype), free)

        def part(law: int, size: int) -> tuple[np.ndarray, np.ndarray]:
            found = self.crossings(problem, keys, np.arange(size), law=np.full(size, law, np.int32))
            return np.asarray(found.chance, float), np.asarray(found.log_weight, float)

        return sampler.mixed(part, len(self.tilts), self.period, count)

    def _sample(
        self, problem: AbstractProblem, paths: int, seed: int, chunk: int, tangents: tuple[PyTree, ...] = ()
    ) -> Iterator[tuple[int, Crossing]]:
        keys = _streams.noise_keys(seed, "lines")
        size = chunk * self.groups
        for index, start in enumerate(range(0, paths, size)):
            numbers = np.arange(start, min(start + size, paths), dtype=np.int64)
            yield index, self.crossings(problem, keys, numbers, tangents)

    def run(
        self, problem: AbstractProblem, paths: int, seed: int, *, confidence: float = 0.95, chunk: int = CHUNK
    ) -> dict[str, Result]:
        """The probability from `paths` lines; `Result.paths` counts the whole paths that their roots took."""
        paths = sampler.whole(paths, self.groups)
        plan, nodes, unsure = Plan((Integrand("mean"),), groups=self.groups, tag="Direction"), Nodes(), 0.0
        for index, found in self._sample(problem, paths, seed, chunk):
            chance, log_weight = (np.asarray(x, float) for x in (found.chance, found.log_weight))
            nodes = insert(nodes, index, summarize(plan, chance, log_weight))
            unsure += float(np.sum(np.exp(log_weight) * found.unsure))
        acc = total(nodes)
        estimate = streamed.probability(acc, 1, confidence)
        rows = (
            diagnostics.high("root", unsure / paths / estimate.value if estimate.value > 0.0 else np.inf, UNSURE),
            self.bent(problem, paths, seed),
            *self.checks,
        )
        result = Extra(rows, tuning_paths=self.tuning_paths, confidence=confidence).result(estimate, acc, 1)
        return {"probability": dataclasses.replace(result, paths=paths * self.effort)}

    @property
    def groups(self) -> int:
        """Groups of 64 lines in which the shares of all laws are exact."""
        return max(len(self.tilts) * self.period, 1)

    @property
    def effort(self) -> int:
        """Whole paths that a line costs."""
        return self.cells * (self.evaluations + 1) + 1 + bool(self.tilts)

    def bent(self, problem: AbstractProblem, paths: int, seed: int) -> diagnostics.Row:
        """Lines with several roots among one in a hundred, where only one is looked for; a single one refuses."""
        several = 0
        if self.cells == 1:
            numbers = np.arange(0, paths, CHECKED, dtype=np.int64)
            quick = dataclasses.replace(self, cells=CELLS, evaluations=0)
            found = quick.crossings(problem, _streams.noise_keys(seed, "lines"), numbers)
            several = int(np.count_nonzero(~found.single))
        return diagnostics.high("several_roots", float(several), (0.0, 0.0))

    def gradient(
        self,
        problem: AbstractProblem,
        parameters: Mapping[str, Callable[[Any], Any]],
        paths: int,
        seed: int,
        *,
        confidence: float = 0.95,
        chunk: int = CHUNK,
    ) -> dict[str, Result]:
        """d ln P / d ln theta for named numbers of the problem, each given by where it is, from `paths` lines.

        The law of the noise holds no parameter, and the weights are those of a frozen tilt: nothing is left out.

        **Raises:** `HardThresholdGradientError` if an event of the problem hangs on the number.
        """
        paths = sampler.whole(paths, self.groups)
        tangents = tuple(_tangent(problem, where) for where in parameters.values())
        names = list(parameters)
        plan = Plan((Integrand("mean"),), controls=len(names), groups=self.groups, tag="Direction")
        nodes, flat, unsure = Nodes(), 0.0, 0.0
        for index, found in self._sample(problem, paths, seed, chunk, tangents):
            chance, log_weight, slopes = (np.asarray(x, float) for x in (found.chance, found.log_weight, found.slopes))
            nodes = insert(nodes, index, summarize(plan, chance, log_weight, slopes))
            weight = np.exp(log_weight)
            flat, unsure = flat + float(weight @ found.flat), unsure + float(weight @ found.unsure)
        acc = total(nodes)
        mean = float(row_moments(acc, 1).mean)
        rows = (
            diagnostics.high("flat", flat / paths, FLAT),
            diagnostics.high("root", unsure / paths / mean if mean > 0.0 else np.inf, UNSURE),
            self.bent(problem, paths, seed),
            *self.checks,
        )
        extra, found = Extra(rows, tuning_paths=self.tuning_paths, confidence=confidence), {}
        for i, name in enumerate(names):
            found[name] = extra.result(streamed.ratio(acc, 2 + i, 1, confidence), acc, 1)
        return found


def _tangent(problem: AbstractProblem, where: Callable[[Any], Any]) -> PyTree:
    """The tangent in which the number at `where` moves in proportion to itself and nothing else moves."""
    nothing = jax.tree.map(lambda _: None, problem)
    number = jnp.asarray(where(problem))
    return eqx.tree_at(where, nothing, number, is_leaf=lambda leaf: leaf is None)


@dataclasses.dataclass(frozen=True)
class Direction:
    """Integration along the drift of a constant tilt, with the tilt of events and marks kept.

    Each root takes `evaluations` paths. The direction, and whether lines have several roots, are seen on pilot paths.
    """

    method: CrossEntropy = dataclasses.field(default_factory=lambda: CrossEntropy(feedback=False))
    evaluations: int = 7
    pilot: int = 256

    def __post_init__(self):
        if self.evaluations < 2 or self.pilot < 1:
            raise InputError(f"{self}: expected at least 2 evaluations and one pilot line")

    def fit(self, problem: AbstractProblem, target: AbstractTarget, seed: int) -> FittedDirection:
        """The direction from the drift of a tilt, and the cells from the roots on pilot lines."""
        if not isinstance(target, Probability) or target.outcome != "score":
            raise InputError(f"{target}: expected a Probability of the score; use CrossEntropy for other targets")
        free = problem.roles.free(problem.draws)
        if not free:
            raise InputError("the problem has no normals that are used in every step; use CrossEntropy")
        fit = self.method.fit(problem, target, seed)
        (tilt,) = fit.tilts
        drift = np.asarray(tilt.drift, float)[:, 0]
        size = float(np.linalg.norm(drift))
        drift = drift / size if size > 0.0 else np.full(drift.size, drift.size**-0.5)
        direction = np.broadcast_to(drift, (problem.steps, drift.size)) * problem.steps**-0.5
        aim = tilt.aim._replace(stops=jnp.asarray(False), onset=jnp.full_like(tilt.aim.onset, jnp.inf))
        tilts = (eqx.tree_at(lambda t: (t.drift, t.aim), tilt, (jnp.zeros_like(tilt.drift), aim)),)
        if not problem.roles.events and not problem.roles.sizes:
            tilts = ()
        seen = min(size * problem.steps**0.5, HIGHEST)
        tuning = fit.tuning_paths + self.pilot * (CELLS + 2)
        draft = FittedDirection(target, direction, seen, tilts, fit.period, CELLS, 0, tuning, fit.pilot_checks())
        lines = draft.crossings(problem, _streams.noise_keys(seed, "pilot lines"), np.arange(self.pilot))
        cells = 1 if bool(np.all(lines.single)) else CELLS
        return dataclasses.replace(draft, cells=cells, evaluations=self.evaluations)
