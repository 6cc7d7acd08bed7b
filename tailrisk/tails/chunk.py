"""The sums of one chunk of weighted paths, made on the device beside the paths."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from . import histogram, sums
from .plan import Plan


def device_sums(
    plan: Plan,
    x: Float[Array, " paths"],
    log_weight: Float[Array, " paths"],
    controls: Float[Array, "paths controls"] | None = None,
) -> dict[str, Any]:
    """The sums of one chunk, to be traced in the program that makes the paths; `from_sums` makes a summary of them.

    Compensated pairs (hi, lo) in the precision of x. The chunk starts at a path number that `plan.period` divides.
    """
    weight = jnp.exp(log_weight)
    units = plan.units.astype(x.dtype)
    y = jnp.stack([weight / unit * row(x) for row, unit in zip(plan.rows, units, strict=True)], axis=-1)
    most = jnp.max(log_weight)
    relative = jnp.exp(log_weight - jnp.where(jnp.isfinite(most), most, 0.0))
    broken = ~jnp.isfinite(x) | jnp.isnan(log_weight) | (log_weight == jnp.inf)
    out: dict[str, Any] = {
        "broken": jnp.sum(broken.astype(jnp.int32)),
        "log_most": most,
        "weights": sums.compensated_sum(jnp.stack([relative, relative * relative], axis=-1)),
        "top": jax.lax.top_k(jnp.abs(y).T, min(plan.top, x.size))[0],
    }
    if plan.controls:
        assert controls is not None
        y = jnp.concatenate([y, weight[:, None] * controls], axis=-1)
    out |= _centered_sums(plan, y)
    out["cross"] = _cross_sums(plan, y)
    if plan.reservoir:
        value, index = jax.lax.top_k(x, min(plan.reservoir, x.size))
        out["reservoir"] = (value, log_weight[index], index % plan.period)
    if plan.lowest:
        out["histogram"] = histogram.histogram(x, weight, histogram.bins(x, plan.lowest))
    return out


def _centered_sums(plan: Plan, y: Float[Array, "paths columns"]) -> dict[str, Any]:
    """Sums of the first four powers of y about a mean of the batch, and of |y| with its maximum."""
    count = jnp.asarray(np.maximum(batch_sizes(y.shape[0], plan.batches), 1)).astype(y.dtype)
    first, rest = sums.compensated_sum(y, plan.batches)
    center = _settled((first + rest) / count[:, None])
    lanes = sums.rows_of_lanes(y)
    inside = sums.rows_of_lanes(jnp.ones((y.shape[0], 1), y.dtype))
    away = (lanes - jnp.tile(center, (sums.LANES // plan.batches, 1))[None]) * inside
    square = away * away
    terms = jnp.concatenate([away, square, square * away, square * square, jnp.abs(lanes)], axis=-1)
    largest = jnp.max(jnp.abs(lanes), axis=0)
    nonzero = jnp.sum((lanes != 0.0).astype(jnp.int32), axis=0)
    shape = (-1, plan.batches, y.shape[-1])
    return {
        "center": center,
        "powers": sums.fold(sums.lane_sums(terms), plan.batches),
        "largest": jnp.max(largest.reshape(shape), axis=0),
        "nonzero": jnp.sum(nonzero.reshape(shape), axis=0),
    }


def _cross_sums(plan: Plan, y: Float[Array, "paths columns"]) -> tuple[Array, sums.Pair, sums.Pair]:
    """A center of each group, and the sums of the columns and of their products about it."""
    center = _settled(sums.group_sums(y, plan.groups)[0] * (plan.groups / y.shape[0]))
    away = y - center[jnp.arange(y.shape[0]) // sums.GROUP % plan.groups]
    first, second = np.triu_indices(y.shape[1])
    return center, sums.group_sums(away, plan.groups), sums.group_sums(away[:, first] * away[:, second], plan.groups)


def _settled(center: Float[Array, "..."]) -> Float[Array, "..."]:
    """A center without its last bit.

    A compiler that joins the division before it with the subtraction after it would subtract another center than the one
    returned; it cannot see through a loss of precision.
    """
    info = jnp.finfo(center.dtype)
    return jax.lax.reduce_precision(center, info.nexp, info.nmant - 1)


def batch_sizes(paths: int, batches: int) -> np.ndarray:
    return (paths - np.arange(batches) + batches - 1) // batches
