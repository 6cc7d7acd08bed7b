"""What is wanted of an outcome: a probability, a mean, or measures of its tail, all from one stream of weighted paths."""

import abc
import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from .._fields import InputError
from . import diagnostics, streamed
from .accumulator import Accumulator
from .diagnostics import Result, Row, Thresholds
from .measures import Estimate
from .plan import Integrand, Plan

RESERVOIR = 1 << 20  # largest values kept for quantiles; beyond, a histogram answers to 0.1 %
_OCTAVES = 20  # of the histogram below the smallest quantile


class AbstractTarget(abc.ABC):
    """What is wanted of one outcome."""

    outcome: str

    @abc.abstractmethod
    def plan(self, paths: int, hint: "Hint", groups: int) -> Plan:
        """What a run of so many paths must keep, from a mixture of laws whose shares are exact in so many groups."""

    @abc.abstractmethod
    def results(self, acc: Accumulator, extra: "Extra") -> dict[str, Result]:
        """The numbers wanted, by name, each with its own checks."""

    @abc.abstractmethod
    def contributions(self, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """y = w f(x) of pilot paths: what a tilt for this target should sample in proportion to."""


@dataclasses.dataclass(frozen=True)
class Hint:
    """What a pilot says of a target: a typical size of w f(x) where it is not zero, and quantiles."""

    unit: float = 1.0
    quantiles: tuple[float, ...] = ()
    tag: str = ""


@dataclasses.dataclass(frozen=True)
class Extra:
    """What the sampler adds: more checks, an upper bound from plain paths, and counts."""

    rows: tuple[Row, ...] = ()
    bound: float = math.nan
    tuning_paths: int = 0
    confidence: float = 0.95
    thresholds: Thresholds = diagnostics.DEFAULT

    def result(self, estimate: Estimate, acc: Accumulator, row: int, bound: float = math.nan) -> Result:
        """An estimate with the checks of a row of the summary."""
        diagnosis = diagnostics.diagnose(acc, row, self.thresholds, self.rows)
        return Result(estimate, diagnosis, bound, acc.paths, self.tuning_paths, self.thresholds)


@dataclasses.dataclass(frozen=True)
class Probability(AbstractTarget):
    """P(outcome >= level)."""

    level: float
    outcome: str = "score"

    def plan(self, paths: int, hint: Hint, groups: int) -> Plan:
        return Plan((Integrand("above", self.level, hint.unit),), groups=groups, tag=hint.tag)

    def results(self, acc: Accumulator, extra: Extra) -> dict[str, Result]:
        estimate = streamed.probability(acc, 1, extra.confidence, extra.bound)
        return {"probability": extra.result(estimate, acc, 1, extra.bound)}

    def contributions(self, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        return weight * (x >= self.level)


def exhaustion(fund: float, outcome: str = "loss") -> Probability:
    """P(outcome > fund): that a loss exceeds a fund."""
    smallest = np.finfo(np.float32).tiny
    return Probability(float(max(np.nextafter(np.float32(fund), np.float32(np.inf)), smallest)), outcome)


@dataclasses.dataclass(frozen=True)
class Mean(AbstractTarget):
    """E[outcome]."""

    outcome: str = "loss"

    def plan(self, paths: int, hint: Hint, groups: int) -> Plan:
        return Plan((Integrand("mean", 0.0, hint.unit),), groups=groups, tag=hint.tag)

    def results(self, acc: Accumulator, extra: Extra) -> dict[str, Result]:
        return {"mean": extra.result(streamed.mean(acc, 1, extra.confidence), acc, 1)}

    def contributions(self, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        return weight * np.abs(x)


@dataclasses.dataclass(frozen=True)
class Tail(AbstractTarget):
    """Value-at-risk and expected shortfall at several levels, such as (0.99, 0.999), from small to large."""

    levels: tuple[float, ...]
    outcome: str = "loss"

    def __post_init__(self):
        levels = self.levels
        if not levels or list(levels) != sorted(set(levels)) or not 0.0 < levels[0] <= levels[-1] < 1.0:
            raise InputError(f"levels = {levels}: expected numbers between 0 and 1 from small to large; sort them")

    def plan(self, paths: int, hint: Hint, groups: int) -> Plan:
        """Rows of the contributions beyond the pilot's quantiles, which are what the checks look at."""
        rows = [
            Integrand("excess", q, hint.unit * max(abs(q), 1e-30)) for q in hint.quantiles or (0.0,) * len(self.levels)
        ]
        smallest = min((q for q in hint.quantiles if q > 0.0), default=1.0)
        lowest = 2.0 ** (math.floor(math.log2(smallest)) - _OCTAVES) if paths > RESERVOIR else 0.0
        return Plan(tuple(rows), reservoir=min(paths, RESERVOIR), lowest=lowest, groups=groups, tag=hint.tag)

    def results(self, acc: Accumulator, extra: Extra) -> dict[str, Result]:
        found = {}
        for row, level in enumerate(self.levels, 1):
            both = streamed.tail(acc, level, extra.confidence)
            found[f"var_{level:g}"] = extra.result(both.quantile, acc, row)
            found[f"es_{level:g}"] = extra.result(both.shortfall, acc, row)
        return found

    def contributions(self, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        return self.beyond(x, weight, self.levels[-1])

    @staticmethod
    def beyond(x: np.ndarray, weight: np.ndarray, level: float) -> np.ndarray:
        """Half the weight for the quantile, half for the shortfall."""
        v = weighted_quantile(x, weight, level)
        hit, excess = weight * (x >= v), weight * np.maximum(x - v, 0.0)
        return hit / max(hit.sum(), 1e-300) + excess / max(excess.sum(), 1e-300)


def weighted_quantile(x: np.ndarray, weight: np.ndarray, level: float) -> float:
    """The largest v with mean(w 1{x >= v}) >= 1 - level."""
    order = np.argsort(-x, kind="stable")
    above = np.cumsum(weight[order]) / x.size
    return float(x[order][min(int(np.searchsorted(above, (1.0 - level) * (1.0 - 1e-9))), x.size - 1)])


Estimates = Mapping[str, Result]
