"""Fits of market laws: simulated truths are found again within their errors, and tables read back."""

import importlib.util
import json
import re
from functools import cache

import numpy as np
import pytest
from command import BASE, invoke, put, refused
from conftest import ROOT
from scipy import stats

from tailrisk import calibrate
from tailrisk._fields import InputError
from tailrisk.book import AbstractBook
from tailrisk.calibrate.heston import fit_heston
from tailrisk.calibrate.likelihood import between
from tailrisk.data.series import PriceFile
from tailrisk.leaves import current
from tailrisk.market import AbstractMarket
from tailrisk.study import calibrate as calibration
from tailrisk.study import tune
from tailrisk.study.config import read_toml, structure
from tailrisk.study.events import World
from tailrisk.study.margin_task import GivenMargin
from tailrisk.study.posterior import overrides
from tailrisk.study.run import load, resolved

HOUR = 1.0 / 8760.0
N = 8_000


def compound(rng, n=N):
    """Hours of a Merton jump diffusion, drawn without the package."""
    number = rng.poisson(2600 * HOUR, n)
    growth = np.expm1(-0.002 + 0.5 * 0.012**2)
    center = -0.5 * 0.3**2 * HOUR - 2600 * HOUR * growth - 0.002 * number
    return center + 0.3 * np.sqrt(HOUR) * rng.standard_normal(n) + 0.012 * np.sqrt(number) * rng.standard_normal(n)


def double_exponential(rng, n=N):
    """Hours of a Kou jump diffusion, drawn without the package."""
    number = rng.poisson(3000 * HOUR, n)
    size = np.where(rng.random((n, 12)) < 0.4, rng.exponential(0.01, (n, 12)), -rng.exponential(0.014, (n, 12)))
    jumps = np.where(np.arange(12) < number[:, None], size, 0.0).sum(axis=1)
    growth = 0.4 * 0.01 / 0.99 - 0.6 * 0.014 / 1.014
    return jumps - (0.045 + 3000 * growth) * HOUR + 0.3 * np.sqrt(HOUR) * rng.standard_normal(n)


def student_garch(rng, n=N):
    """GARCH(1,1) with Student innovations, drawn without the package."""
    variance, out = 0.5**2 * HOUR, np.empty(n)
    for i, z in enumerate(rng.standard_t(6.0, n) * np.sqrt(4.0 / 6.0)):
        out[i] = np.sqrt(variance) * z
        variance = 0.5**2 * HOUR * 0.05 + 0.1 * out[i] ** 2 + 0.85 * variance
    return out


TRUTHS = {
    "Merton": (calibrate.Merton(), compound, dict(volatility=0.3, rate=2600, mean=-0.002, deviation=0.012, drift=0.0)),
    "Kou": (
        calibrate.Kou(),
        double_exponential,
        dict(volatility=0.3, rate=3000, up=0.4, up_mean=0.01, down_mean=0.014),
    ),
    "GarchT": (calibrate.GarchT(), student_garch, dict(volatility=0.5, reaction=0.1, persistence=0.85, degrees=6.0)),
}
WORST = {
    "mean": 0.3,
    "reaction": 0.2,
    "drift": 1.0,
}  # relative standard errors that a test is worth something with; else 0.1


LAWS = ["Merton", *(pytest.param(name, marks=pytest.mark.slow) for name in ("Kou", "GarchT"))]


@cache
def fitted(name):
    """A law fitted to its own truth: the fit, the history and the truth."""
    law, draw, truth = TRUTHS[name]
    data = calibrate.of_moves(draw(np.random.default_rng(7)), HOUR)
    return calibrate.fit(law, data), data, truth


@pytest.mark.parametrize("name", LAWS)
def test_a_truth_is_found_again(name):
    """Every number is within 4 standard errors of the truth, and the errors are small; both kinds of errors agree."""
    found, _, truth = fitted(name)
    for key, value in truth.items():
        estimate = found.estimates[key]
        assert abs(estimate.value - value) < 4.0 * estimate.std_error, key
        assert estimate.std_error < WORST.get(key, 0.1) * (abs(value) or 1.0), key
        assert estimate.low < estimate.value < estimate.high
    ratio = np.sqrt(np.diag(found.robust) / np.diag(found.covariance))
    assert np.all((ratio > 0.5) & (ratio < 2.0))  # the law is right here, so both are; 40 blocks give each 11 %


@pytest.mark.parametrize("limits", [(-np.inf, np.inf), (0.0, np.inf), (2.0, np.inf), (0.0, 1.0), (-1.0, 1.0)])
def test_intervals_stay_between_their_limits(limits):
    """Ends are value ± reach where the limits are far, and never beyond them; an infinite limit is one that is far away."""
    low, high = limits
    value = 0.5 * (max(low, -3.0) + min(high, 3.0))
    near = between(value, 1e-6, limits)
    np.testing.assert_allclose(near, (value - 1e-6, value + 1e-6), rtol=0.0, atol=1e-11)
    wide = between(value, 4.0, limits)
    assert low < wide[0] < value < wide[1] < high
    far = between(value, 0.1, tuple(np.clip(limits, -1e7, 1e7)))
    np.testing.assert_allclose(between(value, 0.1, limits), far, rtol=1e-6)


def test_errors_of_few_months_have_wider_quantiles():
    """40 parts of a short history give intervals of 2.02 errors, on the scale of a rate's logarithm."""
    found, data, _ = fitted("Merton")
    assert data.months == 40
    drift, rate = found.estimates["drift"], found.estimates["rate"]
    t = stats.t.isf(0.025, 39)
    assert (drift.high - drift.value) / drift.std_error == pytest.approx(t)
    assert rate.high == pytest.approx(rate.value * np.exp(t * rate.std_error / rate.value))
    assert rate.value / rate.low == pytest.approx(rate.high / rate.value)


def test_too_short_a_history_for_moments_is_refused():
    """Moments look 72 intervals back in each of 20 parts."""
    with pytest.raises(InputError, match=r"1000 returns, expected at least 5760"):
        fit_heston(calibrate.of_moves(np.zeros(1_000), HOUR))


@pytest.mark.parametrize("name", LAWS)
def test_a_right_law_leaves_nothing(name):
    """Ranks under the right law are uniform and independent, out to the tails."""
    found, data, _ = fitted(name)
    good = calibrate.goodness(found, data)
    assert good.kolmogorov < 1.2 * good.uniform_error
    assert all(abs(value) < 2.0 * good.independent_error for value in good.left_over.values())
    for where, ratio in good.tails.items():
        expected = N * (0.001 if "0.1%" in where or "99.9%" in where else 0.01)
        low, high = stats.poisson.ppf((5e-4, 1.0 - 5e-4), expected)
        assert low <= ratio * expected <= high, where
        assert low > 0, where  # or no returns there at all would pass


def test_a_wrong_law_leaves_something():
    """A normal law of the same deviation is told by its distance, and by what lies beyond its quantiles of 0.1 %."""
    found, data, _ = fitted("Merton")
    rank = stats.norm.cdf(data.moves, data.moves.mean(), data.moves.std())
    good = calibrate.goodness(found._replace(rank=rank), data)
    assert good.kolmogorov > 2.0 * good.uniform_error
    assert min(good.tails["below 0.1%"], good.tails["above 99.9%"]) > 2.5
    stormy = data.moves * (1.0 + np.sin(np.arange(N) / 100.0))
    rank = stats.norm.cdf(stormy, stormy.mean(), stormy.std())
    assert min(calibrate.goodness(found._replace(rank=rank), data).left_over.values()) > 4.0 * good.independent_error


@pytest.mark.slow
def test_the_right_law_wins():
    """The likelihood ratio of a truth with clusters speaks against independent returns, and is antisymmetric."""
    garch, data, _ = fitted("GarchT")
    merton = calibrate.fit(calibrate.Merton(), data)
    one, other = calibrate.contest(garch, merton, data), calibrate.contest(merton, garch, data)
    assert one.z > 3.0
    assert one.bic_gain > 100.0
    assert one.statistic == -other.statistic
    assert one.z == pytest.approx(-other.z)


def test_gaps_are_not_returns(tmp_path):
    """Returns into and out of a gap are not seen, and do not enter the likelihood."""
    rows = [f"{(i + (i > 60) * 5) * 3_600_000},{100.0 + i % 7}" for i in range(150)]
    series = PriceFile(put(tmp_path, "p.csv", "open_time,close\n" + "\n".join(rows) + "\n"), missing="mark")
    data = calibrate.returns(series)
    assert data.moves.size == 154
    assert data.seen.sum() == 148
    assert not data.seen[60:66].any()
    assert data.every == pytest.approx(HOUR)
    longer = calibrate.thinned(data, 2)
    assert longer.seen.sum() == 77 - 3
    np.testing.assert_allclose(longer.moves[0], data.moves[:2].sum())


def prices(tmp_path, moves):
    closes = 30_000.0 * np.exp(np.concatenate([[0.0], np.cumsum(moves)]))
    rows = "\n".join(f"{i * 3_600_000},{close!r}" for i, close in enumerate(closes.tolist()))
    return put(tmp_path, "prices.csv", f"open_time,close\n{rows}\n")


def read_back(tmp_path):
    return PriceFile(tmp_path / "prices.csv").load()[1][:, 0]


CONFIG = """
source = "a simulated history"
[market]
laws = ["Merton"]
months = 10
resamples = 20
[market.series]
kind = "PriceFile"
path = "prices.csv"
"""


def test_the_command_writes_a_market_that_runs(tmp_path):
    """`tailrisk calibrate` gives a table that a scenario includes, with intervals as comments, a report and a figure."""
    _, data, _ = fitted("Merton")
    prices(tmp_path, data.moves)
    config, out = put(tmp_path, "c.toml", CONFIG), tmp_path / "out"
    result = invoke("calibrate", config, "--out", out)
    assert result.exit_code == 0, result.output
    assert "| Merton | rate |" in (out / "report.md").read_text()
    assert (out / "figures" / "market.png").stat().st_size > 10_000
    text = (out / "market.toml").read_text()
    low, high = text.split("rate = ")[1].split("# ")[1].split(",")[0].split(" to ")
    assert float(low) < 2600.0 < float(high)
    scenario = tmp_path / "scenario.toml"
    venue = ROOT / "configs" / "venues" / "binance_usdm_btc_2025-09-29.toml"
    own = BASE.read_text().partition("include")[2].partition("\n")[2]
    kept = own.partition("[market]")[0] + "[book]" + own.partition("[book]")[2]
    scenario.write_text(f"include = ['{venue}', 'out/market.toml']\n{kept}")
    there = load(scenario).scenario
    np.testing.assert_allclose(float(there.market.jumps.rate), fitted("Merton")[0].values["rate"], rtol=1e-3)
    assert there.build().steps == load(BASE).scenario.steps


def test_bad_calibrations_are_refused(tmp_path):
    """Every complaint is one line that names its key."""
    prices(tmp_path, compound(np.random.default_rng(1), 50))
    config = put(tmp_path, "c.toml", CONFIG)
    out = tmp_path / "out"
    refused(invoke("calibrate", config, "--out", out), "50 returns, expected at least 100")
    refused(invoke("calibrate", config, "market.laws=[]", "--out", out), "market.laws", "at least one")
    refused(invoke("calibrate", config, "market.choose=Kuo", "--out", out), "market.choose", "Merton")
    refused(invoke("calibrate", config, 'market.laws=["Mertn"]', "--out", out), "Mertn", "Merton")
    refused(invoke("calibrate", config, "market.series.path=no.csv", "--out", out), "no.csv", "no such file")
    refused(invoke("calibrate", put(tmp_path, "e.toml", 'source = "x"\n'), "--out", out), "nothing to do")


def test_a_bad_print_is_no_return(tmp_path):
    """A price that halves for one interval is refused; one that stays there is a market, and one that is lost is a gap."""

    def series(move):
        price = 100.0 * np.exp(np.cumsum(0.001 * np.random.default_rng(2).standard_normal(200)))
        rows = [f"{i * 3_600_000},{p!r}" for i, p in enumerate(move(price).tolist()) if p]
        return PriceFile(put(tmp_path, "p.csv", "open_time,close\n" + "\n".join(rows) + "\n"), missing="mark")

    number = np.arange(200)
    with pytest.raises(InputError, match=r"1970-01-05 04:00:00 is undone at the next, 1 such"):
        calibrate.returns(series(lambda p: np.where(number == 100, 0.4 * p, p)))
    assert calibrate.returns(series(lambda p: np.where(number >= 100, 0.4 * p, p))).seen.sum() == 199
    assert calibrate.returns(series(lambda p: np.where(number == 100, 0.0, p))).seen.sum() == 197


def test_margins_of_a_policy_are_judged_as_they_stand(tmp_path):
    """A `policy.toml`, which is a resolved scenario, gives two rules that cover what its first tier covers."""
    moves = compound(np.random.default_rng(3), 1_200)
    prices(tmp_path, moves)
    put(tmp_path, "policy.toml", "# Certified\n\n" + resolved(load(ROOT / "tests" / "tune.toml")))
    part = CONFIG.partition("[market]")[0] + "[margins]\nevery = 1\ntrain = 600\nhistories = 1_000\n"
    part += '[margins.series]\nkind = "PriceFile"\npath = "prices.csv"\n'
    part += '[[margins.policies]]\nname = "policy"\npath = "policy.toml"\nnotional = 1e4\n'
    config, out = put(tmp_path, "m.toml", part), tmp_path / "out"
    result = invoke("calibrate", config, "--out", out)
    assert result.exit_code == 0, result.output
    found = json.loads((out / "calibration.json").read_text())["margins"]
    assert (found["periods"], found["period_days"]) == (1_200, pytest.approx(1.0 / 24.0))
    assert list(found["rules"])[:2] == ["flat", "EWMA"]
    for kind, rate in (("initial", 0.025), ("maintenance", 0.01)):
        rule = found["rules"][f"policy, {kind}"]
        assert rule["mean_margin"] == pytest.approx(rate)
        assert rule["coverage"]["value"] == np.mean(np.abs(np.diff(np.log(read_back(tmp_path))))[600:] <= rate)
    assert "| policy, maintenance |" in (out / "report.md").read_text()
    refused(invoke("calibrate", config, "margins.block=700", "--out", out), "margins.block = 700", "half of the 600")
    refused(invoke("calibrate", config, "margins.policies.0.path=polcy.toml", "--out", out), "no such config file")
    put(tmp_path, "policy.toml", "price = [1.0]\n")
    refused(invoke("calibrate", config, "--out", out), "policy.toml", "no table [margin]")


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "calibrate").glob("*.toml")), ids=lambda p: p.stem)
def test_every_calibration_config_is_valid(path):
    """Each config builds its typed tree, whether or not its data are there."""
    assert calibration.load(path).source


@pytest.mark.parametrize("kind", ["market", "book"])
def test_calibrated_tables_are_valid(kind):
    """Every file of configs/markets and configs/books is a table that a scenario takes, and says where it comes from."""
    files = sorted((ROOT / "configs" / f"{kind}s").glob("*.toml"))
    assert files
    for file in files:
        assert structure(read_toml(file)[kind], {"market": AbstractMarket, "book": AbstractBook}[kind], kind)
        assert "tailrisk calibrate configs/calibrate/" in file.read_text()


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "policies").glob("*.toml")), ids=lambda p: p.stem)
def test_a_committed_policy_runs_and_can_be_judged(path):
    """A policy is a scenario, says by which search it was found, and has margins for a position of any size."""
    text = path.read_text()
    config = re.search(r"tailrisk tune (configs/\w+\.toml)", text).group(1)
    tuned = tune.load(ROOT / config)[2].variables
    scenario = load(path).scenario
    assert {variable.name for variable in tuned} >= {"margin.maintenance_rates", "margin.initial_rates"}
    for variable in tuned:
        value = current(scenario, variable.name)
        if variable.name != "margin.initial_rates":  # a leverage in the file
            np.testing.assert_allclose(value, np.round(value / variable.grid) * variable.grid, rtol=1e-9)
    margin = GivenMargin("it", path).read()
    size = np.array([1e5])
    assert margin.maintenance(size) < margin.initial(size) < size


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("replay.events.0.start=2020-03-12T25:00:00", "replay.events[0].start"),
        ("posterior.event=5 August 2024", "posterior.event: 5 August 2024 has no liquidated_share"),
        ("posterior.event=Monday", "posterior.event: 'Monday' is none of the events"),
    ],
)
def test_events_that_cannot_be_played_are_named_at_once(override, said, tmp_path):
    config = ROOT / "configs" / "calibrate" / "events.toml"
    refused(invoke("calibrate", config, override, "--out", tmp_path / "out"), said)


def test_the_calibrated_scenario_is_the_main_job_with_both_tables():
    """Market and book are those of the files, word for word; all else but the fund is that of `btc_perpetual.toml`."""
    folder = ROOT / "configs"
    ours, main = read_toml(folder / "btc_calibrated.toml"), read_toml(folder / "btc_perpetual.toml")
    assert ours.pop("market") == read_toml(folder / "markets" / "btc_2026-06.toml")["market"]
    book = ours.pop("book")
    assert book == read_toml(folder / "books" / "btc_2025-10.toml")["book"]
    assert ours.pop("waterfall") == main.pop("waterfall") | {"fund": 0.005 * book["notional"]}
    assert ours == {key: value for key, value in main.items() if key not in ("market", "book")}


def test_a_world_is_a_line_of_overrides():
    """A draw of a posterior goes to the command line as it stands, and a tilt moves notional to high leverage."""
    wanted = calibration.load(ROOT / "configs" / "calibrate" / "events.toml").replay
    world = World(0.9, 0.3, 0.4, 0.5, 0.1, 6.0, 2.0, 0.7)
    line = overrides(world, wanted).split()
    there = load(BASE, tuple(line)).scenario
    assert float(there.impact.prefactor) == 0.9
    assert float(there.impact.depth.crash_loss) == 0.4
    assert float(there.impact.memory) * 8760.0 == pytest.approx(2.0)
    assert float(there.book.weights[-1]) > 0.05
    assert float(there.book.weights.sum()) == pytest.approx(1.0, abs=1e-5)


def test_a_book_from_facts(tmp_path):
    """`[book]` alone needs no file: notional is 2 exposed units share price, with the error of its published parts."""
    out = tmp_path / "out"
    result = invoke(
        "calibrate", ROOT / "configs" / "calibrate" / "book_2025-10.toml", "book.exposed=0.25", "--out", out
    )
    assert result.exit_code == 0, result.output
    book = structure(read_toml(out / "book.toml")["book"], AbstractBook, "book")
    expected = 2.0 * 0.25 * 50_000.0 / 0.186 * 0.385 * 116_830.0
    assert float(book.notional) == pytest.approx(expected, rel=2e-3)
    assert "share of notional at leverage 50" in (out / "report.md").read_text()
    refused(
        invoke("calibrate", ROOT / "configs" / "calibrate" / "book_2025-10.toml", "book.fall=[1.0]", "--out", out),
        "book.fall",
    )


SMALL = {
    "events": ("replay.draws=20", "posterior.draws=400", "posterior.truths=50"),
    "impact_2025-10": (),
    "correlations": (),
    "btc_margins": (),
    "btc_margins_hourly": ("margins.histories=1000",),
    "sp500_margins": ("margins.histories=2000",),
    "btc_market": ('market.laws=["Merton","HawkesFilter"]', "market.series.start=2025-06-20T00:00:00", "market.indirect=true",
                   "market.months=20", "market.resamples=20"),
}  # fmt: skip


WRITTEN = {  # tables of the report, figures
    "events": (3, {"events", "posterior"}),
    "impact_2025-10": (3, set()),
    "correlations": (2, set()),
    "btc_margins": (1, {"margins"}),
    "btc_margins_hourly": (1, {"margins"}),
    "sp500_margins": (1, {"margins"}),
    "btc_market": (4, {"market"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_every_calibration_runs_on_real_data(name, tmp_path):
    """The published configs at a small size: tables, a report with every section, and figures."""
    if name == "sp500_margins":
        if importlib.util.find_spec("skfolio") is None:
            pytest.skip(
                "the S&P 500 is a file of the package skfolio, which is not installed; it is in the extra notebooks"
            )
    elif not (ROOT.parent / "shared" / "data").is_dir():
        pytest.skip("the configs name files under ../shared/data beside the checkout, which is not there")
    out = tmp_path / "out"
    result = invoke("calibrate", ROOT / "configs" / "calibrate" / f"{name}.toml", *SMALL[name], "--out", out)
    assert result.exit_code == 0, result.output
    tables, figures = WRITTEN[name]
    assert (out / "report.md").read_text().count("\n| --- |") == tables
    assert {file.stem for file in (out / "figures").glob("*.png")} == figures
    if name == "events":
        assert len((out / "overrides.txt").read_text().splitlines()) == 100
        validate_line = (out / "overrides.txt").read_text().splitlines()[0].split()
        assert load(ROOT / "configs" / "btc_perpetual.toml", tuple(validate_line)).scenario.book is not None
