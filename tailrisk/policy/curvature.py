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
from .sensitivity import Slopes, contributions, moved, room
from .stationarity import Stationarity, walls
from .variables import STEP, rows

_FLAT = 3.0  # standard errors within which a second derivative is no evidence of a slope on either side
_NARROW = 0.2  # share of the wanted step below which a side has no room
_NAMED = 0.25  # part of a unit vector from which on a number is named


class Curvature(NamedTuple):
    """Hessian of the Lagrangian per 10 % of both numbers, as a share of the cost, and what it is in free directions.

    `eigenvalues` of the reduced Hessian rise; column j of `directions` is the unit vector of the j-th. A step of 10 % along
    it costs half its eigenvalue, as a share of the cost.
    """

    entries: tuple[tuple[str, int], ...]
    matrix: Float[np.ndarray, "entries entries"]
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
    """Second differences of the Lagrangian of the deciding model on common paths, each number moved by the share `step`.

    Levels of shortfalls are at their best place at every point. A number with room on one side alone is differenced
    there; one that cannot move on its own is held. Standard errors are those of the means that the bounds contain.
    """
    problem, prices = checked(problem), optimal.prices / (1.0 - room)
    points, sums, held = _points(problem, policy, slopes.entries, step)
    costs, values, paths = [], [], []
    for point in points:
        parameters = policy.parameters
        for entry, by in zip(slopes.entries, point, strict=True):
            parameters = moved(parameters, entry, by) if by else parameters
        drawn = outcomes(problem, parameters, stream)
        judged = judgement(problem, drawn)
        cost, carried = contributions(problem, drawn, judged.levels)
        costs.append(judged.cost)
        values.append(judged.cost + float(prices @ (judged.value + z * judged.std_error)))
        paths.append(cost + prices @ carried)
    spread = np.cov(np.array(paths) - paths[0]).reshape(len(paths), -1) / stream.paths
    cost = abs(costs[0]) or 1.0
    matrix = sums @ np.array(values) / cost
    free = _free(problem, policy, slopes, optimal, held)
    found, inside = np.linalg.eigh(free.T @ matrix @ free)
    directions = free @ inside
    weights = np.einsum("ik,jk,ijp->kp", directions, directions, sums)
    errors = np.sqrt(np.maximum(np.einsum("kp,pq,kq->k", weights, spread, weights), 0.0)) / cost
    return Curvature(slopes.entries, matrix, found, errors, directions)


def _points(
    problem: Problem, policy: Policy, entries: tuple[tuple[str, int], ...], step: float
) -> tuple[list[np.ndarray], Float[np.ndarray, "entries entries points"], list[int]]:
    """Displacements of all numbers, the sums over them that make second differences, and the entries that are held.

    Every number moves by at most half its room, so that no pair of moves leaves an order.
    """
    bounds, n = rows(problem.variables, policy.parameters), len(entries)
    size = np.array([abs(float(np.reshape(policy.parameters[name], -1)[k])) for name, k in entries])
    by, sides, held = np.zeros(n), np.zeros(n, int), []
    for j, entry in enumerate(entries):
        down, up = (min(step * size[j], 0.5 * free) for free in room(bounds, entry))
        if min(down, up) > _NARROW * step * size[j]:
            by[j], sides[j] = min(down, up), 2
        elif max(down, up) > _NARROW * step * size[j]:
            by[j], sides[j] = (0.5 * up if up > down else -0.5 * down), 1
        else:
            held.append(j)
    points, sums = [np.zeros(n)], {}
    unit = np.diag(by)

    def at(point: np.ndarray) -> int:
        points.append(point)
        return len(points) - 1

    first = {j: at(unit[j]) for j in range(n) if sides[j]}
    second = {j: at(-unit[j] if sides[j] == 2 else 2.0 * unit[j]) for j in first}
    for j in first:
        middle, far = (0, first[j]) if sides[j] == 2 else (first[j], 0)
        sums[j, j] = {middle: -2.0, far: 1.0, second[j]: 1.0}, 1.0
        for i in (i for i in first if i < j):
            sums[i, j] = {at(unit[i] + unit[j]): 1.0, first[i]: -1.0, first[j]: -1.0, 0: 1.0}, 1.0
            if sides[i] == sides[j] == 2:
                other = {at(-unit[i] - unit[j]): 1.0, second[i]: -1.0, second[j]: -1.0, 0: 2.0}
                sums[i, j] = sums[i, j][0] | other, 0.5
    out = np.zeros((n, n, len(points)))
    scaled = by / (STEP * size)
    for (i, j), (terms, share) in sums.items():
        for place, times in terms.items():
            out[i, j, place] = out[j, i, place] = share * times / (scaled[i] * scaled[j])
    return points, out, held


def _free(problem: Problem, policy: Policy, slopes: Slopes, optimal: Stationarity, held: list[int]) -> np.ndarray:
    """Unit vectors, per 10 % of the numbers, along which nothing that binds with a price changes."""
    n = len(slopes.entries)
    touched = walls(rows(problem.variables, policy.parameters), policy.parameters, slopes)
    sides = [np.nan_to_num(row) for row, price in zip(slopes.bound, optimal.prices, strict=True) if price > 0.0]
    sides += [wall for (_, wall), (_, mu) in zip(touched, optimal.touched, strict=True) if mu > 0.0]
    sides += [np.eye(n)[j] for j in range(n) if j in held or not np.isfinite(slopes.cost[j])]
    sides = [side / np.linalg.norm(side) for side in sides if np.linalg.norm(side) > 0.0]
    return linalg.null_space(np.array(sides)) if sides else np.eye(n)
