"""Central differences of a venue on common random numbers, in any number that can be named, and how biased their step is.

    g_h = (F(theta + h) - F(theta - h)) / (2 h)

per path, both ends on the same noise and weights. An end is the scenario built anew, so books are sorted again and every
number of the tree may move; both ends run the program of a plain run. With E[g_h] - f' = B h^2 the same paths at h / 2 say

    bias = 4/3 E[g_h - g_{h/2}],

reported with its standard error. Near a kink of f', closer than h, the bias is of order h and up to 2 E[g_h - g_{h/2}].

A quantile is no mean of paths. Its difference is that of the quantiles of all paths at the two ends, with the error of those of
the batches around it (sectioning).

**Source:** Richardson (1911) for the extrapolation; L'Ecuyer and Perron (1994) for common random numbers;
Asmussen and Glynn (2007, III.5) for sectioning.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float

from .quantities import AbstractMean, AbstractQuantity, Fixed, ValueAtRisk, weighted_quantile
from .record import Batches, Bias, Gradient, gradient, reduce_batches
from .sampling import Sampling, outcome_of
from .steps import Ends, Step, weighted_gap

TOGETHER = 2**17  # paths whose outcomes are held at a time, about
LEAST_MOVED = 20  # paths on which the ends must differ for a mean to be accepted
_RICHARDSON = 4.0 / 3.0

Outcomes = dict[str, np.ndarray]
Held = tuple[AbstractMean, Fixed | None]


def differences(
    sampling: Sampling,
    key: str,
    at: Ends,
    step: Step,
    quantities: Sequence[AbstractQuantity],
    fixed: Sequence[Fixed | None],
    reason: str,
) -> list[Gradient]:
    """The record of every quantity for the number that `at` moves; `key` is its name. Means share their paths."""
    means = [(q, f) for q, f in zip(quantities, fixed, strict=True) if isinstance(q, AbstractMean)]
    found = iter(_of_means(sampling, key, at, step, means, reason) if means else ())
    records = []
    for quantity in quantities:
        if isinstance(quantity, ValueAtRisk):
            records.append(_of_quantile(sampling, key, at, step, quantity, reason))
        else:
            records.append(next(found))
    return records


def _runs(sampling: Sampling, at: Ends, step: Step) -> Iterator[list[tuple[float, Outcomes, Outcomes]]]:
    """Blocks of whole batches: for the step and half of it, its size and the outcomes of the upper and the lower end."""
    sizes = [step.size] if step.whole else [step.size, 0.5 * step.size]
    pairs = [(size, at(size), at(-size)) for size in sizes]
    block = max(1, TOGETHER // sampling.size) * sampling.size
    for first in range(0, sampling.paths, block):
        some = min(block, sampling.paths - first)
        yield [
            (size, sampling.run(above, first, some), sampling.run(below, first, some)) for size, above, below in pairs
        ]


def _levels(held: Fixed | None) -> tuple[float, ...]:
    return (0.0,) if held is None else (held.value, held.low, held.high)


def _of_means(sampling: Sampling, key: str, at: Ends, step: Step, means: Sequence[Held], reason: str) -> list[Gradient]:
    moved = np.zeros(len(means))
    places = np.cumsum(
        [0] + [len(_levels(held)) for _, held in means]
    )  # of a mean's first column, and the width of all

    def blocks() -> Iterator[tuple[np.ndarray, Outcomes]]:
        for pairs in _runs(sampling, at, step):
            rows = [
                weighted_gap(quantity, level, above, below) / (2.0 * size)
                for size, above, below in pairs
                for quantity, held in means
                for level in _levels(held)
            ]
            moved[:] += [np.count_nonzero(rows[place]) for place in places[:-1]]
            yield np.stack(rows), pairs[0][1]

    found = reduce_batches(blocks(), sampling.size)
    records = []
    for place, many, (_, held) in zip(places[:-1], moved, means, strict=True):
        near = None if step.whole else found.means[:, place + places[-1]]
        ends = found.means[:, place + 1 : place + 3] if held is not None else None
        bias = _bias(found.means[:, place], near, held, ends)
        batches = found._replace(means=found.means[:, [place]], largest_share=found.largest_share[[place]])
        record = _record(batches, key, step, bias, reason)
        records.append(dataclasses.replace(record, accepted=record.accepted & (many >= LEAST_MOVED)))
    return records


def _error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / np.sqrt(values.size))


def _bias(
    far: Float[np.ndarray, " batches"],
    near: Float[np.ndarray, " batches"] | None,
    held: Fixed | None = None,
    ends: Float[np.ndarray, "batches 2"] | None = None,
) -> Bias:
    """Of the step, from batch means at h and h/2; `ends`: those at h with both ends of what is held fixed."""
    if near is None:
        return Bias(np.array([np.nan]), "a difference over whole steps: there is no derivative for it to miss")
    apart = _RICHARDSON * (far - near)
    error, source = _error(apart), "4/3 of the change from h to h/2 on the same paths"
    if held is not None and ends is not None:
        low, high = ends.mean(axis=0)
        error = float(np.hypot(error, abs(high - low) / 3.92))
        source += f"; {held}"
    return Bias(np.array([apart.mean()]), source, np.array([error]))


def _record(batches: Batches, key: str, step: Step, bias: Bias, reason: str) -> Gradient:
    method = "difference over whole steps" if step.whole else "common-random-number differences"
    said = f"{reason}; step: {step.source}"
    return gradient(batches, (key,), method=method, reason=said, bias=bias, step=np.array([step.size]))


def _of_quantile(sampling: Sampling, key: str, at: Ends, step: Step, quantity: ValueAtRisk, reason: str) -> Gradient:
    level, size = float(quantity.level), sampling.size
    by_batch: list[list[float]] = []
    kept: list[list[np.ndarray]] = []  # per size: value and weight above, value and weight below

    def columns(pair: tuple[float, Outcomes, Outcomes]) -> Iterator[np.ndarray]:
        for end in pair[1:]:
            yield from (outcome_of(end, quantity.outcome), end["weight"])

    def blocks() -> Iterator[tuple[np.ndarray, Outcomes]]:
        for pairs in _runs(sampling, at, step):
            kept.append([column for pair in pairs for column in columns(pair)])
            weight = pairs[0][1]["weight"]
            yield np.zeros((1, weight.size)), pairs[0][1]

    found = reduce_batches(blocks(), size)
    joined = [np.concatenate(parts) for parts in zip(*kept, strict=True)]
    for k in range(len(joined) // 4):
        width = 2.0 * step.size / 2.0**k
        high, high_weight, low, low_weight = joined[4 * k : 4 * k + 4]

        def slope(some: slice, ends: tuple[np.ndarray, ...] = (high, high_weight, low, low_weight)) -> float:
            above, below = (weighted_quantile(ends[i][some], ends[i + 1][some], level) for i in (0, 2))
            return above - below

        parts = np.array([slope(slice(b * size, (b + 1) * size)) for b in range(sampling.batches)])
        by_batch.append(list((slope(slice(None)) + parts - parts.mean()) / width))
    far, *near = (np.array(values) for values in by_batch)
    bias = _bias(far, near[0] if near else None)
    bias = bias._replace(source=f"difference of quantiles of common paths, {bias.source}")
    beyond = max(size * (1.0 - level), 1.0)
    return _record(found._replace(means=far[:, None], largest_share=np.array([1.0 / beyond])), key, step, bias, reason)
