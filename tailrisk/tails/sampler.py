"""Weighted paths of a fitted sampling law, chunk by chunk, and what a run makes of them.

Which law of a mixture a path comes from is decided by its number alone: of every `period` groups of 64 paths one is drawn
from the law itself and the others from the tilt. So shares are exact in every whole period, and a path is the same for any
chunk.
"""

import abc
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .. import _streams
from .._fields import InputError
from ..simulate import LANES, AbstractSystem, outcomes, spread
from . import diagnostics
from .accumulator import Nodes, insert, summarize, total
from .diagnostics import Result, Row
from .problem import AbstractProblem
from .proposal import Frozen, Tilted
from .targets import AbstractTarget, Extra, Hint, Probability
from .tilt import Mixture, Tilt
from .weighted import one_sided

CHUNK = 1024
"""Paths in one compiled batch."""


def laws(numbers: np.ndarray, tilts: int, period: int) -> np.ndarray:
    """The law each path comes from: 0 the law itself, k the k-th tilt."""
    if tilts == 0:
        return np.zeros(numbers.size, np.int32)
    group = (numbers // LANES) % (tilts * period)
    return np.where(group % period == period - 1, 0, 1 + group // period).astype(np.int32)


def whole(paths: int, groups: int) -> int:
    """The number of paths rounded up to so many groups of 64, so that the shares are what the weights say."""
    unit = LANES * groups if groups > 1 else 1
    return -(-paths // unit) * unit


def mixture(problem: AbstractProblem, tilts: tuple[Tilt, ...], period: int, drawn: Any) -> Mixture:
    """The mixture of tilts and the law itself, with the law to draw from."""
    rest = (1.0 - 1.0 / period) / len(tilts)
    shares = np.array([1.0 / period, *[rest] * len(tilts)]).astype(problem.dtype)
    return Mixture(problem, tilts, jnp.asarray(shares), jnp.asarray(drawn, jnp.int32))


def mixed(
    part: Callable[[int, int], tuple[np.ndarray, np.ndarray]], tilts: int, period: int, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Values and log weights of `count` paths of each tilt, and an eighth as many of the law itself, from `part(law, size)`.

    Weights are moved so that the mean over all paths is that of the mixture, whatever the shares drawn.
    """
    if tilts == 0:
        return part(0, count)
    rest = (1.0 - 1.0 / period) / tilts
    sizes = {0: (1.0 / period, max(count // 8, 1))} | {k: (rest, count) for k in range(1, tilts + 1)}
    drawn = sum(size for _, size in sizes.values())
    values, log_weights = [], []
    for law, (share, size) in sizes.items():
        value, log_weight = part(law, size)
        values.append(value)
        log_weights.append(log_weight + np.log(share * drawn / size))
    return np.concatenate(values), np.concatenate(log_weights)


def paths_of(
    system: Callable[[int], AbstractSystem], keys: Any, numbers: np.ndarray, law: np.ndarray, lanes: int
) -> dict[str, Any]:
    """Outcomes of paths with the given numbers, each under its law, in compiled batches of one size."""
    systems = {int(k): system(int(k)) for k in np.unique(law)}
    jobs = []
    for k, one in systems.items():
        mine = np.flatnonzero(law == k)
        jobs += [(one, mine[start : start + lanes]) for start in range(0, mine.size, lanes)]
    found = list(spread(lambda job: outcomes(job[0], 0, numbers[job[1]], lanes=lanes, keys=keys)[0], jobs))
    order = np.argsort(np.concatenate([mine for _, mine in jobs]))
    return jax.tree.map(lambda *parts: np.concatenate(parts)[order], *found)


class Chunk(NamedTuple):
    """Outcomes of paths, with their log weights and laws."""

    number: int
    outcome: dict[str, np.ndarray]
    log_weight: np.ndarray
    law: np.ndarray


class AbstractFitted(eqx.Module):
    """A frozen sampling law for a target: a mixture whose law 0 is that of the problem itself."""

    target: eqx.AbstractVar[AbstractTarget]
    hint: eqx.AbstractVar[Hint]
    tuning_paths: eqx.AbstractVar[int]

    @property
    @abc.abstractmethod
    def groups(self) -> int:
        """Groups of 64 paths in which the shares of all laws are exact; one if there is but the law itself."""

    @abc.abstractmethod
    def laws(self, numbers: np.ndarray) -> np.ndarray:
        """The law each path comes from."""

    @abc.abstractmethod
    def system(self, problem: AbstractProblem, law: int) -> AbstractSystem:
        """The problem under one of the laws."""

    @abc.abstractmethod
    def pilot_checks(self) -> tuple[Row, ...]:
        """What the pilot said against the law."""

    def whole(self, paths: int) -> int:
        """The number of paths rounded up, so that the shares are what the weights say."""
        return whole(paths, self.groups)

    def sample(
        self,
        problem: AbstractProblem,
        paths: int,
        seed: int,
        *,
        chunk: int = CHUNK,
        stream: str = "production",
        begin: int = 0,
    ) -> Iterator[Chunk]:
        """The weighted paths of a run, chunk by chunk from number `begin` on; a chunk holds `chunk` paths for each group."""
        if paths < 1 or chunk < LANES or chunk % LANES:
            raise InputError(f"paths = {paths}, chunk = {chunk}: expected at least one path, and a multiple of {LANES}")
        paths = self.whole(paths)
        if paths > _streams.MAX_PATHS:
            raise InputError(f"paths = {paths}: expected at most 2^32; use several seeds")
        keys, size = _streams.noise_keys(seed, stream), chunk * self.groups
        for index in range(begin, -(-paths // size)):
            start = index * size
            numbers = np.arange(start, min(start + size, paths), dtype=np.int64)
            law = self.laws(numbers)
            lanes = min(chunk, -(-numbers.size // LANES) * LANES)
            found = paths_of(lambda law: self.system(problem, law), keys, numbers, law, lanes)
            log_weight = found.pop("log_weight", np.zeros(numbers.size))
            yield Chunk(index, found, log_weight, law)

    def run(
        self,
        problem: AbstractProblem,
        paths: int,
        seed: int,
        *,
        also: tuple[AbstractTarget, ...] = (),
        confidence: float = 0.95,
        chunk: int = CHUNK,
        checks: tuple[Row, ...] = (),
        parts: Iterable[Chunk] | None = None,
    ) -> dict[str, Result]:
        """Estimates of the target, and of others from the same paths, which then carry the name of their outcome.

        `parts` are the chunks of `sample` where they were drawn before.
        """
        targets = (self.target, *also)
        exact = self.whole(paths)
        hints = (self.hint, *[Hint(tag=self.hint.tag)] * len(also))
        plans = [target.plan(exact, hint, self.groups) for target, hint in zip(targets, hints, strict=True)]
        nodes: list[Nodes] = [{} for _ in targets]
        hits, plain = np.zeros(len(targets), int), 0
        for part in self.sample(problem, paths, seed, chunk=chunk) if parts is None else parts:
            own = part.law == 0
            plain += int(np.count_nonzero(own))
            for i, target in enumerate(targets):
                x = part.outcome[target.outcome]
                if isinstance(target, Probability):
                    hits[i] += int(np.count_nonzero(x[own] >= target.level))
                nodes[i] = insert(nodes[i], part.number, summarize(plans[i], x, part.log_weight))
        found: dict[str, Result] = {}
        for i, target in enumerate(targets):
            acc = total(nodes[i])
            rows, bound = [*self.pilot_checks(), *checks], 1.0
            if isinstance(target, Probability):
                bound = one_sided(int(hits[i]), plain, confidence)
                p = float(acc.moments.mean[1].mean() * acc.plan.units[1])
                if self.groups > 1:
                    rows.append(diagnostics.nominal_share(int(hits[i]), plain, p))
            extra = Extra(tuple(rows), bound, self.tuning_paths, confidence)
            prefix = f"{target.outcome}_" if i else ""
            found |= {prefix + name: result for name, result in target.results(acc, extra).items()}
        return found


class Fitted(AbstractFitted):
    """Tilts with equal shares beside one in `period` paths of the law itself."""

    target: AbstractTarget = eqx.field(static=True)
    hint: Hint = eqx.field(static=True)
    tuning_paths: int = eqx.field(static=True)
    reached: bool = eqx.field(static=True)  # whether pilot paths got where the target is
    tilts: tuple[Tilt, ...] = ()
    period: int = eqx.field(static=True, default=10)
    checks: tuple[Row, ...] = eqx.field(static=True, default=())  # of the pilot

    @property
    def groups(self) -> int:
        return len(self.tilts) * self.period if self.tilts else 1

    def proposal(self, problem: AbstractProblem) -> Frozen:
        """The tilt as a law of noise for derivatives at the numbers of this problem: it steers by a path of its own.

        All paths come from the tilt: a share of the law itself needs path numbers, which a proposal does not see.

        **Raises:** `InputError` unless there is one tilt, without shocks.
        """
        if len(self.tilts) != 1 or self.tilts[0].shock is not None:
            raise InputError(f"{len(self.tilts)} tilts: a proposal has one, without shocks; fit it with CrossEntropy()")
        shares = jnp.asarray(np.array([0.0, 1.0]).astype(problem.dtype))
        return Frozen(problem, Mixture(problem, self.tilts, shares, jnp.asarray(1, jnp.int32)))

    def laws(self, numbers: np.ndarray) -> np.ndarray:
        return laws(numbers, len(self.tilts), self.period)

    def system(self, problem: AbstractProblem, law: int) -> AbstractSystem:
        return Tilted(problem, mixture(problem, self.tilts, self.period, law)) if self.tilts else problem

    def pilot_checks(self) -> tuple[Row, ...]:
        return self.checks
