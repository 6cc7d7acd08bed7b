"""A cap on forced volume per unit of time, and several breakers at once."""

from collections.abc import Iterable, Iterator
from functools import reduce
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .._fields import InputError, Real, duration, real
from .base import AbstractBreaker, Gate, open_gate


class Throttle(AbstractBreaker):
    """At most `volume` units of forced orders per `window`; what is above waits.

    Cap of a step = volume dt / window, so no window of that length or longer executes more than its share, and unused
    room is not saved up. Infinite volume is no breaker, zero volume no liquidation. `volume` is () or (assets,).
    """

    volume: Real = real(unit="units", least=0.0, infinite=True)
    window: Real = duration("1h")

    def init(self, log_price: Float[Array, " assets"]) -> Bool[Array, " assets"]:
        return jnp.zeros(log_price.shape, bool)

    def gate(self, state: Any, log_price: Float[Array, " assets"], dt: Float[Array, ""]) -> Gate:
        del state
        return open_gate(log_price)._replace(cap=jnp.broadcast_to(self.volume * (dt / self.window), log_price.shape))

    def update(self, state: Any, log_price_before: Any, log_price_after: Any, volume: Any, dt: Any) -> Any:
        del log_price_before, log_price_after, volume, dt
        return state

    def halted(self, state: Bool[Array, " assets"]) -> Bool[Array, " assets"]:
        return state

    def check_step(self, dt_years: float) -> Iterable[tuple[str, str]]:
        del dt_years
        return ()


class Combined(NamedTuple):
    """The states of the breakers, and whether a reopening auction waits because another breaker is closed."""

    each: tuple[Any, ...]
    pending: Bool[Array, " assets"]


class AllOf(AbstractBreaker):
    """Several breakers at once: open if all are, with the least cap, the highest floors and the lowest ceilings.

    A step is an auction if it is one for any breaker; an auction that falls into the halt of another breaker is held
    when that halt ends. Clocks run independently.
    """

    breakers: tuple[AbstractBreaker, ...] = eqx.field(converter=tuple)

    def __check_init__(self):
        if not self.breakers or not all(isinstance(item, AbstractBreaker) for item in self.breakers):
            raise InputError(f"breakers is {self.breakers!r}; give one breaker at least, or use NoBreaker()")

    def init(self, log_price: Float[Array, " assets"]) -> Combined:
        return Combined(tuple(item.init(log_price) for item in self.breakers), jnp.zeros(log_price.shape, bool))

    def gate(self, state: Combined, log_price: Float[Array, " assets"], dt: Float[Array, ""]) -> Gate:
        gates = [item.gate(one, log_price, dt) for item, one in zip(self.breakers, state.each, strict=True)]
        both = reduce(_meet, gates)
        return both._replace(auction=both.open & (both.auction | state.pending))

    def update(
        self,
        state: Combined,
        log_price_before: Float[Array, " assets"],
        log_price_after: Float[Array, " assets"],
        volume: Float[Array, " assets"],
        dt: Float[Array, ""],
    ) -> Combined:
        both = reduce(
            _meet, [item.gate(one, log_price_before, dt) for item, one in zip(self.breakers, state.each, strict=True)]
        )
        each = tuple(
            item.update(one, log_price_before, log_price_after, volume, dt)
            for item, one in zip(self.breakers, state.each, strict=True)
        )
        return Combined(each, ~both.open & (both.auction | state.pending))

    def halted(self, state: Combined) -> Bool[Array, " assets"]:
        closed = [item.halted(one) for item, one in zip(self.breakers, state.each, strict=True)]
        return reduce(jnp.logical_or, closed)

    def check_step(self, dt_years: float) -> Iterator[tuple[str, str]]:
        for i, item in enumerate(self.breakers):
            yield from ((f"breakers[{i}].{name}", complaint) for name, complaint in item.check_step(dt_years))


def _meet(a: Gate, b: Gate) -> Gate:
    return Gate(
        a.open & b.open,
        jnp.minimum(a.cap, b.cap),
        jnp.maximum(a.floor, b.floor),
        jnp.minimum(a.ceiling, b.ceiling),
        jnp.maximum(a.band_floor, b.band_floor),
        jnp.minimum(a.band_ceiling, b.band_ceiling),
        a.auction | b.auction,
    )
