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

from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ..positions.search import count_above
from .clearing import THRESHOLD
from .walk import LadderWalk, WalkState

_POINTS, _MOVES = 512, 2048
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


class Grid(eqx.Module):
    """Equidistant numbers."""

    lowest: Float[Array, ""]
    spacing: Float[Array, ""]
    points: int = eqx.field(static=True)

    @classmethod
    def build(cls, lowest: float, highest: float, points: int, dtype: Any) -> "Grid":
        """From `lowest` to `highest`."""
        spacing = (highest - lowest) / (points - 1.0)
        return cls(jnp.asarray(np.asarray(lowest, dtype)), jnp.asarray(np.asarray(spacing, dtype)), points)

    @property
    def numbers(self) -> Float[Array, " points"]:
        """All of them."""
        return self.number(jnp.arange(self.points, dtype=jnp.int32))

    def number(self, place: Int[Array, "*places"]) -> Float[Array, "*places"]:
        """That at a place."""
        return self.lowest + place.astype(self.lowest.dtype) * self.spacing

    def place(self, value: Float[Array, "*values"]) -> Int[Array, "*values"]:
        """That of the nearest number."""
        return jnp.clip(jnp.round((value - self.lowest) / self.spacing), 0.0, self.points - 1.0).astype(jnp.int32)


class Proposal(eqx.Module):
    """Tables over levels, accounts, moves of a step and prices; sums from an account on descend along a row."""

    quantity: Float[Array, " accounts"]
    fall: Float[Array, " accounts"]
    short: Float[Array, " accounts"]  # quantity in deficit when the level passes the threshold
    first_short: Int[Array, " places_plus_1"]  # the first account whose sale finds more in deficit than are sold
    sold: Float[Array, " places_plus_1"]
    levels: Grid
    by_quantity: Float[Array, "levels places_plus_1"]
    by_fall: Float[Array, "levels places_plus_1"]
    by_short: Float[Array, "levels places_plus_1"]
    at_start: Float[Array, "levels places_plus_1 2"]  # by quantity, and by fall for those in deficit beyond the sold
    fall_at: Float[Array, " levels"]  # of sales that end at a level
    moves: Grid
    density: Float[Array, " moves"]
    floors: Grid
    last_at: Int[Array, " floors"]  # count at the last trip point where the breaker's floor is a price

    @classmethod
    def build(cls, walk: LadderWalk) -> "Proposal":
        """Tables of a walk, made on the host in float64."""
        table = np.asarray(walk.clearing.sums.table, np.float64)[0]
        sold, at = table[:, 0] + table[:, 1], stakes(walk)
        thresholds = np.asarray(walk.clearing.thresholds, np.float64)[:-1]
        law, fall, dtype = walk.law, np.asarray(walk.clearing.fall, np.float64), walk.dtype
        reach = _BEYOND * float(law.deviation)
        levels = Grid.build(thresholds.min() - reach, thresholds.max() + reach, _POINTS, dtype)
        ahead = thresholds.astype(dtype)[None, :] - np.asarray(levels.numbers)[:, None]
        density = np.asarray(walk.density(jnp.asarray(ahead)), np.float64)

        def sums(of: np.ndarray) -> np.ndarray:
            return np.append(np.cumsum((density * of)[:, ::-1], axis=1)[:, ::-1], np.zeros((_POINTS, 1)), axis=1)

        first = np.searchsorted(at.short, np.arange(sold.size), side="right")
        first = np.maximum(first, np.arange(sold.size))
        by_quantity, by_fall, by_short = (sums(of) for of in (at.quantity, at.fall, at.fall * sold[at.short]))
        deep = np.maximum(by_short[:, first] - sold * by_fall[:, first], 0.0)
        lows = np.minimum.accumulate(thresholds)
        far = abs(float(law.drift)) + abs(float(law.jump_mean))
        far += _BEYOND * float(np.hypot(law.deviation, law.jump_deviation))
        moves = Grid.build(-far, far, _MOVES, dtype)
        stops = (
            lows - fall[1:]
        )  # descending: with a floor below the r-th of them, r + 1 accounts can be sold before a stop
        floors = Grid.build(stops[-1] - reach, stops[0] + reach, _POINTS, dtype)

        def numbers(of: Any) -> Array:
            return jnp.asarray(np.asarray(of, np.float64).astype(dtype))

        def counts(of: np.ndarray) -> Array:
            return jnp.asarray(of.astype(np.int32))

        return cls(
            quantity=numbers(at.quantity),
            fall=numbers(at.fall),
            short=numbers(sold[at.short]),
            first_short=counts(first),
            sold=numbers(sold),
            levels=levels,
            by_quantity=numbers(by_quantity),
            by_fall=numbers(by_fall),
            by_short=numbers(by_short),
            at_start=numbers(np.stack([by_quantity, deep], axis=-1)),
            fall_at=numbers(fall[np.searchsorted(-lows, -np.asarray(levels.numbers, np.float64))]),
            moves=moves,
            density=walk.density(moves.numbers),
            floors=floors,
            last_at=counts(np.searchsorted(-stops, -np.asarray(floors.numbers, np.float64))),
        )

    def _deep(self, start: Int[Array, ""], sold: Int[Array, ""]) -> Float[Array, ""]:
        """Sum of p g (C - C_n)+ from the entry `start` of the flat tables on."""
        short = self.by_short.reshape(-1)[start] - self.sold[sold] * self.by_fall.reshape(-1)[start]
        return jnp.maximum(short, 0.0)

    def margin_masses(
        self, level: Float[Array, "*steps"], sold: Int[Array, "*steps"]
    ) -> tuple[Float[Array, "*steps"], Float[Array, "*steps"]]:
        """Of steps from a level and a count: sums over thresholds by quantity, to be multiplied by a deficit, and by fall."""
        both = self.at_start.reshape(-1, 2)[self.levels.place(level) * self.sold.shape[0] + sold]
        return both[..., 0], both[..., 1]

    def trip_mass(
        self, walk: LadderWalk, level: Float[Array, "*steps"], sold: Int[Array, "*steps"], floor: Float[Array, "*steps"]
    ) -> Float[Array, "*steps"]:
        """Of the trip points of steps, where the breaker stops sales below a floor."""
        fall = walk.clearing.fall
        last = jnp.maximum(self.last_at[self.floors.place(floor)], sold)
        parting, first = (self.density[self.moves.place(floor + fall[count] - level)] for count in (last, sold))
        mass = parting + (self.sold[last] - self.sold[sold]) * jnp.maximum(parting, first)
        return jnp.where(jnp.isfinite(floor), mass, 0.0)

    def draw_margin(
        self, walk: LadderWalk, state: WalkState, deficit: Float[Array, ""], uniform: Float[Array, ""]
    ) -> Draw:
        """A margin threshold not yet passed, by its density at the nearest level of the grid and its stake."""
        places, grid = self.sold.shape[0], self.levels.place(state.level)
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
        near = walk.density(level - self.levels.number(grid))
        chance = near * (deficit * self.quantity[place] + deep)
        there = walk.density(level - state.level)
        return Draw(place, level, jnp.where(chance > 0.0, total * there / jnp.where(chance > 0.0, chance, 1.0), 0.0))

    def draw_trip(self, walk: LadderWalk, state: WalkState, uniform: Float[Array, ""]) -> Draw:
        """A trip point: the last one, or one of the others by the quantity of the sale it stops."""
        tiny = jnp.finfo(walk.dtype).tiny
        floor = jnp.max(state.window) - walk.band
        first, last = state.sold, walk.clearing.last_before_stop(state.sold, floor)
        level = floor + walk.clearing.fall[jnp.stack([first, last])]
        # While the window is empty there is no trip point, and the level is minus infinity.
        ends = walk.density(jnp.where(jnp.isfinite(level), level - state.level, jnp.inf))
        start, stop = self.sold[first], self.sold[last]
        others = (stop - start) * jnp.max(ends)
        share = jnp.where(last > first, jnp.maximum(ends[1] / jnp.maximum(ends[1] + others, tiny), _PARTING), 1.0)
        rest = jnp.clip((uniform - share) / jnp.maximum(1.0 - share, tiny), 0.0, 1.0)
        above = count_above(-self.sold[None, :], -(start + rest * (stop - start))[None], THRESHOLD)[0]
        other = jnp.clip(above - 1, first, jnp.maximum(last - 1, first))
        size = self.sold[other + 1] - self.sold[other]
        is_last = uniform < share
        chance = jnp.where(is_last, share, (1.0 - share) * size / jnp.where(last > first, stop - start, 1.0))
        place = jnp.where(is_last, last, other)
        level = floor + walk.clearing.fall[place]
        there = walk.density(jnp.where(jnp.isfinite(level), level - state.level, jnp.inf))
        return Draw(place, level, there / chance)


def at_stake(walk: LadderWalk, deficit: Float[Array, "*steps"]) -> Float[Array, "*steps"]:
    """Deficit in log price that is taken to be at stake, from one in deviations of a step."""
    return jnp.maximum(deficit, _LEAST) * walk.law.deviation
