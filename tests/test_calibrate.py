"""Fits of market laws: simulated truths are found again within their errors, and tables read back."""

from functools import cache

import numpy as np
import pytest
from command import BASE, invoke, put, refused
from conftest import ROOT

from tailrisk import calibrate
from tailrisk.book import AbstractBook
from tailrisk.data.series import PriceFile
from tailrisk.market import AbstractMarket
from tailrisk.study import calibrate as calibration
from tailrisk.study.config import read_toml, structure
from tailrisk.study.events import World
from tailrisk.study.posterior import overrides
from tailrisk.study.run import load

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


@pytest.mark.parametrize("name", LAWS)
def test_a_right_law_leaves_nothing(name):
    """Ranks under the right law are uniform and independent, out to the tails."""
    found, data, _ = fitted(name)
    good = calibrate.goodness(found, data)
    assert good.kolmogorov < 1.2 * good.uniform_error
    assert all(abs(value) < 2.0 * good.independent_error for value in good.left_over.values())
    assert all(abs(ratio - 1.0) < 4.0 / np.sqrt(0.001 * N) for ratio in good.tails.values())


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
    "btc_market": ('market.laws=["Merton","HawkesFilter"]', "market.series.start=2025-06-20T00:00:00", "market.rounds=1",
                   "market.months=20", "market.resamples=20"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_every_calibration_runs_on_real_data(name, tmp_path, market_data):
    """The published configs at a small size: tables, a report with every section, and figures."""
    if not (ROOT.parent / "shared" / "data").is_dir():
        pytest.skip("the configs name files under ../shared/data beside the checkout, which is not there")
    out = tmp_path / "out"
    result = invoke("calibrate", ROOT / "configs" / "calibrate" / f"{name}.toml", *SMALL[name], "--out", out)
    assert result.exit_code == 0, result.output
    assert (out / "report.md").read_text().count("| --- |") >= 1
    figures = {"events": 2, "btc_margins": 1, "btc_market": 1}.get(name, 0)
    assert len(list((out / "figures").glob("*.png"))) == figures if figures else True
    if name == "events":
        assert len((out / "overrides.txt").read_text().splitlines()) == 100
        validate_line = (out / "overrides.txt").read_text().splitlines()[0].split()
        assert load(ROOT / "configs" / "btc_perpetual.toml", tuple(validate_line)).scenario.book is not None
