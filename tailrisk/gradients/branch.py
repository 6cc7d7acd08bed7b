"""Boundary branching: what the move of a threshold is worth, simulated on both sides of thresholds drawn from a pool.

With p the density of a step, c the thresholds of step t in the walk's level, and V_t(u) the mean of F given the past and the
level u after step t,

    d/dtheta E[F] = E[dF/dtheta at fixed events] + E sum_t sum_c p(c - u_{t-1}) dc/dtheta (V_t(c-) - V_t(c+)).

The sum is sampled. Steps (t, i) of all paths i are drawn with probabilities omega / Omega by systematic resampling, then one
of the thresholds of that step with chance q (see `proposal`); the pair of paths that go on from just below and just above
it, with the later noise of path i, is worth

    (Omega / pool) weight p(c - u_{t-1}) / (omega q) dc/dtheta (F(below) - F(above)),

weight without the step itself, whose density is the true one. dc/dtheta is a vector, so that one pair serves every
parameter. Any omega and q, positive where a threshold can be met, give the same mean: unbiased, breaker or not. They may
look at the path's later noise (`hindsight`) and at what branches of other pools were worth (`importance`). Margin thresholds
and those of the breaker are drawn apart.

**Source:** Gong and Ho (1987) and Fu and Hu (1997) for perturbations of events; Bangaru, Li and Durand (2020) for sampling
of boundaries; the pooled form is this project's.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt32

from .. import _streams
from .._fields import InputError
from ..simulate import LANES, batch, entry_point, resume, spread
from . import importance
from .functionals import AbstractFunctional, refuse_jumps
from .hindsight import hindsight
from .ladder import Ladder
from .pool import Moved, Moves, Recorded, Steps, highest, restored
from .proposal import Proposal, at_stake
from .record import PILOT_FIRST, Batches, Gradient, batch_size, gradient, no_bias, reduce_batches, require
from .score import PARAMETERS as SCORED
from .score import Scores, control_coefficients
from .walk import MOVERS, LadderWalk, Side

PARAMETERS = MOVERS
LAW = tuple(name for name in SCORED if name.startswith("law."))
FEW = 6  # paths to a branch where there is no breaker
_FLOOR = 1e-3  # of the mean mass: no step that can matter is left out


class Branch(NamedTuple):
    """Branches: step, place of the path in the pool, number of the branch."""

    step: UInt32[np.ndarray, " branches"]
    row: Int[np.ndarray, " branches"]
    number: UInt32[np.ndarray, " branches"]


class Pool(NamedTuple):
    """Outcomes of paths; of every step what was before it, its weight and deficit at stake, for each family mass and cell."""

    first: int
    outcome: dict[str, np.ndarray]
    steps: tuple[Steps, Array, Array]
    mass: list[Float[np.ndarray, "steps paths"]]
    cell: list[Int[np.ndarray, "steps paths"]]


@entry_point
def _forward(recorded: Recorded, proposal: Proposal, keys: Any, paths: Any) -> Any:
    """Outcomes; of every step what was before it, the deficit at stake and, for each family, mass and cell."""
    outcome, steps = batch(recorded, keys, paths, record=True, steps_first=True)
    walk = recorded.walk
    seen, level = hindsight(walk, proposal, steps), steps.level
    weight, deficit = outcome["weight"][None, :] / steps.ratio, at_stake(walk, seen.deficit)
    by_quantity, by_fall = proposal.margin_masses(level, steps.sold)
    near = deficit * by_quantity
    masses, cells = [weight * (near + by_fall)], [importance.margin_cells(walk, steps, seen, by_fall > near)]
    if walk.window:
        trips = proposal.trip_mass(walk, level, steps.sold, highest(walk, steps) - walk.band)
        masses = [jnp.where(steps.halt == 0, mass, 0.0) for mass in (*masses, weight * trips)]
        cells.append(importance.trip_cells(walk, steps, seen))
    return outcome, (steps, weight, deficit), masses, cells


@entry_point
def _branches(
    walk: LadderWalk, proposal: Proposal, breaker: Any, steps: Any, draw_key: Any, branch: Branch
) -> Float[Array, "5 branches"]:
    """What drawn branches are worth to all `PARAMETERS`, and as such; `steps` are those of the pool, weights and deficits."""
    of_steps, weights, deficits = steps

    def fork(row: Any, step: Any, number: Any) -> Any:
        state = restored(walk, of_steps, row, step)
        uniform = _streams.uniforms(draw_key, number, jnp.uint32(0), 1, walk.dtype)[0]
        draw = proposal.draw_margin(walk, state, deficits[step, row], uniform)
        if walk.window:
            trip = proposal.draw_trip(walk, state, uniform)
            draw = jax.tree.map(lambda one, other: jnp.where(breaker, one, other), trip, draw)
        sides = [Side(breaker, draw.place, jnp.asarray(below)) for below in (True, False)]
        pair = tuple(walk.advance(state, draw.level, side) for side in sides)
        moves = jnp.append(walk.velocity(state, breaker, draw.place), jnp.ones(1, walk.dtype))
        return pair, moves * (draw.factor * weights[step, row])

    pair, factor = jax.vmap(fork)(branch.row, branch.step.astype(jnp.int32), branch.number)
    # The two sides go on as lanes of their own, with the moves that the pool has drawn.
    states, row, since = jax.tree.map(
        lambda *sides: jnp.concatenate(sides), *((p, branch.row, branch.step + 1) for p in pair)
    )
    below, above = jnp.split(resume(Moved(walk), Moves(of_steps.move), row, states, since)["value"], 2)
    gap = below - above
    # Where no threshold is in reach of the step there was nothing to draw.
    return jnp.where(factor == 0.0, 0.0, factor * gap[:, None]).T


@entry_point
def _uniform(key: Any, path: Any, step: Any, dtype: Any) -> Float[Array, ""]:
    """One uniform; number by number it would take longer than the selection it is for."""
    return _streams.uniforms(key, path, step, 1, dtype)[0]


def select(
    omega: Float[np.ndarray, "steps paths"], count: int, uniform: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`count` times (step, row, Omega / (pool omega)), ordered by step: systematic resampling."""
    pool, mass = omega.shape[1], omega.reshape(-1)
    sums = np.cumsum(mass)
    if sums[-1] == 0.0:
        nothing = np.zeros(count, np.int64)
        return nothing, nothing, np.zeros(count)
    drawn = np.searchsorted(sums, (np.arange(count) + uniform) / count * sums[-1])
    drawn = np.minimum(drawn, mass.size - 1)
    step, row = np.divmod(drawn, pool)
    return step, row, sums[-1] / (pool * mass[drawn])


class Branching:
    """Pools of `size` paths of a walk, each with `count` branches at the thresholds of accounts (family 0) or the breaker (1).

    The paths carry scores in the parameters `law` of their noise.
    """

    def __init__(self, walk: LadderWalk, law: tuple[str, ...], *, seed: int, size: int, count: int, chunk: int):
        self.walk, self.law, self.size, self.count = walk, law, size, count
        self.lanes = LANES * -(-min(chunk, count) // LANES)
        self.recorded, self.control = Recorded(walk, Scores(walk, law)), np.zeros(len(law))
        self.proposal = Proposal.build(walk)
        self.keys = _streams.noise_keys(seed, "market")
        names = ("selection", "margin", "breaker")
        self.select_key, *self.draw_keys = (_streams.stream_key(seed, f"branch/{name}") for name in names)
        self.factor = [np.ones(cells) for cells in importance.CELLS]

    def pool(self, first: int) -> Pool:
        """The paths from number `first` on."""
        numbers = np.arange(first, first + self.size, dtype=np.uint32)
        filled = np.resize(numbers, -(-self.size // LANES) * LANES)
        outcome, steps, *of_steps = _forward(self.recorded, self.proposal, self.keys, filled)
        outcome = {name: np.asarray(x, np.float64)[: self.size] for name, x in outcome.items()}
        return Pool(first, outcome, steps, *jax.tree.map(lambda x: np.asarray(x)[:, : self.size], of_steps))

    def branches(self, pool: Pool, family: int) -> tuple[np.ndarray, np.ndarray]:
        """Per branch: what it is worth (a row per parameter, and as such), and its cell."""
        cell = pool.cell[family]
        omega = self.factor[family].take(cell)
        omega *= pool.mass[family]
        omega += (_FLOOR * omega.mean()) * (pool.mass[family] > 0.0)
        uniform = float(_uniform(self.select_key, np.uint32(pool.first), np.uint32(family), self.walk.dtype))
        step, row, scale = select(omega, self.count, uniform)

        def some(start: int) -> np.ndarray:
            at = np.minimum(np.arange(start, start + self.lanes), self.count - 1)
            branch = Branch(step[at].astype(np.uint32), row[at].astype(np.int32), (pool.first + at).astype(np.uint32))
            given = (np.asarray(family == 1), pool.steps, self.draw_keys[family], branch)
            return np.asarray(_branches(self.walk, self.proposal, *given), np.float64)

        parts = list(spread(some, range(0, self.count, self.lanes)))
        return np.concatenate(parts, axis=1)[:, : self.count] * scale, cell[step, row]

    def learn(self, paths: int, families: list[int]) -> None:
        """Factors of cells, and what is subtracted from scores, from pools of at least `paths` paths that are not reported."""
        drawn: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {family: [] for family in families}
        outcomes = []
        for first in range(PILOT_FIRST, PILOT_FIRST + paths, self.size):
            pool = self.pool(first)
            outcomes.append(pool.outcome)
            for family in families:
                worth, cell = self.branches(pool, family)
                drawn[family].append((worth[-1], cell))
        for family, found in drawn.items():
            if found:
                worth, cell = (np.concatenate(x) for x in zip(*found, strict=True))
                self.factor[family] = importance.learn(self.factor[family], cell, worth)
        if outcomes and self.law:
            together = {name: np.concatenate([outcome[name] for outcome in outcomes]) for name in outcomes[0]}
            self.control = control_coefficients(together, self.law)

    def contributions(
        self, pool: Pool, families: list[int], less: dict[str, float] | None = None
    ) -> dict[str, np.ndarray]:
        """Of each path of a pool to every derivative; branches are counted to the first paths.

        `less`: what is taken off the velocities, in which case nothing but branches is counted.
        """
        outcome, weight = pool.outcome, pool.outcome["weight"]
        still, fixed = np.zeros(self.size), {} if less else outcome
        found = {name: weight * fixed.get(f"value_{name}", still) for name in PARAMETERS}
        for family in families:
            worth = self.branches(pool, family)[0] * (self.size / self.count)
            for name, of_one in zip(PARAMETERS, worth, strict=False):
                found[name][: self.count] += of_one - (less[name] * worth[-1] if less and name in less else 0.0)
        for name, control in zip(self.law, self.control, strict=True):
            found[name] = weight * outcome[f"score_{name}"] * (outcome["value"] - control)
        return found


def _families(parameters: tuple[str, ...], walk: LadderWalk) -> list[int]:
    """Families of thresholds that the parameters move."""
    margin = any(name in PARAMETERS and name != "band" for name in parameters)
    breaker = bool(walk.window) and any(name in ("band", "impact") for name in parameters)
    return [family for family, wanted in enumerate((margin, breaker)) if wanted]


def run(
    walk: LadderWalk,
    parameters: tuple[str, ...],
    *,
    seed: int,
    paths: int,
    batches: int,
    pilot_paths: int,
    paths_per_branch: int = 1,
    chunk: int,
    common: Float[np.ndarray, " parameters"] | None = None,
) -> Batches:
    """Pools of equal size, one a batch.

    `common`: a velocity per parameter that is taken off that of every margin threshold; what this velocity does, and what
    happens at fixed events, is then left to another estimator.
    """
    size = batch_size(paths, batches)
    families = _families(parameters, walk)
    less = None if common is None else dict(zip(parameters, common, strict=True))
    law = tuple(name for name in parameters if name in LAW)
    branching = Branching(walk, law, seed=seed, size=size, count=max(1, size // paths_per_branch), chunk=chunk)

    def blocks() -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
        branching.learn(pilot_paths, families)
        for first in range(0, paths, size):
            pool = branching.pool(first)
            found = branching.contributions(pool, families, less)
            yield np.stack([found[name] for name in parameters]), pool.outcome

    return reduce_batches(blocks(), size)


def estimate(
    ladder: Ladder,
    parameters: tuple[str, ...] = ("maintenance",),
    *,
    seed: int = 0,
    paths: int = 64 * 16_384,
    batches: int = 64,
    functional: AbstractFunctional | None = None,
    pilot_paths: int = 32_768,
    paths_per_branch: int | None = None,
    chunk: int = 704,
    dtype: Any = None,
) -> Gradient:
    """Derivatives in everything that moves thresholds, all from the same branches, unbiased, breaker or not.

    Parameters of the law of the walk may be asked for beside them: their scores ride on the same paths.

    A batch is one pool, and all its states are held: about 100 bytes for every path and step. `chunk`: branches that run
    together, from the earliest of their steps on; sorted by step, few of them have least to wait for. `pilot_paths`: paths, in
    whole pools that are not reported, from which the choice of steps is refined; with 0 it goes by their masses alone.
    `paths_per_branch`: paths of a pool for each branch and kind of threshold, by default 6, because most of the error is that
    of the paths and more branches cost what they gain, or 1 with a breaker.

    **Raises:** `InputError` for other parameters, for the band where there is no breaker, and for a functional that jumps.
    """
    refuse_jumps(functional, "boundary branching")
    known = (*PARAMETERS, *LAW)
    require(parameters, known, "boundary branching", "other parameters move no threshold: use differences")
    if paths_per_branch is None:
        paths_per_branch = 1 if ladder.has_breaker else FEW
    if paths_per_branch < 1:
        raise InputError(f"paths_per_branch = {paths_per_branch}: expected 1 or more")
    if "law.jump_probability" in parameters and ladder.get("law.jump_probability") == 0.0:
        raise InputError("law.jump_probability = 0 has no score; use the quadrature, or a small positive probability")
    if "band" in parameters and not ladder.has_breaker:
        raise InputError("band = inf: there is no breaker whose band could move; set a finite band")
    walk = LadderWalk.build(ladder, functional, dtype)
    return gradient(
        run(
            walk,
            tuple(parameters),
            seed=seed,
            paths=paths,
            batches=batches,
            pilot_paths=pilot_paths,
            paths_per_branch=paths_per_branch,
            chunk=chunk,
        ),
        tuple(parameters),
        method="boundary branching",
        reason="parameters that move thresholds, each in its own way",
        bias=no_bias(
            parameters, "zero: the terms of the derivative that belong to thresholds are sampled; scores are exact"
        ),
    )
