"""Strata by the number of steps with an event, such as a jump, each with a tilt of its own.

With P_k the exact probability of k such steps and n_k paths in stratum k,

    p = sum_k P_k p_k,    var = sum_k P_k^2 sd_k^2 / n_k,    n_k proportional to P_k sd_k (Neyman).

Given the number, which steps they are is drawn one after the other: with r left in n steps the next one has an event with
probability r/n. So a stratum is itself a problem with events, and any tilt of its noise may be fitted to it.

**Source:** Glasserman (2003), section 4.3, for strata and their allocation; Knuth, "The Art of Computer Programming" 2,
section 3.4.2, algorithm S, for the choice of steps.
"""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree
from scipy import special, stats

from .._fields import InputError
from .._hard import crosses
from .._streams import Draws, Noise, middle
from . import diagnostics
from .accumulator import Accumulator, Nodes, insert, means, merge, std_error, summarize, total
from .crossentropy import CrossEntropy
from .diagnostics import Result
from .measures import Estimate
from .plan import Integrand, Plan
from .problem import AbstractProblem, Roles
from .sampler import CHUNK, Fitted
from .targets import AbstractTarget, Extra, Probability

MOST_STRATA = 64
BEYOND = (0.01, 0.1)  # mass of the strata left out over the estimate: warn, refuse


class CountedState(NamedTuple):
    """A path, the steps it has gone, the events still to come, and log P(events | problem) so far."""

    path: PyTree
    step: Float[Array, ""]
    left: Float[Array, ""]
    log_share: Float[Array, ""]


class Counted(AbstractProblem):
    """A problem given that an event happens in exactly `count` of its steps; outcomes carry the log share of the stratum."""

    problem: AbstractProblem
    count: Float[Array, ""]
    event: int = eqx.field(static=True)
    steps: int = eqx.field(static=True)
    dtype: Any = eqx.field(static=True)

    def __init__(self, problem: AbstractProblem, count: int, event: int = 0):
        self.problem, self.event = problem, event
        self.steps, self.dtype = problem.steps, problem.dtype
        self.count = jnp.asarray(count, problem.dtype)

    @property
    def draws(self) -> Draws:
        return self.problem.draws

    @property
    def roles(self) -> Roles:
        return self.problem.roles

    def init(self) -> CountedState:
        zero = jnp.zeros((), self.dtype)
        return CountedState(self.problem.init(), zero, self.count, zero)

    def _mapped(self, state: CountedState, noise: Noise) -> tuple[Noise, Float[Array, ""], Float[Array, ""]]:
        """Noise of the problem, the events left after the step, and the log ratio of the two chances of what happened."""
        place = self.roles.events[self.event]
        u, own = noise.uniform[place], self._chance(state)
        chance = self.problem.chance(state.path, noise, self.event)
        last, tiny = 1.0 - jnp.finfo(u.dtype).epsneg, jnp.finfo(u.dtype).tiny
        happens = crosses(u, own, "which steps have an event, in a stratum")
        rest = jnp.maximum(1.0 - own, tiny)
        below = jnp.minimum(u * (chance / jnp.maximum(own, tiny)), chance * last)
        above = jnp.clip(chance + (u - own) * ((1.0 - chance) / rest), chance, last)
        ratio = jnp.where(happens, chance / jnp.maximum(own, tiny), (1.0 - chance) / rest)
        mapped = noise._replace(uniform=noise.uniform.at[place].set(jnp.where(happens, below, above)))
        return mapped, state.left - jnp.where(happens, 1.0, 0.0), jnp.log(ratio)

    def _chance(self, state: CountedState) -> Float[Array, ""]:
        return state.left / (self.steps - state.step)

    def step(self, state: CountedState, noise: Noise) -> tuple[CountedState, PyTree]:
        mapped, left, log_ratio = self._mapped(state, noise)
        path, shown = self.problem.step(state.path, mapped)
        return CountedState(path, state.step + 1.0, left, state.log_share + log_ratio), shown

    def place(self, state: CountedState) -> Float[Array, ""]:
        return self.problem.place(state.path)

    def score(self, state: CountedState) -> Float[Array, ""]:
        return self.problem.score(state.path)

    def chance(self, state: CountedState, noise: Noise, event: int) -> Float[Array, ""]:
        if event == self.event:
            return self._chance(state)
        return self.problem.chance(state.path, self._mapped(state, noise)[0], event)

    def outcome(self, state: CountedState) -> dict[str, Any]:
        return self.problem.outcome(state.path) | {"log_share": state.log_share}


@dataclasses.dataclass(frozen=True)
class FittedStrata:
    """Frozen tilts of all strata, the exact masses of these, and how paths are shared among them.

    `beyond` is the mass of all larger numbers of events, which no path has.
    """

    target: Probability
    event: int
    fits: tuple[Fitted, ...]
    masses: tuple[float, ...]
    shares: tuple[float, ...]
    beyond: float
    tuning_paths: int

    def sizes(self, paths: int) -> list[int]:
        """Paths of each stratum, in whole periods of its mixture."""
        wanted = (max(round(paths * share), 1) for share in self.shares)
        return [fit.whole(n) for n, fit in zip(wanted, self.fits, strict=True)]

    def run(
        self, problem: AbstractProblem, paths: int, seed: int, *, confidence: float = 0.95, chunk: int = CHUNK
    ) -> dict[str, Result]:
        """The probability from about `paths` paths; the mass beyond the last stratum is added to the upper end."""
        sizes = self.sizes(paths)
        accs = self.strata(problem, sizes, seed, chunk, "production")
        acc, found = functools.reduce(merge, accs), [means(one) for one in accs]
        share = np.array(sizes) / acc.paths
        value = float(share @ [one.value[1] for one in found])
        error = math.sqrt(float(share**2 @ [one.covariance[1, 1] for one in found]))
        half = float(special.ndtri(0.5 + 0.5 * confidence)) * error
        wide = math.exp(half / value) if value > 0.0 else math.nan
        estimate = Estimate(value, error, value / wide, min(value * wide + self.beyond, 1.0))
        row = diagnostics.high("beyond_strata", self.beyond / value if value > 0.0 else math.inf, BEYOND)
        pilots = diagnostics.worst(row for fit in self.fits for row in fit.pilot_checks())
        extra = Extra((row, *pilots), tuning_paths=self.tuning_paths, confidence=confidence)
        return {"probability": extra.result(estimate, acc, 1)}

    def strata(
        self, problem: AbstractProblem, sizes: list[int], seed: int, chunk: int, stream: str
    ) -> list[Accumulator]:
        """A summary of each stratum, with weights whose mean over all paths is one."""
        accs = []
        for count, (fit, mass, size) in enumerate(zip(self.fits, self.masses, sizes, strict=True)):
            plan = Plan((Integrand("above", self.target.level),), groups=fit.groups, tag="Stratified")
            nodes, system = Nodes(), Counted(problem, count, self.event)
            for part in fit.sample(system, size, seed, chunk=chunk, stream=f"{stream}/{count}"):
                _same_mass(part.outcome["log_share"], mass)
                log_weight = part.log_weight + math.log(mass * sum(sizes) / size)
                nodes = insert(nodes, part.number, summarize(plan, part.outcome[self.target.outcome], log_weight))
            accs.append(total(nodes))
        return accs


def _same_mass(log_share: np.ndarray, mass: float) -> None:
    """Refuses a problem whose chances differ between paths: the masses of its strata are not those computed."""
    off = float(np.max(np.abs(log_share - math.log(mass))))
    if not off < (1e-3 if log_share.dtype == np.float32 else 1e-9):
        raise InputError(
            f"the chance of the event moves along a path (masses of a stratum differ by {off:.2g}): expected the same "
            "chance in every step; use CrossEntropy"
        )


@dataclasses.dataclass(frozen=True)
class Stratified:
    """Strata by the number of steps in which an event of the problem happens, up to a mass `beyond` that is left out.

    Each stratum has the tilts of `method`, and a pilot of `pilot` paths that says how many it gets of a run.
    """

    event: int = 0
    beyond: float = 1e-8
    method: CrossEntropy = dataclasses.field(default_factory=lambda: CrossEntropy(pilot=2_560))
    pilot: int = 1_280

    def __post_init__(self):
        if not 0.0 < self.beyond < 1.0 or self.pilot < 2 or self.event < 0:
            raise InputError(f"{self}: expected an event, 0 < beyond < 1 and at least 2 pilot paths")

    def fit(self, problem: AbstractProblem, target: AbstractTarget, seed: int) -> FittedStrata:
        """Tilts of every stratum and the allocation of Neyman."""
        if not isinstance(target, Probability):
            raise InputError(f"{target}: expected a Probability; use CrossEntropy for other targets")
        if self.event >= len(problem.roles.events):
            raise InputError(f"event = {self.event}: the problem has {len(problem.roles.events)} events")
        steps, nothing = problem.steps, middle(problem.draws, problem.dtype)
        chance = float(problem.chance(problem.init(), nothing, self.event))
        most = int(stats.binom.isf(self.beyond, steps, chance))
        if most >= MOST_STRATA:
            raise InputError(
                f"{chance * steps:.3g} steps with an event are expected, {most + 1} strata would be needed and "
                f"{MOST_STRATA} are the most; use CrossEntropy"
            )
        masses = stats.binom.pmf(np.arange(most + 1), steps, chance)
        fits = [self.method.fit(Counted(problem, k, self.event), target, seed + k) for k in range(most + 1)]
        beyond = float(stats.binom.sf(most, steps, chance))
        equal = (1.0 / len(fits),) * len(fits)
        draft = FittedStrata(target, self.event, tuple(fits), tuple(float(m) for m in masses), equal, beyond, 0)
        sizes = draft.sizes(self.pilot * len(fits))
        spread = [
            std_error(acc, 1) * size**1.5
            for acc, size in zip(draft.strata(problem, sizes, seed, CHUNK, "strata pilot"), sizes, strict=True)
        ]
        tuning = sum(fit.tuning_paths for fit in fits) + sum(sizes)
        shares = tuple(float(s) / sum(spread) for s in spread)
        return dataclasses.replace(draft, shares=shares, tuning_paths=tuning)
