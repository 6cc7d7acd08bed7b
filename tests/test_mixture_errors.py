"""Errors of paths from a mixture of laws with exact shares: what the laws' means differ by is in none of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from tailrisk._fields import InputError
from tailrisk.tails import accumulator, streamed, weighted
from tailrisk.tails.plan import Integrand, Plan

GROUPS, TURN = 3, 3 * 64
ROWS = (Integrand("mean"), Integrand("above", 0.9), Integrand("excess", 0.5))
PLAN = Plan(ROWS, reservoir=4_000, top=64, groups=GROUPS, controls=1)
SIZE = 4 * TURN


def group(paths, groups=GROUPS):
    """The group of each path: 64 at a time, in turn."""
    return np.arange(paths) // 64 % groups


def thirds(paths):
    """Uniforms whose group says which third of (0, 1) they lie in, equally spaced there, in a random order."""
    x, rng = np.empty(paths), np.random.default_rng(1)
    for g in range(GROUPS):
        mine = group(paths) == g
        x[mine] = rng.permutation((g + (np.arange(mine.sum()) + 0.5) / mine.sum()) / GROUPS)
    return x


def drawn(seed, paths=8 * SIZE):
    rng, g = np.random.default_rng(seed), group(paths)
    x = rng.exponential(1.0 + g)
    return x, 0.1 * rng.standard_normal(paths) - g, rng.standard_normal((paths, 1)) + x[:, None]


def nodes_of(columns, chunk, order=None, plan=PLAN):
    nodes = {}
    for i in range(columns[0].size // chunk) if order is None else order:
        part = slice(i * chunk, (i + 1) * chunk)
        nodes = accumulator.insert(nodes, i, accumulator.summarize(plan, *(c[part] for c in columns)))
    return nodes


@pytest.fixture(scope="module")
def columns():
    return drawn(2)


@pytest.fixture(scope="module")
def whole(columns):
    return accumulator.total(nodes_of(columns, SIZE))


def test_three_strata_of_a_uniform():
    """Within a third the variance is 1/108 instead of 1/12, that of 1{x >= 0.9} is 0.7 x 0.3 in one of them alone.

    The median lies in the middle third, of which half is above: (1/3) (1/4) instead of 1/4 for one path.
    """
    x = thirds(8 * SIZE)
    acc = accumulator.summarize(Plan(ROWS, reservoir=x.size, groups=GROUPS), x)
    errors = {1: (1.0 / 108.0, 1.0 / 12.0), 2: (0.7 * 0.3 / 3.0, 0.9 * 0.1)}
    for row, (within, plain) in errors.items():
        assert accumulator.std_error(acc, row) ** 2 * x.size == pytest.approx(within, rel=2e-3)
        assert float(accumulator.row_moments(acc, row).variance) == pytest.approx(plain, rel=2e-3)
    estimate, z = streamed.mean(acc, 1), stats.norm.isf(0.025)
    assert estimate.high - estimate.value == pytest.approx(z * (1.0 / 108.0 / x.size) ** 0.5, rel=2e-3)
    mine, blind = streamed.tail(acc, 0.5), weighted.tails(x, np.ones(x.size), [0.5])[0]
    assert mine.quantile.value == blind.quantile.value == pytest.approx(0.5, abs=1e-3)
    assert mine.quantile.std_error == pytest.approx((1.0 / 12.0 / x.size) ** 0.5, rel=0.05)
    assert blind.quantile.std_error == pytest.approx((1.0 / 4.0 / x.size) ** 0.5, rel=0.05)
    excess = (1.0 / 216.0 - 1.0 / 576.0 + 1.0 / 108.0) / 3.0  # of (x - 1/2)+ in the middle third and the last one
    assert mine.shortfall.std_error == pytest.approx(2.0 * (excess / x.size) ** 0.5, rel=0.01)
    assert blind.shortfall.std_error == pytest.approx(2.0 * ((1.0 / 24.0 - 1.0 / 64.0) / x.size) ** 0.5, rel=0.01)


def test_covariances_are_those_within_groups(whole, columns):
    """Of rows and of the control, against NumPy group by group."""
    x, log_weight, control = columns
    w, g = np.exp(log_weight), group(x.size)
    y = np.stack([w, w * x, w * (x >= 0.9), w * np.maximum(x - 0.5, 0.0), w * control[:, 0]])
    parts = [np.cov(y[:, g == k]) / (g == k).sum() for k in range(GROUPS)]
    found = accumulator.means(whole)
    np.testing.assert_allclose(found.value, y.mean(axis=1), rtol=1e-12)
    np.testing.assert_allclose(found.covariance, sum(parts) / GROUPS**2, rtol=1e-10)
    np.testing.assert_array_equal(whole.reservoir.place // 64 % GROUPS, g[np.argsort(-x)[: PLAN.reservoir]])


def test_any_order_and_any_chunks_of_groups(whole, columns):
    """The same bits in any order of chunks; other chunks change the last digits; float32 agrees to 1e-6."""
    again = accumulator.total(nodes_of(columns, SIZE, [5, 0, 7, 2, 1, 6, 4, 3]))
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)
    empty = accumulator.merge(whole, accumulator.empty(PLAN))
    for a, b in zip(whole.cross, empty.cross, strict=True):
        np.testing.assert_array_equal(a, b)
    wide = accumulator.total(nodes_of(columns, 4 * SIZE))
    np.testing.assert_allclose(accumulator.means(wide).covariance, accumulator.means(whole).covariance, rtol=1e-12)
    single = [jnp.asarray(c, jnp.float32) for c in columns]
    small, exact = (
        accumulator.total(nodes_of(cast, 4 * SIZE)) for cast in (single, [np.asarray(c, float) for c in single])
    )
    np.testing.assert_allclose(accumulator.means(small).covariance, accumulator.means(exact).covariance, rtol=1e-6)


def test_a_ratio_of_two_columns(whole, columns):
    """Its value and delta error against NumPy within groups, inside an interval that is no narrower than sections say."""
    x, log_weight, control = columns
    w, g = np.exp(log_weight), group(x.size)
    a, b = w * control[:, 0], w * x
    estimate = streamed.ratio(whole, 4, 1)
    assert estimate.value == pytest.approx(a.mean() / b.mean(), rel=1e-12)
    away = (a - a.mean() / b.mean() * b) / b.mean()
    within = np.mean([away[g == k].var(ddof=1) for k in range(GROUPS)])
    assert estimate.std_error == pytest.approx((within / x.size) ** 0.5, rel=1e-9)
    parts = np.array([a[np.arange(x.size) % 16 == k].sum() / b[np.arange(x.size) % 16 == k].sum() for k in range(16)])
    half = weighted.section_half(parts, estimate.value, 0.95)
    assert estimate.low <= estimate.value - half < estimate.value + half <= estimate.high
    assert estimate.high - estimate.low < 6.0 * estimate.std_error


def test_a_chunk_that_ends_within_a_turn_is_refused(columns):
    with pytest.raises(InputError, match="expected a multiple of 192"):
        accumulator.summarize(PLAN, *(c[: TURN + 64] for c in columns))
    with pytest.raises(InputError, match="groups = 0"):
        Plan(ROWS, groups=0)
