"""Price bands, throttles and combinations of breakers; rules of venues."""

import jax.numpy as jnp
import numpy as np
import pytest
from breaker_course import DTYPES, FALL, MINUTE, auctions, closed, drive, walk

from tailrisk._fields import cast, parse_duration
from tailrisk.breaker import (
    AllOf,
    ExponentialReference,
    FixedReference,
    Halt,
    MarketWide,
    NoBreaker,
    PriceBand,
    StatisticalBand,
    Throttle,
    WindowMean,
    cme_bitcoin_launch,
    cme_dynamic,
    cme_equity_overnight,
    coinbase_derivatives,
    daily_limits,
    luld_low_priced,
    luld_tier1,
    luld_tier2,
    statistical_band,
)

# --- bands -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("year", "expected"),
    [(365.25, (510_725_426, 529_437_150)), (365.0, (510_722_278, 529_440_410))],
    ids=["BRK-01", "BRK-01 365 days"],
)
def test_statistical_band(year, expected):
    law = {"drift": 0.016, "volatility": 1.0, "horizon": "360s", "year_days": year}
    assert statistical_band(520e6, probability=0.9999999, **law) == expected
    rule = StatisticalBand(1.0, 0.016, outside=1e-7, horizon="360s", year_days=f"{year:g}")
    gate = drive(rule, np.zeros(1)).gate
    np.testing.assert_allclose(520e6 * np.exp([gate.band_floor[0], gate.band_ceiling[0]]), expected, atol=1.0)
    single = drive(rule, np.zeros(1), dtype=jnp.float32).gate
    np.testing.assert_allclose(single.band_floor, gate.band_floor, rtol=1e-5)


def test_daily_limits():
    """BRK-02"""
    below, above = daily_limits(10_000.0)
    assert below.tolist() == [9300.0, 8700.0, 8000.0]
    assert above.tolist() == [10_700.0, 11_300.0, 12_000.0]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        pytest.param(luld_tier1(), (95, 105), id="BRK-03"),
        pytest.param(luld_tier1(doubled=True), (90, 110), id="BRK-03 near the close"),
        pytest.param(luld_tier2(), (90, 110), id="REP-08 tier 2"),
        pytest.param(luld_low_priced(), (80, 120), id="REP-08 low priced"),
        pytest.param(cme_equity_overnight(), (93, 107), id="REP-08 overnight"),
        pytest.param(cme_dynamic(), (96.5, 103.5), id="REP-08 dynamic"),
        pytest.param(cme_bitcoin_launch(), (93, 107), id="REP-08 bitcoin"),
        pytest.param(coinbase_derivatives(), (90, 110), id="REP-08 hourly"),
    ],
)
def test_bands_of_venues(rule, expected):
    gate = drive(rule, np.zeros(1)).gate
    np.testing.assert_allclose(100 * np.exp([gate.band_floor[0], gate.band_ceiling[0]]), expected, rtol=1e-12)
    assert gate.floor[0] == -np.inf


FIVE_SECONDS = parse_duration("5s")


@pytest.mark.parametrize("dtype", DTYPES)
def test_limit_state_and_pause(dtype):
    """BRK-03: orders hold the price at the band; 15 s later trading pauses for 5 min; then an auction."""
    push = np.zeros(80)
    push[4:] = 0.2
    course = drive(luld_tier1(slots=60), np.zeros(80), push, dtype, FIVE_SECONDS)
    assert course.after[4] == pytest.approx(np.log(0.95))
    assert closed(course) == list(range(8, 68))  # reached within step 4; steps 5 to 7 are the limit state
    assert auctions(course) == [68]
    assert course.gate.band_floor[68] == -np.inf
    assert course.after[68] == pytest.approx(-0.2)
    assert course.gate.band_floor[69] == pytest.approx(-0.2 + np.log(0.95))  # the new reference is the auction


def test_news_outside_the_band_blocks_sales_and_starts_the_limit_state():
    news = np.zeros(80)
    news[4:] = FALL
    course = drive(luld_tier1(slots=60), news, 0.01, dt=FIVE_SECONDS)
    assert (course.executed[4:7] == 0.0).all()
    assert course.gate.open[4:7].all()
    assert closed(course) == list(range(7, 67))


def test_limit_state_that_ends_does_not_pause():
    push = np.zeros(40)
    push[[4, 5, 6, 10, 11, 12, 13]] = 0.2
    course = drive(PriceBand(0.05, FixedReference()), np.zeros(40), push, dt=FIVE_SECONDS)
    assert closed(course)[0] == 14


def test_trades_and_reference_stay_inside_the_band():
    rule = PriceBand(0.05, ExponentialReference("1min"), limit_time="inf d")
    news = np.zeros(3)
    news[1] = 5 * FALL
    moved = drive(rule, news).gate.band_floor[2] - np.log(0.95)
    assert moved == pytest.approx(np.log1p(-0.5 * 0.05))


def test_hard_limit_never_pauses():
    news = np.full(40, FALL)
    course = drive(cme_equity_overnight(), news, 0.1)
    assert not closed(course)
    assert not course.executed.any()


@pytest.mark.parametrize("rule", [cme_dynamic(), coinbase_derivatives()])
def test_band_without_limit_state_pauses_at_once(rule):
    news = np.full(12, FALL)
    news[:2] = 0.0
    assert closed(drive(rule, news)) == [2, 3]  # the auction sets the reference anew
    push = np.zeros(12)
    push[2] = 0.2
    course = drive(rule, np.zeros(12), push)
    assert closed(course) == [3, 4]
    assert course.after[2] == pytest.approx(course.gate.band_floor[2])


def test_bitcoin_rule_lifts_soft_limits_and_keeps_the_hard_one():
    course = drive(cme_bitcoin_launch(), np.zeros(30), 0.5)
    lows = np.round(1 - np.exp(course.after), 6)
    # at 7 % within step 0, monitored in 1 and 2, halted in 3 and 4, auction in 5 (the other limits hold), then 13 %
    assert closed(course) == [3, 4, 8, 9]
    assert auctions(course) == [5, 10]
    assert lows[:3].tolist() == [0.07] * 3
    assert lows[5:8].tolist() == [0.13] * 3
    assert (lows[10:] == 0.2).all()


# --- throttle and combination ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_throttle_works_off_a_backlog(dtype):
    """BRK-05"""
    rule, dt = cast(Throttle(8.0, "5min"), dtype), jnp.asarray(parse_duration("5min"), dtype)
    price, backlog, done = jnp.zeros((1,), dtype), 100.0, []
    state = rule.init(price)
    while backlog > 0:
        done.append(min(backlog, float(rule.gate(state, price, dt).cap[0])))
        backlog -= done[-1]
    assert done == [8.0] * 12 + [4.0]
    assert sum(done) == 100.0


@pytest.mark.parametrize("step", ["1min", "7min", "1h", "3h"])
def test_no_window_is_above_its_share(step):
    """R15d"""
    dt = parse_duration(step)
    demand = np.random.default_rng(0).exponential(3.0, 200)
    done = drive(Throttle(10.0, "1h"), np.zeros(200), demand, dt=dt).executed
    for steps in (1, 2, 10, 60, 200):
        share = 10.0 * steps * dt / parse_duration("1h")
        assert np.convolve(done, np.ones(steps)).max() <= share * (1 + 1e-12)


def test_combination_takes_the_strictest():
    rules = (Halt(0.1, "2min"), Halt(0.05, "2min", direction="both"), PriceBand(0.2, FixedReference()), Throttle(6.0))
    gate = drive(AllOf(rules), np.zeros(1)).gate
    np.testing.assert_allclose(np.concatenate(gate[1:6]), [0.1, *np.log([0.95, 1.05, 0.8, 1.2])], rtol=1e-12)
    alone = [drive(rule, walk(), 0.02) for rule in rules]
    together = drive(AllOf(rules[:2]), walk())
    assert (together.gate.open == (drive(rules[0], walk()).gate.open & drive(rules[1], walk()).gate.open)).all()
    assert any(len(closed(course)) for course in alone)


def test_auction_waits_for_the_other_halt():
    news = np.full(16, FALL)
    news[:2] = 0.0
    rules = (Halt(0.1, "3min", cooldown="inf d"), Halt(0.05, "6min", cooldown="inf d"))
    course = drive(AllOf(rules), news)
    assert closed(course) == [2, 3, 4, 5, 6, 7]
    assert auctions(course) == [8]


def test_auction_that_another_news_halt_suppresses_is_held_later():
    news = np.full(16, np.log(0.94))
    news[:2], news[4:] = 0.0, FALL
    rules = (Halt(0.05, "2min", cooldown="inf d"), Halt(0.1, "inf d", cooldown="inf d"), NoBreaker())
    assert not auctions(drive(AllOf(rules), news))
    rules = (Halt(0.05, "2min", cooldown="inf d"), MarketWide(levels=[0.1], lengths=["3min"]))
    assert auctions(drive(AllOf(rules), news)) == [7]


def test_empty_combination_is_refused():
    with pytest.raises(ValueError, match="NoBreaker"):
        AllOf(())


@pytest.mark.parametrize("breaker", [Halt(0.1, "5min", WindowMean("1h", slots=59)), cme_dynamic(slots=59)])
def test_slots_that_do_not_hold_the_window_are_refused(breaker):
    ((name, complaint),) = breaker.check_step(MINUTE)
    assert name == "reference.window"
    assert "slots=60" in complaint
    ((name, _),) = AllOf((NoBreaker(), breaker)).check_step(MINUTE)
    assert name == "breakers[1].reference.window"
