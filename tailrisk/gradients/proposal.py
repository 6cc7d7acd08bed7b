"""Where in a pool of paths a threshold is likely to matter, and which: masses that steer branches, never their mean.

A step from level u with n accounts sold meets the margin threshold a_k with density p(a_k - u), and what is at stake is
about what then falls at once, s_k. Sums of p(a_k - u) s_k over k >= m are tabulated for levels u on a grid: an entry at m = n
is the mass of a step, and a search along its row draws a threshold, in O(log N) and without a list of all.

A breaker is met at the levels c_r = floor + G_r, r = n, ..., r*, the last of which parts a trip from none, while below the
others the breaker only stops one sale earlier: their stakes are 1 and the quantity of that sale.
"""

from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from .._streams import Noise
from ..positions.search import count_above
from .clearing import THRESHOLD
from .companion import AbstractCompanion
from .walk import LadderWalk, WalkState

_POINTS = 512
_BEYOND = 8.0  # deviations around the thresholds that the table covers
_SHADOWED = 0.2  # of its stake: a threshold that matters only after a breaker has stopped sales half-way
_PARTING = 0.5  # least chance of the last trip point


class Draw(NamedTuple):
    """A threshold: its number, its level, and density of the step there over the chance that it is drawn."""

    place: Int[Array, ""]
    level: Float[Array, ""]
    factor: Float[Array, ""]


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
    """Tables over levels and numbers sold."""

    stake: Float[Array, " accounts"]
    margin: Float[Array, "points places_plus_1"]  # descending along a row
    lowest: Float[Array, ""]
    spacing: Float[Array, ""]
    sold: Float[Array, " places_plus_1"]

    @classmethod
    def build(cls, walk: LadderWalk) -> "Proposal":
        """Tables of a walk, made on the host in float64."""
        table = np.asarray(walk.clearing.sums.table, np.float64)[0]
        sold = table[:, 0] + table[:, 1]
        thresholds = np.asarray(walk.clearing.thresholds, np.float64)[:-1]
        before = np.minimum.accumulate(np.append(np.inf, thresholds[:-1]))
        # Sales without a breaker end at a threshold that is lower than all before it, so that no other one matters.
        stake = fall_at_once(thresholds, np.diff(sold))
        stake = stake * np.where(thresholds < before, 1.0, _SHADOWED if walk.window else 0.0)
        reach = _BEYOND * float(walk.law.deviation)
        levels = np.linspace(thresholds.min() - reach, thresholds.max() + reach, _POINTS).astype(walk.dtype)
        moves = jnp.asarray(thresholds.astype(walk.dtype)[None, :] - levels[:, None])
        mass = np.asarray(walk.density(moves), np.float64) * stake
        tail = np.append(np.cumsum(mass[:, ::-1], axis=1)[:, ::-1], np.zeros((_POINTS, 1)), axis=1)
        numbers = (stake, tail, levels[0], levels[1] - levels[0], sold)
        return cls(*(jnp.asarray(np.asarray(number).astype(walk.dtype)) for number in numbers))

    def _row(self, level: Float[Array, ""]) -> Int[Array, ""]:
        return jnp.clip(jnp.round((level - self.lowest) / self.spacing), 0.0, self.margin.shape[0] - 1.0).astype(jnp.int32)

    def masses(self, walk: LadderWalk, state: WalkState) -> Float[Array, " families"]:
        """Masses of the step after a state: of the margin thresholds and, if there is a breaker, of its own."""
        masses = [self.margin.reshape(-1)[self._row(state.level) * self.margin.shape[1] + state.sold]]
        if walk.window:
            parting, others, _ = self._trips(walk, state)
            masses.append(parting + others)
        return jnp.where(state.halt == 0, 1.0, 0.0) * jnp.stack(masses)

    def _trips(self, walk: LadderWalk, state: WalkState) -> tuple[Float[Array, ""], Float[Array, ""], Int[Array, ""]]:
        """Masses of the last trip point and of the others together, and the number of the last."""
        floor, fall = jnp.max(state.window) - walk.band, walk.clearing.fall
        last = walk.clearing.last_before_stop(state.sold, floor)
        parting = walk.density(floor + fall[last] - state.level)
        first = walk.density(floor + fall[state.sold] - state.level)
        return parting, (self.sold[last] - self.sold[state.sold]) * jnp.maximum(parting, first), last

    def draw_margin(self, walk: LadderWalk, state: WalkState, uniform: Float[Array, ""]) -> Draw:
        """A margin threshold not yet passed, by its density at the nearest level of the table and its stake."""
        row = self._row(state.level)
        sums = self.margin[row]
        total = sums[state.sold]
        place = count_above(sums[None, :], (uniform * total)[None], THRESHOLD)[0] - 1
        place = jnp.clip(place, state.sold, walk.accounts - 1)
        level = walk.clearing.thresholds[place]
        chance = walk.density(level - (self.lowest + row.astype(walk.dtype) * self.spacing)) * self.stake[place]
        there = walk.density(level - state.level)
        return Draw(place, level, jnp.where(chance > 0.0, total * there / jnp.where(chance > 0.0, chance, 1.0), 0.0))

    def draw_trip(self, walk: LadderWalk, state: WalkState, uniform: Float[Array, ""]) -> Draw:
        """A trip point: the last one, or one of the others by the quantity of the sale it stops."""
        parting, others, last = self._trips(walk, state)
        start, stop = self.sold[state.sold], self.sold[last]
        share = parting / jnp.maximum(parting + others, jnp.finfo(walk.dtype).tiny)
        share = jnp.where(last > state.sold, jnp.maximum(share, _PARTING), 1.0)
        rest = jnp.clip((uniform - share) / jnp.maximum(1.0 - share, jnp.finfo(walk.dtype).tiny), 0.0, 1.0)
        above = count_above(-self.sold[None, :], -(start + rest * (stop - start))[None], THRESHOLD)[0]
        other = jnp.clip(above - 1, state.sold, jnp.maximum(last - 1, state.sold))
        size = self.sold[other + 1] - self.sold[other]
        is_last = uniform < share
        chance = jnp.where(is_last, share, (1.0 - share) * size / jnp.where(stop > start, stop - start, 1.0))
        place = jnp.where(is_last, last, other)
        level = jnp.max(state.window) - walk.band + walk.clearing.fall[place]
        # While the window is empty there is no trip point, and the level is minus infinity.
        there = walk.density(jnp.where(jnp.isfinite(level), level - state.level, jnp.inf))
        return Draw(place, level, there / chance)


class Shown(NamedTuple):
    """What branches need of a step: the state before it, its masses, its move and whether that is a jump.

    The state is without slopes, which no branch needs, and without the window, which is read from the steps before.
    """

    state: WalkState
    masses: Float[Array, " families"]
    move: Float[Array, ""]
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
        masses, increment = self.proposal.masses(self.walk, state), self.walk.increment(noise)
        none = jnp.zeros(0, self.dtype)
        lean = state._replace(debt_slopes=none, income_slopes=none, window=none, window_sold=jnp.zeros(0, jnp.int32))
        return self.walk.step(state, noise)[0], Shown(lean, masses, increment.move, increment.jump)

    def outcome(self, state: WalkState) -> dict[str, Float[Array, ""]]:
        """The walk's outcome."""
        return self.walk.outcome(state)


def restored(walk: LadderWalk, states: WalkState, row: Int[Array, ""], step: Int[Array, ""]) -> WalkState:
    """The state before a step of a path from those that a pool has shown (paths x steps)."""
    lean, start = states_at(states, row, step), walk.init()
    back = step - jnp.arange(walk.window, dtype=jnp.int32)[::-1]
    at = jnp.maximum(back, 0)
    sold = states.sold[row, at]
    price = states.level[row, at] - walk.clearing.fall[sold]
    return lean._replace(
        debt_slopes=start.debt_slopes,
        income_slopes=start.income_slopes,
        window=jnp.where(back > 0, price, -jnp.inf),
        window_sold=jnp.where(back > 0, sold, 0),
    )


def states_at(states: WalkState, row: Int[Array, ""], step: Int[Array, ""]) -> WalkState:
    """The state that a path has shown before a step."""
    return WalkState(*(leaf[row, step] for leaf in states))
