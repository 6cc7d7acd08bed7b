"""Randomized smoothing (evolution strategies): all parameters moved at once in a random direction, and back.

    g = mean over e ~ N(0, I) of e (F(theta + h e) - F(theta - h e)) / (2 h)

on common noise, h a step per parameter. It is the gradient of the mean of F blurred by a normal law of deviation h, so

    E[g_j] - dF/dtheta_j = E[dF/dtheta_j (theta + h e)] - dF/dtheta_j = sum_k (h_k^2 / 2) d^3 F / dtheta_j dtheta_k^2 + O(h^4),

for one parameter three times the bias of a central difference of the same step. What the other parameters do is noise to each:
it is meant for exploring in many dimensions, and differences are far better in few.

**Source:** Nesterov and Spokoiny (2017); Salimans, Ho, Chen, Sidor and Sutskever (2017) for antithetic pairs.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from .. import _streams
from .._fields import InputError, problems
from ..simulate import simulate
from . import oracle
from .differences import STEPS, Differences
from .functionals import AbstractFunctional, BadDebt
from .ladder import Ladder
from .record import Bias, Gradient, batch_size, gradient, reduce_batches, require
from .walk import LadderWalk

REACH = 6.0  # deviations of a direction that must lie in the domain: a normal is beyond with probability 2e-9


def _moved(ladder: Ladder, parameters: tuple[str, ...], moves: np.ndarray) -> Ladder:
    for name, move in zip(parameters, moves, strict=True):
        ladder = ladder.replace(name, ladder.get(name) + float(move))
    return ladder


def _fits(ladder: Ladder, parameters: tuple[str, ...], moves: np.ndarray) -> bool:
    return not any(any(problems(_moved(ladder, parameters, sign * moves))) for sign in (-1.0, 1.0))


def twin_bias(ladder: Ladder, parameters: tuple[str, ...], steps: np.ndarray) -> np.ndarray:
    """E[g] - f' of expected bad debt without a breaker, by quadrature.

    The mean over each coordinate of the direction is that of three Gauss-Hermite points, 0 and +-sqrt(3); what two
    coordinates do together is of fourth order.
    """
    twin = ladder.replace("band", np.inf)

    def slopes(moves: np.ndarray) -> np.ndarray:
        found = oracle.expected_bad_debt_and_gradient(_moved(twin, parameters, moves))[1]
        return np.array([found.get(name) for name in parameters])

    here, total = slopes(np.zeros(steps.size)), np.zeros(steps.size)
    for k, h in enumerate(steps):
        out = np.sqrt(3.0) * h * np.eye(steps.size)[k]
        total += (slopes(out) + slopes(-out) - 2.0 * here) / 6.0
    return total


def estimate(
    ladder: Ladder,
    parameters: tuple[str, ...] = ("maintenance",),
    *,
    seed: int = 0,
    paths: int = 64 * 16_384,
    batches: int = 64,
    functional: AbstractFunctional | None = None,
    step: float | tuple[float, ...] | None = None,
    directions: int = 16,
    certify: bool = True,
    chunk: int = 16_384,
    dtype: Any = None,
) -> Gradient:
    """Derivatives in any numbers of the ladder along `directions` random directions per batch, each on its own paths.

    `step`: one for all parameters or one each, by default those of differences. `certify`: measure the bias of the step on the
    twin without a breaker (exact to leading order for bad debt without a breaker; unknown for the band).

    **Raises:** `InputError` for whole numbers and for the book, for paths that directions cannot share equally, and for steps
    that leave the domain six deviations out.
    """
    remedy = "whole numbers have no derivative: compare simulations; single accounts: use the quadrature"
    require(parameters, tuple(STEPS), "randomized smoothing", remedy)
    if "band" in parameters and not ladder.has_breaker:
        raise InputError("band = inf: there is no breaker whose band could move; set a finite band")
    size = batch_size(paths, batches)
    if directions < 1 or size % directions:
        raise InputError(
            f"directions = {directions} for {size} paths a batch: expected a number of directions that divides them"
        )
    ladder.checked()
    chosen = [STEPS[name] for name in parameters] if step is None else step
    steps = np.array(np.broadcast_to(np.asarray(chosen, np.float64), len(parameters)))
    reach = REACH * steps
    if not (steps > 0.0).all() or not _fits(ladder, parameters, reach):
        raise InputError(
            f"step = {', '.join(f'{h:g}' for h in steps)}: {REACH:g} times it leaves the domain of "
            f"{', '.join(parameters)}; use smaller positive steps"
        )
    functional = BadDebt() if functional is None else functional
    key = _streams.stream_key(seed, "smoothing/direction")
    middle = LadderWalk.build(ladder, functional, dtype)

    def blocks() -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
        each = size // directions
        for first in range(0, paths, size):
            parts = []
            for start in range(first, first + size, each):
                normals = _streams.normals(key, start // each, 0, len(parameters), np.dtype(np.float64))
                direction = np.clip(np.asarray(normals, np.float64), -REACH, REACH)
                above, below = (
                    LadderWalk.build(_moved(ladder, parameters, move), functional, dtype)
                    for move in (direction * steps, -direction * steps)
                )
                system = Differences(middle, ((above, below),))
                out = simulate(system, paths=each, seed=seed, first=start, chunk=min(chunk, each))
                out = {name: np.asarray(x, np.float64) for name, x in out.items()}
                parts.append(out | {"x": (direction / (2.0 * steps))[:, None] * out["gap_0"][None, :]})
            yield (
                np.concatenate([part["x"] for part in parts], axis=1),
                {name: np.concatenate([part[name] for part in parts]) for name in parts[0] if name != "x"},
            )

    if certify and "band" not in parameters:
        exact = not ladder.has_breaker and isinstance(functional, BadDebt)
        twin = "the same ladder" if exact else "a remote twin: expected bad debt, no breaker"
        bias = Bias(twin_bias(ladder, parameters, steps), f"quadrature of {twin}, to leading order in the step")
    else:
        bias = Bias(np.full(len(parameters), np.nan), "not measured")
    return gradient(
        reduce_batches(blocks(), size),
        parameters,
        method="randomized smoothing",
        reason="many parameters of any kind, to explore",
        bias=bias,
        step=steps,
    )
