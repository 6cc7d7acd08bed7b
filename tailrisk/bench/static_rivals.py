"""Static limit states by our estimators and by OpenTURNS (Baudin, Dutfoy, Iooss, Popelin 2017) at equal evaluations.

Every method gets the same number of evaluations of the limit state, tuning included, as nearly as its stages allow; each
repeats with fresh seeds. What counts is the error it makes, the share of its 95 % intervals that hold the truth, and whether it
says so when it is lost: a refused estimate has no error and no interval.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import click
import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from .. import tails
from ..tails import Probability
from .tail_cases import LIMIT_STATES, Static

BUDGET = 20_000
MANY = 10  # inputs beyond which kernel densities are hopeless
_BLOCK, _FIRST = 250, 12
_Z = float(special.ndtri(0.975))


class Answer(NamedTuple):
    """An estimate with its 95 % interval, or nan when refused, and the evaluations it took."""

    value: float
    low: float
    high: float
    evaluations: int


Method = Callable[[str, int], Answer]


@dataclasses.dataclass(frozen=True)
class Row:
    """One method on one case: of `repeats` runs `given` gave an estimate, and `covered` of these an interval with the truth.

    `error` is the root mean square error of the estimates given, relative to the truth.
    """

    case: str
    method: str
    error: float
    covered: int
    given: int
    repeats: int
    evaluations: float
    seconds: float


def _ours(method: Any) -> Method:
    def answer(case: str, seed: int) -> Answer:
        inputs, limit, _ = LIMIT_STATES[case]
        problem, target = Static(inputs=inputs, limit=limit), Probability(0.0)
        fitted = tails.fit(problem, target, method, seed)
        left = max(BUDGET - fitted.tuning_paths, BUDGET // 10)
        result = tails.run(problem, fitted, left // 640 * 640, seed)["probability"]
        used = result.paths + result.tuning_paths
        if result.refused:
            return Answer(math.nan, math.nan, math.nan, used)
        return Answer(result.value, *result.interval, used)

    return answer


def _theirs(build: Callable[[Any, Any], Any]) -> Method:
    sizes: dict[str, int] = {}  # blocks of a stage, by case, set by the first run to what the budget allows

    def answer(case: str, seed: int) -> Answer:
        import openturns as ot  # pyright: ignore[reportMissingImports]

        inputs, limit, _ = LIMIT_STATES[case]
        evaluate = _evaluations(limit)
        ot.Log.Show(0)
        ot.RandomGenerator.SetSeed(seed)
        function = ot.PythonFunction(inputs, 1, func_sample=lambda x: evaluate(np.asarray(x))[:, None])
        vector = ot.CompositeRandomVector(function, ot.RandomVector(ot.Normal(inputs)))
        event = ot.ThresholdEvent(vector, ot.LessOrEqual(), 0.0)
        algorithm, blocks = build(ot, event), sizes.get(case, _FIRST)
        algorithm.setBlockSize(_BLOCK)
        algorithm.setMaximumOuterSampling(blocks)
        before = function.getEvaluationCallsNumber()
        algorithm.run()
        found, used = algorithm.getResult(), function.getEvaluationCallsNumber() - before
        sizes.setdefault(case, max(round(blocks * BUDGET / used), 1))
        p, half = float(found.getProbabilityEstimate()), _Z * float(found.getStandardDeviation())
        return Answer(p, p - half, p + half, used)

    return answer


@functools.cache
def _evaluations(limit: Any) -> Callable[[np.ndarray], np.ndarray]:
    """The limit state of many points at once, compiled for blocks of one size."""
    one = jax.jit(jax.vmap(limit))

    def evaluate(x: np.ndarray) -> np.ndarray:
        filled = np.concatenate([x, np.zeros((-x.shape[0] % _BLOCK, x.shape[1]))])
        return np.concatenate([np.asarray(one(jnp.asarray(part))) for part in filled.reshape(-1, _BLOCK, x.shape[1])])[
            : x.shape[0]
        ]

    return evaluate


METHODS: dict[str, Method] = {
    "ours, lobes": _ours(tails.LobeMixture()),
    "ours, subset simulation": _ours(tails.Subset(pilot=1_000, replicates=8)),
    "OpenTURNS, subset simulation": _theirs(lambda ot, event: ot.SubsetSampling(event)),
    "OpenTURNS, cross-entropy": _theirs(lambda ot, event: ot.StandardSpaceCrossEntropyImportanceSampling(event, 0.1)),
    "OpenTURNS, kernel densities": _theirs(lambda ot, event: ot.NAIS(event, 0.1)),
}


def contest(case: str, name: str, repeats: int) -> Row:
    """Repeated runs of a method; the first one compiles."""
    method = METHODS[name]
    truth = LIMIT_STATES[case][2]
    method(case, 1_000)
    began = time.process_time()
    answers = [method(case, 1 + repeat) for repeat in range(repeats)]
    seconds = (time.process_time() - began) / repeats
    given = [a for a in answers if math.isfinite(a.value)]
    error = math.sqrt(float(np.mean([(a.value / truth - 1.0) ** 2 for a in given]))) if given else math.nan
    covered = sum(a.low <= truth <= a.high for a in given)
    used = float(np.mean([a.evaluations for a in answers]))
    return Row(case, name, error, covered, len(given), repeats, used, seconds)


def run(repeats: int) -> list[dict[str, Any]]:
    """Prints a table per case."""
    rows = []
    click.echo(f"\nstatic limit states: about {BUDGET:,} evaluations, tuning included; {repeats} repeats")
    click.echo(f"{'':16}{'':32}{'rms error':>10}{'95 % intervals':>16}{'refused':>9}{'evaluations':>13}{'CPU s':>8}")
    for case in LIMIT_STATES:
        for name in METHODS:
            if name.endswith("kernel densities") and LIMIT_STATES[case][0] > MANY:
                continue
            row = contest(case, name, repeats)
            rows.append(dataclasses.asdict(row))
            hold = f"{row.covered} of {row.given} hold"
            click.echo(
                f"{case:16}{name:32}{row.error:>10.3f}{hold:>16}{repeats - row.given:>9}{row.evaluations:>13,.0f}"
                f"{row.seconds:>8.2f}"
            )
    return rows
