"""The last steps of a search on the deciding model: Newton's on the conditions of an optimum, by differences on common paths.

A trust region without derivatives stops near an optimum, somewhat inside its limits. Cost and bounds of a fixed sample are
smooth over a few per cent of every number, so their differences make a quadratic program whose solution meets the limits,

    min over d   grad C'd + d'Hd/2,   bound_k + grad bound_k'd <= limit_k,   bounds and orders,   |d| <= reach,

with H the Hessian of the Lagrangian: second differences of one number at a time, then whatever explains how its gradient
changed from step to step. What is left is small enough for a front of optima to have the slope of its multipliers.

**Source:** Nocedal and Wright (2006), "Numerical Optimization", section 18.1.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import optimize

from .problem import Judgement, Policy, Problem, Stream, checked, judge
from .refine import Refined, Trials, settle
from .sensitivity import Slopes, differences, stepped
from .stationarity import normals, stationarity
from .variables import rows

_INSIDE = 1e-4  # share of every limit that a step aims to leave, so that what its model leaves out breaks none
_STILL = 1e-6  # share of the cost below which a gain is none
_FLATTEST = 1e-4  # least curvature of the model, share of the cost per (10 %)^2: a valley is no way to run
_CORRECTIONS = 4  # steps by the same derivatives, each from what the bounds really were after the one before
_SETTLED = 5e-3  # change of a step, in units of 10 %, below which it is not corrected any more
_LONG = 0.05  # step, in units of 10 %, over which a change of derivatives says something about the curvature


def polish(
    problem: Problem,
    start: Mapping[str, Any],
    stream: Stream,
    *,
    z: float = 1.645,
    room: float = 0.03,
    rounds: int = 5,
    reach: float = 1.5,
) -> Refined:
    """Newton steps of at most `reach` times 10 % of every number, each kept if it helps on the same paths.

    The result is the cheapest policy seen that holds, or the one that misses least.
    """
    cast, limits = checked(problem), np.array([float(c.limit) for c in problem.constraints])
    trials = Trials(cast, stream, z, room)
    here = {name: np.asarray(value, float) for name, value in start.items()}
    judged, matrix, before, spent = judge(cast, here, stream), np.zeros((0, 0)), None, 0
    seen = [(here, judged)]
    for _ in range(rounds):
        policy = Policy(here, judged.levels)
        slopes = differences(problem, policy, stream, z=z, bends=before is None)
        tight = judged._replace(value=trials.limits - z * judged.std_error)  # each limit may bind where this leads
        optimal = stationarity(problem, here, tight, slopes, z=z, room=room)
        spent += 2 * len(slopes.entries) + (before is None)
        scale = abs(judged.cost) or 1.0
        price = optimal.prices * limits / scale
        weights = np.append(1.0 / scale, price / trials.limits)
        if before is not None:
            matrix = _secant(matrix, before[0], weights, slopes, before[1])
        elif slopes.bends is not None:
            matrix = np.diag(weights @ slopes.bends)

        def merit(one: tuple[Any, Judgement], price: np.ndarray = price, scale: float = scale) -> float:
            return one[1].cost + 2.0 * scale * float(price @ np.maximum(trials.violations(one[1]), 0.0))

        over, best, step = trials.violations(judged), (here, judged), np.zeros(len(slopes.entries))
        for _ in range(_CORRECTIONS):
            last, step = step, _step(problem, here, judged.cost, over + _INSIDE, slopes, matrix, trials.limits, reach)
            if step is None:
                break
            there = stepped(here, slopes.entries, step)
            seen.append((there, judge(cast, there, stream)))
            if merit(seen[-1]) < merit(best):
                best, before = seen[-1], (step, slopes)
            missed = trials.violations(seen[-1][1])
            if missed.max() <= 0.0 and np.linalg.norm(step - last) < _SETTLED:
                break
            over = missed - np.nan_to_num(slopes.bound) @ step / trials.limits
        if merit((here, judged)) - merit(best) < _STILL * scale:
            break
        here, judged = best
    cheapest = min(seen, key=lambda one: (max(float(trials.violations(one[1]).max()), 0.0), one[1].cost))[0]
    return settle(problem, cheapest, stream, z=z, room=room, evaluations=spent + len(seen))


def _secant(matrix: np.ndarray, step: np.ndarray, weights: np.ndarray, slopes: Slopes, before: Slopes) -> np.ndarray:
    """The Hessian that explains how the gradient of the Lagrangian changed over a step, nearest to the one before.

    Symmetric update of rank one (Nocedal and Wright, eq. 6.24), for steps that are longer than the noise of a derivative.
    """
    change = weights @ np.nan_to_num(np.vstack([slopes.cost - before.cost, slopes.bound - before.bound]))
    left = change - matrix @ step
    along = float(left @ step)
    if np.linalg.norm(step) < _LONG or abs(along) < 0.1 * np.linalg.norm(left) * np.linalg.norm(step):
        return matrix
    return matrix + np.outer(left, left) / along


def _step(
    problem: Problem,
    here: Mapping[str, np.ndarray],
    cost: float,
    over: Float[np.ndarray, " constraints"],
    slopes: Slopes,
    matrix: np.ndarray,
    limits: Float[np.ndarray, " constraints"],
    reach: float,
) -> np.ndarray | None:
    """The solution of the quadratic program in units of 10 % of each number, or nothing if it has none."""
    values, vectors = np.linalg.eigh(0.5 * (matrix + matrix.T))
    bent = (vectors * np.maximum(values, _FLATTEST)) @ vectors.T
    pull, forces = np.nan_to_num(slopes.cost) / (abs(cost) or 1.0), np.nan_to_num(slopes.bound) / limits[:, None]
    orders = rows(problem.variables, here)
    slack, walls = np.array([max(row.slack, 0.0) for row in orders]), normals(orders, here, slopes.entries)
    held = ~np.isfinite(slopes.cost)
    far = np.where(held, 0.0, reach)
    scale = np.abs(walls).max(axis=1, initial=0.0) + np.finfo(float).tiny
    found = optimize.minimize(
        lambda d: float(pull @ d + 0.5 * d @ bent @ d),
        np.zeros(pull.size),
        jac=lambda d: pull + bent @ d,
        method="SLSQP",
        bounds=list(zip(-far, far, strict=True)),
        constraints=[
            {"type": "ineq", "fun": lambda d: -(over + forces @ d), "jac": lambda d: -forces},
            {"type": "ineq", "fun": lambda d: (slack + walls @ d) / scale, "jac": lambda d: walls / scale[:, None]},
        ],
        options={"ftol": 1e-14, "maxiter": 200},
    )
    return found.x if np.all(np.isfinite(found.x)) and found.success else None
