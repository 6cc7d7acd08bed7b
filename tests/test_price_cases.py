"""Known answers of price models and of rare events, simulated with the package's laws and normals."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from market_laws import DAY, close, mean_error, run
from scipy.integrate import quad
from scipy.special import ndtr
from scipy.stats import norm, poisson

from tailrisk import _streams
from tailrisk._fields import cast
from tailrisk.anchors import first_passage_probability, monitored_barrier
from tailrisk.market import GeometricBrownian, Heston, JumpDiffusion, MertonJumps


@eqx.filter_jit
def _lowest(market, dt, keys, numbers, steps):
    def path(number):
        def step(carry, i):
            x, low, state = carry
            shock, state = market.move(state, _streams.noise(keys, number, i, market.draws, dt.dtype), dt)
            x = x + shock.log_return[0]
            return (x, jnp.minimum(low, x), state), None

        zero = jnp.zeros((), dt.dtype)
        return jax.lax.scan(step, (zero, zero, market.init(dt.dtype)), jnp.arange(steps, dtype=jnp.uint32))[0][1]

    return jax.vmap(path)(numbers)


def lowest(market, steps, dt, paths, dtype=jnp.float32):
    """The lowest log price of every path, looked at after each step."""
    keys, numbers = _streams.noise_keys(2, "market"), np.arange(paths, dtype=np.uint32)
    return np.asarray(_lowest(cast(market, dtype), jnp.asarray(dt, dtype), keys, numbers, steps))


# --- first passage ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("checks", "raw", "corrected", "closed"),
    [(30, 0.4337, 0.4946, 0.43128), (120, 0.4624, 0.4930, 0.46161), (480, 0.4765, 0.4935, 0.47717)],
    ids=["K2-30", "K2-120", "K2-480"],
)
def test_monitoring(checks, raw, corrected, closed):
    """K2: looking at the price 30 to 480 times in 30 days, raw and with the barrier moved to correct for it."""
    barrier, volatility, horizon = 80 / 0.95, 0.8, 30 * DAY
    dt = horizon / checks
    away = float(monitored_barrier(barrier, volatility, dt))
    np.testing.assert_allclose(first_passage_probability(100.0, away, volatility, horizon), closed, atol=6e-6)
    low = 100 * np.exp(lowest(GeometricBrownian(volatility), checks, dt, 100_000))
    nearer = barrier**2 / away
    for level, printed, exact in ((barrier, raw, closed), (nearer, corrected, 0.492986)):
        hit, error = mean_error(low <= level)
        assert error < 0.0016
        assert abs(hit - printed) < 3 * np.hypot(error, 0.0011)  # the printed numbers are simulated too
        assert abs(hit - exact) < 3 * error + 0.0025  # what the shift leaves at 30 checks


LIQUIDATED = [
    (10, 1, 1.469e-3, 5e-7),
    (10, 30, 0.5877, 5e-5),
    (20, 1, 0.1439, 5e-5),
    (20, 30, 0.8058, 5e-5),
    (50, 1, 0.6334, 5e-5),
    (50, 30, 0.9365, 5e-5),
]


@pytest.mark.parametrize(("leverage", "days", "value", "digit"), LIQUIDATED, ids=lambda v: f"{v}")
def test_probability_of_liquidation(leverage, days, value, digit):
    """K16: the closed form to its last printed digit."""
    barrier = (1 - 1 / leverage) / (1 - 0.005)
    np.testing.assert_allclose(first_passage_probability(1.0, barrier, 0.6, days * DAY), value, atol=digit)


@pytest.mark.parametrize("days", [1, 30])
def test_probability_of_liquidation_simulated(days):
    """K16: the same simulated with 480 checks against the closed form at the corrected barrier."""
    steps, horizon = 480, days * DAY
    low = np.exp(lowest(GeometricBrownian(0.6), steps, horizon / steps, 100_000))
    for leverage in (10, 20, 50):
        barrier = (1 - 1 / leverage) / (1 - 0.005)
        away = float(monitored_barrier(barrier, 0.6, horizon / steps))
        exact = float(first_passage_probability(1.0, away, 0.6, horizon))
        close(low <= barrier, exact, 0.0016, errors=3)


def test_daily_breaker():
    """BRK-04: a driftless log price touches -h in a day with probability 2 Phi(ln(1 - h) / sigma)."""
    cases = [(0.02, 0.07, 2.8503e-4, 5e-9), (0.04, 0.07, 0.0696366, 5e-8)]
    cases += [(0.04, 0.13, 4.98518e-4, 5e-10), (0.04, 0.2, 2.42478e-8, 5e-14)]
    for sigma, h, value, digit in cases:
        np.testing.assert_allclose(2 * ndtr(np.log1p(-h) / sigma), value, atol=digit, rtol=0)
    sigma, steps = 0.04 / np.sqrt(DAY), 480
    market = GeometricBrownian(sigma, drift=0.5 * sigma**2)  # log price without drift
    low = lowest(market, steps, DAY / steps, 100_000)
    shift = 0.5826 * 0.04 / np.sqrt(steps)
    close(low <= np.log(0.93) + shift, 0.0696366, 0.001, errors=3)


# --- options ---------------------------------------------------------------------------------------------------------


def heston_call(v0, k, theta, xi, rho, forward, strike, t):
    """Undiscounted call by the Fourier integral on Im = -1/2, with the branch-stable characteristic function."""

    def transform(u):
        beta = k - 1j * rho * xi * u
        d = np.sqrt(beta**2 + xi**2 * (u * u + 1j * u))
        g = (beta - d) / (beta + d)
        fade = np.exp(-d * t)
        level = (beta - d) / xi**2 * (1 - fade) / (1 - g * fade)
        drift = k * theta / xi**2 * ((beta - d) * t - 2 * np.log((1 - g * fade) / (1 - g)))
        return np.exp(drift + level * v0)

    moneyness = np.log(forward / strike)
    value = quad(
        lambda u: (np.exp(1j * u * moneyness) * transform(u - 0.5j)).real / (u * u + 0.25), 0, 200, epsabs=1e-13
    )
    return forward - np.sqrt(forward * strike) / np.pi * value[0]


def test_heston_call():
    """PRC-02: the Fourier price to the last printed digit, and the simulated price with the underlying as control."""
    arguments = dict(v0=0.11, k=2.0, theta=0.5, xi=0.15, rho=0.3)
    np.testing.assert_allclose(heston_call(**arguments, forward=100.0, strike=102.0, t=1.2), 24.8221954, atol=5e-8)
    market = Heston(0.11, 2.0, 0.5, 0.15, 0.3)
    price = 100 * np.exp(run(market, 100, 1.2 / 100, 50_000)[0].sum(axis=1)[:, 0])
    payoff = np.maximum(price - 102, 0)
    slope = np.cov(payoff, price)[0, 1] / price.var()
    close(payoff - slope * (price - 100), 24.8221954, 0.12, errors=3)


def black(forward, strike, sd):
    d1 = np.log(forward / strike) / sd + 0.5 * sd
    return forward * ndtr(d1) - strike * ndtr(d1 - sd)


@pytest.mark.parametrize(("strike", "value"), [(80, 23.631957), (100, 8.954195)], ids=["PRC-03-80", "PRC-03-100"])
def test_merton_call(strike, value):
    """PRC-03: Merton's series to the last printed digit, and the simulated price with the underlying as control."""
    rate, t, share, intensity = 0.08, 0.5, 0.25, 1.0
    deviation, volatility = 0.25 * np.sqrt(share / intensity), 0.25 * np.sqrt(1 - share)
    n = np.arange(40)
    forward, discount = 100 * np.exp(rate * t), np.exp(-rate * t)
    series = poisson.pmf(n, intensity * t) * black(forward, strike, np.sqrt(volatility**2 * t + n * deviation**2))
    np.testing.assert_allclose(discount * series.sum(), value, atol=5e-7)
    jumps = MertonJumps(rate=intensity, mean=-0.5 * deviation**2, deviation=deviation, most=8)
    price = 100 * np.exp(run(JumpDiffusion(jumps, volatility, drift=rate), 1, t, 200_000)[0][:, 0, 0])
    payoff = discount * np.maximum(price - strike, 0)
    slope = np.cov(payoff, price)[0, 1] / price.var()
    close(payoff - slope * (price - forward), value, 0.02, errors=3)


# --- rare events -----------------------------------------------------------------------------------------------------


@functools.cache
def gaussians(count, paths=100_000):
    """Standard normals (paths, count) of the package's generator."""
    keys = _streams.noise_keys(5, "test")
    draw = jax.jit(jax.vmap(lambda path: _streams.normals(keys[0], path, jnp.uint32(0), count, jnp.float64)))
    return np.asarray(draw(np.arange(paths, dtype=np.uint32)))


def test_exponential_tilt():
    """PRC-05: P(Z > 4) from normals shifted by 4, with the second moment and the gain over crude sampling."""
    exact = norm.sf(4)
    np.testing.assert_allclose(exact, 3.16712418e-5, rtol=2e-9)
    second = np.exp(16) * norm.sf(8)
    np.testing.assert_allclose(second, 5.52801432e-9, rtol=2e-9)
    np.testing.assert_allclose((exact - exact**2) / (second - exact**2), 6999, atol=1)
    z = gaussians(1)[:, 0] + 4
    weight = np.exp(-4 * z + 8)
    close(weight, 1.0, 5.0, errors=4)  # heavy-tailed weights: only their scale can be asked for
    close(weight * (z > 4), exact, 5e-7, errors=3)
    close((weight * (z > 4)) ** 2, second, 1e-10, errors=4)


def test_sum_of_normals():
    """PRC-04: P(sum of 10 normals > 5 sqrt(10)) by quadrature-free closed form and by tilting along the mean."""
    exact = norm.sf(5)
    np.testing.assert_allclose(exact, 2.866515719e-07, rtol=1e-9)
    z = gaussians(10) + 5 / np.sqrt(10)
    s = z.sum(axis=1) / np.sqrt(10)
    close(np.exp(-5 * s + 12.5) * (s > 5), exact, 5e-9, errors=3)


def test_parabola():
    """PRC-04: 2.5 - (x1 + x2)/sqrt(2) + 0.1 (x1 - x2)^2 < 0, by quadrature and by tilting along the first direction."""
    exact = quad(lambda d: norm.sf(2.5 + 0.2 * d * d) * norm.pdf(d), -np.inf, np.inf, epsabs=0, epsrel=1e-12)[0]
    np.testing.assert_allclose(exact, 0.004207305511, rtol=1e-9)
    x = gaussians(2) + 2.5 / np.sqrt(2)
    s, d = (x[:, 0] + x[:, 1]) / np.sqrt(2), (x[:, 0] - x[:, 1]) / np.sqrt(2)
    close(np.exp(-2.5 * s + 3.125) * (2.5 - s + 0.2 * d * d < 0), exact, 5e-5, errors=3)


def test_four_branches():
    """PRC-04: the four-branch system by quadrature, and from equal parts of normals shifted to each branch."""

    def inside(d):
        return 2 * norm.sf(3 + 0.2 * d * d) * norm.pdf(d)

    exact = 2 * norm.sf(3.5) + quad(inside, -3.5, 3.5, epsabs=0, epsrel=1e-12)[0]
    np.testing.assert_allclose(exact, 0.002222795066, rtol=1e-9)
    centers = np.array([[3.0, 0.0], [-3.0, 0.0], [0.0, 3.5], [0.0, -3.5]])
    z = gaussians(2)
    s, d = (z + np.tile(centers, (len(z) // 4, 1))).T
    fails = np.minimum(3 + 0.2 * d * d - np.abs(s), 3.5 - np.abs(d)) < 0
    density = np.exp(centers @ np.stack([s, d]) - 0.5 * (centers**2).sum(axis=1)[:, None]).mean(axis=0)
    parts = (fails / density).reshape(-1, 4).mean(axis=1)
    close(parts, exact, 5e-5, errors=3)
