"""Scrambled Sobol points: they are the net that SciPy knows, their numbers are exact in the tails, and means have no bias."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special
from scipy.stats import qmc

from tailrisk import tails
from tailrisk._fields import InputError
from tailrisk._streams import Draws
from tailrisk.bench.tail_cases import AsianCall, JumpCascade
from tailrisk.tails import RQMC, CrossEntropy, Direction, Drift, Mean, Plain, Probability, Tail, sobol

BITS, STEPS, DRAWS = 8, 3, Draws(2, 1)


def test_direction_numbers_make_the_points_of_scipy():
    numbers = sobol.direction_numbers(40, BITS)
    index = np.arange(2**BITS)
    ours = np.zeros((index.size, 40), np.uint32)
    for b in range(BITS):
        ours ^= np.where((index >> b)[:, None] & 1 == 1, numbers[:, b], np.uint32(0)).astype(np.uint32)
    theirs = (qmc.Sobol(40, scramble=False, bits=32).random_base2(BITS) * 2.0**32).astype(np.uint32)
    assert {tuple(p) for p in ours} == {tuple(p) for p in theirs}


def points(seed, dtype):
    source = sobol.Sobol.scrambled(STEPS, DRAWS, BITS, seed, "test")

    def one(number):
        draw = source.path(number, STEPS, DRAWS, dtype)
        return jax.vmap(draw)(jnp.arange(STEPS, dtype=jnp.uint32))

    found = jax.jit(jax.vmap(one))(jnp.arange(2**BITS, dtype=jnp.uint32))
    return np.asarray(found.normal), np.asarray(found.uniform)


def test_scrambled_points_stay_a_net():
    """Each of 256 intervals of every dimension holds one point, so does every 16 x 16 box of the first two dimensions."""
    normal, uniform = points(1, np.float64)
    u = np.concatenate([special.ndtr(normal), uniform], axis=2).reshape(2**BITS, -1)
    for column in u.T:
        np.testing.assert_array_equal(np.sort((column * 2**BITS).astype(int)), np.arange(2**BITS))
    boxes = np.histogram2d(
        special.ndtr(normal[:, 0, 0]), special.ndtr(normal[:, 0, 1]), bins=16, range=((0, 1), (0, 1))
    )
    np.testing.assert_array_equal(boxes[0], 1.0)
    assert not np.array_equal(points(2, np.float64)[0], normal)
    single, single_uniform = points(1, np.float32)
    np.testing.assert_allclose(single, normal, rtol=2e-6, atol=2e-6)
    np.testing.assert_allclose(single_uniform, uniform, rtol=2e-7)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_integers_become_normals_without_a_rounded_uniform(dtype):
    """The ends of the range are finite and opposite; the complement of an integer gives exactly the negative."""
    x = jnp.asarray([0, 1, 5, 2**20, 2**31 - 1, 2**31, 2**32 - 1 - 5, 2**32 - 2, 2**32 - 1], jnp.uint32)
    z = np.asarray(sobol.to_normal(x, dtype), float)
    np.testing.assert_array_equal(np.asarray(sobol.to_normal(~x, dtype), float), -z)
    exact = special.ndtri((np.asarray(x[:4], float) + 0.5) * 2.0**-32)
    np.testing.assert_allclose(z[:4], exact, rtol=1e-6 if dtype == np.float32 else 1e-12)
    u = np.asarray(sobol.to_uniform(x, dtype), float)
    assert 0.0 < u.min() < 2.0**-32 <= u.max() < 1.0
    np.testing.assert_allclose(u[:4], (np.asarray(x[:4], float) + 0.5) * 2.0**-32, rtol=1e-7)


ASIAN = {45.0: (6.0548, 10.7, 1133.0), 50.0: (1.9195, 7.0, 4599.0), 55.0: (0.2024, 21.0, 15202.0)}
"""Strike: price, variance ratio of the drift, and with 100 strata along it (section 12 of the reference cases)."""


@pytest.mark.parametrize("strike", ASIAN)
def test_asian_calls(strike):
    """Prices within 3 standard errors (and the last digit printed), ratios within 10 %; the drift is that of the recursion."""
    price, ratio, with_strata = ASIAN[strike]
    problem, target, paths = AsianCall(strike), Mean("payoff"), 40_000
    fitted = tails.fit(problem, target, Drift())
    plain = tails.run(problem, tails.fit(problem, target, Plain()), paths, 1)["mean"]
    drifted = tails.run(problem, fitted, paths, 2)["mean"]
    strata = tails.run(problem, dataclasses.replace(fitted, cells=100), paths, 3)["mean"]
    points = tails.run(problem, tails.fit(problem, target, RQMC(Drift())), 16 * 512, 4)["mean"]
    for result, most in ((drifted, 2e-2), (strata, 1e-3), (points, 1e-3)):
        assert result.std_error < most * price
        assert abs(result.value - price) < 3.0 * result.std_error + 5e-5
    assert (plain.std_error / drifted.std_error) ** 2 == pytest.approx(ratio, rel=0.1)
    assert (plain.std_error / strata.std_error) ** 2 == pytest.approx(with_strata, rel=0.1)
    np.testing.assert_allclose(fitted.drift[:, 0], recursion(strike), atol=1e-5)


def recursion(strike, n=16):
    """z_1 = s sqrt(dt) (y + K)/y, z_(j+1) = z_j - s sqrt(dt) S_j/(n y), with the y that the path of z pays."""
    dt, volatility = 1.0 / n, 0.1

    def path(y):
        z, s, prices = volatility * dt**0.5 * (y + strike) / y, 50.0, []
        found = []
        for _ in range(n):
            found.append(z)
            s *= np.exp((0.05 - 0.5 * volatility**2) * dt + volatility * dt**0.5 * z)
            prices.append(s)
            z -= volatility * dt**0.5 * s / (n * y)
        return np.array(found), np.mean(prices) - strike - y

    low, high = 0.05, 40.0
    for _ in range(80):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if path(middle)[1] > 0.0 else (low, middle)
    return path(low)[0]


def test_bad_input():
    with pytest.raises(InputError, match="expected at least 2"):
        RQMC(Plain(), replicates=1)
    with pytest.raises(InputError, match="use the method alone"):
        tails.fit(AsianCall(50.0), Tail((0.9,), "payoff"), RQMC(Plain()))
    with pytest.raises(InputError, match="numbers a path"):
        sobol.Sobol.scrambled(30_000, DRAWS, BITS, 0, "test")
    with pytest.raises(InputError, match="smooth outcome"):
        tails.fit(AsianCall(50.0), Probability(60.0), Drift())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "points", "gain"),
    [(CrossEntropy(), 4_096, 1.5e4), (Direction(), 2_048, 2.5e3)],
    ids=["tilt", "direction"],
)
def test_points_under_a_tilt_and_on_lines(method, points, gain):
    """The probability of the reference cascade from 16 sets agrees with the tilt; the gain counts all paths."""
    problem, target = JumpCascade(), Probability(0.30)
    tilt = tails.run(problem, tails.fit(problem, target, CrossEntropy(), 1), 40_000, 1)["probability"]
    found = tails.run(problem, tails.fit(problem, target, RQMC(method), 2), 16 * points, 2)["probability"]
    assert not found.refused, found.reason
    assert found.std_error < 0.02 * found.value
    assert abs(found.value - tilt.value) < 3.5 * np.hypot(found.std_error, tilt.std_error)
    print(type(method).__name__, f"{found.gain_over_plain():.3g}")
    assert found.gain_over_plain() > gain
