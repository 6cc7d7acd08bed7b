"""A cheap system as control variate: it sees the same noise, under the same tilt, and its own mean is known better.

The tilt is tuned on the cheap system, whose place it follows, so both get the same noise and the same weight w. With n pairs
and m paths of the cheap system alone,

    mean = mean_n(w f - beta w c) + beta mean_m(w c),    var = var(w f - beta w c)/n + beta^2 var(w c)/m,

where beta comes from a pilot alone, which keeps the estimate unbiased. With correlation rho and cost ratio k = cost(c)/cost(f)
the best m/n is sqrt(rho^2 / ((1 - rho^2) k)) and the gain 1 / (sqrt(1 - rho^2) + sqrt(rho^2 k))^2. The tilt of a pair ends when
either system has decided: going on after the full one has would only spread the weights of pairs in which they differ, which
are the ones that make the error.

**Source:** Giles (2015), "Multilevel Monte Carlo methods"; Peherstorfer, Willcox, Gunzburger (2016), "Optimal model management
for multifidelity Monte Carlo estimation".
"""

import dataclasses
import math
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree
from scipy import special

from .._fields import InputError
from .._streams import Draws, Noise
from . import diagnostics
from .accumulator import Accumulator, Nodes, insert, means, row_moments, summarize, total
from .crossentropy import CrossEntropy
from .diagnostics import Result
from .measures import Estimate
from .plan import Integrand, Plan
from .problem import AbstractProblem, Roles
from .sampler import CHUNK, Fitted
from .targets import AbstractTarget, Mean, Probability

MOST_RATIO = 1_000.0
DIFFERING = (20.0, 5.0)  # effective pairs in which the systems differ: warn, and refuse an error estimated from fewer


class Pair(NamedTuple):
    """A path of both systems."""

    full: PyTree
    cheap: PyTree


class Paired(AbstractProblem):
    """Two systems on the same noise; a tilt follows the cheap one until either is decided."""

    full: AbstractProblem
    cheap: AbstractProblem
    steps: int = eqx.field(static=True)
    dtype: Any = eqx.field(static=True)

    def __init__(self, full: AbstractProblem, cheap: AbstractProblem):
        mine, other = ((one.steps, one.draws, one.roles, one.dtype) for one in (full, cheap))
        if mine != other:
            raise InputError(
                f"the full system has steps, draws, roles and precision {mine}, the cheap one {other}; "
                "both must use the same noise"
            )
        self.full, self.cheap, self.steps, self.dtype = full, cheap, full.steps, full.dtype

    @property
    def draws(self) -> Draws:
        return self.full.draws

    @property
    def roles(self) -> Roles:
        return self.full.roles

    def init(self) -> Pair:
        return Pair(self.full.init(), self.cheap.init())

    def step(self, state: Pair, noise: Noise) -> tuple[Pair, None]:
        return Pair(self.full.step(state.full, noise)[0], self.cheap.step(state.cheap, noise)[0]), None

    def place(self, state: Pair) -> Float[Array, ""]:
        return self.cheap.place(state.cheap)

    def score(self, state: Pair) -> Float[Array, ""]:
        return jnp.maximum(self.full.score(state.full), self.cheap.score(state.cheap))

    def chance(self, state: Pair, noise: Noise, event: int) -> Float[Array, ""]:
        return self.cheap.chance(state.cheap, noise, event)

    def outcome(self, state: Pair) -> dict[str, Any]:
        full, cheap = self.full.outcome(state.full), self.cheap.outcome(state.cheap)
        return {f"full_{k}": x for k, x in full.items()} | {f"cheap_{k}": x for k, x in cheap.items()}


def gain(correlation: float, cost: float) -> float:
    """How much less work the control variate needs for an equal error."""
    rest = math.sqrt(max(1.0 - correlation**2, 0.0))
    return 1.0 / (rest + math.sqrt(correlation**2 * cost)) ** 2


@dataclasses.dataclass(frozen=True)
class Controlled:
    """A method tuned on a cheap system, and a pilot of pairs that says how far its paths can be trusted.

    `cost` is that of a cheap path over that of a full one. The multiplier is refused where its gain may be below one.
    """

    cheap: AbstractProblem
    cost: float
    method: CrossEntropy = dataclasses.field(default_factory=CrossEntropy)
    pairs: int = 4_000

    def __post_init__(self):
        if not 0.0 < self.cost < 1.0 or self.pairs < 100:
            raise InputError(
                f"cost = {self.cost}, pairs = {self.pairs}: expected a cost in (0, 1) and at least 100 pairs"
            )

    def fit(self, problem: AbstractProblem, target: AbstractTarget, seed: int) -> "FittedControlled":
        """The tilt of the cheap system, and beta, the correlation and the best ratio of paths from a pilot of pairs."""
        if not isinstance(target, Probability | Mean):
            raise InputError(f"{target}: expected a Probability or a Mean; use CrossEntropy alone for quantiles")
        tilt = self.method.fit(self.cheap, target, seed)
        draft = FittedControlled(target, tilt, self.cheap, self.cost, 0.0, 1.0, 0.0, 0.0, 0)
        acc, differing = draft.pairs(problem, self.pairs, seed, "pairs", CHUNK)
        (variance_f, together), (_, variance_c) = means(acc).covariance[1:, 1:]
        if not min(variance_f, variance_c) > 0.0:
            raise InputError(f"{target}: no pilot pair reached it; raise pairs or the pilot of the method")
        correlation = float(together / math.sqrt(variance_f * variance_c))
        beta = float(together / variance_c)
        rest = max(1.0 - correlation**2, 1e-12)
        ratio = min(max(math.sqrt(correlation**2 / rest / self.cost), 1.0), MOST_RATIO)
        low = math.tanh(math.atanh(min(correlation, 1.0 - 1e-12)) - 1.96 / math.sqrt(acc.paths - 3))
        worst = gain(max(low, 0.0), self.cost)
        share = float(row_moments(differing, 1).effective_hits) / acc.paths
        work = math.ceil(acc.paths * (1.0 + self.cost))
        return FittedControlled(target, tilt, self.cheap, self.cost, beta, ratio, share, worst, work)


@dataclasses.dataclass(frozen=True)
class FittedControlled:
    """A frozen tilt of the cheap system with beta, the best ratio of cheap paths to pairs, and the lower bound of the gain.

    `differing` is the share of effective pairs in which the systems differ: a run draws pairs enough to see them, at a
    smaller ratio if it must. `tuning` counts full paths; those of the tilt are cheap ones and count by their cost.
    """

    target: Probability | Mean
    tilt: Fitted
    cheap: AbstractProblem
    cost: float
    beta: float
    ratio: float
    differing: float
    worst_gain: float
    tuning: int

    def _value(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(x >= self.target.level if isinstance(self.target, Probability) else x, float)

    def _plan(self, controls: int) -> Plan:
        hint, groups = self.tilt.hint, self.tilt.groups
        return Plan((Integrand("mean", 0.0, hint.unit),), controls=controls, groups=groups, tag=hint.tag)

    def pairs(
        self, problem: AbstractProblem, paths: int, seed: int, stream: str, chunk: int
    ) -> tuple[Accumulator, Accumulator]:
        """A summary of w f with w c as control, and one of w (f - c)."""
        nodes, apart, name = Nodes(), Nodes(), self.target.outcome
        for part in self.tilt.sample(Paired(problem, self.cheap), paths, seed, chunk=chunk, stream=stream):
            full, cheap = (self._value(part.outcome[f"{side}_{name}"]) for side in ("full", "cheap"))
            nodes = insert(nodes, part.number, summarize(self._plan(1), full, part.log_weight, cheap[:, None]))
            apart = insert(apart, part.number, summarize(self._plan(0), full - cheap, part.log_weight))
        return total(nodes), total(apart)

    def run(
        self, problem: AbstractProblem, paths: int, seed: int, *, confidence: float = 0.95, chunk: int = CHUNK
    ) -> dict[str, Result]:
        """The estimate from the work of `paths` full paths; `Result.paths` is the work done."""
        seen = 2.0 * DIFFERING[1] / max(self.differing, 1e-6)  # pairs, for the variance of what differs
        pairs = max(paths / (1.0 + self.cost * (1.0 + self.ratio)), min(seen, 0.5 * paths))
        acc, apart = self.pairs(problem, max(round(pairs), 1), seed, "pairs of the production", chunk)
        n = acc.paths
        alone = Nodes()
        extra = max(round(min((paths - n * (1.0 + self.cost)) / self.cost, MOST_RATIO * n)), n)
        for part in self.tilt.sample(self.cheap, extra, seed, chunk=chunk):
            x = self._value(part.outcome[self.target.outcome])
            alone = insert(alone, part.number, summarize(self._plan(0), x, part.log_weight))
        cheap = total(alone)
        both, known = means(acc), means(cheap)
        value = float(both.value[1] + self.beta * (known.value[1] - both.value[2]))
        away = np.array([1.0, -self.beta])
        rest = max(float(away @ both.covariance[1:, 1:] @ away), 0.0)
        error = math.sqrt(rest + self.beta**2 * float(known.covariance[1, 1]))
        rows = [diagnostics.low("control_gain", self.worst_gain, (2.0, 1.0))]
        rows.append(diagnostics.low("differing_pairs", float(row_moments(apart, 1).effective_hits), DIFFERING))
        diagnosis = diagnostics.diagnose(cheap, 1, extra=(*rows, *self.tilt.pilot_checks()))
        z = float(special.ndtri(0.5 + 0.5 * confidence))
        name, low, high = "mean", value - z * error, value + z * error
        if isinstance(self.target, Probability):
            name, wide = "probability", math.exp(z * error / value) if value > 0.0 else math.nan
            low, high = value / wide, min(value * wide, 1.0)
        work = math.ceil(n * (1.0 + self.cost) + cheap.paths * self.cost)
        tuning = self.tuning + math.ceil(self.tilt.tuning_paths * self.cost)
        return {name: Result(Estimate(value, error, low, high), diagnosis, math.nan, work, tuning)}
