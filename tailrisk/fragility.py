"""How close a book of leveraged positions is to a cascade, read off its liquidation levels without simulating.

A book is two arrays: `levels`, the log price (relative to now) at which each long is liquidated, in any order, and
`quantity`, its units. Shorts are the mirror image: pass minus their levels and, to the impact law, positive volumes.
Falls of log price are called drops and are positive. The impact law is for one asset; its state starts at rest and does
not decay meanwhile.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._fields import Number, cast
from .impact import AbstractImpact


class ShockResponse(NamedTuple):
    """What each shock does to the whole book: total log fall, units sold by force, share of the book sold."""

    drop: Float[Array, " shocks"]
    volume: Float[Array, " shocks"]
    share: Float[Array, " shocks"]


class Criticality(NamedTuple):
    """Where the loop gain reaches one.

    distance: smallest shock whose cascade enters a critical zone, inf if there is none. zone: log price where that zone
    starts, -inf if there is none. branching: largest R on the grid. worst: log price of it. share: quantity inside
    zones with R >= 1 over all quantity.
    """

    distance: Float[Array, ""]
    zone: Float[Array, ""]
    branching: Float[Array, ""]
    worst: Float[Array, ""]
    share: Float[Array, ""]


@jax.jit
def forced_volume(
    levels: Float[Array, " positions"], quantity: Float[Array, " positions"], drop: Float[Array, " drops"]
) -> Float[Array, " drops"]:
    """Units liquidated once log price has fallen by `drop`: those with level >= -drop."""
    depth, sold = _sorted(levels, quantity)
    return sold[jnp.searchsorted(depth, drop, side="right")]


@partial(jax.jit, static_argnames="kernel")
def liquidation_map(
    levels: Float[Array, " positions"],
    quantity: Float[Array, " positions"],
    grid: Float[Array, " grid"],
    bandwidth: Number = 0.005,
    kernel: str = "box",
) -> Float[Array, " grid"]:
    """Density of forced selling rho(y) at log prices `grid`, in units per unit of log price.

    `box`: quantity within bandwidth / 2 on either side, over the bandwidth; O(log N) per point. `gaussian`: a kernel
    with that standard deviation, differentiable in the levels; needs memory for grid x positions.
    """
    if kernel == "gaussian":
        away = (grid[:, None] - levels[None, :]) / bandwidth
        weight = jnp.exp(-0.5 * away * away) / (bandwidth * (2.0 * jnp.pi) ** 0.5)
        return jnp.sum(weight * quantity[None, :], axis=1)
    if kernel != "box":
        raise ValueError(f"kernel = {kernel!r}, expected box or gaussian")
    half = 0.5 * bandwidth
    inside = forced_volume(levels, quantity, half - grid) - forced_volume(levels, quantity, -grid - half)
    return inside / bandwidth


@jax.jit
def impact_slope(impact: AbstractImpact, sold: Float[Array, " volumes"]) -> Float[Array, " volumes"]:
    """lambda: log fall per further unit of forced selling when `sold` units have been sold from rest."""
    impact = cast(impact, sold.dtype)

    def slope(volume: Any) -> Any:
        return jax.jvp(lambda v: _offset(impact, v), (volume,), (jnp.ones_like(volume),))[1]

    return jax.vmap(slope)(sold)


@partial(jax.jit, static_argnames="kernel")
def branching_map(
    levels: Float[Array, " positions"],
    quantity: Float[Array, " positions"],
    impact: AbstractImpact,
    grid: Float[Array, " grid"],
    bandwidth: Number = 0.005,
    kernel: str = "box",
) -> Float[Array, " grid"]:
    """Branching number R(y) = lambda(y) rho(y): units forced by one forced unit when the price stands at log price y.

    lambda is taken at the volume sold on the way down to y. R >= 1 on an interval is a zone the price jumps through.
    """
    slope = impact_slope(impact, forced_volume(levels, quantity, -grid))
    return slope * liquidation_map(levels, quantity, grid, bandwidth, kernel)


@jax.jit
def shock_to_drop(
    levels: Float[Array, " positions"],
    quantity: Float[Array, " positions"],
    impact: AbstractImpact,
    shocks: Float[Array, " shocks"],
) -> ShockResponse:
    """Total fall D of a book of single positions for each outside fall: the smallest D = shock + I(F(D)), exactly.

    Position i + 1 falls iff its level is within shock + I(volume of the first i), so the cascade stops at the first i
    where d_{i+1} - I(V_i) > shock: a search in the running maximum of that barrier, O(log N) per shock after one sort.
    F counts whole positions, so D has a jump wherever a position is added, and autodiff sees only the path between
    jumps (dD / dshock = 1); the derivative of a smooth book is that of `feedback.fixed_point`.
    """
    _, sold, offsets, barrier = _barriers(levels, quantity, impact)
    last = jnp.searchsorted(barrier, shocks, side="right")
    volume = sold[last]
    return ShockResponse(shocks + offsets[last], volume, volume / sold[-1])


@jax.jit
def distance_to_criticality(
    levels: Float[Array, " positions"],
    quantity: Float[Array, " positions"],
    impact: AbstractImpact,
    grid: Float[Array, " grid"],
    bandwidth: Number = 0.005,
) -> Criticality:
    """Smallest outside fall whose cascade reaches a log price where R >= 1, with the zones themselves.

    The fall reaches log price -z iff the shock is at least max over D < z of D - I(F(D)): exact given the zone, which
    is known to the spacing of `grid` and smoothed over the bandwidth. `grid` may be in any order; only log prices <= 0
    count.
    """
    branching = branching_map(levels, quantity, impact, grid, bandwidth)
    critical = (branching >= 1.0) & (grid <= 0.0)
    zone = jnp.max(jnp.where(critical, grid, -jnp.inf))
    found = jnp.isfinite(zone)
    depth, sold, offsets, barrier = _barriers(levels, quantity, impact)
    before = jnp.searchsorted(depth, -zone, side="left")  # positions that fall before the zone is reached
    passed = jnp.where(before > 0, barrier[jnp.maximum(before - 1, 0)], 0.0)
    distance = jnp.maximum(jnp.maximum(passed, jnp.where(found, -zone, 0.0) - offsets[before]), 0.0)
    inside = jnp.sum(jnp.where(critical[_nearest(levels, grid)], quantity, 0.0)) / sold[-1]
    worst = jnp.argmax(branching)
    return Criticality(jnp.where(found, distance, jnp.inf), zone, branching[worst], grid[worst], inside)


def leverage_ratio(quantity: Float[Array, " positions"], price: Number, equity: Number) -> Float[Array, ""]:
    """Leverage of a market, gross notional over equity: sum |q| p / sum E."""
    return jnp.sum(jnp.abs(quantity) * price) / jnp.sum(equity)


def herfindahl(amount: Float[Array, " parts"]) -> Float[Array, ""]:
    """Crowding: sum of squared shares, 1 / n for n equal parts and 1 for a single one.

    Give open interest by account, or by level bucket; the inverse is the effective number of parts.
    """
    share = jnp.abs(amount) / jnp.sum(jnp.abs(amount))
    return jnp.sum(share * share)


def _sorted(levels: Any, quantity: Any) -> tuple[Any, Any]:
    """Drops at which positions fall, rising, and units sold after each number of positions (one longer)."""
    order = jnp.argsort(-levels)
    sold = jnp.concatenate([jnp.zeros(1, quantity.dtype), jnp.cumsum(quantity[order])])
    return -levels[order], sold


def _offset(impact: AbstractImpact, volume: Any) -> Any:
    state = impact.push(impact.init(1, volume.dtype), volume[None])
    return impact.offset(state)[0]


def _barriers(levels: Any, quantity: Any, impact: AbstractImpact) -> tuple[Any, Any, Any, Any]:
    """The smallest shock that takes each position down, given that the ones above it fall first; rising."""
    impact = cast(impact, levels.dtype)
    depth, sold = _sorted(levels, quantity)
    offsets = jax.vmap(lambda volume: _offset(impact, volume))(sold)
    return depth, sold, offsets, jax.lax.cummax(depth - offsets[:-1])


def _nearest(levels: Any, grid: Any) -> Any:
    """Index of the grid point nearest to each level."""
    order = jnp.argsort(grid)
    ordered = grid[order]
    right = jnp.clip(jnp.searchsorted(ordered, levels), 1, grid.size - 1)
    nearer_left = levels - ordered[right - 1] < ordered[right] - levels
    return order[jnp.where(nearer_left, right - 1, right)]
