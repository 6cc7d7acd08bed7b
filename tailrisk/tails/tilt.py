"""A tilt of the noise of a step that follows the path, and mixtures of tilts with a share of the law itself.

Everything is said at the level of noise. With phi the features of the path (time, distance left to the event) and bins of
that distance,

    a normal           N(0, 1)   ->  N(theta . phi, 1)
    an event u < c     odds      ->  factor * odds, uniform within both cells
    a normal of it     N(0, 1)   ->  N(mean, deviation^2) in a step in which the event happens
    a size -log u      Exp(1)    ->  Exp(mean), which is a power of u

so any system can be tilted, whatever its noise drives. A path drawn from law j of a mixture with shares pi has the weight
1 / sum_k pi_k (q_k/p), at most one over the share of the law itself.

**Source:** Owen and Zhou (2000), "Safe and effective importance sampling", for mixtures with a defensive share.
"""

from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from .._fields import InputError
from .._streams import Noise, Roles
from .problem import ALWAYS, AbstractProblem
from .proposal import AbstractProposal

FEATURES = 7
BINS = 5
_FAR = 1.5  # distances beyond count as this
_RUSH = 0.15  # added to the time left, in units of the horizon
_FASTEST = 4.0
_WIDE, _LARGE = 2.5, 2.0  # marks and sizes of shocks before anything is known


def most_drift(steps: int) -> float:
    """The largest drift of a normal in one step: 3, and more where few steps must do the work of many."""
    return 3.0 + 6.0 / steps


class View(NamedTuple):
    """What a tilt sees of a path."""

    features: Float[Array, " features"]
    here: Float[Array, " bins"]  # one in the bin of the distance left
    on: Bool[Array, ""]  # whether the event is still open


class Aim(NamedTuple):
    """Where a tilt leads."""

    start: Float[Array, ""]  # place of a path before the first step
    barrier: Float[Array, ""]  # the score to reach
    stops: Bool[Array, ""]  # whether the tilt ends there: nothing later counts
    onset: Float[Array, ""]  # the score from which it counts how far a path has fallen back

    def view(self, problem: AbstractProblem, state: PyTree, step: Float[Array, ""]) -> View:
        """Features 1, tau, g, r, g^2, tau min(r, 4), d with the time tau, the distance g left and r = g/(1 - tau + 0.15).

        d is how far a path whose outcome is begun fell back since. Pulled up all the same, such paths would be rarer under the
        tilt than they are, and their weights heavy.
        """
        tau = step / problem.steps
        place, score, way = problem.place(state), problem.score(state), self.barrier - self.start
        g = jnp.clip((self.barrier - place) / way, 0.0, _FAR)
        back = jnp.where(score >= self.onset, jnp.clip((score - place) / way, 0.0, _FAR), 0.0)
        r = g / (1.0 - tau + _RUSH)
        features = jnp.stack([jnp.ones_like(tau), tau, g, r, g * g, tau * jnp.minimum(r, _FASTEST), back])
        # a sum with one term that counts: a gather per path is slow on CPUs
        bin_here = jnp.clip(jnp.floor(g * BINS), 0.0, BINS - 1.0)
        here = (jnp.arange(BINS, dtype=g.dtype) == bin_here).astype(g.dtype)
        return View(features, here, ~self.stops | (score < self.barrier))


class Law(NamedTuple):
    """The law of the noise of one step; zero, one, zero, one, one is the law itself."""

    drift: Float[Array, " free"]
    factor: Float[Array, " events"]
    mean: Float[Array, " marks"]
    deviation: Float[Array, " marks"]
    size: Float[Array, " sizes"]


def itself(like: Law) -> Law:
    """The law of the noise itself, with the shapes of another."""
    nothing = Law(*(jnp.zeros_like(x) for x in like))
    return nothing._replace(factor=nothing.factor + 1.0, deviation=nothing.deviation + 1.0, size=nothing.size + 1.0)


class Shock(eqx.Module):
    """A second law for few steps, the same at all distances: where one large step makes the event, most steps are calm."""

    share: Float[Array, " bins"]  # of steps
    law: Law


class Tilt(eqx.Module):
    """One tilt: coefficients of the drift of each normal, and numbers per bin of distance for all else."""

    aim: Aim
    drift: Float[Array, "free features"]
    factor: Float[Array, "events bins"]
    mean: Float[Array, "marks bins"]
    deviation: Float[Array, "marks bins"]
    size: Float[Array, "sizes bins"]
    shock: Shock | None = eqx.field(default=None)

    def law(self, view: View, most: float) -> tuple[Law, Bool[Array, ""]]:
        """The law of a step, and whether a drift was clipped."""
        wanted = jnp.sum(self.drift * view.features[None, :], axis=1)
        drift = jnp.clip(wanted, -most, most)
        here = view.here[None, :]
        tilted = Law(drift, *(jnp.sum(x * here, axis=1) for x in (self.factor, self.mean, self.deviation, self.size)))
        law = Law(*(jnp.where(view.on, a, b) for a, b in zip(tilted, itself(tilted), strict=True)))
        return law, view.on & jnp.any(jnp.abs(wanted) > most)

    def share(self, view: View) -> Float[Array, ""]:
        """Chance that a step is under the law of shocks."""
        if self.shock is None:
            return jnp.zeros_like(view.here[0])
        return jnp.where(view.on, jnp.sum(self.shock.share * view.here), 0.0)


def draw(problem: AbstractProblem, law: Law, state: PyTree, noise: Noise) -> Noise:
    """Noise under a law, as a map of noise under the system's own."""
    roles = problem.roles
    normal, uniform = noise
    happens = []

    def sized(uniform: Array, of: int, there: Any, chance: Any) -> Array:
        for k, (place, event) in enumerate(roles.sizes):
            if event == of:
                most = chance if is_own(roles, place, event) else jnp.ones_like(uniform[place])
                within = jnp.minimum(uniform[place] / most, 1.0) ** law.size[k]
                value = jnp.maximum(most * within, jnp.finfo(within.dtype).tiny)  # a large power may underflow
                uniform = uniform.at[place].set(jnp.where(there, value, uniform[place]))
        return uniform

    uniform = sized(uniform, ALWAYS, True, None)
    for event, place in enumerate(roles.events):
        chance, factor = problem.chance(state, Noise(normal, uniform), event), law.factor[event]
        excess = 1.0 + chance * (factor - 1.0)
        tilted, u = chance * factor / excess, uniform[place]
        above = jnp.clip(chance + (u - tilted) * excess, chance, 1.0 - jnp.finfo(u.dtype).epsneg)
        uniform = uniform.at[place].set(jnp.where(u < tilted, u * (excess / factor), above))
        happens.append(uniform[place] < chance)
        uniform = sized(uniform, event, happens[event], chance)  # later chances may depend on it
    for k, place in enumerate(roles.free(problem.draws)):
        normal = normal.at[place].add(law.drift[k])
    for k, (place, event) in enumerate(roles.marks):
        marked = law.mean[k] + law.deviation[k] * normal[place]
        normal = normal.at[place].set(jnp.where(happens[event], marked, normal[place]))
    return Noise(normal, uniform)


def is_own(roles: Roles, place: int, event: int) -> bool:
    """Whether a size is that of the uniform by which its event is decided."""
    return event != ALWAYS and roles.events[event] == place


def events(problem: AbstractProblem, state: PyTree, noise: Noise) -> tuple[list[Any], list[Any]]:
    """Which events happen in a step, and their chances."""
    chances = [problem.chance(state, noise, event) for event in range(len(problem.roles.events))]
    return [noise.uniform[p] < c for p, c in zip(problem.roles.events, chances, strict=True)], chances


def log_density(problem: AbstractProblem, law: Law, state: PyTree, noise: Noise) -> Float[Array, ""]:
    """log q/p of the noise of a step."""
    roles = problem.roles
    happens, chances = events(problem, state, noise)
    total = jnp.zeros((), noise.normal.dtype)
    for k, place in enumerate(roles.free(problem.draws)):
        total = total + law.drift[k] * (noise.normal[place] - 0.5 * law.drift[k])
    for happening, chance, factor in zip(happens, chances, law.factor, strict=True):
        total = total + jnp.where(happening, jnp.log(factor), 0.0) - jnp.log1p(chance * (factor - 1.0))
    for k, (place, event) in enumerate(roles.marks):
        z = noise.normal[place]
        away = (z - law.mean[k]) / law.deviation[k]
        total = total + jnp.where(happens[event], 0.5 * (z * z - away * away) - jnp.log(law.deviation[k]), 0.0)
    for k, (place, event) in enumerate(roles.sizes):
        within = noise.uniform[place] / (chances[event] if is_own(roles, place, event) else 1.0)
        part = (1.0 / law.size[k] - 1.0) * jnp.log(within) - jnp.log(law.size[k])
        total = total + (part if event == ALWAYS else jnp.where(happens[event], part, 0.0))
    return total


def both_densities(
    problem: AbstractProblem, tilt: Tilt, law: Law, share: Float[Array, ""], state: PyTree, noise: Noise
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """log q/p of the noise of a step, and the log odds that it came from the law of shocks."""
    calm = log_density(problem, law, state, noise)
    if tilt.shock is None:
        return calm, jnp.full_like(calm, -jnp.inf)
    calm = calm + jnp.log1p(-share)
    shock = log_density(problem, tilt.shock.law, state, noise) + jnp.log(share)
    return jnp.logaddexp(calm, shock), shock - calm


class Memory(NamedTuple):
    """Step number, log q_k/p of every tilt so far, and in how many steps the drawn tilt was clipped."""

    step: Float[Array, ""]
    log_density: Float[Array, " tilts"]
    clipped: Float[Array, ""]


class Mixture(AbstractProposal):
    """Paths drawn from law `drawn` of a mixture: 0 is the law itself, with the first of the shares."""

    problem: AbstractProblem
    tilts: tuple[Tilt, ...]
    shares: Float[Array, " tilts_plus_1"]
    drawn: Int[Array, ""]
    looks: ClassVar[bool] = True

    def init(self, dtype: Any) -> Memory:
        return Memory(jnp.zeros((), dtype), jnp.zeros(len(self.tilts), dtype), jnp.zeros((), dtype))

    def draw(self, memory: Memory, state: PyTree, noise: Noise) -> tuple[Noise, Float[Array, ""], Memory]:
        most = most_drift(self.problem.steps)
        laws, chosen, clipped = [], None, jnp.zeros((), memory.step.dtype)
        for k, tilt in enumerate(self.tilts):
            view = tilt.aim.view(self.problem, state, memory.step)
            law, clip = tilt.law(view, most)
            share = tilt.share(view)
            laws.append((law, share))
            mine = self.drawn == k + 1
            clipped = jnp.where(mine & clip, 1.0, clipped)
            if chosen is None:  # the law itself, unless a tilt is drawn
                chosen = itself(law)
            if tilt.shock is not None:
                spare = self.problem.roles.spare
                assert spare is not None, "shocks need a spare uniform"
                strikes = noise.uniform[spare] < share
                law = Law(*(jnp.where(strikes, a, b) for a, b in zip(tilt.shock.law, law, strict=True)))
            chosen = Law(*(jnp.where(mine, a, b) for a, b in zip(law, chosen, strict=True)))
        assert chosen is not None, "a mixture has one tilt or more"
        drawn = draw(self.problem, chosen, state, noise)
        ratios = [
            both_densities(self.problem, tilt, law, share, state, drawn)[0]
            for tilt, (law, share) in zip(self.tilts, laws, strict=True)
        ]
        more = jnp.stack(ratios)
        after = memory.log_density + more
        ratio = self._log_mixture(memory.log_density) - self._log_mixture(after)
        return drawn, ratio, Memory(memory.step + 1.0, after, memory.clipped + clipped)

    def _log_mixture(self, log_density: Float[Array, " tilts"]) -> Float[Array, ""]:
        """log (pi_0 + sum pi_k q_k/p); a share of zero is allowed."""
        most = jnp.maximum(jnp.max(log_density), 0.0)
        parts = self.shares[1:] * jnp.exp(log_density - most)
        total = self.shares[0] * jnp.exp(-most)
        for k in range(len(self.tilts)):
            total = total + parts[k]
        return most + jnp.log(total)


def untilted(aim: Aim, problem: AbstractProblem, shocks: bool = False) -> Tilt:
    """The tilt that changes nothing, or nothing but one step with wider marks and larger sizes in a path."""
    roles, dtype = problem.roles, problem.dtype
    events, marks, sizes = (jnp.ones((len(x), BINS), dtype) for x in (roles.events, roles.marks, roles.sizes))
    drift = jnp.zeros((len(roles.free(problem.draws)), FEATURES), dtype)
    calm = Tilt(aim, drift, events, 0.0 * marks, marks, sizes)
    if not shocks:
        return calm
    if roles.spare is None:
        raise InputError(f"a {type(problem).__name__} has no spare uniform, which a law of shocks needs; leave it out")
    law = Law(drift[:, 0], events[:, 0], 0.0 * marks[:, 0], _WIDE * marks[:, 0], _LARGE * sizes[:, 0])
    share = jnp.full(BINS, 1.0 / problem.steps, dtype)
    return with_shock(calm, Shock(share, law))


def without_shock(tilt: Tilt) -> Tilt:
    """The tilt with calm steps alone."""
    return Tilt(tilt.aim, tilt.drift, tilt.factor, tilt.mean, tilt.deviation, tilt.size)


def with_shock(tilt: Tilt, shock: Shock) -> Tilt:
    """The tilt with a law of shocks."""
    return eqx.tree_at(lambda t: t.shock, tilt, shock, is_leaf=lambda x: x is None)
