"""The loss of one step beyond a margin: the smallest problem of tuning, and its solution in closed form.

L is a loss per unit of notional with mean 0. The cheapest margin with E[(L - m)+] <= limit meets the limit exactly, and a unit
less of expected bad debt costs 1 / P(L > m) of margin.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy import stats as densities
from jaxtyping import Array, Float
from scipy import optimize, stats

from .. import _streams
from .._fields import Real, count, real
from ..policy import AbstractSampledModel, Mean, Problem, Rate, Stream
from ..policy.problem import checked, outcomes

_DRAWN = 131_072  # losses drawn by one program


class StepLoss(AbstractSampledModel):
    """Outcomes bad_debt = (L - margin)+ and margin, for a normal or a Student-t law with the same standard deviation.

    Paths are drawn as L / scale = tilt + spread X with X of the law itself, and carry the likelihood ratio as a weight
    (1 for tilt 0 and spread 1). A t variable is a normal over the root of a mean of squared normals.
    """

    deviation: Real = real(0.04, unit="1", above=0.0)
    tilt: Real = real(0.0, unit="scale of the law")
    spread: Real = real(1.0, unit="1", above=0.0)
    freedom: int = count(0)  # degrees of freedom, above 2; 0: normal

    def sample(
        self, parameters: Mapping[str, Any], keys: tuple[Any, Any], first: Any, paths: int
    ) -> dict[str, Float[Array, " paths"]]:
        numbers = first + jnp.arange(paths, dtype=jnp.uint32)
        dtype = jnp.zeros(()).dtype
        z = jax.vmap(lambda path: _streams.normals(keys[0], path, 0, 1 + self.freedom, dtype))(numbers)
        drawn = z[:, 0]
        if self.freedom:
            drawn = drawn / jnp.sqrt(jnp.mean(z[:, 1:] ** 2, axis=1))
        moved = self.tilt + self.spread * drawn
        loss = self.deviation * scale_over_deviation(self.freedom) * moved
        return {
            "bad_debt": jax.nn.relu(loss - parameters["margin"]),
            "margin": jnp.broadcast_to(parameters["margin"], loss.shape),
            "weight": self.spread * jnp.exp(self._log_density(moved) - self._log_density(drawn)),
        }

    def _log_density(self, x: Float[Array, " paths"]) -> Float[Array, " paths"]:
        if not self.freedom:
            return densities.norm.logpdf(x)
        return -0.5 * (self.freedom + 1) * jnp.log1p(x * x / self.freedom)  # up to a constant


class DrawnLosses(AbstractSampledModel):
    """The same outcomes of losses that were drawn beforehand, for searches that look at one sample many times.

    `loss` holds L+ and `weight` the likelihood ratio, by path number.
    """

    loss: Float[Array, " sample"]
    weight: Float[Array, " sample"]

    @classmethod
    def of(cls, model: StepLoss, root: str, seed: int, paths: int) -> "DrawnLosses":
        """The first paths of a stream of the model."""
        whole, stream = problem(1.0, model), Stream(root, seed, paths, min(paths, _DRAWN))
        drawn = outcomes(checked(whole), {"margin": np.zeros(())}, stream)
        dtype = jnp.zeros(()).dtype
        return cls(jnp.asarray(drawn["bad_debt"], dtype), jnp.asarray(drawn["weight"], dtype))

    def sample(
        self, parameters: Mapping[str, Any], keys: tuple[Any, Any], first: Any, paths: int
    ) -> dict[str, Float[Array, " paths"]]:
        del keys
        places = jnp.minimum(first + jnp.arange(paths, dtype=jnp.uint32), self.loss.size - 1)
        return {
            "bad_debt": jax.nn.relu(self.loss[places] - parameters["margin"]),
            "margin": jnp.broadcast_to(parameters["margin"], (paths,)),
            "weight": self.weight[places],
        }


def scale_over_deviation(freedom: int) -> float:
    """Scale of a Student-t law with unit standard deviation; 1 for the normal law (freedom 0)."""
    return float(np.sqrt((freedom - 2) / freedom)) if freedom else 1.0


def problem(limit: float, model: AbstractSampledModel, *, upper: float = 2.0, grid: float = 0.0) -> Problem:
    """The cheapest margin under a limit on mean bad debt."""
    variable = Rate("margin", start=0.15, lower=0.01, upper=upper, grid=grid)
    wanted = Mean("bad_debt", limit=limit)  # pyright: ignore[reportCallIssue]
    return Problem(model=model, variables=(variable,), cost={"margin": 1.0}, constraints=(wanted,))


def expected_bad_debt(margin: float, deviation: float, freedom: int = 0) -> float:
    """E[(L - m)+]: s [phi(q) - q Phi(-q)], or s [(nu + q^2)/(nu - 1) f(q) - q (1 - F(q))], q = m / s (float64, host)."""
    scale = deviation * scale_over_deviation(freedom)
    q = margin / scale
    if not freedom:
        return float(scale * (stats.norm.pdf(q) - q * stats.norm.sf(q)))
    beyond = (freedom + q**2) / (freedom - 1) * stats.t.pdf(q, freedom)
    return float(scale * (beyond - q * stats.t.sf(q, freedom)))


def breach_probability(margin: float, deviation: float, freedom: int = 0) -> float:
    """P(L > m), the slope -dE[(L - m)+]/dm (float64, host)."""
    q = margin / (deviation * scale_over_deviation(freedom))
    return float(stats.t.sf(q, freedom) if freedom else stats.norm.sf(q))


def best_margin(limit: float, deviation: float, freedom: int = 0) -> float:
    """The margin at which expected bad debt is the limit."""

    def excess(margin: float) -> float:
        return expected_bad_debt(margin, deviation, freedom) - limit

    return float(optimize.brentq(excess, 0.0, 1e3 * deviation, xtol=1e-14))  # pyright: ignore[reportArgumentType]
