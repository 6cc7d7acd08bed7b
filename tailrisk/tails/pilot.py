"""Pilot paths of a tilt, with the sums from which the next tilt is made."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from .._streams import Draws, Noise
from ..simulate import AbstractSystem
from .problem import ALWAYS, AbstractProblem
from .proposal import Tilted, TiltedState
from .tilt import BINS, FEATURES, Aim, Law, Mixture, Shock, Tilt, both_densities, events, is_own, most_drift, with_shock

PSEUDO = 0.02  # paths of the law itself that are added to every bin, as a share of all weight
RIDGE = 1e-3
LARGEST_CHANCE = 0.9
FACTORS = (1e-2, 1e8)
WIDEST = 3.0  # deviation of a mark
SIZES = (0.02, 8.0)


class Sums(NamedTuple):
    """Along one path, over the steps in which the tilt is on."""

    gram: Float[Array, "features features"]
    moment: Float[Array, "free features"]
    seen: Float[Array, " bins"]
    chance: Float[Array, "events bins"]
    happened: Float[Array, "events bins"]
    mark: Float[Array, "marks bins"]
    square: Float[Array, "marks bins"]
    size: Float[Array, "sizes bins"]


class PilotState(NamedTuple):
    """A tilted path, its sums, and what they were when its score rose last: later noise did not make the score."""

    tilted: TiltedState
    sums: tuple[Sums, ...]  # under the calm law, and under that of shocks
    kept: tuple[Sums, ...]


class Pilot(AbstractSystem):
    """Paths of a mixture of tilts with the sums for a tilt that leads to `aim`; outcomes have no one shape."""

    problem: AbstractProblem
    mixture: Mixture
    aim: Aim
    steps: int = eqx.field(static=True)
    dtype: Any = eqx.field(static=True)

    def __init__(self, problem: AbstractProblem, mixture: Mixture, aim: Aim):
        self.problem, self.mixture, self.aim = problem, mixture, aim
        self.steps, self.dtype = problem.steps, problem.dtype

    @property
    def draws(self) -> Draws:
        return self.problem.draws

    def init(self) -> PilotState:
        sums = no_sums(self.problem)
        laws = 1 if self.mixture.tilts[0].shock is None else 2
        return PilotState(Tilted(self.problem, self.mixture).init(), (sums,) * laws, (sums,) * laws)

    def step(self, state: PilotState, noise: Noise) -> tuple[PilotState, PyTree]:
        path, memory, log_weight = state.tilted
        drawn, log_ratio, after = self.mixture.draw(memory, path, noise)
        sums = self._add(state.sums, path, drawn, memory.step)
        moved, shown = self.problem.step(path, drawn)
        counts = ~self.aim.stops | (self.problem.score(moved) > self.problem.score(path))
        kept = jax.tree.map(lambda now, old: jnp.where(counts, now, old), sums, state.kept)
        return PilotState(TiltedState(moved, after, log_weight + log_ratio), sums, kept), shown

    def _add(self, sums: tuple[Sums, ...], path: PyTree, noise: Noise, step: Float[Array, ""]) -> tuple[Sums, ...]:
        view = self.aim.view(self.problem, path, step)
        here, phi = (jnp.where(view.on, x, 0.0) for x in (view.here, view.features))
        more = sums_of(self.problem, path, noise, phi, here)
        parts = self._parts(path, noise, step)
        return tuple(
            Sums(*(a + part * b for a, b in zip(old, more, strict=True))) for old, part in zip(sums, parts, strict=True)
        )

    def _parts(self, path: PyTree, noise: Noise, step: Float[Array, ""]) -> tuple[Any, ...]:
        """Chances that the noise came from the calm law and from that of shocks, given what it is."""
        tilt = self.mixture.tilts[0]
        if tilt.shock is None:
            return (1.0,)
        view = tilt.aim.view(self.problem, path, step)
        law, _ = tilt.law(view, most_drift(self.steps))
        _, odds = both_densities(self.problem, tilt, law, tilt.share(view), path, noise)
        return jax.nn.sigmoid(-odds), jax.nn.sigmoid(odds)

    def outcome(self, state: PilotState) -> dict[str, Any]:
        found = self.problem.outcome(state.tilted.path)
        clipped = state.tilted.memory.clipped
        return found | {"log_weight": state.tilted.log_weight, "clipped": clipped, "sums": state.kept}


def no_sums(problem: AbstractProblem) -> Sums:
    """The sums of no step."""
    roles = problem.roles
    free, events, marks, sizes = (len(x) for x in (roles.free(problem.draws), roles.events, roles.marks, roles.sizes))
    shapes = [(FEATURES, FEATURES), (free, FEATURES), (BINS,), (events, BINS), (events, BINS)]
    shapes += [(marks, BINS), (marks, BINS), (sizes, BINS)]
    return Sums(*(jnp.zeros(shape, problem.dtype) for shape in shapes))


def sums_of(
    problem: AbstractProblem, path: PyTree, noise: Noise, phi: Float[Array, " features"], here: Float[Array, " bins"]
) -> Sums:
    """What one step adds, with the features of the path and one in its bin."""
    roles = problem.roles
    happens, chances = events(problem, path, noise)

    def rows(values: list[Any]) -> Float[Array, "rows bins"]:
        return jnp.stack([v * here for v in values]) if values else jnp.zeros((0, BINS), here.dtype)

    def if_happens(value: Float[Array, ""], event: int) -> Float[Array, ""]:
        return value if event == ALWAYS else jnp.where(happens[event], value, 0.0)

    def size(place: int, event: int) -> Float[Array, ""]:
        return -jnp.log(noise.uniform[place] / (chances[event] if is_own(roles, place, event) else 1.0))

    free = [noise.normal[place] * phi for place in roles.free(problem.draws)]
    marks = [if_happens(noise.normal[place], event) for place, event in roles.marks]
    return Sums(
        phi[:, None] * phi[None, :],
        jnp.stack(free) if free else jnp.zeros((0, FEATURES), phi.dtype),
        here,
        rows(chances),
        rows([jnp.where(h, 1.0, 0.0).astype(here.dtype) for h in happens]),
        rows(marks),
        rows([z * z for z in marks]),
        rows([if_happens(size(place, event), event) for place, event in roles.sizes]),
    )


def solve(
    problem: AbstractProblem,
    aim: Aim,
    sums: tuple[Sums, ...],
    omega: Float[np.ndarray, " paths"],
    feedback: bool = True,
) -> Tilt:
    """The tilt closest, in relative entropy, to the pilot paths weighted by omega.

    Drifts are a weighted least squares of the innovations on the features; chances, marks and sizes are weighted moments
    in each bin, pulled towards the law itself where few paths have been. Without `feedback` the only feature is one and all
    bins are joined, as they always are for shocks: steps count for the two laws by the chances that they came from them.

    **Source:** de Boer, Kroese, Mannor, Rubinstein (2005), "A tutorial on the cross-entropy method"; Dempster, Laird, Rubin
    (1977) for the two laws.
    """
    omega = omega / omega.sum()
    means = [averaged(s, omega) for s in sums]
    numbers = [jnp.asarray(x.astype(problem.dtype)) for x in _numbers(problem, means[0], feedback)]
    tilt = Tilt(aim, numbers[0], numbers[1], numbers[2], numbers[3], numbers[4])
    if len(means) == 1:
        return tilt
    law = joined(problem, means[1])
    share = (means[1].seen + PSEUDO / problem.steps) / (means[0].seen + means[1].seen + PSEUDO)
    return with_shock(tilt, Shock(jnp.asarray(share.astype(problem.dtype)), law))


def averaged(sums: Sums, omega: Float[np.ndarray, " paths"]) -> Sums:
    """Sums of many paths, weighted."""
    return Sums(*(np.tensordot(omega, np.asarray(x, float), axes=1) for x in sums))  # pyright: ignore[reportArgumentType]


def joined(problem: AbstractProblem, sums: Sums) -> Law:
    """The law closest to weighted steps, the same at all distances."""
    return Law(*(jnp.asarray(x[:, 0].astype(problem.dtype)) for x in _numbers(problem, sums, feedback=False)))


def _numbers(problem: AbstractProblem, s: Sums, feedback: bool) -> tuple[Any, ...]:
    """Drift, factor, mean, deviation and size of a law."""
    roles, pseudo = problem.roles, PSEUDO
    used = FEATURES if feedback else 1
    gram = s.gram[:used, :used] + RIDGE * np.eye(used)
    drift = np.zeros_like(s.moment)
    drift[:, :used] = np.linalg.solve(gram, s.moment[:, :used].T).T
    if not feedback:
        s = s._replace(**{name: _joined(getattr(s, name)) for name in Sums._fields[2:]})
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_chance = s.chance.sum(axis=1, keepdims=True) / s.seen.sum()
        chance = np.where(s.seen > 0.0, s.chance / s.seen, mean_chance)
    chance = np.clip(chance, 0.0, 1.0)
    share = np.clip((s.happened + pseudo * chance) / (s.seen + pseudo), 0.0, LARGEST_CHANCE)
    odds = chance / np.maximum(1.0 - chance, 1e-12)
    movable = (chance > 0.0) & (chance < 1.0)
    factor = np.where(movable, share / (1.0 - share) / np.where(odds > 0.0, odds, 1.0), 1.0)
    times = [s.happened[event] if event != ALWAYS else s.seen for _, event in (*roles.marks, *roles.sizes)]
    counts = np.stack(times) if times else np.zeros((0, BINS))
    of_marks, of_sizes = counts[: len(roles.marks)] + pseudo, counts[len(roles.marks) :] + pseudo
    mean = s.mark / of_marks
    deviation = np.sqrt(np.maximum((s.square + pseudo) / of_marks - mean**2, 0.0))
    size = np.clip((s.size + pseudo) / of_sizes, *SIZES)
    return drift, np.clip(factor, *FACTORS), mean, np.clip(deviation, 1.0, WIDEST), size


def _joined(bins: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """The sum over all bins in each of them."""
    return np.broadcast_to(bins.sum(axis=-1, keepdims=True), bins.shape)
