"""Where in a pool of paths a threshold is likely to matter: masses that steer the choice of branches, never their mean.

A step from level u with n accounts sold meets the margin threshold a_k with density p(a_k - u), and what is at stake is
about what then falls at once. Their sum over k >= n is read from a table in u and n. A breaker is met at the levels
c_r = floor + G_r, r = n, ..., r*, the last of which parts a trip from none, so it counts for as much as the others together.
"""

from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from .._streams import Noise
from .companion import AbstractCompanion
from .walk import Candidates, LadderWalk, WalkState

_POINTS = 384
_BEYOND = 6.0  # deviations around the thresholds that the table covers


def fall_at_once(thresholds: np.ndarray, quantity: np.ndarray) -> np.ndarray:
    """Quantity that is sold when the level passes each threshold: up to the next one that is not higher."""
    after = np.full(thresholds.size, thresholds.size)
    waiting: list[int] = []
    for place, threshold in enumerate(thresholds):
        while waiting and threshold <= thresholds[waiting[-1]]:
            after[waiting.pop()] = place
        waiting.append(place)
    sold = np.append(0.0, np.cumsum(quantity))
    return sold[after] - sold[:-1]


class Proposal(eqx.Module):
    """Tables for the masses of the margin thresholds."""

    at_stake: Float[Array, " accounts"]
    margin: Float[Array, "points places_plus_1"]
    lowest: Float[Array, ""]
    spacing: Float[Array, ""]

    @classmethod
    def build(cls, walk: LadderWalk) -> "Proposal":
        """Tables of a walk, made on the host in float64."""
        table = np.asarray(walk.clearing.sums.table, np.float64)[0]
        quantity = np.diff(table[:, 0] + table[:, 1])
        thresholds = np.asarray(walk.clearing.thresholds, np.float64)[:-1]
        at_stake = fall_at_once(thresholds, quantity)
        reach = _BEYOND * float(walk.law.deviation)
        levels = np.linspace(thresholds.min() - reach, thresholds.max() + reach, _POINTS)
        moves = jnp.asarray((thresholds[None, :] - levels[:, None]).astype(walk.dtype))
        mass = np.asarray(walk.density(moves), np.float64) * at_stake
        tail = np.append(np.cumsum(mass[:, ::-1], axis=1)[:, ::-1], np.zeros((_POINTS, 1)), axis=1)
        numbers = (at_stake, tail, levels[0], levels[1] - levels[0])
        return cls(*(jnp.asarray(np.asarray(number).astype(walk.dtype)) for number in numbers))

    def masses(self, walk: LadderWalk, state: WalkState) -> Float[Array, " families"]:
        """Weighted masses of the step after a state: of the margin thresholds and, if there is a breaker, of its own."""
        place = jnp.clip((state.level - self.lowest) / self.spacing, 0.0, _POINTS - 1.0).astype(jnp.int32)
        masses = [self.margin.reshape(-1)[place * self.margin.shape[1] + state.sold]]
        if walk.window:
            floor = jnp.max(state.window) - walk.band
            last = walk.clearing.last_before_stop(state.sold, floor)
            parting = walk.density(floor + walk.clearing.fall[last] - state.level)
            first = walk.density(floor + walk.clearing.fall[state.sold] - state.level)
            count = (last - state.sold + 1).astype(walk.dtype)
            masses.append(parting * (1.0 + count) + 0.5 * count * jnp.maximum(parting, first))
        return jnp.where(state.halt == 0, state.weight, 0.0) * jnp.stack(masses)

    def stakes(self, candidates: Candidates) -> tuple[Float[Array, " accounts"], Float[Array, " trips"]]:
        """How much more often than by its density each threshold is chosen: margin thresholds, trip points."""
        real = candidates.breaker_real
        places = jnp.arange(real.shape[0])
        parting = places == jnp.max(jnp.where(real, places, -1))
        count = jnp.sum(real).astype(self.at_stake.dtype)
        return self.at_stake, 1.0 + jnp.where(parting, count, 0.0)


class Shown(NamedTuple):
    """The state before a step, without its slopes, which no branch needs; the masses of the step; whether the path jumps."""

    state: WalkState
    masses: Float[Array, " families"]
    jump: Bool[Array, ""]


class Recorded(AbstractCompanion):
    """A walk that shows what the choice of branches needs."""

    walk: LadderWalk
    proposal: Proposal

    def init(self) -> WalkState:
        """The walk's start."""
        return self.walk.init()

    def step(self, state: WalkState, noise: Noise) -> tuple[WalkState, Shown]:
        """The walk's step."""
        masses, none = self.proposal.masses(self.walk, state), jnp.zeros(0, self.dtype)
        lean = state._replace(debt_slopes=none, income_slopes=none)
        return self.walk.step(state, noise)[0], Shown(lean, masses, self.walk.increment(noise).jump)

    def outcome(self, state: WalkState) -> dict[str, Float[Array, ""]]:
        """The walk's outcome."""
        return self.walk.outcome(state)
