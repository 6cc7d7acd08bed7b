"""What speaks against an estimate: rows of checks, each with thresholds, and a result whose value raises when one refuses.

A refused estimate shows only a bound, the first reason, and what to try next. Thresholds are named fields; the record holds
them beside what was measured.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy import stats

from .accumulator import Accumulator, row_moments, std_error
from .measures import Estimate
from .moments import Moments, moments_of
from .streamed import largest_contributions
from .tail_index import MOST, khat


@dataclasses.dataclass(frozen=True)
class Thresholds:
    """(warn, refuse) of the checks of weighted paths.

    The tail index is refused beyond min(1 - 1/log10 paths, its second number).
    """

    effective_hits: tuple[float, float] = (400.0, 100.0)
    tail_index: tuple[float, float] = (0.5, 0.7)
    weight_share: tuple[float, float] = (0.01, 0.05)
    mean_weight: tuple[float, float] = (3.0, 4.0)
    ladder: tuple[float, float] = (3.0, 4.0)
    nominal_share: tuple[float, float] = (1e-2, 1e-4)
    batches: tuple[float, float] = (1e-2, 1e-4)
    second_estimator: tuple[float, float] = (2.5, 3.5)
    replicates: tuple[float, float] = (1.5, 3.0)
    clipped: tuple[float, float] = (0.05, math.inf)
    extreme_value: tuple[float, float] = (2.0, math.inf)


DEFAULT = Thresholds()
_MORE_PILOT = "a longer pilot, or a mixture of tilts"
_REMEDIES = {
    "effective_hits": "more paths, or a tilt closer to the event",
    "tail_index": _MORE_PILOT,
    "weight_share": "a defensive share of nominal paths, or a mixture of tilts",
    "mean_weight": "a defensive share of nominal paths; check the log-density of the tilt",
    "ladder": "check the log-density of the tilt; splitting as a second estimator",
    "nominal_share": "a mixture of tilts: paths of the event may lie where the tilt does not go",
    "batches": "independent keys for every path",
    "second_estimator": "a mixture of tilts: one of the two misses a part of the event",
    "unconfirmed": "more paths of splitting beside it, or plain paths until a hundred are hits: one family may miss a mode",
    "replicates": "the interval of the replicates instead of the internal one",
    "replicate_spread": "more paths in every replicate, or another score",
    "differing_pairs": "more paths: few pairs tell how far the cheap system is from the full one",
    "control_gain": "the estimate without the cheap system",
    "beyond_strata": "more strata: a smaller `beyond`",
    "root": "more evaluations of a root",
    "several_roots": "more pilot lines in the fit, which then looks for several roots",
    "flat": "another direction: the score does not move along this one",
    "not_finite": "the model or the tilt gives values that are no numbers; find the path",
    "clipped": "a weaker tilt",
    "extreme_value": "nothing: the tail changes regime beyond the threshold",
}


class Row(NamedTuple):
    """One check: what was measured, where it warns and refuses, and the verdict "ok", "warn" or "refuse"."""

    name: str
    value: float
    warn: float
    refuse: float
    verdict: str

    @property
    def remedy(self) -> str:
        """What to try next."""
        return _REMEDIES[self.name]


class RefusedEstimateError(ValueError):
    """The value of a refused estimate was read."""


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """All checks of one estimate."""

    rows: tuple[Row, ...]

    @property
    def refused(self) -> bool:
        return any(row.verdict == "refuse" for row in self.rows)

    @property
    def warnings(self) -> tuple[str, ...]:
        return tuple(row.name for row in self.rows if row.verdict == "warn")

    @property
    def reason(self) -> str:
        """The first refusing row and what to try, or ""."""
        row = next((row for row in self.rows if row.verdict == "refuse"), None)
        if row is None:
            return ""
        return f"{row.name} = {row.value:.3g}, refused at {row.refuse:.3g}; try {row.remedy}"


@dataclasses.dataclass(frozen=True)
class Result:
    """An estimate with its checks; `value`, `std_error` and `interval` raise when it is refused, `upper_bound` does not."""

    estimate: Estimate
    diagnosis: Diagnosis
    upper_bound: float = math.nan
    paths: int = 0
    tuning_paths: int = 0
    thresholds: Thresholds = DEFAULT

    @property
    def refused(self) -> bool:
        return self.diagnosis.refused or not np.isfinite(self.estimate.value)

    @property
    def reason(self) -> str:
        return self.diagnosis.reason or (self.estimate.note if self.refused else "")

    @property
    def value(self) -> float:
        return self._checked().value

    @property
    def std_error(self) -> float:
        return self._checked().std_error

    @property
    def interval(self) -> tuple[float, float]:
        return self._checked().low, self._checked().high

    def relative_variance(self, cost: float = 1.0) -> float:
        """Work-normalized relative variance: that of one path times its cost in full paths."""
        return self.paths * (self.std_error / self.value) ** 2 * cost

    def gain_over_plain(self, cost: float = 1.0) -> float:
        """(1 - p)/p over the work-normalized relative variance: what plain paths would need, for a probability."""
        return (1.0 - self.value) / self.value / self.relative_variance(cost)

    def _checked(self) -> Estimate:
        if self.refused:
            raise RefusedEstimateError(f"the estimate is refused: {self.reason}; upper bound {self.upper_bound:.3g}")
        return self.estimate


def diagnose(acc: Accumulator, row: int, thresholds: Thresholds = DEFAULT, extra: Iterable[Row] = ()) -> Diagnosis:
    """The checks that a summary allows for one of its rows, and those of `extra`."""
    moments, weights = row_moments(acc, row), row_moments(acc, 0)
    batches = Moments(*(field[row] for field in acc.moments))
    plain = float(weights.m2) == 0.0 and float(weights.mean) == 1.0
    rows = contribution_rows(moments, largest_contributions(acc, row), plain, thresholds)
    if not plain:
        rows.append(mean_weight(weights, thresholds))
    error = std_error(acc, row) / acc.plan.units[row]
    rows.append(batch_agreement(batches, acc.paths * error**2, thresholds))
    return Diagnosis((not_finite(acc.broken), *rows, *extra))


def diagnose_paths(y: ArrayLike, weights: ArrayLike, thresholds: Thresholds = DEFAULT, batches: int = 64) -> Diagnosis:
    """The same checks from arrays: contributions y = w f and weights w of all paths."""
    y, w = np.asarray(y, float), np.asarray(weights, float)
    largest = np.sort(np.abs(y))[::-1][: MOST + 1]
    plain = bool(np.all(w == 1.0))
    broken = int(np.count_nonzero(~(np.isfinite(y) & np.isfinite(w))))
    if broken:
        return Diagnosis((not_finite(broken),))
    all_of_them = moments_of(y)
    rows = contribution_rows(all_of_them, largest, plain, thresholds)
    if not plain:
        rows.append(mean_weight(moments_of(w), thresholds))
    parts = moments_of(y[: y.size - y.size % batches].reshape(-1, batches))
    rows.append(batch_agreement(parts, float(all_of_them.variance), thresholds))
    return Diagnosis((not_finite(broken), *rows))


def diagnose_tail(
    x: ArrayLike, weights: ArrayLike, value_at_risk: float, thresholds: Thresholds = DEFAULT
) -> tuple[Diagnosis, Diagnosis]:
    """The checks of a value-at-risk, on w 1{x >= v}, and of its expected shortfall, on w (x - v)+."""
    x, w = np.asarray(x, float), np.asarray(weights, float)
    hit, excess = w * (x >= value_at_risk), w * np.maximum(x - value_at_risk, 0.0)
    return diagnose_paths(hit, w, thresholds), diagnose_paths(excess, w, thresholds)


def contribution_rows(moments: Moments, largest: np.ndarray, plain: bool, thresholds: Thresholds) -> list[Row]:
    """Effective hits, tail index and largest share of the contributions y = w f."""
    hits, absolute = float(moments.effective_hits), float(moments.absolute)
    share = float(moments.largest) / absolute if absolute > 0.0 else 1.0
    rows = [low("effective_hits", hits, thresholds.effective_hits)]
    if not plain:
        rows.append(tail_index(khat(largest, int(moments.count)), int(moments.count), thresholds))
    return [*rows, high("weight_share", share, thresholds.weight_share)]


def tail_index(shape: float, paths: int, thresholds: Thresholds = DEFAULT) -> Row:
    """k-hat of the contributions; none (fewer than 20 excesses) is refused."""
    warn, refuse = thresholds.tail_index
    return high("tail_index", shape, (warn, min(1.0 - 1.0 / math.log10(max(paths, 11)), refuse)))


def mean_weight(weights: Moments, thresholds: Thresholds = DEFAULT) -> Row:
    """The mean of the weights is one: |z|, with the error of paths whose law is drawn as well.

    Within laws the weights of a mixture are too skewed for a z: one law has nearly all of their mean and nearly no spread.
    """
    error = float(weights.std_error)
    away = abs(float(weights.mean) - 1.0)
    return high(
        "mean_weight", away / error if error > 0.0 else (math.inf if away > 1e-9 else 0.0), thresholds.mean_weight
    )


def batch_agreement(batches: Moments, variance: float, thresholds: Thresholds = DEFAULT) -> Row:
    """P-value of the spread of batch means, chi-square with the variance of a path.

    Batches are joined until each holds 25 effective hits, below which their means are too skewed for the law.
    """
    hits = float(np.sum(batches.absolute)) ** 2 / max(
        float(np.sum(batches.m2 + batches.count * batches.mean**2)), 1e-300
    )
    groups = batches.mean.size
    while groups > 2 and hits / groups < 25.0:
        groups //= 2
    count = batches.count.reshape(-1, groups).sum(axis=0).astype(float)
    means = (batches.count * batches.mean).reshape(-1, groups).sum(axis=0) / count
    center = float(count @ means / count.sum())
    if variance == 0.0:
        return low("batches", 1.0 if np.ptp(means) == 0.0 else 0.0, thresholds.batches)
    statistic = float(count @ (means - center) ** 2) / variance
    return low("batches", float(stats.chi2.sf(statistic, groups - 1)), thresholds.batches)


def second_estimator(a: Estimate, b: Estimate, thresholds: Thresholds = DEFAULT) -> Row:
    """|z| of the difference of two independent estimates of other families."""
    return high("second_estimator", _z(a, b), thresholds.second_estimator)


def ladder_agreement(pairs: Iterable[tuple[Estimate, Estimate]], thresholds: Thresholds = DEFAULT) -> Row:
    """Largest |z| of weighted against plain estimates, over levels at which plain paths have hits enough."""
    return high("ladder", max((_z(a, b) for a, b in pairs), default=0.0), thresholds.ladder)


def _z(a: Estimate, b: Estimate) -> float:
    return abs(a.value - b.value) / math.hypot(a.std_error, b.std_error)


def nominal_share(hits: int, drawn: int, p: float, thresholds: Thresholds = DEFAULT) -> Row:
    """Exact two-sided p-value of the hits among `drawn` paths of the law of interest itself, if p were right."""
    value = stats.binomtest(hits, drawn, min(max(p, 0.0), 1.0)).pvalue
    return low("nominal_share", float(value), thresholds.nominal_share)


def unconfirmed() -> Row:
    """The row of an estimate that no estimate of another family speaks for; it refuses."""
    return high("unconfirmed", 1.0, (0.5, 0.5))


def replicates(values: ArrayLike, std_errors: ArrayLike, thresholds: Thresholds = DEFAULT) -> Row:
    """Spread of replicates over what their own standard errors say."""
    spread = float(np.std(np.asarray(values, float), ddof=1))
    return high("replicates", spread / float(np.sqrt(np.mean(np.square(std_errors)))), thresholds.replicates)


def extreme_value(extrapolated: float, estimate: float, thresholds: Thresholds = DEFAULT) -> Row:
    """Factor between a peaks-over-threshold extrapolation and the estimate; it never refuses."""
    factor = extrapolated / estimate
    return high("extreme_value", max(factor, 1.0 / factor), thresholds.extreme_value)


def clipped(share: float, thresholds: Thresholds = DEFAULT) -> Row:
    """Share of steps at which the drift of the tilt was clipped."""
    return high("clipped", share, thresholds.clipped)


def worst(rows: Iterable[Row]) -> tuple[Row, ...]:
    """Of rows with one name, such as those of several pilots, the one that speaks most against the estimate."""
    order, found = ("ok", "warn", "refuse"), {}
    for row in rows:
        if row.name not in found or order.index(row.verdict) > order.index(found[row.name].verdict):
            found[row.name] = row
    return tuple(found.values())


def not_finite(paths: int) -> Row:
    """Paths whose value or weight is no number; one is too many."""
    return high("not_finite", float(paths), (0.0, 0.0))


def high(name: str, value: float, limits: tuple[float, float]) -> Row:
    """A row that is bad when large; nan refuses."""
    verdict = "ok" if value <= limits[0] else "warn" if value <= limits[1] else "refuse"
    return Row(name, value, *limits, verdict)


def low(name: str, value: float, limits: tuple[float, float]) -> Row:
    """A row that is bad when small; nan refuses."""
    verdict = "ok" if value >= limits[0] else "warn" if value >= limits[1] else "refuse"
    return Row(name, value, *limits, verdict)


def tail_gate(thresholds: Thresholds = DEFAULT) -> Callable[[Float[np.ndarray, " largest"], int], str]:
    """A `gate` for `policy.Certification`: refuses a mean whose largest contributions have too heavy a tail."""

    def gate(largest: Float[np.ndarray, " largest"], paths: int) -> str:
        row = tail_index(khat(largest, paths), paths, thresholds)
        refused = f"tail index {row.value:.2f} of the contributions, at most {row.refuse:.2f} may be"
        return refused if row.verdict == "refuse" else ""

    return gate
