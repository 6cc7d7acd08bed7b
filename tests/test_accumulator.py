"""Summaries of weighted paths: what they hold, that merging loses nothing, and that order and precision do not matter."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from tailrisk._fields import InputError
from tailrisk.tails import accumulator, streamed, weighted
from tailrisk.tails.plan import Integrand, Plan

SHIFT = 3.1  # of the normal that paths are drawn from; x = exp(normal) is lognormal under the law of interest
PATHS, CHUNK = 16_384, 2_048
PLAN = Plan(
    (Integrand("mean"), Integrand("above", 20.0, 1e-3), Integrand("excess", 20.0, 1e-2)),
    reservoir=4_000,
    top=256,
    lowest=2.0**-12,
    controls=1,
)


def drawn(paths, seed, shift=SHIFT):
    z = shift + np.random.default_rng(seed).standard_normal(paths)
    return np.exp(z), 0.5 * shift**2 - shift * z, np.minimum(z, 3.0)[:, None]


X, LOG_WEIGHT, CONTROL = drawn(PATHS, 1)


def nodes_of(plan, chunk, order=None, cast=lambda a: a):
    nodes = {}
    for i in range(PATHS // chunk) if order is None else order:
        part = slice(i * chunk, (i + 1) * chunk)
        leaf = accumulator.summarize(plan, *(cast(a[part]) for a in (X, LOG_WEIGHT, CONTROL)))
        nodes = accumulator.insert(nodes, i, leaf)
    return nodes


@pytest.fixture(scope="module")
def whole():
    return accumulator.total(nodes_of(PLAN, CHUNK))


def rows():
    w = np.exp(LOG_WEIGHT)
    return [w, w * X, w * (X >= 20.0), w * np.maximum(X - 20.0, 0.0)]


def leaves(acc):
    return jax.tree.leaves(acc)


def test_a_summary_holds_what_the_paths_hold(whole):
    """Moments, largest contributions, co-moments with the control, weights, reservoir and histogram against NumPy."""
    w, ys = np.exp(LOG_WEIGHT), rows()
    for row, y in enumerate(ys):
        m = accumulator.row_moments(whole, row)
        assert float(m.mean) == pytest.approx(y.mean(), rel=1e-12)
        assert float(m.variance) == pytest.approx(y.var(ddof=1), rel=1e-11)
        assert float(m.skewness) == pytest.approx(stats.skew(y), rel=1e-10)
        assert float(m.kurtosis) == pytest.approx(stats.kurtosis(y), rel=1e-9)
        assert (int(m.nonzero), float(m.largest)) == (np.count_nonzero(y), pytest.approx(y.max(), rel=1e-14))
        np.testing.assert_allclose(
            streamed.largest_contributions(whole, row), np.sort(y[y > 0])[::-1][: PLAN.top], rtol=1e-12
        )
        batches = [y[i :: PLAN.batches].mean() / PLAN.units[row] for i in range(PLAN.batches)]
        np.testing.assert_allclose(whole.moments.mean[row], batches, rtol=1e-11)
    wide = np.stack([y / u for y, u in zip(ys, PLAN.units, strict=True)] + [w * CONTROL[:, 0]])
    np.testing.assert_allclose(whole.cross.comoment[0] / PATHS, np.cov(wide, bias=True), rtol=1e-10)
    assert float(whole.weight_sum * np.exp(whole.log_most)) == pytest.approx(w.sum(), rel=1e-13)
    assert float(whole.weight_square * np.exp(2 * whole.log_most)) == pytest.approx((w**2).sum(), rel=1e-13)
    order = np.argsort(-X)[: PLAN.reservoir]
    np.testing.assert_array_equal(whole.reservoir.value, X[order])
    np.testing.assert_array_equal(whole.reservoir.log_weight, LOG_WEIGHT[order])
    np.testing.assert_array_equal(whole.reservoir.place, order % PLAN.batches)
    np.testing.assert_allclose(whole.histogram.sum(axis=0)[:3], [w.sum(), (w**2).sum(), (w * X).sum()], rtol=1e-12)


def test_any_order_of_chunks_gives_the_same_bits(whole):
    """Two devices with aligned blocks, and chunks in a random order, as after an interruption."""
    order = [int(i) for i in np.random.default_rng(2).permutation(PATHS // CHUNK)]
    again = accumulator.total(nodes_of(PLAN, CHUNK, order))
    left, right = nodes_of(PLAN, CHUNK, range(4)), nodes_of(PLAN, CHUNK, range(4, 8))
    assert (len(left), len(right)) == (1, 1)  # a device returns one node
    together = accumulator.total(left | right)
    for other in (again, together):
        for a, b in zip(leaves(whole), leaves(other), strict=True):
            np.testing.assert_array_equal(a, b)


def test_chunk_size_changes_the_last_digits_only(whole):
    other = accumulator.total(nodes_of(PLAN, 4 * CHUNK))
    for row in range(4):
        a, b = accumulator.row_moments(whole, row), accumulator.row_moments(other, row)
        for one, two in zip(a, b, strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-12)
    np.testing.assert_allclose(whole.moments.mean, other.moments.mean, rtol=1e-12)
    np.testing.assert_allclose(whole.histogram, other.histogram, rtol=1e-12)
    np.testing.assert_array_equal(whole.reservoir.value, other.reservoir.value)


def test_merging_is_associative_and_empty_changes_nothing():
    a, b, c = (
        accumulator.summarize(PLAN, *(v[i * CHUNK : (i + 1) * CHUNK] for v in (X, LOG_WEIGHT, CONTROL)))
        for i in range(3)
    )
    left, right = accumulator.merge(accumulator.merge(a, b), c), accumulator.merge(a, accumulator.merge(b, c))
    for one, two in zip(leaves(left), leaves(right), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-10, atol=1e-12)
    for same in (accumulator.merge(a, accumulator.empty(PLAN)), accumulator.merge(accumulator.empty(PLAN), a)):
        for one, two in zip(leaves(same), leaves(a), strict=True):
            np.testing.assert_array_equal(one, two)


def test_float32_on_the_device_agrees(whole):
    """Mean, variance and log of the summed weights within 1e-6 of float64 on the same float32 numbers."""
    small = accumulator.total(nodes_of(PLAN, CHUNK, cast=lambda a: jnp.asarray(a, jnp.float32)))
    wide = accumulator.total(nodes_of(PLAN, CHUNK, cast=lambda a: a.astype(np.float32).astype(float)))
    for row in range(4):
        a, b = accumulator.row_moments(small, row), accumulator.row_moments(wide, row)
        for name in ("mean", "variance", "m3", "effective_hits"):
            assert float(getattr(a, name)) == pytest.approx(float(getattr(b, name)), rel=1e-6), name
    log_sums = [s.log_most + np.log(s.weight_sum) for s in (small, wide)]
    assert log_sums[0] == pytest.approx(log_sums[1], rel=1e-6)
    np.testing.assert_allclose(small.histogram.sum(axis=0), wide.histogram.sum(axis=0), rtol=1e-6)


SMALL = Plan((Integrand("mean"), Integrand("above", 9.7, 1e-22)))


def test_a_small_spread_about_a_large_mean_survives_float32():
    """Values near 1000 with deviation 0.1: the difference of mean squares would be zero or worse."""
    x = (1000.0 + 0.1 * np.random.default_rng(3).standard_normal(20_000)).astype(np.float32)
    acc = accumulator.summarize(SMALL, jnp.asarray(x))
    assert float(accumulator.row_moments(acc, 1).variance) == pytest.approx(x.astype(float).var(ddof=1), rel=1e-6)


def test_events_of_any_probability_stay_within_float32():
    """p = 1e-22 with weights near it: squares would underflow without the unit of the row."""
    z = (9.7 + np.random.default_rng(4).standard_normal(20_000)).astype(np.float32)
    lw = (0.5 * 9.7**2 - 9.7 * z.astype(float)).astype(np.float32)
    estimate = streamed.probability(accumulator.summarize(SMALL, jnp.asarray(z), jnp.asarray(lw)), 2)
    assert estimate.value == pytest.approx(stats.norm.sf(9.7), abs=4 * estimate.std_error)
    assert 0.0 < estimate.std_error < 0.03 * estimate.value


def test_estimates_from_a_summary_are_those_from_all_paths(whole):
    w = np.exp(LOG_WEIGHT)
    assert streamed.probability(whole, 2)[:4] == pytest.approx(weighted.probability(X >= 20.0, w)[:4], rel=1e-11)
    by_row, by_path = streamed.mean(whole, 3), weighted.mean(np.maximum(X - 20.0, 0.0), w)
    assert by_row[:4] == pytest.approx(by_path[:4], rel=1e-9)
    deep, all_paths = streamed.tail(whole, 1 - 1e-5), weighted.tails(X, w, [1 - 1e-5])[0]
    assert deep.quantile == all_paths.quantile  # within the reservoir
    assert deep.shortfall[:2] == pytest.approx(all_paths.shortfall[:2], rel=1e-12)
    near, all_paths = streamed.tail(whole, 0.999), weighted.tails(X, w, [0.999])[0]  # beyond it: by bins
    assert near.quantile.note == "from bins of 0.1 %"
    assert near.quantile[:4] == pytest.approx(all_paths.quantile[:4], rel=1e-3, abs=0.05 * near.quantile.std_error)
    assert near.shortfall[:2] == pytest.approx(all_paths.shortfall[:2], rel=1e-3)


@pytest.mark.parametrize("level", [0.99, 0.9999, 1 - 1e-6])
def test_a_replay_makes_the_quantile_exact(whole, level):
    replay = [(X[i : i + 5000], LOG_WEIGHT[i : i + 5000]) for i in range(0, PATHS, 5000)]
    exact = weighted.tails(X, np.exp(LOG_WEIGHT), [level])[0].quantile.value
    assert streamed.exact_quantile(whole, level, replay) == exact


BINNED = Plan((Integrand("mean"),), lowest=2.0**-20)


def test_a_replay_sees_the_ends_of_the_histogram():
    """Losses below and above all regular bins, beside paths without a loss."""
    x = np.concatenate([np.zeros(40_000), np.linspace(1e-9, 9e-9, 20_000), np.linspace(2e6, 3e6, 20_000)])
    acc = accumulator.summarize(BINNED, x)
    for level in (0.6, 0.9):
        exact = weighted.quantile(x, np.ones(x.size), level).value
        assert streamed.exact_quantile(acc, level, [(x, np.zeros(x.size))]) == exact
    assert streamed.exact_quantile(acc, 0.3, [(x, np.zeros(x.size))]) == 0.0


def test_the_atom_is_seen_in_a_stream():
    """P(x > 0) = 2e-3: at 99 % the quantile is zero and the shortfall E[x]/alpha, from bins as from paths."""
    rng = np.random.default_rng(5)
    x = np.where(rng.random(80_000) < 2e-3, rng.exponential(size=80_000), 0.0)
    acc = accumulator.summarize(BINNED, x)
    for t in (streamed.tail(acc, 0.99), weighted.tails(x, np.ones(x.size), [0.99])[0]):
        assert (t.quantile.value, t.quantile.low, t.quantile.high) == (0.0, 0.0, 0.0)
        assert t.shortfall.value == pytest.approx(x.mean() / 0.01, rel=1e-9)
        assert t.quantile.note == "atom"


def test_summaries_that_do_not_fit_are_refused(whole):
    other = Plan(PLAN.integrands, tag="another tilt")
    with pytest.raises(InputError, match="one plan and one sampling law"):
        accumulator.merge(whole, accumulator.empty(other))
    with pytest.raises(InputError, match="there already"):
        accumulator.insert(accumulator.insert({}, 3, whole), 3, whole)
    with pytest.raises(InputError, match="power of two"):
        Plan((), batches=10)
    with pytest.raises(InputError, match="power of two"):
        Plan((), lowest=0.1)
    with pytest.raises(InputError, match="expected weight, mean, above or excess"):
        accumulator.summarize(Plan((Integrand("most"),)), X)
    with pytest.raises(InputError, match="one per value"):
        accumulator.summarize(Plan((Integrand("mean"),)), X, LOG_WEIGHT[:5])
    with pytest.raises(InputError, match="keep more"):
        streamed.tail(accumulator.summarize(SMALL, jnp.asarray(np.resize(X, 20_000), jnp.float32)), 0.99)


@pytest.mark.slow
def test_a_deep_quantile_of_many_weighted_paths_in_one_pass():
    """VaR at a tail of 1e-6 of 2^25 weighted paths: within 0.1 % of the exact one, which a replay then gives."""
    plan, chunk, level = Plan((Integrand("mean"),), lowest=2.0**-12), 2**17, 1 - 1e-6
    nodes, deepest = {}, np.zeros((2, 0))
    for i in range(256):
        x, lw, _ = drawn(chunk, [7, i], 4.0)
        nodes = accumulator.insert(nodes, i, accumulator.summarize(plan, x, lw))
        deepest = np.concatenate([deepest, np.stack([x, np.exp(lw)])[:, x > 100.0]], axis=1)
    acc = accumulator.total(nodes)
    order = np.argsort(-deepest[0])
    above = np.cumsum(deepest[1][order]) / float(acc.paths)
    exact = deepest[0][order][np.searchsorted(above, 1e-6)]
    found = streamed.tail(acc, level).quantile
    assert found.value == pytest.approx(exact, rel=1e-3)
    replay = (drawn(chunk, [7, i], 4.0)[:2] for i in range(256))
    assert streamed.exact_quantile(acc, level, replay) == pytest.approx(exact, rel=1e-12)
    truth = np.exp(stats.norm.isf(1e-6))
    assert found.std_error < 2e-4 * truth
    assert found.value == pytest.approx(truth, abs=1e-3 * truth + 4 * found.std_error)


@pytest.mark.slow
def test_chunks_on_two_devices_give_the_bits_of_one():
    """In a process of its own with two host devices: chunks alternate between them, in float32."""
    script = """
import jax, numpy as np
from tailrisk.tails import accumulator
from tailrisk.tails.plan import Integrand, Plan
plan = Plan((Integrand("mean"), Integrand("above", 3.0, 0.1)), reservoir=500, lowest=2.0**-12)
rng = np.random.default_rng(1)
chunks = [(np.exp(rng.standard_normal(2048)), 0.1 * rng.standard_normal(2048)) for _ in range(6)]
def run(devices):
    nodes = {}
    for i, chunk in enumerate(chunks):
        put = [jax.device_put(a.astype(np.float32), devices[i % len(devices)]) for a in chunk]
        nodes = accumulator.insert(nodes, i, accumulator.summarize(plan, *put))
    return jax.tree.leaves(accumulator.total(nodes))
assert len(jax.devices()) == 2
for a, b in zip(run(jax.devices()[:1]), run(jax.devices()), strict=True):
    np.testing.assert_array_equal(a, b)
"""
    flags = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    done = subprocess.run([sys.executable, "-c", script], env=flags, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
