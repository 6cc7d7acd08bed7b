"""Published figures: what their frame writes and how it judges, and every experiment at a tiny size."""

import csv
import json
import shutil

import numpy as np
import pytest
from command import invoke, refused
from conftest import ROOT, data_folder
from matplotlib.image import imread

from tailrisk.figures import published as drawn
from tailrisk.figures import style
from tailrisk.study import observed, published
from tailrisk.study.observed import Curve, curve, exact, judged, sampled, status

EXPERIMENTS = ROOT / "experiments"

COIN = '''"""How often does a coin land heads?

Only here to be thrown.
"""

import equinox as eqx
import numpy as np

from tailrisk._fields import Real, count, real
from tailrisk.figures import published as drawn
from tailrisk.figures import style
from tailrisk.study.observed import curve, sampled
from tailrisk.study.published import DataFile

DATA = (DataFile("coins/odds.csv", "CC0", "2026-01-01", "the mint"),)


class Config(eqx.Module):
    chance: Real = real(unit="1", least=0.0, most=1.0)
    claimed: Real = real(unit="1", least=0.0, most=1.0)
    throws: int = count(least=2)


def main(config, setting):
    heads = np.random.default_rng(setting.seed).random(config.throws) < float(config.chance)
    mean, error = heads.mean(), heads.std(ddof=1) / heads.size**0.5
    setting.report("thrown")
    return {
        ("coin", "heads"): curve([0.0, 1.0], [1.0 - mean, mean], error, unit="1", paths=heads.size),
        ("coin", "claimed"): curve(1.0, float(config.claimed), unit="1"),
    }


def checks(found):
    heads = found["coin", "heads"]
    few = "too few throws" if heads.paths[0] < 100 else ""
    yield sampled("heads", found["coin", "claimed"].y[0], heads.y[1], heads.se[1], "the owner of the coin", refused=few)


def draw(found):
    """A bar of 95 % for each side."""
    figure, (axes,) = style.new_figure()
    here = found["coin", "heads"]
    axes.errorbar(here.x, here.y, 1.96 * here.se)
    return figure
'''
CONFIG = "chance = 0.5\nclaimed = 0.5\nthrows = 4000\n[smoke]\nthrows = 400\n[cost]\nsmoke = '1 s'\nfull = '2 s'\n"


@pytest.fixture
def coin(tmp_path):
    """A folder of experiments with one figure; returns a command on it with its usual options."""
    for name, text in (
        ("experiments/two_coins.py", COIN),
        ("configs/figures/two_coins.toml", CONFIG),
        ("data/coins/odds.csv", "1\n"),
    ):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def run(*words, name="two-coins"):
        folders = ("--experiments", tmp_path / "experiments", "--data", tmp_path / "data", "--out", tmp_path / "out")
        return invoke("figure", name, *words, *folders)

    run.folder = tmp_path
    return run


def test_files_of_a_figure(coin):
    """Table, manifest and pictures; the manifest says how the numbers came about."""
    done = coin("--smoke", "--seed", "3")
    assert done.exit_code == 0, done.output
    assert "two-coins         PASSED   1 of 1 checks" in done.output
    out = coin.folder / "out"
    assert {file.name for file in out.iterdir()} == {f"two-coins.{end}" for end in ("csv", "json", "md", "pdf", "png")}
    with open(out / "two-coins.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == observed.COLUMNS
    assert [row["series"] for row in rows] == ["heads", "heads", "claimed"]
    assert (rows[0]["n_paths"], rows[0]["unit"]) == ("400", "1")
    found = json.loads((out / "two-coins.json").read_text())
    assert found["question"] == "How often does a coin land heads?"
    assert found["status"] == "PASSED"
    assert found["command"] == "tailrisk figure two-coins --smoke --seed 3 --precision f64"
    assert (found["mode"], found["seed"], found["precision"]) == ("smoke", 3, "float64")
    assert (found["config"]["throws"], found["paths"]) == (400, {"coin/heads": 400})
    assert {"commit", "clean", "versions", "python", "device", "platform", "wall_seconds", "config_sha256"} < set(found)
    (data,) = found["data"]
    assert (data["path"], data["licence"], data["date"], len(data["sha256"])) == (
        "coins/odds.csv",
        "CC0",
        "2026-01-01",
        64,
    )
    (row,) = found["reference"]
    assert set(row) == {"id", "expected", "obtained", "tolerance", "deviation/tolerance", "pass", "provenance"}
    assert found["max_deviation"] == row["deviation/tolerance"] == abs(row["obtained"] - 0.5) / row["tolerance"] < 1.0
    picture = imread(out / "two-coins.png")
    assert picture.shape[1] == 3.4 * 200
    assert (out / "two-coins.md").read_text().split("\n\n") == [
        "# two-coins",
        "**How often does a coin land heads?**",
        "Only here to be thrown.",
        "A bar of 95 % for each side.",
        f"Made by `{found['command']}` at commit {str(found['commit'])[:12]}; at most 400 paths a point.",
        "## Where references and data come from",
        f"* the owner of the coin (1 check)\n* data: coins/odds.csv of the mint (CC0; 2026-01-01), sha256 {data['sha256']}\n",
    ]


def test_a_figure_redraws_to_the_same_bytes(coin):
    """From its table alone: the experiment may not even be able to run."""
    assert coin("--smoke").exit_code == 0
    out = coin.folder / "out"
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    (out / "two-coins.png").unlink()
    experiment = coin.folder / "experiments" / "two_coins.py"
    experiment.write_text(COIN.replace("heads = np", "raise AssertionError; heads = np"))
    assert coin("--redraw").exit_code == 0
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before


@pytest.mark.parametrize(
    ("change", "code", "word", "reason"),
    [
        ("claimed = 0.5|claimed = 0.7", 1, "FAILED", "the owner of the coin"),
        ("= 400|= 50", 3, "REFUSED", "too few throws"),
    ],
)
def test_a_missed_band_is_drawn_and_said(coin, change, code, word, reason):
    """Files are still written, with a red mark in the margin, and the status tells a shell."""
    config = coin.folder / "configs/figures/two_coins.toml"
    config.write_text(CONFIG.replace(*change.split("|")))
    done = coin("--smoke")
    assert done.exit_code == code
    assert word in done.output
    assert reason in done.output
    assert json.loads((coin.folder / "out/two-coins.json").read_text())["status"] == word
    picture = imread(coin.folder / "out/two-coins.png")[:, -40:, :3]
    red = (picture[..., 0] > 0.6) & (picture[..., 1] < 0.3) & (picture[..., 2] < 0.3)
    assert red.sum() > 50


def test_all_and_list(coin):
    listed = coin(name="list")
    assert listed.exit_code == 0
    assert "needs coins/odds.csv; smoke 1 s, full 2 s" in listed.output
    for name, claimed in (("a_good", "0.5"), ("the_bad", "0.9")):
        (coin.folder / "experiments" / f"{name}.py").write_text(COIN)
        config = coin.folder / "configs/figures" / f"{name}.toml"
        config.write_text(CONFIG.replace("claimed = 0.5", f"claimed = {claimed}"))
    done = coin("--smoke", name="all")
    assert done.exit_code == 1
    assert [line.split()[:2] for line in done.output.splitlines() if " checks, " in line] == [
        ["a-good", "PASSED"],
        ["the-bad", "FAILED"],
        ["two-coins", "PASSED"],
    ]


def test_all_goes_on_without_data(coin):
    """A figure whose data is missing is named, the others are made, and the status says so."""
    (coin.folder / "experiments/three_coins.py").write_text(COIN.replace("coins/odds.csv", "coins/lost.csv"))
    (coin.folder / "configs/figures/three_coins.toml").write_text(CONFIG)
    done = coin("--smoke", name="all")
    assert done.exit_code == 2
    lines = done.output.splitlines()
    assert lines[0].startswith("three-coins       NO DATA")
    assert "lost.csv: three-coins needs this file; get it from the mint and give --data" in lines[0]
    assert any(line.startswith("two-coins         PASSED") for line in lines)


CARD = """

def card(found):
    yield Claim("heads", "", f"{found['coin', 'heads'].y[1]:.2f}", "the mint, page 1")
"""


def test_card_of_a_replication(coin):
    """What was published beside what we find, in the manifest and as a table; a redraw writes the same bytes."""
    text = COIN.replace("import curve, sampled", "import Claim, curve, sampled") + CARD
    (coin.folder / "experiments/two_coins.py").write_text(text)
    assert coin("--smoke").exit_code == 0
    out = coin.folder / "out"
    (claim,) = json.loads((out / "two-coins.json").read_text())["card"]
    assert claim == {"what": "heads", "published": "", "ours": claim["ours"], "provenance": "the mint, page 1"}
    table = (out / "two-coins.md").read_text()
    assert table.splitlines()[-3] == "| number | published | ours | provenance of the published number |"
    assert table.splitlines()[-1] == f"| heads | - | {claim['ours']} | the mint, page 1 |"
    (out / "two-coins.md").unlink()
    assert coin("--redraw").exit_code == 0
    assert (out / "two-coins.md").read_text() == table


def test_what_is_not_there(coin):
    """Unknown figures, folders, data and keys end with status 2 and a remedy."""
    refused(coin(name="two-coin"), "two-coin: no such figure; did you mean 'two-coins'?")
    refused(
        invoke("figure", "list", "--experiments", coin.folder / "no"),
        "run it from a clone of the project, or give --experiments",
    )
    refused(coin("--redraw"), "two-coins.json: not the manifest of a figure", "run the figure first")
    (coin.folder / "data/coins/odds.csv").unlink()
    refused(coin("--smoke"), "two-coins needs this file; get it from the mint and give --data")
    (coin.folder / "configs/figures/two_coins.toml").write_text(CONFIG.replace("chance", "chances"))
    refused(coin("--smoke"), "chances: unknown key; did you mean 'chance'?")


def test_points_read_back_to_the_same_bits(tmp_path):
    rng = np.random.default_rng(0)
    written = {
        ("a, b", 'with "quotes"'): curve(rng.random(5), rng.normal(size=5) * 1e-30, 0.1, unit="USD", paths=10**12),
        ("c", "exact"): curve(0.1, -np.inf, unit="fraction"),
    }
    observed.write_curves(tmp_path / "t.csv", written)
    read = observed.read_curves(tmp_path / "t.csv")
    assert read.keys() == written.keys()
    for key, one in written.items():
        for name, column in one._asdict().items():
            np.testing.assert_array_equal(getattr(read[key], name), column)
    (tmp_path / "t.csv").write_text("x,y\n1,2\n")
    with pytest.raises(published.ConfigError, match="expected the columns panel, series"):
        observed.read_curves(tmp_path / "t.csv")


def test_verdicts():
    """3 standard errors for one check, Bonferroni for several; one side; what is no number never passes."""
    assert observed.band(1) == 3.0
    np.testing.assert_allclose([observed.band(n) for n in (2, 20)], [3.4808, 4.0556], atol=1e-4)

    def passes(*checks):
        return [row.passed for row in judged(checks)]

    assert passes(sampled("a", 1.0, 1.29, 0.1, "")) == [True]
    assert passes(sampled("a", 1.0, 1.31, 0.1, "")) == [False]
    assert passes(sampled("a", 1.0, 1.31, 0.1, ""), sampled("b", 1.0, 1.36, 0.1, "")) == [True, False]
    assert passes(exact("a", 0.0, 0.0, 0.0, ""), exact("b", 0.0, 1e-300, 0.0, "")) == [True, False]
    assert passes(exact("a", 1.0, -5.0, 0.1, "", side=1), exact("b", 1.0, -5.0, 0.1, "", side=-1)) == [True, False]
    assert passes(exact("a", 1.0, np.nan, 1.0, ""), sampled("b", 0.0, 0.0, np.inf, "", refused="no")) == [False, False]
    assert status(judged([sampled("a", 1.0, 1.0, 0.3, "", most=0.2)])) == "REFUSED"
    rows = judged([exact("a", 1.0, 1.25, 0.5, ""), sampled("b", 0.0, 0.1, 1.0, "", refused="no")])
    assert rows[0].deviation == 0.5
    assert status(rows) == "REFUSED"
    assert status(rows[:1]) == "PASSED"
    assert isinstance(curve(1.0, 2.0, 0.5, unit="1"), Curve)
    np.testing.assert_allclose(curve(1.0, 2.0, 0.5, unit="1").low, 2.0 - 0.98, atol=1e-3)


TINY = {
    "basel-cycle": {"speeds": [10.0, 5.0, 1.0], "banks": 2, "exponents": [-0.5, 0.5], "steps": 400},
    "breaker-surface": {"paths": 256, "triggers": 3, "lengths": 2, "accounts": 12, "watched": 64},
    "cascade-phase": {"cells": 4, "paths": 16, "accounts": 200, "shocks": 60},
    "certificate": {"freedoms": [0], "sizes": [1_000], "replications": 20},
    "defi-default": {"paths": 200},
    "estimator-race": {"levels": [0.1, 0.15], "paths": 1_000, "pilot": 2_000, "seeds": 2, "beyond": 1e-4},
    "fat-tails": {"markets": 4, "steps": 10_000},
    "firesale": {"networks": 2, "spectra": 1, "banks": 60, "leverages": [15, 30]},
    "frontier": {"targets": [1e-2, 1e-3], "paths": 2_000, "certificate_paths": 131_072},
    "gradient-audit": {"paths": 1_000, "repeats": 2, "grid_steps": 31, "grid_paths": 64},
    "magnet": {"paths": 128, "gains": [0.0, 0.5], "accounts": 100, "step": "1h"},
    "margin-sign": {"impacts": 5, "margins": 4, "paths": 256, "cells": 128, "accounts": [4, 8], "account_paths": 256},
    "procyclicality": {"paths": 64, "days": 200},
    "replay-table": {"draws": 20},
    "size-law": {"cascades": 2_000, "book": 4_000, "books": 4},
    "tail-curve": {
        "levels": [0.1, 0.12, 0.15],
        "walk_levels": [0.1],
        "paths": 1_920,
        "pilot": 2_560,
        "lines": 640,
        "plain": 4_000,
        "beyond": 1e-4,
    },
    "who-pays": {"paths": 64, "winners": 8, "deficits": 3},
}


def test_every_figure_has_a_tiny_run():
    assert set(TINY) == set(published.names(EXPERIMENTS))


ROUNDING = {"rel": 1e-9, "abs": 1e-9, "nan_ok": True}  # of formulas on another machine

# the points of the others are judged and drawn below
LONG_TO_COMPILE = set(TINY) - {"certificate", "basel-cycle", "defi-default", "firesale", "size-law"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in LONG_TO_COMPILE)) for name in TINY]
)
def test_an_experiment_at_a_tiny_size(name, tmp_path):
    """It runs, its points survive their table, its checks can be computed, and it draws."""
    experiment = published.find(name, EXPERIMENTS)
    assert experiment.question.endswith("?")
    if any(not (data_folder() / file.path).is_file() for file in experiment.data):
        pytest.skip(f"data of {name} not found in {data_folder()}; set TAILRISK_DATA to a folder that holds it")
    setting = published.Setting(data=data_folder())
    found = experiment.module.main(experiment.config(True, **TINY[name]), setting)
    assert all(np.isfinite(one.y).all() and one.unit for one in found.values())
    observed.write_curves(tmp_path / "t.csv", found)
    read = observed.read_curves(tmp_path / "t.csv")
    assert style.house_style(experiment.module.draw)(read).get_axes()
    if name not in ("certificate", "frontier"):  # whose references are of sizes and targets that this run has not
        rows = judged(experiment.module.checks(read))
        assert all(np.isfinite(row.obtained) for row in rows)
        assert len({row.id for row in rows}) == len(rows)


@pytest.mark.parametrize("name", TINY)
def test_committed_results_are_what_their_points_say(name, tmp_path):
    """From the points under docs/figures, the experiment as it is now gives the committed verdicts, caption and picture."""
    folder, experiment = ROOT / "docs" / "figures", published.find(name, EXPERIMENTS)
    for end in ("csv", "json"):
        shutil.copy(folder / f"{name}.{end}", tmp_path)
    committed = json.loads((folder / f"{name}.json").read_text())
    assert committed["clean"] is True
    assert committed["drawn"]["clean"] is True
    assert drawn.redraw(experiment, tmp_path).status == "PASSED"
    now = json.loads((tmp_path / f"{name}.json").read_text())
    numbers = ("expected", "obtained", "tolerance", "deviation/tolerance")
    for ours, theirs in zip(now["reference"], committed["reference"], strict=True):
        assert [ours.pop(key) for key in numbers] == pytest.approx([theirs.pop(key) for key in numbers], **ROUNDING)
        assert ours == theirs
    assert {key: now[key] for key in ("status", "card")} == {key: committed[key] for key in ("status", "card")}
    assert committed["paths"] == published.paths_of(observed.read_curves(folder / f"{name}.csv"))
    pictures = [file / f"{name}.png" for file in (tmp_path, folder)]
    assert imread(pictures[0]).shape == imread(pictures[1]).shape
    versions = [{key: written["drawn"][key] for key in published.DRAWS} for written in (now, committed)]
    if versions[0] == versions[1]:
        assert pictures[0].read_bytes() == pictures[1].read_bytes()
    assert (folder / f"{name}.md").read_text() == (tmp_path / f"{name}.md").read_text()
    assert committed["config_sha256"] == published.digest(experiment.config(committed["mode"] == "smoke"))


@pytest.mark.slow
def test_all_figures_meet_their_bands(tmp_path):
    """The command of the contract: every verdict line says PASSED, and every manifest is complete."""
    folders = ("--out", tmp_path, "--experiments", EXPERIMENTS, "--data", data_folder())
    done = invoke("figure", "all", "--smoke", *folders)
    print(done.output)
    missing = {line.split()[0] for line in done.output.splitlines() if " NO DATA " in line}
    assert done.exit_code == (2 if missing else 0)
    for name in set(published.names(EXPERIMENTS)) - missing:
        written = json.loads((tmp_path / f"{name}.json").read_text())
        assert written["status"] == "PASSED"
        assert written["reference"]
        assert written["max_deviation"] <= 1.0
