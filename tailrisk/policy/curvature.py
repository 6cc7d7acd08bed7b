"""Second derivatives of the Lagrangian at an optimum, and the directions in which a policy is not identified.

Limits, bounds and orders that bind leave directions free. There the cost of a policy grows like v'Hv/2, H being the Hessian of

    C + sum_k price_k bound_k;

a direction whose v'Hv the paths cannot tell from zero is a valley: other policies along it serve as well.

**Source:** Nocedal and Wright (2006), "Numerical Optimization", section 12.5, for the reduced Hessian.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import linalg

from .problem import Policy, Problem, Stream, checked, judgement, outcomes
from .sensitivity import Slopes, contributions, stepped
from .stationarity import Stationarity, normals, walls
from .variables import STEP, rows

_FLAT = 3.0  # standard errors within which a second derivative is no evidence of a slope on either side
_NARROW = 0.2  # share of the wanted step below which a side has no room
_NOTHING = 1e-12  # change of a slack per step that is a rounding error
_NAMED = 0.25  # part of a unit vector from which on a number is named


class Curvature(NamedTuple):
    """The Hessian of the Lagrangian in free directions, per 10 % of every number and as a share of the cost.

    `eigenvalues` rise; column j of `directions` is the unit vector of the j-th. A step of 10 % along it costs half its
    eigenvalue.
    """

    entries: tuple[tuple[str, int], ...]
    eigenvalues: Float[np.ndarray, " free"]
    errors: Float[np.ndarray, " free"]
    directions: Float[np.ndarray, "entries free"]

    @property
    def identified(self) -> tuple[bool, ...]:
        """Whether each direction has a slope on both sides, as far as the paths can tell."""
        return tuple((self.eigenvalues > _FLAT * self.errors).tolist())

    def words(self, column: int) -> str:
        """The numbers that make most of a direction, and which way they go together."""
        v = self.directions[:, column]
        v = v * np.sign(v[np.argmax(np.abs(v))])
        order = [j for j in np.argsort(-np.abs(v)) if abs(v[j]) >= _NAMED]
        return ", ".join(
            f"{self.entries[j][0]}[{self.entries[j][1]}] {'up' if v[j] > 0.0 else 'down'} {abs(v[j]):.0%}"
            for j in order
        )


def curvature(
    problem: Problem,
    policy: Policy,
    stream: Stream,
    slopes: Slopes,
    optimal: Stationarity,
    *,
    step: float = 0.1,
    z: float = 1.645,
    room: float = 0.03,
) -> Curvature:
    """Second differences of the Lagrangian of the deciding model on common paths, along a basis of the free directions.

    A unit of a direction is the share `step` of its numbers. Levels of shortfalls are at their best place at every point. A
    direction with room on one side alone is differenced there. Standard errors are those of the means in the bounds.
    """
    problem, prices = checked(problem), optimal.prices / (1.0 - room)
    basis = _free(problem, policy, slopes, optimal)
    points, sums = _points(problem, policy, slopes.entries, basis, step / STEP)
    costs, values, paths = [], [], []
    for point in points:
        drawn = outcomes(problem, stepped(policy.parameters, slopes.entries, basis @ point), stream)
        judged = judgement(problem, drawn)
        cost, carried = contributions(problem, drawn, judged.levels)
        costs.append(judged.cost)
        values.append(judged.cost + float(prices @ (judged.value + z * judged.std_error)))
        paths.append(cost + prices @ carried)
    spread = np.cov(np.array(paths) - paths[0]).reshape(len(paths), -1) / stream.paths
    scale = abs(costs[0]) or 1.0
    found, inside = np.linalg.eigh(sums @ np.array(values) / scale)
    weights = np.einsum("ik,jk,ijp->kp", inside, inside, sums)
    errors = np.sqrt(np.maximum(np.einsum("kp,pq,kq->k", weights, spread, weights), 0.0)) / scale
    return Curvature(slopes.entries, found, errors, basis @ inside)


def _points(
    problem: Problem,
    policy: Policy,
    entries: tuple[tuple[str, int], ...],
    basis: Float[np.ndarray, "entries free"],
    step: float,
) -> tuple[list[np.ndarray], Float[np.ndarray, "free free points"]]:
    """Moves along the basis, and the sums over them that make second differences.

    Every direction goes at most half its way to a bound or an order, so that no pair of moves leaves one.
    """
    all_rows, n = rows(problem.variables, policy.parameters), basis.shape[1]
    along = normals(all_rows, policy.parameters, entries) @ basis
    slack = np.array([max(row.slack, 0.0) for row in all_rows])[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        down, up = (
            np.minimum(
                step, 0.5 * np.where(sign * along > _NOTHING, slack / np.abs(along), np.inf).min(0, initial=np.inf)
            )
            for sign in (1.0, -1.0)
        )
    central = np.minimum(down, up) > _NARROW * step
    by = np.where(central, np.minimum(down, up), np.where(up > down, 0.5 * up, -0.5 * down))
    by = np.where(by == 0.0, _NARROW * step, by)  # no room at all: rounding errors of an order that is only just kept
    unit, points, out = np.diag(by), [np.zeros(n)], np.zeros((n, n, 1 + 2 * n + n * (n - 1)))

    def at(point: np.ndarray) -> int:
        points.append(point)
        return len(points) - 1

    first = [at(unit[j]) for j in range(n)]
    second = [at(-unit[j] if central[j] else 2.0 * unit[j]) for j in range(n)]
    for j in range(n):
        middle, far = (0, first[j]) if central[j] else (first[j], 0)
        out[j, j, [middle, far, second[j]]] = np.array([-2.0, 1.0, 1.0]) / by[j] ** 2
        for i in range(j):
            both = central[i] and central[j]
            share = (0.5 if both else 1.0) / (by[i] * by[j])
            out[i, j, [at(unit[i] + unit[j]), first[i], first[j], 0]] = share * np.array([1.0, -1.0, -1.0, 1.0])
            if both:
                out[i, j, [at(-unit[i] - unit[j]), second[i], second[j]]] = share * np.array([1.0, -1.0, -1.0])
                out[i, j, 0] = 2.0 * share
            out[j, i] = out[i, j]
    return points, out[:, :, : len(points)]


def _free(problem: Problem, policy: Policy, slopes: Slopes, optimal: Stationarity) -> Float[np.ndarray, "entries free"]:
    """Unit vectors, per 10 % of the numbers, along which nothing that binds with a price changes."""
    n = len(slopes.entries)
    touched = walls(rows(problem.variables, policy.parameters), policy.parameters, slopes)
    sides = [np.nan_to_num(row) for row, price in zip(slopes.bound, optimal.prices, strict=True) if price > 0.0]
    sides += [wall for (_, wall), (_, mu) in zip(touched, optimal.touched, strict=True) if mu > 0.0]
    sides += [np.eye(n)[j] for j in range(n) if not np.isfinite(slopes.cost[j])]
    sides = [side / np.linalg.norm(side) for side in sides if np.linalg.norm(side) > 0.0]
    return linalg.null_space(np.array(sides)) if sides else np.eye(n)
