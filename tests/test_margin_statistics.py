"""Margin from laws of losses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from tailrisk.margin import statistical as st

T_TAIL = jax.jit(st.student_t_tail, static_argnames="scaling")
T_QUANTILE = jax.jit(st.student_t_quantile)
FACTORS = jax.jit(st.lognormal_risk_factors)
STATISTICS = {
    "PM-05-long": (lambda x: FACTORS(x(1.0), x(0.001), x(1e-6))[0], 0.1452637352, 5e-11),
    "PM-05-short": (lambda x: FACTORS(x(1.0), x(0.001), x(1e-6))[1], 0.1688236885, 5e-11),
    "TAIL-01-P5": (lambda x: st.breach_probability(x(0.05), x(0.04)), 0.1056498, 5e-8),
    "TAIL-01-P10": (lambda x: st.breach_probability(x(0.10), x(0.04)), 0.00620967, 5e-9),
    "TAIL-01-P15": (lambda x: st.breach_probability(x(0.15), x(0.04)), 8.84173e-5, 5e-11),
    "TAIL-01-E5": (lambda x: st.uncovered_loss(x(0.05), x(0.04)), 2.023475e-3, 5e-10),
    "TAIL-01-E10": (lambda x: st.uncovered_loss(x(0.10), x(0.04)), 8.016549e-5, 5e-12),
    "TAIL-01-E15": (lambda x: st.uncovered_loss(x(0.15), x(0.04)), 8.412345e-7, 5e-14),
    "TAIL-03-normal-VaR": (lambda x: st.normal_tail(x(0.04), x(0.99))[0], 0.0930539, 5e-8),
    "TAIL-03-normal-ES": (lambda x: st.normal_tail(x(0.04), x(0.99))[1], 0.1066086, 5e-8),
    "TAIL-03-t-VaR": (
        lambda x: T_TAIL(x(0.04), x(0.99), x(3.0), scaling="unit_variance")[0],
        0.1048630,
        5e-8,
    ),
    "TAIL-03-t-ES": (
        lambda x: T_TAIL(x(0.04), x(0.99), x(3.0), scaling="unit_variance")[1],
        0.1617293,
        5e-8,
    ),
    "TAIL-04": (lambda x: st.block_maxima_margin(x(0.03), x(0.01), x(0.25), x(0.10)), 0.0602086, 5e-8),
    "TAIL-05-VaR": (
        lambda x: st.peaks_over_threshold_tail(x(0.05), x(0.015), x(0.3), x(0.02), x(0.99))[0],
        0.0615572,
        5e-8,
    ),
    "TAIL-05-ES": (
        lambda x: st.peaks_over_threshold_tail(x(0.05), x(0.015), x(0.3), x(0.02), x(0.99))[1],
        0.0879389,
        5e-8,
    ),
    "TAIL-07-quantile": (lambda x: T_QUANTILE(x(0.99), x(6.0)), 3.1426684033, 5e-11),
    "TAIL-07-factor": (lambda x: T_TAIL(x(1.0), x(0.99), x(6.0))[1], 4.0325276795, 5e-11),
    "TAIL-07-margin": (lambda x: x(1000.0) * T_TAIL(x(0.02), x(0.99), x(6.0))[1], 80.6505535902, 5e-11),
}


@pytest.mark.parametrize("case", STATISTICS)
def test_statistics(case):
    """Last printed digit in float64; 1e-5 relative in float32."""
    compute, expected, tolerance = STATISTICS[case]
    np.testing.assert_allclose(compute(jnp.float64), expected, atol=tolerance, rtol=0)
    single = compute(jnp.float32)
    assert single.dtype == jnp.float32
    np.testing.assert_allclose(single, expected, rtol=1e-5)


@pytest.mark.parametrize(("margin", "lognormal"), [(0.05, 1.842481e-3), (0.10, 4.981530e-5), (0.15, 1.989273e-7)])
def test_tail01_uncovered_loss_and_gradient(margin, lognormal):
    """TAIL-01: lognormal column (float64 only: a put is a difference of near-equal numbers), and dE/dm = -P(L > m)."""
    np.testing.assert_allclose(st.uncovered_loss(margin, 0.04, law="lognormal"), lognormal, rtol=5e-7)
    np.testing.assert_allclose(
        jax.grad(st.uncovered_loss)(margin, 0.04), -st.breach_probability(margin, 0.04), rtol=1e-10
    )


def test_student_quantile_over_a_grid():
    """Against SciPy from the median far into heavy and light tails, and its derivative 1 / density."""
    level, degrees = np.meshgrid([0.5, 0.6, 0.9, 0.99, 0.9999, 1.0 - 1e-7], [1.0, 1.5, 3.0, 6.0, 30.0, 200.0])
    np.testing.assert_allclose(T_QUANTILE(level, degrees), stats.t.ppf(level, degrees), rtol=1e-7, atol=1e-12)
    slope = jax.grad(lambda p: T_QUANTILE(p, 6.0))(0.99)
    np.testing.assert_allclose(slope, 1.0 / stats.t.pdf(stats.t.ppf(0.99, 6.0), 6.0), rtol=1e-10)


def test_extreme_value_limits():
    """Shape 0 is the Gumbel and the exponential limit, smoothly, with finite derivatives."""
    gumbel = 0.03 - 0.01 * np.log(-np.log(0.9))
    exponential = 0.05 + 0.015 * np.log(2.0)
    for shape in (0.0, 1e-9, 0.99e-4, 1.01e-4):
        np.testing.assert_allclose(st.block_maxima_margin(0.03, 0.01, shape, 0.1), gumbel, rtol=2e-4)
        tail = st.peaks_over_threshold_tail(0.05, 0.015, shape, 0.02, 0.99)
        np.testing.assert_allclose(tail.value_at_risk, exponential, rtol=2e-4)
    below, above = (jax.grad(st.block_maxima_margin, argnums=2)(0.03, 0.01, s, 0.1) for s in (0.99e-4, 1.01e-4))
    np.testing.assert_allclose(below, above, rtol=1e-4)
    reference = stats.genextreme.ppf(0.9, -0.25, loc=0.03, scale=0.01)
    np.testing.assert_allclose(st.block_maxima_margin(0.03, 0.01, 0.25, 0.1), reference, rtol=1e-12)


def kupiec(exceptions, days, probability):
    """Likelihood ratio of the unconditional coverage test, chi-square with one degree of freedom."""
    share = exceptions / days
    null = stats.binom.logpmf(exceptions, days, probability)
    return 2.0 * (stats.binom.logpmf(exceptions, days, share) - null)


def test_normal_margin_covers_99_percent():
    """R05 (d): 99 % normal quantiles stay within Kupiec's 95 % band; a 97.5 % margin leaves it."""
    days = 20000
    loss = 0.04 * np.random.default_rng(6).standard_normal(days)
    margin = float(st.normal_tail(0.04, 0.99).value_at_risk)
    assert kupiec(int((loss > margin).sum()), days, 0.01) < stats.chi2.ppf(0.95, 1)
    short = float(st.normal_tail(0.04, 0.975).value_at_risk)
    assert kupiec(int((loss > short).sum()), days, 0.01) > stats.chi2.ppf(0.95, 1)
