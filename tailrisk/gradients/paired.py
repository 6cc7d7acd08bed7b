"""Central differences of a venue on common random numbers, in any number that can be named, and how biased their step is.

    g_h = (F(theta + h) - F(theta - h)) / (2 h)

per path, both ends on the same noise and weights. An end is the scenario built anew, so books are sorted again and every
number of the tree may move; both ends run the program of a plain run. With E[g_h] - f' = B h^2 the same paths at h / 2 say

    bias = 4/3 E[g_h - g_{h/2}],

reported with its standard error. Near a kink of f', closer than h, the bias is of order h and up to 2 E[g_h - g_{h/2}].

**Source:** Richardson (1911) for the extrapolation; L'Ecuyer and Perron (1994) for common random numbers.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from ..simulate import AbstractSystem
from .quantities import AbstractMean, AbstractQuantity, Fixed, ValueAtRisk, weighted_quantile
from .record import Batches, Bias, Gradient, gradient, reduce_batches
from .sampling import Sampling, outcome_of
from .steps import Number, Step, weighted_gap

TOGETHER = 2**17  # paths whose outcomes are held at a time, about
LEAST_MOVED = 20  # paths on which the ends must differ for a mean to be accepted
_RICHARDSON = 4.0 / 3.0


class _Pair:
    """Both ends of a difference, and what one run of them is worth to each quantity."""

    def __init__(self, sampling: Sampling, what: Number, step: float):
        self.step = step
        self.sampling = sampling
        value = what.value
        moved = [round(value + move) if what.leaf.whole else value + move for move in (step, -step)]
        self.ends: list[AbstractSystem] = [sampling.system({what.key: end}) for end in moved]

    def outcomes(self, first: int, paths: int) -> list[dict[str, np.ndarray]]:
        return [self.sampling.run(end, first, paths) for end in self.ends]


def differences(
    sampling: Sampling,
    what: Number,
    step: Step,
    quantities: Sequence[AbstractQuantity],
    fixed: Sequence[Fixed | None],
    reason: str,
) -> list[Gradient]:
    """The record of every quantity for one number."""
    halves = 1 if step.whole else 2
    pairs = [_Pair(sampling, what, step.size / 2.0**k) for k in range(halves)]
    means = [(q, f) for q, f in zip(quantities, fixed, strict=True) if isinstance(q, AbstractMean)]
    rest = [q for q in quantities if isinstance(q, ValueAtRisk)]
    kept: dict[tuple[int, int, int], list[np.ndarray]] = {}
    moved = np.zeros(len(means))

    def rows(pair: _Pair, ends: list[dict[str, np.ndarray]]) -> Iterator[np.ndarray]:
        for quantity, held in means:
            for level in (0.0,) if held is None else (held.value, held.low, held.high):
                yield weighted_gap(quantity, level, *ends) / (2.0 * pair.step)

    def blocks() -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
        block = max(1, TOGETHER // sampling.size) * sampling.size
        for first in range(0, sampling.paths, block):
            some = min(block, sampling.paths - first)
            out, weights = [], {}
            for k, pair in enumerate(pairs):
                ends = pair.outcomes(first, some)
                gaps = list(rows(pair, ends))
                if k == 0:
                    weights = ends[0]
                    moved[:] += [np.count_nonzero(gaps[place]) for place in places]
                for j, quantity in enumerate(rest):
                    for e, end in enumerate(ends):
                        kept.setdefault((k, j, 2 * e), []).append(outcome_of(end, quantity.outcome))
                        kept.setdefault((k, j, 2 * e + 1), []).append(end["weight"])
                out.extend(gaps)
            yield np.stack(out) if out else np.zeros((1, some)), weights

    places = np.cumsum([0] + [1 if held is None else 3 for _, held in means])[:-1]
    width = sum(1 if held is None else 3 for _, held in means)
    found = reduce_batches(blocks(), sampling.size)
    records: dict[int, Gradient] = {}
    for n, (place, (_, held)) in enumerate(zip(places, means, strict=True)):
        bias = _bias(found.means, int(place), width, step, held)
        record = _record(_columns(found, [int(place)]), what, step, bias, reason)
        records[n] = dataclasses.replace(record, accepted=record.accepted & (moved[n] >= LEAST_MOVED))
    quantiles = [
        _quantile(
            sampling, what, step, quantity, [kept[k, j, e] for k in range(halves) for e in range(4)], found, reason
        )
        for j, quantity in enumerate(rest)
    ]
    of_means, of_rest = iter(records.values()), iter(quantiles)
    return [next(of_means) if isinstance(q, AbstractMean) else next(of_rest) for q in quantities]


def _columns(found: Batches, columns: list[int]) -> Batches:
    return found._replace(means=found.means[:, columns], largest_share=found.largest_share[columns])


def _error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / np.sqrt(values.size))


def _bias(means: np.ndarray, place: int, width: int, step: Step, held: Fixed | None) -> Bias:
    if step.whole:
        return Bias(np.array([np.nan]), "a difference over whole steps: there is no derivative for it to miss")
    apart = _RICHARDSON * (means[:, place] - means[:, place + width])
    error, source = _error(apart), "4/3 of the change from h to h/2 on the same paths"
    if held is not None:
        ends = means[:, [place + 1, place + 2]].mean(axis=0)
        error = float(np.hypot(error, abs(ends[1] - ends[0]) / 3.92))
        source += f"; value-at-risk {held.value:.6g} of a pilot, 95 % interval {held.low:.6g} to {held.high:.6g}"
    return Bias(np.array([apart.mean()]), source, np.array([error]))


def _record(batches: Batches, what: Number, step: Step, bias: Bias, reason: str) -> Gradient:
    method = "difference over whole steps" if step.whole else "common-random-number differences"
    return gradient(
        batches,
        (what.key,),
        method=method,
        reason=f"{reason}; step: {step.source}",
        bias=bias,
        step=np.array([step.size]),
    )


def _quantile(
    sampling: Sampling,
    what: Number,
    step: Step,
    quantity: ValueAtRisk,
    kept: list[list[np.ndarray]],
    found: Batches,
    reason: str,
) -> Gradient:
    """Difference of the quantiles of all paths; its error from those of the batches around it (sectioning)."""
    level, size = float(quantity.level), sampling.size
    whole = [np.concatenate(parts) for parts in kept]
    slopes, apart = [], []
    for k in range(len(whole) // 4):
        ends = whole[4 * k : 4 * k + 4]
        width = 2.0 * step.size / 2.0**k
        slopes.append(_slope(ends, level) / width)
        by_batch = (slice(b * size, (b + 1) * size) for b in range(sampling.batches))
        apart.append(np.array([_slope([end[some] for end in ends], level) for some in by_batch]) / width)
    centered = [value + (parts - parts.mean()) for value, parts in zip(slopes, apart, strict=True)]
    if step.whole:
        bias = _bias(np.zeros((2, 1)), 0, 1, step, None)
    else:
        change = _RICHARDSON * (centered[0] - centered[1])
        bias = Bias(
            np.array([change.mean()]),
            "difference of quantiles of common paths; 4/3 of its change from h to h/2",
            np.array([_error(change)]),
        )
    beyond = size * (1.0 - level)
    batches = found._replace(means=centered[0][:, None], largest_share=np.array([1.0 / max(beyond, 1.0)]))
    return _record(batches, what, step, bias, reason)


def _slope(ends: Sequence[np.ndarray], level: float) -> float:
    above, above_weight, below, below_weight = ends
    return weighted_quantile(above, above_weight, level) - weighted_quantile(below, below_weight, level)
