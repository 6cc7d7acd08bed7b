"""One path of the reference model, as a system that the shared scan can run."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int

from .._fields import cast
from .._hard import crosses, refused
from .._rare import rare
from .._streams import Draws, Noise
from ..simulate import AbstractSystem
from .clearing import THRESHOLD, SortedClearing
from .functionals import AbstractFunctional, BadDebt, Totals
from .ladder import Ladder, WalkLaw, sorted_accounts

FIXED_EVENTS = ("shift", "initial_shift", "impact")  # parameters with a derivative at fixed events
MOVERS = ("maintenance", "initial_shift", "impact", "band")  # parameters that move thresholds
WEIGHTS = ("weight", "jumped", "tripped")  # outcomes that the record of an estimate needs


class WalkState(NamedTuple):
    """A path after a step.

    level: exogenous log price. sold: how many of the sorted accounts. weight: likelihood ratio of the noise so far.
    `debt_slopes` and `income_slopes`: derivatives at fixed events in the parameters of `FIXED_EVENTS`; the first is a
    rise of the whole path. Without a breaker the window is empty.
    """

    level: Float[Array, ""]
    sold: Int[Array, ""]
    weight: Float[Array, ""]
    bad_debt: Float[Array, ""]
    fund_income: Float[Array, ""]
    debt_slopes: Float[Array, "3"]
    income_slopes: Float[Array, "3"]
    window: Float[Array, " window"]  # log prices at the ends of the last steps, minus infinity where there is none
    window_sold: Int[Array, " window"]
    halt: Int[Array, ""]  # steps still to be sat out
    halted: Int[Array, ""]  # steps sat out
    jumped: Bool[Array, ""]
    tripped: Bool[Array, ""]


class Increment(NamedTuple):
    """A step of the walk: its size, the normal (standard under the true law) and deviation behind it, whether it jumped.

    Likelihood ratios: of jumping or not, and of the normal.
    """

    move: Float[Array, ""]
    normal: Float[Array, ""]
    deviation: Float[Array, ""]
    jump: Bool[Array, ""]
    jump_ratio: Float[Array, ""]
    normal_ratio: Float[Array, ""]

    @property
    def ratio(self) -> Float[Array, ""]:
        """Likelihood ratio of the step."""
        return self.jump_ratio * self.normal_ratio


class Side(NamedTuple):
    """Which comparison of a step is forced, and how: at margin threshold or, if `breaker`, trip point number `place`."""

    breaker: Bool[Array, ""]
    place: Int[Array, ""]
    below: Bool[Array, ""]


class LadderWalk(AbstractSystem):
    """Walk, clearing and breaker of a `Ladder`; what differs between parameter values are traced numbers alone.

    Outcomes: value (the functional), its derivatives at fixed events (value_shift, value_initial_shift, value_impact),
    weight, bad_debt, fund_income, sold; jumped and tripped are 1 for paths with a jump and with a trip of the breaker.
    """

    clearing: SortedClearing
    law: WalkLaw
    functional: AbstractFunctional
    jump_ratios: Float[Array, "2"]  # likelihood ratio of a step without and with a jump
    maintenance: Float[Array, ""]
    margin_left: Float[Array, " accounts"]  # 1 - initial margin - shift
    band: Float[Array, ""]
    fee: Float[Array, ""]
    fund: Float[Array, ""]
    steps: int = eqx.field(static=True)
    window: int = eqx.field(static=True)  # 0: no breaker
    halt: int = eqx.field(static=True)
    dtype: Any = eqx.field(static=True)

    @classmethod
    def build(cls, ladder: Ladder, functional: AbstractFunctional | None = None, dtype: Any = None) -> "LadderWalk":
        """Sorts the book and casts all numbers, by default to the widest precision that JAX has been told to use.

        **Raises:** `HardThresholdGradientError` if a number of the ladder is being differentiated (or traced);
        `InputError` if one is out of bounds.
        """
        if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(ladder)):
            raise refused("the thresholds of a ladder")
        ladder.checked()
        dtype = np.dtype(jnp.result_type(float) if dtype is None else dtype)
        debt, entry, quantity = sorted_accounts(ladder)
        law = ladder.law
        p, s = float(law.jump_probability), float(law.sampling_probability)
        exponent = ladder.impact_exponent
        numbers = cast(
            {
                "law": law,
                "functional": BadDebt() if functional is None else functional,
                "jump_ratios": np.array([(1.0 - p) / (1.0 - s), p / s if s > 0.0 else 1.0]),
                "maintenance": ladder.maintenance,
                "margin_left": np.exp(debt - entry),
                "band": ladder.band,
                "fee": ladder.fee,
                "fund": ladder.fund,
            },
            dtype,
        )
        return cls(
            clearing=SortedClearing.build(debt, entry, quantity, ladder.maintenance, ladder.impact, exponent, dtype),
            **numbers,
            steps=ladder.steps,
            window=ladder.window if ladder.has_breaker else 0,
            halt=ladder.halt,
            dtype=dtype,
        )

    @property
    def accounts(self) -> int:
        """Number of accounts."""
        return self.clearing.log_debt.shape[0]

    @property
    def draws(self) -> Draws:
        """A normal for the size and a uniform for the jump."""
        return Draws(normals=1, uniforms=1)

    def init(self) -> WalkState:
        """Nothing sold, at log price 0."""
        zero, slopes = jnp.zeros((), self.dtype), jnp.zeros(len(FIXED_EVENTS), self.dtype)
        none = jnp.zeros((), jnp.int32)
        return WalkState(
            level=zero,
            sold=none,
            weight=jnp.ones((), self.dtype),
            bad_debt=zero,
            fund_income=zero,
            debt_slopes=slopes,
            income_slopes=slopes,
            window=jnp.full(self.window, -jnp.inf, self.dtype),
            window_sold=jnp.zeros(self.window, jnp.int32),
            halt=none,
            halted=none,
            jumped=jnp.zeros((), bool),
            tripped=jnp.zeros((), bool),
        )

    def increment(self, noise: Noise) -> Increment:
        """The step that the noise stands for."""
        law = self.law
        normal = noise.normal[0] + law.sampling_tilt
        jump = noise.uniform[0] < law.sampling_probability
        both = jnp.sqrt(law.deviation**2 + law.jump_deviation**2)
        deviation = jnp.where(jump, both, law.deviation)
        mean = law.drift + jnp.where(jump, law.jump_mean, 0.0)
        ratio = jnp.where(jump, self.jump_ratios[1], self.jump_ratios[0])
        tilt = jnp.exp(law.sampling_tilt * (0.5 * law.sampling_tilt - normal))
        return Increment(mean + deviation * normal, normal, deviation, jump, ratio, tilt)

    def density(self, move: Float[Array, "*moves"]) -> Float[Array, "*moves"]:
        """Density of a step under the true law."""
        law = self.law

        def normal(mean: Any, variance: Any) -> Any:
            return jnp.exp(-0.5 * (move - mean) ** 2 / variance) / jnp.sqrt(2.0 * jnp.pi * variance)

        calm = normal(law.drift, law.deviation**2)
        jump = normal(law.drift + law.jump_mean, law.deviation**2 + law.jump_deviation**2)
        return (1.0 - law.jump_probability) * calm + law.jump_probability * jump

    def step(self, state: WalkState, noise: Noise) -> tuple[WalkState, WalkState]:
        """Draws a step and clears; shows the state after it."""
        increment = self.increment(noise)
        state = state._replace(weight=state.weight * increment.ratio, jumped=state.jumped | increment.jump)
        state = self.advance(state, state.level + increment.move)
        return state, state

    def advance(self, state: WalkState, level: Float[Array, ""], side: Side | None = None) -> WalkState:
        """One step of clearing at a new exogenous level; `side` forces the comparison at one threshold.

        A forced comparison stands for a level just below, or just above or at, the threshold, which a level in floating
        point cannot always tell apart.
        """
        halted = state.halt > 0
        state = state._replace(
            level=level, halt=jnp.maximum(state.halt - 1, 0), halted=state.halted + halted.astype(jnp.int32)
        )
        clearing = self.clearing
        needed = crosses(level, clearing.thresholds[state.sold], THRESHOLD)
        if self.window:
            needed = needed | crosses(self._room(state), clearing.fall[state.sold], THRESHOLD)
        if side is None:
            state = rare(needed & ~halted, lambda walk, old: walk._clear(old, None), self, state)
        else:
            new = self._clear(state, side)
            state = jax.tree.map(lambda old, now: jnp.where(halted, old, now), state, new)
        if not self.window:
            return state
        price = state.level - clearing.fall[state.sold]
        return state._replace(
            window=jnp.append(state.window[1:], price), window_sold=jnp.append(state.window_sold[1:], state.sold)
        )

    def _room(self, state: WalkState) -> Float[Array, ""]:
        """How far sales may push the price down before the breaker stops them; infinite while the window is empty."""
        return state.level - (jnp.max(state.window) - self.band)

    def _clear(self, state: WalkState, side: Side | None) -> WalkState:
        """Sells as far as thresholds and breaker allow, and books the money."""
        clearing, start = self.clearing, state.sold
        stop = clearing.first_at_or_below(start, state.level)
        if side is not None:  # the level of a threshold is not below it, and sales that end before it never meet it
            forced = ~side.breaker & side.below & (stop == side.place)
            stop = clearing.first_at_or_below(jnp.where(forced, stop + 1, start), state.level)
        halt, tripped = state.halt, state.tripped
        if self.window:
            trip = jnp.maximum(start, clearing.first_beyond(self._room(state)))
            if side is not None:
                trip = jnp.where(side.breaker, jnp.maximum(start, side.place + jnp.where(side.below, 0, 1)), trip)
            halt, tripped = jnp.where(trip <= stop, jnp.int32(self.halt), halt), tripped | (trip <= stop)
            stop = jnp.minimum(stop, trip)
        log_price = state.level - clearing.fall[stop]
        price = jnp.exp(log_price)
        short, solvent = clearing.split(start, stop, log_price)
        pressure = price * clearing.pressure[stop]
        debt_slopes = jnp.stack([-price * short.quantity, -short.entry_value, pressure * short.quantity])
        gain_slopes = jnp.stack([price * solvent.quantity, solvent.entry_value, -pressure * solvent.quantity])
        return state._replace(
            sold=stop,
            bad_debt=state.bad_debt + (short.debt - price * short.quantity),
            fund_income=state.fund_income + self.fee * (price * solvent.quantity - solvent.debt),
            debt_slopes=state.debt_slopes + debt_slopes,
            income_slopes=state.income_slopes + self.fee * gain_slopes,
            halt=halt,
            tripped=tripped,
        )

    def outcome(self, state: WalkState) -> dict[str, Float[Array, ""]]:
        """The functional and its derivatives at fixed events, the weight of the path, and what was sold."""

        start = jnp.zeros(1, jnp.int32)
        volume = self.clearing.sums.between(start, state.sold[None])[0, 0]
        halted = state.halted.astype(self.dtype)

        def value(bad_debt: Any, fund_income: Any) -> Any:
            return self.functional(Totals(bad_debt, fund_income, self.fund, volume, halted))

        result, (by_debt, by_income) = jax.value_and_grad(value, argnums=(0, 1))(state.bad_debt, state.fund_income)
        slopes = by_debt * state.debt_slopes + by_income * state.income_slopes
        return {
            "value": result,
            **{f"value_{name}": slopes[i] for i, name in enumerate(FIXED_EVENTS)},
            "weight": state.weight,
            "bad_debt": state.bad_debt,
            "fund_income": state.fund_income,
            "sold": state.sold.astype(self.dtype),
            "jumped": state.jumped.astype(self.dtype),
            "tripped": state.tripped.astype(self.dtype),
        }

    def velocity(self, state: WalkState, breaker: Bool[Array, ""], place: Int[Array, ""]) -> Float[Array, "4"]:
        """Derivatives in `MOVERS` of a threshold of the step after `state`: of account or trip point number `place`."""
        one, pressure = jnp.ones((), self.dtype), self.clearing.pressure[place]
        account = jnp.minimum(place, self.accounts - 1)
        margin = jnp.stack([one / (1.0 - self.maintenance), -one / self.margin_left[account], pressure, 0.0 * one])
        if not self.window:
            return margin
        highest = self.clearing.pressure[state.window_sold[jnp.argmax(state.window)]]
        return jnp.where(breaker, jnp.stack([0.0 * one, 0.0 * one, pressure - highest, -one]), margin)
