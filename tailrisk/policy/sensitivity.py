"""How cost and limits answer to each number of a policy: by differences of the deciding model, and by gradients.

Every derivative is per 10 % of its number, so that rates, volumes and funds can be compared. Differences take both points
on the same paths (common random numbers) and stay inside bounds and orders; at a bound they are one-sided.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from .._fields import InputError
from . import variables as variables_
from .problem import WEIGHT, Policy, Problem, Stream, checked, evaluate, outcomes
from .variables import STEP, Relative, Row

_PINNED = 1e-3  # share of the wanted step below which a number cannot be moved on its own


class Slopes(NamedTuple):
    """Derivatives per 10 % of each entry, with standard errors; `nan` where an entry cannot move on its own.

    `bound` is that of the upper confidence bound, value + z standard errors. `here` and `here_error` are the constrained
    quantities themselves where the derivatives came with them, `bends` the second derivatives of the cost (first row) and of
    the bounds, each in one entry.
    """

    entries: tuple[tuple[str, int], ...]  # (variable, place)
    cost: Float[np.ndarray, " entries"]
    cost_error: Float[np.ndarray, " entries"]
    value: Float[np.ndarray, "constraints entries"]
    value_error: Float[np.ndarray, "constraints entries"]
    bound: Float[np.ndarray, "constraints entries"]
    here: Float[np.ndarray, " constraints"] | None = None
    here_error: Float[np.ndarray, " constraints"] | None = None
    bends: Float[np.ndarray, "functions entries"] | None = None


def entries(parameters: Mapping[str, Any]) -> tuple[tuple[str, int], ...]:
    """Every number of a policy, by variable and place."""
    return tuple((name, k) for name, value in parameters.items() for k in range(np.size(value)))


def moved(parameters: Mapping[str, Any], entry: tuple[str, int], step: float) -> dict[str, np.ndarray]:
    """The parameters with one entry changed by an absolute step."""
    out = {name: np.array(value, float) for name, value in parameters.items()}
    name, place = entry
    flat = out[name].reshape(-1)
    flat[place] += step
    out[name] = flat.reshape(out[name].shape)
    return out


def stepped(
    parameters: Mapping[str, Any], names: tuple[tuple[str, int], ...], steps: Float[np.ndarray, " entries"]
) -> dict[str, np.ndarray]:
    """The parameters after a step in units of 10 % of each entry."""
    there = {name: np.array(value, float) for name, value in parameters.items()}
    for (name, k), by in zip(names, steps, strict=True):
        there = moved(there, (name, k), STEP * abs(float(np.reshape(parameters[name], -1)[k])) * float(by))
    return there


def room(rows: list[Row], entry: tuple[str, int]) -> tuple[float, float]:
    """How far an entry may fall and rise before a bound or an order stops it, the other entries held."""
    down, up = np.inf, np.inf
    for row in rows:
        for name, place, coefficient in row.terms:
            if (name, place) == entry and coefficient > 0.0:
                down = min(down, row.slack / coefficient)
            elif (name, place) == entry:
                up = min(up, row.slack / -coefficient)
    return max(down, 0.0), max(up, 0.0)


def contributions(
    problem: Problem, drawn: Mapping[str, np.ndarray], levels: Float[np.ndarray, " constraints"]
) -> tuple[Float[np.ndarray, " paths"], Float[np.ndarray, "constraints paths"]]:
    """What each path adds to the cost, and to each constraint at known levels."""
    weight = drawn[WEIGHT]
    cost = sum((float(price) * drawn[name] for name, price in problem.cost.items()), np.zeros_like(weight))
    carried = [c.exact(drawn[c.outcome], weight, float(t)) for c, t in zip(problem.constraints, levels, strict=True)]
    return cost * weight / weight.mean(), np.array(carried)


def differences(
    problem: Problem, policy: Policy, stream: Stream, *, step: float = 0.05, z: float = 1.645, bends: bool = False
) -> Slopes:
    """Central differences of the deciding model on common paths, each entry moved by the share `step` of its value.

    The level of a shortfall stays where the policy has it: at its minimum it does not matter (the envelope theorem).
    `bends` asks for second differences too: 0 where an entry moves to one side alone.

    **Raises:** `InputError` for a problem that does not fit together, or a step out of (0, 1).
    """
    if not 0.0 < step < 1.0:
        raise InputError(f"step = {step}: expected a share of each number between 0 and 1")
    problem, names = checked(problem), entries(policy.parameters)
    rows = variables_.rows(problem.variables, policy.parameters)
    root = np.sqrt(stream.paths)
    shape = (len(problem.constraints), len(names))
    cost, cost_error = np.full((2, len(names)), np.nan)
    value, value_error, bound = (np.full(shape, np.nan) for _ in range(3))
    bend = np.zeros((1 + len(problem.constraints), len(names)))

    def functions(seen: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        return np.append(seen[0].mean(), seen[1].mean(axis=1) + z * seen[1].std(axis=1, ddof=1) / root)

    here = (
        functions(contributions(problem, outcomes(problem, policy.parameters, stream), policy.levels)) if bends else 0.0
    )
    for j, entry in enumerate(names):
        size = abs(float(np.reshape(policy.parameters[entry[0]], -1)[entry[1]]))
        down, up = (min(step * size, free) for free in room(rows, entry))
        if not down + up > _PINNED * step * size:
            continue
        ends = (moved(policy.parameters, entry, by) for by in (-down, up))
        low, high = (contributions(problem, outcomes(problem, end, stream), policy.levels) for end in ends)
        scale = STEP * size / (down + up)
        dearer, apart = scale * (high[0] - low[0]), scale * (high[1] - low[1])
        cost[j], cost_error[j] = float(dearer.mean()), float(dearer.std(ddof=1)) / root
        value[:, j], value_error[:, j] = apart.mean(axis=1), apart.std(axis=1, ddof=1) / root
        spread = (high[1].std(axis=1, ddof=1) - low[1].std(axis=1, ddof=1)) / root
        bound[:, j] = value[:, j] + z * scale * spread
        if bends and min(down, up) > 0.1 * (down + up):
            above, below = (functions(high) - here) / up, (here - functions(low)) / down
            bend[:, j] = (STEP * size) ** 2 * 2.0 * (above - below) / (down + up)
    return Slopes(names, cost, cost_error, value, value_error, bound, bends=bend if bends else None)


def pathwise(problem: Problem, policy: Policy, stream: Stream, *, batches: int = 8, z: float = 1.645) -> Slopes:
    """Forward-mode derivatives of the differentiable model at a policy, with errors from batches of paths.

    Batch b is the stream under the seed `stream.seed + b`, with its share of the paths. The bound's standard error is
    that of the whole stream.
    """
    free = tuple(Relative(name, start=np.asarray(value, float)) for name, value in policy.parameters.items())
    at = tuple(c.at(float(t)) for c, t in zip(problem.constraints, policy.levels, strict=True))
    near = checked(dataclasses.replace(problem, variables=free, constraints=at))
    names = entries(policy.parameters)
    paths = max(stream.paths // batches, 2)
    found = [
        evaluate(
            near,
            stream._replace(seed=stream.seed + b, paths=paths, chunk=min(stream.chunk, paths)),
            np.zeros(near.size),
        )
        for b in range(batches)
    ]
    cost = np.array([e.cost_gradient[: len(names)] for e in found])
    value = np.array([e.value_gradient[:, : len(names)] for e in found])
    error = np.array([e.std_error_gradient[:, : len(names)] for e in found]).mean(axis=0) / np.sqrt(batches)
    here, root = np.array([e.value for e in found]), np.sqrt(batches)
    return Slopes(
        names,
        cost.mean(axis=0),
        cost.std(axis=0, ddof=1) / root,
        value.mean(axis=0),
        value.std(axis=0, ddof=1) / root,
        value.mean(axis=0) + z * error,
        here.mean(axis=0),
        here.std(axis=0, ddof=1) / root,
    )
