"""Gradients of whole venues: any number of a scenario by its dotted key, any outcome, on any kernel.

| number | method |
| --- | --- |
| that no comparison sees which decides an event | pathwise |
| a time that counts in whole steps (halts, clocks); a count | difference over one whole step, which is no derivative |
| any other: thresholds, bands, laws of the noise | differences on common random numbers |

The first are margins, impact and market of a smooth ladder without a breaker, as long as its sales do not breed more sales
than they are, and on any kernel what moves no threshold: fund, fees, shares.
Which it is, is found out by tracing and on a pilot, and said in the `reason` of the record. Numbers of the market could have
a score as well; differences serve them all and need no density of the law.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from .._fields import InputError
from ..scenario import Scenario
from ..tails.proposal import AbstractProposal
from .paired import differences
from .pathwise import INDICATORS, SEEN_BY_NONE, converged, pathwise, reach
from .quantities import AbstractMean, AbstractQuantity, Expectation, Fixed
from .record import Gradient
from .sampling import Sampling, outcome_of
from .steps import Number, Step, asked, at, best_step, is_whole, number, whole_step

METHODS = ("auto", "pathwise", "differences")
_LAW = "a number of the law of the noise, without a score here"


def quantity_of(outcome: str | AbstractQuantity) -> AbstractQuantity:
    """A quantity as it is, and the mean of an outcome that is given by name."""
    return Expectation(outcome) if isinstance(outcome, str) else outcome


def estimate(
    scenario: Scenario,
    parameters: Sequence[str],
    *,
    outcome: str | AbstractQuantity = "bad_debt",
    method: str = "auto",
    step: float | None = None,
    proposal: AbstractProposal | None = None,
    seed: int = 0,
    paths: int = 64 * 1_024,
    batches: int = 64,
    chunk: int = 1_024,
    dtype: Any = None,
) -> dict[str, Gradient]:
    """Derivatives of one quantity in numbers of a scenario, by dotted key, each with its method, reason, error and bias.

    `outcome`: an outcome of the system by name (its mean), or a quantity. `step`: of differences, found on a pilot by
    default. `proposal`: another law of the noise, weighted back.

    **Raises:** `InputError` for keys that lead to no number, unknown outcomes and methods, steps that leave the domain, and
    if "pathwise" is asked of a number without a derivative at fixed noise.
    """
    sampling = Sampling(scenario, paths, batches, seed, "market", chunk, dtype_of(dtype), proposal)
    found = estimate_all(sampling, parameters, [quantity_of(outcome)], method=method, step=step)
    return {key: records[0] for key, records in found.items()}


def dtype_of(dtype: Any) -> Any:
    """Single precision unless asked."""
    return np.dtype("float32") if dtype is None else np.dtype(dtype)


def estimate_all(
    sampling: Sampling,
    parameters: Sequence[str],
    quantities: Sequence[AbstractQuantity],
    *,
    method: str = "auto",
    step: float | dict[str, float] | None = None,
) -> dict[str, list[Gradient]]:
    """The records of several quantities from the same paths: for each parameter one per quantity."""
    if method not in METHODS:
        raise InputError(f"method = {method!r}: expected one of {', '.join(METHODS)} for a scenario")
    numbers = [number(sampling.scenario, key) for key in parameters]
    system = sampling.system({})
    pilot = sampling.pilot(system)
    fixed = [q.fix(outcome_of(pilot, q.outcome), pilot["weight"]) for q in quantities]
    gross = float(sampling.scenario.build(sampling.dtype).cascade.positions.gross())
    found = {}
    for what in numbers:
        wanted = step.get(what.key) if isinstance(step, dict) else step
        found[what.key] = _one(sampling, what, list(quantities), fixed, method, wanted, gross)
    return found


def _one(
    sampling: Sampling,
    what: Number,
    quantities: list[AbstractQuantity],
    fixed: list[Fixed | None],
    method: str,
    step: float | None,
    gross: float,
) -> list[Gradient]:
    """The records of one number: pathwise where that is right, differences for what is left."""
    records, why = _pathwise(sampling, what, quantities, fixed, method)
    left = list(why)
    if left:
        rest, held = [quantities[n] for n in left], [fixed[n] for n in left]
        chosen, note = _step(sampling, what, rest, held, step, gross)
        law = f"; {_LAW}" if what.key.startswith("market.") else ""
        found = differences(sampling, what.key, at(sampling, what), chosen, rest, held, note)
        for n, record in zip(left, found, strict=True):
            said = record.reason if chosen.whole else f"{why[n]}{law}{record.reason}"
            source = record.bias_source
            if rest[left.index(n)].outcome in INDICATORS:
                source += "; the step is the bandwidth within which paths change sides"
            records[n] = dataclasses.replace(record, reason=said, bias_source=source)
    return [records[n] for n in range(len(quantities))]


def _pathwise(
    sampling: Sampling, what: Number, quantities: list[AbstractQuantity], fixed: list[Fixed | None], method: str
) -> tuple[dict[int, Gradient], dict[int, str]]:
    """Pathwise records by the place of their quantity, and why the others have none.

    **Raises:** `InputError` if "pathwise" is asked and one has none.
    """
    why, smooth = {}, {}
    traced = None
    for n, quantity in enumerate(quantities):
        said = _never(quantity, method)
        if not said:
            traced = reach(sampling, what) if traced is None else traced
            said = "" if traced.passes else traced.reason
        (why if said else smooth)[n] = said
    records: dict[int, Gradient] = {}
    if smooth and not (method == "pathwise" and why):
        means = [q for n, q in enumerate(quantities) if n in smooth and isinstance(q, AbstractMean)]
        found = pathwise(sampling, what, means, [fixed[n] for n in smooth], SEEN_BY_NONE)
        critical = f"sales bred more sales than they were on {found.critical:,} of {sampling.paths:,} paths"
        for n, record in zip(smooth, found.records, strict=True):
            if found.critical and converged(sampling.scenario):
                why[n] = f"{critical}, where a converged cascade jumps"
            elif found.critical and method == "auto" and not record.accepted[0]:
                why[n] = f"{critical}, and the pathwise derivative is too heavy-tailed"
            elif found.critical:
                records[n] = dataclasses.replace(record, reason=f"{record.reason}; {critical}, exact for its rounds")
            else:
                records[n] = record
    if method == "pathwise" and why:
        n, said = next(iter(why.items()))
        raise InputError(
            f"{what.key}: no pathwise derivative of {quantities[n].name} ({said}); use method='differences' or 'auto'"
        )
    return records, why


def _never(quantity: AbstractQuantity, method: str) -> str:
    """Why a quantity has no pathwise derivative in any number; empty if it may have one."""
    if method == "differences":
        return "asked for by name"
    if not isinstance(quantity, AbstractMean):
        return "a quantile, whose derivative is no mean over paths"
    return "an outcome that counts events" if quantity.outcome in INDICATORS else ""


def _step(
    sampling: Sampling,
    what: Number,
    quantities: list[AbstractQuantity],
    fixed: list[Fixed | None],
    step: float | None,
    gross: float,
) -> tuple[Step, str]:
    scenario = sampling.scenario
    if what.leaf.whole:
        return whole_step(scenario, what, 1.0), "a count, which has no derivative"
    if what.key == "horizon" or is_whole(sampling, what):
        return whole_step(scenario, what, float(scenario.step)), "a time that counts in whole steps of the run"
    if step is not None:
        return asked(scenario, what, step), ""
    held = [0.0 if one is None else one.value for one in fixed]
    return best_step(sampling, what, quantities, held, gross), ""
