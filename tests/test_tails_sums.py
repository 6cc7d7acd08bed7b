"""Sums on the device keep what one addition rounds away, in the precision that runs use."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from tailrisk.simulate import entry_point
from tailrisk.tails import histogram, moments, sums

RNG = np.random.default_rng(20260)


def added(pair):
    return np.asarray(pair[0], float) + np.asarray(pair[1], float)


def test_the_compiler_has_kept_the_compensation():
    """float32 lognormal weights: error of the pair below 1e-12 where hi alone is wrong by 1e-8, and lo is not zero."""
    assert sums.compensation_survives("cpu")
    x = np.exp(2.0 * RNG.standard_normal(2**19)).astype(np.float32)
    hi, lo = entry_point(sums.compensated_sum)(jnp.asarray(x))
    exact = x.astype(float).sum()
    assert float(added((hi, lo))[0]) == pytest.approx(exact, rel=1e-12)
    assert abs(float(lo[0])) > 1e-9 * exact
    assert abs(float(hi[0]) - exact) > 1e-9 * exact


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_classes_of_path_numbers_are_summed_apart(dtype):
    x = RNG.standard_normal((5000, 3)).astype(dtype)
    total = added(entry_point(sums.compensated_sum)(jnp.asarray(x), 8))
    expected = np.array([x[i::8].astype(float).sum(axis=0) for i in range(8)])
    np.testing.assert_allclose(total, expected, rtol=1e-12, atol=1e-12)


def test_moments_merge_as_if_seen_together():
    """Against the moments of all values; the second sample lies far from the first."""
    a, b = RNG.exponential(size=(400, 2)), 5.0 + 3.0 * RNG.standard_normal((90, 2))
    both = np.concatenate([a, b])
    merged = moments.merge_moments(moments.moments_of(a), moments.moments_of(b))
    np.testing.assert_allclose(merged.mean, both.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(merged.variance, both.var(axis=0, ddof=1), rtol=1e-13)
    np.testing.assert_allclose(merged.skewness, stats.skew(both), rtol=1e-12)
    np.testing.assert_allclose(merged.kurtosis, stats.kurtosis(both), rtol=1e-12)
    np.testing.assert_allclose(merged.effective_hits, np.abs(both).sum(axis=0) ** 2 / (both**2).sum(axis=0), rtol=1e-13)
    for one, other in ((merged, moments.empty_moments(2)), (moments.empty_moments(2), merged)):
        for field, same in zip(moments.merge_moments(one, other), merged, strict=True):
            np.testing.assert_array_equal(field, same)


def test_bins_are_a_thousandth_wide_and_in_order():
    lowest = 2.0**-20
    edges = histogram.edges(lowest)
    assert edges[0] == lowest
    assert edges[-1] == lowest * 2.0**40
    assert np.all(np.diff(edges) / edges[:-1] <= 2.0**-10)
    x = np.concatenate([[-1.0, 0.0, lowest / 2], edges[:-1], edges[1:] * (1 - 2.0**-20), [edges[-1], np.inf]])
    regular = np.arange(histogram.BINS) + histogram.FIRST
    expected = [0, 0, histogram.UNDERFLOW, *regular, *regular, histogram.OVERFLOW, histogram.OVERFLOW]
    np.testing.assert_array_equal(histogram.bins(jnp.asarray(x), lowest), expected)


def test_histogram_is_the_sum_over_paths():
    """Every bin and every sum, with many paths in one bin and with one each."""
    x = np.concatenate([np.full(500, 3.0), RNG.pareto(2.0, 1500), np.zeros(300)])
    w = RNG.exponential(size=x.size)
    place = np.asarray(histogram.bins(jnp.asarray(x), 2.0**-10))
    made = added(entry_point(histogram.histogram)(jnp.asarray(x), jnp.asarray(w), jnp.asarray(place)))
    for column, term in enumerate((w, w**2, w * x, w**2 * x, w**2 * x**2)):
        expected = np.bincount(place, term, minlength=histogram.OVERFLOW + 1)
        np.testing.assert_allclose(made[:, column], expected, rtol=1e-13)
