"""The choice of a method against differences at another step on fresh noise: do sign and size agree?

An audit of one number and one quantity compares two independent estimates, `estimate` by the automatic choice and `reference`
by differences on common random numbers under other keys, at half the step where the first was a difference as well:

    z = (estimate - reference) / sqrt(std_error^2 + reference_error^2).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..scenario import Scenario
from ..tails.proposal import AbstractProposal
from .quantities import AbstractQuantity
from .record import Gradient
from .sampling import Sampling
from .venue import dtype_of, estimate_all, quantity_of

Z_MOST = 3.0
SEEN = 2.0  # standard errors from zero at which a sign counts as known


class AuditRow(NamedTuple):
    """One number and one quantity. `same_sign`: None where one of the two is not told from zero; `ratio`: of the two."""

    parameter: str
    outcome: str
    method: str
    reason: str
    estimate: float
    std_error: float
    bias: float
    bias_error: float
    step: float
    reference: float
    reference_error: float
    reference_step: float
    ratio: float
    z: float
    same_sign: bool | None
    accepted: bool  # by the diagnostics of both records
    passed: bool  # |z| below 3, and no known signs that differ


class Audit(NamedTuple):
    """Rows of an audit; prints as a table."""

    rows: tuple[AuditRow, ...]

    @property
    def passed(self) -> bool:
        """Whether every row passed."""
        return all(row.passed for row in self.rows)

    def __str__(self) -> str:
        head = f"{'number':<34} {'of':<18} {'estimate':>11} {'+-':>8} {'reference':>11} {'+-':>8} {'ratio':>6} {'z':>5}  method"
        lines = [head]
        for row in self.rows:
            mark = "" if row.passed else "  FAILED"
            mark += "" if row.accepted else "  not accepted"
            lines.append(
                f"{row.parameter:<34} {row.outcome:<18} {row.estimate:>11.4g} {row.std_error:>8.2g} "
                f"{row.reference:>11.4g} {row.reference_error:>8.2g} {row.ratio:>6.3g} {row.z:>5.2f}  {row.method}{mark}"
            )
        return "\n".join(lines)


def audit(
    scenario: Scenario,
    parameters: Sequence[str],
    outcomes: Sequence[str | AbstractQuantity] = ("bad_debt",),
    *,
    proposal: AbstractProposal | None = None,
    seed: int = 0,
    paths: int = 64 * 1_024,
    batches: int = 64,
    chunk: int = 1_024,
    dtype: Any = None,
) -> Audit:
    """The automatic choice for every number and quantity against differences at a second step on fresh noise.

    All quantities share their paths.

    **Raises:** `InputError` as `estimate` does.
    """
    quantities = [quantity_of(outcome) for outcome in outcomes]
    first = Sampling(scenario, paths, batches, seed, "market", chunk, dtype_of(dtype), proposal)
    chosen = estimate_all(first, parameters, quantities)
    second = first._replace(root="audit")
    halves = {key: float(records[0].step[0]) / 2.0 for key, records in chosen.items()}
    steps = {key: step for key, step in halves.items() if np.isfinite(step)}
    fresh = estimate_all(second, parameters, quantities, method="differences", step=steps)
    return Audit(
        tuple(
            _row(key, quantity, chosen[key][n], fresh[key][n])
            for key in parameters
            for n, quantity in enumerate(quantities)
        )
    )


def _row(key: str, quantity: AbstractQuantity, mine: Gradient, other: Gradient) -> AuditRow:
    value, error = float(mine.estimate[0]), float(mine.std_error[0])
    reference, reference_error = float(other.estimate[0]), float(other.std_error[0])
    spread = np.hypot(error, reference_error)
    z = (value - reference) / spread if spread > 0.0 else (0.0 if value == reference else np.inf)
    known = abs(value) > SEEN * error and abs(reference) > SEEN * reference_error
    same = bool(value * reference > 0.0) if known else None
    return AuditRow(
        parameter=key,
        outcome=quantity.name,
        method=mine.method,
        reason=mine.reason,
        estimate=value,
        std_error=error,
        bias=float(mine.bias[0]),
        bias_error=float(mine.bias_error[0]),
        step=float(mine.step[0]),
        reference=reference,
        reference_error=reference_error,
        reference_step=float(other.step[0]),
        ratio=value / reference if reference else np.nan,
        z=float(z),
        same_sign=same,
        accepted=bool(mine.accepted[0] and (other.accepted[0] or value == reference == spread == 0.0)),
        passed=bool(abs(z) < Z_MOST and same is not False),
    )
