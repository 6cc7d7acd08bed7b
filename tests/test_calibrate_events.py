"""Posteriors, replays, margin rules and correlations: known answers, and the check that a posterior is calibrated."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

from tailrisk import calibrate
from tailrisk._fields import InputError
from tailrisk.calibrate import margins
from tailrisk.calibrate import posterior as law
from tailrisk.calibrate.books import BookBelief
from tailrisk.calibrate.correlation import PairRegimes, by_volatility
from tailrisk.calibrate.posterior import posterior, simulation_based_check
from tailrisk.margin import Brackets, VolatilityScaled
from tailrisk.study import events
from tailrisk.study.bars import BarsFile

HOUR = 1.0 / 8760.0
SINCE = 1_600_000_200  # seconds, a whole five minutes


def linear_world(count=20_000):
    """Normal parameters and statistics that are sums of them, so that the posterior is known."""
    draws = np.random.default_rng(0).standard_normal((count, 2))
    return draws, np.column_stack([draws[:, 0] + draws[:, 1], draws[:, 0]])


def test_a_normal_posterior_is_right():
    """Means, deviations and intervals of the conjugate posterior, within the error of the effective draws."""
    draws, statistics = linear_world()
    a, error, seen = np.array([[1.0, 1.0], [1.0, 0.0]]), np.array([0.5, 0.4]), np.array([1.0, 0.8])
    precision = np.eye(2) + a.T @ np.diag(error**-2) @ a
    truth, covariance = np.linalg.solve(precision, a.T @ (seen / error**2)), np.linalg.inv(precision)
    found = posterior(draws, statistics, seen, error, ("x", "y"))
    assert found.effective > 1_000.0
    for k, name in enumerate(("x", "y")):
        deviation = float(np.sqrt(covariance[k, k]))
        assert abs(found.estimates[name].value - truth[k]) < 4.0 * deviation / np.sqrt(found.effective)
        assert found.estimates[name].std_error == pytest.approx(deviation, rel=4.0 / np.sqrt(2.0 * found.effective))
        assert found.estimates[name].low == pytest.approx(truth[k] - 1.96 * deviation, abs=0.1)
    rows = found.sample(draws, 4_000, seed=1)
    assert abs(rows[:, 0].mean() - truth[0]) < 0.05


def test_ranks_are_uniform_and_a_wrong_error_is_seen(monkeypatch):
    """The simulation-based check passes for the right posterior; one that thinks it knows twice as well fails it."""
    draws, statistics = linear_world(4_000)
    error, names = np.array([0.5, 0.4]), ("x", "y")
    right = simulation_based_check(draws, statistics, error, names, truths=300)
    assert min(right.p_values.values()) > 1e-3
    assert right.ranks.min() >= 0.0
    assert right.ranks.max() <= 1.0
    weights = law._weights
    monkeypatch.setattr(law, "_weights", lambda statistics, seen, error: weights(statistics, seen, 0.5 * error))
    wrong = simulation_based_check(draws, statistics, error, names, truths=300)
    assert min(wrong.p_values.values()) < 1e-4


def test_what_never_happens_is_refused():
    draws, statistics = linear_world(1_000)
    with pytest.raises(InputError, match="draws are effective"):
        posterior(draws, statistics, np.array([9.0, -9.0]), np.array([0.1, 0.1]), ("x", "y"))


def volatile_days(rng, days=2_600):
    """Daily returns whose volatility moves slowly."""
    level = np.empty(days)
    level[0] = 0.0
    for i, z in enumerate(rng.standard_normal(days - 1)):
        level[i + 1] = 0.97 * level[i] + 0.15 * z
    return 0.03 * np.exp(level) * rng.standard_normal(days), 0.03 * np.exp(level)


SETTINGS = margins.Settings(train=1_200, histories=2_000)


def test_a_right_margin_passes_and_a_thin_one_does_not():
    """With the true volatility coverage is 99 % and no test rejects; a margin that does not move fails on clusters."""
    moves, truth = volatile_days(np.random.default_rng(2))
    right = margins.judge("true", moves, truth, SETTINGS)
    assert right.coverage.low < 0.99 < right.coverage.high
    assert min(right.p_values.values()) > 0.01
    flat = margins.judge("flat", moves, np.full(moves.size, moves[:1_200].std()), SETTINGS)
    assert flat.p_values["christoffersen independence"] < 0.01
    assert flat.peak_to_trough == 1.0
    assert flat.largest_call == 0.0
    assert right.peak_to_trough > 2.0
    margin = right.multiple * truth[1_200:]
    assert right.largest_call == pytest.approx((margin[5:] - margin[:-5]).max())
    over = np.maximum(np.abs(moves[1_200:]) - margin, 0.0)
    assert right.uncovered.value == pytest.approx(over.mean())
    assert right.uncovered.low < right.uncovered.value < right.uncovered.high
    with pytest.raises(InputError, match="train"):
        margins.judge("short", moves, truth, SETTINGS._replace(train=100))
    with pytest.raises(InputError, match="block = 1000"):
        margins.judge("short", moves, truth, SETTINGS._replace(block=1_000))


def test_a_given_margin_is_not_fitted():
    """The true 99 % quantile passes as it stands; nine tenths of it is refused for its coverage and its shortfall."""
    moves, truth = volatile_days(np.random.default_rng(2))
    margin = truth * stats.norm.isf(0.005)
    right = margins.judge("right", moves, margin, SETTINGS, 1.0)
    thin = margins.judge("thin", moves, 0.8 * margin, SETTINGS, 1.0)
    assert right.multiple == thin.multiple == 1.0
    assert thin.coverage.value == np.mean(np.abs(moves[1_200:]) <= 0.8 * margin[1_200:])
    assert min(right.p_values.values()) > 0.01
    assert max(thin.p_values[name] for name in ("kupiec", "acerbi_szekely_2")) < 1e-3


def test_margins_as_they_stand():
    """A table charges its tiers; one that follows the market knows the periods before, and no more."""
    moves = 0.02 * np.random.default_rng(1).standard_normal(40)
    table = Brackets(floors=[0.0, 1e5], maintenance_rates=[0.01, 0.02], max_leverage=[50.0, 20.0])
    found = margins.as_it_stands(table, moves, 1.0 / 365.0, 2e5)
    assert found["initial"].tolist() == pytest.approx([0.05] * 40)
    assert found["maintenance"].tolist() == pytest.approx([0.015] * 40)
    moving = VolatilityScaled(base=table, reference=0.7, half_life="10d", floor=0.0)
    keep, variance, level = 2.0**-0.1, 0.49, []
    for move in moves:
        level.append(np.sqrt(variance) / 0.7)
        variance = keep * variance + (1.0 - keep) * 365.0 * move**2
    found = margins.as_it_stands(moving, moves, 1.0 / 365.0, 2e5)
    np.testing.assert_allclose(found["maintenance"], 0.015 * np.array(level), rtol=1e-6)
    two = Brackets(floors=[[0.0], [0.0]], maintenance_rates=[[0.01], [0.02]], max_leverage=[[50.0], [20.0]])
    with pytest.raises(InputError, match="rows for 2 assets"):
        margins.as_it_stands(two, moves, 1.0 / 365.0, 2e5)


def test_tools_calm_a_margin():
    """Each tool of EMIR lowers peak over trough of the plain rule, whose charge is the weighted mean of squares."""
    moves, _ = volatile_days(np.random.default_rng(4))
    charged = margins.rules(moves, SETTINGS)
    swing = {name: s[1_200:].max() / s[1_200:].min() for name, s in charged.items()}
    plain = swing.pop("EWMA")
    assert all(value < plain for value in swing.values())
    weights = 0.5 ** (np.arange(400) / 20.0) * (1.0 - 0.5 ** (1.0 / 20.0))
    np.testing.assert_allclose(charged["EWMA"][1_000] ** 2, weights @ moves[999:599:-1] ** 2, rtol=1e-3)


def crash_of(tmp_path, fall=0.1):
    """A table of bars with a calm day, a fall in steps, one large step, and a way back."""
    rng = np.random.default_rng(0)
    calm = 0.001 * rng.standard_normal(300)
    event = np.concatenate([np.full(6, -0.3 * fall / 6), [-0.7 * fall], np.full(12, 0.05 * fall), np.zeros(10)])
    price = 50_000.0 * np.exp(np.concatenate([np.cumsum(calm) - calm.sum(), np.cumsum(event)]))
    rows = "\n".join(
        f"{(SINCE + i * 300) * 1_000},{p!r},{p!r},{p!r},{p!r},1000.0" for i, p in enumerate(price.tolist())
    )
    file = tmp_path / "bars.csv"
    file.write_text(f"open_time,open,high,low,close,volume\n{rows}\n")
    start = str(np.datetime64(SINCE + 300 * 300, "s"))
    return events.Event(name="a crash", bars=BarsFile(path=str(file)), start=start)


def test_an_event_is_measured_before_and_in_it(tmp_path):
    """Volume and volatility are those before the start; the onset is the bar of the largest fall; facts are exact."""
    crash = events.read(crash_of(tmp_path), 2)
    assert crash.volume == pytest.approx(288_000.0)
    assert crash.volatility == pytest.approx(0.001 * np.sqrt(288.0), rel=4.0 / np.sqrt(600.0))
    assert crash.onset == 6
    facts = events.measures_of(crash.log_price)
    assert facts["drop"] == pytest.approx(1.0 - np.exp(-0.1))
    assert facts["worst hour"] == pytest.approx(facts["drop"])
    assert facts["minutes to recover half"] == 50.0
    assert facts["rebound"] == pytest.approx(0.6)
    assert np.isnan(crash.gap)


def test_the_gap_of_a_real_mark(tmp_path):
    """The largest mark over last price at bars that close together, as a share of the last price."""
    event = crash_of(tmp_path)
    header, *rows = (tmp_path / "bars.csv").read_text().split()
    cells = [row.split(",") for row in rows]
    low = min(float(row[4]) for row in cells)
    lines = [",".join([row[0], *[repr(float(row[4]) + 300.0 * (float(row[4]) == low))] * 4]) for row in cells]
    (tmp_path / "marks.csv").write_text("\n".join([header.removesuffix(",volume"), *lines]) + "\n")
    event = dataclasses.replace(event, marks=BarsFile(path=str(tmp_path / "marks.csv")))
    assert events.read(event, 2).gap == pytest.approx(300.0 / low)
    short = dataclasses.replace(event, marks=BarsFile(path=str(tmp_path / "marks.csv"), end=event.start))
    with pytest.raises(InputError, match=r"marks\.csv: bars are missing"):
        events.read(short, 2)


def test_a_mark_averages_the_basis():
    """A basis that opens evenly over one bar leaves half of it in an average over that bar, a quarter over half of it."""
    news = np.array([0.0, -0.1, -0.1, -0.1])
    price = news + np.array([0.0, 0.0, -0.08, -0.08])
    half = 0.5 * (1.0 - 1.0 / 30.0)  # of 30 points
    assert events.mark_above_last(price, news, 5.0) == pytest.approx(np.expm1(0.08 * half))
    assert events.mark_above_last(price, news, 2.5) == pytest.approx(np.expm1(0.04 * half))
    assert events.mark_above_last(price, news, 10.0) > events.mark_above_last(price, news, 5.0)
    assert events.mark_above_last(news, news, 2.5) == 0.0  # what moves the index moves the mark
    assert events.mark_above_last(news + 0.08, news, 2.5) == 0.0  # here the last price is above


@pytest.fixture
def play(tmp_path):
    """Plays a crash of a fifth in one world, with changes to it."""
    crash = events.read(crash_of(tmp_path, 0.2), 2)
    margin = Brackets(floors=[0.0], maintenance_rates=[0.01], max_leverage=[50.0])
    wanted = events.Replays(
        events=(crash.event,), book=BookBelief(turnover=0.7, accounts=200), margin=margin, hours=2, draws=20
    )
    world = events.draw_world(wanted.belief, wanted.book, np.random.default_rng(0))

    def play(*, leverage=None, observed=False, **change):
        book = wanted.book
        if leverage is not None:
            book = dataclasses.replace(book, leverages=np.array([1.0, leverage]), weights=np.array([0.5, 0.5]))
        there = dataclasses.replace(wanted, book=book)
        scenario = events.scenario_of(crash, there, world._replace(**change), np.random.default_rng(1), observed)
        return events.play(scenario, 0, 2.5)

    return play


@pytest.mark.slow
def test_worlds_forecast_the_event(play):
    """Without leverage the forecast is the news alone; with it the fall is larger, equal draws give equal numbers, and a part
    of the rest that goes on as news adds to the fall.
    """
    alone, caught = play(leverage=1.1), play()
    assert alone["drop"] == pytest.approx(1.0 - np.exp(-0.06), abs=1e-5)
    assert caught["drop"] > alone["drop"] + 0.001
    assert caught["liquidated share"] > 0.0
    assert alone["mark above last"] == pytest.approx(0.0, abs=1e-6)
    assert caught["mark above last"] > 1e-4
    assert play() == caught
    assert play(news=0.5)["drop"] > caught["drop"]


@pytest.mark.slow
def test_worlds_attribute_the_event(play):
    """Without leverage nothing of the real fall is the cascade's; with it some is, and more so with more impact."""
    assert play(leverage=1.1, observed=True)["part of the cascade"] == pytest.approx(0.0, abs=1e-5)
    some, more = play(observed=True, prefactor=0.5), play(observed=True, prefactor=1.5)
    assert 0.0 < some["part of the cascade"] < more["part of the cascade"] < 1.0
    assert some["amplification"] == pytest.approx(1.0 / (1.0 - some["part of the cascade"]), rel=1e-5)


def two_regimes(rng, n=12_000):
    """Two assets in a hidden chain: correlation 0.5 in calm, 0.9 in crash, drawn without the package."""
    switch, crash = rng.random(n), np.zeros(n, bool)
    for i in range(1, n):
        crash[i] = switch[i] < (0.95 if crash[i - 1] else 0.02)
    x, y = rng.standard_normal((2, n))
    rho = np.where(crash, 0.9, 0.5)
    sd = np.where(crash, 0.012, 0.004)
    return np.column_stack([sd * x, 1.5 * sd * (rho * x + np.sqrt(1.0 - rho**2) * y)]), crash


def test_correlations_by_earlier_volatility():
    """Correlations after calm and after storms come apart as those of the regimes do; each return is in one bucket."""
    moves, _ = two_regimes(np.random.default_rng(1))
    buckets = by_volatility(calibrate.Returns(moves, np.ones(len(moves), bool), HOUR, "", ""))
    assert buckets[0].correlation + 0.1 < buckets[-1].correlation
    assert all(b.ci95[0] < b.correlation < b.ci95[1] for b in buckets)
    assert sum(b.returns for b in buckets) == len(moves) - 24


@pytest.mark.slow
def test_correlations_of_calm_and_crash_are_found_again():
    """Both correlations and the rise are within 4 errors of the truth."""
    moves, _ = two_regimes(np.random.default_rng(1))
    data = calibrate.Returns(moves, np.ones(len(moves), bool), HOUR, "", "")
    found = calibrate.fit(PairRegimes(), data)
    for key, truth in (("correlation", 0.5), ("crash_correlation", 0.9), ("correlation_rise", 0.4)):
        estimate = found.estimates[key]
        assert abs(estimate.value - truth) < 4.0 * estimate.std_error, key
        assert estimate.std_error < 0.03
    assert stats.pearsonr(*moves.T)[0] > found.values["correlation"]
