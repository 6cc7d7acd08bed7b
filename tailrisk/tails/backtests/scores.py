"""Which of two forecasts of value-at-risk and expected shortfall is better: a score, and a test of its differences."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from ..._fields import InputError
from .null import Forecast, exceptions


class Comparison(NamedTuple):
    """Mean score of a new forecast less that of a reference (negative: the new one is better), with its standard error.

    `zone`: "green" if the new forecast is significantly better, "red" if worse, else "yellow".
    """

    difference: float
    std_error: float
    z: float
    p_value: float
    zone: str


def fissler_ziegel(profit: ArrayLike, given: Forecast) -> np.ndarray:
    """FZ0 = (1/(alpha ES)) 1{X <= -VaR} (-VaR - X) + VaR/ES + ln ES - 1, day by day.

    Its expectation is smallest at the true pair, where it is ln ES; it has no unit up to a constant.

    **Source:** Fissler and Ziegel (2016), "Higher order elicitability and Osband's principle"; Patton, Ziegel, Chen (2019),
    "Dynamic semiparametric models for expected shortfall", equation (6).
    """
    exceptions(profit, given)
    x, (var, es, alpha) = np.asarray(profit, float), given
    return np.maximum(-var - x, 0.0) / (alpha * es) + var / es + np.log(es) - 1.0


def compare(new: ArrayLike, reference: ArrayLike, *, lags: int | None = None, level: float = 0.05) -> Comparison:
    """Test of equal expected scores, day by day, with a variance that allows for dependence.

    Bartlett weights up to `lags`, by default 4 (T/100)^(2/9). The p-value is two-sided; zones are one-sided at `level`.

    **Source:** Diebold and Mariano (1995); Newey and West (1987, 1994); Fissler, Ziegel, Gneiting (2016), "Expected
    shortfall is jointly elicitable with value at risk", for the three zones.
    """
    a, b = np.asarray(new, float), np.asarray(reference, float)
    if a.shape != b.shape or a.ndim != 1 or a.size < 10:
        raise InputError(f"scores of shapes {a.shape} and {b.shape}: expected two series of the same days, at least 10")
    d = a - b
    days, mean = d.size, float(d.mean())
    lags = int(4 * (days / 100) ** (2 / 9)) if lags is None else lags
    centered = d - mean
    variance = float(centered @ centered) / days
    for lag in range(1, lags + 1):
        variance += 2.0 * (1.0 - lag / (lags + 1)) * float(centered[lag:] @ centered[:-lag]) / days
    error = float(np.sqrt(variance / days))
    z = mean / error if error > 0.0 else 0.0
    edge = float(stats.norm.isf(level))
    zone = "green" if z < -edge else "red" if z > edge else "yellow"
    return Comparison(mean, error, z, float(2.0 * stats.norm.sf(abs(z))), zone)
