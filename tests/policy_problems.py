"""Sampled models with known optima, for the tests of policy tuning."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr
from scipy import integrate, optimize, stats

from tailrisk import _streams
from tailrisk._fields import Real, real
from tailrisk.policy import AbstractSampledModel, AugmentedLagrangian, Mean, Problem, Rate

SIGMA = 0.04
PLAIN = AugmentedLagrangian(z=0.0, room=0.0)


def normals(keys, first, paths, draws):
    numbers = first + jnp.arange(paths, dtype=jnp.uint32)
    return jax.vmap(lambda path: _streams.normals(keys[0], path, 0, draws, jnp.zeros(()).dtype))(numbers)


class Margin(AbstractSampledModel):
    """The loss of a step beyond a margin, for a normal or Student-t law of the same variance.

    `tilt` moves the mean of the normal under which paths are drawn (importance sampling); a t variable is a normal over
    the root of a mean of squared normals. `smoothing` replaces x+ by x sigmoid(x/h), which lies below it.
    """

    tilt: Real = real(0.0, unit="deviations")
    smoothing: Real = real(0.0, unit="1")
    freedom: int = eqx.field(static=True, default=0)
    weighted: bool = eqx.field(static=True, default=False)
    smooth: bool = eqx.field(static=True, default=False)

    def sample(self, parameters, keys, first, paths):
        z = normals(keys, first, paths, 1 + self.freedom)
        moved = z[:, 0] + self.tilt
        loss = SIGMA * moved
        if self.freedom:
            scale = SIGMA * float(np.sqrt((self.freedom - 2) / self.freedom))
            loss = scale * moved / jnp.sqrt(jnp.mean(z[:, 1:] ** 2, axis=1))
        margin = parameters["margin"]
        excess = loss - margin
        bad_debt = excess * jax.nn.sigmoid(excess / self.smoothing) if self.smooth else jax.nn.relu(excess)
        out = {"bad_debt": bad_debt, "excess": excess, "margin": jnp.broadcast_to(margin, loss.shape)}
        if self.weighted:
            out["weight"] = jnp.exp(-self.tilt * moved + 0.5 * self.tilt**2)
        return out


class IsolatedLong(AbstractSampledModel):
    """Bad debt of a leveraged long that is sold a day after its price touches the level where its margin is gone.

    The chance to touch is known; the day after is drawn. Price 100, leverage 5, volatility 0.8 a year, 30 days.
    """

    tilt: Real = real(-1.5, unit="deviations")

    def sample(self, parameters, keys, first, paths):
        bankrupt, sigma, horizon, delay = 80.0, 0.8, 30.0 / 365.0, 1.0 / 365.0
        level = bankrupt / (1.0 - parameters["margin"])
        away, width = jnp.log(level / 100.0), sigma * horizon**0.5
        touch = ndtr(away / width + 0.5 * width) + jnp.exp(-away) * ndtr(away / width - 0.5 * width)
        z = normals(keys, first, paths, 1)[:, 0] + self.tilt
        step = sigma * delay**0.5
        sold = level * jnp.exp(step * z - 0.5 * step**2)
        return {
            "bad_debt": touch * jax.nn.relu(bankrupt - sold),
            "margin": jnp.broadcast_to(parameters["margin"], z.shape),
            "weight": jnp.exp(-self.tilt * z + 0.5 * self.tilt**2),
        }


class TwoMargins(AbstractSampledModel):
    """Losses of two assets of different volatility beyond margins of their own."""

    deviations: Real = real((0.02, 0.06), unit="1")

    def sample(self, parameters, keys, first, paths):
        loss = self.deviations[None, :] * normals(keys, first, paths, 2)
        margins = jnp.broadcast_to(parameters["margins"][None, :], loss.shape)
        return {
            "bad_debt": jnp.sum(jax.nn.relu(loss - margins), axis=1),
            "margin": jnp.sum(margins, axis=1),
            "first": loss[:, 0],
            "second": loss[:, 1],
        }


class Compiled(AbstractSampledModel):
    """A deciding model with its own compiled program."""

    inner: AbstractSampledModel

    @eqx.filter_jit
    def sample(self, parameters, keys, first, paths):
        return self.inner.sample(parameters, keys, first, paths)


TRACES: list[int] = []


class Counted(AbstractSampledModel):
    """A model that says when it is traced."""

    inner: AbstractSampledModel

    def sample(self, parameters, keys, first, paths):
        TRACES.append(paths)
        return self.inner.sample(parameters, keys, first, paths)


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


def deviation(margin: float, freedom: int = 0) -> float:
    """Standard deviation of (L - m)+: E[((L - m)+)^2] = 2 int_m^inf (x - m) P(L > x) dx."""
    known = law(freedom)
    square = integrate.quad(lambda x: 2.0 * (x - margin) * known.sf(x), margin, margin + 1.0)[0]
    square += integrate.quad(lambda x: 2.0 * (x - margin) * known.sf(x), margin + 1.0, np.inf)[0]
    return float(np.sqrt(square - expected_bad_debt(margin, freedom) ** 2))


def margin_problem(
    limit: float, freedom: int = 0, *, start: float = 0.15, upper: float = 1.0, grid: float = 0.0, **model: Any
) -> Problem:
    return Problem(
        model=Margin(freedom=freedom, **model),
        variables=(Rate("margin", start=start, lower=0.01, upper=upper, grid=grid),),
        cost={"margin": 1.0},
        constraints=(Mean("bad_debt", limit=limit),),
    )


def hard_margin_problem(limit: float, smoothing: float, **settings: Any) -> Problem:
    """The smoothed model for tuning, the exact one for judging."""
    problem = margin_problem(limit, smooth=True, smoothing=smoothing, **settings)
    return eqx.tree_at(lambda p: p.hard, problem, Compiled(Margin()), is_leaf=lambda x: x is None)
