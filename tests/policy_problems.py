"""Sampled models with known optima, for the tests of policy tuning."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize, stats

from tailrisk import _streams
from tailrisk._fields import Real, real
from tailrisk.policy.constraints import Mean
from tailrisk.policy.problem import AbstractSampledModel, Problem
from tailrisk.policy.variables import Rate

SIGMA = 0.04


def numbers(first, paths):
    return first + jnp.arange(paths, dtype=jnp.uint32)


def normals(keys, first, paths, draws):
    return jax.vmap(lambda path: _streams.normals(keys[0], path, 0, draws, jnp.zeros(()).dtype))(numbers(first, paths))


class Margin(AbstractSampledModel):
    """The loss of a step beyond a margin, for a normal or Student-t law of the same variance.

    `tilt` moves the mean of the normal under which paths are drawn (importance sampling); a t variable is a normal over
    the root of a chi-square mean.
    """

    sigma: Real = real(SIGMA, unit="1", above=0.0)
    tilt: Real = real(0.0, unit="deviations")
    freedom: int = eqx.field(static=True, default=0)
    weighted: bool = eqx.field(static=True, default=False)

    def sample(self, parameters, keys, first, paths):
        z = normals(keys, first, paths, 1 + self.freedom)
        moved = z[:, 0] + self.tilt
        loss = self.sigma * moved
        if self.freedom:
            scale = self.sigma * np.sqrt((self.freedom - 2) / self.freedom)
            loss = scale * moved / jnp.sqrt(jnp.mean(z[:, 1:] ** 2, axis=1))
        margin = parameters["margin"]
        out = {"bad_debt": jax.nn.relu(loss - margin), "margin": jnp.broadcast_to(margin, loss.shape), "loss": loss}
        if self.weighted:
            out["weight"] = jnp.exp(-self.tilt * moved + 0.5 * self.tilt**2)
        return out


def law(freedom: int) -> Any:
    if freedom == 0:
        return stats.norm(scale=SIGMA)
    return stats.t(freedom, scale=SIGMA * np.sqrt((freedom - 2) / freedom))


def expected_bad_debt(margin: float, freedom: int = 0) -> float:
    """E[(L - m)+] in closed form."""
    if freedom == 0:
        q = margin / SIGMA
        return SIGMA * (stats.norm.pdf(q) - q * stats.norm.sf(q))
    scale = SIGMA * np.sqrt((freedom - 2) / freedom)
    q = margin / scale
    tail = (freedom + q**2) / (freedom - 1) * stats.t.pdf(q, freedom) - q * stats.t.sf(q, freedom)
    return scale * tail


def best_margin(limit: float, freedom: int = 0) -> float:
    return optimize.brentq(lambda m: expected_bad_debt(m, freedom) - limit, 0.0, 5.0, xtol=1e-14, rtol=1e-14)


def margin_problem(limit: float, freedom: int = 0, start: float = 0.15, grid: float = 0.0, **model: Any) -> Problem:
    return Problem(
        model=Margin(freedom=freedom, **model),
        variables=(Rate("margin", start=start, lower=0.01, upper=1.0, grid=grid),),
        cost={"margin": 1.0},
        constraints=(Mean("bad_debt", limit=limit),),
    )
