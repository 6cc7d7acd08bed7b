"""Backtests against printed references, hand-worked histories, and their size and power where the truth is known."""

import itertools

import numpy as np
import pytest
from scipy import stats

from tailrisk._fields import InputError
from tailrisk.tails import backtests
from tailrisk.tails.backtests import coverage, null, scores, sequential, shortfall

NORMAL = stats.norm


def normal_forecast(alpha, shape, scale=1.0):
    """The right value-at-risk and expected shortfall of normal profits, and their law."""
    size = np.full(shape, scale)
    v = NORMAL.isf(alpha)
    given = backtests.forecast(v * size, NORMAL.pdf(v) / alpha * size, alpha)
    return given, backtests.scaled(NORMAL.ppf, size)


def test_kupiec_reference():
    """8 exceptions in 250 days at 1 %: 7.733551; the exact p-value sums binomial probabilities by hand."""
    assert float(coverage.kupiec_statistic(8, 250, 0.01)) == pytest.approx(7.733551, abs=5e-7)
    hits = np.arange(250) < 8
    verdict = backtests.kupiec(hits, 0.01)
    assert float(verdict.asymptotic) == pytest.approx(stats.chi2.sf(7.733551, 1), rel=1e-5)
    x = np.arange(251)
    as_unlikely = coverage.kupiec_statistic(x, 250, 0.01) >= 7.733550
    assert float(verdict.p_value) == pytest.approx(stats.binom.pmf(x, 250, 0.01)[as_unlikely].sum(), rel=1e-9)
    assert float(coverage.kupiec_statistic(0, 250, 0.01)) == pytest.approx(-500 * np.log(0.99))  # 0 ln 0 = 0
    assert float(coverage.kupiec_statistic(250, 250, 0.01)) == pytest.approx(-500 * np.log(0.01))


def test_independence_by_hand():
    """0 1 1 0 0 1 0 0: n00 = 2, n01 = 2, n10 = 2, n11 = 1."""
    hits = np.array([0, 1, 1, 0, 0, 1, 0, 0], bool)

    def log_likelihood(pairs):
        return sum(n * np.log(p) for n, p in pairs)

    restricted = log_likelihood([(4, 4 / 7), (3, 3 / 7)])
    free = log_likelihood([(2, 0.5), (2, 0.5), (2, 2 / 3), (1, 1 / 3)])
    assert float(coverage.independence_statistic(hits)) == pytest.approx(2 * (free - restricted), rel=1e-12)
    assert float(coverage.independence_statistic(np.zeros(50, bool))) == 0.0
    both = coverage.conditional_statistic(hits, 0.1)
    assert float(both) == pytest.approx(
        float(coverage.kupiec_statistic(3, 8, 0.1)) + 2 * (free - restricted), rel=1e-12
    )


def test_shortfall_statistics_by_hand():
    """Two exceptions in ten days, losses 4 and 6 with ES 4 and VaR 3; two assets at once, one without an exception."""
    profit = np.array([[1.0, -4, 2, 0, -6, 1, 1, 1, 1, 1], np.ones(10)])
    given = backtests.forecast(np.full((2, 10), 3.0), np.full((2, 10), 4.0), 0.1)
    found = shortfall.statistics(profit, given)
    assert found["acerbi_szekely_1"][0] == pytest.approx(1 - (1.0 + 1.5) / 2)
    assert found["acerbi_szekely_2"][0] == pytest.approx(1 - 2.5 / (10 * 0.1))
    assert found["minimally_biased"][0] == pytest.approx(1.0 - (1 + 3) / (10 * 0.1))
    assert np.isnan(found["acerbi_szekely_1"][1])
    assert (found["acerbi_szekely_2"][1], found["minimally_biased"][1]) == (1.0, 1.0)


@pytest.mark.parametrize("alpha", [0.01, 0.025, 0.05])
def test_statistics_have_expectation_zero_when_the_forecast_is_right(alpha):
    """Over 20,000 simulated histories of 250 days, within 4 standard errors of 1 % of the deviation or less."""
    given, law = normal_forecast(alpha, 250)
    for name, values in shortfall.null(given, law, 20_000, seed=1).items():
        values = values[~np.isnan(values)]
        error = values.std() / np.sqrt(values.size)
        assert error < 0.01 * values.std()
        assert values.mean() == pytest.approx(0.0, abs=4 * error), name


def test_p_values_of_the_null_are_uniform_and_reproducible():
    """New histories of a forecast that changes from day to day, two assets with other laws at once; 3 standard errors."""
    rng = np.random.default_rng(2)
    scale = np.stack([np.linspace(0.5, 2.0, 250), np.ones(250)])
    given, law = normal_forecast(0.025, (2, 250), 1.0)
    given = backtests.forecast(given.value_at_risk * scale, given.expected_shortfall * scale, 0.025)
    law = backtests.scaled(NORMAL.ppf, scale)
    simulated = shortfall.null(given, law, 20_000, seed=3)
    again = shortfall.null(given, law, 20_000, seed=3)
    fresh = shortfall.null(given, law, 10_000, seed=4)
    for name in shortfall.TESTS:
        np.testing.assert_array_equal(simulated[name], again[name])
        for asset in (0, 1):
            values = fresh[name][:, asset]
            p = null.p_value(values[~np.isnan(values)], simulated[name][:, [asset]], "low", rng)
            for share in (0.05, 0.5):
                error = np.sqrt(share * (1 - share) * (1 / 20_000 + 1 / 10_000))
                assert np.mean(p < share) == pytest.approx(share, abs=3 * error), name
    first = null.p_value(fresh[name][0], simulated[name], "low")  # one history of both assets
    assert first.shape == (2,)
    alone = null.p_value(fresh[name][0, 1:], simulated[name][:, 1:], "low")
    assert first[1] == alone[0]


def test_understated_volatility_is_found():
    """Profits 70 % wider than the forecast, 500 days: every test of shortfall and the count reject; the bet wins."""
    given, law = normal_forecast(0.025, 500)
    x = 1.7 * np.random.default_rng(5).standard_normal(500)
    for verdict in backtests.shortfall_tests(x, given, law, histories=4_000):
        assert float(verdict.p_value) < 0.01, verdict.name
        assert np.isnan(float(verdict.asymptotic))
    assert float(backtests.kupiec(backtests.exceptions(x, given), 0.025).p_value) < 0.01
    wealth = backtests.e_test(x, given)
    assert 0 <= int(wealth.rejected_on) < 499


def test_clustered_exceptions_are_found():
    """An exception after an exception has probability 0.4: independence is rejected, the number may be right."""
    rng = np.random.default_rng(6)
    hits = np.zeros(1000, bool)
    for t in range(1, 1000):
        hits[t] = rng.random() < (0.4 if hits[t - 1] else 0.031)
    independence, conditional = backtests.christoffersen(hits, 0.05, histories=4_000)
    assert float(independence.p_value) < 0.01
    assert float(conditional.p_value) < 0.01
    assert float(independence.asymptotic) < 0.01
    assert float(backtests.kupiec(hits, 0.05).p_value) > 0.01


def test_score_is_smallest_at_the_truth():
    """Expected FZ0 of normal profits at 2.5 %: 0.84921151, and more for every perturbed pair.

    The expectation is a closed form: E[(v - X)+] = v Phi(v) + phi(v) at v = -VaR.
    """
    alpha, v0 = 0.025, NORMAL.isf(0.025)
    e0 = NORMAL.pdf(v0) / alpha

    def expected(var, es):
        return (NORMAL.pdf(var) - var * NORMAL.sf(var)) / (alpha * es) + var / es + np.log(es) - 1.0

    assert expected(v0, e0) == pytest.approx(np.log(2.337803), abs=1e-6)
    assert expected(v0, e0) == pytest.approx(0.84921151, abs=2e-7)  # of the rounded 2.337803
    for a, b in itertools.product((0.8, 0.95, 1.0, 1.05, 1.2), repeat=2):
        if (a, b) != (1.0, 1.0):
            assert expected(a * v0, b * e0) > expected(v0, e0)
    given, _ = normal_forecast(alpha, 400_000)
    score = scores.fissler_ziegel(np.random.default_rng(7).standard_normal(400_000), given)
    error = score.std() / np.sqrt(score.size)
    assert error < 0.003
    assert score.mean() == pytest.approx(0.84921151, abs=4 * error)


def test_the_better_forecast_is_green():
    rng = np.random.default_rng(8)
    scale = np.exp(0.5 * np.sin(np.arange(2000) / 50.0))
    x = scale * rng.standard_normal(2000)
    right, _ = normal_forecast(0.025, 2000)
    flat = scores.fissler_ziegel(x, right)
    moving = scores.fissler_ziegel(
        x, backtests.forecast(right.value_at_risk * scale, right.expected_shortfall * scale, 0.025)
    )
    better, worse, same = (
        backtests.compare(moving, flat),
        backtests.compare(flat, moving),
        backtests.compare(flat, flat + 1e-3 * rng.standard_normal(2000)),
    )
    assert (better.zone, worse.zone, same.zone) == ("green", "red", "yellow")
    assert better.difference == -worse.difference < 0.0
    assert better.p_value == worse.p_value < 0.05


def test_the_variance_of_a_comparison_allows_for_dependence():
    """Moving averages of 5 days: the long-run variance is five times that of a day; Bartlett weights of 20 lags."""
    noise = np.random.default_rng(9).standard_normal(40_004)
    d = np.convolve(noise, np.ones(5) / np.sqrt(5.0), "valid")
    found = backtests.compare(d, np.zeros(40_000), lags=20)
    bartlett = 1 + 2 * sum((1 - k / 21) * (5 - k) / 5 for k in range(1, 5))
    assert found.std_error == pytest.approx(np.sqrt(bartlett / 40_000), rel=0.1)
    plain = backtests.compare(d, np.zeros(40_000), lags=0)
    assert plain.std_error == pytest.approx(d.std() / 200.0, rel=1e-12)


def test_wealth_by_hand_and_its_stakes_look_back_only():
    """e = (0, 4, 0, 4): stakes 0, 0, 0.2, ... ; a change of the last day changes no stake."""
    given = backtests.forecast(np.full(4, 1.0), np.full(4, 2.0), 0.25)
    x = np.array([0.0, -2.0, 0.0, -2.0])
    e = sequential.e_values(x, given)
    np.testing.assert_allclose(e, [0.0, 4.0, 0.0, 4.0])
    stake = sequential.stakes(e)
    np.testing.assert_allclose(stake, [0.0, 0.0, (3 - 1) / (9 + 1), (3 - 1 - 1) / (9 + 1 + 1)])
    wealth = backtests.e_test(x, given)
    np.testing.assert_allclose(wealth.wealth[2:], [0.8, 0.8 * (1 + 3 / 11)])
    np.testing.assert_array_equal(sequential.stakes(np.array([0.0, 4.0, 0.0, 99.0])), stake)
    assert int(wealth.rejected_on) == -1


def test_the_bet_loses_against_a_right_forecast():
    """2,000 histories of 250 days, read every day: at most 5 % ever reach 20, and E[e] = 1."""
    given, _ = normal_forecast(0.05, (2_000, 250))
    x = np.random.default_rng(10).standard_normal((2_000, 250))
    e = sequential.e_values(x, given)
    assert e.mean() == pytest.approx(1.0, abs=4 * e.std() / np.sqrt(e.size))
    share = (backtests.e_test(x, given).rejected_on >= 0).mean()
    assert share <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 2_000)


def test_bad_input_says_what_was_expected():
    given, law = normal_forecast(0.05, 100)
    cases = [
        (lambda: backtests.forecast(1.0, 2.0, 0.05), "one per day"),
        (lambda: backtests.forecast([1.0], [2.0], 5.0), "alpha = 5"),
        (lambda: backtests.forecast([-1.0], [2.0], 0.05), "losses are positive"),
        (lambda: backtests.exceptions(np.zeros(5), given), "that of the forecast"),
        (lambda: backtests.exceptions(np.full(100, np.nan), given), "not finite"),
        (lambda: backtests.kupiec(np.zeros(10), 0.05), "expected Booleans"),
        (lambda: null.simulate(given, lambda u, i: 2 * law(u, i), lambda *a: {}, 10), "same law"),
        (lambda: backtests.compare([1.0], [2.0]), "same days"),
        (lambda: null.p_value(0.0, np.zeros((5, 1)), "left"), "low or high"),
    ]
    for call, words in cases:
        with pytest.raises(InputError, match=words):
            call()


@pytest.mark.slow
@pytest.mark.parametrize("days", [250, 500, 1000])
@pytest.mark.parametrize("alpha", [0.01, 0.025, 0.05])
def test_size_is_nominal(days, alpha):
    """5 % tests of right forecasts: within 3 standard errors with chance for ties, never above without.

    5,000 fresh histories against 20,000 simulated ones; the error allows for both.
    """
    fresh_count, simulated_count = 5_000, 20_000
    rng = np.random.default_rng([11, days, int(1000 * alpha)])
    given, law = normal_forecast(alpha, days)
    error = np.sqrt(0.05 * 0.95 * (1 / fresh_count + 1 / simulated_count))
    sizes = {}
    hits = rng.random((fresh_count, days)) < alpha
    sizes["kupiec"] = [backtests.kupiec(hits, alpha, r).p_value for r in (None, rng)]
    for exact in (None, rng):
        for verdict in backtests.christoffersen(hits, alpha, histories=simulated_count, seed=12, rng=exact):
            sizes.setdefault(verdict.name, []).append(verdict.p_value)
    simulated, fresh = (shortfall.null(given, law, n, seed) for n, seed in ((simulated_count, 13), (fresh_count, 14)))
    for name in shortfall.TESTS:
        sizes[name] = [null.p_value(fresh[name], simulated[name], "low", r) for r in (None, rng)]
    for name, (conservative, exact) in sizes.items():
        exists = ~np.isnan(fresh[name]) if name in fresh else np.ones(fresh_count, bool)
        shares = np.mean(conservative <= 0.05), np.mean(exact[exists] <= 0.05)
        print(f"{days:5d} {alpha:5.3f} {name:22s} conservative {shares[0]:.4f} exact {shares[1]:.4f}")
        assert shares[0] <= 0.05 + 3 * error, name
        assert shares[1] == pytest.approx(0.05, abs=3 * error / np.sqrt(exists.mean())), name


@pytest.mark.slow
def test_power_curves():
    """Share of 5 % tests that reject, for volatility understated by 20 % and 50 % and for clustered volatility.

    Power grows with the days and with the understatement; with 1,000 days and 50 % everything but independence sees it.
    """
    alpha, histories, table = 0.025, 1_000, {}
    for days in (250, 500, 1000):
        given, law = normal_forecast(alpha, days)
        simulated = shortfall.null(given, law, 10_000, seed=15)
        rng = np.random.default_rng([16, days])
        wide = backtests.forecast(
            *(np.broadcast_to(f, (histories, days)) for f in (given.value_at_risk, given.expected_shortfall)), alpha
        )
        noise = rng.standard_normal((histories, days))
        variance, clustered = np.ones(histories), np.zeros((histories, days))
        for t in range(days):  # GARCH with unit variance
            clustered[:, t] = np.sqrt(variance) * noise[:, t]
            variance = 0.05 + 0.15 * clustered[:, t] ** 2 + 0.8 * variance
        for case, x in (("20 %", noise / 0.8), ("50 %", noise / 0.5), ("clusters", clustered)):
            hits = backtests.exceptions(x, wide)
            found = shortfall.statistics(x, wide)
            p = {name: null.p_value(found[name], simulated[name], "low") for name in shortfall.TESTS}
            p["kupiec"] = backtests.kupiec(hits, alpha).p_value
            for verdict in backtests.christoffersen(hits, alpha, histories=10_000, seed=17):
                p[verdict.name] = verdict.p_value
            power = {name: float(np.mean(v <= 0.05)) for name, v in p.items()}
            power["e_test"] = float((backtests.e_test(x, wide).rejected_on >= 0).mean())
            table[case, days] = power
            print(case, days, {name: round(v, 3) for name, v in power.items()})
    error = np.sqrt(0.25 / histories)
    tests = [*shortfall.TESTS, "kupiec", "conditional_coverage", "e_test"]
    for name in tests:
        assert table["50 %", 1000][name] > 0.95, name
        for days in (250, 500, 1000):
            assert table["50 %", days][name] > table["20 %", days][name] - 3 * error
        for case in ("20 %", "50 %"):
            assert table[case, 1000][name] > table[case, 250][name] - 3 * error
    assert table["clusters", 1000]["independence"] > table["20 %", 1000]["independence"] + 3 * error
    assert table["clusters", 1000]["conditional_coverage"] > 0.3
