"""The step of a difference: where it may go, what moves in whole steps only, and what a pilot says is best.

With bias B h^2 and variance c / (h n) of the mean of n paths, the mean square error of a central difference is least at

    h* = (c / (4 B^2 n))^(1/5).

A pilot runs differences at a few steps, each twice the one before. c is the variance of one path times the step, the largest
of all. The change from one step to the next is 3 B h^2, h the smaller; B is fitted to all of them by least squares and taken
with one standard error on top, so that what a pilot cannot see does not widen the step. One step serves all quantities of a
run: the least of theirs.

**Source:** the usual balance, for example Glasserman (2003), section 7.1.1.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from .._fields import InputError, problems
from ..leaves import Leaf, current, find, with_parameters
from ..scenario import Scenario
from ..simulate import AbstractSystem
from .quantities import AbstractMean, AbstractQuantity
from .sampling import PILOT_BATCHES, Sampling, outcome_of

SHARE = 0.08  # of a number: the largest step of a pilot
STEPS = 4
SHORTER, LONGER = 64.0, 2.0  # most by which a step is shorter or longer than that
ROUNDING = 1024.0  # steps are at least this many units in the last place

_OF_ZERO = {  # the same for numbers that are zero, by unit: of the horizon T, the price P, the gross notional G
    "1/year": lambda T, P, G: 0.04 / T,
    "1/sqrt(year)": lambda T, P, G: 0.04 / np.sqrt(T),
    "year": lambda T, P, G: 0.04 * T,
    "USD": lambda T, P, G: 4e-4 * G,
    "units": lambda T, P, G: 4e-4 * G / P,
    "USD/unit": lambda T, P, G: 4e-3 * P,
}


class Step(NamedTuple):
    """How far each end of a difference is, and whether the number moves in whole steps only."""

    size: float
    whole: bool
    source: str


Ends = Callable[[float], AbstractSystem]


class Number(NamedTuple):
    """A number of a scenario that may be differentiated."""

    key: str
    leaf: Leaf
    value: float


def number(scenario: Scenario, key: str) -> Number:
    """The number that a dotted key names.

    **Raises:** `InputError` for tables, for the grid of time and for what is not finite.
    """
    leaf, value = find(scenario, key), current(scenario, key).reshape(-1)
    if value.size != 1:
        raise InputError(f"{key}: a table of {value.size} numbers; name one of them, for example {key}.0")
    if key == "step":
        raise InputError("step: another grid of time has other noise, nothing is common to the two ends; compare runs")
    if not np.isfinite(value[0]):
        raise InputError(f"{key} = {value[0]:g}: has no derivative there; set a finite number first")
    return Number(key, leaf, float(value[0]))


def fits(scenario: Scenario, what: Number, step: float) -> bool:
    """Whether both ends of a difference are scenarios whose values may be."""
    try:
        ends = (with_parameters(scenario, {what.key: _moved(what, move)}) for move in (-step, step))
        return not any(any(problems(end)) for end in ends)
    except InputError:
        return False


def _moved(what: Number, by: float) -> Any:
    return round(what.value + by) if what.leaf.whole else what.value + by


def at(sampling: Sampling, what: Number) -> Ends:
    """The system as a function of how far the number is moved."""
    return lambda by: sampling.system({what.key: _moved(what, by)})


def largest_step(scenario: Scenario, what: Number, most: float) -> float:
    """The largest step up to `most` with both ends inside the domain, to four digits; 0 at its edge."""
    if fits(scenario, what, most):
        return most
    low, high = 0.0, most
    while high - low > 1e-4 * high and high > 1e-9 * most:
        middle = 0.5 * (low + high)
        low, high = (middle, high) if fits(scenario, what, middle) else (low, middle)
    return low


def asked(scenario: Scenario, what: Number, step: float) -> Step:
    """A step that was asked for.

    **Raises:** `InputError` with the largest step that fits, if it leaves the domain.
    """
    if not (step > 0.0 and fits(scenario, what, step)):
        largest = largest_step(scenario, what, abs(step) or abs(what.value) or 1.0)
        raise InputError(
            f"step = {step:g} for {what.key} = {what.value:g} leaves the domain; use a step from 0 to {largest:.4g}"
        )
    return Step(step, False, "asked for")


def whole_step(scenario: Scenario, what: Number, size: float) -> Step:
    """One whole step on either side.

    **Raises:** `InputError` if an end leaves the domain.
    """
    if not fits(scenario, what, size):
        raise InputError(
            f"{what.key} = {what.value:g}: it moves in whole steps of {size:g} only, and one to each side leaves its "
            "domain; compare simulations, or start from a larger number"
        )
    return Step(size, True, "one whole step on either side")


def first_step(scenario: Scenario, what: Number, gross: float) -> float:
    """The largest step of a pilot: a share of the number, or for zero one of its scale, as far as the domain allows.

    **Raises:** `InputError` at the edge of the domain, where no central difference exists.
    """
    price, horizon = float(np.asarray(scenario.price).reshape(-1)[0]), float(scenario.horizon)
    of_zero = _OF_ZERO.get(what.leaf.unit, lambda T, P, G: 4e-3)
    wanted = SHARE * abs(what.value) if what.value else float(of_zero(horizon, price, gross))
    largest = largest_step(scenario, what, wanted)
    if largest == 0.0:
        raise InputError(
            f"{what.key} = {what.value:g} lies at the edge of its domain, where no central difference fits; move it inside"
        )
    return largest


def is_whole(sampling: Sampling, what: Number) -> bool:
    """Whether a time moves nothing inside a step of the run and something over a whole one, on all paths of a pilot.

    Two pairs are looked at, because one may lie on either side of the place where the count of steps changes.
    """
    if what.leaf.unit != "year":
        return False
    dt = float(sampling.scenario.step)

    move = at(sampling, what)

    def moved(steps: float) -> dict[str, np.ndarray]:
        return sampling.pilot(move(steps * dt))

    def equal(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
        return all(np.array_equal(one[name], other[name], equal_nan=True) for name in one)

    for low, high in ((0.1, 0.4), (0.6, 0.9)):
        start = moved(low)
        if equal(start, moved(high)):
            return not equal(start, moved(low + 1.0)) or not equal(start, moved(low + 2.0))
    return False


def best_step(
    sampling: Sampling, what: Number, quantities: Sequence[AbstractQuantity], fixed: Sequence[float], gross: float
) -> Step:
    """The step that a pilot finds best for n = `sampling.paths`.

    **Raises:** `InputError` where no step fits.
    """
    largest = first_step(sampling.scenario, what, gross)
    steps = [largest / 2.0**k for k in reversed(range(STEPS))]
    slopes = [_slopes(sampling, what, quantities, fixed, step) for step in steps]
    best = [_balance(steps, list(of_one), sampling.paths) for of_one in zip(*slopes, strict=True)]
    rounding = ROUNDING * float(np.finfo(sampling.dtype).eps) * abs(what.value)
    wanted = float(np.clip(min(best), max(largest / SHORTER, min(rounding, largest)), largest * LONGER))
    size = largest_step(sampling.scenario, what, wanted)
    return Step(size, False, "balance of squared bias and variance on a pilot")


def _slopes(
    sampling: Sampling, what: Number, quantities: Sequence[AbstractQuantity], fixed: Sequence[float], step: float
) -> list[np.ndarray]:
    """Difference quotients of the paths of a pilot; for a quantile those of the indicator of being beyond it."""
    ends = [sampling.pilot(at(sampling, what)(move)) for move in (step, -step)]
    found = []
    for quantity, held in zip(quantities, fixed, strict=True):
        if isinstance(quantity, AbstractMean):
            found.append(weighted_gap(quantity, held, ends[0], ends[1]) / (2.0 * step))
        else:
            above, below = (end["weight"] * (outcome_of(end, quantity.outcome) > held) for end in ends)
            found.append((above - below) / (2.0 * step))
    return found


def _balance(steps: list[float], slopes: list[np.ndarray], paths: int) -> float:
    """h*, or infinity where no path of the pilot moves."""
    means = np.stack([slope.reshape(PILOT_BATCHES, -1).mean(axis=1) for slope in slopes])
    square = 3.0 * np.square(steps[:-1])
    changes = np.diff(means, axis=0)
    error = changes.std(axis=1, ddof=1) / np.sqrt(PILOT_BATCHES)
    seen = error > 0.0
    if not seen.any():
        return np.inf
    weight = square[seen] / np.square(error[seen])
    fit = weight / (weight * square[seen]).sum()
    by_batch = fit @ changes[seen]
    curve = abs(by_batch.mean()) + by_batch.std(ddof=1) / np.sqrt(PILOT_BATCHES)
    spread = max(slope.var() * step for slope, step in zip(slopes, steps, strict=True))
    return float((spread / (4.0 * curve**2 * paths)) ** 0.2)


def weighted_gap(
    quantity: AbstractMean, fixed: float, above: dict[str, np.ndarray], below: dict[str, np.ndarray]
) -> np.ndarray:
    """Per path, w F at the upper end less w F at the lower one; the weights are equal under a frozen proposal."""
    high, low = (quantity.integrand(outcome_of(end, quantity.outcome), fixed) for end in (above, below))
    return above["weight"] * (high - low) + (above["weight"] - below["weight"]) * low
