"""Tests of a forecast expected shortfall: all have expectation zero if it is right and are negative if it is too small."""

import numpy as np
from numpy.typing import ArrayLike

from .null import HISTORIES, Forecast, Law, Verdict, exceptions, p_value, simulate

TESTS = ("acerbi_szekely_1", "acerbi_szekely_2", "minimally_biased")


def statistics(profit: ArrayLike, given: Forecast) -> dict[str, np.ndarray]:
    """Z1 = mean of X/ES over exceptions + 1; Z2 = sum of X/ES over exceptions/(T alpha) + 1; and the minimally biased
    mean(ES - VaR - (1/alpha) max(-(X + VaR), 0)), in the unit of X.

    Z1 is nan without an exception.

    **Source:** Acerbi and Szekely (2014), "Backtesting expected shortfall"; (2017), "General properties of backtestable
    statistics", for the third.
    """
    hits = exceptions(profit, given)
    where = np.nonzero(hits)
    return _statistics(hits, where, np.asarray(profit, float)[where], where, given)


def _statistics(
    hits: np.ndarray, where: tuple[np.ndarray, ...], profit: np.ndarray, place: tuple[np.ndarray, ...], given: Forecast
) -> dict[str, np.ndarray]:
    """From the profits at the hits; `place` are their indices in the forecast."""
    var, es, alpha = given
    lead, days = hits.shape[:-1], hits.shape[-1]
    row = np.ravel_multi_index(where[:-1], lead) if lead else np.zeros(profit.size, int)
    cells = int(np.prod(lead)) if lead else 1

    def summed(terms: np.ndarray) -> np.ndarray:
        return np.bincount(row, terms, minlength=cells).reshape(lead)

    ratio, over = summed(profit / es[place]), summed(-(profit + var[place]))
    count = hits.sum(axis=-1)
    first = np.where(count > 0, ratio / np.maximum(count, 1) + 1.0, np.nan)
    return {
        "acerbi_szekely_1": first,
        "acerbi_szekely_2": ratio / (days * alpha) + 1.0,
        "minimally_biased": (es - var).mean(axis=-1) - over / (days * alpha),
    }


def null(given: Forecast, law: Law, histories: int = HISTORIES, seed: int = 0) -> dict[str, np.ndarray]:
    """Simulated statistics (histories, ...) when the forecast is right."""
    return simulate(given, law, lambda hits, where, x: _statistics(hits, where, x, where[1:], given), histories, seed)


def shortfall_tests(
    profit: ArrayLike, given: Forecast, law: Law, *, histories: int = HISTORIES, seed: int = 0
) -> tuple[Verdict, ...]:
    """All three tests; small p-values say that the expected shortfall is too small."""
    found, simulated = statistics(profit, given), null(given, law, histories, seed)
    nothing = np.full(np.asarray(found[TESTS[0]]).shape, np.nan)
    return tuple(Verdict(name, found[name], p_value(found[name], simulated[name], "low"), nothing) for name in TESTS)
