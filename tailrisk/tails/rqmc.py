"""Randomized quasi-Monte Carlo under any fitted law of sampling: point sets instead of independent paths.

Every replicate is a scrambled Sobol set of 2^m points, whose mean has no bias; the interval is that of Student over the
replicates, never the spread within one. The first number of a point, the most even one, goes along the direction that
matters most: that of the drift, or the one that is integrated.

**Source:** L'Ecuyer and Lemieux (2002), "Recent advances in randomized quasi-Monte Carlo methods".
"""

import dataclasses
import math
from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
from scipy import stats

from .._fields import InputError
from ..simulate import LANES, AbstractSystem
from . import diagnostics, sampler
from .accumulator import Nodes, insert, summarize, total
from .coordinates import Along
from .diagnostics import Diagnosis, Result, Row
from .estimate import Method
from .measures import Estimate
from .plan import Integrand, Plan
from .problem import AbstractProblem
from .proposal import Tilted
from .sampler import CHUNK, Fitted
from .sobol import MOST_BITS, Sobol
from .targets import AbstractTarget, Mean, Probability

LEAST_BITS = 6  # points of a set that fill a compiled batch


@runtime_checkable
class Pointwise(Protocol):
    """A fitted law of sampling whose paths can come from any source of noise."""

    target: Any

    def points(self, problem: AbstractProblem, keys: Any, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Values of what is averaged, and log weights."""
        ...


@dataclasses.dataclass(frozen=True)
class TiltedPoints:
    """A fitted tilt whose first normal goes along the sum of the normals of a path."""

    fitted: Fitted

    @property
    def target(self) -> AbstractTarget:
        return self.fitted.target

    @property
    def checks(self) -> tuple[Row, ...]:
        return self.fitted.pilot_checks()

    def points(self, problem: AbstractProblem, keys: Any, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Hits or outcomes, and log weights."""
        tilts, period, target = self.fitted.tilts, self.fitted.period, self.target
        free = problem.roles.free(problem.draws)
        if free:
            shape = (problem.steps, len(free))
            keys = Along(keys, jnp.full(shape, (shape[0] * shape[1]) ** -0.5, problem.dtype), free)

        def part(law: int, size: int) -> tuple[np.ndarray, np.ndarray]:
            def system(k: int) -> AbstractSystem:
                return Tilted(problem, sampler.mixture(problem, tilts, period, k)) if tilts else problem

            numbers, lanes = np.arange(size, dtype=np.int64), min(CHUNK, -(-size // LANES) * LANES)
            found = sampler.paths_of(system, keys, numbers, np.full(size, law, np.int32), lanes)
            x = np.asarray(found[target.outcome], float)
            value = (x >= target.level).astype(float) if isinstance(target, Probability) else x
            return value, np.asarray(found.get("log_weight", np.zeros(size)), float)

        return sampler.mixed(part, len(tilts), period, count)


@dataclasses.dataclass(frozen=True)
class FittedRQMC:
    """A frozen law of sampling, and how many scrambles make an interval."""

    inner: Pointwise
    replicates: int
    tuning_paths: int

    def run(self, problem: AbstractProblem, paths: int, seed: int, *, confidence: float = 0.95) -> dict[str, Result]:
        """The estimate from about `paths` points: in each replicate the largest power of two that they allow."""
        bits = min(max(int(math.log2(max(paths / self.replicates, 1.0))), LEAST_BITS), MOST_BITS)
        plan, nodes, means = Plan((Integrand("mean"),), tag="RQMC"), Nodes(), []
        for replicate in range(self.replicates):
            source = Sobol.scrambled(problem.steps, problem.draws, bits, seed, f"scramble/{replicate}")
            value, log_weight = self.inner.points(problem, source, 2**bits)
            nodes = insert(nodes, replicate, summarize(plan, value, log_weight))
            means.append(float(np.mean(np.exp(log_weight) * value)))
        acc, target = total(nodes), self.inner.target
        value, error = float(np.mean(means)), float(np.std(means, ddof=1)) / math.sqrt(len(means))
        half = float(stats.t.ppf(0.5 + 0.5 * confidence, len(means) - 1)) * error
        name, low, high = "mean", value - half, value + half
        if isinstance(target, Probability):
            wide = math.exp(half / value) if value > 0.0 else math.nan
            name, low, high = "probability", value / wide, min(value * wide, 1.0)
        rows = [row for row in diagnostics.diagnose(acc, 1).rows if row.name not in ("batches", "mean_weight")]
        rows += getattr(self.inner, "checks", ())  # what a pilot said of the law
        paths = acc.paths * getattr(self.inner, "effort", 1)
        return {
            name: Result(Estimate(value, error, low, high), Diagnosis(tuple(rows)), math.nan, paths, self.tuning_paths)
        }


@dataclasses.dataclass(frozen=True)
class RQMC:
    """Point sets for the paths of a method: a `CrossEntropy`, `Direction`, `Drift` or `Plain`."""

    method: Method
    replicates: int = 16

    def __post_init__(self):
        if self.replicates < 2:
            raise InputError(f"replicates = {self.replicates}: expected at least 2; 16 make a fair interval")

    def fit(self, problem: AbstractProblem, target: AbstractTarget, seed: int) -> FittedRQMC:
        """The method tuned on independent paths."""
        if not isinstance(target, Probability | Mean):
            raise InputError(f"{target}: expected a Probability or a Mean; use the method alone for quantiles")
        fitted = self.method.fit(problem, target, seed)
        tuning = getattr(fitted, "tuning_paths", 0)
        inner = TiltedPoints(fitted) if isinstance(fitted, Fitted) else fitted
        if not isinstance(inner, Pointwise):
            raise InputError(f"{type(self.method).__name__}: expected CrossEntropy, Direction, Drift or Plain")
        return FittedRQMC(inner, self.replicates, tuning)
