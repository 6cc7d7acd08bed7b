"""What the later noise of a path says about a threshold of one of its steps, whatever that step itself does.

A branch at step t goes on with the path's own later moves, so that a choice among branches may look at them. Let c be the
level after the step and y_s that of the walk s steps later, less c. An account that is sold just below c and not just above
is sold, at the latest, at the first y_s < 0, by the depth -y_s lower. With G and n the fall and the count of sales, its
deficit there is about

    deficit = depth + G(n(c - depth)) - G(n(c)) + log(1 - maintenance)

if this is positive, and otherwise it owes nothing either way, without a breaker. A halt ends after H steps, when the walk has
come down by fall = -y_(H+1).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .pool import Steps
from .proposal import Proposal
from .walk import LadderWalk

_LANES = 512  # paths worked on at a time, so that they stay in the cache


class Hindsight(NamedTuple):
    """Per step and path, in deviations of a step: deficit (minus infinity if the walk never comes back below), fall."""

    deficit: Float[Array, "steps paths"]
    fall: Float[Array, "steps paths"]


def first_depth(positions: Float[Array, "steps paths"]) -> Float[Array, "steps paths"]:
    """By how much the first later position that is lower is lower; 0 if there is none."""
    steps, paths = positions.shape
    lanes, half = min(_LANES, paths), steps // 2

    def block(here: Array) -> Array:
        ahead = jnp.concatenate([here, jnp.full_like(here, jnp.inf)])

        def look(lag: Array, depth: Array) -> Array:
            now, later = here[: len(depth)], jax.lax.dynamic_slice_in_dim(ahead, lag, len(depth))
            return jnp.where((depth == 0.0) & (later < now), now - later, depth)

        depth = jax.lax.fori_loop(1, half, look, jnp.zeros_like(here))
        early = jax.lax.fori_loop(max(half, 1), steps, look, depth[: steps - half])  # later steps do not look as far
        return jnp.concatenate([early, depth[steps - half :]])

    filled = jnp.pad(positions, ((0, 0), (0, -paths % lanes)))
    found = jax.lax.map(block, filled.reshape(steps, -1, lanes).swapaxes(0, 1))
    return found.swapaxes(0, 1).reshape(steps, -1)[:, :paths]


def hindsight(walk: LadderWalk, proposal: Proposal, steps: Steps) -> Hindsight:
    """Of every step of a pool."""
    clearing, unit = walk.clearing, walk.law.deviation
    depth = first_depth(steps.after.astype(jnp.float32)).astype(walk.dtype)
    threshold = clearing.thresholds[jnp.minimum(steps.sold, walk.accounts - 1)]
    further = jnp.maximum(proposal.fall_at[proposal.levels.place(threshold - depth)] - clearing.fall[steps.sold], 0.0)
    deficit = jnp.where(depth > 0.0, depth + further + jnp.log1p(-walk.maintenance), -jnp.inf)
    ahead = jnp.minimum(jnp.arange(walk.steps) + walk.halt + 1, walk.steps - 1)
    return Hindsight(deficit / unit, (steps.after - steps.after[ahead]) / unit)
