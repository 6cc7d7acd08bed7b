"""Oracles: the price that the margin engine sees instead of the market price.

An oracle reads log prices relative to the initial price and is elementwise over assets. `read` is pure: a step may read
several times from the same state, as its price falls round by round, and keeps the state of the last read only.

The delay of an oracle is the delay of the *price*. The delay of orders belongs to the positions; do not count one
twice.
"""

import abc
from collections.abc import Iterable
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._averages import exponential_average, filled, forget, lookup, misfit, remember, window_average
from ._fields import Real, choice, count, duration, real
from ._hard import crosses, decisive


class AbstractOracle(eqx.Module):
    """Maps the market price of a step to the mark: `read(state, log_price, dt) -> (log_mark, state)`."""

    @abc.abstractmethod
    def init(self, log_price: Float[Array, " assets"]) -> Any:
        """The state of a path whose price has been `log_price` for ever."""

    @abc.abstractmethod
    def read(self, state: Any, log_price: Float[Array, " assets"], dt: Float[Array, ""]) -> tuple[Any, Any]:
        """The log mark of this step and the state to keep if this read is the last one of the step."""

    @abc.abstractmethod
    def check_step(self, dt_years: float) -> Iterable[tuple[str, str]]:
        """Yields (field, complaint) for what the structural sizes cannot hold at a step length."""


class Spot(AbstractOracle):
    """The market price itself, at once."""

    def init(self, log_price: Float[Array, " assets"]) -> tuple[()]:
        del log_price
        return ()

    def read(
        self, state: tuple[()], log_price: Float[Array, " assets"], dt: Float[Array, ""]
    ) -> tuple[Float[Array, " assets"], tuple[()]]:
        del dt
        return log_price, state

    def check_step(self, dt_years: float) -> Iterable[tuple[str, str]]:
        del dt_years
        return ()


class Lagged(AbstractOracle):
    """The market price of `delay` ago.

    Between two steps the log price is linear: for a delay of (k + a) dt the mark is (1 - a) x[k] + a x[k + 1] with x[j]
    the log price j steps ago, so the mark is continuous in the delay. `delay` is () or (assets,).
    """

    delay: Real = duration(least=0.0)
    slots: int = count(8, least=1)  # steps of memory

    def init(self, log_price: Float[Array, " assets"]) -> Float[Array, "slots assets"]:
        return filled(log_price, self.slots)

    def read(
        self, state: Float[Array, "slots assets"], log_price: Float[Array, " assets"], dt: Float[Array, ""]
    ) -> tuple[Float[Array, " assets"], Float[Array, "slots assets"]]:
        seen = jnp.concatenate([log_price[None, :], state])
        return lookup(seen, self.delay / dt), seen[:-1]

    def check_step(self, dt_years: float) -> Iterable[tuple[str, str]]:
        complaint = misfit(self.delay, self.slots, dt_years)
        return () if complaint is None else (("delay", complaint),)


class WindowAverage(AbstractOracle):
    """The time-weighted average price (TWAP) of the last `window`, this step included.

    arithmetic: M = mean(p); geometric: ln M = mean(ln p). If m of n samples are moved by a factor e^d, the arithmetic
    average moves by (m/n)(e^d - 1) and the log of the geometric one by (m/n) d. A window that is no whole number of
    steps gives its oldest sample a fraction of the weight; a window shorter than a step is the spot price. `window` is
    () or (assets,).
    """

    window: Real = duration("30min", least=0.0)
    slots: int = count(30, least=1)  # steps of memory, this one included
    mean: str = choice("arithmetic", "arithmetic", "geometric")

    def init(self, log_price: Float[Array, " assets"]) -> Float[Array, "past assets"]:
        return filled(log_price, self.slots - 1)

    def read(
        self, state: Float[Array, "past assets"], log_price: Float[Array, " assets"], dt: Float[Array, ""]
    ) -> tuple[Float[Array, " assets"], Float[Array, "past assets"]]:
        seen = jnp.concatenate([log_price[None, :], state])
        return window_average(seen, self.window / dt, self.mean), remember(state, log_price)

    def check_step(self, dt_years: float) -> Iterable[tuple[str, str]]:
        complaint = misfit(self.window, self.slots, dt_years)
        return () if complaint is None else (("window", complaint),)


class ExponentialAverage(AbstractOracle):
    """The exponential moving average of the price with a half-life.

    M <- M + w (p - M) with w = 1 - 2^(-dt/half_life); "geometric" averages logs instead. A price that is held for a
    time t has the weight 1 - 2^(-t/half_life). `half_life` is () or (assets,).
    """

    half_life: Real = duration("30min")
    mean: str = choice("arithmetic", "arithmetic", "geometric")

    def init(self, log_price: Float[Array, " assets"]) -> Float[Array, " assets"]:
        return log_price

    def read(
        self, state: Float[Array, " assets"], log_price: Float[Array, " assets"], dt: Float[Array, ""]
    ) -> tuple[Float[Array, " assets"], Float[Array, " assets"]]:
        mark = exponential_average(state, log_price, forget(self.half_life, dt), self.mean)
        return mark, mark

    def check_step(self, dt_years: float) -> Iterable[tuple[str, str]]:
        del dt_years
        return ()


class Posted(NamedTuple):
    """The answer a deviation feed has posted last and its age in steps."""

    log_price: Float[Array, " assets"]
    age: Float[Array, " assets"]


class Deviation(AbstractOracle):
    """A feed that posts the market price when it has moved by more than `threshold` or when `heartbeat` has passed.

    Posts if |p/O - 1| > threshold or age >= heartbeat (rounded to steps, at least one), otherwise repeats the last
    answer O. Left out: the delay between the decision to post and its inclusion in a block; the sources behind the
    feed.
    """

    threshold: Real = real(0.005, unit="1", least=0.0)
    heartbeat: Real = duration("1h", least=0.0)

    def init(self, log_price: Float[Array, " assets"]) -> Posted:
        return Posted(log_price, jnp.zeros_like(log_price))

    def read(
        self, state: Posted, log_price: Float[Array, " assets"], dt: Float[Array, ""]
    ) -> tuple[Float[Array, " assets"], Posted]:
        age = state.age + 1.0
        change = jnp.abs(jnp.expm1(log_price - state.log_price))
        moved = crosses(self.threshold, change, "the deviation at which an oracle posts")
        beat = jnp.round(decisive(self.heartbeat / dt, "the heartbeat of an oracle in whole steps"))
        post = moved | (age >= jnp.maximum(beat, 1.0))
        mark = jnp.where(post, log_price, state.log_price)
        return mark, Posted(mark, jnp.where(post, 0.0, age))

    def check_step(self, dt_years: float) -> Iterable[tuple[str, str]]:
        del dt_years
        return ()


def median_of_sources(log_prices: Float[Array, "sources assets"]) -> Float[Array, " assets"]:
    """The median price of several sources; fewer than (sources + 1)/2 of them cannot move it past the honest ones."""
    return jnp.median(log_prices, axis=0)
