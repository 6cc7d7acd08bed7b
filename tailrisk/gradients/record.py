"""What a gradient estimate says about itself, made from the means of independent batches of paths."""

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy import stats

from .._fields import InputError
from ..simulate import AbstractSystem, simulate

LEAST_BATCHES = 60  # fewer have been seen to miss the rare path that carries the error
MOST_SHARE = 0.05  # of all contributions together by one path
MOST_SPLIT = 1.5  # standard errors of the two halves of the batches may differ by this factor
MEAN_WEIGHT_ERRORS = 4.0
PILOT_FIRST = 2**31  # path numbers from here on are kept for pilots, which are independent of the reported paths
_TOGETHER = 2**18  # paths whose outcomes are held at a time, about


class Bias(NamedTuple):
    """The expectation of an estimate minus the derivative, per parameter (`nan`: unknown), and how that is known."""

    value: Float[np.ndarray, " parameters"]
    source: str
    error: Float[np.ndarray, " parameters"] | None = None  # standard errors of the values, if those were measured


@dataclasses.dataclass(frozen=True)
class Gradient:
    """Derivative of the mean of a functional in each parameter, from `batches` batches of `paths` / `batches` paths.

    ci95: two-sided, t law over batches. bias: expectation minus derivative where known, `nan` otherwise; bias_error: its
    standard error where it was measured on paths, else 0. step: of a difference quotient, `nan` for other methods.
    mean_weight: of the importance weights, 1 up to `mean_weight_error`. ess: paths of equal weight that would be worth as
    much; ess_by_class: of those with a jump, of those without (diffusive), and of those with a trip of the breaker.
    largest_contribution_share: of one path in the sum of absolute contributions. half_split_ratio: larger over smaller
    standard error of the two halves of the batches. accepted: 60 batches or more, no path above 5 %, halves within a factor
    1.5, mean weight within four standard errors of 1; a number that is not accepted is shown but should not be used.
    seconds: processor time of all threads.
    """

    parameters: tuple[str, ...]
    estimate: Float[np.ndarray, " parameters"]
    std_error: Float[np.ndarray, " parameters"]
    ci95: Float[np.ndarray, "parameters 2"]
    method: str
    reason: str
    bias: Float[np.ndarray, " parameters"]
    bias_error: Float[np.ndarray, " parameters"]
    bias_source: str
    step: Float[np.ndarray, " parameters"]
    batches: int
    paths: int
    mean_weight: float
    mean_weight_error: float
    ess: float
    ess_by_class: dict[str, float]
    largest_contribution_share: Float[np.ndarray, " parameters"]
    half_split_ratio: Float[np.ndarray, " parameters"]
    accepted: Bool[np.ndarray, " parameters"]
    seconds: float

    @property
    def bias_bound(self) -> Float[np.ndarray, " parameters"]:
        """Upper 97.5 % confidence bound on the size of the bias; `nan` where nothing is known of it."""
        return np.abs(self.bias) + 1.96 * self.bias_error

    def __str__(self) -> str:
        lines = [f"{self.method}: {self.paths:,} paths in {self.batches} batches"]
        for i, name in enumerate(self.parameters):
            mark = "" if self.accepted[i] else "  NOT ACCEPTED"
            error = f" +- {self.bias_error[i]:.2g}" if self.bias_error[i] else ""
            bias = "unknown" if np.isnan(self.bias[i]) else f"{self.bias[i]:.3g}{error}"
            lines.append(f"  d/d {name} = {self.estimate[i]:.6g} +- {self.std_error[i]:.2g}, bias {bias}{mark}")
        return "\n".join([*lines, f"  bias: {self.bias_source}"])


class Batches(NamedTuple):
    """Per batch: mean contribution to each parameter and mean weight. Over all paths: what the diagnostics need."""

    means: Float[np.ndarray, "batches parameters"]
    weights: Float[np.ndarray, " batches"]
    ess: float
    ess_by_class: dict[str, float]
    largest_share: Float[np.ndarray, " parameters"]
    paths: int
    seconds: float


Contributions = Callable[[dict[str, np.ndarray]], np.ndarray]
"""From outcomes over paths to contributions, shape (parameters, paths)."""


def batch_size(paths: int, batches: int) -> int:
    """Paths of one batch; refuses batches of unequal size."""
    if batches < 2 or paths < batches or paths % batches or paths > PILOT_FIRST:
        raise InputError(
            f"paths = {paths}, batches = {batches}: expected two batches or more of equal size, and at most 2^31 paths"
        )
    return paths // batches


def run_batches(
    system: AbstractSystem, contributions: Contributions, *, seed: int, paths: int, batches: int, chunk: int
) -> Batches:
    """Simulates batches of equal size and reduces them as they come, so memory does not grow with the paths."""
    size = batch_size(paths, batches)
    block = max(1, _TOGETHER // size) * size

    def blocks() -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
        for first in range(0, paths, block):
            some = min(block, paths - first)
            outcome = simulate(system, paths=some, seed=seed, first=first, chunk=min(chunk, size))
            outcome = {name: np.asarray(numbers, np.float64) for name, numbers in outcome.items()}
            yield contributions(outcome), outcome

    return reduce_batches(blocks(), size)


def classes(outcome: dict[str, np.ndarray]) -> dict[str, Bool[np.ndarray, " paths"]]:
    """Which paths belong to each class of events, as far as their outcomes say so."""
    found = {}
    if "jumped" in outcome:
        found |= {"jump": outcome["jumped"] > 0.0, "diffusive": ~(outcome["jumped"] > 0.0)}
    if "tripped" in outcome:
        found["trip"] = outcome["tripped"] > 0.0
    return found


def _worth(sums: np.ndarray) -> float:
    """(sum of w)^2 / sum of w^2, 0 if there is none."""
    return float(sums[0] ** 2 / sums[1]) if sums[1] > 0.0 else 0.0


def reduce_batches(blocks: Iterable[tuple[np.ndarray, dict[str, np.ndarray]]], size: int) -> Batches:
    """Means and diagnostics of blocks of whole batches: contributions (parameters, paths) and outcomes of the paths,
    of which weight, jumped and tripped are read."""
    start = time.process_time()
    means, weights, parts = [], [], []
    sums: dict[str, np.ndarray] = {}
    everyone = np.zeros(2)
    for x, outcome in blocks:
        weight = outcome["weight"]
        everyone += (weight.sum(), np.square(weight).sum())
        for name, members in classes(outcome).items():
            some = weight[members]
            sums[name] = sums.get(name, np.zeros(2)) + np.array([some.sum(), np.square(some).sum()])
        means.append(x.reshape(x.shape[0], -1, size).mean(axis=2).T)
        weights.append(weight.reshape(-1, size).mean(axis=1))
        size_of = np.abs(x)
        parts.append((size_of.sum(axis=1), size_of.max(axis=1)))
    total, largest = (np.stack(column) for column in zip(*parts, strict=True))
    with np.errstate(invalid="ignore"):
        share = np.nan_to_num(largest.max(axis=0) / total.sum(axis=0))
    return Batches(
        means=np.concatenate(means),
        weights=np.concatenate(weights),
        ess=_worth(everyone),
        ess_by_class={name: _worth(both) for name, both in sums.items()},
        largest_share=share,
        paths=size * sum(batch.size for batch in weights),
        seconds=time.process_time() - start,
    )


def pilot(system: AbstractSystem, *, seed: int, paths: int, chunk: int) -> dict[str, np.ndarray]:
    """Outcomes of paths that no reported estimate uses, for coefficients that must be independent of it."""
    outcome = simulate(system, paths=paths, seed=seed, first=PILOT_FIRST, chunk=min(chunk, paths))
    return {name: np.asarray(numbers, np.float64) for name, numbers in outcome.items()}


def _standard_error(values: np.ndarray) -> Any:
    return values.std(axis=0, ddof=1) / np.sqrt(values.shape[0])


def gradient(
    batches: Batches,
    parameters: tuple[str, ...],
    *,
    method: str,
    reason: str,
    bias: Bias,
    step: np.ndarray | None = None,
) -> Gradient:
    """The record of a run: estimate, errors and diagnostics."""
    means, count = batches.means, batches.means.shape[0]
    estimate, error = means.mean(axis=0), _standard_error(means)
    half = count // 2
    if half > 1:
        errors = np.sort(np.stack([_standard_error(means[:half]), _standard_error(means[half:])]), axis=0)
        # Two zeros agree: an estimator without variance is no failure.
        split = np.divide(errors[1], errors[0], out=np.where(errors[1] > 0.0, np.inf, 1.0), where=errors[0] > 0.0)
    else:
        split = np.full(len(parameters), np.nan)
    weight, weight_error = float(batches.weights.mean()), float(_standard_error(batches.weights))
    weighted_right = abs(weight - 1.0) <= MEAN_WEIGHT_ERRORS * weight_error + 1e-6
    accepted = (batches.largest_share < MOST_SHARE) & (split < MOST_SPLIT) & weighted_right
    reach = float(stats.t.ppf(0.975, count - 1)) * error
    return Gradient(
        parameters=parameters,
        estimate=estimate,
        std_error=error,
        ci95=np.stack([estimate - reach, estimate + reach], axis=1),
        method=method,
        reason=reason,
        bias=bias.value,
        bias_error=np.zeros(len(parameters)) if bias.error is None else bias.error,
        bias_source=bias.source,
        step=np.full(len(parameters), np.nan) if step is None else step,
        batches=count,
        paths=batches.paths,
        mean_weight=weight,
        mean_weight_error=weight_error,
        ess=batches.ess,
        ess_by_class=batches.ess_by_class,
        largest_contribution_share=batches.largest_share,
        half_split_ratio=split,
        accepted=accepted & (count >= LEAST_BATCHES),
        seconds=batches.seconds,
    )


def of_one(found: Gradient, i: int) -> Gradient:
    """The record of parameter number i alone."""
    arrays = {name: value[i : i + 1] for name, value in vars(found).items() if isinstance(value, np.ndarray)}
    return dataclasses.replace(found, parameters=found.parameters[i : i + 1], **arrays)


def no_bias(parameters: tuple[str, ...], theorem: str) -> Bias:
    """Bias zero by a theorem."""
    return Bias(np.zeros(len(parameters)), theorem)


def require(parameters: tuple[str, ...], known: tuple[str, ...], method: str, remedy: str) -> None:
    """Refuses parameters that a method does not apply to."""
    wrong = [name for name in parameters if name not in known]
    if wrong or not parameters:
        given = ", ".join(map(repr, wrong)) or "no parameter"
        raise InputError(f"{method} got {given}: expected one of {', '.join(known)}; {remedy}")
