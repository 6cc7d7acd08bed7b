"""Day-ahead forecasts of BTC judged by every backtest, on daily returns from 2017 to 2026 (skipped without market data)."""

import numpy as np
import pytest
from scipy import stats

from tailrisk.data.series import PriceFile, log_returns
from tailrisk.tails import backtests

ALPHA, WARM = 0.025, 500  # days before the first forecast


@pytest.fixture
def days(market_data):
    """Daily log returns, and the deviations that a day ahead sees: of the past, and exponentially weighted (0.94)."""
    file = market_data / "long_history" / "binance_spot_BTCUSDT_1h_2017-08_2026-06.parquet"
    x = np.asarray(log_returns(PriceFile(str(file), every="1d", missing="hold")).log_return)[:, 0]
    past = np.sqrt([np.mean(x[: max(i, WARM)] ** 2) for i in range(x.size)])
    variance = np.empty(x.size)
    last = float(np.mean(x[:WARM] ** 2))
    for i in range(x.size):
        variance[i], last = last, 0.94 * last + 0.06 * x[i] ** 2
    return x, past, np.sqrt(variance)


def judge(x, scale, law):
    """P-values by test, the day of the bet's rejection (-1: never), scores and exceptions of a forecast `scale` x law."""
    q = -law.ppf(ALPHA)
    shortfall = -law.expect(lambda y: y, ub=-q) / ALPHA
    given = backtests.forecast(q * scale, shortfall * scale, ALPHA)
    hits = backtests.exceptions(x, given)
    verdicts = [*backtests.christoffersen(hits, ALPHA, histories=4_000, seed=1), backtests.kupiec(hits, ALPHA)]
    verdicts += backtests.shortfall_tests(x, given, backtests.scaled(law.ppf, scale), histories=4_000, seed=2)
    p = {verdict.name: float(verdict.p_value) for verdict in verdicts}
    rejected = int(backtests.e_test(x, given).rejected_on)
    return p, rejected, backtests.fissler_ziegel(x, given), int(hits.sum())


def test_forecasts_of_real_days(days):
    """Normal tails are refused by every test, and by the bet within two years; Student tails fitted beforehand hold.

    A deviation that does not follow the market is worse than one that does, though it never understates the loss.
    """
    x, past, weighted = days
    freedom, _, scale = stats.t.fit(x[:WARM] / weighted[:WARM], floc=0.0)
    assert 2.5 < freedom < 5.0
    later = x[WARM:]
    normal, rejected, normal_score, hits = judge(later, weighted[WARM:], stats.norm())
    assert hits > 1.25 * ALPHA * later.size
    assert max(normal[name] for name in ("kupiec", "acerbi_szekely_1", "acerbi_szekely_2", "minimally_biased")) < 0.01
    assert 0 <= rejected < 730
    student, rejected, student_score, hits = judge(later, weighted[WARM:], stats.t(freedom, scale=scale))
    assert abs(hits - ALPHA * later.size) < 3.0 * np.sqrt(ALPHA * later.size)
    assert min(student[name] for name in ("kupiec", "acerbi_szekely_1", "acerbi_szekely_2", "minimally_biased")) > 0.1
    assert rejected == -1
    assert student["independence"] < 0.05  # exceptions still cluster, which the shape of the tail cannot mend
    flat, _, flat_score, _ = judge(later, past[WARM:], stats.norm())
    assert flat["acerbi_szekely_2"] > 0.1
    assert backtests.compare(student_score, flat_score).zone == "green"
    assert backtests.compare(student_score, normal_score).difference < 0.0
