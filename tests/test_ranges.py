"""Sums over ranges equal a loop, whatever their lengths, and a path does not see its neighbors; packing loses nothing."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from tailrisk._packed import Packed
from tailrisk._ranges import range_sum
from tailrisk._sums import halving_total

WIDTH = 8


def window(given, first, stop):
    table, factor = given
    here = jax.lax.dynamic_slice(table, (first,), (WIDTH,))
    inside = first + jnp.arange(WIDTH, dtype=jnp.int32) < stop
    return jnp.stack([halving_total(jnp.where(inside, scale * here, 0.0)) for scale in (factor, jnp.ones_like(factor))])


def test_ranges_equal_a_loop_and_do_not_see_their_neighbors():
    rng = np.random.default_rng(0)
    table = rng.lognormal(size=1000 + WIDTH).astype(np.float32)
    factor = rng.normal(size=64).astype(np.float32)
    start = rng.integers(0, 1000, 64).astype(np.int32)
    stop = np.minimum(start + np.where(rng.random(64) < 0.5, rng.integers(0, 12, 64), 900), 1000).astype(np.int32)
    stop[:3] = start[:3]  # empty ranges
    one = lambda f, a, b: range_sum(window, (jnp.asarray(table), f), a, b, WIDTH)  # noqa: E731
    many = eqx.filter_jit(jax.vmap(one))
    found = np.asarray(many(factor, start, stop))
    exact = np.stack([table[a:b].astype(float).sum() for a, b in zip(start, stop, strict=True)])
    assert (stop - start).max() > 10 * WIDTH
    np.testing.assert_allclose(found[:, 1], exact, rtol=2e-6)
    np.testing.assert_allclose(found[:, 0], factor * exact, rtol=2e-6)
    order = rng.permutation(64)
    np.testing.assert_array_equal(many(factor[order], start[order], stop[order]), found[order])
    alone = eqx.filter_jit(one)
    for path in (0, 5, 40):
        np.testing.assert_allclose(alone(factor[path], start[path], stop[path]), found[path], rtol=1e-6)


def test_a_packed_tree_comes_back():
    tree = {"a": jnp.arange(3.0), "b": (jnp.ones((2, 2)), jnp.asarray(7.0), jnp.zeros((0, 4)))}
    packed = Packed.of(tree)
    assert packed.numbers.shape == (8,)
    assert jax.tree.structure(packed.tree) == jax.tree.structure(tree)
    assert all((x == y).all() for x, y in zip(jax.tree.leaves(packed.tree), jax.tree.leaves(tree), strict=True))
