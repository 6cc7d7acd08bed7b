"""A day of a venue whose margins follow estimated volatility: one fall, the cascade it sets off, and the debt that is left.

Volatility clusters: s^2 <- (1 - a - b) s0^2 + a r^2 + b s^2 (GARCH). The venue sees an exponentially weighted mean of squared
returns, v, charges c >= sqrt(v) after its anti-procyclical tools, and asks for the margin m = k c. Longs hold m (1 + u) with u
even in [0, excess], and are closed when less than the share `maintenance` of m is left. Closing the share F moves the price by
impact F for good, so the fall D is the smallest solution of D = x + impact F(D), approached from below in rounds.
"""

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .. import _streams
from .._fields import Real, count, real, to_real
from .._streams import Draws, Noise
from ..margin.procyclicality import LookbackFloor, MarginBuffer, StressWeight
from ..policy import AbstractSampledModel
from ..simulate import AbstractSystem, batch


class Days(AbstractSystem):
    """Days up to the one that is margined: estimated variance before it, its fall, and the weight of its noise.

    The normal of the last day is drawn around `tilt` (importance sampling).
    """

    deviation: Real = real(0.04, unit="1", above=0.0)  # of a day's return in the long run
    reaction: Real = real(0.10, unit="1", least=0.0, below=1.0)  # a
    persistence: Real = real(0.88, unit="1", least=0.0, below=1.0)  # b
    half_life: Real = real(10.0, unit="day", above=0.0)  # of the venue's estimate
    tilt: Real = real(0.0, unit="deviations")
    steps: int = eqx.field(static=True, default=60)
    dtype: Any = eqx.field(static=True, default=None)

    @property
    def draws(self) -> Draws:
        return Draws(normals=1)

    def init(self) -> tuple[Any, ...]:
        """Variance of the next day, estimated variance, that before the last day, last fall, its normal, day."""
        long_run, zero = self.deviation**2, jnp.zeros((), self.dtype)
        return long_run, long_run, long_run, zero, zero, zero

    def step(self, state: tuple[Any, ...], noise: Noise) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """A day; shows the estimated volatility before it, its fall, and its true volatility."""
        variance, seen, _, _, _, day = state
        normal = noise.normal[0] + jnp.where(day == self.steps - 1, self.tilt, 0.0)
        fall = jnp.sqrt(variance) * normal
        keep = jnp.exp2(-1.0 / self.half_life)
        rest = (1.0 - self.reaction - self.persistence) * self.deviation**2
        shown = jnp.sqrt(seen), fall, jnp.sqrt(variance)
        after = rest + self.reaction * fall**2 + self.persistence * variance
        return (after, keep * seen + (1.0 - keep) * fall**2, seen, fall, normal, day + 1.0), shown

    def outcome(self, state: tuple[Any, ...]) -> dict[str, Float[Array, ""]]:
        _, _, seen, fall, normal, _ = state
        return {"seen": seen, "fall": fall, "weight": jnp.exp(-self.tilt * normal + 0.5 * self.tilt**2)}


class Venue(eqx.Module):
    """What a margin, a fall and the rules of the venue give. Parameters: `k`, and `share`, `weight`, `floor` of the tools (0)."""

    stressed: Real = real(0.08, unit="1", above=0.0)  # volatility of the stressed period
    trigger: Real = real(0.06, unit="1", above=0.0)  # volatility above which a buffer is drawn down
    excess: Real = real(1.0, unit="1", above=0.0)  # most collateral beyond the margin, over the margin
    maintenance: Real = real(0.5, unit="1", above=0.0, below=1.0)  # of the margin
    impact: Real = real(0.05, unit="log price", least=0.0)  # of closing all open interest
    rounds: int = count(8, least=1)
    held: dict[str, Any] = eqx.field(
        converter=lambda held: {name: to_real(value) for name, value in held.items()}, default_factory=dict
    )  # parameters that are not decided

    def charged(self, seen: Float[Array, " paths"], parameters: Mapping[str, Any]) -> Float[Array, " paths"]:
        """Charged volatility: stressed observations, then the floor, then the buffer, each if it is asked for."""
        zero, parameters = jnp.zeros_like(seen[0]), {**self.held, **parameters}
        weighted = StressWeight(stressed=self.stressed, weight=parameters.get("weight", zero)).charged(jnp.sqrt(seen))
        floored = LookbackFloor(volatility=parameters.get("floor", zero)).charged(weighted)
        return MarginBuffer(trigger=self.trigger, share=parameters.get("share", zero)).charged(floored)

    def outcomes(
        self, days: Mapping[str, Float[Array, " paths"]], parameters: Mapping[str, Any]
    ) -> dict[str, Float[Array, " paths"]]:
        """Bad debt, mean posted collateral and the share closed by force, per unit of open interest."""
        margin = parameters["k"] * self.charged(days["seen"], parameters)
        lost = days["fall"]

        def closed(lost: Any) -> Any:
            return jnp.clip((lost / margin - (1.0 - self.maintenance)) / self.excess, 0.0, 1.0)

        total = lost
        for _ in range(self.rounds):
            total = lost + self.impact * closed(total)
        over = jnp.clip(total / margin - 1.0, 0.0, self.excess)  # accounts with less than this are bankrupt
        debt = margin * (over * (total / margin - 1.0) - 0.5 * over**2) / self.excess
        posted = margin * (1.0 + 0.5 * self.excess)
        return {"bad_debt": debt, "margin": posted, "forced_share": closed(total), "weight": days["weight"]}


class DayAhead(AbstractSampledModel):
    """The venue on days drawn afresh."""

    days: Days
    venue: Venue

    def drawn(self, keys: tuple[Any, Any], first: Any, paths: int) -> dict[str, Float[Array, " paths"]]:
        """The days alone, which no margin moves."""
        return batch(self.days, keys, first + jnp.arange(paths, dtype=jnp.uint32))[0]

    def sample(
        self, parameters: Mapping[str, Any], keys: tuple[Any, Any], first: Any, paths: int
    ) -> dict[str, Float[Array, " paths"]]:
        return self.venue.outcomes(self.drawn(keys, first, paths), parameters)


class KnownDays(AbstractSampledModel):
    """The venue on days that were drawn beforehand, for searches that look at one sample many times."""

    days: dict[str, Float[Array, " sample"]]
    venue: Venue

    @classmethod
    def of(cls, model: DayAhead, root: str, seed: int, paths: int) -> "KnownDays":
        """The first paths of a stream of the model."""
        keys = _streams.noise_keys(seed, root)
        return cls(eqx.filter_jit(DayAhead.drawn)(model, keys, jnp.uint32(0), paths), model.venue)

    def sample(
        self, parameters: Mapping[str, Any], keys: tuple[Any, Any], first: Any, paths: int
    ) -> dict[str, Float[Array, " paths"]]:
        del keys
        places = jnp.minimum(first + jnp.arange(paths, dtype=jnp.uint32), self.days["fall"].size - 1)
        return self.venue.outcomes({name: column[places] for name, column in self.days.items()}, parameters)
