"""How often the trigger of a breaker is reached from near it, and where the price reopens beyond it.

Whoever asks whether a halt attracts the price compares P(it is hit | the price came within d of it) with and without what
could draw the price there. Nobody in a scenario trades ahead of a halt, so that can only be forced sales: the same share with
impact off is what it is compared with.

**Source:** Chen, Petukhov, Wang and Xing (2024) for the conditional probability; Corwin and Lipson (2000) for prices at
reopenings.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from .._streams import Noise
from ..breaker.clock import at_or_above, at_or_below
from ..cascade import Flow, State
from ..scenario import VenueSystem
from ..simulate import AbstractWrapper
from ..tails.measures import Estimate, mean, probability
from .tables import plain

SHARES = (0.75, 0.5, 0.25, 0.1)  # of the distance at the start


class Levels(NamedTuple):
    """Log prices at which falls and rises trip; infinite where nothing does."""

    floor: Float[Array, " assets"]
    ceiling: Float[Array, " assets"]

    def beyond(self, log_price: Float[Array, " assets"]) -> Float[Array, " assets"]:
        """How far a price is beyond the nearer level; negative inside."""
        return jnp.maximum(self.floor - log_price, log_price - self.ceiling)


class Watch(NamedTuple):
    """Of each asset: the levels of the coming step, how near to them and whether hit, what the first halt came to."""

    coming: Levels
    nearest: Float[Array, " assets"]  # log price
    hit: Bool[Array, " assets"]
    tripped: Levels  # those that began the first halt, the other side infinite
    halted: Bool[Array, " assets"]  # since the first halt began
    reopened: Bool[Array, " assets"]
    gap: Float[Array, " assets"]  # log price, beyond the level after the reopening
    overshoot: Float[Array, " assets"]  # log price, the largest of it from there on


class Watched(AbstractWrapper):
    """A venue whose breaker is watched: the nearest approach of any asset, the rest averaged over its assets that reopened.

    A level is approached at the end of a step, and hit there or by the news that begins one. `gap` is how far the price after
    the reopening auction is beyond the level that was hit, negative where it has come back; `overshoot` is the farthest that
    the price is beyond it from then on, at least zero.
    """

    system: VenueSystem

    def _levels(self, state: State) -> Levels:
        cascade = self.system.cascade
        gate = cascade.breaker.gate(state.breaker, cascade.price(state.path, state.books.impact), self.system.dt)
        return Levels(jnp.maximum(gate.floor, gate.band_floor), jnp.minimum(gate.ceiling, gate.band_ceiling))

    def init(self) -> tuple[State, Watch]:
        """The venue at its start."""
        state = self.system.init()
        levels, zero, no = self._levels(state), jnp.zeros_like(state.path), jnp.zeros(state.path.shape, bool)
        return state, Watch(levels, -levels.beyond(zero), no, levels, no, no, zero, zero)

    def step(self, state: tuple[State, Watch], noise: Noise) -> tuple[tuple[State, Watch], Flow]:
        """A step of the venue."""
        before, seen = state
        after, flow = self.system.step(before, noise)
        price, (floor, ceiling) = flow.log_price, seen.coming
        live = jnp.isfinite(floor) | jnp.isfinite(ceiling)
        hit = live & (flow.halted | at_or_below(price, floor) | at_or_above(price, ceiling))
        coming = self._levels(after)

        fell = floor - price >= price - ceiling
        side = Levels(jnp.where(fell, floor, -jnp.inf), jnp.where(fell, jnp.inf, ceiling))
        first = live & ~seen.halted
        tripped = Levels(*(jnp.where(first, new, old) for new, old in zip(side, seen.tripped, strict=True)))
        opens = seen.halted & ~flow.halted & ~seen.reopened
        reopened, beyond = seen.reopened | opens, tripped.beyond(price)
        watch = Watch(
            coming=coming,
            nearest=jnp.minimum(seen.nearest, -coming.beyond(price)),
            hit=seen.hit | hit,
            tripped=tripped,
            halted=seen.halted | flow.halted,
            reopened=reopened,
            gap=jnp.where(opens, beyond, seen.gap),
            overshoot=jnp.where(reopened, jnp.maximum(seen.overshoot, beyond), 0.0),
        )
        return (after, watch), flow

    def outcome(self, state: tuple[State, Watch]) -> dict[str, Float[Array, ""]]:
        """Those of the venue, and what was watched; `nearest` is minus infinity once the trigger was hit."""
        venue, seen = state
        which = seen.reopened.astype(self.dtype)
        count = jnp.sum(which)
        share = which / jnp.maximum(count, 1.0)
        return self.system.outcome(venue) | {
            "nearest": jnp.min(jnp.where(seen.hit, -jnp.inf, jnp.maximum(seen.nearest, 0.0))),
            "reopened": count,
            "gap": jnp.sum(share * seen.gap),
            "overshoot": jnp.sum(share * seen.overshoot),
        }


def watched(system: VenueSystem) -> Watched:
    """A venue that is watched and counts the bad debt of orders that a halt held back apart (`late_bad_debt`)."""
    return Watched(dataclasses.replace(system, cascade=dataclasses.replace(system.cascade, delays=True)))


class Trigger(NamedTuple):
    """Reached and hit by distance (log price), and reopenings; the last two are means over paths that reopened."""

    distances: tuple[float, ...]
    within: tuple[Estimate, ...]  # P(comes within the distance)
    hit: tuple[Estimate, ...]  # P(hits | came within)
    reopened: Estimate
    gap: Estimate
    overshoot: Estimate


def distances(system: Watched) -> tuple[float, ...]:
    """Distances to look from; none where a breaker has no level, as a throttle."""
    start = float(jnp.min(system.init()[1].nearest))
    return tuple(share * start for share in SHARES) if np.isfinite(start) else ()


def trigger(found: Mapping[str, np.ndarray], looked: tuple[float, ...]) -> Trigger:
    """What the outcomes of a watched venue say."""
    nearest, opened = found["nearest"], found["reopened"] > 0.0
    near = [nearest <= distance for distance in looked]
    return Trigger(
        looked,
        tuple(probability(one) for one in near),
        tuple(probability(nearest[one] == -np.inf) for one in near),
        probability(opened),
        mean(found["gap"][opened]),
        mean(found["overshoot"][opened]),
    )


def as_json(found: Trigger) -> dict[str, Any]:
    """The same in plain numbers."""
    rows = zip(found.distances, found.within, found.hit, strict=True)
    return {"by_distance": [{"distance": d, "within": plain(near), "hit": plain(hit)} for d, near, hit in rows]} | {
        name: plain(getattr(found, name)) for name in ("reopened", "gap", "overshoot")
    }
