"""Feedback loops and books against closed forms, brute force and branching-process theory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chi2, norm

from tailrisk.feedback import (
    borel_mean,
    borel_pmf,
    borel_variance,
    critical_leverage,
    crowded_fold,
    even_linear,
    even_square_root,
    feedback_rounds,
    fixed_point,
    linear_feedback,
    square_root_feedback,
    unwind,
)
from tailrisk.fragility import (
    branching_map,
    distance_to_criticality,
    forced_volume,
    herfindahl,
    impact_slope,
    leverage_ratio,
    liquidation_map,
    shock_to_drop,
)
from tailrisk.impact import ConstantDepth, Linear, SquareRoot

LINEAR = Linear(ConstantDepth(volume=1.0), coefficient=1.0)


def uniform(parameters, drop):
    """Uniform density g, linear impact k."""
    return parameters["k"] * parameters["g"] * drop


def root(parameters, drop):
    return parameters["a"] * jnp.sqrt(drop)


def uniform_book(density, width, accounts):
    """Long positions spread evenly over a width of log price."""
    levels = -width * (np.arange(accounts) + 0.5) / accounts
    return jnp.asarray(levels), jnp.full(accounts, density * width / accounts)


def leveraged_book(leverage, accounts=2000, maintenance=0.004, seed=1):
    """Longs of one leverage, entered over the last moves of the price; quantity one in all."""
    entry = 0.02 * np.random.default_rng(seed).standard_normal(accounts)
    levels = np.sort(entry + np.log((1.0 - 1.0 / leverage) / (1.0 - maintenance)))[::-1]
    return jnp.asarray(np.minimum(levels, -1e-4)), jnp.full(accounts, 1.0 / accounts)


@pytest.mark.parametrize(("gain", "factor"), [(0.25, 1.3333), (0.5, 2.0), (0.8, 5.0), (0.9, 10.0)])
def test_uniform_density_amplifies(gain, factor):
    """CAS-01, value and gradients, by iteration and in closed form."""
    shock, g = 0.01, 0.5
    parameters = {"k": jnp.array(gain / g), "g": jnp.array(g)}
    found = fixed_point(uniform, parameters, shock)
    assert float(found.drop) == pytest.approx(factor * shock, abs=1e-4 * shock)
    assert float(found.drop) == pytest.approx(shock / (1.0 - gain), rel=1e-13)
    assert float(found.branching) == pytest.approx(gain, rel=1e-14)
    assert not found.runaway
    slopes = jax.grad(lambda p, x: fixed_point(uniform, p, x).drop, argnums=(0, 1))(parameters, jnp.array(shock))
    assert float(slopes[0]["k"]) == pytest.approx(g * shock / (1.0 - gain) ** 2, rel=1e-12)
    assert float(slopes[1]) == pytest.approx(1.0 / (1.0 - gain), rel=1e-12)
    closed = linear_feedback(jnp.array(shock), jnp.array(gain))
    assert float(closed.drop) == pytest.approx(shock / (1.0 - gain), rel=1e-13)
    slope = jax.grad(lambda r: linear_feedback(jnp.array(shock), r).drop)(jnp.array(gain))
    assert float(slope) == pytest.approx(shock / (1.0 - gain) ** 2, rel=1e-12)


def test_gradient_in_impact():
    """CAS-01: g = 1, k = .5, x = .01 -> 0.04; forward and reverse mode, single precision and a batch."""
    parameters = {"k": jnp.array(0.5), "g": jnp.array(1.0)}

    def drop(k):
        return fixed_point(uniform, parameters | {"k": k}, jnp.array(0.01, k.dtype)).drop

    assert float(jax.grad(drop)(jnp.array(0.5))) == pytest.approx(0.04, rel=1e-12)
    assert float(jax.jacfwd(drop)(jnp.array(0.5))) == pytest.approx(0.04, rel=1e-12)
    batch = jax.vmap(jax.grad(drop))(jnp.array([0.25, 0.5, 0.9]))
    np.testing.assert_allclose(batch, 0.01 / (1.0 - np.array([0.25, 0.5, 0.9])) ** 2, rtol=1e-12)
    parameters = {"k": jnp.array(0.5, jnp.float32), "g": jnp.array(1.0, jnp.float32)}
    assert float(jax.grad(drop)(jnp.array(0.5, jnp.float32))) == pytest.approx(0.04, rel=1e-5)


@pytest.mark.parametrize("gain", [1.0 - 1e-8, 1.0, 1.3])
def test_runaway_is_said(gain):
    """CAS-01: no inf or nan in values; a flag, and derivatives that cannot be mistaken for numbers."""
    parameters = {"k": jnp.array(gain), "g": jnp.array(1.0)}
    found = fixed_point(uniform, parameters, 0.01, rounds=3000)
    closed = linear_feedback(0.01, gain)
    for result in (found, closed):
        assert bool(result.runaway)
        assert np.isfinite(float(result.drop))
        assert np.isfinite(float(result.branching))
    slope = jax.grad(lambda k: fixed_point(uniform, parameters | {"k": k}, 0.01, rounds=3000).drop)(jnp.array(gain))
    assert np.isnan(float(slope))
    slopes = jax.grad(lambda r: jnp.sum(linear_feedback(jnp.array([0.01, 0.01]), r).drop))(jnp.array([0.5, gain]))
    assert float(slopes[0]) == pytest.approx(0.04)
    assert np.isnan(float(slopes[1]))


def test_rounds_are_geometric():
    """CAS-01 and R01 (b): 2, 1, 0.5, 0.25 % ..., total 4 %."""
    rounds = feedback_rounds(uniform, {"k": jnp.array(0.5), "g": jnp.array(1.0)}, 0.02, 30)
    np.testing.assert_allclose(rounds, 0.02 * 0.5 ** np.arange(30), rtol=1e-5)
    assert float(jnp.sum(rounds)) == pytest.approx(0.04)


def iterated(shock, impact, density, offset, exponent):
    """D <- x + k u^exponent with u = g D + c within 0 and 1, from D = x on."""
    drop = np.asarray(shock, float)
    for _ in range(20_000):
        drop = shock + impact * np.clip(density * drop + offset, 0.0, 1.0) ** exponent
    return drop


@pytest.mark.parametrize(("closed", "exponent"), [(even_linear, 1.0), (even_square_root, 0.5)])
def test_even_books_that_are_sold_out(closed, exponent):
    """Against the rounds themselves: below and beyond kg = 1, sold out or not, and where nobody is."""
    shock, impact, density = np.meshgrid([0.002, 0.01, 0.1], [0.01, 0.05, 0.4], [0.5, 5.0, 12.0])
    for offset in (-0.02, 0.0, 0.02):
        ours = closed(jnp.asarray(shock), jnp.asarray(impact), jnp.asarray(density), offset)
        np.testing.assert_allclose(ours, iterated(shock, impact, density, offset, exponent), rtol=1e-9)


def test_a_crowd_of_thresholds_folds():
    """The first maximum of x(D) on a fine grid, and the density's derivatives there by differences."""
    k, even, crowd, center, width = 0.4, 1.0, 0.5, 0.08, 0.01
    found = crowded_fold(k, even, crowd, center, width)
    drop = np.linspace(0.0, center, 2_000_001)
    shock = drop - k * (even * drop + crowd * norm.cdf(drop, center, width))
    first = np.argmax(np.diff(shock) < 0.0)
    assert float(found.drop) == pytest.approx(drop[first], abs=1e-7)
    assert float(found.shock) == pytest.approx(shock[first], abs=1e-12)
    h, f = 1e-5, lambda d: even + crowd * norm.pdf(d, center, width)
    assert k * f(float(found.drop)) == pytest.approx(1.0, rel=1e-12)
    near = [f(float(found.drop) + step) for step in (-h, 0.0, h)]
    assert float(found.slope) == pytest.approx((near[2] - near[0]) / (2.0 * h), rel=1e-6)
    assert float(found.bend) == pytest.approx((near[2] - 2.0 * near[1] + near[0]) / h**2, rel=1e-4)
    assert np.isnan(float(crowded_fold(0.01, even, crowd, center, width).shock))  # too little impact for a jump


def test_square_root_feedback():
    """CAS-02, with the gradient and the jump out of nothing."""
    shock, a = jnp.array(0.01), jnp.array(0.05)
    closed = square_root_feedback(shock, a)
    assert float(closed) == pytest.approx(0.0164039, abs=1e-7)
    found = fixed_point(root, {"a": a}, shock)
    assert float(found.drop) == pytest.approx(float(closed), rel=1e-12)
    assert not found.runaway
    ours = jax.grad(lambda a, x: fixed_point(root, {"a": a}, x).drop, argnums=(0, 1))(a, shock)
    theirs = jax.grad(square_root_feedback, argnums=(1, 0))(shock, a)
    np.testing.assert_allclose(ours, theirs, rtol=1e-10)
    assert float(square_root_feedback(1e-12, 0.05)) == pytest.approx(0.05**2, rel=1e-4)
    assert float(fixed_point(root, {"a": a}, jnp.array(1e-9)).drop) == pytest.approx(0.05**2, rel=1e-4)


def test_slow_passage_is_no_solution():
    """Just beyond a fold the loop crawls; the answer must be the far solution and not the bottleneck."""

    def bump(parameters, drop):  # gain above one between 0.04 and 0.06
        return parameters * jax.nn.sigmoid((drop - 0.05) / 0.005)

    strength = jnp.array(0.04)
    grid = jnp.linspace(0.0, 0.05, 200_001)
    fold = float(jnp.max(grid - bump(strength, grid)))
    below, beyond = fixed_point(bump, strength, fold * (1 - 1e-6)), fixed_point(bump, strength, fold * (1 + 1e-6))
    assert not below.runaway
    assert not beyond.runaway
    assert float(below.drop) < 0.05 < float(beyond.drop)
    assert float(beyond.drop) == pytest.approx(fold + 0.04, rel=1e-2)


@pytest.mark.parametrize(
    ("impact", "root_law", "linear"), [(0.02, 75.0, 100.0), (0.04, 37.5, 50.0), (0.08, 18.75, 25.0)]
)
def test_critical_leverage(impact, root_law, linear):
    """CAS-03: equity at full exit is zero exactly there."""
    for exponent, expected in ((0.5, root_law), (1.0, linear)):
        assert critical_leverage(impact, exponent) == pytest.approx(expected, rel=1e-12)
        assert unwind(1.0, impact, expected, exponent)[0] == pytest.approx(0.0, abs=1e-15)
        assert unwind(1.0, impact, 1.01 * expected, exponent)[0] < 0.0


@pytest.mark.parametrize(
    ("impact", "peak", "at", "left", "digits"),
    [(0.08, 24.97929, 0.385123, 0.2, 1e-5), (0.04, 16.34360, 0.08132, 0.6, 1e-5)],
)
def test_leverage_rises_while_selling(impact, peak, at, left, digits):
    """CAS-03, values and argmax."""
    sold = jnp.linspace(at - 0.01, at + 0.01, 20_001)
    leverage = unwind(sold, impact, 15.0)[1]
    assert float(jnp.max(leverage)) == pytest.approx(peak, abs=1e-5)
    assert float(sold[jnp.argmax(leverage)]) == pytest.approx(at, abs=digits)
    assert 15.0 * unwind(1.0, impact, 15.0)[0] == pytest.approx(left, rel=1e-12)


def test_leverage_targeting_fire_sale():
    """K6: gain kappa A (L - 1)."""
    found = linear_feedback(-0.01, 0.15 * 1.0 * (5.0 - 1.0))
    assert float(found.drop) == pytest.approx(-0.025, rel=1e-14)
    assert not found.runaway
    assert bool(linear_feedback(-0.01, 0.15 * 1.0 * 8.0).runaway)


def test_short_gamma_hedging():
    """K19: volatility x 1.25 once all rounds have settled, x 1.2 after one."""
    g = 0.2
    assert float(linear_feedback(0.6, g).drop) == pytest.approx(0.6 * 1.25)
    rounds = feedback_rounds(lambda p, d: p * d, jnp.array(g), 1.0, 2)
    assert float(jnp.sum(rounds)) == pytest.approx(1.2)


def test_borel():
    """K3."""
    n = jnp.arange(1, 2000, dtype=jnp.float64)
    p = borel_pmf(0.7, n)
    np.testing.assert_allclose(p[jnp.array([0, 1, 4])], [0.496585, 0.172618, 0.037762], atol=1e-6)
    assert float(jnp.sum(p)) == pytest.approx(1.0, rel=1e-12)
    mean = float(jnp.sum(n * p))
    assert mean == pytest.approx(3.3333, abs=1e-4)
    assert mean == pytest.approx(float(borel_mean(0.7)))
    assert float(jnp.sum(n * n * p)) - mean**2 == pytest.approx(25.926, abs=1e-3)
    assert float(borel_variance(0.7)) == pytest.approx(25.926, abs=1e-3)
    tail = jnp.log(borel_pmf(1.0, 1e4)) - jnp.log(borel_pmf(1.0, 1e3))
    assert float(tail / jnp.log(10.0)) == pytest.approx(-1.5, abs=1e-3)
    assert float(borel_mean(1.0)) == np.inf


def test_simulated_cascades_are_borel():
    """K3: Poisson thresholds, unit sizes, linear impact; the shock just reaches the first threshold."""
    branching, books, positions = 0.7, 20_000, 256
    gaps = np.random.default_rng(7).exponential(size=(books, positions))
    gaps[:, 0] = 1.0
    levels = jnp.asarray(-np.cumsum(gaps, axis=1))
    impact = Linear(ConstantDepth(volume=1.0), coefficient=branching)

    def size(levels):
        return shock_to_drop(levels, jnp.ones(positions), impact, jnp.ones(1)).volume[0]

    sizes = np.rint(np.asarray(jax.jit(jax.vmap(size))(levels))).astype(int)
    assert sizes.max() < positions  # P(a cascade that large) is about 1e-8 per book
    edges = np.array([*range(1, 16), 20, 30, 50, positions])
    n = jnp.arange(1, positions, dtype=jnp.float64)
    expected, _ = np.histogram(n, edges, weights=books * np.asarray(borel_pmf(branching, n)))
    observed, _ = np.histogram(sizes, edges)
    assert expected.min() > 20
    statistic = np.sum((observed - expected) ** 2 / expected)
    assert statistic < chi2.isf(1e-3, len(expected) - 1)
    error = np.sqrt(float(borel_variance(branching)) / books)
    assert error < 0.04
    assert abs(sizes.mean() - float(borel_mean(branching))) < 4.0 * error


def by_rounds(levels, quantity, offset, shock):
    """The noiseless cascade, round by round."""
    drop, sold = shock, 0.0
    while True:
        new = float(np.sum(quantity[-levels <= drop]))
        if new == sold:
            return drop, sold
        sold, drop = new, shock + offset(new)


@pytest.mark.parametrize("exponent", [1.0, 0.5])
def test_book_matches_the_cascade_round_by_round(exponent):
    """R04 (a): the exact fixed point of a book of unequal positions, at shocks on both sides of its jumps."""
    rng = np.random.default_rng(3)
    levels, quantity = -rng.uniform(0.0, 0.3, 400), rng.exponential(size=400) / 400
    levels[:20] = levels[20:40]  # equal thresholds fall together
    depth = ConstantDepth(volume=1.0)
    if exponent == 1.0:
        impact, offset = Linear(depth, coefficient=0.25), lambda v: 0.25 * v
    else:
        impact = SquareRoot(depth, volatility=0.05, core=1e-12)
        offset = lambda v: 0.05 * (np.sqrt(v + 1e-12) - 1e-6)  # noqa: E731
    shocks = np.linspace(0.0, 0.4, 81)
    found = shock_to_drop(jnp.asarray(levels), jnp.asarray(quantity), impact, jnp.asarray(shocks))
    expected = np.array([by_rounds(levels, quantity, offset, shock) for shock in shocks])
    np.testing.assert_allclose(found.volume, expected[:, 1], rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(found.drop, expected[:, 0], rtol=1e-12, atol=1e-12)
    assert float(found.share[-1]) == pytest.approx(1.0)
    assert float(jnp.max(found.share)) <= 1.0 + 1e-12  # R01 (e)


@pytest.mark.parametrize("gain", [0.25, 0.5, 0.8])
def test_fine_book_follows_the_continuum(gain):
    """R04 (a), (e): CAS-01 from the positions themselves, to the resolution of the book."""
    levels, quantity = uniform_book(gain, 0.5, 200_000)
    shocks = jnp.array([0.01, 0.02, 0.05])
    found = shock_to_drop(levels, quantity, LINEAR, shocks)
    np.testing.assert_allclose(found.drop, shocks / (1.0 - gain), atol=3 * 0.5 / 200_000 / (1.0 - gain))


def test_uniform_book_has_constant_branching():
    """R04 (b): R = lambda OI / width."""
    width, interest = 0.4, 0.3
    levels, quantity = uniform_book(interest / width, width, 40_000)
    grid = jnp.linspace(-0.35, -0.05, 50)
    impact = Linear(ConstantDepth(volume=2.0), coefficient=1.5)
    for kernel in ("box", "gaussian"):
        found = branching_map(levels, quantity, impact, grid, 0.01, kernel)
        np.testing.assert_allclose(found, 1.5 / 2.0 * interest / width, rtol=2e-3)


@pytest.mark.parametrize("factor", [2.0, 5.0])
def test_branching_against_depth(factor):
    """R04 (c): R / k with linear impact, R / sqrt(k) with square-root impact, at fixed volume."""
    levels, quantity = uniform_book(0.5, 0.4, 4000)
    grid = jnp.linspace(-0.35, -0.05, 20)
    for law, power in ((lambda d: Linear(d, coefficient=1.0), 1.0), (lambda d: SquareRoot(d, core=1e-12), 0.5)):
        thin, deep = (branching_map(levels, quantity, law(ConstantDepth(volume=v)), grid) for v in (1.0, factor))
        np.testing.assert_allclose(thin / deep, factor**power, rtol=1e-6)


def test_slope_of_impact_at_what_is_sold():
    law = SquareRoot(ConstantDepth(volume=4.0), volatility=0.04, core=1e-12)
    sold = jnp.array([0.1, 1.0, 3.0])
    np.testing.assert_allclose(impact_slope(law, sold), 0.04 * 0.5 / jnp.sqrt(sold * 4.0), rtol=1e-9)


def test_liquidation_map_holds_the_whole_book():
    levels, quantity = leveraged_book(10.0)
    grid = jnp.linspace(-0.4, 0.1, 5001)
    for kernel in ("box", "gaussian"):
        density = liquidation_map(levels, quantity, grid, 0.005, kernel)
        assert float(jnp.sum(density) * (grid[1] - grid[0])) == pytest.approx(1.0, rel=1e-3)
    with pytest.raises(ValueError, match="expected box or gaussian"):
        liquidation_map(levels, quantity, grid, 0.005, "cosine")


def test_distance_to_criticality_is_where_the_curve_jumps():
    """The smallest shock found is the one at which the exact response starts to pass through the zone."""
    levels, quantity = leveraged_book(10.0, accounts=20_000)
    impact = Linear(ConstantDepth(volume=1.0), coefficient=0.1)
    grid = jnp.linspace(-0.3, 0.0, 3001)
    found = distance_to_criticality(levels, quantity, impact, grid, bandwidth=0.002)
    assert 0.0 < float(found.distance) < -float(found.zone)
    assert float(found.branching) > 1.0
    assert 0.0 < float(found.share) < 1.0
    shocks = found.distance * jnp.array([0.9999, 1.0001])
    before, after = shock_to_drop(levels, quantity, impact, shocks).drop
    assert float(before) < -float(found.zone) < float(after) + 1e-3
    # just inside the zone the price falls through the rest of it
    inside = shock_to_drop(levels, quantity, impact, (found.distance + 1e-3)[None])
    assert float(inside.share[0]) > 0.6


def test_no_zone_is_said():
    levels, quantity = uniform_book(0.5, 0.4, 4000)
    found = distance_to_criticality(levels, quantity, LINEAR, jnp.linspace(-0.4, 0.0, 401))
    assert float(found.distance) == np.inf
    assert float(found.zone) == -np.inf
    assert float(found.share) == 0.0


@pytest.mark.parametrize("coefficient", [0.06, 0.1, 0.3])
def test_distance_never_grows_with_leverage(coefficient):
    """R04 (d)."""
    impact = Linear(ConstantDepth(volume=1.0), coefficient=coefficient)
    grid = jnp.linspace(-0.7, 0.0, 1401)

    @jax.jit
    def distance(levels, quantity):
        return distance_to_criticality(levels, quantity, impact, grid).distance

    found = [float(distance(*leveraged_book(leverage))) for leverage in (2.5, 3, 5, 8, 10, 15, 20, 30)]
    assert np.isfinite(found[-1])
    assert (np.diff(found) <= 0.0).all()


def test_forced_volume_includes_the_level_itself():
    levels, quantity = jnp.array([-0.2, -0.1, -jnp.inf]), jnp.array([1.0, 2.0, 5.0])
    np.testing.assert_allclose(forced_volume(levels, quantity, jnp.array([0.05, 0.1, 0.15, 0.2, 9.0])), [0, 2, 2, 3, 3])


def test_leverage_and_crowding():
    quantity, price = jnp.array([2.0, -1.0]), jnp.array([10.0, 10.0])
    assert float(leverage_ratio(quantity, price, jnp.array([4.0, 2.0]))) == 5.0
    assert float(herfindahl(jnp.array([1.0, 1.0, -1.0, 1.0]))) == 0.25
    assert float(herfindahl(jnp.array([0.0, 3.0]))) == 1.0
