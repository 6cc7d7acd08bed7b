"""What a run keeps of its weighted paths: a summary that merges, so that no function needs all of them in memory.

A path has a value x (a score or a loss) and the logarithm of its likelihood ratio w. The plan names the integrands f(x); every
y = w f(x) gets its moments and largest values, in batches of path numbers. `summarize` makes the summary of a chunk on the
device, in the precision of x; NumPy arrays are taken in double precision. `merge` joins summaries in float64 on the host, and
`insert` and `total` do so in the canonical order: chunks are the leaves of a binary tree, so the result has the same bits for
any number of devices and any order of arrival.
"""

import math
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._fields import InputError
from ..simulate import entry_point
from . import histogram, sums, tree
from .chunk import batch_sizes, device_sums
from .moments import Moments, centered, empty_moments, merge_moments, scaled
from .moments import total as total_moments
from .plan import Plan


class Cross(NamedTuple):
    """Means of the columns in each group of paths, and sums of (a - mean a)(b - mean b) for each two of them."""

    mean: np.ndarray
    comoment: np.ndarray


class Reservoir(NamedTuple):
    """The largest x, largest first, with their log weights and path numbers modulo the period of the plan.

    Unused places hold -inf.
    """

    value: np.ndarray
    log_weight: np.ndarray
    place: np.ndarray


class Accumulator(eqx.Module):
    """Summary of weighted paths, in units of the plan; `top` has shape (rows, top), `moments` (columns, batches).

    Columns are the rows of the plan and then w c for every control c. `cross` has their means and co-moments by group.
    `log_most`, `weight_sum`, `weight_square`: max log w, sum w / max w, sum (w / max w)^2. `broken` counts paths whose value
    or weight is no number.
    """

    plan: Plan = eqx.field(static=True)
    paths: int
    broken: int
    moments: Moments
    log_most: float
    weight_sum: float
    weight_square: float
    top: np.ndarray
    cross: Cross
    reservoir: Reservoir
    histogram: np.ndarray


def empty(plan: Plan) -> Accumulator:
    """The summary of no path, the identity of `merge`."""
    columns = len(plan.rows) + plan.controls
    bins = histogram.OVERFLOW + 1 if plan.lowest else 0
    return Accumulator(
        plan,
        0,
        0,
        empty_moments(columns, plan.batches),
        -math.inf,
        0.0,
        0.0,
        np.zeros((len(plan.rows), plan.top)),
        Cross(np.zeros((plan.groups, columns)), np.zeros((plan.groups, columns, columns))),
        _nothing_kept(plan.reservoir),
        np.zeros((bins, histogram.SUMS)),
    )


def _nothing_kept(size: int) -> Reservoir:
    nothing = np.full(size, -np.inf)
    return Reservoir(nothing, nothing, np.zeros(size, np.int64))


def from_sums(plan: Plan, paths: int, made: dict[str, Any]) -> Accumulator:
    """The summary of one chunk of `paths` paths from what `device_sums` gave."""
    made = jax.tree.map(np.asarray, made)

    def added(pair: Any) -> np.ndarray:
        return np.asarray(pair[0], float) + np.asarray(pair[1], float)

    blank, weights = empty(plan), added(made["weights"])[0]
    *powers, absolute = np.split(added(made["powers"]).T, 5)
    count = np.broadcast_to(batch_sizes(paths, plan.batches), blank.moments.mean.shape)
    reservoir, binned = blank.reservoir, blank.histogram
    center, one, two = made["cross"]
    cross = _cross(center.astype(float), added(one), added(two), paths // plan.groups)
    if plan.reservoir:
        reservoir = _keep(blank.reservoir, Reservoir(*made["reservoir"]))
    if plan.lowest:
        binned = added(made["histogram"])
    return Accumulator(
        plan,
        paths,
        int(made["broken"]),
        centered(count, made["center"].T.astype(float), powers, absolute, made["largest"].T, made["nonzero"].T),
        float(made["log_most"]),
        float(weights[0]),
        float(weights[1]),
        _largest(blank.top, made["top"].astype(float)),
        cross,
        reservoir,
        binned,
    )


def _cross(center: np.ndarray, one: np.ndarray, two: np.ndarray, paths: int) -> Cross:
    """From sums about centers, over so many paths of each group."""
    shift, columns = one / paths, center.shape[1]
    first, second = np.triu_indices(columns)
    comoment = np.zeros((center.shape[0], columns, columns))
    comoment[:, first, second] = comoment[:, second, first] = two - paths * shift[:, first] * shift[:, second]
    diagonal = np.arange(columns)
    comoment[:, diagonal, diagonal] = np.maximum(comoment[:, diagonal, diagonal], 0.0)
    return Cross(center + shift, comoment)


_jitted = entry_point(device_sums)


def summarize(plan: Plan, x: Any, log_weight: Any = None, controls: Any = None) -> Accumulator:
    """The summary of one chunk from its values and log weights (none: all weights are one).

    JAX arrays are summed in their own precision on their device, with compensation; where its compiler removes that, and
    for NumPy arrays, in float64.

    **Raises:** `InputError` for a chunk that ends within the groups of a plan that has several.
    """
    if plan.groups > 1 and (x.size == 0 or x.size % plan.period):
        raise InputError(
            f"{x.size} paths: expected a multiple of {plan.period}, so that every law has its share of them"
        )
    on_device = isinstance(x, jax.Array)
    if on_device and sums.compensation_survives(next(iter(x.devices())).platform):
        log_weight = jnp.zeros_like(x) if log_weight is None else log_weight
        return from_sums(plan, x.size, _jitted(plan, x, log_weight, controls))
    x = np.asarray(x, float)
    log_weight = np.zeros_like(x) if log_weight is None else np.asarray(log_weight, float)
    if log_weight.shape != x.shape:
        raise InputError(f"log_weight has shape {log_weight.shape}: expected {x.shape}, one per value")
    with jax.enable_x64(True):
        arrays = jax.tree.map(jnp.asarray, (x, log_weight, None if controls is None else np.asarray(controls, float)))
        return from_sums(plan, x.size, _jitted(plan, *arrays))


def merge(a: Accumulator, b: Accumulator) -> Accumulator:
    """The summary of both sets of paths together.

    **Raises:** `InputError` for summaries of different plans: runs under different sampling laws are independent estimates.
    """
    if a.plan != b.plan:
        raise InputError(f"summaries of {a.plan} and {b.plan} do not merge: expected one plan and one sampling law")
    most = max(a.log_most, b.log_most)
    at, bt = (math.exp(s.log_most - most) if math.isfinite(s.log_most) else 0.0 for s in (a, b))
    return Accumulator(
        a.plan,
        a.paths + b.paths,
        a.broken + b.broken,
        merge_moments(a.moments, b.moments),
        most,
        at * a.weight_sum + bt * b.weight_sum,
        at**2 * a.weight_square + bt**2 * b.weight_square,
        _largest(a.top, b.top),
        _merge_cross(a, b),
        _keep(a.reservoir, b.reservoir),
        a.histogram + b.histogram,
    )


def _largest(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return -np.sort(-np.concatenate([a, b], axis=1), axis=1)[:, : a.shape[1]]


def _keep(a: Reservoir, b: Reservoir) -> Reservoir:
    fields = [np.concatenate(pair) for pair in zip(a, b, strict=True)]
    order = np.argsort(-fields[0].astype(float), kind="stable")[: a.value.size]
    return Reservoir(*(field[order].astype(old.dtype) for field, old in zip(fields, a, strict=True)))


def _merge_cross(a: Accumulator, b: Accumulator) -> Cross:
    na, nb = (one.paths // one.plan.groups for one in (a, b))
    n = max(na + nb, 1)
    d = b.cross.mean - a.cross.mean if na and nb else np.zeros_like(a.cross.mean)
    mean = a.cross.mean + d * (nb / n) if na else b.cross.mean
    apart = d[:, :, None] * d[:, None, :] * (na * nb / n)
    return Cross(mean, a.cross.comoment + b.cross.comoment + apart)


Nodes = dict[tree.Place, Accumulator]
"""Finished nodes of the canonical tree of chunks."""


def insert(nodes: Nodes, chunk: int, leaf: Accumulator) -> Nodes:
    """The nodes after one more chunk, which may come in any order; see `tree.insert`."""
    return tree.insert(nodes, (0, chunk), leaf, merge)


def total(nodes: Nodes) -> Accumulator:
    """The summary of all chunks so far, in the order of their numbers."""
    return tree.total(nodes, merge)


class Means(NamedTuple):
    """Means of the rows and of w c for every control c, and the covariance of these estimates, in natural units."""

    value: np.ndarray
    covariance: np.ndarray


def means(acc: Accumulator) -> Means:
    """The means of all paths, with what they vary given how many paths each law of a mixture gets.

    The groups g are of one size n and each has one law, so they are strata:

        mean = (1/G) sum_g mean_g,    cov = (1/G^2) sum_g C_g / (n (n - 1)),    C_g the sums of products about the means of g.

    What the means of the laws differ by is in none of them. Fewer than two paths in a group have no covariance.

    **Source:** Cochran, "Sampling Techniques" (1977), section 5.3; Owen and Zhou (2000), "Safe and effective importance
    sampling", for mixtures with fixed shares.
    """
    plan, groups = acc.plan, acc.plan.groups
    unit = np.concatenate([plan.units, np.ones(plan.controls)])
    n = acc.paths // groups
    spread = acc.cross.comoment.sum(axis=0) / (groups**2 * n * (n - 1)) if n > 1 else np.full((unit.size,) * 2, np.nan)
    return Means(acc.cross.mean.mean(axis=0) * unit, spread * unit[:, None] * unit)


def std_error(acc: Accumulator, row: int) -> float:
    """Standard error of the mean of a row; see `means`."""
    return float(np.sqrt(means(acc).covariance[row, row]))


def row_moments(acc: Accumulator, row: int) -> Moments:
    """Moments of a row over all paths, whatever law they come from, in natural units; row 0 is the weight."""
    whole = total_moments(Moments(*(field[row] for field in acc.moments)))
    return scaled(whole, float(acc.plan.units[row]))
