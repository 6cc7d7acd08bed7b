"""Impact, depth and books from data: simulated truths are found again, closed forms hold, facts give their intervals."""

import numpy as np
import pytest

from tailrisk._fields import InputError
from tailrisk.calibrate.books import BookBelief, open_interest, tilted
from tailrisk.calibrate.evaporation import _resampled, evaporation
from tailrisk.calibrate.impact import activity, book_impact, flow_impact, pool
from tailrisk.data.tables import Bars, Depth, Source
from tailrisk.tails.measures import Estimate

MINUTE = 60_000_000
START = 1_700_000_000_000_000 // (60 * MINUTE) * (60 * MINUTE)


def source(count):
    return Source(np.zeros(count, np.int64), np.arange(count, dtype=np.int64), ("simulated",))


def bars(log_price, volume, buy=None, width=0.0, every=1):
    """Bars whose closes and ranges are given."""
    close = 100.0 * np.exp(log_price)
    opening = np.concatenate([[100.0], close[:-1]])
    high = np.maximum(opening, close) * np.exp(width)
    time = START + every * MINUTE * np.arange(close.size, dtype=np.int64)
    buy = np.full(close.size, np.nan) if buy is None else buy
    nothing = np.full(close.size, np.nan)
    low = np.minimum(opening, close)
    return Bars(time, opening, high, low, close, volume, nothing, buy, nothing, source(close.size))


def flow_history(prefactor, exponent, seed, days=2):
    """A market whose 15-minute returns are a power of its signed flow, and noise."""
    rng, n = np.random.default_rng(seed), days * 96
    share = 0.02 * rng.standard_normal(n)  # net flow over a day's volume
    volume = np.full(n, 1.0 / 96.0)  # of 15 minutes, over a day's
    move = prefactor * 0.03 * np.sign(share) * np.abs(share) ** exponent + 0.002 * rng.standard_normal(n)
    buy = 0.5 * (volume + share)
    return bars(np.cumsum(move), volume * 5_000.0, buy * 5_000.0, every=15), move


def test_the_prefactor_of_flow_is_found_again():
    """Y and the exponent are within 4 errors of the truth, and the errors are small enough to tell 1/2 from 1."""
    found, move = flow_history(1.3, 0.5, 0)
    sigma = float(np.sqrt(np.sum(move[1:] ** 2) / 2.0))  # per root of a day, as it is measured
    assert activity(found).volatility == pytest.approx(sigma, rel=1e-9)
    impact = flow_impact(found)
    truth = 1.3 * 0.03 / sigma
    assert abs(impact.prefactor.value - truth) < 4.0 * impact.prefactor.std_error
    assert impact.prefactor.std_error < 0.1 * truth
    assert abs(impact.exponent.value - 0.5) < 4.0 * impact.exponent.std_error
    assert impact.exponent.std_error < 0.1
    assert impact.windows == 192
    assert 0.5 < impact.explained < 1.0


def test_flow_needs_sides_and_windows():
    found, _ = flow_history(1.0, 0.5, 1)
    with pytest.raises(InputError, match="aggressive buyers"):
        flow_impact(bars(np.zeros(200), np.ones(200)))
    with pytest.raises(InputError, match="expected at least 50"):
        flow_impact(found, window="6h")


def test_pooling_markets():
    """Equal errors without spread give the mean and its error; a spread is found, and widens what another market may have."""
    same = pool([Estimate(v, 0.2, 0.0, 0.0) for v in (0.9, 1.0, 1.1)])
    assert same.mean.value == pytest.approx(1.0)
    assert same.mean.std_error == pytest.approx(0.2 / np.sqrt(3.0))
    assert same.between == 0.0
    rng = np.random.default_rng(0)
    wide = pool(
        [Estimate(v, 0.1, 0.0, 0.0) for v in 1.0 + 0.5 * rng.standard_normal(200) + 0.1 * rng.standard_normal(200)]
    )
    assert wide.between == pytest.approx(0.5, abs=4.0 * 0.5 / np.sqrt(400.0))
    assert wide.predicted[1] - wide.predicted[0] == pytest.approx(2.0 * 1.97 * wide.between, rel=0.02)
    with pytest.raises(InputError, match="at least 3"):
        pool([Estimate(1.0, 0.1, 0.0, 0.0)] * 2)


def test_resting_orders_give_their_curve():
    """A book with Y = 2 at every band by construction gives 2 and the exponent 1/2, whatever hour it is."""
    bands, n = (-0.04, -0.02, -0.01, 0.01), 480
    normal = activity(flow_history(1.0, 0.5, 2)[0])
    units = normal.volume * (np.abs(bands) / (2.0 * normal.volatility)) ** 2
    rng = np.random.default_rng(0)
    table = units * np.exp(0.1 * rng.standard_normal((n, 1)))
    time = START + 30_000_000 * np.arange(n, dtype=np.int64)
    found = book_impact(Depth(time, table, table * 100.0, source(n), bands), normal)
    for one in found.prefactor:
        assert one.low < 2.0 < one.high
        assert one.std_error < 0.02
    assert found.exponent.value == pytest.approx(0.5, abs=1e-6)


def depth_history(sensitivity, floor, rng, recovery=90.0):
    """Days of 5-minute bars; in the last, variance jumps and volume follows the law of `EvaporatingDepth`."""
    n, calm = 1_200, 900
    variance = np.full(n, 1e-6)
    variance[calm:] *= 1.0 + 40.0 * np.exp(-np.arange(n - calm) / 40.0)
    width = np.sqrt(variance * 4.0 * np.log(2.0)) * np.exp(0.1 * rng.standard_normal(n))
    level, seen = np.empty(n), 1e-6
    for i, value in enumerate(width**2 / (4.0 * np.log(2.0))):
        level[i] = seen
        seen += (1.0 - np.exp(-5.0 / 60.0)) * (value - seen)
    share = np.maximum(floor, np.exp(-sensitivity * np.maximum(level / 1e-6 - 1.0, 0.0)))
    volume = 1e9 * (width**2) * share * np.exp(0.1 * rng.standard_normal(n))
    return bars(np.zeros(n), volume, width=width, every=5)


def iso(i):
    return str(np.datetime64(START + 5 * MINUTE * i, "us"))


def test_evaporation_is_found_again():
    """Sensitivity and floor are within 4 errors of the truth; without an event before, the bars are refused."""
    history = depth_history(0.2, 0.08, np.random.default_rng(3))
    found = evaporation(history, iso(900), iso(1_200), draws=40)
    for estimate, truth in ((found.sensitivity, 0.2), (found.floor, 0.08)):
        assert abs(estimate.value - truth) < 4.0 * estimate.std_error
        assert estimate.std_error < 0.25 * truth
    assert found.reference == pytest.approx(np.sqrt(1e-6 * 365 * 288), rel=0.05)
    assert 0.05 < found.lowest < 0.12
    with pytest.raises(InputError, match="bars before"):
        evaporation(history, iso(50), iso(1_200))


def test_an_hour_stays_together_whatever_a_bar_is():
    """Resampled places run on by one within an hour of bars and start anew after it."""
    for every, block in ((1, 60), (5, 12), (60, 1), (1_440, 1)):
        table = bars(np.zeros(480), np.ones(480), every=every)
        place = _resampled(table, 480, np.random.default_rng(0))
        runs_on = np.diff(place) % 480 == 1
        within = np.arange(1, 480) % block != 0
        assert place.size == 480
        assert runs_on[within].all()
        assert not runs_on[~within].any() if block > 1 else runs_on.mean() < 0.05


def test_beliefs_are_distributions_over_books():
    """Draws scatter as asked; a positive tilt moves notional to high leverage; equal seeds give equal books."""
    belief = BookBelief(turnover=0.7)
    books = [belief.draw(np.random.default_rng(i), 1e9) for i in range(400)]
    logs = np.log([float(book.notional) for book in books])
    assert abs(logs.mean() - np.log(0.7e9)) < 4.0 * 0.4 / 20.0
    assert logs.std() == pytest.approx(0.4, abs=4.0 * 0.4 / np.sqrt(800.0))
    mean = np.mean([np.asarray(book.weights) for book in books], axis=0)
    assert mean.sum() == pytest.approx(1.0)
    assert tilted(np.array([0.5, 0.5]), np.array([2.0, 8.0]), 0.5)[1] == pytest.approx(2.0 / 3.0)
    again = belief.draw(np.random.default_rng(3), 1e9)
    np.testing.assert_array_equal(again.weights, books[3].weights)


def test_open_interest_of_a_published_fall():
    """50,000 BTC (to 500) that are 18.6 % (to 0.05 points) are 268,817 BTC with the error of both roundings."""
    value, error = open_interest((50_000.0, 500.0), (0.186, 0.0005))
    assert value == pytest.approx(268_817.2, abs=0.1)
    assert error == pytest.approx(value * np.hypot(0.01, 0.0005 / 0.186) / np.sqrt(3.0))
