"""Boundary branching: what the move of a threshold is worth, simulated on both sides of thresholds drawn from a pool.

With p the density of a step, c the thresholds of step t in the walk's level, and V_t(u) the mean of F given the past and the
level u after step t,

    d/dtheta E[F] = E[dF/dtheta at fixed events] + E sum_t sum_c p(c - u_{t-1}) dc/dtheta (V_t(c-) - V_t(c+)).

The sum is sampled. Steps (t, i) of all paths i are drawn with probabilities omega / Omega by systematic resampling, then one
of the thresholds of that step with probability kappa / sum of kappa, kappa = p(c - u_{t-1}) stake; the pair of paths that
go on from just below and just above it, with the later noise of path i, is worth

    (Omega / pool) weight (sum of kappa) / (omega stake) dc/dtheta (F(below) - F(above)),

weight without the step itself, whose density is the true one. dc/dtheta is a vector, so that one pair serves every
parameter. Any omega and stake give the same mean: unbiased, breaker or not. Margin thresholds and those of the breaker are
drawn apart.

**Source:** Gong and Ho (1987) and Fu and Hu (1997) for perturbations of events; Bangaru, Li and Durand (2020) for sampling
of boundaries; the pooled form is this project's.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt32

from .. import _streams
from .._fields import InputError
from ..simulate import LANES, batch, entry_point, resume
from . import importance
from .functionals import AbstractFunctional, refuse_jumps
from .ladder import Ladder
from .proposal import Proposal, Recorded, Shown
from .record import PILOT_FIRST, Batches, Gradient, batch_size, gradient, no_bias, reduce_batches, require
from .walk import LadderWalk, Side, WalkState

PARAMETERS = ("maintenance", "initial_shift", "impact", "band")
_FLOOR = 1e-3  # of the mean mass: no step that can matter is left out


class Draw(NamedTuple):
    """Branches: step, place of the path in the pool, number of the path, number of the branch."""

    step: UInt32[np.ndarray, " branches"]
    row: Int[np.ndarray, " branches"]
    path: UInt32[np.ndarray, " branches"]
    branch: UInt32[np.ndarray, " branches"]


_forward = entry_point(lambda system, keys, paths: batch(system, keys, paths, record=True))


def _fork(
    walk: LadderWalk,
    proposal: Proposal,
    breaker: Bool[Array, ""],
    state: WalkState,
    uniform: Float[Array, ""],
) -> tuple[WalkState, Float[Array, "5"]]:
    """A threshold of the next step, the states just below and just above it, and what their difference is multiplied by.

    By the derivatives of the threshold in all `PARAMETERS`, and once by 1.
    """
    kinds = 2 if walk.window else 1

    def listed(both: tuple[Array, Array]) -> Array:
        return jnp.concatenate(both[:kinds])

    found = walk.thresholds(state)
    level = listed((found.margin, found.breaker))
    real = listed((found.margin_real & ~breaker, found.breaker_real & breaker))
    stake = listed(proposal.stakes(found))
    sums = jnp.cumsum(jnp.where(real, walk.density(level - state.level) * stake, 0.0))
    drawn = jnp.argmax(sums >= uniform * sums[-1]).astype(jnp.int32)
    place = drawn - jnp.where(breaker, jnp.int32(walk.accounts), jnp.int32(0))
    pair = jax.vmap(lambda low: walk.advance(state, level[drawn], Side(breaker, place, low)))(jnp.array([True, False]))
    velocities = walk.velocities(state)
    velocity = [listed(velocities[name])[drawn] for name in PARAMETERS]
    return pair, jnp.stack([*velocity, jnp.ones_like(sums[-1])]) * sums[-1] / stake[drawn]


@entry_point
def _branches(
    walk: LadderWalk,
    proposal: Proposal,
    breaker: Any,
    states: WalkState,
    keys: Any,
    draw_key: Any,
    draw: Draw,
) -> Float[Array, "5 branches"]:
    """What drawn branches are worth to all `PARAMETERS`, and as such; `states` are those before every step of the pool."""
    before = jax.tree.map(lambda leaf: leaf[draw.row, draw.step], states)
    start = walk.init()

    def fork(state: WalkState, branch: Any) -> Any:
        uniform = _streams.uniforms(draw_key, branch, jnp.uint32(0), 1, walk.dtype)[0]
        whole = state._replace(debt_slopes=start.debt_slopes, income_slopes=start.income_slopes)
        return _fork(walk, proposal, breaker, whole, uniform)

    pairs, factor = jax.vmap(fork)(before, draw.branch)
    ends = jax.tree.map(lambda leaf: leaf.reshape(2 * leaf.shape[0], *leaf.shape[2:]), pairs)
    end = resume(walk, keys, jnp.repeat(draw.path, 2), ends, jnp.repeat(draw.step + 1, 2))
    value, weight = end["value"].reshape(-1, 2), end["weight"][::2]
    gap = weight * (value[:, 0] - value[:, 1])
    # Where no threshold is in reach of the step there was nothing to draw.
    return jnp.where(factor == 0.0, 0.0, factor * gap[:, None]).T


def select(omega: Float[np.ndarray, "paths steps"], uniform: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As many (step, row, Omega / (pool omega)) as paths, ordered by step: systematic resampling."""
    pool, mass = omega.shape[0], omega.T.reshape(-1)
    sums = np.cumsum(mass)
    if sums[-1] == 0.0:
        nothing = np.zeros(pool, np.int64)
        return nothing, nothing, np.zeros(pool)
    drawn = np.searchsorted(sums, (np.arange(pool) + uniform) / pool * sums[-1])
    drawn = np.minimum(drawn, mass.size - 1)
    step, row = np.divmod(drawn, pool)
    return step, row, sums[-1] / (pool * mass[drawn])


class Branching:
    """Pools of `size` paths of a walk, and the branches at the thresholds of accounts (family 0) and of the breaker (1)."""

    def __init__(self, walk: LadderWalk, *, seed: int, size: int, chunk: int):
        self.walk, self.size, self.lanes = walk, size, LANES * -(-min(chunk, size) // LANES)
        self.recorded = Recorded(walk, Proposal.build(walk))
        self.keys = _streams.noise_keys(seed, "market")
        names = ("selection", "margin", "breaker")
        self.select_key, *self.draw_keys = (_streams.stream_key(seed, f"branch/{name}") for name in names)
        thresholds = np.asarray(walk.clearing.thresholds, np.float64)[:-1]
        self.importance = importance.flat(thresholds)

    def pool(self, first: int) -> tuple[dict[str, np.ndarray], Shown]:
        """Outcomes of the paths from number `first` on, and what each of their steps showed."""
        numbers = np.arange(first, first + self.size, dtype=np.uint32)
        outcome, shown = _forward(self.recorded, self.keys, np.resize(numbers, -(-self.size // LANES) * LANES))
        return {name: np.asarray(x, np.float64)[: self.size] for name, x in outcome.items()}, shown

    def branches(self, first: int, shown: Shown, family: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Per branch: what it is worth (a row per parameter, and as such), scale, cell, mass."""
        mass = np.asarray(shown.masses, np.float64)[: self.size, :, family]
        mass = mass + _FLOOR * mass.mean()
        lag = importance.next_jump(np.asarray(shown.jump)[: self.size])
        level = np.asarray(shown.state.level, np.float64)[: self.size]
        cell = importance.cells(self.importance, lag, mass, level)
        # What is at stake at a trip point depends on more than the cells tell: factors made the band's error larger.
        omega = mass if family else mass * self.importance.factor[cell]
        uniform = float(_streams.uniforms(self.select_key, first, family, 1, self.walk.dtype)[0])
        step, row, scale = select(omega, uniform)
        parts = []
        for start in range(0, self.size, self.lanes):
            at = np.minimum(np.arange(start, start + self.lanes), self.size - 1)
            numbers = (step[at], first + row[at], first + at)
            steps, paths, branches = (x.astype(np.uint32) for x in numbers)
            draw = Draw(steps, row[at].astype(np.int32), paths, branches)
            breaker, key = np.asarray(family == 1), self.draw_keys[family]
            proposal = self.recorded.proposal
            parts.append(_branches(self.walk, proposal, breaker, shown.state, self.keys, key, draw))
        worth = np.concatenate([np.asarray(part, np.float64) for part in parts], axis=1)[:, : self.size]
        return worth, scale, cell[row, step], mass[row, step]

    def learn(self, paths: int) -> None:
        """Factors for the margin thresholds from pools of at least `paths` paths that are not reported."""
        cells, worths = [], []
        for first in range(PILOT_FIRST, PILOT_FIRST + paths, self.size):
            worth, _, cell, mass = self.branches(first, self.pool(first)[1], 0)
            cells.append(cell)
            worths.append(worth[-1] / np.where(mass > 0.0, mass, 1.0))
        if cells:
            self.importance = importance.learn(self.importance, np.concatenate(cells), np.concatenate(worths))


def _families(parameters: tuple[str, ...], walk: LadderWalk) -> list[int]:
    """Families of thresholds that the parameters move."""
    margin = any(name != "band" for name in parameters)
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
    chunk: int,
    common: Float[np.ndarray, " parameters"] | None = None,
) -> Batches:
    """Pools of equal size, one a batch, with one branch to a path and family.

    `common`: a velocity per parameter that is taken off that of every margin threshold; what this velocity does, and what
    happens at fixed events, is then left to another estimator.
    """
    size = batch_size(paths, batches)
    families = _families(parameters, walk)
    branching = Branching(walk, seed=seed, size=size, chunk=chunk)
    wanted = [PARAMETERS.index(name) for name in parameters]

    def blocks() -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
        if 0 in families:
            branching.learn(pilot_paths)
        for first in range(0, paths, size):
            outcome, shown = branching.pool(first)
            still = np.zeros(size)
            fixed = (outcome.get(f"value_{name}", still) if common is None else still for name in parameters)
            x = outcome["weight"] * np.stack(list(fixed))
            for family in families:
                worth, scale, _, _ = branching.branches(first, shown, family)
                left = worth[wanted] if common is None else worth[wanted] - common[:, None] * worth[-1]
                x += left * scale
            yield x, outcome

    return reduce_batches(blocks(), size)


def estimate(
    ladder: Ladder,
    parameters: tuple[str, ...] = ("maintenance",),
    *,
    seed: int = 0,
    paths: int = 64 * 16_384,
    batches: int = 64,
    functional: AbstractFunctional | None = None,
    pilot_paths: int = 65_536,
    chunk: int = 1_024,
    dtype: Any = None,
) -> Gradient:
    """Derivatives in everything that moves thresholds, all from the same branches, unbiased, breaker or not.

    A batch is one pool, and all its states are held: about half a kB for every path and five steps. `chunk`: branches that run
    together, from the earliest of their steps on. `pilot_paths`: paths, in whole pools that are not reported, from which
    the choice of steps for margin thresholds is learned; with 0 it goes by their masses alone.

    **Raises:** `InputError` for other parameters, for the band where there is no breaker, and for a functional that jumps.
    """
    refuse_jumps(functional, "boundary branching")
    require(
        parameters, PARAMETERS, "boundary branching", "other parameters move no threshold: use score or differences"
    )
    if "band" in parameters and not ladder.has_breaker:
        raise InputError("band = inf: there is no breaker whose band could move; set a finite band")
    walk = LadderWalk.build(ladder, functional, dtype)
    return gradient(
        run(walk, tuple(parameters), seed=seed, paths=paths, batches=batches, pilot_paths=pilot_paths, chunk=chunk),
        tuple(parameters),
        method="boundary branching",
        reason="parameters that move thresholds, each in its own way",
        bias=no_bias(parameters, "zero: the terms of the derivative that belong to thresholds are sampled"),
    )
