"""A test that may be read every day: a bet against the forecast whose wealth cannot grow if the forecast is right."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .null import Forecast, exceptions

MOST = 0.5  # of the wealth, on one day


class Wealth(NamedTuple):
    """Wealth after every day, stakes (known the day before), and the first day at which wealth reaches 1/level, or -1."""

    wealth: np.ndarray
    stake: np.ndarray
    rejected_on: np.ndarray


def e_values(profit: ArrayLike, given: Forecast) -> np.ndarray:
    """max(-X - VaR, 0)/(alpha (ES - VaR)): expectation one if the pair is right, more if the shortfall is too small.

    **Source:** Wang, Wang, Ziegel (2022), "E-backtesting".
    """
    exceptions(profit, given)
    var, es, alpha = given
    return np.maximum(-np.asarray(profit, float) - var, 0.0) / (alpha * np.maximum(es - var, np.finfo(float).tiny))


def stakes(e: np.ndarray) -> np.ndarray:
    """The stake of every day from the days before: growth sum ln(1 - l + l e) to second order, at most `MOST`."""
    gain = e - 1.0
    total, square = (np.cumsum(v, axis=-1) for v in (gain, gain**2))
    best = np.clip(total / np.maximum(square, np.finfo(float).tiny), 0.0, MOST)
    return np.concatenate([np.zeros_like(best[..., :1]), best[..., :-1]], axis=-1)


def e_test(profit: ArrayLike, given: Forecast, level: float = 0.05) -> Wealth:
    """Wealth prod (1 - l_t + l_t e_t); rejecting when it reaches 1/level errs with probability `level` at most, whenever
    one looks (Ville 1939).
    """
    e = e_values(profit, given)
    stake = stakes(e)
    wealth = np.exp(np.cumsum(np.log1p(stake * (e - 1.0)), axis=-1))
    reached = wealth >= 1.0 / level
    first = np.where(reached.any(axis=-1), reached.argmax(axis=-1), -1)
    return Wealth(wealth, stake, np.asarray(first))
