"""Price bands: orders execute inside a band around a reference only, and a price that stays at the band pauses trading.

A band is a limit, a halt is a trip level: forced orders stop *at* the band and the rest of an order waits, while the
order that crosses the level of a halt executes whole. Bands are therefore given to the venue as `Gate.band_floor` and
`Gate.band_ceiling`. If news has moved the price outside, orders of the other side may still execute and bring it back.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr, ndtri
from jaxtyping import Array, Bool, Float
from scipy.special import ndtri as ndtri64

from .._fields import Real, choice, duration, real, to_duration
from .base import AbstractBreaker, Gate, open_gate
from .clock import Clock, advance, armed, at_or_above, at_or_below, auctioning, log_fall, start, whole_steps
from .reference import AbstractReference, FixedReference, WindowMean, pick


class BandState(NamedTuple):
    """Clock of the pause, steps left in the limit state (0: not in it) and state of the reference."""

    clock: Clock
    left: Float[Array, " assets"]
    reference: Any


class _Band(NamedTuple):
    floor: Float[Array, " assets"]
    ceiling: Float[Array, " assets"]
    limit_steps: Real  # at the band before the pause; 0: the pause comes at once

    def touched(self, log_price: Float[Array, " assets"]) -> Bool[Array, " assets"]:
        return at_or_below(log_price, self.floor) | at_or_above(log_price, self.ceiling)


def _gate(state: BandState, band: _Band, log_price: Float[Array, " assets"]) -> Gate:
    live = armed(state.clock)
    pauses = live & band.touched(log_price) & (band.limit_steps <= 0.0)
    return open_gate(log_price)._replace(
        open=(state.clock.closed <= 0.0) & ~pauses,
        band_floor=jnp.where(live, band.floor, -jnp.inf),
        band_ceiling=jnp.where(live, band.ceiling, jnp.inf),
        auction=auctioning(state.clock),
    )


def _update(
    state: BandState,
    band: _Band,
    reference: AbstractReference,
    log_price_before: Float[Array, " assets"],
    log_price_after: Float[Array, " assets"],
    pause: Real,
    cooldown: Real,
    dt: Float[Array, ""],
) -> BandState:
    live = armed(state.clock)
    outside = band.touched(log_price_before)
    by_news = live & outside & (band.limit_steps <= 0.0)
    at_limit = live & band.touched(log_price_after) & ~by_news
    # a limit state that news has begun has lasted for this step, one that orders have begun starts with the next
    running = (state.left > 0.0) | outside
    left = jnp.where(state.left > 0.0, state.left, band.limit_steps) - jnp.where(running, 1.0, 0.0)
    expired = at_limit & (left <= 0.0)
    clock = advance(state.clock, by_news, expired, whole_steps(pause, dt), whole_steps(cooldown, dt))
    traded = jnp.where(live, jnp.clip(log_price_after, band.floor, band.ceiling), log_price_after)
    kept = reference.update(state.reference, traded, dt)
    reopened = reference.reopen(kept, log_price_after)
    return BandState(clock, jnp.where(at_limit & ~expired, left, 0.0), pick(auctioning(state.clock), reopened, kept))


class PriceBand(AbstractBreaker):
    """Limit up/limit down: a band of `width` around a reference, a limit state, then a pause.

    Orders execute inside [reference (1 - width), reference (1 + width)] only. A price that has been at or outside the
    band for `limit_time` without a break pauses trading for `pause`; with `limit_time` zero it does so at once, with an
    infinite one never (a hard limit). A pause ends with an auction at one price, outside the band if need be, and the
    band applies again `cooldown` after it (one step at least; infinite: never again). Trades, and so the reference,
    stay inside the band while it applies. Times are rounded to steps: a limit state lasts one step at least. Source:
    Plan to Address Extraordinary Market Volatility (Reg NMS, 2012). Left out: the 1 % that a mean must move before the
    reference changes, and the difference between the limit state and the straddle state of quotes.
    """

    width: Real = real(0.05, unit="1", above=0.0, below=1.0)
    reference: AbstractReference = WindowMean()
    limit_time: Real = duration("15s", least=0.0)
    pause: Real = duration("5min")
    cooldown: Real = duration("0s", least=0.0)

    def _band(self, state: BandState, dt: Float[Array, ""]) -> _Band:
        falls, rises = self.reference.sides(state.reference, dt)
        return _Band(falls + log_fall(self.width), rises + jnp.log1p(self.width), whole_steps(self.limit_time, dt))

    def init(self, log_price: Float[Array, " assets"]) -> BandState:
        return BandState(start(log_price), jnp.zeros_like(log_price), self.reference.init(log_price))

    def gate(self, state: BandState, log_price: Float[Array, " assets"], dt: Float[Array, ""]) -> Gate:
        return _gate(state, self._band(state, dt), log_price)

    def update(
        self,
        state: BandState,
        log_price_before: Float[Array, " assets"],
        log_price_after: Float[Array, " assets"],
        volume: Float[Array, " assets"],
        dt: Float[Array, ""],
    ) -> BandState:
        del volume
        band = self._band(state, dt)
        return _update(state, band, self.reference, log_price_before, log_price_after, self.pause, self.cooldown, dt)

    def halted(self, state: BandState) -> Bool[Array, " assets"]:
        return state.clock.closed > 0.0

    def check_step(self, dt_years: float) -> Iterator[tuple[str, str]]:
        yield from ((f"reference.{name}", complaint) for name, complaint in self.reference.check_step(dt_years))


class StatisticalBand(AbstractBreaker):
    """A pause when the price would leave the range that a lognormal law gives it over `horizon`.

    Band S exp((mu - sigma^2/2) tau -+ z sigma sqrt(tau)) around the reference S, with z such that the law leaves it
    with probability `outside`. Orders stop at the band, and the price at the band begins a pause at once, which ends
    with an auction. `year_days` says how many days the year of `volatility` and `drift` has; times are in years of 365
    days. Source: price monitoring of the Vega protocol. Left out: several bands with auctions that extend each other.
    """

    volatility: Real = real(unit="1/sqrt(year)", above=0.0)
    drift: Real = real(0.0, unit="1/year")
    outside: Real = real(1e-4, unit="1", above=0.0, below=1.0)
    horizon: Real = duration("1h")
    reference: AbstractReference = FixedReference()
    pause: Real = duration("5min")
    cooldown: Real = duration("0s", least=0.0)
    year_days: str = choice("365", "365", "365.25")

    def _band(self, state: BandState, dt: Float[Array, ""]) -> _Band:
        falls, rises = self.reference.sides(state.reference, dt)
        time = self.horizon * (365.0 / float(self.year_days))
        middle = (self.drift - 0.5 * self.volatility**2) * time
        away = -ndtri(0.5 * self.outside) * self.volatility * jnp.sqrt(time)
        return _Band(falls + (middle - away), rises + (middle + away), jnp.zeros_like(dt))

    def init(self, log_price: Float[Array, " assets"]) -> BandState:
        return BandState(start(log_price), jnp.zeros_like(log_price), self.reference.init(log_price))

    def gate(self, state: BandState, log_price: Float[Array, " assets"], dt: Float[Array, ""]) -> Gate:
        return _gate(state, self._band(state, dt), log_price)

    def update(
        self,
        state: BandState,
        log_price_before: Float[Array, " assets"],
        log_price_after: Float[Array, " assets"],
        volume: Float[Array, " assets"],
        dt: Float[Array, ""],
    ) -> BandState:
        del volume
        band = self._band(state, dt)
        return _update(state, band, self.reference, log_price_before, log_price_after, self.pause, self.cooldown, dt)

    def halted(self, state: BandState) -> Bool[Array, " assets"]:
        return state.clock.closed > 0.0

    def check_step(self, dt_years: float) -> Iterator[tuple[str, str]]:
        yield from ((f"reference.{name}", complaint) for name, complaint in self.reference.check_step(dt_years))


def statistical_band(
    price: float,
    *,
    drift: float,
    volatility: float,
    probability: float,
    horizon: Any,
    tick: float = 1.0,
    year_days: float = 365.0,
) -> tuple[float, float]:
    """Bounds that a lognormal price keeps for `horizon` with a probability, rounded inwards to a tick."""
    time = float(to_duration(horizon)) * 365.0 / year_days
    middle = (drift - 0.5 * volatility**2) * time
    away = float(ndtri64(0.5 * (1.0 + probability))) * volatility * math.sqrt(time)
    low, high = price * math.exp(middle - away), price * math.exp(middle + away)
    return math.ceil(low / tick) * tick, math.floor(high / tick) * tick


def daily_limits(
    settlement: float, levels: tuple[float, ...] = (0.07, 0.13, 0.20), *, tick: float = 0.25
) -> tuple[Float[np.ndarray, " levels"], Float[np.ndarray, " levels"]]:
    """Daily price limits below and above a settlement price, settlement (1 -+ level) to the nearest tick."""
    away = np.round(settlement * np.asarray(levels, np.float64) / tick) * tick
    return settlement - away, settlement + away


def hit_probability(fall: Real, deviation: Real) -> Float[Array, "..."]:
    """Probability that a driftless log Brownian motion falls by `fall` in a session: 2 Phi(ln(1 - fall) / deviation).

    `deviation` is the standard deviation of the log return of the session. A price seen once a step needs the level
    moved by 0.5826 standard deviations of a step (Broadie, Glasserman and Kou 1997).
    """
    return 2.0 * ndtr(log_fall(fall) / deviation)
