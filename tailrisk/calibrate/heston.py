"""Stochastic volatility by simulated moments, with the gradient of the moments through the simulated paths."""

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
from .likelihood import SIGNED, between
from .reproduce import News
from .returns import Returns

UNITS = {"long_variance": "1/year", "mean_reversion": "1/year", "vol_of_variance": "1/year", "leverage": "1"}
LIMITS = {name: (0.0, np.inf) for name in UNITS} | {"leverage": SIGNED}
CLUSTERING = (1, 6, 24, 72)  # lags of the autocorrelation of absolute returns
LEVERAGE = (1, 6, 24)  # lags of the correlation of absolute returns with the return before them
_BURN = 500  # intervals before moments are taken
_TIMES = 2_000  # intervals of a simulated path
_DRAWS = 300  # resamples of parts
_PARTS = 20  # of a history: variance remembers for weeks, so few and long ones, and Student's quantiles for so few


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

    Of rows (parts or paths, times); nan is left out.
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


def simulated(p: Any, every: Any, keys: Any, paths: int) -> Float[Array, " moments"]:
    """Moments of paths of the package's own law in steps of `every`, to be differentiated in p."""
    v = _values(p)
    market = Heston(initial_variance=v["long_variance"], **v)
    dtype = p.dtype
    system = News(market=market, dt=jnp.asarray(every, dtype), steps=_BURN + _TIMES, dtype=np.dtype(dtype))
    _, (moves, _) = batch(system, keys, jnp.arange(paths, dtype=jnp.uint32), True)
    return moments(moves[:, _BURN:, 0])


_moments, _value, _slope = jax.jit(moments), eqx.filter_jit(simulated), eqx.filter_jit(jax.jacfwd(simulated))


def fit_heston(data: Returns, *, paths: int = 128, seed: int = 0, confidence: float = 0.95) -> MomentFit:
    """Fits `Heston` by minimizing the distance of moments, each over its sampling variance.

    Covariance (D'WD)^-1 D'W S W D (D'WD)^-1 (1 + 1/ratio) with S from resampled twentieths of the history. The paths are those
    of steps of one interval, so what the step does to the law is inside the fit. The J statistic is judged as Hotelling's.

    **Source:** Duffie and Singleton (1993), "Simulated moments estimation of Markov models of asset prices".
    """
    long = data.moves.size // _PARTS
    if long < 4 * max(CLUSTERING):
        raise InputError(
            f"{data.moves.size} returns, expected at least {4 * max(CLUSTERING) * _PARTS}: moments look {max(CLUSTERING)} "
            f"intervals back in each of {_PARTS} parts"
        )
    rows = np.where(data.seen, data.moves, np.nan)[: long * _PARTS].reshape(_PARTS, long)
    target: Any = np.asarray(_moments(rows))
    rng = np.random.default_rng(seed)
    sample = np.stack([_moments(rows[rng.integers(0, len(rows), len(rows))]) for _ in range(_DRAWS)])
    covariance = np.cov(sample.T) * _PARTS / (_PARTS - 1.0)
    error = np.sqrt(np.diag(covariance))

    every, keys = jnp.asarray(data.every), _streams.noise_keys(seed, "market")

    def distance(p: Any) -> np.ndarray:
        return (np.asarray(_value(jnp.asarray(p), every, keys, paths)) - target) / error

    def slope(p: Any) -> np.ndarray:
        return np.asarray(_slope(jnp.asarray(p), every, keys, paths)) / error[:, None]

    spread = float(np.log(data.observed.var() / data.every))
    start = np.array([spread, np.log(30.0), spread + np.log(10.0), 0.0])
    start[2] = 0.5 * (np.log(2.0 * 30.0) + spread)  # the edge of the condition of Feller
    search: Any = optimize.least_squares  # its stubs know the jacobian as a name only
    found = search(distance, start, slope, xtol=1e-6)
    d = slope(found.x)
    scaled = covariance / np.outer(error, error)
    bread = np.linalg.pinv(d.T @ d)
    ratio = paths * _TIMES / float(data.seen.sum())
    spread_of_p = bread @ d.T @ scaled @ d @ bread * (1.0 + 1.0 / ratio)
    jacobian = jax.jacfwd(_values)(jnp.asarray(found.x))
    z = float(stats.t.isf(0.5 - 0.5 * confidence, _PARTS - 1))
    estimates = {}
    for name, center in _values(jnp.asarray(found.x)).items():
        row = np.asarray(jacobian[name])
        one = float(np.sqrt(row @ spread_of_p @ row))
        estimates[name] = Estimate(float(center), one, *between(float(center), z * one, LIMITS[name]), UNITS[name])
    # what is left of the moments, off the directions that the parameters explain
    off = np.eye(len(target)) - d @ bread @ d.T
    left = found.fun
    weight = np.linalg.pinv(off @ scaled @ off.T * (1.0 + 1.0 / ratio), rcond=1e-8)
    statistic = float(left @ weight @ left)
    spare = len(target) - d.shape[1]
    p_value = float(stats.f.sf(statistic * (_PARTS - spare) / (spare * (_PARTS - 1.0)), spare, _PARTS - spare))
    got = left * error + target
    table = {n: (float(t), float(e), float(g)) for n, t, e, g in zip(NAMES, target, error, got, strict=True)}
    return MomentFit(estimates, statistic, p_value, table, ratio)
