"""Breakers: clocks to the step, halts, levels and references; rules that every breaker keeps."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from breaker_course import DTYPES, FALL, MINUTE, auctions, closed, drive, walk

from tailrisk._fields import cast, parse_duration, problems
from tailrisk._hard import HardThresholdGradientError
from tailrisk.breaker import (
    AllOf,
    ExponentialReference,
    FixedReference,
    Halt,
    MarketWide,
    NoBreaker,
    PriceBand,
    RollingExtremes,
    StatisticalBand,
    Throttle,
    WindowMean,
    cme_bitcoin_launch,
    cme_dynamic,
    cme_equity_overnight,
    coinbase_derivatives,
    hit_probability,
    luld_low_priced,
    luld_tier1,
    luld_tier2,
    us_market_wide,
)

BREAKERS = {
    "none": lambda: NoBreaker(),
    "halt": lambda: Halt(0.05, "5min"),
    "halt on a window": lambda: Halt(0.05, "5min", WindowMean("5min", slots=5), "10min", "both"),
    "halt on an average": lambda: Halt(0.05, "5min", ExponentialReference("5min")),
    "market-wide": us_market_wide,
    "limit up/limit down": lambda: luld_tier1(slots=5),
    "tier 2": lambda: luld_tier2(slots=5),
    "low priced": lambda: luld_low_priced(slots=5, doubled=True),
    "overnight": cme_equity_overnight,
    "dynamic": cme_dynamic,
    "bitcoin at launch": cme_bitcoin_launch,
    "hourly": coinbase_derivatives,
    "statistical": lambda: StatisticalBand(0.8),
    "throttle": lambda: Throttle(8.0, "5min"),
    "all of": lambda: AllOf((Halt(0.05, "5min"), Throttle(8.0, "5min"), luld_tier2(slots=5))),
}

# --- rules that every breaker keeps ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BREAKERS)
def test_sensible_values_pass(name):
    assert not list(problems(BREAKERS[name]()))
    assert not list(BREAKERS[name]().check_step(MINUTE))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", BREAKERS)
def test_shapes_and_precision_are_kept(name, dtype):
    def step(breaker, price, dt):
        state = breaker.init(price)
        after = breaker.update(state, price, price, price, dt)
        return state, after, breaker.gate(state, price, dt), breaker.halted(after)

    price, dt = jnp.zeros(3, dtype), jnp.asarray(MINUTE, dtype)
    state, after, gate, halted = jax.eval_shape(step, cast(BREAKERS[name](), dtype), price, dt)
    assert state == after
    assert all(leaf.shape == (3,) and leaf.dtype in (dtype, bool) for leaf in gate)
    assert halted.shape == (3,)


@pytest.mark.parametrize("name", BREAKERS)
def test_assets_do_not_see_each_other(name):
    breaker, dt = cast(BREAKERS[name](), jnp.float64), jnp.asarray(MINUTE)

    @jax.jit
    def gates(paths):
        def step(state, before):
            gate = breaker.gate(state, before, dt)
            after = jnp.where(gate.open, before - 0.01, before)
            return breaker.update(state, before, after, jnp.ones_like(before), dt), gate

        return jax.lax.scan(step, breaker.init(paths[0]), paths)[1]

    beside_one, beside_another = (gates(jnp.asarray(np.stack([walk(), walk(seed=i)], axis=1))) for i in (4, 5))
    for a, b in zip(beside_one, beside_another, strict=True):
        np.testing.assert_array_equal(a[:, 0], b[:, 0])


@pytest.mark.parametrize("name", BREAKERS)
def test_halted_announces_a_closed_step(name):
    course = drive(BREAKERS[name](), walk(), 0.02)
    assert not (course.halted[:-1] & course.gate.open[1:]).any()
    assert not (course.gate.auction & ~course.gate.open).any()


@pytest.mark.parametrize(
    "breaker",
    [
        pytest.param(Halt(np.inf, "5min", direction="both"), id="R15a threshold"),
        pytest.param(Halt(1.0, "5min"), id="R15a threshold of the whole price"),
        pytest.param(MarketWide(levels=[np.inf], lengths=["15min"]), id="R15a level"),
        pytest.param(Throttle(np.inf, "1h"), id="R15c"),
        pytest.param(AllOf((Throttle(np.inf), Halt(np.inf))), id="R15a R15c combined"),
    ],
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_breaker_in_the_limit_is_no_breaker(breaker, dtype):
    course, free = drive(breaker, walk(), 0.05, dtype), drive(NoBreaker(), walk(), 0.05, dtype)
    jax.tree.map(np.testing.assert_array_equal, course, free)


def test_numbers_are_swept_with_one_trace():
    @jax.jit
    @eqx.debug.assert_max_traces(max_traces=1)
    def run(breaker):
        dt, path = jnp.asarray(MINUTE), jnp.asarray(walk(20))[:, None]

        def step(state, before):
            gate = breaker.gate(state, before, dt)
            return breaker.update(state, before, before, before, dt), gate

        return jax.lax.scan(step, breaker.init(path[0]), path)[1]

    for threshold, length in ((0.05, "5min"), (0.02, "inf d"), (np.inf, "1min")):
        band = PriceBand(min(threshold, 0.5), pause=length)
        run(cast(AllOf((Halt(threshold, length), band, us_market_wide())), jnp.float64))


@pytest.mark.parametrize("name", BREAKERS)
def test_derivatives_in_what_trips_a_breaker_are_refused(name):
    """Levels and clocks decide events; the cap of a throttle does not, and has a derivative."""
    found, tree = jax.tree.flatten(cast(BREAKERS[name](), jnp.float64))
    path = jnp.asarray(walk(50))[:, None]

    def caps(leaves, path):
        breaker = jax.tree.unflatten(tree, leaves)

        def step(state, before):
            gate = breaker.gate(state, before, jnp.asarray(MINUTE))
            sold = jnp.where(gate.open, jnp.minimum(gate.cap, 10.0), 0.0)
            return breaker.update(state, before, before - sold, sold, jnp.asarray(MINUTE)), jnp.sum(sold)

        return jnp.sum(jax.lax.scan(step, breaker.init(jnp.zeros(1)), path)[1])

    if name in ("none", "throttle"):
        assert all(np.isfinite(slope) & (slope != 0.0) for slope in jax.jit(jax.grad(caps))(found, path))
        return
    for of in (found, path):
        with pytest.raises(HardThresholdGradientError, match="breaker"):
            jax.eval_shape(jax.grad(lambda at, of=of: caps(found, at) if of is path else caps(at, path)), of)


# --- halts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("by", ["news", "orders"])
@pytest.mark.parametrize(
    ("length", "step", "steps"),
    [
        ("15min", "5min", 3),
        ("15min", "1min", 15),
        ("5min", "1s", 300),
        ("10min", "7s", 86),
        ("5min", "15min", 1),
        ("1min", "15min", 1),
        ("7min", "7min", 1),
        ("0.3s", "0.1s", 3),
        ("1h", "0.5s", 7200),
    ],
)
def test_halt_lasts_to_the_step(by, length, step, steps, dtype):
    news, push = np.zeros((2, 7300 if steps > 300 else 320))  # few lengths: each compiles once
    (news if by == "news" else push)[2] = FALL if by == "news" else -FALL
    course = drive(Halt(0.1, length), news, push, dtype, parse_duration(step))
    first = 2 if by == "news" else 3  # orders trip the level within step 2, which is thus still open
    assert closed(course) == list(range(first, first + steps))
    assert auctions(course) == [first + steps]


def test_long_halt_does_not_drift_in_float32():
    news = np.zeros(90_000)
    news[5] = FALL
    course = drive(Halt(0.1, "1d"), news, dtype=jnp.float32, dt=parse_duration("1s"))
    assert (~course.gate.open).sum() == 86_400


def test_order_that_crosses_the_floor_is_the_last():
    course = drive(Halt(0.1, "3min"), np.zeros(8), 0.2)
    assert course.gate.floor[0] == pytest.approx(np.log(0.9))
    assert closed(course) == [1, 2, 3, 6, 7]  # the auction of step 4 cannot trip the halt, step 5 can
    assert course.gate.floor[4] == -np.inf


def test_floor_is_reached_whatever_the_rounding():
    for dtype in DTYPES:
        level = np.log(dtype(0.9), dtype=dtype)
        assert closed(drive(Halt(0.1, "2min"), np.zeros(4), -level + np.finfo(dtype).eps, dtype))[0] == 1
        assert closed(drive(Halt(0.1, "2min"), np.zeros(4), -level - np.finfo(dtype).eps, dtype))[0] == 1
        assert not closed(drive(Halt(0.1, "2min"), np.zeros(4), -level - 1e-5, dtype))


def test_news_goes_on_during_a_halt():
    news = np.full(12, FALL)
    news[:2], news[4:] = 0.0, 2 * FALL
    course = drive(Halt(0.1, "3min", cooldown="inf d"), news)
    assert closed(course) == [2, 3, 4]
    np.testing.assert_array_equal(course.after, news)


@pytest.mark.parametrize(
    ("cooldown", "expected"),
    [("0s", [2, 3, 5, 6, 8, 9]), ("1min", [2, 3, 5, 6, 8, 9]), ("3min", [2, 3, 7, 8]), ("inf d", [2, 3])],
)
def test_cooldown(cooldown, expected):
    news = np.full(11, FALL)
    news[:2] = 0.0
    assert closed(drive(Halt(0.1, "2min", cooldown=cooldown), news)) == expected


def test_infinite_halt_never_opens():
    news = np.full(50, FALL)
    course = drive(Halt(0.1, "inf d"), news)
    assert len(closed(course)) == 50
    assert not auctions(course)


@pytest.mark.parametrize(("direction", "trips"), [("down", False), ("both", True)])
def test_direction(direction, trips):
    assert bool(closed(drive(Halt(0.1, "2min", direction=direction), np.full(3, np.log(1.11))))) == trips


def test_every_asset_may_have_its_own_threshold():
    breaker = cast(Halt(np.array([0.05, 0.2]), "2min"), jnp.float64)
    price = jnp.full((2,), FALL)
    gate = breaker.gate(breaker.init(jnp.zeros(2)), price, jnp.asarray(MINUTE))
    assert gate.open.tolist() == [False, True]


@pytest.mark.parametrize("seed", range(5))
def test_halt_against_plain_steps(seed):
    """The same rule written as a loop over steps, driven by news and orders at random."""
    news = walk(300, seed)
    push = 0.05 * (np.random.default_rng(seed).random(300) < 0.2)
    left, wait, reopening, expected = 0, 0, False, []
    for x, y in zip(news, push, strict=True):
        ready = left == 0 and wait == 0
        if left == 0 and ready and x <= np.log(0.95):
            left = 4
        auction = left == 0 and reopening
        expected.append((left == 0, auction))
        if left > 0:
            left -= 1
            reopening, wait = left == 0, 7 if left == 0 else 0
        else:
            reopening, wait = False, max(wait - 1, 0)
            left = 4 if ready and x - y <= np.log(0.95) else 0
    course = drive(Halt(0.05, "4min", cooldown="7min"), news, push)
    np.testing.assert_array_equal(np.stack([course.gate.open, course.gate.auction], axis=1), expected)


# --- references ------------------------------------------------------------------------------------------------------


def sides(reference, path, dt=MINUTE):
    """References (steps, 2) that each step of a path sees."""
    reference, dt = cast(reference, jnp.float64), jnp.asarray(dt)

    def step(state, price):
        return reference.update(state, price, dt), jnp.concatenate(reference.sides(state, dt))

    return np.asarray(jax.lax.scan(step, reference.init(jnp.zeros(1)), jnp.asarray(path)[:, None])[1])


def past(path, steps):
    padded = np.concatenate([np.zeros(steps), path])
    return np.stack([padded[t : t + steps] for t in range(len(path))])


def test_window_mean():
    path = walk()
    expected = np.log(np.exp(past(path, 5)).mean(axis=1))
    np.testing.assert_allclose(sides(WindowMean("5min", slots=9), path), np.stack([expected] * 2, 1), atol=1e-12)


def test_rolling_extremes():
    path = walk()
    window = past(path, 60)
    np.testing.assert_array_equal(
        sides(RollingExtremes("1h", slots=70), path), np.stack([window.max(1), window.min(1)], 1)
    )


def test_exponential_reference():
    path, average, expected = walk(), 1.0, []
    for price in np.exp(path):
        expected.append(np.log(average))
        average += (1 - 0.5 ** (1 / 5)) * (price - average)
    np.testing.assert_allclose(sides(ExponentialReference("5min"), path)[:, 0], expected, atol=1e-12)


def test_fixed_reference_of_a_period():
    path = walk(50)
    expected = np.concatenate([np.zeros(10), np.repeat(path[9::10], 10)])[:50]
    np.testing.assert_array_equal(sides(FixedReference("10min"), path)[:, 0], expected)
    np.testing.assert_array_equal(sides(FixedReference(), path)[:, 0], np.zeros(50))


@pytest.mark.parametrize("reference", [WindowMean(), ExponentialReference("1h"), RollingExtremes()])
def test_rolling_reference_starts_anew_at_the_reopening(reference):
    news = np.full(30, FALL)
    news[:2] = 0.0
    course = drive(Halt(0.1, "3min", reference), news)
    assert closed(course) == [2, 3, 4]
    assert course.gate.floor[6] == pytest.approx(FALL + np.log(0.9))


# --- market-wide -----------------------------------------------------------------------------------------------------


def test_each_level_trips_once():
    rule = MarketWide(levels=[0.07, 0.13, 0.20], lengths=["3min", "2min", "inf d"])
    news = np.log1p(-np.array([0, 0.08] + [0.08] * 6 + [0.14] * 8 + [0.08] * 4 + [0.14] * 4 + [0.25] * 8))
    assert closed(drive(rule, news)) == [1, 2, 3, 8, 9, *range(24, 32)]


def test_fall_through_two_levels_uses_up_both():
    rule = MarketWide(levels=[0.07, 0.13], lengths=["3min", "5min"])
    news = np.log1p(-np.array([0, 0.14, 0.14, 0.14, 0.14, 0.14, 0.05, 0.05, 0.08, 0.08, 0.15, 0.15]))
    course = drive(rule, news)
    assert closed(course) == [1, 2, 3, 4, 5]
    assert auctions(course) == [6]


def test_market_wide_floor_is_the_next_level():
    rule = MarketWide(levels=[0.07, 0.13], lengths=["1min", "1min"])
    course = drive(rule, np.zeros(8), [0, 0.08, 0, 0, 0.08, 0.2, 0, 0])
    assert closed(course) == [2, 6]  # the push of step 4 is above the second level
    np.testing.assert_allclose(course.gate.floor[[0, 1, 4]], np.log([0.93, 0.93, 0.87]))
    assert course.gate.floor[3] == course.gate.floor[7] == -np.inf  # auctions; afterwards no level is left


def test_new_session_starts_armed_from_its_first_price():
    rule = MarketWide(levels=[0.10, 0.20], lengths=["2min", "inf d"], session="10min")
    news = np.log1p(-np.array([0] * 3 + [0.25] * 12 + [0.25 + 0.75 * 0.11] * 5))
    course = drive(rule, news)
    assert closed(course) == [*range(3, 10), 15, 16]
    assert auctions(course) == [10, 17]


def test_market_wide_refuses_what_makes_no_sense():
    with pytest.raises(ValueError, match="one length for each level"):
        MarketWide(levels=[0.1, 0.2], lengths=["1min"])
    (problem,) = problems(MarketWide(levels=[0.2, 0.1], lengths=["1min", "2min"]))
    assert "increasing" in problem


@pytest.mark.parametrize(
    ("deviation", "fall", "expected", "digit"),
    [
        pytest.param(0.02, 0.07, 2.8503e-4, 1e-8, id="BRK-04 2 %"),
        pytest.param(0.04, 0.07, 0.0696366, 1e-7, id="BRK-04 4 % level 1"),
        pytest.param(0.04, 0.13, 4.98518e-4, 1e-9, id="BRK-04 4 % level 2"),
        pytest.param(0.04, 0.20, 2.42478e-8, 1e-13, id="BRK-04 4 % level 3"),
    ],
)
def test_hit_probability(deviation, fall, expected, digit):
    assert abs(hit_probability(jnp.asarray(fall), jnp.asarray(deviation)) - expected) < digit
    single = hit_probability(jnp.asarray(fall, jnp.float32), jnp.asarray(deviation, jnp.float32))
    assert float(single) == pytest.approx(expected, rel=3e-5)


def test_market_wide_rule_trips_as_often_as_brownian_motion_says():
    """BRK-04 by simulation, with the level moved for monitoring once a step; within 4 standard errors below 2 %."""
    paths, steps, deviation = 40_000, 200, 0.04
    rule, dt = cast(us_market_wide(), jnp.float32), jnp.asarray(parse_duration("1d") / steps, jnp.float32)
    size = deviation / steps**0.5
    moves = size * jax.random.normal(jax.random.key(7), (steps, paths), jnp.float32)

    def step(carry, move):
        news, state, hit = carry
        news = news + move
        hit = hit | ~rule.gate(state, news, dt).open
        return (news, rule.update(state, news, news, jnp.zeros_like(news), dt), hit), None

    start = jnp.zeros(paths, jnp.float32)
    carry = (start, rule.init(start), jnp.zeros(paths, bool))
    share = float(jnp.mean(jax.lax.scan(step, carry, moves)[0][2]))
    monitored = 1.0 - np.exp(np.log(0.93) - 0.5826 * size)
    expected = float(hit_probability(jnp.asarray(monitored), jnp.asarray(deviation)))
    error = np.sqrt(expected * (1 - expected) / paths)
    assert error < 0.02 * expected
    assert abs(share - expected) < 4 * error
