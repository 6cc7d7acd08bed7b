"""Expected bad debt of the whole cascade over all steps without sampling: first-passage quadrature, float64.

Without a breaker account r is sold when the walk first passes below A_r = min(a_0, ..., a_r). The walk is then at a new
minimum u, where n(u) accounts are sold in all, at the price exp(u - G_n(u)). With psi_A the density of that u,

    E[L] = sum_r q_r int_{u < A_r} (d_r - exp(u - G_n(u)))+ psi_{A_r}(u) du.

psi_A is a Gaussian mixture with a center at every node of a quadrature over the walk's position above the barrier, so each
integral between two barriers is a difference of normal distribution functions. All of it is differentiable in every number
of the ladder, because the order of the barriers is taken as it is.

**Source:** Broadie and Yamamoto (2005) for quadrature of discretely monitored barriers by Gaussian sums; the sum over a
cascade with impact is this project's.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr
from jaxtyping import Array, Float

from .._fields import InputError, cast
from .ladder import Ladder

_DEGREE = 6
_REACH = 9.5  # standard deviations beyond which a step is never taken: Phi(-9.5) = 1e-21
_ROWS = 16  # barriers worked on at a time: bounds the memory


class Quadrature(NamedTuple):
    """Gauss-Legendre panels above a barrier; `near` and `far` nodes can reach it without and with a jump (structural)."""

    nodes: Float[np.ndarray, " nodes"]
    weights: Float[np.ndarray, " nodes"]
    near: int
    far: int


def default_span(ladder: Ladder) -> float:
    """From the lowest barrier to eight deviations of the walk above the start (log price)."""
    law, margin = ladder.law, np.asarray(ladder.book.initial_margin) + ladder.initial_shift
    lowest = float((np.asarray(ladder.book.entry) + np.log1p(-margin)).min())
    rise = 8.0 * (float(law.deviation) * np.sqrt(ladder.steps) + float(np.hypot(law.deviation, law.jump_deviation)))
    return rise + max(float(law.drift) * ladder.steps, 0.0) - lowest


def quadrature(ladder: Ladder, *, degree: int = _DEGREE, refine: float = 1.0, span: float | None = None) -> Quadrature:
    """Panels one deviation wide (over `refine`), from a barrier to where the walk may be above the start (`span`)."""
    law = ladder.law
    width = float(law.deviation) / refine
    jump = float(np.hypot(law.deviation, law.jump_deviation))
    above = span if span is not None else default_span(ladder)
    panels = 8 * int(np.ceil(above / width / 8.0))  # few different sizes: few compilations
    x, w = np.polynomial.legendre.leggauss(degree)
    nodes = (width * (np.arange(panels)[:, None] + 0.5 * (x + 1.0))).reshape(-1)
    reach = [
        _REACH * float(law.deviation) + abs(float(law.drift)),
        _REACH * jump + abs(float(law.drift) + float(law.jump_mean)),
    ]
    near, far = (min(degree * 4 * int(np.ceil(r / width / 4.0)), nodes.size) for r in reach)
    return Quadrature(nodes, np.tile(0.5 * width * w, panels), near, far)


class _Branches(NamedTuple):
    """The two Gaussians of a step."""

    share: tuple[Any, Any]
    mean: tuple[Any, Any]
    deviation: tuple[Any, Any]


def _branches(ladder: Ladder) -> _Branches:
    law = ladder.law
    both = jnp.sqrt(law.deviation**2 + law.jump_deviation**2)
    p = law.jump_probability
    return _Branches((1.0 - p, p), (law.drift, law.drift + law.jump_mean), (law.deviation, both))


def _density(branches: _Branches, move: Any) -> Any:
    parts = []
    for share, mean, deviation in zip(*branches, strict=True):
        z = (move - mean) / deviation
        parts.append(share * jnp.exp(-0.5 * z * z) / (deviation * jnp.sqrt(2.0 * jnp.pi)))
    return parts[0] + parts[1]


def _by_rows(function: Any, *rows: Any) -> Any:
    """`function` of blocks of rows, one block at a time, recomputed in the backward pass instead of kept."""
    size = rows[0].shape[0]
    padded = [jnp.concatenate([row, jnp.repeat(row[-1:], -size % _ROWS, axis=0)]) for row in rows]
    blocks = [row.reshape(-1, _ROWS, *row.shape[1:]) for row in padded]
    out = jax.lax.map(jax.checkpoint(lambda block: function(*block)), tuple(blocks))
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:size], out)


def _survivors(ladder: Ladder, branches: _Branches, rule: Quadrature, barriers: Any) -> Any:
    """Expected visits, over all steps but the last, of the walk above each barrier, before it has passed it: per node."""
    nodes, weights = jnp.asarray(rule.nodes), jnp.asarray(rule.weights)
    kernel = weights[:, None] * _density(branches, nodes[None, :] - nodes[:, None])

    def visits(barrier: Any) -> Any:
        first = _density(branches, barrier[:, None] + nodes[None, :])

        def move(carry: Any, _: Any) -> Any:
            here, total = carry
            here = here @ kernel
            return (here, total + here), None

        return jax.lax.scan(move, (first, first), length=max(ladder.steps - 2, 0))[0][1]

    if ladder.steps == 1:
        return jnp.zeros((barriers.shape[0], nodes.size))
    return _by_rows(visits, barriers) * weights[None, :]


def _landings(branches: _Branches, rule: Quadrature, barrier: Any, visits: Any, edges: Any) -> Any:
    """Mass, and mean of exp(u), of the first passages of each barrier that land at or below each of its edges."""
    mass = value = 0.0
    for share, mean, deviation, reach in zip(*branches, (rule.near, rule.far), strict=True):
        start = jnp.zeros((barrier.shape[0], 1))
        center = mean + jnp.concatenate([start, barrier[:, None] + jnp.asarray(rule.nodes[:reach])[None, :]], axis=1)
        weight = share * jnp.concatenate([start + 1.0, visits[:, :reach]], axis=1)
        z = (edges[:, :, None] - center[:, None, :]) / deviation
        growth = weight * jnp.exp(center + 0.5 * deviation**2)
        mass += jnp.einsum("bec,bc->be", ndtr(z), weight)
        value += jnp.einsum("bec,bc->be", ndtr(z - deviation), growth)
    return mass, value


def _expected_bad_debt(ladder: Ladder, rule: Quadrature) -> Float[Array, ""]:
    book = ladder.book
    log_debt = book.entry + jnp.log1p(-(book.initial_margin + ladder.initial_shift))
    order = jnp.argsort(-jax.lax.stop_gradient(log_debt), stable=True)
    log_debt, quantity = log_debt[order], book.quantity[order]
    sold = jnp.cumsum(quantity)
    fall = ladder.impact * sold**ladder.impact_exponent  # G_1 .. G_N
    levels = log_debt - jnp.log1p(-ladder.maintenance) + jnp.append(jnp.zeros(1), fall[:-1])
    # The running minimum, by place, so that its derivative goes to one threshold.
    places = jnp.arange(levels.size)
    lowest = jax.lax.cummin(jax.lax.stop_gradient(levels))
    place = jax.lax.cummax(jnp.where(jax.lax.stop_gradient(levels) == lowest, places, 0))
    barriers = levels[place]

    branches = _branches(ladder)
    visits = _survivors(ladder, branches, rule, barriers)

    # Interval k of account r is A_k <= u < min(A_(k-1), kink), where k accounts are sold: k = r + 1, ..., N. Falls rise and
    # barriers go down with k, so at most one interval ends at a kink, and all later ones at a barrier.
    kinks = log_debt[:, None] + fall[None, :]
    tops, bottoms = barriers[None, :], jnp.append(barriers[1:], -jnp.inf)[None, :]
    later = places[None, :] >= places[:, None]
    whole = later & (tops <= kinks)
    cut = later & (bottoms < kinks) & (kinks < tops)
    at = jnp.argmax(cut, axis=1)
    kink = kinks[places, at]

    def rows(barrier: Any, visits: Any, kink: Any) -> Any:
        edges = jnp.concatenate([jnp.broadcast_to(barriers[None, :], (kink.shape[0], barriers.size)), kink[:, None]], 1)
        return _landings(branches, rule, barrier, visits, edges)

    mass, value = _by_rows(rows, barriers, visits, kink)
    below_mass, below_value = (jnp.pad(table[:, 1:-1], ((0, 0), (0, 1))) for table in (mass, value))
    debt, discount = jnp.exp(log_debt)[:, None], jnp.exp(-fall)[None, :]
    full = debt * (mass[:, :-1] - below_mass) - discount * (value[:, :-1] - below_value)
    part = debt * (mass[:, -1:] - below_mass) - discount * (value[:, -1:] - below_value)
    losses = jnp.where(whole, full, 0.0) + jnp.where(cut, part, 0.0)
    return jnp.sum(quantity[:, None] * losses)


_value = eqx.filter_jit(_expected_bad_debt)
_value_and_gradient = eqx.filter_jit(eqx.filter_value_and_grad(_expected_bad_debt))


def _prepared(ladder: Ladder) -> Ladder:
    ladder.checked()
    if ladder.has_breaker:
        raise InputError(
            f"band = {float(ladder.band):g}: the quadrature has no circuit breaker; set band = inf, or simulate"
        )
    return cast(ladder, jnp.float64)


def expected_bad_debt(ladder: Ladder, **options: Any) -> float:
    """E[L] of the ladder without a breaker, good to about twelve digits; `options` are those of `quadrature`.

    **Raises:** `InputError` if the ladder has a breaker or a number out of bounds.
    """
    rule = quadrature(ladder.checked(), **options)
    with jax.enable_x64(True):
        return float(_value(_prepared(ladder), rule))


def expected_bad_debt_and_gradient(ladder: Ladder, **options: Any) -> tuple[float, Ladder]:
    """E[L] and its derivative in every number of the ladder, per account too, in one reverse pass.

    The derivative has the shape of the ladder; read single numbers with `.get`. Numbers that E[L] does not depend on
    (fee, fund, sampling probability) have derivative zero.

    **Raises:** `InputError` if the ladder has a breaker or a number out of bounds.
    """
    rule = quadrature(ladder.checked(), **options)
    with jax.enable_x64(True):
        value, gradient = _value_and_gradient(_prepared(ladder), rule)
        return float(value), jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), gradient)
