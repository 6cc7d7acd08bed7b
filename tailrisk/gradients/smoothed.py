"""Smoothed thresholds at several temperatures, with the rate at which their bias vanishes: a report, never a gradient.

The sold share of an account becomes a sigmoid of its distance to the threshold over a temperature (`controls`), and automatic
differentiation is then that of another model. Its bias is B temperature^rate to leading order. Without price impact the rate
is 2. With impact a part-sold account pushes the price towards its own threshold, and it is about 1: extrapolating in the
square of the temperature is then wrong, so the rate is fitted and said.

    g(temperature) = limit + B temperature^rate

Three temperatures or more give all three numbers without knowing the truth; the quadrature gives the bias at each, and from
these a rate of its own to compare with.

**Source:** Richardson (1911) for the extrapolation; the rate with impact was measured.
"""

import dataclasses
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import optimize

from .._fields import InputError
from . import oracle
from .controls import PARAMETERS, dense
from .ladder import Ladder
from .record import Bias, Gradient, gradient, require, run_batches

_RATES = np.linspace(0.1, 4.0, 40)  # looked through, then refined
_GROUPS = 16  # of batches, left out in turn for the errors of what is fitted
_SEEN = 3.0  # standard errors from which on a bias counts as seen


@dataclasses.dataclass(frozen=True)
class SmoothedReport:
    """Derivatives of smoothed models, one record per temperature, the highest first; none is accepted.

    order: of the bias that the quadrature found, per parameter, by a straight line in logarithms through those beyond three
    standard errors (`nan` with fewer than two of one sign). rate: that of the extrapolation, fitted to the estimates alone or
    assumed. limit: the extrapolated value; its error, by the jackknife over batches, includes that of a fitted rate.
    """

    temperatures: tuple[float, ...]
    records: tuple[Gradient, ...]
    parameters: tuple[str, ...]
    order: Float[np.ndarray, " parameters"]
    rate: Float[np.ndarray, " parameters"]
    rate_error: Float[np.ndarray, " parameters"]
    rate_is: str
    limit: Float[np.ndarray, " parameters"]
    limit_error: Float[np.ndarray, " parameters"]
    limit_bias: Float[np.ndarray, " parameters"]

    def __str__(self) -> str:
        lines = ["smoothed thresholds: biased, NOT ACCEPTED"]
        for i, name in enumerate(self.parameters):
            for temperature, record in zip(self.temperatures, self.records, strict=True):
                lines.append(
                    f"  d/d {name} = {record.estimate[i]:.6g} +- {record.std_error[i]:.2g} at temperature {temperature:g}, "
                    f"bias {record.bias[i]:.3g}"
                )
            lines.append(
                f"    order of the bias {self.order[i]:.3g}; extrapolated with the {self.rate_is} rate {self.rate[i]:.2g} +- "
                f"{self.rate_error[i]:.2g}: {self.limit[i]:.6g} +- {self.limit_error[i]:.2g}, bias {self.limit_bias[i]:.3g}"
            )
        return "\n".join(lines)


def order_of(temperatures: np.ndarray, bias: np.ndarray, error: np.ndarray) -> float:
    """Slope of log |bias| against log temperature, over temperatures where the bias is seen; `nan` without two of one sign."""
    seen = np.abs(bias) > _SEEN * error
    if seen.sum() < 2 or np.ptp(np.sign(bias[seen])) != 0.0:
        return float("nan")
    heat, size, spread = np.log(temperatures[seen]), np.abs(bias[seen]), error[seen]
    slope, _ = np.polyfit(heat, np.log(size), 1, w=1.0 / np.maximum(spread / size, 1e-9))
    return float(slope)


def limit_at(temperatures: np.ndarray, values: np.ndarray, error: np.ndarray, rate: float) -> tuple[float, float]:
    """The limit of values = limit + factor temperature^rate by weighted least squares, and the sum of squares missed by."""
    columns = np.stack([np.ones_like(temperatures), (temperatures / temperatures.max()) ** rate], axis=1)
    weight = 1.0 / np.maximum(error, 1e-9 * np.abs(values).max())
    found = np.linalg.lstsq(columns * weight[:, None], values * weight, rcond=None)[0]
    return float(found[0]), float(np.square((values - columns @ found) * weight).sum())


def fit_rate(temperatures: np.ndarray, values: np.ndarray, error: np.ndarray) -> float:
    """The rate in [0.1, 4] at which the line is nearest to the values of three temperatures or more."""

    def miss(rate: float) -> float:
        return limit_at(temperatures, values, error, rate)[1]

    best = int(np.argmin([miss(rate) for rate in _RATES]))
    low, high = _RATES[max(best - 1, 0)], _RATES[min(best + 1, _RATES.size - 1)]
    found: Any = optimize.minimize_scalar(miss, bounds=(low, high), method="bounded", options={"xatol": 1e-6})
    return float(found.x)


def _jackknife(fit: Any, means: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A fit to batch means (temperatures, batches), and its error from leaving out groups of batches in turn."""
    groups = min(_GROUPS, means.shape[1])
    group = np.arange(means.shape[1]) * groups // means.shape[1]
    without = np.stack([fit(means[:, group != left].mean(axis=1)) for left in range(groups)])
    return fit(means.mean(axis=1)), without.std(axis=0) * np.sqrt(groups - 1.0)


def estimate(
    ladder: Ladder,
    parameters: tuple[str, ...] = ("maintenance",),
    *,
    temperatures: tuple[float, ...] = (0.004, 0.002, 0.001),
    rate: float | None = None,
    rounds: int = 6,
    seed: int = 0,
    paths: int = 64 * 2_048,
    batches: int = 64,
    chunk: int = 2_048,
    dtype: Any = None,
) -> SmoothedReport:
    """Derivatives of mean bad debt with smoothed thresholds, on the same noise at two temperatures (log price) or more.

    `rate`: of the extrapolation; by default it is fitted, for which three temperatures are needed.

    **Raises:** `InputError` for other parameters, fewer temperatures, a rate that is not positive, and with a breaker, where
    the bias is not known.
    """
    require(parameters, PARAMETERS, "smoothed thresholds", "use another estimator")
    heat = np.sort(np.asarray(temperatures, np.float64))[::-1]
    least = 2 if rate is not None else 3
    if heat.size < least or np.unique(heat).size < heat.size or not (heat > 0.0).all():
        raise InputError(
            f"temperatures = {temperatures}: expected {least} or more different positive ones; "
            "two will do with a rate that is assumed"
        )
    if rate is not None and not rate > 0.0:
        raise InputError(f"rate = {rate}: expected a positive number")
    systems = [dense(ladder, "sigmoid", float(temperature), rounds, dtype) for temperature in heat]
    slopes = oracle.expected_bad_debt_and_gradient(ladder)[1]
    truth = np.array([slopes.get(name) for name in parameters])

    def contributions(outcome: dict[str, np.ndarray]) -> np.ndarray:
        return np.stack([outcome["weight"] * outcome[f"slope_{name}"] for name in parameters])

    runs = [
        run_batches(system, contributions, seed=seed, paths=paths, batches=batches, chunk=chunk) for system in systems
    ]
    records = []
    for temperature, run in zip(heat, runs, strict=True):
        found = gradient(
            run,
            parameters,
            method=f"sigmoid, temperature {temperature:g}",
            reason="a smoothed model, to be compared",
            bias=Bias(run.means.mean(axis=0) - truth, "measured against the quadrature"),
        )
        records.append(dataclasses.replace(found, accepted=np.zeros(len(parameters), bool)))
    error = np.stack([record.std_error for record in records])

    def fit(values: np.ndarray, i: int) -> np.ndarray:
        steepness = fit_rate(heat, values, error[:, i]) if rate is None else rate
        return np.array([steepness, limit_at(heat, values, error[:, i], steepness)[0]])

    means = np.stack([run.means for run in runs])  # temperatures, batches, parameters
    each = range(len(parameters))
    found, spread = np.stack([_jackknife(partial(fit, i=i), means[:, :, i]) for i in each], axis=-1)
    bias = np.stack([record.bias for record in records])
    return SmoothedReport(
        temperatures=tuple(float(temperature) for temperature in heat),
        records=tuple(records),
        parameters=parameters,
        order=np.array([order_of(heat, bias[:, i], error[:, i]) for i in each]),
        rate=found[0],
        rate_error=spread[0],
        rate_is="fitted" if rate is None else "assumed",
        limit=found[1],
        limit_error=spread[1],
        limit_bias=found[1] - truth,
    )
