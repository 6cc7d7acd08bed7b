"""Maximum likelihood with gradients: the laws of returns, their fits, and two kinds of standard errors."""

import abc
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy import optimize, stats

from .._fields import InputError
from ..market import AbstractMarket
from ..tails.measures import Estimate
from .returns import Returns

_STEP = 1e-4  # of central differences of an exact gradient: error of order 1e-8
FREE, SHARE, SIGNED = (-np.inf, np.inf), (0.0, 1.0), (-1.0, 1.0)  # between which limits a number is


class AbstractLaw(eqx.Module):
    """A law of returns over even intervals, with parameters p on scales on which nothing bounds them."""

    units: eqx.AbstractClassVar[dict[str, str]]  # of every named value
    note: ClassVar[str] = ""  # what its intervals do not say
    limits: eqx.AbstractClassVar[dict[str, tuple[float, float]]]  # of named values that are not just positive
    assets: ClassVar[int] = 1

    @abc.abstractmethod
    def start(self, data: Returns) -> Float[np.ndarray, " parameters"]:
        """Where a search begins."""

    @abc.abstractmethod
    def values(self, p: Float[Array, " parameters"]) -> dict[str, Float[Array, ""]]:
        """The parameters by name, in their units; times in years."""

    @abc.abstractmethod
    def densities(
        self, p: Float[Array, " parameters"], moves: Float[Array, " times"], seen: Any, every: float
    ) -> tuple[Float[Array, " times"], Float[Array, " times"]]:
        """Log density of every return given those before it (0 where none was seen), and its distribution function."""

    @abc.abstractmethod
    def market(self, values: dict[str, float]) -> AbstractMarket | None:
        """The law of the package with these values, with drift 0; None if there is none."""


class Fit(NamedTuple):
    """A fitted law: unbounded point, log likelihood of all returns, covariances, named values with 95 % intervals.

    `robust` is the sandwich with scores summed over months, which allows for misspecification and dependence within a
    month; `covariance` the inverse Hessian, right if the law is. Intervals of `estimates` are robust, with quantiles of
    Student's law for the few months that the error itself is estimated from, and `between` the limits of a number.
    """

    law: AbstractLaw
    point: Float[np.ndarray, " parameters"]
    log_likelihood: float
    robust: Float[np.ndarray, "parameters parameters"]
    covariance: Float[np.ndarray, "parameters parameters"]
    estimates: dict[str, Estimate]
    log_density: Float[np.ndarray, " times"]
    rank: Float[np.ndarray, " times"]  # distribution function at each return (probability integral transform)

    @property
    def values(self) -> dict[str, float]:
        """Named values."""
        return {name: found.value for name, found in self.estimates.items()}

    @property
    def market(self) -> AbstractMarket | None:
        """The law of the package with the fitted values."""
        return self.law.market(self.values)


@eqx.filter_jit
def _loss(law: AbstractLaw, p: Any, moves: Any, seen: Any, every: Any) -> tuple[Any, Any]:
    """Mean loss and its gradient; the law is an argument, so histories of one length share a program."""
    return jax.value_and_grad(lambda p: -jnp.sum(law.densities(p, moves, seen, every)[0]) / seen.size)(p)


@eqx.filter_jit
def _densities(law: AbstractLaw, p: Any, moves: Any, seen: Any, every: Any) -> tuple[Any, Any]:
    return law.densities(p, moves, seen, every)


@eqx.filter_jit
def _parts(law: AbstractLaw, p: Any, moves: Any, seen: Any, every: Any, months: Any, count: int) -> Any:
    """Derivative of the log likelihood of each month."""

    def parts(p: Any) -> Any:
        return jax.ops.segment_sum(law.densities(p, moves, seen, every)[0], months, num_segments=count)

    return jax.jacfwd(parts)(p)


def climb(law: AbstractLaw, data: Returns, start: Any = None) -> tuple[np.ndarray, float, Callable[..., Any]]:
    """The maximum-likelihood point, its log likelihood, and the compiled mean loss with its gradient.

    **Raises:** `InputError` if the search ends where the likelihood is not finite.
    """
    moves, seen, every = jnp.asarray(data.moves), jnp.asarray(data.seen), jnp.asarray(data.every)

    def loss(p: Any) -> tuple[float, np.ndarray]:
        value, slope = _loss(law, jnp.asarray(p), moves, seen, every)
        return float(value), np.asarray(slope)

    first = law.start(data) if start is None else np.asarray(start)
    found = optimize.minimize(loss, first, jac=True, method="L-BFGS-B", options={"ftol": 1e-13, "gtol": 1e-7})
    if not np.isfinite(found.fun):
        raise InputError(
            f"{type(law).__name__}: no finite likelihood was found for these {data.seen.sum()} returns; check them for "
            "outliers or choose another law"
        )
    return np.asarray(found.x), -float(found.fun) * data.seen.size, loss


def fit(law: AbstractLaw, data: Returns, start: Any = None, confidence: float = 0.95) -> Fit:
    """Fits a law by maximum likelihood.

    **Source:** Huber (1967); White (1982), for the sandwich; Cameron and Miller (2015), "A practitioner's guide to
    cluster-robust inference", for its factor and quantiles with few months; values by the delta method.
    """
    point, level, loss = climb(law, data, start)
    count, n = point.size, data.seen.size
    eye = np.eye(count)
    rows = [(loss(point + _STEP * e)[1] - loss(point - _STEP * e)[1]) / (2.0 * _STEP) for e in eye]
    hessian = 0.5 * n * (np.stack(rows) + np.stack(rows).T)
    if np.linalg.eigvalsh(hessian).min() <= 0.0:
        raise InputError(
            f"{type(law).__name__}: the likelihood is flat in some direction, so not all {count} values are identified; "
            "give more returns or choose a smaller law"
        )
    bread = np.linalg.inv(hessian)
    scores = _scores(law, point, data)
    meat = scores.T @ scores * (data.months / (data.months - 1.0))
    return _described(law, data, point, level, bread @ meat @ bread, bread, confidence)


def _described(
    law: AbstractLaw, data: Returns, point: Any, level: float, robust: Any, plain: Any, confidence: float = 0.95
) -> Fit:
    """Named values with intervals by the delta method, densities and ranks of a point."""
    args = jnp.asarray(data.moves), jnp.asarray(data.seen), jnp.asarray(data.every)
    density, rank = _densities(law, jnp.asarray(point), *args)
    slopes = {name: np.asarray(row) for name, row in jax.jacfwd(law.values)(jnp.asarray(point)).items()}
    z = float(stats.t.isf(0.5 - 0.5 * confidence, data.months - 1))
    estimates = {}
    for name, value in law.values(jnp.asarray(point)).items():
        error, center = float(np.sqrt(slopes[name] @ robust @ slopes[name])), float(value)
        limits = law.limits.get(name, (0.0, np.inf))
        estimates[name] = Estimate(center, error, *between(center, z * error, limits), law.units[name], law.note)
    level = float(jnp.sum(density)) if np.isnan(level) else level
    return Fit(law, np.asarray(point), level, robust, plain, estimates, np.asarray(density), np.asarray(rank))


def between(value: float, reach: float, limits: tuple[float, float]) -> tuple[float, float]:
    """Ends of value ± reach on the scale log(v - low) - log(high - v), on which nothing bounds v; infinite limits drop out.

    A rate far from well known thus has a long upper end and one below that stays positive.
    """
    low, high = limits
    if np.isinf(low) and np.isinf(high):
        return value - reach, value + reach
    if np.isinf(high):
        stretch = np.exp(reach / (value - low))
        return float(low + (value - low) / stretch), float(low + (value - low) * stretch)
    odds = (value - low) / (high - value)
    stretch = np.exp(reach * (1.0 / (value - low) + 1.0 / (high - value)))
    ends = (odds / stretch, odds * stretch)
    return tuple(float(low + (high - low) * o / (1.0 + o)) for o in ends)  # pyright: ignore[reportReturnType]


def at(
    found: Fit,
    data: Returns,
    point: Float[np.ndarray, " parameters"],
    covariance: Float[np.ndarray, "parameters parameters"],
) -> Fit:
    """The same law at another point with the covariance of that point; what the law notes of its own fits is not said."""
    there = _described(found.law, data, point, np.nan, covariance, covariance)
    return there._replace(estimates={name: e._replace(note="") for name, e in there.estimates.items()})


def _scores(law: AbstractLaw, point: np.ndarray, data: Returns) -> Float[np.ndarray, "months parameters"]:
    """Scores summed over months."""
    args = jnp.asarray(data.moves), jnp.asarray(data.seen), jnp.asarray(data.every)
    months = jnp.arange(data.seen.size) // data.block
    return np.asarray(_parts(law, jnp.asarray(point), *args, months, data.months))


class Contest(NamedTuple):
    """Twice the log likelihood ratio of the first law over the second, and Vuong's test that they are equally near.

    `z` > 2 speaks for the first law. Its variance is that of sums over months.
    """

    first: str
    second: str
    statistic: float
    z: float
    p_value: float
    bic_gain: float  # of the first over the second, positive for the first


def contest(a: Fit, b: Fit, data: Returns) -> Contest:
    """Which of two fitted laws is nearer to the truth.

    **Source:** Vuong (1989), "Likelihood ratio tests for model selection and non-nested hypotheses". For nested laws the
    test is conservative; Schwarz (1978) for the criterion.
    """
    gain = a.log_density - b.log_density
    whole = gain.size - gain.size % data.block
    months = gain[:whole].reshape(-1, data.block).sum(axis=1)
    error = float(months.std(ddof=1) * np.sqrt(months.size))
    z = float(gain.sum()) / error if error > 0.0 else 0.0
    size = np.log(data.seen.sum())
    bic = 2.0 * float(gain.sum()) - (a.point.size - b.point.size) * float(size)
    names = type(a.law).__name__, type(b.law).__name__
    return Contest(*names, 2.0 * float(gain.sum()), z, float(2.0 * stats.norm.sf(abs(z))), bic)
