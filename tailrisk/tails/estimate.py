"""fit -> run: every estimator of a rare event behind two calls.

`fit` may look at its own paths as often as it likes and returns a frozen law of sampling; `run` draws fresh paths of it, so
that its estimates have no bias. `confirm` compares two families.
"""

import dataclasses
from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np

from .. import _streams
from .._fields import InputError
from .._streams import Noise
from ..simulate import LANES, AbstractSystem, AbstractWrapper
from . import diagnostics, streamed
from .accumulator import Nodes, insert, summarize, total
from .diagnostics import Diagnosis, Result
from .plan import Integrand, Plan
from .problem import AbstractProblem
from .sampler import CHUNK, Fitted, paths_of
from .targets import AbstractTarget, Extra, Hint, Mean, Probability


@runtime_checkable
class Method(Protocol):
    """A way to sample; it is tuned for one target."""

    def fit(self, problem: AbstractProblem, target: AbstractTarget, seed: int) -> Any: ...


def fit(problem: AbstractProblem, target: AbstractTarget, method: Method, seed: int = 0) -> Any:
    """The method tuned for a target on paths of its own: frozen, and good for runs of this problem alone."""
    return method.fit(problem, target, seed)


def run(problem: AbstractProblem, fitted: Any, paths: int, seed: int = 0, **options: Any) -> dict[str, Result]:
    """Estimates by name from fresh paths under a frozen law of sampling; options are those of its `run`."""
    return fitted.run(problem, paths, seed, **options)


def confirm(result: Result, other: Result) -> Result:
    """The result with a check against an estimate of another family."""
    if other.refused or result.refused:
        return result
    row = diagnostics.second_estimator(result.estimate, other.estimate, result.thresholds)
    return dataclasses.replace(result, diagnosis=Diagnosis((*result.diagnosis.rows, row)))


@dataclasses.dataclass(frozen=True)
class Plain:
    """Paths of the law itself."""

    def fit(self, problem: AbstractProblem, target: AbstractTarget, seed: int) -> Fitted:
        """Nothing to tune."""
        del problem, seed
        return Fitted(target, Hint(tag="Plain"), 0, True)


@dataclasses.dataclass(frozen=True)
class Antithetic:
    """Pairs of paths with mirrored noise, z and -z, u and 1 - u; their average is one sample.

    It helps where an outcome is monotone in its noise and not rare; a mirrored path of a rare event is never one itself.

    **Source:** Hammersley and Morton (1956), "A new Monte Carlo technique: antithetic variates".
    """

    def fit(self, problem: AbstractProblem, target: AbstractTarget, seed: int) -> "FittedAntithetic":
        """Nothing to tune."""
        del problem, seed
        if not isinstance(target, Probability | Mean):
            raise InputError(f"{target}: expected a Probability or a Mean; use Plain for quantiles")
        return FittedAntithetic(target)


class Mirrored(AbstractWrapper):
    """A system driven by the mirrored noise."""

    system: AbstractSystem

    def init(self) -> Any:
        return self.system.init()

    def step(self, state: Any, noise: Noise) -> tuple[Any, Any]:
        last = 1.0 - jnp.finfo(noise.uniform.dtype).epsneg
        return self.system.step(state, Noise(-noise.normal, jnp.minimum(1.0 - noise.uniform, last)))

    def outcome(self, state: Any) -> dict[str, Any]:
        return self.system.outcome(state)


@dataclasses.dataclass(frozen=True)
class FittedAntithetic:
    """Pairs for a target."""

    target: Probability | Mean

    def run(
        self, problem: AbstractProblem, paths: int, seed: int, *, confidence: float = 0.95, chunk: int = CHUNK
    ) -> dict[str, Result]:
        """The estimate from paths // 2 pairs; `Result.paths` counts the paths of both."""
        target, keys, nodes = self.target, _streams.noise_keys(seed, "production"), Nodes()
        plan = Plan((Integrand("mean"),), tag="Antithetic")
        for index, start in enumerate(range(0, paths // 2, chunk)):
            numbers = np.arange(start, min(start + chunk, paths // 2), dtype=np.int64)
            law = np.zeros(numbers.size, np.int32)
            lanes = min(chunk, -(-numbers.size // LANES) * LANES)
            values = []
            for system in (problem, Mirrored(problem)):
                x = paths_of(lambda _, system=system: system, keys, numbers, law, lanes)[target.outcome]
                values.append(np.asarray(x >= target.level if isinstance(target, Probability) else x, float))
            nodes = insert(nodes, index, summarize(plan, 0.5 * (values[0] + values[1])))
        acc = total(nodes)
        name = "probability" if isinstance(target, Probability) else "mean"
        result = Extra().result(streamed.mean(acc, 1, confidence), acc, 1)
        return {name: dataclasses.replace(result, paths=2 * acc.paths)}
