"""Halts: trading stops for a while when the price has moved too far from a reference.

A halt may lower or raise bad debt; no sign should be assumed. Without impact every halt is a delay, and expected bad
debt rises with its length (optional sampling: the deficit of an open position is a submartingale). With impact a halt
helps if it interrupts a cascade and the price recovers meanwhile: with linear impact of 30 % for the whole book that
decays in half an hour, an hour's halt at -15 % cuts bad debt by two fifths. Where impact is permanent the same halt
more than doubles it, and a tight one (two hours at -2 %) raises it either way. `tests/test_signs.py` has the scenarios.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from .._fields import InputError, Real, choice, duration, real
from .base import AbstractBreaker, Gate, open_gate
from .clock import Clock, advance, armed, at_or_above, at_or_below, auctioning, log_fall, start, whole_steps
from .reference import AbstractReference, FixedReference, pick


class HaltState(NamedTuple):
    """Clock of the halt and state of the reference."""

    clock: Clock
    reference: Any


class Halt(AbstractBreaker):
    """Nothing executes for `length` once the price is at or below reference (1 - threshold).

    Direction "both" also trips at or above reference (1 + threshold). The order that crosses the level is the last one
    to execute; news that crosses it halts the same step. The first open step is an auction at one price, and the
    breaker is armed again `cooldown` after the reopening (one step at least). With a fixed reference and no cooldown, a
    price that stays below the level alternates between halts and auctions. `threshold`, `length`, `cooldown` are () or
    (assets,).
    """

    threshold: Real = real(0.10, unit="1", above=0.0, infinite=True)
    length: Real = duration("5min")
    reference: AbstractReference = FixedReference()
    cooldown: Real = duration("0s", least=0.0)
    direction: str = choice("down", "down", "both")

    def _levels(
        self, state: HaltState, dt: Float[Array, ""]
    ) -> tuple[Float[Array, " assets"], Float[Array, " assets"]]:
        falls, rises = self.reference.sides(state.reference, dt)
        ceiling = rises + jnp.log1p(self.threshold) if self.direction == "both" else jnp.full_like(rises, jnp.inf)
        return falls + log_fall(self.threshold), ceiling

    def init(self, log_price: Float[Array, " assets"]) -> HaltState:
        return HaltState(start(log_price), self.reference.init(log_price))

    def gate(self, state: HaltState, log_price: Float[Array, " assets"], dt: Float[Array, ""]) -> Gate:
        floor, ceiling = self._levels(state, dt)
        live = armed(state.clock)
        crossed = at_or_below(log_price, floor) | at_or_above(log_price, ceiling)
        return open_gate(log_price)._replace(
            open=(state.clock.closed <= 0.0) & ~(live & crossed),
            floor=jnp.where(live, floor, -jnp.inf),
            ceiling=jnp.where(live, ceiling, jnp.inf),
            auction=auctioning(state.clock),
        )

    def update(
        self,
        state: HaltState,
        log_price_before: Float[Array, " assets"],
        log_price_after: Float[Array, " assets"],
        volume: Float[Array, " assets"],
        dt: Float[Array, ""],
    ) -> HaltState:
        del volume
        floor, ceiling = self._levels(state, dt)
        live = armed(state.clock)
        by_news = live & (at_or_below(log_price_before, floor) | at_or_above(log_price_before, ceiling))
        crossed = at_or_below(log_price_after, floor) | at_or_above(log_price_after, ceiling)
        clock = advance(
            state.clock,
            by_news,
            live & ~by_news & crossed,
            whole_steps(self.length, dt),
            whole_steps(self.cooldown, dt),
        )
        reference = self.reference.update(state.reference, log_price_after, dt)
        reopened = self.reference.reopen(reference, log_price_after)
        return HaltState(clock, pick(auctioning(state.clock), reopened, reference))

    def halted(self, state: HaltState) -> Bool[Array, " assets"]:
        return state.clock.closed > 0.0

    def check_step(self, dt_years: float) -> Iterator[tuple[str, str]]:
        yield from ((f"reference.{name}", complaint) for name, complaint in self.reference.check_step(dt_years))


class MarketWideState(NamedTuple):
    """Clock of the halt, levels reached in this session, reference and steps left in the session."""

    clock: Clock
    reached: Int[Array, " assets"]
    reference: Float[Array, " assets"]
    left: Float[Array, " assets"]


class MarketWide(AbstractBreaker):
    """Halts at levels of decline from the price at the start of the session, each level once a session.

    Level j trips at or below reference (1 - levels[j]) and halts for lengths[j]; a fall through several levels at once
    trips the deepest and uses up the others. An infinite length closes the rest of the session. The next session starts
    armed, with its first price as reference, and ends any halt. Each asset has its own reference and clock: the index
    of a real rule is the asset itself. Left out: the hour after which the first levels no longer halt.
    """

    levels: Real = real((0.07, 0.13, 0.20), unit="1", above=0.0, infinite=True)  # (levels,), increasing
    lengths: Real = duration(("15min", "15min", "inf d"))  # (levels,)
    session: Real = duration("1d")

    def __check_init__(self):
        if self.levels.ndim != 1 or self.levels.shape != self.lengths.shape or self.levels.size == 0:
            raise InputError(
                f"levels has shape {self.levels.shape} and lengths {self.lengths.shape}; give one length for each level"
            )

    def check(self) -> Iterator[tuple[str, str]]:
        levels = np.asarray(self.levels)
        if (np.diff(levels) <= 0.0).any():
            yield "levels", f"{levels} are not increasing; sort levels and lengths together"

    def _depth(self, state: MarketWideState, log_price: Float[Array, " assets"]) -> Int[Array, " assets"]:
        reached = at_or_below((log_price - state.reference)[:, None], log_fall(self.levels)[None, :])
        return jnp.sum(reached, axis=1, dtype=state.reached.dtype)

    def init(self, log_price: Float[Array, " assets"]) -> MarketWideState:
        nothing = jnp.zeros(log_price.shape, jnp.int32)
        return MarketWideState(start(log_price), nothing, log_price, jnp.zeros_like(log_price))

    def gate(self, state: MarketWideState, log_price: Float[Array, " assets"], dt: Float[Array, ""]) -> Gate:
        del dt
        live = armed(state.clock) & (state.reached < self.levels.size)
        following = jnp.minimum(state.reached, self.levels.size - 1)
        floor = state.reference + log_fall(self.levels)[following]
        return open_gate(log_price)._replace(
            open=(state.clock.closed <= 0.0) & ~(live & (self._depth(state, log_price) > state.reached)),
            floor=jnp.where(live, floor, -jnp.inf),
            auction=auctioning(state.clock),
        )

    def update(
        self,
        state: MarketWideState,
        log_price_before: Float[Array, " assets"],
        log_price_after: Float[Array, " assets"],
        volume: Float[Array, " assets"],
        dt: Float[Array, ""],
    ) -> MarketWideState:
        del volume
        live = armed(state.clock)
        by_news = live & (self._depth(state, log_price_before) > state.reached)
        depth = jnp.where(by_news, self._depth(state, log_price_before), self._depth(state, log_price_after))
        by_orders = live & ~by_news & (depth > state.reached)
        length = whole_steps(self.lengths, dt)[jnp.maximum(depth - 1, 0)]
        clock = advance(state.clock, by_news, by_orders, length, jnp.zeros_like(length))
        reached = jnp.where(by_news | by_orders, depth, state.reached)

        left = jnp.where(state.left <= 0.0, whole_steps(self.session, dt), state.left) - 1.0
        over = left <= 0.0
        was_closed = clock.closed > 0.0
        clock = Clock(
            jnp.where(over, 0.0, clock.closed),
            jnp.where(over & was_closed, 1.0, clock.rest),
            clock.auction | (over & was_closed),
        )
        return MarketWideState(
            clock, jnp.where(over, 0, reached), jnp.where(over, log_price_after, state.reference), left
        )

    def halted(self, state: MarketWideState) -> Bool[Array, " assets"]:
        return state.clock.closed > 0.0

    def check_step(self, dt_years: float) -> Iterable[tuple[str, str]]:
        del dt_years
        return ()
