"""Conditional Monte Carlo along a line through the noise: given all steps but the first, the first is integrated out.

With y_1 = 0 and y_t = r_2 + ... + r_t the level after step t is u_t = s + y_t, s = r_1. Given y, a path's value is piecewise
smooth in s and jumps where u_t meets a threshold a_k that nothing before it has hidden: t a step at which y is lower than
ever, k an account whose threshold is lower than all before it. So with p the density of a step, s_tk = a_k - y_t,

    d/dtheta E[F] = E[dF/dtheta at fixed events] + E sum_{t,k} p(s_tk) da_k/dtheta (F(s_tk-) - F(s_tk+)),

the second mean over the steps from the second on. One (t, k) is drawn per path with probability proportional to p(s_tk) times
what falls at once below a_k, and the path is run from just below and just above s_tk. Another unbiased way than branches, at
a higher cost; it is the form that goes over to several assets, along a common shock.

With one step and bad debt as functional nothing is left to draw: the integral over the shock is a sum of normal
distribution functions, and its automatic derivative is exact.

**Source:** Fu and Hu (1997) for smoothed perturbation analysis; Glasserman (2003), section 7.2.3.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .. import _streams
from .._fields import InputError
from .._rare import rare
from .._streams import Draws, Noise
from ..simulate import LANES, batch, entry_point, resume
from . import oracle
from .companion import AbstractCompanion
from .functionals import AbstractFunctional, BadDebt, refuse_jumps
from .ladder import Ladder
from .proposal import fall_at_once
from .record import Batches, Gradient, batch_size, gradient, no_bias, reduce_batches, require
from .walk import MOVERS, WEIGHTS, LadderWalk, WalkState

PARAMETERS = MOVERS[:3]  # all but the band


class Chosen(NamedTuple):
    """A place where the value jumps along the line, drawn from the sum of all so far: step, number in the list, first move."""

    total: Float[Array, ""]
    step: Int[Array, ""]
    place: Int[Array, ""]
    first: Float[Array, ""]


class LineState(NamedTuple):
    """A path, its later steps y and their lowest sum, the likelihood ratio of these, and the place drawn."""

    walk: WalkState
    later: Float[Array, ""]
    lowest: Float[Array, ""]
    weight: Float[Array, ""]
    clock: Int[Array, ""]
    chosen: Chosen


class Line(AbstractCompanion):
    """A walk that draws one of the places where its value jumps in its first step, as it goes."""

    walk: LadderWalk
    levels: Float[Array, " jumps"]  # thresholds below all before them
    stakes: Float[Array, " jumps"]
    accounts: Int[Array, " jumps"]

    @classmethod
    def build(cls, walk: LadderWalk) -> "Line":
        """Lists the thresholds that can be met, on the host."""
        thresholds = np.asarray(walk.clearing.thresholds)[:-1]
        before = np.append(np.inf, np.minimum.accumulate(thresholds)[:-1])
        some = np.flatnonzero(thresholds < before)
        table = np.asarray(walk.clearing.sums.table, np.float64)[0]
        stakes = fall_at_once(thresholds.astype(np.float64), np.diff(table[:, 0] + table[:, 1]))[some]
        levels, stakes = (jnp.asarray(x.astype(walk.dtype)) for x in (thresholds[some], stakes))
        return cls(walk, levels, stakes, jnp.asarray(some.astype(np.int32)))

    @property
    def draws(self) -> Draws:
        """The walk's, and a uniform for the choice, which comes after its own."""
        return Draws(normals=1, uniforms=2)

    def init(self) -> LineState:
        """At the start, with nothing drawn."""
        zero, none = jnp.zeros((), self.dtype), jnp.zeros((), jnp.int32)
        return LineState(self.walk.init(), zero, zero, zero + 1.0, none, Chosen(zero, none, none, zero))

    def step(self, state: LineState, noise: Noise) -> tuple[LineState, WalkState]:
        """A step of the walk; at a new low of its later steps all jumps of that step enter the draw."""
        walk, shown = self.walk.step(state.walk, noise)
        increment, begins = self.walk.increment(noise), state.clock == 0
        later = jnp.where(begins, 0.0, state.later + increment.move)
        weight = jnp.where(begins, 1.0, state.weight * increment.ratio)
        low = begins | (later < state.lowest)
        chosen, _ = rare(low, _draw, self, (state.chosen, (later, state.clock, noise.uniform[1])))
        lowest = jnp.minimum(state.lowest, later)
        return LineState(walk, later, lowest, weight, state.clock + 1, chosen), shown

    def outcome(self, state: LineState) -> dict[str, Float[Array, ""]]:
        """The path's own weight and derivatives at fixed events, and what was drawn."""
        out, chosen = self.walk.outcome(state.walk), state.chosen
        fixed = {f"value_{name}": out[f"value_{name}"] for name in PARAMETERS if f"value_{name}" in out}
        stake = self.stakes[chosen.place]
        drawn = {"scale": state.weight * chosen.total / stake, "first": chosen.first}
        place = {"step": chosen.step, "place": chosen.place}
        return (
            {name: out[name] for name in WEIGHTS} | fixed | drawn | {k: x.astype(self.dtype) for k, x in place.items()}
        )


def _draw(line: Line, given: Any) -> Any:
    """Keeps what was drawn, or takes one of the jumps of this step, each with its share of the total."""
    chosen, (later, clock, uniform) = given
    first = line.levels - later
    sums = jnp.cumsum(line.walk.density(first) * line.stakes)
    total = chosen.total + sums[-1]
    place = jnp.argmax(sums > uniform * total).astype(jnp.int32)
    new = Chosen(total, clock, place, first[place])
    taken = sums[-1] > uniform * total
    kept = chosen._replace(total=total)
    return jax.tree.map(lambda now, old: jnp.where(taken, now, old), new, kept), given[1]


class TwinState(NamedTuple):
    """Two paths from just below and just above a place on the line."""

    below: WalkState
    above: WalkState
    later: Float[Array, ""]
    clock: Int[Array, ""]
    step: Int[Array, ""]
    first: Float[Array, ""]
    level: Float[Array, ""]


class Twins(AbstractCompanion):
    """The walk with its first step replaced, so that it meets a threshold, from either side."""

    walk: LadderWalk

    def init(self) -> TwinState:
        """Twins that meet the level 0 in the first step."""
        zero, none, walk = jnp.zeros((), self.dtype), jnp.zeros((), jnp.int32), self.walk.init()
        return TwinState(walk, walk, zero, none, none, zero, zero)

    def step(self, state: TwinState, noise: Noise) -> tuple[TwinState, None]:
        """A step of both. Where they meet the threshold it is its own number, or the next one below, in any precision."""
        later = jnp.where(state.clock == 0, 0.0, state.later + self.walk.increment(noise).move)
        level, here = state.first + later, state.clock == state.step
        under = jnp.nextafter(state.level, jnp.full_like(state.level, -jnp.inf))
        below, above = (
            self.walk.advance(walk, jnp.where(here, met, level))
            for walk, met in ((state.below, under), (state.above, state.level))
        )
        return state._replace(below=below, above=above, later=later, clock=state.clock + 1), None

    def outcome(self, state: TwinState) -> dict[str, Float[Array, ""]]:
        """Value below less value above."""
        below, above = (self.walk.outcome(walk)["value"] for walk in (state.below, state.above))
        return {"gap": below - above}


@entry_point
def _run(line: Line, keys: Any, paths: Any) -> dict[str, Float[Array, " lanes"]]:
    """Outcomes of `Line`, with the gap of the twins."""
    outcome, _ = batch(line, keys, paths)
    twins, place = Twins(line.walk), outcome["place"].astype(jnp.int32)
    start = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (*paths.shape, *leaf.shape)), twins.init())
    start = start._replace(step=outcome["step"].astype(jnp.int32), first=outcome["first"], level=line.levels[place])
    gap = resume(twins, keys, paths, start, jnp.zeros_like(paths))
    return outcome | gap


def _simulated(line: Line, parameters: tuple[str, ...], *, seed: int, paths: int, batches: int, chunk: int) -> Batches:
    size = batch_size(paths, batches)
    lanes = LANES * -(-min(chunk, size) // LANES)
    keys, walk = _streams.noise_keys(seed, "market"), line.walk
    margin = partial(walk.velocity, walk.init(), jnp.asarray(False))
    velocities = np.asarray(jax.vmap(margin)(line.accounts), np.float64)
    velocity = {name: velocities[:, PARAMETERS.index(name)] for name in parameters}

    def blocks() -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
        for first in range(0, paths, size):
            starts = range(first, first + size, lanes)
            parts = [_run(line, keys, jnp.arange(start, start + lanes, dtype=jnp.uint32)) for start in starts]
            out = {name: np.concatenate([np.asarray(x[name], np.float64) for x in parts])[:size] for name in parts[0]}
            place, still = out["place"].astype(int), np.zeros(size)
            jump = np.where(out["gap"] == 0.0, 0.0, out["scale"] * out["gap"])
            fixed = (out["weight"] * out.get(f"value_{name}", still) for name in parameters)
            yield np.stack([x + velocity[name][place] * jump for x, name in zip(fixed, parameters, strict=True)]), out

    return reduce_batches(blocks(), size)


def one_check(ladder: Ladder, parameters: tuple[str, ...], batches: int) -> Gradient:
    """Derivatives of expected bad debt with one check date: its integral over the shock, differentiated; no error."""
    slopes = oracle.expected_bad_debt_and_gradient(ladder)[1]
    exact = np.array([slopes.get(name) for name in parameters])
    none = {"jump": 0.0, "diffusive": 0.0, "trip": 0.0}
    certain = Batches(np.tile(exact, (batches, 1)), np.ones(batches), 0.0, none, np.zeros(exact.size), 0, 0.0)
    return gradient(
        certain,
        parameters,
        method="conditional, one check date",
        reason="one step, so that its shock can be integrated out",
        bias=no_bias(parameters, "zero: no path is drawn"),
    )


def estimate(
    ladder: Ladder,
    parameters: tuple[str, ...] = ("maintenance",),
    *,
    seed: int = 0,
    paths: int = 64 * 16_384,
    batches: int = 64,
    functional: AbstractFunctional | None = None,
    chunk: int = 2_048,
    dtype: Any = None,
) -> Gradient:
    """Derivatives in what moves margin thresholds, all from the same pairs of paths, unbiased; exact with one step.

    **Raises:** `InputError` for other parameters, for a functional that jumps, and with a breaker, whose trips would be
    further jumps along the line that are not listed.
    """
    refuse_jumps(functional, "the conditional estimator")
    if ladder.has_breaker:
        raise InputError(
            f"band = {float(ladder.band):g}: the conditional estimator does not list the trips of a breaker along its line; "
            "use branch"
        )
    require(parameters, PARAMETERS, "the conditional estimator", "other parameters move no margin threshold")
    batch_size(paths, batches)
    if ladder.steps == 1 and (functional is None or isinstance(functional, BadDebt)):
        return one_check(ladder, tuple(parameters), batches)
    line = Line.build(LadderWalk.build(ladder, functional, dtype))
    return gradient(
        _simulated(line, tuple(parameters), seed=seed, paths=paths, batches=batches, chunk=chunk),
        tuple(parameters),
        method="conditional",
        reason="parameters that move margin thresholds, no breaker; a referee for the branches",
        bias=no_bias(parameters, "zero: jumps along the first step are summed, and sampled"),
    )
