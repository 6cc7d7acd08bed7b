"""The rivals of the benchmarks compute what we compute; a benchmark refuses to time programs that do not agree."""

import json

import numpy as np
import pytest

from tailrisk import bench
from tailrisk.bench.timing import disagreements, race


@pytest.mark.parametrize(
    ("name", "paths", "groups"), [("ladder", 1024, 500), ("accounts", 256, 64), ("normals", 2048, 0)]
)
@pytest.mark.slow
def test_rivals_agree(name, paths, groups):
    if name != "normals":
        pytest.importorskip("numba")
    entry = bench.prepare(name, groups)
    outcomes, _ = race(entry.contestants, paths, 1.0, 1)
    assert next(iter(outcomes)) == "tailrisk"
    assert disagreements(outcomes) == []
    for result in outcomes.values():
        for value in result.values():
            assert value.shape == (paths,)
            assert value.std() > 0
    if name != "normals":  # the check can fail: the error of the mean is small
        value = outcomes["tailrisk"]["forced_notional"]
        assert value.std() / value.mean() / paths**0.5 < 0.1


def test_a_wrong_rival_is_not_timed(monkeypatch, capsys):
    """Means 1 apart with errors of 0.03."""
    rng = np.random.default_rng(0)
    contestants = {
        "tailrisk": lambda paths, seed: {"bad_debt": rng.normal(0.0, 1.0, paths)},
        "rival": lambda paths, seed: {"bad_debt": rng.normal(1.0, 1.0, paths)},
    }
    monkeypatch.setattr(bench, "prepare", lambda name: bench.Race(contestants, 1000, 1.0, "paths"))
    assert bench.run_bench("normals") == 1
    said = capsys.readouterr()
    assert "bad_debt" in said.err
    assert "/s" not in said.out


def test_a_race_is_written_down(monkeypatch, tmp_path, capsys):
    rng = np.random.default_rng(0)
    contestants = {who: lambda paths, seed: {"bad_debt": rng.normal(0.0, 1.0, paths)} for who in ("tailrisk", "rival")}
    monkeypatch.setattr(bench, "prepare", lambda name: bench.Race(contestants, 1000, 1.0, "paths"))
    assert bench.run_bench("normals", repeats=2, out=tmp_path) == 0
    written = json.loads((tmp_path / "bench.json").read_text())
    assert written["normals"]["rival"]["rate"] > 0
    assert "machine" in written
    assert "rival" in capsys.readouterr().out


def test_missing_numba_names_the_extra(monkeypatch, capsys):
    monkeypatch.setattr(bench, "find_spec", lambda name: None)
    assert bench.run_bench("ladder") == 2
    assert "tailrisk-jax[compare]" in capsys.readouterr().err


def test_unknown_benchmark_is_bad_input():
    with pytest.raises(ValueError, match="ladder, accounts, normals"):
        bench.run_bench("laddder")
