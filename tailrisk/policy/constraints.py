"""Limits on functionals of per-path outcomes, each as the mean of an integrand, so that one stream serves them all.

With importance weights w (1 without), the constrained quantity is offset(t) + E[carried(x, w, t)], where the level t is
one more free number of a constraint that has one. `exact` is what acceptance uses in place of `carried`.
"""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._fields import Real, real
from .variables import STEP


class AbstractConstraint(eqx.Module):
    """A functional of one outcome that may not exceed a limit."""

    outcome: eqx.AbstractVar[str]
    limit: eqx.AbstractVar[Real]
    has_level: eqx.AbstractClassVar[bool]

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """How it is called in tables."""

    @abc.abstractmethod
    def placed(self, x: np.ndarray, weight: np.ndarray) -> "AbstractConstraint":
        """The same constraint with its level at the best place for the given outcomes."""

    @abc.abstractmethod
    def at(self, level: float) -> "AbstractConstraint":
        """The same constraint with its level at a known place."""

    @abc.abstractmethod
    def level_at(self, free: Float[Array, ""]) -> Float[Array, ""]:
        """The level t for a free number; 0 is where it was placed."""

    @abc.abstractmethod
    def offset(self, t: Any) -> Any:
        """The part that no path carries, of a traced or a plain level."""

    @abc.abstractmethod
    def carried(
        self, x: Float[Array, " paths"], weight: Float[Array, " paths"], t: Float[Array, ""]
    ) -> Float[Array, " paths"]:
        """What each path adds, differentiable in x and t."""

    @abc.abstractmethod
    def exact(self, x: np.ndarray, weight: np.ndarray, t: float) -> np.ndarray:
        """What each path adds when a policy is judged, on the host."""


class Mean(AbstractConstraint):
    """E[x] <= limit."""

    outcome: str
    limit: Real = real(unit="unit of the outcome", above=0.0)
    has_level = False

    @property
    def name(self) -> str:
        return f"mean {self.outcome}"

    def placed(self, x, weight):
        return self

    def at(self, level):
        return self

    def level_at(self, free):
        return jnp.zeros_like(free)

    def offset(self, t):
        return 0.0 * t

    def carried(self, x, weight, t):
        return weight * x

    def exact(self, x, weight, t):
        return weight * x


class Shortfall(AbstractConstraint):
    """Expected shortfall: min over t of t + E[(x - t)+]/(1 - level) <= limit.

    Any t gives an upper bound, so a policy may be judged at the t that was found with it.

    **Source:** Rockafellar and Uryasev (2000), "Optimization of conditional value-at-risk", eq. 4.
    """

    outcome: str
    limit: Real = real(unit="unit of the outcome", above=0.0)
    level: Real = real(unit="1", above=0.0, below=1.0)
    start: Real = real(0.0, unit="unit of the outcome")  # a search begins by placing it
    has_level = True

    @property
    def name(self) -> str:
        return f"{float(self.level):.4%} shortfall of {self.outcome}"

    def placed(self, x, weight):
        return self.at(upper_quantile(x, weight, 1.0 - float(self.level)))

    def at(self, level):
        return eqx.tree_at(lambda c: c.start, self, np.asarray(float(level)))

    def level_at(self, free):
        return self.start + STEP * self.limit * free

    def offset(self, t):
        return t

    def carried(self, x, weight, t):
        return weight * jax.nn.relu(x - t) / (1.0 - self.level)

    def exact(self, x, weight, t):
        return weight * np.maximum(x - t, 0.0) / (1.0 - float(self.level))


class Probability(AbstractConstraint):
    """P(x > threshold) <= limit, tuned by its bound E[(x - t)+]/(threshold - t), t < threshold, judged by counting.

    The bound says that the worst share `limit` of paths averages at most the threshold; it is the smallest convex bound
    and its slack is what a refinement by counting can win back.

    **Source:** Rockafellar and Royset (2010), "On buffered failure probability", section 2.
    """

    outcome: str
    limit: Real = real(unit="1", above=0.0, below=1.0)
    threshold: Real = real(unit="unit of the outcome")
    gap: Real = real(1.0, unit="unit of the outcome", above=0.0)  # a search begins by placing it
    has_level = True

    @property
    def name(self) -> str:
        return f"P({self.outcome} > {float(self.threshold):g})"

    def placed(self, x, weight):
        gap = float(self.threshold) - upper_quantile(x, weight, float(self.limit))
        if not gap > 0.0:  # the start misses the limit by far: any scale of the outcome will do
            gap = float(np.std(x)) or 1.0
        return self.at(float(self.threshold) - gap)

    def at(self, level):
        return eqx.tree_at(lambda c: c.gap, self, np.asarray(float(self.threshold) - float(level)))

    def level_at(self, free):
        return self.threshold - self.gap * jnp.exp(STEP * free)

    def offset(self, t):
        return 0.0 * t

    def carried(self, x, weight, t):
        return weight * jax.nn.relu(x - t) / (self.threshold - t)

    def exact(self, x, weight, t):
        return weight * (x > float(self.threshold))


def upper_quantile(x: np.ndarray, weight: np.ndarray, share: float) -> float:
    """The largest v such that the paths with x >= v carry at least `share` of all paths by weight."""
    order = np.argsort(-x)
    reached = np.cumsum(weight[order]) / x.size
    return float(x[order[min(int(np.searchsorted(reached, share * (1.0 - 1e-9))), x.size - 1)]])
