"""Closed forms of execution cost against the values printed in their sources."""

import math

import numpy as np
import pytest

from tailrisk.execution import (
    almgren_2005_cost,
    almgren_chriss_schedule,
    book_walk,
    constant_product_out,
    kyle_1985,
    market_depth,
    obizhaeva_wang_schedule,
    vwap_linear,
)


def test_book_walk():
    """CLS-01."""
    walk = book_walk([1.0, 1.1, 1.2], [1.0, 3.0, 10.0], 5.0)
    assert walk.notional == pytest.approx(5.5)
    assert walk.average == pytest.approx(1.1)
    assert (walk.filled, walk.last) == (5.0, 1.2)


def test_book_walk_of_a_thin_or_untouched_book():
    assert book_walk([1.0, 1.1], [1.0, 3.0], 5.0).filled == 4.0
    assert math.isnan(book_walk([1.0], [1.0], 0.0).average)
    with pytest.raises(ValueError, match="two equal lists"):
        book_walk([1.0, 2.0], [1.0], 5.0)


@pytest.mark.parametrize(
    ("price", "sold", "average"),
    [(1.30, 0.5, 1.05), (0.95, 0.2, 0.85), (1.60, -2.0, 2.60), (0.98, 0.4, 0.78), (1.05, -0.4, 1.25)],
)
def test_vwap_linear(price, sold, average):
    """CLS-02."""
    assert vwap_linear(price, sold) == pytest.approx(average, abs=1e-12)


@pytest.mark.parametrize(("days", "temporary", "cost"), [(0.1, 22.29, 32.22), (0.2, 14.71, 24.64), (0.5, 8.49, 18.42)])
def test_almgren_2005(days, temporary, cost):
    """IMP-01, basis points."""
    found = almgren_2005_cost(0.6561e6, 6.561e6, 1728e6, 0.0157, days)
    assert [1e4 * value for value in found] == pytest.approx([19.86, temporary, cost], abs=0.01)
    mirrored = almgren_2005_cost(-0.6561e6, 6.561e6, 1728e6, 0.0157, days)
    assert mirrored.cost == -found.cost


@pytest.mark.parametrize(
    ("reserve_in", "reserve_out", "out"), [(5, 10, 1662497915624478906), (10, 5, 453305446940074565)]
)
def test_integer_pool(reserve_in, reserve_out, out):
    """IMP-04."""
    assert constant_product_out(10**18, reserve_in * 10**18, reserve_out * 10**18) == out


def test_integer_pool_refuses_nonsense():
    with pytest.raises(ValueError, match="positive whole numbers"):
        constant_product_out(0, 1, 1)


def test_obizhaeva_wang():
    """IMP-05."""
    schedule = obizhaeva_wang_schedule(100_000.0, 2.231, 1.0)
    assert schedule.block == pytest.approx(23_635.07, abs=0.01)
    assert schedule.rate * 1.0 == pytest.approx(52_729.85, abs=0.01)
    assert 2.0 * schedule.block + schedule.rate == pytest.approx(100_000.0)


def test_kyle():
    """IMP-06."""
    assert kyle_1985(4.0, 10.0) == (0.1, 5.0)


def test_market_depth():
    """IMP-07."""
    depth = market_depth(1e9, 0.01, 20.0)
    assert depth == pytest.approx(1.78885e11, abs=1e6)
    assert 1e9 / depth == pytest.approx(0.00559017, abs=1e-8)


def test_almgren_chriss():
    """IMP-08."""
    plan = almgren_chriss_schedule(1e6, 5.0, 5, 0.95, 0.0625, 2.5e-7, 2.5e-6, 1e-6)
    assert plan.urgency == pytest.approx(0.6070761632, abs=1e-10)
    expected = [1e6, 541_955.554, 289_854.219, 147_897.488, 62_141.802, 0.0]
    np.testing.assert_allclose(plan.holdings, expected, atol=1e-3)
    assert plan.expected == pytest.approx(911_226.986, abs=1e-3)
    assert plan.variance == pytest.approx(3.64128572e11, abs=1e3)


def test_almgren_chriss_without_risk_aversion_is_a_straight_line():
    """IMP-08."""
    plan = almgren_chriss_schedule(1e6, 5.0, 5, 0.95, 0.0625, 2.5e-7, 2.5e-6, 0.0)
    np.testing.assert_allclose(plan.holdings, 1e6 * np.linspace(1.0, 0.0, 6), atol=1e-6)
    assert plan.expected == pytest.approx(662_500.0)
    assert math.sqrt(plan.variance) == pytest.approx(1_040_672.860, abs=1e-3)
    with pytest.raises(ValueError, match="use more periods"):
        almgren_chriss_schedule(1e6, 5.0, 1, 0.95, 0.0625, 2.5e-6, 2.5e-6, 0.0)
