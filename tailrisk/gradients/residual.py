"""Mean shift plus residual: thresholds that move apart, as a common move that the noise pays for and what is left of each.

With c_k the margin thresholds, theta a parameter, alpha a mean of dc_k/dtheta and U the derivative of E[F] in a common rise,

    d/dtheta E[F] = E[dF/dtheta at fixed events] + alpha U + (boundary terms with the velocities dc_k/dtheta - alpha).

U comes from the absorbed shift in one pass over all paths, the boundary terms from branches of some of them. Any alpha gives the
same mean; that of a least-squares fit to the branches of a pilot leaves little to them, because most of what branches are worth
comes from a few thresholds whose velocities hardly differ.

**Source:** the two parts are those of `shift` and `branch`.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from .._fields import InputError
from . import branch
from .functionals import AbstractFunctional, refuse_jumps
from .ladder import Ladder
from .record import PILOT_FIRST, Batches, Gradient, batch_size, gradient, no_bias, pilot, require, run_batches
from .shift import AbsorbedShift, coefficients, uniform_shift
from .walk import LadderWalk

PARAMETERS = ("initial_shift", "impact")


def common_velocities(
    walk: LadderWalk, parameters: tuple[str, ...], *, seed: int, size: int, paths: int, chunk: int
) -> np.ndarray:
    """Velocity of a common move that is nearest, per parameter, to what branches of pools of `size` paths were worth.

    The paths, at least `paths` of them, are those that no estimate reports.
    """
    branching = branch.Branching(walk, (), seed=seed, size=size, count=size, chunk=chunk)
    pools = range(PILOT_FIRST, PILOT_FIRST + max(paths, size), size)
    worth = np.concatenate([branching.branches(branching.pool(first), 0)[0] for first in pools], axis=1)
    common, total = worth[-1], np.square(worth[-1]).sum()
    rows = worth[[branch.PARAMETERS.index(name) for name in parameters]]
    return rows @ common / (total if total > 0.0 else 1.0)


def _together(whole: Batches, part: Batches) -> Batches:
    """Sums of independent parts, batch by batch; weights are those of the first, which has all paths."""
    return whole._replace(
        means=whole.means + part.means,
        largest_share=np.maximum(whole.largest_share, part.largest_share),
        seconds=whole.seconds + part.seconds,
    )


def estimate(
    ladder: Ladder,
    parameters: tuple[str, ...] = ("initial_shift",),
    *,
    seed: int = 0,
    paths: int = 64 * 16_384,
    batches: int = 64,
    functional: AbstractFunctional | None = None,
    share: int = 16,
    pilot_paths: int = 65_536,
    chunk: int = 16_384,
    branch_chunk: int = 256,
    dtype: Any = None,
) -> Gradient:
    """Derivatives in what moves thresholds apart, unbiased, no breaker.

    `share`: one path in so many is branched at, in pools of other paths than those of the common move, which it takes over 12
    increments within 3 deviations of the first threshold. `pilot_paths`: for its control variate, and a share of them for
    the branches.

    **Raises:** `InputError` for other parameters, for a functional that jumps, for batches that `share` does not divide, and
    with a breaker, where a common move cannot be absorbed over several steps.
    """
    refuse_jumps(functional, "mean shift plus residual")
    remedy = "maintenance moves all thresholds alike: use shift; others move none"
    require(parameters, PARAMETERS, "mean shift plus residual", remedy)
    if ladder.has_breaker:
        raise InputError(
            f"band = {float(ladder.band):g}: mean shift plus residual has no circuit breaker, which compares prices "
            "with different shares of the shift; use branch or differences"
        )
    size = batch_size(paths, batches)
    if share < 1 or size % share:
        raise InputError(f"share = {share} for {size} paths a batch: expected a whole number that divides them")
    parameters = tuple(parameters)
    walk = LadderWalk.build(ladder, functional, dtype)
    field = (jnp.asarray(np.array([x]).astype(walk.dtype)) for x in (12.0, 3.0 * float(ladder.law.deviation)))
    system = AbsorbedShift(walk, *field)
    control, shares = coefficients(pilot(system, seed=seed, paths=pilot_paths, chunk=chunk))
    apart = (seed + 2**63) % 2**64  # noise of their own for the branches
    some = pilot_paths // share
    common = common_velocities(walk, parameters, seed=apart, size=size // share, paths=some, chunk=branch_chunk)

    def contributions(outcome: dict[str, np.ndarray]) -> np.ndarray:
        shift = uniform_shift(outcome, control, shares)
        return np.stack(
            [
                outcome["weight"] * outcome[f"value_{name}"] + velocity * shift
                for name, velocity in zip(parameters, common, strict=True)
            ]
        )

    whole = run_batches(system, contributions, seed=seed, paths=paths, batches=batches, chunk=chunk)
    rest = branch.run(
        walk,
        parameters,
        seed=apart,
        paths=paths // share,
        batches=batches,
        pilot_paths=some,
        chunk=branch_chunk,
        common=common,
    )
    return gradient(
        _together(whole, rest),
        parameters,
        method="mean shift plus residual",
        reason="the parameter moves thresholds apart, around a common move; no active breaker",
        bias=no_bias(parameters, "zero: the common move is undone by the noise, and the rest sampled at thresholds"),
    )
