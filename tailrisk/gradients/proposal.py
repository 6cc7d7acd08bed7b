"""Where in a pool of paths a threshold is likely to matter, and which: masses that steer branches, never their mean.

A step from level u with n accounts sold meets the margin threshold a_k with density p(a_k - u). Passing it sells the quantity
s_k at once, which the fall of the price by g_k follows. At stake are the deficit that those sold would have if they were sold
later (hindsight), and the fall for those, C_k - C_n of them, that are sold in this step in deficit already, after a jump:

    p(a_k - u) (s_k deficit + g_k (C_k - C_n)+)

Sums over k of p s, p g and p g C are tabulated for levels u on a grid: an entry is the mass of a step, and a search along its
row draws a threshold, in O(log N) and without a list of all.

A breaker is met at the levels c_r = floor + G_r, r = n, ..., r*, the last of which parts a trip from none, while below the
others the breaker only stops one sale earlier: their stakes are 1 and the quantity of that sale.
"""

from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .._streams import Noise
from ..positions.search import count_above
from .clearing import THRESHOLD
from .companion import AbstractCompanion
from .walk import LadderWalk, WalkState

_POINTS = 512
_BEYOND = 8.0  # deviations around the thresholds that the tables cover
_SHADOWED = 0.2  # of its stake: a threshold that matters only after a breaker has stopped sales half-way
_LEAST = 0.1  # deviations: least deficit that is taken to be at stake
_PARTING = 0.5  # least chance of the last trip point


class Draw(NamedTuple):
    """A threshold: its number, its level, and density of the step there over the chance that it is drawn."""

    place: Int[Array, ""]
    level: Float[Array, ""]
    factor: Float[Array, ""]


class Stakes(NamedTuple):
    """Of accounts in order: quantity and fall when the level passes the threshold, and how many are then in deficit."""

    quantity: np.ndarray
    fall: np.ndarray
    short: np.ndarray


def clears_to(thresholds: np.ndarray) -> np.ndarray:
    """How many accounts are sold when the level has passed each threshold: up to the next one that is not higher."""
    after = np.full(thresholds.size, thresholds.size)
    waiting: list[int] = []
    for place, threshold in enumerate(thresholds):
        while waiting and threshold <= thresholds[waiting[-1]]:
            after[waiting.pop()] = place
        waiting.append(place)
    return after


def fall_at_once(thresholds: np.ndarray, quantity: np.ndarray) -> np.ndarray:
    """Quantity that is sold when the level passes each threshold."""
    sold = np.append(0.0, np.cumsum(quantity))
    return sold[clears_to(thresholds)] - sold[:-1]


def stakes(walk: LadderWalk) -> Stakes:
    """Stakes of the accounts of a walk."""
    thresholds, debt = (np.asarray(x, np.float64) for x in (walk.clearing.thresholds[:-1], walk.clearing.log_debt))
    fall, after = np.asarray(walk.clearing.fall, np.float64), clears_to(thresholds)
    table = np.asarray(walk.clearing.sums.table, np.float64)[0]
    short = np.searchsorted(-debt, -(thresholds - fall[after]))
    # Sales without a breaker end at a threshold that is lower than all before it, so that no other one matters.
    before = np.minimum.accumulate(np.append(np.inf, thresholds[:-1]))
    share = np.where(thresholds < before, 1.0, _SHADOWED if walk.window else 0.0)
    quantity = fall_at_once(thresholds, np.diff(table[:, 0] + table[:, 1]))
    return Stakes(share * quantity, share * (fall[after] - fall[:-1]), np.maximum.accumulate(np.minimum(short, after)))


class Proposal(eqx.Module):
    """Tables over levels and accounts, descending along a row: sums from an account on."""

    quantity: Float[Array, " accounts"]
    fall: Float[Array, " accounts"]
    short: Float[Array, " accounts"]  # quantity in deficit when the level passes the threshold
    first_short: Int[Array, " places_plus_1"]  # the first account whose sale finds more in deficit than are sold
    by_quantity: Float[Array, "points places_plus_1"]
    by_fall: Float[Array, "points places_plus_1"]
    by_short: Float[Array, "points places_plus_1"]
    fall_at: Float[Array, " points"]  # of sales that end at a level
    lowest: Float[Array, ""]
    spacing: Float[Array, ""]
    sold: Float[Array, " places_plus_1"]

    @classmethod
    def build(cls, walk: LadderWalk) -> "Proposal":
        """Tables of a walk, made on the host in float64."""
        table = np.asarray(walk.clearing.sums.table, np.float64)[0]
        sold, at = table[:, 0] + table[:, 1], stakes(walk)
        thresholds = np.asarray(walk.clearing.thresholds, np.float64)[:-1]
        reach = _BEYOND * float(walk.law.deviation)
        levels = np.linspace(thresholds.min() - reach, thresholds.max() + reach, _POINTS).astype(walk.dtype)
        moves = jnp.asarray(thresholds.astype(walk.dtype)[None, :] - levels[:, None])
        density = np.asarray(walk.density(moves), np.float64)

        def sums(of: np.ndarray) -> np.ndarray:
            return np.append(np.cumsum((density * of)[:, ::-1], axis=1)[:, ::-1], np.zeros((_POINTS, 1)), axis=1)

        lows = np.minimum.accumulate(thresholds)
        numbers = {
            "quantity": at.quantity,
            "fall": at.fall,
            "short": sold[at.short],
            "by_quantity": sums(at.quantity),
            "by_fall": sums(at.fall),
            "by_short": sums(at.fall * sold[at.short]),
            "fall_at": np.asarray(walk.clearing.fall)[np.searchsorted(-lows, -levels.astype(np.float64))],
            "lowest": levels[0],
            "spacing": levels[1] - levels[0],
            "sold": sold,
        }
        first = np.searchsorted(at.short, np.arange(thresholds.size + 1), side="right")
        return cls(
            first_short=jnp.asarray(np.maximum(first, np.arange(first.size)).astype(np.int32)),
            **{name: jnp.asarray(np.asarray(x).astype(walk.dtype)) for name, x in numbers.items()},
        )

    def place(self, level: Float[Array, "*levels"]) -> Int[Array, "*levels"]:
        """The point of the grid nearest to a level."""
        points = self.fall_at.shape[0]
        return jnp.clip(jnp.round((level - self.lowest) / self.spacing), 0.0, points - 1.0).astype(jnp.int32)

    def _deep(self, start: Int[Array, ""], sold: Int[Array, ""]) -> Float[Array, ""]:
        """Sum of p g (C - C_n)+ from the entry `start` of the flat tables on."""
        short = self.by_short.reshape(-1)[start] - self.sold[sold] * self.by_fall.reshape(-1)[start]
        return jnp.maximum(short, 0.0)

    def masses(self, walk: LadderWalk, state: WalkState) -> Float[Array, " masses"]:
        """Of the step after a state: of margin thresholds by quantity, by fall and, if there is a breaker, of trip points."""
        row = self.place(state.level) * self.sold.shape[0]
        by_quantity = self.by_quantity.reshape(-1)[row + state.sold]
        masses = [by_quantity, self._deep(row + self.first_short[state.sold], state.sold)]
        if walk.window:
            parting, others, _ = self._trips(walk, state)
            masses.append(parting + others)
        return jnp.where(state.halt == 0, 1.0, 0.0) * jnp.stack(masses)

    def draw_margin(
        self, walk: LadderWalk, state: WalkState, deficit: Float[Array, ""], uniform: Float[Array, ""]
    ) -> Draw:
        """A margin threshold not yet passed, by its density at the nearest level of the grid and its stake."""
        places, grid = self.sold.shape[0], self.place(state.level)
        row, first = grid * places, self.first_short[state.sold]
        by_quantity = deficit * self.by_quantity.reshape(-1)[row + state.sold]
        total = by_quantity + self._deep(row + first, state.sold)
        wanted, by_fall = uniform * total, uniform * total >= by_quantity
        # The last place with more than what is wanted from it on.
        place, rest = jnp.where(by_fall, first, state.sold), jnp.where(by_fall, wanted - by_quantity, wanted)
        for bit in reversed(range(places.bit_length())):
            ahead = jnp.minimum(place + 2**bit, places - 1)
            beyond = jnp.where(
                by_fall, self._deep(row + ahead, state.sold), deficit * self.by_quantity.reshape(-1)[row + ahead]
            )
            place = jnp.where(beyond > rest, ahead, place)
        place = jnp.minimum(place, walk.accounts - 1)
        level = walk.clearing.thresholds[place]
        deep = jnp.where(
            place >= first, self.fall[place] * jnp.maximum(self.short[place] - self.sold[state.sold], 0.0), 0.0
        )
        near = walk.density(level - (self.lowest + grid.astype(walk.dtype) * self.spacing))
        chance = near * (deficit * self.quantity[place] + deep)
        there = walk.density(level - state.level)
        return Draw(place, level, jnp.where(chance > 0.0, total * there / jnp.where(chance > 0.0, chance, 1.0), 0.0))

    def _trips(self, walk: LadderWalk, state: WalkState) -> tuple[Float[Array, ""], Float[Array, ""], Int[Array, ""]]:
        """Masses of the last trip point and of the others together, and the number of the last."""
        floor, fall = jnp.max(state.window) - walk.band, walk.clearing.fall
        last = walk.clearing.last_before_stop(state.sold, floor)
        parting = walk.density(floor + fall[last] - state.level)
        first = walk.density(floor + fall[state.sold] - state.level)
        return parting, (self.sold[last] - self.sold[state.sold]) * jnp.maximum(parting, first), last

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


def at_stake(walk: LadderWalk, deficit: Float[Array, "*steps"]) -> Float[Array, "*steps"]:
    """Deficit in log price that is taken to be at stake, from one in deviations of a step."""
    return jnp.maximum(deficit, _LEAST) * walk.law.deviation


class Shown(NamedTuple):
    """What branches need of a step: the state before it, its masses, its move and its likelihood ratio.

    The state is without slopes, which no branch needs, and without the window, which is read from the steps before.
    """

    state: WalkState
    masses: Float[Array, " masses"]
    move: Float[Array, ""]
    ratio: Float[Array, ""]


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
        return self.walk.step(state, noise)[0], Shown(lean, masses, increment.move, increment.ratio)

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
