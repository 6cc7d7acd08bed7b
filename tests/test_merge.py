"""Runs with several seeds are one run: its numbers are those of all paths together."""

import json
import tomllib

import numpy as np
import pytest
from command import invoke, refused
from test_cli import CONFIG

from tailrisk.study.folder import read_json, write_arrays, write_json
from tailrisk.study.run import from_table, resolved
from tailrisk.tails import measures


def finished(folder, *, seed=3, made=None, **scenario):
    """A folder that looks finished, whose results hold no paths."""
    table = tomllib.loads(CONFIG) | scenario
    table["run"] = table["run"] | {"seed": seed}
    folder.mkdir()
    (folder / "config.toml").write_text(resolved(from_table(table)))
    write_json(folder / "run.json", made or {})
    write_json(folder / "summary.json", {})
    write_arrays(folder / "results.npz", {"gross": np.asarray(1.0)})
    return folder


def test_what_cannot_be_merged_is_refused(tmp_path):
    out = ["--out", tmp_path / "out"]
    plain = finished(tmp_path / "plain")
    refused(invoke("merge", plain, *out), "at least two")
    refused(invoke("merge", tmp_path / "none", plain, *out), "none: holds no finished run")
    refused(invoke("merge", plain, plain, *out), "holds no summary of all paths")
    refused(invoke("merge", finished(tmp_path / "merged", made={"merged": []}), plain, *out), "was merged itself")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_merged_runs_say_what_all_paths_say(tmp_path):
    """640 and 1,280 paths of two seeds, kept one by one or in bins: metrics are those of the 1,920 numbers."""
    config = tmp_path / "tiny.toml"
    config.write_text(CONFIG)

    def run(name, *words):
        assert invoke("run", config, *words, "--out", tmp_path / name).exit_code == 0
        return tmp_path / name

    one = run("one", "run.paths=640", "run.rows=10000", "run.seed=1")
    two = run("two", "run.paths=1280", "run.rows=10000", "run.seed=2")
    assert invoke("merge", one, two, "--out", tmp_path / "both").exit_code == 0
    rows = []
    for folder in (one, two):
        with np.load(folder / "results.npz") as results:
            rows.append(
                {name: results[f"path/{name}"].astype(float) for name in ("bad_debt", "fees", "liquidated_share")}
            )
    every = {name: np.concatenate([part[name] for part in rows]) for name in rows[0]}
    found = read_json(tmp_path / "both" / "summary.json")
    metrics = found["metrics"]
    assert (found["paths"], found["seeds"]) == (1_920, [1, 2])
    for name, column in (("expected_bad_debt", "bad_debt"), ("fees", "fees"), ("liquidated_share", "liquidated_share")):
        right = measures.mean(every[column])
        assert right.value > 0.0
        assert metrics[name]["value"] == pytest.approx(right.value, rel=1e-12)
        assert metrics[name]["std_error"] == pytest.approx(right.std_error, rel=1e-9)
    assert metrics["bad_debt_probability"]["value"] == np.count_nonzero(every["bad_debt"]) / 1_920
    assert metrics["bad_debt_es_99"]["value"] == measures.expected_shortfall(every["bad_debt"], 0.99).value

    few = [run(f"few{seed}", f"run.paths={paths}", f"run.seed={seed}") for seed, paths in ((1, 640), (2, 1_280))]
    assert invoke("merge", *few, "--out", tmp_path / "bins").exit_code == 0
    binned = read_json(tmp_path / "bins" / "summary.json")
    assert binned["rows"] == 128
    for name, metric in metrics.items():
        rel = 2.0**-10 if name.startswith(("bad_debt_var", "bad_debt_es")) else 1e-12
        assert binned["metrics"][name]["value"] == pytest.approx(metric["value"], rel=rel), name
    assert invoke("report", tmp_path / "bins").exit_code == 0
    assert [one["seed"] for one in json.loads((tmp_path / "bins" / "run.json").read_text())["merged"]] == [1, 2]

    refused(invoke("merge", one, few[0], "--out", tmp_path / "x"), "run.seed = 1 is that of")
    other = run("other", "run.paths=640", "run.seed=5", "market.volatility=2.0")
    refused(invoke("merge", one, other, "--out", tmp_path / "x"), "market.volatility is 2.0", "it is 3.0")
