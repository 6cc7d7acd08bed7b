"""The scaling report says what was measured."""

import numpy as np
import pytest

from tailrisk.bench import scale


def test_exponents_of_a_power_law():
    """cost = 3 n^1.5 with 1 % noise: the exponent within four of its errors, which are small; exact without noise."""
    n = np.repeat([10.0, 100.0, 1000.0], 5)
    exact = scale.fit(n, 3.0 * n**1.5)
    assert (exact["exponent"], exact["factor"]) == pytest.approx((1.5, 3.0))
    noisy = scale.fit(n, 3.0 * n**1.5 * np.exp(0.01 * np.random.default_rng(1).standard_normal(15)))
    assert noisy["std_error"] < 0.003
    assert abs(noisy["exponent"] - 1.5) < 4.0 * noisy["std_error"]
    assert scale.fit([1.0, 2.0, 4.0], [1.0, 3.0, 4.0])["std_error"] > 0.1  # what is no power law is in the error


def test_calls_are_timed_in_turn():
    seen = []
    spent = scale.timed({size: lambda turn, size=size: seen.append((turn, size)) for size in (1, 2)}, 2)
    assert seen == [(0, 1), (0, 2), (1, 1), (1, 2), (2, 1), (2, 2)]
    assert [len(times) for times in spent.values()] == [2, 2]
