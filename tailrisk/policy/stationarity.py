"""How near a policy is to an optimum, and what its limits cost: the conditions of Karush, Kuhn and Tucker, with errors.

At an optimum the gradient of the cost is balanced by those of the limits that bind and of the bounds that are touched,

    grad C + sum_k lam_k grad g_k - sum_r mu_r grad h_r = 0,   lam, mu >= 0,

with g_k the upper confidence bound over its limit, minus one, and h_r >= 0 the slack of a bound or an order. Multipliers
are the non-negative least squares solution; what is left over is the projected gradient.

**Source:** Nocedal and Wright (2006), "Numerical Optimization", theorem 12.1; Shapiro, Dentcheva and Ruszczynski (2009),
"Lectures on Stochastic Programming", section 5.6.2, for testing the conditions statistically.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy import optimize

from .problem import Judgement, Problem
from .sensitivity import Slopes
from .variables import STEP, Row, rows

_TOUCHED = 1e-3  # slack of a bound or an order, as a share of the entry, below which it counts as touched
_BINDING = 0.10  # how far below its limit a bound may be and still bind: rounding to a coarse grid leaves such gaps
_NOTHING = 3.0  # standard errors within which a derivative is no evidence of an effect
_RESAMPLES = 200


class Stationarity(NamedTuple):
    """Multipliers of a policy and what they leave over.

    `prices`: cost per unit of each limit, -dC/dlimit, with standard errors. `residual`: norm of the projected gradient
    per 10 % of the numbers, as a share of the cost; `noise`: the norm that sampling errors alone would give it.
    `complementarity`: multiplier x slack of each limit, as a share of the cost.
    """

    prices: Float[np.ndarray, " constraints"]
    price_errors: Float[np.ndarray, " constraints"]
    binding: Bool[np.ndarray, " constraints"]
    residual: float
    residual_by_entry: Float[np.ndarray, " entries"]
    noise: float
    pull: float
    complementarity: Float[np.ndarray, " constraints"]
    touched: tuple[tuple[str, float], ...]
    unidentified: tuple[tuple[str, int], ...]

    def holds(self, tolerance: float) -> bool:
        """Whether no step of 10 % would save more than the share `tolerance` of the cost, as far as the paths can tell."""
        return self.residual <= max(tolerance, _NOTHING * self.noise)


def stationarity(
    problem: Problem, parameters: Mapping[str, Any], judged: Judgement, slopes: Slopes, *, z: float, room: float
) -> Stationarity:
    """Multipliers of limits, bounds and orders at a policy that was judged and differentiated on one stream."""
    limits = (1.0 - room) * np.array([float(c.limit) for c in problem.constraints])
    over = (judged.value + z * judged.std_error) / limits - 1.0
    cost, movable = abs(judged.cost) or 1.0, np.isfinite(slopes.cost)
    binding = over >= -_BINDING
    touched = walls(rows(problem.variables, parameters), parameters, slopes)
    rng = np.random.default_rng(0)

    def solved(noise: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        def shaken(mean: np.ndarray, error: np.ndarray) -> np.ndarray:
            mean, error = np.nan_to_num(mean), np.nan_to_num(error)
            return mean + noise * error * rng.standard_normal(mean.shape) if noise else mean

        pull = shaken(slopes.cost, slopes.cost_error) / cost
        forces = shaken(slopes.bound, slopes.value_error)[binding] / limits[binding, None]
        sides = np.concatenate([forces, -np.array([wall for _, wall in touched]).reshape(-1, pull.size)])
        if not len(sides):
            return np.zeros(0), np.zeros(0), pull
        scale = np.linalg.norm(sides, axis=1)
        scale = np.where(scale > 0.0, scale, 1.0)
        found, _ = optimize.nnls((sides / scale[:, None]).T, -pull)
        found = found / scale
        left = pull + found @ sides
        return found[: binding.sum()], found[binding.sum() :], left

    force, wall_force, left = solved(0.0)
    shaken = [solved(1.0) for _ in range(_RESAMPLES)]
    prices, errors, slack = (np.zeros(binding.size) for _ in range(3))
    given = np.array([float(c.limit) for c in problem.constraints])
    prices[binding] = force * cost / given[binding]
    errors[binding] = np.std([one[0] for one in shaken], axis=0, ddof=1) * cost / given[binding]
    slack[binding] = force * np.abs(over[binding])
    apart = np.array([one[2] for one in shaken]) - left
    moves = np.abs(np.nan_to_num(slopes.cost)) > _NOTHING * np.nan_to_num(slopes.cost_error)
    moves |= np.any(np.abs(np.nan_to_num(slopes.value)) > _NOTHING * np.nan_to_num(slopes.value_error), axis=0)
    return Stationarity(
        prices,
        errors,
        binding,
        float(np.linalg.norm(left)),
        left,
        float(np.sqrt(np.mean(np.sum(apart**2, axis=1)))),
        float(np.linalg.norm(np.nan_to_num(slopes.cost))) / cost,
        slack,
        tuple((label, float(mu)) for (label, _), mu in zip(touched, wall_force, strict=True)),
        tuple(entry for entry, can, does in zip(slopes.entries, movable, moves, strict=True) if can and not does),
    )


def normals(all_rows: list[Row], parameters: Mapping[str, Any], entries: tuple[tuple[str, int], ...]) -> np.ndarray:
    """Gradients of the slacks of bounds and orders per 10 % of each number, a row each."""
    place = {entry: j for j, entry in enumerate(entries)}
    size = [abs(float(np.reshape(parameters[name], -1)[k])) for name, k in entries]
    out = np.zeros((len(all_rows), len(entries)))
    for gradient, row in zip(out, all_rows, strict=True):
        for name, k, coefficient in row.terms:
            gradient[place[name, k]] += STEP * coefficient * size[place[name, k]]
    return out


def walls(all_rows: list[Row], parameters: Mapping[str, Any], slopes: Slopes) -> list[tuple[str, np.ndarray]]:
    """Labels and gradients per 10 % of the bounds and orders that are touched."""
    pairs = zip(all_rows, normals(all_rows, parameters, slopes.entries), strict=True)
    return [(row.label, normal) for row, normal in pairs if row.slack <= _TOUCHED / STEP * np.abs(normal).max()]
