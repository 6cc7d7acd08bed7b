"""Noise is a pure function of (seed, stream, path, step, draw), and right in the tail."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.random import threefry_2x32
from scipy import stats
from scipy.special import ndtr, ndtri

from tailrisk import _streams


def test_reproduces_the_bits_of_jax_threefry():
    key = jnp.asarray([0x13198A2E, 0x03707344], jnp.uint32)
    count = jnp.asarray([0, 1, 2**31, 2**32 - 1, 7, 9, 11, 13], jnp.uint32)
    ours = _streams.threefry2x32(key[0], key[1], count[:4], count[4:])
    np.testing.assert_array_equal(np.concatenate(ours), threefry_2x32(key, count))


def test_known_answer_of_threefry():
    """Random123's own test vector: key 13198a2e 03707344, counter 243f6a88 85a308d3."""
    words = [np.uint32(w) for w in (0x13198A2E, 0x03707344, 0x243F6A88, 0x85A308D3)]
    with np.errstate(over="ignore"):
        assert [int(w) for w in _streams.threefry2x32(*words)] == [0xC4923A9C, 0x483DF7A0]


def test_quantile_map_is_scipys_at_the_extremes():
    t = np.concatenate([2.0 ** -np.linspace(1.0001, 43.0, 100_001), [2.0**-43, 0.5 - 2.0**-25]]).astype(np.float32)
    z = np.asarray(_streams.tail_quantile(jnp.asarray(t)))
    exact = -ndtri(t.astype(float))
    assert z.dtype == np.float32
    # The stated accuracy of the map; 5e-7 max(1, |z|) is four rounding units of float32.
    assert (np.abs(z - exact) <= 5e-7 * np.maximum(1.0, exact)).all()
    np.testing.assert_allclose(_streams.tail_quantile(jnp.asarray(t, jnp.float64)), -ndtri(t.astype(float)), rtol=1e-14)


def _words(a, b, dtype=jnp.float32):
    return _streams._half_uniform(jnp.asarray(a, jnp.uint32), jnp.asarray(b, jnp.uint32), dtype)


def test_every_exponent_cell_has_its_probability():
    """The map from words to t is exact: cell k holds [2^-(k+2), 2^-(k+1)) and is reached with probability 2^-(k+1)."""
    for k in range(32):
        low, high = _words(0, 1 << (31 - k)), _words(0x7FFFFFFF, (1 << (31 - k)) | ((1 << (31 - k)) - 1))
        assert low == np.float32(2.0 ** -(k + 2) * (1 + 2.0**-23))
        assert high == np.float32(2.0 ** -(k + 1) * (1 - 2.0**-24))
    # B = 0 continues into nine spare bits of A.
    for j in range(9):
        assert 2.0 ** -(34 + j) < float(_words(1 << (8 - j), 0)) < 2.0 ** -(33 + j)
    assert 0.0 < float(_words(0, 0)) < 2.0**-42


def test_uniforms_are_never_0_or_1():
    words = np.array([0, 0x7FFFFFFF, 0xFFFFFFFF, 0x80000000], np.uint32)
    a, b = np.meshgrid(words, words)
    u = 2.0 * np.asarray(_words(a, b))
    assert (u > 0).all()
    assert (u < 1).all()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_bulk_distribution(dtype):
    key = _streams.stream_key(1, "bulk")
    paths = jnp.arange(1 << 18, dtype=jnp.uint32)
    z = np.asarray(jax.vmap(lambda p: _streams.normals(key, p, 3, 4, dtype))(paths)).astype(float)
    u = np.asarray(jax.vmap(lambda p: _streams.uniforms(key, p, 3, 1, dtype))(paths)).astype(float)
    assert stats.kstest(z.ravel()[: 1 << 18], "norm").pvalue > 1e-4
    assert stats.kstest(u.ravel(), "uniform").pvalue > 1e-4
    n = z.size
    assert abs(z.mean()) < 4 / n**0.5
    assert abs(z.var() - 1) < 4 * (2 / n) ** 0.5
    correlation = np.corrcoef(z.T)
    assert np.abs(correlation - np.eye(4)).max() < 5 / (1 << 18) ** 0.5


def test_float32_and_float64_see_the_same_draws():
    key = _streams.stream_key(5, "market")
    a = _streams.normals(key, 17, 4, 64, jnp.float32)
    b = _streams.normals(key, 17, 4, 64, jnp.float64)
    np.testing.assert_allclose(a, b, rtol=1e-6, atol=5e-7)


def test_streams_paths_steps_and_draws_are_independent_coordinates():
    key = _streams.stream_key(5, "a")
    base = _streams.normals(key, 1, 1, 3, jnp.float64)
    np.testing.assert_array_equal(_streams.normals(key, 1, 1, 7, jnp.float64)[:3], base)  # another draw shifts nothing
    for other in (
        _streams.normals(_streams.stream_key(5, "b"), 1, 1, 3, jnp.float64),
        _streams.normals(_streams.stream_key(6, "a"), 1, 1, 3, jnp.float64),
        _streams.normals(key, 2, 1, 3, jnp.float64),
        _streams.normals(key, 1, 2, 3, jnp.float64),
    ):
        assert not np.any(np.asarray(other) == np.asarray(base))


def test_seed_out_of_range_is_refused():
    with pytest.raises(ValueError, match="seed = -1"):
        _streams.stream_key(-1, "a")


@pytest.mark.slow
def test_float32_normals_are_right_in_the_tail():
    """P(|z| > x) for x = 4, 5, 5.5, 6 within four standard errors, each side, on 2e10 draws (about two minutes)."""
    levels = np.array([4.0, 5.0, 5.5, 6.0])
    lanes, steps, blocks = 1 << 16, 1024, 300
    key = _streams.stream_key(20, "tail")

    @jax.jit
    def count(first):
        paths = first + jnp.arange(lanes, dtype=jnp.uint32)

        def body(total, step):
            z = jax.vmap(lambda p: _streams.normals(key, p, step, 1, jnp.float32)[0])(paths)
            beyond = [jnp.sum(s * z > x, dtype=jnp.int32) for s in (1.0, -1.0) for x in levels.tolist()]
            return total + jnp.stack(beyond), None

        return jax.lax.scan(body, jnp.zeros(8, jnp.int32), jnp.arange(steps, dtype=jnp.uint32))[0]

    counts = sum(np.asarray(count(jnp.uint32(i * lanes)), np.int64) for i in range(blocks)).reshape(2, 4)
    draws = lanes * steps * blocks
    assert draws >= 2e10
    expected = draws * ndtr(-levels)
    error = np.sqrt(expected)
    assert (np.abs(counts - expected) < 4 * error).all(), (counts, expected)
    assert error[-1] / expected[-1] < 0.25  # the test would see a tail that is off by a quarter even at six
