"""What a test statistic does when the forecast is right: simulated from the forecaster's own laws, and p-values from it.

Only days with an exception matter, so a day draws a uniform u and its profit is looked up where u < alpha alone.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ..._fields import InputError

HISTORIES = 100_000
_BLOCK = 4_000_000  # numbers held at a time

Law = Callable[[np.ndarray, tuple[np.ndarray, ...]], np.ndarray]
"""The predictive quantile function of profit and loss: from probabilities u and the indices (..., day) of the forecasts."""


class Forecast(NamedTuple):
    """Value-at-risk and expected shortfall (losses, positive) at tail probability `alpha`, of shape (..., days)."""

    value_at_risk: np.ndarray
    expected_shortfall: np.ndarray
    alpha: float


class Verdict(NamedTuple):
    """A test of a forecast; p-values are of shape (...). `asymptotic` is that of the limit law, nan where there is none."""

    name: str
    statistic: np.ndarray
    p_value: np.ndarray
    asymptotic: np.ndarray


def forecast(value_at_risk: ArrayLike, expected_shortfall: ArrayLike, alpha: float) -> Forecast:
    """A checked forecast.

    **Raises:** `InputError` unless 0 < alpha < 1 and 0 < value-at-risk <= expected shortfall.
    """
    v, s = np.broadcast_arrays(*(np.asarray(a, float) for a in (value_at_risk, expected_shortfall)))
    if v.ndim == 0:
        raise InputError("value_at_risk is one number: expected one per day, as np.full(days, value)")
    if not 0.0 < alpha < 1.0:
        raise InputError(f"alpha = {alpha}: expected a tail probability between 0 and 1, for example 0.01")
    if not np.all((v > 0.0) & (v <= s)):
        raise InputError("expected 0 < value_at_risk <= expected_shortfall on all days (losses are positive)")
    return Forecast(v, s, float(alpha))


def scaled(quantile: Callable[[np.ndarray], np.ndarray], scale: ArrayLike) -> Law:
    """The law scale * Z, Z with the given quantile function, for scales of the forecast's shape."""
    scale = np.asarray(scale, float)
    return lambda u, index: scale[index] * quantile(u)


def exceptions(profit: ArrayLike, given: Forecast) -> np.ndarray:
    """Days on which the loss exceeded the value-at-risk."""
    x = np.asarray(profit, float)
    if x.shape != given.value_at_risk.shape:
        raise InputError(f"profit has shape {x.shape}: expected that of the forecast, {given.value_at_risk.shape}")
    if not np.all(np.isfinite(x)):
        raise InputError(f"profit: {np.count_nonzero(~np.isfinite(x))} values are not finite")
    return x < -given.value_at_risk


def simulate(
    given: Forecast,
    law: Law,
    statistics: Callable[[np.ndarray, tuple[np.ndarray, ...], np.ndarray], dict[str, np.ndarray]],
    histories: int = HISTORIES,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Statistics of histories in which the forecast is right, of shape (histories, ...).

    `statistics` sees the hits (block, ..., days), the indices of all hits and the profits there.
    """
    shape = given.value_at_risk.shape
    index = tuple(np.indices(shape).reshape(len(shape), -1))
    edge = law(np.full(index[0].size, given.alpha), index)
    if not np.allclose(edge, -given.value_at_risk.reshape(-1), rtol=1e-3):
        raise InputError(
            "the law does not have the forecast value-at-risk as its quantile at alpha; expected the same law"
        )
    rng, rows = np.random.default_rng(seed), max(1, _BLOCK // int(np.prod(shape)))
    parts = []
    for first in range(0, histories, rows):
        u = rng.random((min(rows, histories - first), *shape))
        hits = u < given.alpha
        where = np.nonzero(hits)
        parts.append(statistics(hits, where, law(u[where], where[1:])))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def p_value(
    observed: ArrayLike, simulated: np.ndarray, tail: str, rng: np.random.Generator | None = None
) -> np.ndarray:
    """Share of simulated statistics (first axis) at least as extreme in the "low" or "high" tail.

    Of a discrete statistic it is conservative; with `rng`, ties count by chance and the level is exact. Simulated values
    that are nan (a statistic that does not exist in that history) are left out; an observed nan has the p-value 1.

    **Source:** Dufour (2006), "Monte Carlo tests with nuisance parameters".
    """
    if tail not in ("low", "high"):
        raise InputError(f"tail = {tail!r}: expected low or high")
    observed, sign = np.asarray(observed, float), 1.0 if tail == "low" else -1.0
    flat = sign * simulated.reshape(simulated.shape[0], -1)
    values = sign * observed.reshape(-1) if flat.shape[1] == observed.size else sign * observed
    columns = (
        np.broadcast_to(np.arange(flat.shape[1]), values.shape) if flat.shape[1] > 1 else np.zeros(values.shape, int)
    )
    out = np.ones(values.shape)
    for column in np.unique(columns):
        law = np.sort(flat[:, column][~np.isnan(flat[:, column])])
        mine = (columns == column) & ~np.isnan(values)
        tolerance = 1e-10 * np.maximum(np.abs(values[mine]), 1.0)
        below = np.searchsorted(law, values[mine] - tolerance, "left")
        through = np.searchsorted(law, values[mine] + tolerance, "right")
        if rng is None:
            out[mine] = (1 + through) / (1 + law.size)
        else:
            out[mine] = (below + (through - below + 1) * rng.random(below.size)) / (1 + law.size)
    return out.reshape(observed.shape)
