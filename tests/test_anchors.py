"""Closed forms against the values printed for them, and their derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tailrisk import anchors
from tailrisk.margin import prices

DAY = 1.0 / 365.0
K1 = dict(price=100.0, leverage=5.0, volatility=0.8, horizon=30 * DAY, delay=DAY)
K1B = dict(price=100.0, leverage=10.0, volatility=0.8, horizon=DAY, delay=600.0 / 31_536_000.0)


@pytest.mark.parametrize(
    ("m", "case", "value", "slope"),
    [
        pytest.param(0.05, K1, (0.0902820, 1e-7), (-4.14585, 1e-5), id="K1"),
        pytest.param(0.01, K1B, (4.38334e-6, 1e-11), (-4.07153e-3, 1e-8), id="K1b"),
    ],
)
def test_expected_bad_debt(m, case, value, slope):
    """K1, K1b: value and derivative in m by autodiff to a unit of the last printed digit, and a central difference."""
    debt = jax.jit(lambda m: anchors.expected_bad_debt_delayed(m, **case))
    np.testing.assert_allclose(debt(m), value[0], atol=value[1], rtol=0)
    gradient = jax.jit(jax.grad(debt))(m)
    np.testing.assert_allclose(gradient, slope[0], atol=slope[1], rtol=0)
    np.testing.assert_allclose(gradient, (debt(m + 1e-6) - debt(m - 1e-6)) / 2e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("case", "m", "touched", "put"),
    [
        pytest.param(K1, 0.05, (0.492986, 5e-7), (0.183133, 5e-7), id="K1"),
        pytest.param(K1B, 0.01, (0.0239493, 5e-8), (1.83026e-4, 5e-10), id="K1b"),
    ],
)
def test_factors(case, m, touched, put):
    """The two factors of the bad debt, and p^L = 84.2105 of K1 by the margin formula."""
    debt = case["price"] * (1 - 1 / case["leverage"])
    barrier = prices.liquidation_price(case["price"], 1.0, case["price"] / case["leverage"], m)
    if case is K1:
        np.testing.assert_allclose(barrier, 84.2105, atol=5e-5)
    first = anchors.first_passage_probability(case["price"], barrier, case["volatility"], case["horizon"])
    np.testing.assert_allclose(first, touched[0], atol=touched[1], rtol=0)
    second = anchors.zero_rate_put(barrier, debt, case["volatility"], case["delay"])
    np.testing.assert_allclose(second, put[0], atol=put[1], rtol=0)


def test_k1_in_float32():
    """1e-5 relative for the passage; the put is a difference of numbers 400 times larger, so 1e-4 for the product."""
    single = {name: jnp.float32(value) for name, value in K1.items()}
    debt = anchors.expected_bad_debt_delayed(jnp.float32(0.05), **single)
    assert debt.dtype == jnp.float32
    np.testing.assert_allclose(debt, 0.0902820, rtol=1e-4)
    touched = anchors.first_passage_probability(
        single["price"], jnp.float32(84.2105263), single["volatility"], single["horizon"]
    )
    np.testing.assert_allclose(touched, 0.492986, rtol=1e-5)


@pytest.mark.parametrize(
    ("checks", "value"), [(30, 0.43128), (120, 0.46161), (480, 0.47717)], ids=["K2-30", "K2-120", "K2-480"]
)
def test_monitoring_correction(checks, value):
    """K2: closed form at the barrier that discrete checks act like."""
    barrier = anchors.monitored_barrier(80.0 / 0.95, 0.8, 30 * DAY / checks)
    np.testing.assert_allclose(
        anchors.first_passage_probability(100.0, barrier, 0.8, 30 * DAY), value, atol=5e-6, rtol=0
    )


@pytest.mark.parametrize(
    ("leverage", "days", "value", "tolerance"),
    [
        (10, 1, 1.469e-3, 5e-7),
        (10, 30, 0.5877, 5e-5),
        (20, 1, 0.1439, 5e-5),
        (20, 30, 0.8058, 5e-5),
        (50, 1, 0.6334, 5e-5),
        (50, 30, 0.9365, 5e-5),
    ],
)
def test_k16_probability_of_liquidation(leverage, days, value, tolerance):
    """K16: H at the liquidation price of an isolated long, sigma 60 %, maintenance 0.5 %."""
    barrier = prices.liquidation_price(100.0, 1.0, 100.0 / leverage, 0.005)
    touched = anchors.first_passage_probability(100.0, barrier, 0.6, days * DAY)
    np.testing.assert_allclose(touched, value, atol=tolerance, rtol=0)


def test_limits():
    """Touched for sure at the barrier, never at zero; a put is worth what it pays when volatility is gone."""
    at = jnp.asarray([0.0, 90.0, 99.999999, 100.0, 120.0])
    touched = anchors.first_passage_probability(100.0, at, 0.6, DAY)
    np.testing.assert_allclose(touched, [0.0, touched[1], 1.0, 1.0, 1.0], atol=1e-5)
    assert float(anchors.first_passage_probability(100.0, 90.0, 1e-3, DAY)) == 0.0
    np.testing.assert_allclose(anchors.zero_rate_put(90.0, 100.0, 1e-6, DAY), 10.0, rtol=1e-12)
    slope = jax.jit(jax.vmap(jax.grad(lambda b: anchors.first_passage_probability(100.0, b, 0.6, DAY))))(at)
    assert np.isfinite(np.asarray(slope)).all()
