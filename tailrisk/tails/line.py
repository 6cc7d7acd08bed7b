"""Lines in noise space: where a path with its normals moved along a direction reaches a level, and how that point moves.

The free normals of a path are z = z' + s e with a unit vector e and s standard normal, independent of z'. Where the score
crosses the level at roots s_j of g = score - level, upwards (+) or downwards (-), the path hits with probability

    sum_j +-Phi(-s_j),     with the derivative     sum_j +-phi(s_j) (dg/dtheta) / (dg/ds)

by the implicit function theorem; nothing is differentiated through the search.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.scipy.special as jsp
from jaxtyping import Array, Bool, Float, PyTree

from .._streams import Noise
from ..simulate import AbstractWrapper, entry_point, rollout
from .coordinates import noise_of_path
from .problem import AbstractProblem
from .proposal import Tilted, TiltedState

LOWEST, HIGHEST = -8.0, 14.0  # of s; nothing changes beyond
_FLAT = 1e-6  # slopes of the score in s below this say nothing


class Drawn(AbstractWrapper):
    """A tilted system that shows the noise it was given."""

    system: Tilted

    def init(self) -> TiltedState:
        return self.system.init()

    def step(self, state: TiltedState, noise: Noise) -> tuple[TiltedState, Noise]:
        drawn, log_ratio, memory = self.system.proposal.draw(state.memory, state.path, noise)
        path, _ = self.system.system.step(state.path, drawn)
        return TiltedState(path, memory, state.log_weight + log_ratio), drawn

    def outcome(self, state: TiltedState) -> dict[str, Float[Array, ""]]:
        return self.system.outcome(state)


class Crossing(NamedTuple):
    """Of one line: P(hit) on it, its log weight, how far the last step of the search moved P, whether there is at most one
    root, how many roots are flat, and the slopes of P along tangents of the problem.
    """

    chance: Float[Array, "*paths"]
    log_weight: Float[Array, "*paths"]
    unsure: Float[Array, "*paths"]
    single: Bool[Array, "*paths"]
    flat: Float[Array, "*paths"]
    slopes: Float[Array, "*paths parameters"]


class Lines(eqx.Module):
    """The direction, the s at which a tilt of events sees the path, the level, and the effort, which is fixed."""

    direction: Float[Array, "steps normals"]
    seen_at: Float[Array, ""]
    level: Float[Array, ""]
    cells: int = eqx.field(static=True)
    evaluations: int = eqx.field(static=True)

    def crossing(
        self, problem: AbstractProblem, law: Drawn | None, tangents: tuple[PyTree, ...], keys: Any, number: Any
    ) -> Crossing:
        """The line of one path."""
        e, dtype = self.direction, problem.dtype
        noise = noise_of_path(keys, number, problem.steps, problem.draws, dtype)
        across = noise.normal + (self.seen_at - jnp.sum(noise.normal * e)) * e
        noise, log_weight = noise._replace(normal=across), jnp.zeros((), dtype)
        if law is not None:
            seen = noise
            last, noise = rollout(law, lambda step: Noise(seen.normal[step], seen.uniform[step]), record=True)
            log_weight = last.log_weight

        def gap(problem: AbstractProblem, s: Any) -> Any:
            normal = noise.normal + (s - self.seen_at) * e
            state, _ = rollout(problem, lambda step: Noise(normal[step], noise.uniform[step]))
            return problem.score(state) - self.level

        edges = jnp.linspace(LOWEST, HIGHEST, self.cells + 1, dtype=dtype)
        values = jax.vmap(lambda s: gap(problem, s))(edges)
        hit = jnp.where(values >= 0.0, 1.0, 0.0).astype(dtype)
        sign = hit[1:] - hit[:-1]

        def root(low: Any, high: Any, at_low: Any, at_high: Any) -> tuple[Any, Any]:
            return search(lambda s: gap(problem, s), low, high, at_low, at_high, self.evaluations)

        roots, moved = jax.vmap(root)(edges[:-1], edges[1:], values[:-1], values[1:])
        density = jnp.exp(-0.5 * roots * roots) * (2.0 * jnp.pi) ** -0.5
        chance = hit[0] + jnp.sum(sign * jsp.ndtr(-roots))
        unsure = jnp.sum(jnp.abs(sign) * density * moved)
        single = (jnp.sum(jnp.abs(sign)) <= 1.0) & jnp.all(sign >= 0.0)
        if not tangents:
            return Crossing(chance, log_weight, unsure, single, jnp.zeros((), dtype), jnp.zeros(0, dtype))
        one = jnp.ones_like(roots)
        steep = jax.jvp(jax.vmap(lambda s: gap(problem, s)), (roots,), (one,))[1]
        flat = jnp.abs(steep) < _FLAT
        weight = jnp.where(flat, 0.0, sign * density / jnp.where(flat, 1.0, steep))
        slopes = []
        for tangent in tangents:
            rise = eqx.filter_jvp(lambda p: jax.vmap(lambda s: gap(p, s))(roots), (problem,), (tangent,))[1]
            slopes.append(jnp.zeros((), dtype) if rise is None else jnp.sum(weight * rise))
        flats = jnp.sum(jnp.where(flat, jnp.abs(sign), 0.0))
        return Crossing(chance, log_weight, unsure, single, flats, jnp.stack(slopes))


def search(
    g: Callable[[Any], Any], low: Any, high: Any, at_low: Any, at_high: Any, evaluations: int
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """A root between two points of opposite signs, and how far the last step went, with a fixed number of evaluations.

    Inverse quadratic interpolation where three points allow it, else bisection.

    **Source:** Chandrupatla (1997), "A new hybrid quadratic/bisection algorithm for finding the zero of a nonlinear function
    without using derivatives".
    """

    def over(a: Any, b: Any) -> Any:
        return a / jnp.where(b == 0.0, 1.0, b)

    def body(_: Any, carry: Any) -> Any:
        a, b, at_a, at_b, share, best, _ = carry  # a is the latest point; the root lies between a and b
        x = a + share * (b - a)
        at_x = g(x)
        same = (at_x >= 0.0) == (at_a >= 0.0)
        c, at_c = jnp.where(same, a, b), jnp.where(same, at_a, at_b)
        b, at_b = jnp.where(same, b, a), jnp.where(same, at_b, at_a)
        xi, phi = over(x - b, c - b), over(at_x - at_b, at_c - at_b)
        quadratic = over(at_x, at_b - at_x) * over(at_c, at_b - at_c)
        quadratic = quadratic + over(c - x, b - x) * over(at_x, at_c - at_x) * over(at_b, at_c - at_b)
        good = (phi * phi < xi) & ((1.0 - phi) ** 2 < 1.0 - xi)
        share = jnp.where(at_x == 0.0, 0.0, jnp.where(good, jnp.clip(quadratic, 0.0, 1.0), 0.5))
        better = jnp.where(jnp.abs(at_x) <= jnp.abs(at_b), x, b)
        return x, b, at_x, at_b, share, better, jnp.abs(better - best)

    start = (high, low, at_high, at_low, jnp.full_like(low, 0.5), high, jnp.abs(high - low))
    *_, root, moved = jax.lax.fori_loop(0, evaluations, body, start)
    return root, moved


def _crossings(
    lines: Lines, problem: AbstractProblem, law: Drawn | None, tangents: tuple[PyTree, ...], keys: Any, paths: Any
) -> Crossing:
    return jax.vmap(lambda number: lines.crossing(problem, law, tangents, keys, number))(paths)


crossings = entry_point(_crossings)
"""The lines of the paths with the given numbers."""
