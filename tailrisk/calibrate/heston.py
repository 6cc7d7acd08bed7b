"""Stochastic volatility by simulated moments, with the gradient of the moments through the simulated paths."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy import optimize, stats

from .. import _streams
from .._fields import InputError
from ..market import Heston
from ..simulate import batch
from ..tails.measures import Estimate
from .reproduce import News, rows_of
from .returns import Returns

UNITS = {"long_variance": "1/year", "mean_reversion": "1/year", "vol_of_variance": "1/year", "leverage": "1"}
CLUSTERING = (1, 6, 24, 72)  # lags of the autocorrelation of absolute returns
LEVERAGE = (1, 6, 24)  # lags of the correlation of absolute returns with the return before them
_BURN = 500  # intervals before moments are taken
_TIMES = 2_000  # intervals of a simulated path
_DRAWS = 300  # resamples of months


class MomentFit(NamedTuple):
    """A law fitted by moments: named values, and the test that the moments agree (p-value of the J statistic)."""

    estimates: dict[str, Estimate]
    statistic: float
    p_value: float
    moments: dict[str, tuple[float, float, float]]  # measured, its standard error, simulated
    simulated_ratio: float  # observations simulated over those measured

    @property
    def market(self) -> Heston:
        """The law of the package with the fitted values, started at its long-run variance."""
        v = {name: found.value for name, found in self.estimates.items()}
        return Heston(initial_variance=v["long_variance"], crash_from=1.0, **v)


def moments(rows: Any) -> Float[Array, " moments"]:
    """log mean square, log kurtosis, autocorrelations of absolute returns, and their correlations with earlier returns.

    Of rows (months or paths, times); nan is left out.
    """
    seen = ~jnp.isnan(rows)
    x = jnp.where(seen, rows, 0.0)

    def mean(value: Any, known: Any) -> Any:
        return jnp.sum(jnp.where(known, value, 0.0)) / jnp.sum(known, dtype=value.dtype)

    square = mean(x**2, seen)
    size = jnp.where(seen, jnp.abs(x) - mean(jnp.abs(x), seen), 0.0)
    spread = mean(size**2, seen)
    out = [jnp.log(square), jnp.log(mean(x**4, seen) / square**2)]
    for lag in CLUSTERING:
        out.append(mean(size[:, lag:] * size[:, :-lag], seen[:, lag:] & seen[:, :-lag]) / spread)
    for lag in LEVERAGE:
        both = mean(x[:, :-lag] * size[:, lag:], seen[:, lag:] & seen[:, :-lag])
        out.append(both / jnp.sqrt(square * spread))
    return jnp.stack(out)


NAMES = (
    "log mean square",
    "log kurtosis",
    *(f"clustering {k}" for k in CLUSTERING),
    *(f"leverage {k}" for k in LEVERAGE),
)


def _values(p: Any) -> dict[str, Any]:
    return {
        "long_variance": jnp.exp(p[0]),
        "mean_reversion": jnp.exp(p[1]),
        "vol_of_variance": jnp.exp(p[2]),
        "leverage": jnp.tanh(p[3]),
    }


def simulated(p: Any, every: float, paths: int, seed: int) -> Float[Array, " moments"]:
    """Moments of paths of the package's own law in steps of `every`, to be differentiated in p."""
    v = _values(p)
    market = Heston(initial_variance=v["long_variance"], **v)
    dtype = p.dtype
    system = News(market=market, dt=jnp.asarray(every, dtype), steps=_BURN + _TIMES, dtype=np.dtype(dtype))
    _, (moves, _) = batch(system, _streams.noise_keys(seed, "market"), jnp.arange(paths, dtype=jnp.uint32), True)
    return moments(moves[:, _BURN:, 0])


def fit_heston(data: Returns, *, paths: int = 128, seed: int = 0, confidence: float = 0.95) -> MomentFit:
    """Fits `Heston` by minimizing the distance of moments, each over its sampling variance.

    Covariance (D'WD)^-1 D'W S W D (D'WD)^-1 (1 + 1/ratio) with S from resampled months. The paths are those of steps of one
    interval, so what the step does to the law is inside the fit.

    **Source:** Duffie and Singleton (1993), "Simulated moments estimation of Markov models of asset prices".
    """
    rows = rows_of(data)
    if len(rows) < 20:
        raise InputError(f"{len(rows)} months of returns, expected at least 20 for the covariance of moments")
    compiled: Callable[..., Any] = jax.jit(moments)
    target: Any = np.asarray(compiled(rows))
    rng = np.random.default_rng(seed)
    sample = np.stack([compiled(rows[rng.integers(0, len(rows), len(rows))]) for _ in range(_DRAWS)])
    covariance = np.cov(sample.T)
    error = np.sqrt(np.diag(covariance))

    def distance(p: Any) -> Any:
        return (simulated(p, data.every, paths, seed) - target) / error

    value, slope = eqx.filter_jit(distance), eqx.filter_jit(jax.jacfwd(distance))
    spread = float(np.log(data.observed.var() / data.every))
    start = np.array([spread, np.log(30.0), spread + np.log(10.0), 0.0])
    start[2] = 0.5 * (np.log(2.0 * 30.0) + spread)  # the edge of the condition of Feller
    search: Any = optimize.least_squares  # its stubs know the jacobian as a name only
    found = search(
        lambda p: np.asarray(value(jnp.asarray(p))), start, lambda p: np.asarray(slope(jnp.asarray(p))), xtol=1e-6
    )
    d = np.asarray(slope(jnp.asarray(found.x)))
    scaled = covariance / np.outer(error, error)
    bread = np.linalg.pinv(d.T @ d)
    ratio = paths * _TIMES / float(data.seen.sum())
    spread_of_p = bread @ d.T @ scaled @ d @ bread * (1.0 + 1.0 / ratio)
    jacobian = jax.jacfwd(_values)(jnp.asarray(found.x))
    z = float(stats.norm.isf(0.5 - 0.5 * confidence))
    estimates = {}
    for name, center in _values(jnp.asarray(found.x)).items():
        row = np.asarray(jacobian[name])
        one = float(np.sqrt(row @ spread_of_p @ row))
        estimates[name] = Estimate(float(center), one, float(center) - z * one, float(center) + z * one, UNITS[name])
    # what is left of the moments, off the directions that the parameters explain
    off = np.eye(len(target)) - d @ bread @ d.T
    left = found.fun
    weight = np.linalg.pinv(off @ scaled @ off.T * (1.0 + 1.0 / ratio), rcond=1e-8)
    statistic = float(left @ weight @ left)
    p_value = float(stats.chi2.sf(statistic, len(target) - d.shape[1]))
    got = left * error + target
    table = {n: (float(t), float(e), float(g)) for n, t, e, g in zip(NAMES, target, error, got, strict=True)}
    return MomentFit(estimates, statistic, p_value, table, ratio)
