"""Queries on sorted tables equal a loop over the rows, whatever the size, with ties."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tailrisk.positions.search import Descending, Dominance, PrefixSums, count_above


@pytest.mark.parametrize("places", [1, 2, 3, 7, 8, 100])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dominance_equals_a_loop(places, dtype):
    rng = np.random.default_rng(places)
    level = rng.normal(size=(2, places)).round(1).astype(dtype)
    amounts = rng.lognormal(sigma=3.0, size=(2, places, 2))
    table = Dominance.build(level, amounts, dtype)
    above = eqx.filter_jit(table.above)
    # A range of a float64 prefix table carries the rounding of the whole; float32 tables are split in two.
    rtol, atol = (1e-6, 0.0) if dtype == np.float32 else (1e-13, 1e-15 * amounts.sum())
    for _ in range(50):
        start = rng.integers(0, places + 1, 2)
        stop = np.maximum(start, rng.integers(0, places + 1, 2))
        value = rng.choice(np.concatenate([level.ravel(), [0.05, 9.0, -9.0]]), 2).astype(dtype)
        found = above(jnp.asarray(start, jnp.int32), jnp.asarray(stop, jnp.int32), jnp.asarray(value))
        for s in range(2):
            chosen = level[s, start[s] : stop[s]] > value[s]
            expected = amounts[s, start[s] : stop[s]][chosen].sum(axis=0)
            np.testing.assert_allclose(found[s], expected, rtol=rtol, atol=atol)


def test_count_above_equals_searchsorted():
    rng = np.random.default_rng(0)
    table = -np.sort(-rng.normal(size=(2, 57)).round(1), axis=1)
    for value in (*table[0, ::5], -9.0, 9.0, 0.05):
        found = count_above(jnp.asarray(table), jnp.full(2, value), "a place")
        np.testing.assert_array_equal(found, (table > value).sum(axis=1))


def test_prefix_sums_keep_the_relative_precision_of_a_small_range_in_float32():
    """Ten small amounts after a hundred million times as much: one float32 prefix table would lose them."""
    amounts = np.concatenate([np.full(1000, 1e8), np.linspace(0.1, 1.0, 10)])[None, :, None]
    table = PrefixSums.build(amounts, np.float32)
    found = table.between(jnp.asarray([1003], jnp.int32), jnp.asarray([1008], jnp.int32))
    np.testing.assert_allclose(found[0, 0], amounts[0, 1003:1008, 0].sum(), rtol=1e-2)
    plain = np.cumsum(amounts[0, :, 0].astype(np.float32), dtype=np.float32)
    assert plain[1008] - plain[1002] == 0.0  # what the split buys


@pytest.mark.parametrize("places", [1, 2, 16, 64, 512])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_wide_search_equals_searchsorted(places, dtype):
    """With ties, values outside the table, and rows that end in groups without a threshold."""
    rng = np.random.default_rng(places)
    table = -np.sort(-rng.normal(size=(2, places)).round(1), axis=1).astype(dtype)
    table[1, places // 2 + 1 :] = -np.inf
    values = np.concatenate([table[0], [-9.0, 9.0, 0.05]]).astype(dtype)
    search = Descending.build(table, dtype)
    found = eqx.filter_jit(jax.vmap(jax.vmap(lambda s, v: search.count_above(s, v, "a place"), (None, 0)), (0, None)))(
        jnp.arange(2, dtype=jnp.int32), jnp.asarray(values)
    )
    np.testing.assert_array_equal(found, (table[:, None, :] > values[None, :, None]).sum(axis=2))
