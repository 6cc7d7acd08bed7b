"""A lending protocol that sells its collateral into a falling market: two correlated prices drive a published simulation.

The rules of the sale are the study's and stand here; the prices are the engine's market law.
"""

import numpy as np
import pytest
from market_laws import DAY, run

from tailrisk.market import GeometricBrownian

PATHS, DAYS = 40_000, 100
START, DRIFT, SIGMA, RESERVE, COLLATERAL = 223.0, -0.0016, 0.05, 988_787.0, 1.5
REFERENCE_PATHS = 5_000


def prices(paths=PATHS):
    """Ether and the reserve asset with half its volatility, (paths, days, 2), the start first: exp(drift t + sigma B)."""
    sigma = np.array([SIGMA, 0.5 * SIGMA])
    law = GeometricBrownian(sigma / DAY**0.5, drift=(DRIFT + 0.5 * sigma**2) / DAY, correlation=0.9)
    moves, _ = run(law, DAYS - 1, DAY, paths)
    return START * np.exp(np.concatenate([np.zeros((paths, 1, 2)), np.cumsum(moves, axis=1)], axis=1))


def sale(price, debt, decay, reserve=RESERVE, most=30_000.0):
    """First day with less left than is owed (0: none) and what is owed at the end.

    On day t at most `most` exp(-decay t) ether are sold, at the mean of two closes.
    """
    ether, reserve_price = price[..., 0], price[..., 1]
    left = np.full(len(price), COLLATERAL * debt / START)
    owed = np.full(len(price), float(debt))
    failed = np.zeros(len(price), int)
    for day in range(1, ether.shape[1]):
        mean = 0.5 * (ether[:, day - 1] + ether[:, day])
        sold = np.minimum(np.minimum(most * np.exp(-decay * day), owed / mean), left)
        left, owed = left - sold, owed - sold * mean
        margin = left * ether[:, day] + reserve * reserve_price[:, day] - owed
        failed = np.where((failed == 0) & (margin < 0.0), day, failed)
    return failed, owed


@pytest.fixture(scope="module")
def drawn():
    """One set of prices for all cases."""
    return prices()


@pytest.mark.parametrize(
    ("decay", "reserve", "wanted"),
    [
        (0.0, RESERVE, 0.006),
        (0.01, RESERVE, 0.014),
        (0.02, RESERVE, 0.025),
        (0.03, RESERVE, 0.039),
        (0.0, 0.0, 0.145),
        (0.01, 0.0, 0.211),
        (0.03, 0.0, 0.319),
    ],
)
def test_probability_of_failure_within_100_days(drawn, decay, reserve, wanted):
    """REP-05: debt of 400 million; the reference is itself a simulation of 5,000 paths, printed to three digits."""
    share = np.mean(sale(drawn, 400e6, decay, reserve)[0] > 0)
    error = np.sqrt(wanted * (1.0 - wanted) * (1.0 / PATHS + 1.0 / REFERENCE_PATHS))
    assert abs(share - wanted) <= 3.0 * error + 5e-4


def test_the_fastest_failure_is_a_matter_of_how_many_paths(drawn):
    """REP-05: 22 to 24 days among 5,000 paths; an order statistic that keeps falling, so only its size is checked."""
    days, _ = sale(drawn, 400e6, 0.0)
    fastest = [days[i : i + REFERENCE_PATHS] for i in range(0, PATHS, REFERENCE_PATHS)]
    fastest = [int(some[some > 0].min()) for some in fastest]
    assert 18 <= np.median(fastest) <= 30
    assert min(fastest) < np.median(fastest)


@pytest.mark.parametrize(
    ("decay", "debt", "days", "done"),
    [(0.0, 400e6, 59, False), (0.0, 400e6, 60, True), (0.01, 665.5e6, 3_000, True), (0.01, 665.8e6, 3_000, False)],
)
def test_how_long_the_sale_takes_at_a_constant_price(decay, debt, days, done):
    """REP-05: 59.8 days for 400 million; with a decay of 0.01 no more than V0 P / (e^0.01 - 1) = 665.66 million ever."""
    _, owed = sale(np.full((1, days + 1, 2), START), debt, decay)
    assert (owed[0] <= 1e-6 * debt) == done
