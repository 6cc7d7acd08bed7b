"""Importance sampling of a smooth payoff by its best constant path of drifts, with strata along it.

With the payoff f of the normals z of a path, all of them shifted by mu,

    E f(z) = E[f(z + mu) exp(-mu . z - |mu|^2/2)],     mu = argmax log f(z) - |z|^2/2,

which takes the linear part of log f out of the variance; strata of the coordinate along mu take out most of the quadratic one.

**Source:** Glasserman, Heidelberger, Shahabuddin (1999), "Asymptotically optimal importance sampling and stratification for
pricing path-dependent options".
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree
from scipy import optimize, special

from .. import _streams
from .._fields import InputError, Real
from .._streams import Noise, middle
from ..simulate import LANES, entry_point, rollout
from .accumulator import Nodes, insert, summarize, total
from .coordinates import Along, unit
from .diagnostics import Diagnosis, Result
from .measures import Estimate
from .moments import empty_moments, merge_moments, moments_of
from .plan import Integrand, Plan
from .problem import AbstractProblem
from .proposal import AbstractProposal, Tilted
from .sampler import CHUNK, paths_of
from .targets import AbstractTarget, Extra, Mean

_FARTHEST, _GUESSES = 8.0, 33  # of the start of the search, along the gradient of the place
_NOTHING = 1e6  # in place of -log of a payoff of nothing


class Shifted(AbstractProposal):
    """Free normals plus a drift of each step."""

    drift: Float[Array, "steps free"]
    free: tuple[int, ...] = eqx.field(static=True)
    looks: ClassVar[bool] = False

    def init(self, dtype: Any) -> PyTree:
        return jnp.zeros((), jnp.uint32)

    def draw(self, memory: PyTree, state: PyTree, noise: Noise) -> tuple[Noise, Float[Array, ""], PyTree]:
        del state
        mu, places = self.drift[memory], jnp.asarray(self.free)
        ratio = -jnp.sum(mu * (noise.normal[places] + 0.5 * mu))
        return noise._replace(normal=noise.normal.at[places].add(mu)), ratio, memory + jnp.uint32(1)


def still(problem: AbstractProblem, drift: Float[Array, "steps free"]) -> PyTree:
    """The last state of the path whose free normals are the drift: other normals are zero, uniforms one half."""
    nothing, free = middle(problem.draws, problem.dtype), jnp.asarray(problem.roles.free(problem.draws))
    return rollout(problem, lambda step: nothing._replace(normal=nothing.normal.at[free].set(drift[step])))[0]


@entry_point
def _place(problem: AbstractProblem, drift: Float[Array, "steps free"]) -> Any:
    return jax.grad(lambda z: problem.place(still(problem, z)))(drift)


@entry_point
def _objective(problem: AbstractProblem, outcome: str, drift: Float[Array, "steps free"]) -> Any:
    def value(z: Float[Array, "steps free"]) -> Float[Array, ""]:
        f = problem.outcome(still(problem, z))[outcome]
        some = f > 0.0
        return jnp.where(some, 0.5 * jnp.sum(z * z) - jnp.log(jnp.where(some, f, 1.0)), _NOTHING)

    return jax.value_and_grad(value)(drift)


@dataclasses.dataclass(frozen=True)
class FittedDrift:
    """A frozen drift of every step, and the number of equally likely cells along it."""

    target: Mean
    drift: Real
    cells: int

    def _system(self, problem: AbstractProblem) -> Tilted:
        drift = jnp.asarray(self.drift, problem.dtype)
        return Tilted(problem, Shifted(drift, problem.roles.free(problem.draws)))

    def _along(self, problem: AbstractProblem, keys: Any, cells: int) -> Along:
        e = unit(jnp.asarray(self.drift, problem.dtype))
        return Along(keys, e, problem.roles.free(problem.draws), cells)

    def points(self, problem: AbstractProblem, keys: Any, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Payoffs and log weights of the first `count` paths of a source whose first normal goes along the drift."""
        numbers, system = np.arange(count, dtype=np.int64), self._system(problem)
        lanes = min(CHUNK, -(-count // LANES) * LANES)
        law = np.zeros(count, np.int32)
        found = paths_of(lambda _: system, self._along(problem, keys, 1), numbers, law, lanes)
        return np.asarray(found[self.target.outcome], float), np.asarray(found["log_weight"], float)

    def _chunks(self, problem: AbstractProblem, paths: int, seed: int, chunk: int) -> Iterator[tuple[Any, Any]]:
        system = self._system(problem)
        keys = self._along(problem, _streams.noise_keys(seed, "production"), self.cells)
        size = self.cells * max(chunk // self.cells, 1)
        lanes = -(-min(size, paths) // LANES) * LANES
        for start in range(0, paths, size):
            numbers = np.arange(start, min(start + size, paths), dtype=np.int64)
            found = paths_of(lambda _: system, keys, numbers, np.zeros(numbers.size, np.int32), lanes)
            yield np.asarray(found[self.target.outcome], float), np.asarray(found["log_weight"], float)

    def run(
        self, problem: AbstractProblem, paths: int, seed: int, *, confidence: float = 0.95, chunk: int = CHUNK
    ) -> dict[str, Result]:
        """The mean from `paths` paths, rounded up to twice in every cell at least."""
        paths = self.cells * max(-(-paths // self.cells), 2)
        plan, nodes, cells = Plan((Integrand("mean"),), tag="Drift"), Nodes(), empty_moments(self.cells)
        for index, (payoff, log_weight) in enumerate(self._chunks(problem, paths, seed, chunk)):
            nodes = insert(nodes, index, summarize(plan, payoff, log_weight))
            cells = merge_moments(cells, moments_of((np.exp(log_weight) * payoff).reshape(-1, self.cells)))
        value = float(np.mean(cells.mean))
        error = float(np.sqrt(np.sum(cells.variance / cells.count))) / self.cells
        half = float(special.ndtri(0.5 + 0.5 * confidence)) * error
        estimate = Estimate(value, error, value - half, value + half)
        result = Extra(confidence=confidence).result(estimate, total(nodes), 1)
        if self.cells == 1:
            return {"mean": result}
        rows = tuple(row for row in result.diagnosis.rows if row.name != "batches")  # which lie in different cells
        return {"mean": dataclasses.replace(result, diagnosis=Diagnosis(rows))}


@dataclasses.dataclass(frozen=True)
class Drift:
    """The drift under which a path is the most likely one weighted by its payoff, and `cells` strata along it."""

    cells: int = 1

    def __post_init__(self):
        if self.cells < 1:
            raise InputError(f"{self}: expected at least one cell")

    def fit(self, problem: AbstractProblem, target: AbstractTarget, seed: int) -> FittedDrift:
        """The drift by BFGS, from the best point along the gradient of the place of a still path; no paths are drawn.

        **Raises:** `HardThresholdGradientError` if an event of the problem hangs on the normals.
        """
        del seed
        if not isinstance(target, Mean):
            raise InputError(f"{target}: expected a Mean of a smooth outcome; use CrossEntropy for other targets")
        shape = (problem.steps, len(problem.roles.free(problem.draws)))
        if not shape[1]:
            raise InputError("the problem has no normals that are used in every step; use CrossEntropy")

        def objective(z: np.ndarray) -> tuple[float, np.ndarray]:
            value, slope = _objective(problem, target.outcome, jnp.asarray(z.reshape(shape).astype(problem.dtype)))
            return float(value), np.asarray(slope, float).ravel()

        slope = np.asarray(_place(problem, jnp.zeros(shape, problem.dtype)), float).ravel()
        steps = np.linspace(0.0, _FARTHEST, _GUESSES)[:, None] * slope / max(float(np.linalg.norm(slope)), 1e-300)
        start = min(steps, key=lambda z: objective(z)[0])
        if not objective(start)[0] < _NOTHING:
            raise InputError(f"{target}: no path along the gradient of the place has an outcome above zero")
        found = optimize.minimize(objective, start, jac=True, method="BFGS", options={"gtol": 1e-6})
        return FittedDrift(target, found.x.reshape(shape), self.cells)
