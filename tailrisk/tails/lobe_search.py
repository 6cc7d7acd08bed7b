"""Importance sampling of problems of few normals by lobes, found on a ladder of levels."""

import dataclasses
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from .. import _streams
from .._fields import InputError
from .._streams import Noise
from ..simulate import LANES, AbstractSystem, AbstractWrapper
from .diagnostics import Row
from .lobe_fit import Sample, fitted, padded, slope_direction, slotted
from .lobes import LobeLaw, Lobes, log_density, nothing
from .problem import AbstractProblem
from .proposal import Tilted
from .sampler import CHUNK, AbstractFitted, paths_of
from .targets import AbstractTarget, Hint, Probability, Tail, weighted_quantile
from .whole import Whole

GROUPS = 15
"""Groups of 64 paths in which shares are exact: one of the law itself, one of the wide law, 13 of lobes."""
OTHERS = (1.0 / GROUPS, 1.0 / GROUPS)
_FIRST = (0.5, 0.5)


class Kept(NamedTuple):
    """A path, its normals and its log weight."""

    path: PyTree
    normal: Float[Array, " normals"]


class Seen(AbstractWrapper):
    """A problem under a law of its normals, whose outcomes hold them."""

    system: AbstractProblem
    law: LobeLaw

    def init(self) -> Kept:
        return Kept(self.system.init(), jnp.zeros(self.system.draws.normals, self.dtype))

    def step(self, state: Kept, noise: Noise) -> tuple[Kept, PyTree]:
        drawn = self.law.draw(None, state.path, noise)[0]
        path, shown = self.system.step(state.path, drawn)
        return Kept(path, drawn.normal), shown

    def outcome(self, state: Kept) -> dict[str, Any]:
        return self.system.outcome(state.path) | {"normal": state.normal}


def on_device(lobes: Lobes, others: tuple[float, float], law: int, dtype: Any) -> LobeLaw:
    """The mixture in the precision of paths, with the law to draw from."""
    arrays = jax.tree.map(lambda leaf: jnp.asarray(leaf.astype(dtype)), padded(lobes))
    return LobeLaw(arrays, jnp.asarray(np.array(others, dtype)), jnp.asarray(law, jnp.int32))


class FittedLobes(AbstractFitted):
    """Lobes beside equal shares of the law itself and a wide one; `slots` is the lobe of each other group of a period."""

    target: AbstractTarget = eqx.field(static=True)
    hint: Hint = eqx.field(static=True)
    tuning_paths: int = eqx.field(static=True)
    lobes: Lobes
    slots: tuple[int, ...] = eqx.field(static=True)

    @property
    def groups(self) -> int:
        return GROUPS

    def laws(self, numbers: np.ndarray) -> np.ndarray:
        return np.array((0, 1, *(2 + k for k in self.slots)), np.int32)[(numbers // LANES) % GROUPS]

    def pilot_checks(self) -> tuple[Row, ...]:
        return ()

    def system(self, problem: AbstractProblem, law: int) -> AbstractSystem:
        problem = problem if problem.steps == 1 else Whole(problem)
        return Tilted(problem, on_device(self.lobes, OTHERS, law, problem.dtype))


class Round(NamedTuple):
    """The points of all rounds so far with the log density of each in every round's law."""

    z: np.ndarray
    x: np.ndarray
    log_q: np.ndarray


@dataclasses.dataclass(frozen=True)
class LobeMixture:
    """Importance sampling of all normals of a path at once, for problems of one step or a few.

    Rounds of `pilot` points climb to the target: the level is the highest with `elite` effective points of all rounds so far
    (the first number and two for each normal, at most the second), weighted by the mixture of their laws, and the next lobes are
    fitted to the points beyond it. `settle` rounds of twice as many follow at the target itself. The first round draws the law
    itself and the wide one in equal parts, two points or more for each normal.

    **Source:** Cornuet, Marin, Mira, Robert (2012), "Adaptive multiple importance sampling", for the weights of the rounds.
    """

    pilot: int = LANES * GROUPS
    elite: tuple[int, int] = (100, 200)
    settle: int = 2
    rounds: int = 25

    def __post_init__(self):
        if self.pilot < LANES * GROUPS or self.pilot % (LANES * GROUPS) or min(self.settle, self.rounds) < 1:
            raise InputError(
                f"{self}: expected a pilot of a multiple of {LANES * GROUPS} points, and at least one round"
            )

    def fit(self, problem: AbstractProblem, target: AbstractTarget, seed: int) -> FittedLobes:
        """The lobes for a target; the levels of a `Tail` share them."""
        search = _Search(self, problem if problem.steps == 1 else Whole(problem), target, seed)
        d = search.problem.draws.normals
        if d == 0:
            raise InputError("the problem draws no normals; use CrossEntropy, which tilts uniforms as well")
        lobes, settled, last = nothing(d), 0, None
        slots = np.zeros(0, int)
        for number in range(self.rounds):
            search.draw(number, lobes, slots)
            chosen, weight, there = search.select(min(self.elite[0] + 2 * d, self.elite[1]))
            if not weight.sum() > 0.0:
                break
            sample = Sample(search.z[chosen], weight / weight.sum())
            fresh = max(self.pilot, d + d // 2 + 50)
            rises = slope_direction(search.z[-fresh:], search.x[-fresh:])
            directions = [u for u in (last, rises) if u is not None]
            lobes = fitted(sample, OTHERS, directions, np.random.default_rng((seed, number)))
            last = lobes.toward[0] if lobes.share.size == 1 else None
            lobes, slots = slotted(lobes, GROUPS - 2, GROUPS)
            settled += there
            if settled > self.settle:
                break
        return search.result(lobes, slots)


class _Search:
    """All points so far."""

    def __init__(self, method: LobeMixture, problem: AbstractProblem, target: AbstractTarget, seed: int):
        self.method, self.problem, self.target, self.seed = method, problem, target, seed
        d = problem.draws.normals
        self.z, self.x = np.zeros((0, d)), np.zeros(0)
        self.mixtures: list[tuple[Lobes, tuple[float, float], int]] = []
        self.log_q = np.zeros((0, 0))
        self.settled, self.level = False, -np.inf

    def draw(self, number: int, lobes: Lobes, slots: np.ndarray) -> None:
        """One more round of points, and the densities of all points in all rounds."""
        first = lobes.share.size == 0
        others, d = (_FIRST if first else OTHERS), self.problem.draws.normals
        unit = LANES * (2 if first else GROUPS)
        least = max(self.method.pilot, 2 * d) if first else self.method.pilot * (1 + self.settled)
        count = -(-least // unit) * unit
        numbers = np.arange(count, dtype=np.int64)
        laws = np.array([0, 1, *(2 + np.repeat(np.arange(slots.size), slots))], np.int32)
        law = laws[(numbers // LANES) % laws.size]

        def system(law: int) -> AbstractSystem:
            return Seen(self.problem, on_device(lobes, others, law, self.problem.dtype))

        found = paths_of(system, _streams.noise_keys(self.seed, f"lobes/{number}"), numbers, law, CHUNK)
        if self.target.outcome not in found:
            names = ", ".join(name for name in found if name != "normal")
            raise InputError(f"outcome = {self.target.outcome!r}: expected one of {names}")
        z, x = np.asarray(found["normal"], float), np.asarray(found[self.target.outcome], float)
        good = np.isfinite(x)
        z, x = z[good], x[good]
        self.mixtures.append((lobes, others, x.size))
        old = np.append(self.log_q, log_density(lobes, others, self.z)[None, :], axis=0) if number else self.log_q
        new = np.stack([log_density(*mixture[:2], z) for mixture in self.mixtures])
        self.log_q = np.concatenate([old.reshape(len(self.mixtures), -1), new], axis=1)
        self.z, self.x = np.concatenate([self.z, z]), np.concatenate([self.x, x])

    def select(self, least: int) -> tuple[np.ndarray, np.ndarray, bool]:
        """The points of the next fit with their weights, and whether they are those of the target itself."""
        log_q = self._log_mixture()
        weight = np.exp(-log_q)
        order = np.argsort(-self.x, kind="stable")
        x, w = self.x[order], np.exp(log_q.min() - log_q)[order]
        with np.errstate(invalid="ignore", divide="ignore"):
            effective = np.nan_to_num(np.cumsum(w) ** 2 / np.cumsum(w * w))
        enough = np.flatnonzero(effective >= least)
        if enough.size:
            self.level = max(self.level, float(x[enough[0]]))
        goal = self._goal(weight)
        if self.level >= goal:
            self.settled = True
            y = self._contributions(weight)
            chosen = np.flatnonzero(y > 0.0)
            return chosen, y[chosen], True
        chosen = np.flatnonzero(self.x >= self.level)
        return chosen, w[np.argsort(order)][chosen], False

    def _log_mixture(self) -> np.ndarray:
        """The log density of every point in the mixture of the laws of all rounds."""
        counts = np.array([count for _, _, count in self.mixtures], float)
        return np.logaddexp.reduce(self.log_q + np.log(counts / counts.sum())[:, None], axis=0)

    def _goal(self, weight: np.ndarray) -> float:
        """The outcome at which the ladder ends."""
        if isinstance(self.target, Probability):
            return self.target.level
        if isinstance(self.target, Tail):
            return weighted_quantile(self.x, weight, self.target.levels[-1])
        return float(np.nextafter(self.x.min(), np.inf))  # a mean: beyond the atom

    def _contributions(self, weight: np.ndarray) -> np.ndarray:
        if isinstance(self.target, Tail):
            return sum((Tail.beyond(self.x, weight, level) for level in self.target.levels), np.zeros(self.x.size))
        return self.target.contributions(self.x, weight)

    def result(self, lobes: Lobes, slots: np.ndarray) -> FittedLobes:
        """The frozen law, with typical sizes of contributions."""
        quantiles = ()
        weight = np.exp(-self._log_mixture())
        if isinstance(self.target, Tail):
            quantiles = tuple(weighted_quantile(self.x, weight, level) for level in self.target.levels)
        y = self._contributions(weight)
        unit = float(np.median((weight if quantiles else y)[y > 0.0])) if np.any(y > 0.0) else 1.0
        hint = Hint(unit, quantiles, f"{self.method}")
        which = tuple(int(k) for k in np.repeat(np.arange(slots.size), slots))
        return FittedLobes(self.target, hint, self.x.size, lobes, which)
