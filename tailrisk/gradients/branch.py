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
from jaxtyping import Array, Bool, Float, Int

from .. import _streams
from .._fields import InputError
from ..simulate import LANES, batch, entry_point, resume
from .functionals import AbstractFunctional
from .ladder import Ladder
from .proposal import Proposal, Recorded
from .record import Batches, Gradient, batch_size, gradient, no_bias, reduce_batches, require
from .walk import LadderWalk, Side, WalkState

PARAMETERS = ("maintenance", "initial_shift", "impact", "band")
_FLOOR = 1e-3  # of the mean mass: no step that can matter is left out
_AT_FIXED_EVENTS = ("initial_shift", "impact")


class Draw(NamedTuple):
    """Branches: step, place of the path in the pool, number of the path, number of the branch, Omega / (pool omega)."""

    step: Int[np.ndarray, " branches"]
    row: Int[np.ndarray, " branches"]
    path: Int[np.ndarray, " branches"]
    branch: Int[np.ndarray, " branches"]
    scale: Float[np.ndarray, " branches"]


_forward = entry_point(lambda system, keys, paths: batch(system, keys, paths, record=True))


def _fork(
    walk: LadderWalk,
    proposal: Proposal,
    breaker: Bool[Array, ""],
    state: WalkState,
    uniform: Float[Array, ""],
) -> tuple[WalkState, Float[Array, "4"]]:
    """A threshold of the next step, the states just below and just above it, and what their difference is multiplied by."""
    found = walk.thresholds(state)
    level, real, stake = (
        jnp.concatenate(both)
        for both in (
            (found.margin, found.breaker),
            (found.margin_real & ~breaker, found.breaker_real & breaker),
            proposal.stakes(found),
        )
    )
    sums = jnp.cumsum(jnp.where(real, walk.density(level - state.level) * stake, 0.0))
    drawn = jnp.argmax(sums >= uniform * sums[-1]).astype(jnp.int32)
    place = drawn - jnp.where(breaker, jnp.int32(walk.accounts), jnp.int32(0))
    pair = jax.vmap(lambda low: walk.advance(state, level[drawn], Side(breaker, place, low)))(jnp.array([True, False]))
    velocities = walk.velocities(state)
    velocity = jnp.stack([jnp.concatenate(velocities[name])[drawn] for name in PARAMETERS])
    return pair, velocity * sums[-1] / stake[drawn]


@entry_point
def _branches(
    walk: LadderWalk,
    proposal: Proposal,
    breaker: Any,
    states: WalkState,
    keys: Any,
    draw_key: Any,
    draw: Draw,
) -> Float[Array, "4 branches"]:
    """Contributions of drawn branches to all `PARAMETERS`; `states` are those before every step of every path of the pool."""
    before = jax.tree.map(lambda leaf: leaf[draw.row, draw.step], states)

    def fork(state: WalkState, branch: Any) -> Any:
        uniform = _streams.uniforms(draw_key, branch, jnp.uint32(0), 1, walk.dtype)[0]
        return _fork(walk, proposal, breaker, state, uniform)

    pairs, factor = jax.vmap(fork)(before, draw.branch)
    ends = jax.tree.map(lambda leaf: leaf.reshape(2 * leaf.shape[0], *leaf.shape[2:]), pairs)
    end = resume(walk, keys, jnp.repeat(draw.path, 2), ends, jnp.repeat(draw.step + 1, 2))
    value, weight = end["value"].reshape(-1, 2), end["weight"][::2]
    gap = weight * (value[:, 0] - value[:, 1])
    # Where no threshold is in reach of the step there was nothing to draw.
    worth = jnp.where(factor == 0.0, 0.0, factor * gap[:, None])
    return (worth * draw.scale[:, None]).T


def select(mass: Float[np.ndarray, "paths steps"], uniform: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As many (step, row, Omega / (pool omega)) as paths, ordered by step: systematic resampling of the masses."""
    omega = mass.T.astype(np.float64).reshape(-1)
    omega = omega + _FLOOR * omega.mean()
    sums, pool = np.cumsum(omega), mass.shape[0]
    if sums[-1] == 0.0:
        nothing = np.zeros(pool, np.int64)
        return nothing, nothing, np.zeros(pool)
    drawn = np.searchsorted(sums, (np.arange(pool) + uniform) / pool * sums[-1])
    drawn = np.minimum(drawn, omega.size - 1)
    step, row = np.divmod(drawn, pool)
    return step, row, sums[-1] / (pool * omega[drawn])


def _families(parameters: tuple[str, ...], walk: LadderWalk) -> list[int]:
    """Thresholds that the parameters move: 0 of accounts, 1 of the breaker."""
    margin = any(name != "band" for name in parameters)
    breaker = bool(walk.window) and any(name in ("band", "impact") for name in parameters)
    return [family for family, wanted in enumerate((margin, breaker)) if wanted]


def contributions(
    walk: LadderWalk, parameters: tuple[str, ...], *, seed: int, paths: int, size: int, chunk: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Per pool of `size` paths: contributions (parameters, paths) and weights, one branch to a path and family."""
    proposal = Proposal.build(walk)
    keys = _streams.noise_keys(seed, "market")
    select_key, *draw_keys = (
        _streams.stream_key(seed, f"branch/{name}") for name in ("selection", "margin", "breaker")
    )
    lanes = LANES * -(-min(chunk, size) // LANES)
    wanted = [PARAMETERS.index(name) for name in parameters]
    for first in range(0, paths, size):
        pool = np.arange(first, first + size, dtype=np.uint32)
        outcome, (states, masses) = _forward(Recorded(walk, proposal), keys, np.resize(pool, -(-size // LANES) * LANES))
        masses = np.asarray(masses)[:size]
        weight = np.asarray(outcome["weight"], np.float64)[:size]
        x = np.zeros((len(parameters), size))
        for i, name in enumerate(parameters):
            if name in _AT_FIXED_EVENTS:
                x[i] = weight * np.asarray(outcome[f"value_{name}"], np.float64)[:size]
        for family in _families(parameters, walk):
            uniform = float(_streams.uniforms(select_key, first, family, 1, walk.dtype)[0])
            step, row, scale = select(masses[:, :, family], uniform)
            for start in range(0, size, lanes):
                part = np.minimum(np.arange(start, start + lanes), size - 1)
                draw = Draw(
                    step[part].astype(np.uint32),
                    row[part].astype(np.int32),
                    pool[row[part]],
                    pool[part],
                    scale[part].astype(walk.dtype),
                )
                breaker = np.asarray(family == 1)
                got = _branches(walk, proposal, breaker, states, keys, draw_keys[family], draw)
                stop = min(start + lanes, size)
                x[:, start:stop] += np.asarray(got, np.float64)[wanted, : stop - start]
        yield x, weight


def run(walk: LadderWalk, parameters: tuple[str, ...], *, seed: int, paths: int, batches: int, chunk: int) -> Batches:
    """Pools of equal size, one a batch."""
    size = batch_size(paths, batches)
    return reduce_batches(contributions(walk, parameters, seed=seed, paths=paths, size=size, chunk=chunk), size)


def estimate(
    ladder: Ladder,
    parameters: tuple[str, ...] = ("maintenance",),
    *,
    seed: int = 0,
    paths: int = 64 * 16_384,
    batches: int = 64,
    functional: AbstractFunctional | None = None,
    chunk: int = 1_024,
    dtype: Any = None,
) -> Gradient:
    """Derivatives in everything that moves thresholds, all from the same branches, unbiased, breaker or not.

    A batch is one pool, and all its states are held: about 1 kB for every path and ten steps. `chunk`: branches that run
    together, from the earliest of their steps on.

    **Raises:** `InputError` for other parameters, and for the band where there is no breaker.
    """
    require(
        parameters, PARAMETERS, "boundary branching", "other parameters move no threshold: use score or differences"
    )
    if "band" in parameters and not ladder.has_breaker:
        raise InputError("band = inf: there is no breaker whose band could move; set a finite band")
    walk = LadderWalk.build(ladder, functional, dtype)
    return gradient(
        run(walk, tuple(parameters), seed=seed, paths=paths, batches=batches, chunk=chunk),
        tuple(parameters),
        method="boundary branching",
        reason="parameters that move thresholds, each in its own way",
        bias=no_bias(parameters, "zero: the terms of the derivative that belong to thresholds are sampled"),
    )
