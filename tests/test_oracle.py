"""Oracles: averages and delays against their formulas, purity, and exactness where the price does not move."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tailrisk._fields import cast, parse_duration, problems
from tailrisk.oracle import Deviation, ExponentialAverage, Lagged, Spot, WindowAverage, median_of_sources

MINUTE = parse_duration("1min")
DTYPES = (jnp.float32, jnp.float64)
ORACLES = {
    "spot": lambda: Spot(),
    "lagged": lambda: Lagged("2min", slots=4),
    "lagged between steps": lambda: Lagged("150s", slots=4),
    "arithmetic window": lambda: WindowAverage("5min", slots=8),
    "geometric window": lambda: WindowAverage("5min", slots=8, mean="geometric"),
    "exponential": lambda: ExponentialAverage("5min"),
    "geometric exponential": lambda: ExponentialAverage("5min", mean="geometric"),
    "deviation": lambda: Deviation(0.005, "10min"),
}


def marks(oracle, log_prices, dtype=jnp.float64, dt=MINUTE, start=0.0):
    """The marks (steps, assets) along log prices (steps, assets)."""
    oracle, dt = cast(oracle, dtype), jnp.asarray(dt, dtype)
    log_prices = jnp.asarray(log_prices, dtype)

    def step(state, log_price):
        mark, state = oracle.read(state, log_price, dt)
        return state, mark

    return jax.lax.scan(step, oracle.init(jnp.full(log_prices.shape[1:], start, dtype)), log_prices)[1]


def walk(steps=40, assets=2, seed=1):
    return np.cumsum(0.01 * np.random.default_rng(seed).standard_normal((steps, assets)), axis=0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("oracle", "distorted", "expected"),
    [
        pytest.param(WindowAverage("30min", slots=30), 3, 0.05, id="ORA-01 arithmetic"),
        pytest.param(WindowAverage("30min", slots=30, mean="geometric"), 3, 0.0413797, id="ORA-01 geometric"),
        pytest.param(ExponentialAverage("30min"), 3, 0.0669670 * 0.5, id="ORA-01 exponential"),
    ],
)
def test_distorted_samples(oracle, distorted, expected, dtype):
    path = np.zeros((30, 1))
    path[-distorted:] = np.log(1.5)
    moved = float(jnp.expm1(marks(oracle, path, dtype)[-1, 0]))
    # float64: the last digit printed; float32: 1e-5 of the price
    assert moved == pytest.approx(expected, abs=6e-8 if dtype == jnp.float64 else 1e-6)


@pytest.mark.parametrize(("moved", "follows"), [(3, False), (4, True)], ids=["ORA-01 three of 7", "ORA-01 four of 7"])
def test_median_of_sources(moved, follows):
    sources = jnp.where(jnp.arange(7)[:, None] < moved, 0.4, jnp.zeros((7, 2)))
    assert bool(jnp.all((median_of_sources(sources) != 0.0) == follows))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ORACLES)
def test_price_that_rests_is_exact(name, dtype):
    rest = jnp.full((12, 2), -0.3, dtype)
    assert jnp.array_equal(marks(ORACLES[name](), rest, dtype, start=-0.3), rest)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ORACLES)
def test_precision_of_the_run_is_kept(name, dtype):
    oracle = cast(ORACLES[name](), dtype)
    price, dt = jnp.zeros((2,), dtype), jnp.asarray(MINUTE, dtype)
    state = oracle.init(price)
    mark, after = oracle.read(state, price, dt)
    assert jax.tree.map(lambda a: (a.dtype, a.shape), state) == jax.tree.map(lambda a: (a.dtype, a.shape), after)
    assert mark.dtype == dtype
    assert mark.shape == (2,)
    np.testing.assert_allclose(marks(oracle, walk(), jnp.float32), marks(oracle, walk()), atol=1e-6)


@pytest.mark.parametrize("name", ORACLES)
def test_reading_twice_changes_nothing(name):
    oracle, dt = cast(ORACLES[name](), jnp.float64), jnp.asarray(MINUTE)
    state = oracle.init(jnp.zeros(2))
    for price in jnp.asarray(walk(8)):
        oracle.read(state, price - 0.1, dt)
        first, _ = oracle.read(state, price, dt)
        again, state = oracle.read(state, price, dt)
        assert jnp.array_equal(first, again)


@pytest.mark.parametrize("dtype", DTYPES)
def test_lag_of_zero_is_the_spot_price(dtype):
    assert jnp.array_equal(marks(Lagged("0s", slots=3), walk(), dtype), marks(Spot(), walk(), dtype))


@pytest.mark.parametrize("seconds", [60, 90, 171, 240])
def test_lag_is_linear_between_steps(seconds):
    path, steps = walk(), seconds / 60
    times = np.arange(len(path))
    expected = np.stack(
        [np.interp(times - steps, np.arange(-1, len(path)), [0.0, *column]) for column in path.T], axis=1
    )
    np.testing.assert_allclose(marks(Lagged(f"{seconds}s", slots=4), path), expected, atol=1e-12)


def test_lag_has_a_pathwise_derivative():
    path = walk()

    def total(seconds):
        return jnp.sum(marks(Lagged(seconds * (MINUTE / 60), slots=4), path) ** 2)

    at = jnp.asarray(100.0)
    slope = (total(at + 1e-3) - total(at - 1e-3)) / 2e-3
    np.testing.assert_allclose(jax.grad(total)(at), slope, rtol=1e-6)


@pytest.mark.parametrize("mean", ["arithmetic", "geometric"])
@pytest.mark.parametrize("minutes", [0.5, 1.0, 3.0, 4.5, 8.0])
def test_window_average(minutes, mean):
    path = walk()
    long = max(minutes, 1.0)
    weight = np.clip(long - np.arange(8), 0.0, 1.0) / long
    padded = np.concatenate([np.zeros((7, 2)), path])
    seen = np.stack([padded[t + 7 - np.arange(8)] for t in range(len(path))])
    values = np.exp(seen) if mean == "arithmetic" else seen
    expected = np.einsum("tja,j->ta", values, weight)
    expected = np.log(expected) if mean == "arithmetic" else expected
    np.testing.assert_allclose(marks(WindowAverage(f"{minutes}min", slots=8, mean=mean), path), expected, atol=1e-12)


def test_exponential_average():
    path, average, weight = walk(), np.ones(2), 1 - 0.5 ** (1 / 5)
    expected = []
    for price in np.exp(path):
        average = average + weight * (price - average)
        expected.append(np.log(average))
    np.testing.assert_allclose(marks(ExponentialAverage("5min"), path), expected, atol=1e-12)


def test_half_life_does_not_depend_on_the_step():
    coarse = marks(ExponentialAverage("30min"), np.full((1, 1), 0.2), dt=3 * MINUTE)
    fine = marks(ExponentialAverage("30min"), np.full((180, 1), 0.2), dt=MINUTE / 60)
    np.testing.assert_allclose(coarse[-1], fine[-1], rtol=1e-10)


@pytest.mark.parametrize("threshold", [0.005, 0.02, 1.0])
@pytest.mark.parametrize("heartbeat", [3, 10, 10_000])
def test_deviation_feed(threshold, heartbeat):
    path, posted, age, expected = walk(200, 1), 0.0, 0, []
    for (price,) in path:
        age += 1
        if abs(np.expm1(price - posted)) > threshold or age >= heartbeat:
            posted, age = price, 0
        expected.append(posted)
    feed = marks(Deviation(threshold, f"{heartbeat}min"), path)[:, 0]
    np.testing.assert_array_equal(feed, expected)


@pytest.mark.parametrize("oracle", [Deviation(0.0, "inf d"), Deviation(1.0, "1s"), Deviation(0.0, "0s")])
def test_deviation_feed_in_the_limit_is_the_spot_price(oracle):
    np.testing.assert_array_equal(marks(oracle, walk()), walk())


def test_heartbeat_does_not_drift_in_float32():
    path = np.linspace(0.0, 1e-3, 30_000)[:, None]  # one step of a second for more than eight hours
    feed = np.asarray(marks(Deviation(1.0, "1h"), path, jnp.float32, dt=MINUTE / 60))[:, 0]
    assert list(np.flatnonzero(np.diff(feed, prepend=0.0)) + 1) == [3600 * k for k in range(1, 9)]


def test_every_number_is_swept_with_one_trace():
    path = jnp.asarray(walk(6))

    @jax.jit
    @eqx.debug.assert_max_traces(max_traces=1)
    def run(oracle):
        return marks(oracle, path)

    for minutes in (1.0, 2.5):
        run(cast(Lagged(np.asarray(minutes * MINUTE), slots=4), jnp.float64))


@pytest.mark.parametrize(
    ("oracle", "field"),
    [(Lagged("5min", slots=4), "delay"), (WindowAverage("1h", slots=59), "window"), (Lagged("inf d"), "delay")],
)
def test_slots_that_do_not_hold_the_time_are_refused(oracle, field):
    ((name, complaint),) = oracle.check_step(MINUTE)
    assert name == field
    assert "slots" in complaint


@pytest.mark.parametrize("name", ORACLES)
def test_sensible_values_pass(name):
    assert not list(ORACLES[name]().check_step(MINUTE))
    assert not list(problems(ORACLES[name]()))
