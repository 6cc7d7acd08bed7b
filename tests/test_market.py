"""Laws that every market law obeys, and the closed form of each."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from market_laws import DAY, HOUR, LAWS, REAL_RETURNS, batch_errors, close, mean_error, prices, run

from tailrisk import _streams
from tailrisk._fields import cast, problems
from tailrisk._hard import HardThresholdGradientError
from tailrisk.data.series import PriceArray
from tailrisk.market import (
    ArithmeticBrownian,
    BlockBootstrap,
    GeometricBrownian,
    Hawkes,
    Heston,
    JumpDiffusion,
    KouJumps,
    MeanReverting,
    MertonJumps,
    RegimeSwitching,
    Replay,
)
from tailrisk.market.base import factor
from tailrisk.market.jumps import missed, tails

CALM = ("geometric brownian", "geometric brownian, 3 assets", "arithmetic brownian", "mean reverting")
MODELS = [name for name in LAWS if name not in (*REAL_RETURNS, "mean reverting")]


@functools.cache
def sample(name, dtype=jnp.float64):
    """One run of every law that several tests look at: 24 hourly steps."""
    return run(LAWS[name](), 24, HOUR, 20_000, dtype=dtype)


@pytest.mark.parametrize("name", MODELS)
def test_drift_is_the_growth_rate(name):
    """E[S_T / S_0] = exp(drift T) (1 + drift T for the arithmetic law), so a price without drift is a martingale."""
    growth = 0.1 * 24 * HOUR
    expected = 1 + growth if name == "arithmetic brownian" else np.exp(growth)
    close(np.exp(sample(name)[0].sum(axis=1)), expected, 1e-3)


@pytest.mark.parametrize("name", list(LAWS))
def test_shape_range_and_values(name):
    """Shocks are finite and have one entry per asset, crash factors lie in [0, 1]; values and steps are accepted."""
    market = LAWS[name]()
    assert list(problems(market)) == []
    assert list(market.check_step(HOUR)) == []
    assert market.prepare().assets == market.assets
    log_return, crash = sample(name)
    assert log_return.shape == (20_000, 24, market.assets)
    assert np.isfinite(log_return).all()
    assert ((crash >= 0) & (crash <= 1)).all()
    assert crash.min() == 0
    assert (crash.max() > 0) == (name not in CALM)


@pytest.mark.parametrize("name", list(LAWS))
def test_float32_agrees_with_float64(name):
    """Same noise, two precisions: returns agree to 1e-5 except on paths where a draw sits on the edge of an event."""
    wide, wide_crash = sample(name)
    narrow, narrow_crash = sample(name, jnp.float32)
    assert narrow.dtype == np.float32
    same = np.abs(wide - narrow).max(axis=(1, 2)) < 1e-5
    assert same.mean() > 0.98
    assert np.abs(wide_crash - narrow_crash)[same].max() < 2e-3


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_paths_do_not_depend_on_the_chunk(dtype):
    """A path is the same in a batch of 1,000 and of 20,000 (to rounding: XLA may compile the two differently)."""
    market = LAWS["geometric brownian, 3 assets"]()
    whole = run(market, 2, HOUR, 20_000, dtype=dtype)[0]
    for first in (0, 5000, 10_000, 19_000):
        part = run(market, 2, HOUR, 1000, dtype=dtype, first=first)[0]
        np.testing.assert_allclose(part, whole[first : first + 1000], atol=1e-8)


@pytest.mark.parametrize("name", list(LAWS))
def test_one_trace_when_numbers_change(name):
    """Every real leaf may change without another trace."""
    traces = []

    @eqx.filter_jit
    def total(market, dt):
        traces.append(1)
        keys = _streams.noise_keys(1, "market")
        noise = _streams.noise(keys, 0, 0, market.draws, jnp.float64)
        shock, state = market.move(market.init(jnp.float64), noise, dt)
        return market.move(state, noise, dt)[0].log_return + shock.log_return

    market = cast(LAWS[name](), jnp.float64)
    first = total(market, jnp.asarray(HOUR))
    second = total(jax.tree.map(lambda leaf: leaf * 1.01, market), jnp.asarray(2 * HOUR))
    assert len(traces) == 1
    assert np.isfinite(first).all()
    assert np.isfinite(second).all()


SIZES = (".jumps.mean", ".jumps.deviation", ".jumps.up", ".jumps.up_mean", ".jumps.down_mean")  # decide what is a crash
DECIDES = {
    "merton": (".jumps.rate", ".crash_size", *SIZES),
    "merton, 2 assets": (".jumps.rate", ".crash_size", *SIZES),
    "kou": (".jumps.rate", ".crash_size", *SIZES),
    "hawkes": (".jumps.rate", ".branching", ".memory"),
    "regime switching": (".jumps.rate", ".enter", ".leave", ".calm_jumps"),
    "block bootstrap": (".block",),
}
"""Numbers that decide an event: whether a jump arrives and is a crash, a regime switches, a block of returns starts."""


@pytest.mark.parametrize("name", list(LAWS))
def test_derivatives_are_finite_or_refused(name):
    """Pathwise derivatives of the log price are finite, also at zero variance or no jump, or refused if they lose events."""
    market = cast(LAWS[name](), jnp.float64)
    keys = _streams.noise_keys(1, "market")
    found, tree = jax.tree_util.tree_flatten_with_path(market)
    deciding = [i for i, (key, _) in enumerate(found) if jax.tree_util.keystr(key) in DECIDES.get(name, ())]
    assert deciding or name not in DECIDES

    def changed(values):
        return jax.tree.unflatten(tree, [values.get(i, leaf) for i, (_, leaf) in enumerate(found)])

    def total(values):
        market = changed(values)

        def path(number):
            def step(state, i):
                noise = _streams.noise(keys, number, i, market.draws, jnp.float64)
                shock, state = market.move(state, noise, jnp.asarray(HOUR))
                return state, (shock.log_return, shock.crash)

            return jax.lax.scan(step, market.init(jnp.float64), jnp.arange(24, dtype=jnp.uint32))[1]

        return jax.vmap(path)(jnp.arange(100, dtype=jnp.uint32))

    rest = {i: leaf for i, (_, leaf) in enumerate(found) if i not in deciding}
    for change in jax.jit(lambda: jax.jvp(total, (rest,), (jax.tree.map(jnp.ones_like, rest),)))()[1]:
        assert np.isfinite(change).all()
    for i in deciding:
        with pytest.raises(HardThresholdGradientError):
            jax.eval_shape(lambda at, i=i: jax.jvp(lambda x: total({i: x}), (at,), (at,)), found[i][1])


# --- Brownian laws ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("assets", [2, 3, 10])
def test_factor_of_equal_correlations(assets, dtype):
    """L L' is the correlation matrix, singular ones included, and its derivative is finite."""
    slope = jax.jit(jax.jacfwd(lambda rho: (factor(rho, assets),) * 2, has_aux=True))
    for rho in (0.0, 0.5, 0.9, 1.0, -1.0 / (assets - 1)):
        change, lower = slope(jnp.asarray(rho, dtype))
        expected = rho + (1 - rho) * np.eye(assets)
        np.testing.assert_allclose(lower @ lower.T, expected, atol=200 * jnp.finfo(dtype).eps)
        assert np.isfinite(change).all()
        np.testing.assert_array_equal(lower[0], np.eye(assets)[0])


def test_factor_of_a_matrix():
    """A matrix with a perfectly correlated pair has a factor that reproduces it."""
    matrix = np.array([[1.0, 1.0, 0.3], [1.0, 1.0, 0.3], [0.3, 0.3, 1.0]])
    lower = np.asarray(factor(jnp.asarray(matrix), 3))
    np.testing.assert_allclose(lower @ lower.T, matrix, atol=1e-14)
    full = np.array([[1.0, -0.4, 0.3], [-0.4, 1.0, 0.2], [0.3, 0.2, 1.0]])
    np.testing.assert_allclose(factor(jnp.asarray(full), 3), np.linalg.cholesky(full), atol=1e-15)


@pytest.mark.parametrize("rho", [-1.0, -0.5, 0.0, 0.5, 1.0])
def test_brownian_covariance(rho):
    """Variance and correlation of log returns; perfectly correlated assets move together or opposite."""
    log_return, _ = run(GeometricBrownian([0.6, 0.6], correlation=rho), 1, DAY, 40_000)
    x = log_return[:, 0] + 0.5 * 0.36 * DAY
    close(x**2, 0.36 * DAY, 1e-5)
    close(x[:, 0] * x[:, 1], rho * 0.36 * DAY, 1e-5)
    if abs(rho) == 1.0:
        np.testing.assert_allclose(x[:, 1], rho * x[:, 0], atol=1e-15)


def test_arithmetic_brownian():
    """S_T / S_0 is normal with mean 1 + drift T, sd volatility sqrt(T) and the given correlation, on any grid."""
    log_return, _ = run(ArithmeticBrownian([0.6, 0.6], drift=0.5, correlation=0.5), 12, DAY / 12, 40_000)
    x = np.exp(log_return.sum(axis=1)) - 1 - 0.5 * DAY
    close(x, 0.0, 2e-4)
    close(x**2, 0.36 * DAY, 1e-5)
    close(x[:, 0] * x[:, 1], 0.18 * DAY, 1e-5)
    close(x**4, 3 * (0.36 * DAY) ** 2, 5e-8)


def test_arithmetic_floor():
    """A price that would turn negative is held above zero and its log return stays finite."""
    log_return, _ = run(ArithmeticBrownian(20.0), 50, DAY, 200)
    assert np.isfinite(log_return).all()
    assert log_return.sum(axis=1).min() >= np.log(1e-6) - 1e-9


def test_noise_trader():
    """TAIL-08: an autoregression with coefficient .99 and noise .035 per step: closed forms, then simulation."""
    a, noise, dt = 0.99, 0.035, 1e-3
    sd = noise / np.sqrt(1 - a**2)
    np.testing.assert_allclose(sd, 0.2481084, atol=5e-8)
    np.testing.assert_allclose(np.exp(0.5 * sd**2), 1.0312575, atol=5e-8)
    np.testing.assert_allclose(sd * np.sqrt(2 * (1 - a)), 0.0350878, atol=5e-8)
    market = MeanReverting(sd, np.asarray(-dt / np.log(a)))
    log_return, _ = run(market, 700, dt, 20_000)
    x = np.cumsum(log_return[:, :, 0], axis=1)
    close(x[:, -1] ** 2, sd**2, 1e-3, errors=3)
    close(np.exp(x[:, -1]), 1.0312575, 3e-3, errors=3)
    late = log_return[:, 500:, 0]
    close((late**2).mean(axis=1), 0.0350878**2, 1e-5, errors=3)
    correlation = (late[:, 1:] * late[:, :-1]).mean(axis=1) / 0.0350878**2
    close(correlation, -0.005, 1e-3, errors=3)
    close(x[:, 0] ** 2, noise**2, 2e-5)  # starts at the anchor


# --- jumps -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_jump_counts(dtype):
    """P(N >= k) of the Poisson law with small relative error from rare to many jumps."""
    from scipy.stats import poisson

    for mean in (1e-7, 1e-4, 0.03, 0.5, 2.4, 2.6, 8.0, 40.0, 200.0):
        got = np.array([float(p) for p in tails(jnp.asarray(mean, dtype), 4)])
        np.testing.assert_allclose(got, poisson.sf(np.arange(4), mean), rtol=2e-5)
    assert missed(1e-4, 4) < 1e-18
    np.testing.assert_allclose(missed(2.0, 1), (2.0 - (1 - np.exp(-2.0))) / 2.0, rtol=1e-12)


def test_merton_moments():
    """PRC-06: cumulants per year, and sd, skewness, excess kurtosis of a day, closed form and simulated by the hour."""
    s, rate, m, d = 0.7, 12.0, -0.03, 0.05
    cumulants = s**2 + rate * (m**2 + d**2), rate * (m**3 + 3 * m * d**2), rate * (m**4 + 6 * m**2 * d**2 + 3 * d**4)
    np.testing.assert_allclose(cumulants, (0.5308, -0.003024, 3.9672e-4), rtol=1e-9)
    sd = np.sqrt(cumulants[0] * DAY)
    shape = cumulants[1] * DAY / sd**3, cumulants[2] * DAY / sd**4
    np.testing.assert_allclose((sd, *shape), (0.0381346, -0.149394, 0.513943), atol=1e-6)
    log_return, _ = run(JumpDiffusion(MertonJumps(rate=rate, mean=m, deviation=d), s), 12, DAY / 12, 200_000)
    x = log_return.sum(axis=1)[:, 0]

    def moments(x):
        z = (x - x.mean()) / x.std()
        return np.array([x.std(), (z**3).mean(), (z**4).mean() - 3])

    got, error = batch_errors(x, moments)
    assert (error < [1e-4, 0.02, 0.1]).all()
    assert (np.abs(got - [sd, *shape]) < 4 * error).all(), (got, error)


@pytest.mark.parametrize(
    ("jumps", "second", "third", "fourth"),
    [
        pytest.param(MertonJumps(rate=50, mean=-0.03, deviation=0.05), 0.0034, -2.52e-4, 3.306e-5, id="merton"),
        pytest.param(KouJumps(rate=50, up=0.3, up_mean=0.02, down_mean=0.04), 2.48e-3, -2.544e-4, 4.416e-5, id="kou"),
        pytest.param(
            KouJumps(rate=50, up=0.0, up_mean=0.02, down_mean=0.04), 3.2e-3, -3.84e-4, 6.144e-5, id="kou down"
        ),
        pytest.param(KouJumps(rate=50, up=1.0, up_mean=0.02, down_mean=0.04), 8e-4, 4.8e-5, 3.84e-6, id="kou up"),
    ],
)
def test_cumulants_of_jumps(jumps, second, third, fourth):
    """Cumulants of a day are those of the diffusion plus rate T E[J^k] (moments about zero of one jump)."""
    log_return, _ = run(JumpDiffusion(jumps, 0.3), 4, DAY / 4, 200_000)
    x = log_return.sum(axis=1)[:, 0]

    def cumulants(x):
        y = x - x.mean()
        return np.array([(y**2).mean(), (y**3).mean(), (y**4).mean() - 3 * (y**2).mean() ** 2])

    got, error = batch_errors(x, cumulants)
    expected = np.array([0.09, 0, 0]) * DAY + 50 * DAY * np.array([second, third, fourth])
    assert (error < 0.1 * np.abs(expected)).all()
    assert (np.abs(got - expected) < 4 * error).all(), (got, expected, error)


def test_common_jumps_and_their_crash():
    """Assets share jumps by their loading; the crash factor jumps to 1 on a large fall and decays."""
    market = JumpDiffusion(MertonJumps(rate=500, deviation=0.03), [0.0, 0.0], loading=[1.0, -0.5], crash_memory="2h")
    log_return, crash = run(market, 48, HOUR, 4000)
    leap = log_return - np.median(log_return, axis=(0, 1))  # without the compensation
    np.testing.assert_allclose(leap[..., 1], -0.5 * leap[..., 0], atol=1e-12)
    np.testing.assert_array_equal(crash == 1, leap[..., 0] < -0.02)
    after = (crash[:, :-1] == 1) & (crash[:, 1:] < 1)
    np.testing.assert_allclose(crash[:, 1:][after], np.exp(-0.5), rtol=1e-12)


def test_truncated_jumps_stay_fair():
    """Where the maximum number of jumps binds, jumps are lost (and `check_step` says so) but the price stays fair."""
    market = JumpDiffusion(MertonJumps(rate=2000, deviation=0.05, mean=0.02, most=1), 0.5)
    field, complaint = next(iter(market.check_step(DAY)))
    assert field == "jumps.most"
    assert "raise most" in complaint
    close(np.exp(run(market, 1, DAY, 100_000)[0][:, 0, 0]), 1.0, 1e-3)
    assert list(JumpDiffusion(MertonJumps(rate=12, deviation=0.05), 0.7).check_step(DAY)) == []


# --- clusters --------------------------------------------------------------------------------------------------------


def test_heston_variance():
    """E[log return] = -1/2 E[integrated variance] = -1/2 ((v0 - theta)(1 - e^{-kt})/k + theta t); leverage skews."""
    v0, k, theta, t = 0.11, 2.0, 0.5, 1.2
    log_return, crash = run(Heston(v0, k, theta, 0.15, leverage=0.3), 300, t / 300, 20_000)
    expected = -0.5 * ((v0 - theta) * (1 - np.exp(-k * t)) / k + theta * t)
    close(log_return.sum(axis=1)[:, 0], expected, 6e-3)
    down = run(Heston(0.5, 20.0, 0.5, 4.0, leverage=-0.9), 300, t / 300, 20_000)[0].sum(axis=1)[:, 0]
    assert ((down - down.mean()) ** 3).mean() < 0
    assert crash.max() < 0.6


def test_heston_correlation():
    """Two assets correlate as leverage^2 + (1 - leverage^2) rho."""
    market = Heston(0.5, 20.0, 0.5, 3.0, leverage=-0.6, loading=[1.0, 2.0], correlation=0.25)
    x, _ = run(market, 1, HOUR, 40_000)
    close(x[:, 0, 0] * x[:, 0, 1], 2 * 0.5 * HOUR * (0.36 + 0.64 * 0.25), 2e-6)


def test_hawkes_is_stationary():
    """Variance of an hour is volatility^2 + mean intensity x deviation^2, from the first hour to the last."""
    market = Hawkes(MertonJumps(rate=2000, deviation=0.01, most=12), 0.3, branching=0.7, memory="3h")
    x, crash = run(market, 12 * 48, HOUR / 12, 10_000)
    hourly = x[..., 0].reshape(10_000, 48, 12).sum(axis=2)
    expected = (0.09 + 2000 / 0.3 * 1e-4) * HOUR
    for hours in (slice(0, 1), slice(0, 4), slice(20, 28), slice(47, 48)):
        close((hourly[:, hours] ** 2).mean(axis=1), expected, 5e-6)
    # the crash factor keeps its mean; 20 % is what a start with the right two moments is off by in shape
    early, late = crash[:, :12].mean(axis=1), crash[:, -12:].mean(axis=1)
    assert abs(early.mean() - late.mean()) < 4 * np.hypot(mean_error(early)[1], mean_error(late)[1]) + 0.2 * late.mean()


def test_hawkes_clusters():
    """Squared hourly returns are autocorrelated, and kurtosis is above that of the same law without excitation."""
    excited = Hawkes(MertonJumps(rate=1000, deviation=0.01, most=12), 0.3, branching=0.8, memory="3h")
    plain = Hawkes(MertonJumps(rate=5000, deviation=0.01, most=12), 0.3, branching=0.0, memory="3h")

    def clustering(market):
        square = run(market, 48, HOUR / 2, 4000)[0][..., 0] ** 2
        square = square - square.mean()
        return (square[:, 4:] * square[:, :-4]).mean() / (square**2).mean()

    assert clustering(excited) > 0.05
    assert abs(clustering(plain)) < 0.01


def test_regimes():
    """The indicator has its stationary share and memory at any time; volatility and correlation follow it."""
    enter, leave, dt = 50.0, 150.0, DAY / 4
    market = RegimeSwitching(
        MertonJumps(rate=0.0, deviation=0.01),
        volatility=[0.4, 0.4],
        crash_volatility=[1.2, 1.2],
        enter=enter,
        leave=leave,
        correlation=0.2,
        crash_correlation=0.9,
    )
    x, crash = run(market, 20, dt, 20_000)
    share, memory = enter / (enter + leave), np.exp(-(enter + leave) * dt)
    for i in (0, 10, 19):
        close(crash[:, i], share, 5e-3)
    close(((crash[:, 1:] - share) * (crash[:, :-1] - share)).mean(axis=1), share * (1 - share) * memory, 2e-3)
    assert set(np.unique(crash)) == {0.0, 1.0}
    for regime, volatility, rho in ((0.0, 0.4, 0.2), (1.0, 1.2, 0.9)):
        moves = x[crash == regime] + 0.5 * volatility**2 * dt
        close(moves**2, volatility**2 * dt, 1e-5)
        close(moves[:, 0] * moves[:, 1], rho * volatility**2 * dt, 1e-5)


# --- real returns ----------------------------------------------------------------------------------------------------


def test_bootstrap_keeps_the_sample_law():
    """Every step has the mean, variance and covariance of the sample; assets are drawn together."""
    series = PriceArray(prices(), "1h")
    sample = np.diff(np.log(np.asarray(series.prices)), axis=0)
    x, _ = run(BlockBootstrap(series, block="10h").prepare(), 40, HOUR, 20_000)
    for i in (0, 39):
        close(x[:, i], sample.mean(axis=0), 3e-4)
        close(x[:, i] ** 2, (sample**2).mean(axis=0), 5e-5)
        close(x[:, i, 0] * x[:, i, 1], (sample[:, 0] * sample[:, 1]).mean(), 5e-5)


def test_bootstrap_blocks():
    """Blocks have geometric lengths with the given mean, start anywhere equally often, and wrap around."""
    rows = 64
    index = np.arange(rows) * 1e-3
    series = PriceArray(np.exp(np.concatenate([[0.0], np.cumsum(index)])), "1h")  # return i is i/1000
    x, _ = run(BlockBootstrap(series, block="8h").prepare(), 100, HOUR, 5000)
    place = np.rint(x[..., 0] * 1e3).astype(int)
    follows = place[:, 1:] == (place[:, :-1] + 1) % rows
    close(follows.mean(axis=1), 7 / 8 + 1 / 8 / rows, 1e-3)
    starts = np.bincount(place[:, 0], minlength=rows)
    assert starts.size == rows
    chi = ((starts - 5000 / rows) ** 2).sum() / (5000 / rows)
    assert chi < rows - 1 + 4 * np.sqrt(2 * (rows - 1))


def test_replay_is_exact():
    """The replayed price is the file's price at every step, and the last price is held beyond the end."""
    path = prices(assets=2, times=50)
    x, crash = run(Replay(PriceArray(path, "1h")).prepare(), 60, HOUR, 2)
    np.testing.assert_allclose(path[0] * np.exp(np.cumsum(x[0], axis=0)[:49]), path[1:], rtol=1e-13)
    np.testing.assert_array_equal(x[0, 49:], 0.0)
    np.testing.assert_array_equal(x[0], x[1])
    assert crash[0, 59] == 0.0  # calm again


def test_crash_of_a_replay():
    """The crash factor is 0 while volatility is at most its mean and rises in a storm."""
    moves = np.concatenate([np.full(200, 1e-3) * (-1.0) ** np.arange(200), np.full(20, -0.02), np.zeros(50)])
    series = PriceArray(np.exp(np.concatenate([[0.0], np.cumsum(moves)])), "1h")
    _, crash = run(Replay(series, crash_memory="2h").prepare(), 270, HOUR, 1)
    assert (crash[0, 1:200] == 0).all()
    assert crash[0, 215] > 0.6
    assert crash[0, 269] == 0


@pytest.mark.parametrize("kind", [BlockBootstrap, Replay])
def test_series_must_fit_the_step(kind):
    """A step that is not the spacing of the series is named; an unread series does not run."""
    market = kind(PriceArray(prices(), "1h"))
    assert list(market.check_step(HOUR)) == []
    field, complaint = next(iter(market.check_step(DAY)))
    assert field == "series"
    assert "3600 s apart" in complaint
    with pytest.raises(ValueError, match="call prepare"):
        run(market, 2, HOUR, 2)


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "message"),
    [
        pytest.param(lambda: GeometricBrownian([0.5, 0.6], drift=[0.1, 0.1, 0.1]), "for 2 assets", id="two sizes"),
        pytest.param(lambda: GeometricBrownian([[0.5, 0.6]]), r"volatility has shape \(1, 2\)", id="matrix"),
        pytest.param(lambda: GeometricBrownian(0.5, correlation=[0.1, 0.2]), "square matrix", id="vector correlation"),
        pytest.param(
            lambda: RegimeSwitching(
                MertonJumps(1.0, 0.1), 0.5, 1.0, 1.0, 1.0, correlation=np.eye(2), crash_correlation=np.eye(3)
            ),
            "for 2 assets, expected 3",
            id="two matrices",
        ),
        pytest.param(lambda: PriceArray([1.0], "1h"), "at least 2 times", id="one price"),
    ],
)
def test_wrong_shapes(build, message):
    """Structural mistakes are errors of the constructor that name the field."""
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: GeometricBrownian([0.5] * 3, correlation=-0.6), "expected >= -0.5"),
        (lambda: GeometricBrownian(0.5, correlation=[[1, 0.5], [0.4, 1]]), "not symmetric"),
        (lambda: GeometricBrownian(0.5, correlation=[[1, 0.5], [0.5, 0.9]]), "expected ones"),
        (
            lambda: GeometricBrownian(0.5, correlation=[[1, 0.9, -0.9], [0.9, 1, 0.9], [-0.9, 0.9, 1]]),
            "negative eigenvalue",
        ),
        (
            lambda: JumpDiffusion(KouJumps(1, 0.5, 0.6, 0.1), 0.5, loading=2.0),
            "expected price after one jump is infinite",
        ),
        (lambda: GeometricBrownian(-0.1), "volatility = -0.1 [1/sqrt(year)]: expected a value >= 0"),
        (lambda: Hawkes(MertonJumps(1.0, 0.1), 0.5, branching=1.0, memory="1h"), "branching = 1"),
        (lambda: Hawkes(MertonJumps(0.0, 0.1), 0.5, branching=0.5, memory="1h"), "expected > 0"),
    ],
)
def test_wrong_values(build, message):
    """Values out of bounds are listed with what was expected."""
    (complaint,) = problems(build())
    assert message in complaint


def test_steps_too_long():
    """Steps too long for a law are refused by name."""
    assert [name for name, _ in Heston(0.5, 300.0, 0.5, 1.0).check_step(DAY)] == ["mean_reversion"]
    hawkes = Hawkes(MertonJumps(1000.0, 0.01), 0.5, branching=0.9, memory="1h")
    assert [name for name, _ in hawkes.check_step(DAY)] == ["memory", "jumps.most"]
    assert list(hawkes.check_step(DAY / 1440)) == []
