"""Certificates: every limit met by an upper bound on paths that no search has seen.

Attempt j of a policy (j = 1, 2, ...) may err with probability (1 - level) 2^-j, shared by its constraints, so that the
probability that any attempt accepts a policy that misses a limit is at most 1 - level, however often it is tuned again.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

from .. import _streams
from .._fields import InputError
from ..tails.bootstrap import student_ratios
from ..tails.diagnostics import tail_gate
from ..tails.measures import binomial_interval
from .constraints import AbstractConstraint, Probability
from .problem import WEIGHT, Policy, Problem, Stream, checked, mean_cost, outcomes

Gate = Callable[[Float[np.ndarray, " largest"], int], str]
"""Says why a mean may not be trusted, from the largest contributions (largest first) and the number of paths, or ""."""


@dataclasses.dataclass(frozen=True)
class Certification:
    """Settings of a certificate.

    `level`: of the joint statement over all constraints and attempts. `batches`: of paths, for the bootstrap.
    `least_hits`, `most_share`: fewer effective hits, or a larger share of the mean on one path, is a refusal.
    `share`: part of a limit that the expected bound may reach, for the sample size. `gate`: a further refusal, by
    default that of the tail index of the contributions where paths carry weights.
    """

    level: float = 0.95
    batches: int = 64
    resamples: int = 9_999
    least_hits: float = 100.0
    most_share: float = 0.05
    share: float = 0.97
    pilot_paths: int = 131_072
    most_paths: int = 8_388_608
    chunk: int = 65_536
    gate: Gate | None = None

    def __post_init__(self):
        if not (0.0 < self.level < 1.0 and self.batches >= 40 and 0.0 < self.share < 1.0):
            raise InputError(f"{self}: expected 0 < level < 1, at least 40 batches and 0 < share < 1")
        if self.chunk % self.batches:
            raise InputError(f"chunk = {self.chunk}: expected a multiple of batches = {self.batches}")


class Line(NamedTuple):
    """One constraint in an attempt; `note` says why a bound was refused."""

    name: str
    limit: float
    estimate: float
    std_error: float
    upper_bound: float
    effective_hits: float
    largest_share: float
    passed: bool
    note: str


class Attempt(NamedTuple):
    """One look at fresh paths: the root of their keys, the error it may spend, and what it found."""

    root: str
    status: str
    error: float
    paths: int
    cost: float
    lines: tuple[Line, ...]
    policy: Policy


@dataclasses.dataclass(frozen=True)
class Certificate:
    """All attempts so far; the status is that of the last: "certified", "not_certified" or "refused"."""

    level: float
    attempts: tuple[Attempt, ...]

    @property
    def status(self) -> str:
        return self.attempts[-1].status


@dataclasses.dataclass
class _Stream:
    """What is kept of one constraint's contributions: sums, never paths."""

    batch: np.ndarray
    count: int = 0
    square: float = 0.0
    absolute: float = 0.0
    weighted: bool = False
    top: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0))

    def add(self, y: np.ndarray, weight: np.ndarray) -> None:
        self.batch += y.reshape(-1, self.batch.size).sum(axis=0)  # path i belongs to batch i mod batches
        self.count += y.size
        self.square += float(y @ y)
        self.absolute += float(np.abs(y).sum())
        self.weighted |= bool(np.any(weight != 1.0))
        both = np.concatenate([self.top, np.abs(y)])
        most = min(both.size, 4096)
        self.top = np.sort(np.partition(both, both.size - most)[-most:])[::-1]

    @property
    def mean(self) -> float:
        return float(self.batch.sum()) / self.count

    @property
    def deviation(self) -> float:
        return float(np.sqrt(max(self.square / self.count - self.mean**2, 0.0)))

    @property
    def hits(self) -> float:
        return self.absolute**2 / self.square if self.square > 0.0 else 0.0

    @property
    def largest_share(self) -> float:
        return float(self.top[0]) / self.absolute if self.absolute > 0.0 else 0.0


def certify(
    problem: Problem,
    policy: Policy,
    *,
    seed: int,
    method: Certification | None = None,
    previous: Certificate | None = None,
) -> Certificate:
    """Checks rounded parameters on fresh paths of the model that decides, every limit by an upper confidence bound.

    A pilot on its own root sets the number of paths. After a failure, hand the certificate in as `previous` with the
    new policy: the next attempt has new keys and half the error that was left.

    **Raises:** `InputError` for a problem that does not fit together, or if `previous` had another level.
    """
    method, problem = method or Certification(), checked(problem)
    attempts = () if previous is None else previous.attempts
    if previous is not None and previous.level != method.level:
        raise InputError(f"level = {method.level}: expected {previous.level}, the level of the attempts before")
    number = len(attempts) + 1
    error = (1.0 - method.level) * 0.5**number
    pilot = Stream(f"policy/pilot/{number}", seed, method.pilot_paths, method.chunk)
    each = error / len(problem.constraints)
    _, streams = _run(problem, policy, _whole(pilot), method.batches)
    paths = max(_needed(c, s, t, each, method) for c, s, t in _zip(problem, streams, policy))
    stream = _whole(Stream(f"policy/certify/{number}", seed, paths, method.chunk))
    cost, streams = _run(problem, policy, stream, method.batches)
    lines = tuple(_line(c, s, t, each, method, stream) for c, s, t in _zip(problem, streams, policy))
    refused = any(line.note for line in lines)
    status = "refused" if refused else "certified" if all(line.passed for line in lines) else "not_certified"
    attempt = Attempt(stream.root, status, error, stream.paths, cost, lines, policy)
    return Certificate(method.level, (*attempts, attempt))


def _zip(problem: Problem, streams: list[_Stream], policy: Policy):
    return zip(problem.constraints, streams, policy.levels, strict=True)


def _whole(stream: Stream) -> Stream:
    """Whole chunks, so that pilot and certificate run one program and batches are of one size."""
    return stream._replace(paths=-(-stream.paths // stream.chunk) * stream.chunk)


def _run(problem: Problem, policy: Policy, stream: Stream, batches: int) -> tuple[float, list[_Stream]]:
    streams = [_Stream(np.zeros(batches)) for _ in problem.constraints]
    costs = []
    for first in range(0, stream.paths, stream.chunk):
        drawn = outcomes(problem, policy.parameters, stream, first, first + stream.chunk)
        costs.append((mean_cost(problem, drawn), drawn[WEIGHT].sum()))
        for constraint, kept, t in _zip(problem, streams, policy):
            kept.add(constraint.exact(drawn[constraint.outcome], drawn[WEIGHT], float(t)), drawn[WEIGHT])
    cost, weight = np.array(costs).T
    return float(cost @ weight / weight.sum()), streams


def _needed(constraint: AbstractConstraint, pilot: _Stream, t: float, error: float, method: Certification) -> int:
    """Paths at which the expected bound is `share` of the limit and there are twice the hits that are needed."""
    room = method.share * float(constraint.limit) - float(constraint.offset(t)) - pilot.mean
    if pilot.hits == 0.0 or room <= 0.0:
        return method.most_paths
    quantile = float(stats.t.isf(error, method.batches - 1))
    wanted = max((quantile * pilot.deviation / room) ** 2, 2.0 * method.least_hits * pilot.count / pilot.hits)
    return int(np.clip(wanted, pilot.count, method.most_paths))


def _line(
    constraint: AbstractConstraint, kept: _Stream, t: float, error: float, method: Certification, stream: Stream
) -> Line:
    offset, note = float(constraint.offset(t)), ""
    means = kept.batch * (method.batches / kept.count)
    std_error = float(means.std(ddof=1)) / np.sqrt(method.batches)
    if isinstance(constraint, Probability) and not kept.weighted:
        bound = float(binomial_interval(round(kept.absolute), kept.count, 1.0 - 2.0 * error)[1])
    else:
        note = _refusal(kept, method)
        bound = np.nan if note else offset + upper_bound(means, error, method.resamples, stream)
    return Line(
        constraint.name,
        float(constraint.limit),
        offset + kept.mean,
        std_error,
        bound,
        kept.hits,
        kept.largest_share,
        bool(bound <= float(constraint.limit)),
        note,
    )


def _refusal(kept: _Stream, method: Certification) -> str:
    if kept.hits < method.least_hits:
        return f"{kept.hits:.1f} effective hits in {kept.count:,} paths, {method.least_hits:g} are needed"
    if kept.largest_share > method.most_share:
        return f"one path carries {kept.largest_share:.1%} of the mean, at most {method.most_share:.1%} may"
    most = int(min(0.2 * kept.count, 3.0 * np.sqrt(kept.count), 4096))
    gate = method.gate or (tail_gate() if kept.weighted else None)
    return gate(kept.top[:most], kept.count) if gate is not None else ""


def upper_bound(means: Float[np.ndarray, " batches"], error: float, resamples: int, stream: Stream) -> float:
    """Upper bound of the mean that fails with probability `error`, from independent batch means, by the bootstrap-t.

    mean - q s.e., where q is the `error` quantile of (mean* - mean)/s.e.* over resampled batches. The left tail of that
    ratio is long when losses are skewed, which is what a normal quantile misses. Resamples come from the stream's keys.
    """
    batches, mean = means.size, float(means.mean())
    key = _streams.stream_key(stream.seed, f"{stream.root}/bootstrap")
    rng = np.random.default_rng([int(word) for word in np.asarray(key)])
    low = np.quantile(student_ratios(means, rng, resamples), error, method="lower")
    return mean - float(low) * float(means.std(ddof=1)) / np.sqrt(batches)
