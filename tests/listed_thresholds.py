"""All thresholds of a step of the reference ladder one by one: what the package finds by search is compared with them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Candidates(NamedTuple):
    """Thresholds of the next step in the exogenous level, and which of them an infinitesimal move would make matter.

    margin: level below which account k is sold, given those before it. breaker: level below which sales stop with r sold.
    """

    margin: Any
    margin_real: Any
    breaker: Any
    breaker_real: Any


def thresholds(walk, state):
    """All thresholds of the step after `state`, with those marked that are reached with what is sold before them."""
    clearing, places = walk.clearing, jnp.arange(walk.accounts + 1, dtype=jnp.int32)
    levels = clearing.thresholds[:-1]
    # Least threshold from `sold` to just before each place: what must be passed to get there.
    passed = jnp.where(places[:-1] >= state.sold, levels, jnp.inf)
    least = jnp.append(jnp.array([jnp.inf], walk.dtype), jax.lax.cummin(passed))
    open_ = (places >= state.sold) & (state.halt == 0)
    margin_real = open_[:-1] & (levels < least[:-1])
    if not walk.window:
        nothing = jnp.full(walk.accounts + 1, -jnp.inf, walk.dtype)
        return Candidates(levels, margin_real, nothing, jnp.zeros(walk.accounts + 1, bool))
    floor = jnp.max(state.window) - walk.band
    trips = floor + clearing.fall
    margin_real = margin_real & (levels - clearing.fall[:-1] >= floor)
    return Candidates(levels, margin_real, trips, open_ & jnp.isfinite(floor) & (trips < least))
