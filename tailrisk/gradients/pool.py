"""What branches need of the paths of a pool: the state before every step, kept as few arrays, and given back where asked."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .._streams import AbstractSource, Noise
from .companion import AbstractCompanion
from .score import Scores, ScoreState
from .walk import LadderWalk, WalkState


class Steps(NamedTuple):
    """Of every step: what the path was before it, its move, the level after it, and its likelihood ratio."""

    move: Float[Array, "*steps"]
    after: Float[Array, "*steps"]
    sold: Int[Array, "*steps"]
    bad_debt: Float[Array, "*steps"]
    fund_income: Float[Array, "*steps"]
    halt: Int[Array, "*halts"]  # empty without a breaker
    halted: Int[Array, "*halts"]
    ratio: Float[Array, "*steps"]

    @property
    def level(self) -> Float[Array, "steps paths"]:
        """Level before every step."""
        return jnp.concatenate([jnp.zeros_like(self.after[:1]), self.after[:-1]])


class Recorded(AbstractCompanion):
    """A walk that shows its `Steps`, with scores of its noise."""

    walk: LadderWalk
    scores: Scores

    def init(self) -> ScoreState:
        """The start."""
        return self.scores.init()

    def step(self, state: ScoreState, noise: Noise) -> tuple[ScoreState, Steps]:
        """The step of walk and scores."""
        new, before = self.scores.step(state, noise)[0], state.walk
        none = jnp.zeros(0, jnp.int32)
        halts = (before.halt, before.halted) if self.walk.window else (none, none)
        drawn = self.walk.increment(noise)
        money = before.bad_debt, before.fund_income
        return new, Steps(drawn.move, new.walk.level, before.sold, *money, *halts, drawn.ratio)

    def outcome(self, state: ScoreState) -> dict[str, Float[Array, ""]]:
        """The walk's outcome, and the scores."""
        return self.scores.outcome(state) | self.walk.outcome(state.walk)


class Moves(AbstractSource):
    """The moves of the paths of a pool, by place, in the place of noise."""

    move: Float[Array, "steps paths"]

    def path(self, number: Any, steps: int, draws: Any, dtype: Any) -> Callable[[Any], Noise]:
        """Those of one path."""
        del steps, draws
        return lambda step: Noise(self.move[step, number][None], jnp.zeros(0, dtype))


class Moved(AbstractCompanion):
    """A walk whose noise is its `Moves`; weights stay behind."""

    walk: LadderWalk

    def init(self) -> WalkState:
        """The start."""
        return self.walk.init()

    def step(self, state: WalkState, noise: Noise) -> tuple[WalkState, None]:
        """The next move."""
        return self.walk.advance(state, state.level + noise.normal[0]), None

    def outcome(self, state: WalkState) -> dict[str, Float[Array, ""]]:
        """The functional alone."""
        return {"value": self.walk.outcome(state)["value"]}


def highest(walk: LadderWalk, steps: Steps) -> Float[Array, "steps paths"]:
    """Largest log price in the window of the breaker before every step; minus infinity while it is empty."""
    price = steps.level - walk.clearing.fall[steps.sold]
    price = jnp.pad(price[1:], ((walk.window, 0), (0, 0)), constant_values=-jnp.inf)
    found = price[: walk.steps]
    for lag in range(1, walk.window):
        found = jnp.maximum(found, price[lag : lag + walk.steps])
    return found


def restored(walk: LadderWalk, steps: Steps, row: Int[Array, ""], step: Int[Array, ""]) -> WalkState:
    """The state before a step of a path of the pool, but for its weight and slopes, which start anew there."""
    back = step - jnp.arange(walk.window, dtype=jnp.int32)[::-1]
    at = jnp.maximum(back, 1)
    sold, before = steps.sold[jnp.minimum(at, walk.steps - 1), row], steps.after[at - 1, row]
    state = walk.init()._replace(
        level=jnp.where(step > 0, steps.after[jnp.maximum(step - 1, 0), row], 0.0),
        sold=steps.sold[step, row],
        bad_debt=steps.bad_debt[step, row],
        fund_income=steps.fund_income[step, row],
        window=jnp.where(back > 0, before - walk.clearing.fall[sold], -jnp.inf),
        window_sold=jnp.where(back > 0, sold, 0),
    )
    if not walk.window:
        return state
    return state._replace(halt=steps.halt[step, row], halted=steps.halted[step, row])
