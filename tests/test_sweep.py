"""`tailrisk sweep`: every cell is the run that the same words give, wherever it runs."""

import csv
import json
import os
import shutil
import signal

import numpy as np
import pytest
from command import BASE, invoke, refused

from tailrisk.study import sweep
from tailrisk.study.config import ConfigError

GRID = ("grid.waterfall.fund=[0.0, 5e7]", "market.jumps.rate=2000.0", "run.watch=0")
SHAPES = ("grid.book.accounts=[50, 60]", "grid.waterfall.fund=[0.0, 5e7]")


def table(out):
    with open(out / "sweep.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_cells_are_the_product_of_the_lists(tmp_path):
    """The first key varies slowest; other words hold in every cell; a table may be a value."""
    halt = '{kind="NoBreaker"}'
    words = (f"grid.breaker=[{halt}]", "grid.run.seed=[1, 2]", "grid.price=[[1.0], [2.0]]", "run.paths=7")
    found = sweep.cells(BASE, words, tmp_path)
    assert [cell.folder.name for cell in found] == ["0000", "0001", "0002", "0003"]
    assert [(cell.table["run"]["seed"], cell.table["price"]) for cell in found] == [
        (1, [1.0]),
        (1, [2.0]),
        (2, [1.0]),
        (2, [2.0]),
    ]
    assert all(cell.table["run"]["paths"] == 7 and cell.table["breaker"] == {"kind": "NoBreaker"} for cell in found)
    assert str(found[2]) == 'breaker={"kind": "NoBreaker"}, seed=2, price=[1.0]'


BAD = {
    "nothing": ((), "nothing to sweep"),
    "no list": (("grid.run.seed=3",), "'grid.run.seed=3': expected a list of values"),
    "empty": (("grid.run.seed=[]",), "expected a list of values"),
    "twice": (("grid.run.seed=[1]", "grid.run.seed=[2]"), "run.seed is swept twice"),
    "same value": (("grid.run.seed=[1, 1]",), "a value stands in the list twice"),
    "too many": (("grid.run.seed=" + str(list(range(200))), "grid.run.paths=" + str(list(range(1, 99)))), "19,600"),
    "unknown key": (("grid.run.sed=[1]",), "run.sed: unknown key; did you mean 'seed'? (at sed=1)"),
    "bad value": (
        ("grid.waterfall.fund=[1.0, -1.0]",),
        "waterfall.fund = -1. [USD]: expected a value >= 0",
        "(at fund=-1.0)",
    ),
}


@pytest.mark.parametrize(("words", "fragments"), [(case[0], case[1:]) for case in BAD.values()], ids=list(BAD))
def test_bad_sweeps_are_refused_before_anything_is_written(words, fragments, tmp_path):
    refused(invoke("sweep", BASE, *words, "--out", tmp_path / "out"), *fragments)
    assert not (tmp_path / "out").exists()


def test_a_sweep_is_its_runs_and_goes_on_after_a_stop(tmp_path):
    out, again = tmp_path / "out", tmp_path / "again"
    done = invoke("sweep", BASE, *GRID, "--out", out)
    assert done.exit_code == 0, done.output
    assert "2 runs, 1 compiled program(s)" in done.output
    rows = table(out)
    values = {(row["waterfall.fund"], row["metric"]): float(row["value"]) for row in rows if row["value"]}
    assert values["0.0", "expected_bad_debt"] == values["50000000.0", "expected_bad_debt"] > 0.0
    assert values["0.0", "fund_depletion_probability"] > values["50000000.0", "fund_depletion_probability"]
    single = invoke("run", BASE, "waterfall.fund=5e7", *GRID[1:], "--out", tmp_path / "single")
    assert single.exit_code == 0, single.output
    for file in ("config.toml", "results.npz"):
        assert (tmp_path / "single" / file).read_bytes() == (out / "0001" / file).read_bytes()
    assert (out / "figures" / "sweep.png").stat().st_size > 10_000

    shutil.copytree(out, again)  # as if stopped in the second run
    for name in ("run.json", "summary.json", "results.npz"):
        (again / "0001" / name).unlink()
    (again / "0001" / "parts").mkdir()
    (again / "sweep.csv").unlink()
    refused(invoke("sweep", BASE, *GRID, "--out", again), "is not empty; add --resume")
    other = [*GRID, "market.jumps.rate=900.0"]
    refused(invoke("sweep", BASE, *other, "--out", again, "--resume"), "market.jumps.rate was 2000.0, now 900.0")
    assert invoke("sweep", BASE, *GRID, "--out", again, "--resume").exit_code == 0
    assert (again / "sweep.csv").read_bytes() == (out / "sweep.csv").read_bytes()
    assert (again / "0001" / "results.npz").read_bytes() == (out / "0001" / "results.npz").read_bytes()


@pytest.mark.slow
def test_engines_give_the_same_table(tmp_path):
    """Two shapes, so `auto` takes processes; Ray does the same on a cluster started here."""
    pytest.importorskip("ray", reason="pip install 'tailrisk-jax[ray]'")
    outs = {engine: tmp_path / engine for engine in ("local", "auto", "ray")}
    for engine, out in outs.items():
        done = invoke("sweep", BASE, *SHAPES, "--out", out, "--engine", engine, "--workers", 2)
        assert done.exit_code == 0, done.output
        assert "4 runs, 2 compiled program(s)" in done.output
    assert json.loads((outs["auto"] / "sweep.json").read_text())["engine"] == "processes"
    first = (outs["local"] / "sweep.csv").read_bytes()
    assert all((out / "sweep.csv").read_bytes() == first for out in outs.values())


@pytest.mark.slow
def test_ray_tries_a_cell_again_whose_worker_died(tmp_path, monkeypatch):
    ray = pytest.importorskip("ray", reason="pip install 'tailrisk-jax[ray]'")
    marker = tmp_path / "died"

    def dies_once(cell):
        from tailrisk.study.sweep import run_cell  # in the worker, where nothing is patched

        if not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return run_cell(cell)

    monkeypatch.setattr(sweep, "run_cell", dies_once)
    done = invoke("sweep", BASE, "grid.run.seed=[1]", "--out", tmp_path / "out", "--engine", "ray", "--workers", 1)
    assert done.exit_code == 0, done.output
    assert marker.exists()
    assert not ray.is_initialized()
    assert np.isfinite(float(table(tmp_path / "out")[0]["value"]))


def test_ray_is_asked_for_by_name_where_it_is_missing(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    cell = sweep.cells(BASE, ("grid.run.seed=[1]",), tmp_path)
    with pytest.raises(ConfigError, match=r"pip install 'tailrisk-jax\[ray\]'"):
        list(sweep._ENGINES["ray"]([cell], 1))
