"""Central differences on common random numbers, with the bias of the step measured on a twin whose mean is known.

    g_h = (F(theta + h) - F(theta - h)) / (2 h)

per path: the same normals and jumps at both ends, books sorted afresh at each. E[L] has a continuous derivative whose own
derivative jumps where a liquidation threshold passes a price of zero equity, so the bias is h^2 f'''/6 only below the
distance to the nearest such point and follows the spacing of the accounts above it: it is measured, not assumed.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Array, Float

from .._fields import InputError, problems
from .._streams import Noise
from . import oracle
from .companion import AbstractCompanion
from .functionals import AbstractFunctional, BadDebt
from .ladder import Ladder
from .record import Bias, Gradient, gradient, require, run_batches
from .walk import WEIGHTS, LadderWalk, WalkState

STEPS = {
    "maintenance": 5e-4,
    "initial_shift": 5e-4,
    "impact": 5e-4,
    "impact_exponent": 1e-2,
    "band": 5e-4,
    "fee": 1e-2,
    "fund": 1e-4,
    "law.drift": 1e-5,
    "law.deviation": 5e-5,
    "law.jump_probability": 1e-4,
    "law.jump_mean": 5e-4,
    "law.jump_deviation": 5e-4,
}
"""Parameters that have differences, with the default step of each, in its own unit."""


class Differences(AbstractCompanion):
    """Pairs of walks on the same noise, one pair per parameter: above and below its value."""

    walk: LadderWalk  # between the ends: it lends its noise and is not run
    ends: tuple[tuple[LadderWalk, LadderWalk], ...]

    def _each(self) -> Iterator[tuple[str, LadderWalk]]:
        for i, (above, below) in enumerate(self.ends):
            yield from ((f"above_{i}", above), (f"below_{i}", below))

    def init(self) -> dict[str, WalkState]:
        """All walks at the start."""
        return {name: walk.init() for name, walk in self._each()}

    def step(self, state: dict[str, WalkState], noise: Noise) -> tuple[dict[str, WalkState], None]:
        """The same step of all walks."""
        return {name: walk.step(state[name], noise)[0] for name, walk in self._each()}, None

    def outcome(self, state: dict[str, WalkState]) -> dict[str, Float[Array, ""]]:
        """Per walk its value; the weight; per pair the difference of the weighted values."""
        out = {name: walk.outcome(state[name]) for name, walk in self._each()}
        gaps = {f"gap_{i}": _gap(out[f"above_{i}"], out[f"below_{i}"]) for i in range(len(self.ends))}
        return {name: out["above_0"][name] for name in WEIGHTS} | gaps


def _gap(above: dict[str, Any], below: dict[str, Any]) -> Float[Array, ""]:
    # The second term is zero unless the parameter is in the weights.
    weight = above["weight"] * (above["value"] - below["value"])
    return weight + (above["weight"] - below["weight"]) * below["value"]


def _fits(ladder: Ladder, parameter: str, step: float) -> bool:
    value = ladder.get(parameter)
    return not any(any(problems(ladder.replace(parameter, value + move))) for move in (-step, step))


def largest_step(ladder: Ladder, parameter: str, most: float) -> float:
    """The largest step up to `most` at which both ends are ladders that exist, to six digits."""
    if _fits(ladder, parameter, most):
        return most
    low, high = 0.0, most
    while high - low > 1e-6 * most and high > 1e-300:
        middle = 0.5 * (low + high)
        low, high = (middle, high) if _fits(ladder, parameter, middle) else (low, middle)
    return low


def twin_bias(ladder: Ladder, parameters: tuple[str, ...], steps: np.ndarray) -> np.ndarray:
    """E[g_h] - f' of expected bad debt without a breaker, by quadrature; `nan` for the band."""
    twin = ladder.replace("band", np.inf)
    slopes = oracle.expected_bad_debt_and_gradient(twin)[1]
    span = oracle.default_span(twin)

    def value(parameter: str, step: float) -> float:
        return oracle.expected_bad_debt(twin.replace(parameter, twin.get(parameter) + step), span=span)

    def bias(parameter: str, step: float) -> float:
        if parameter == "band":
            return np.nan
        return (value(parameter, step) - value(parameter, -step)) / (2.0 * step) - slopes.get(parameter)

    return np.array([bias(name, float(step)) for name, step in zip(parameters, steps, strict=True)])


def _bias(ladder: Ladder, parameters: tuple[str, ...], steps: np.ndarray, functional: Any, certify: bool) -> Bias:
    if not certify:
        return Bias(np.full(len(parameters), np.nan), "not measured")
    exact = not ladder.has_breaker and isinstance(functional, BadDebt)
    source = "quadrature of the same ladder" if exact else "quadrature of a remote twin: expected bad debt, no breaker"
    return Bias(twin_bias(ladder, parameters, steps), source)


def estimate(
    ladder: Ladder,
    parameters: tuple[str, ...] = ("maintenance",),
    *,
    seed: int = 0,
    paths: int = 64 * 16_384,
    batches: int = 64,
    functional: AbstractFunctional | None = None,
    step: float | tuple[float, ...] | None = None,
    certify: bool = True,
    chunk: int = 16_384,
    dtype: Any = None,
) -> Gradient:
    """Derivatives in any number of the ladder by central differences on common random numbers.

    `step`: one for all parameters or one each, by default those of `STEPS`. `certify`: measure the bias of the step on the
    twin without a breaker (exact for bad debt without a breaker, a remote twin otherwise).

    **Raises:** `InputError` for whole numbers and for the book, and where an end of the difference is outside the domain,
    with the largest step that is inside.
    """
    remedy = "whole numbers have no derivative: compare simulations; single accounts: use the quadrature"
    require(parameters, tuple(STEPS), "differences", remedy)
    if "band" in parameters and not ladder.has_breaker:
        raise InputError("band = inf: there is no breaker whose band could move; set a finite band")
    ladder.checked()
    chosen = [STEPS[name] for name in parameters] if step is None else step
    steps = np.broadcast_to(np.asarray(chosen, np.float64), len(parameters))
    for name, h in zip(parameters, steps, strict=True):
        if not h > 0.0 or not _fits(ladder, name, float(h)):
            largest = largest_step(ladder, name, float(h)) if h > 0.0 else STEPS[name]
            raise InputError(
                f"step = {h:g} for {name} = {ladder.get(name):g} leaves the domain; use a step from 0 to {largest:.6g}"
            )
    functional = BadDebt() if functional is None else functional

    def end(name: str, move: float) -> LadderWalk:
        return LadderWalk.build(ladder.replace(name, ladder.get(name) + move), functional, dtype)

    ends = tuple((end(name, h), end(name, -h)) for name, h in zip(parameters, steps, strict=True))
    system = Differences(LadderWalk.build(ladder, functional, dtype), ends)

    def contributions(outcome: dict[str, np.ndarray]) -> np.ndarray:
        return np.stack([outcome[f"gap_{i}"] / (2.0 * h) for i, h in enumerate(steps)])

    return gradient(
        run_batches(system, contributions, seed=seed, paths=paths, batches=batches, chunk=chunk),
        parameters,
        method="common-random-number differences",
        reason="few parameters of any kind",
        bias=_bias(ladder, parameters, steps, functional, certify),
        step=np.array(steps),
    )
