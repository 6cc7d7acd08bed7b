"""Comparisons that refuse to be differentiated, because the derivative of a hard event on a path is zero and wrong."""

from typing import Any

import jax
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Bool, Float


class HardThresholdGradientError(TypeError):
    """Automatic differentiation reached a hard threshold, where it would leave out the move of the threshold itself."""


_REMEDY = (
    "automatic differentiation would miss that accounts are sold earlier or later; use an estimator of tailrisk.gradients "
    "(shift, score, measure_valued, branch, differences) or its oracle"
)


def refuse(what: str) -> HardThresholdGradientError:
    """The error for a derivative that arrives at `what`."""
    return HardThresholdGradientError(f"a derivative reached {what}: {_REMEDY}")


@jax.custom_jvp
def below(value: Float[Array, "..."], threshold: Float[Array, "..."]) -> Bool[Array, "..."]:
    """Whether value < threshold.

    Raises `HardThresholdGradientError` if a tangent arrives on either side; values held by `stop_gradient` pass.
    """
    return value < threshold


def _below_jvp(primals: Any, tangents: Any) -> Any:
    if not all(isinstance(tangent, SymbolicZero) for tangent in tangents):
        raise refuse("the comparison of a price with a liquidation or breaker threshold")
    out = below(*primals)
    return out, SymbolicZero.from_primal_value(out)


below.defjvp(_below_jvp, symbolic_zeros=True)
