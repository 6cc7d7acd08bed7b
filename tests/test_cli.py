"""The command as a user types it; a run that is stopped and killed ends in the same bytes."""

import json
import os
import signal
import subprocess
import sys
import time
from importlib.metadata import version

import jax
import numpy as np
import pytest
from click.testing import CliRunner
from conftest import ROOT

from tailrisk.cli import main

CONFIG = """
price = [100.0]
horizon = "30min"
step = "5min"
[run]
paths = 6_400
chunk = 64
part = 64
rows = 128
watch = 0
levels = [0.99]
seed = 3
[market]
kind = "GeometricBrownian"
volatility = 3.0
[book]
kind = "LeverageMixture"
accounts = 40
notional = 1e6
[margin]
kind = "Flat"
maintenance_rate = 0.01
initial_rate = 0.02
[positions]
kind = "SortedLadder"
clearing = { kind = "Rounds", rounds = 2 }
[impact]
kind = "Linear"
coefficient = 0.1
depth = { kind = "ConstantDepth", volume = 1e4 }
"""
METRICS = {
    "expected_bad_debt": "USD", "expected_bad_debt_share": "1", "bad_debt_probability": "1", "bad_debt_var_99": "USD",
    "bad_debt_es_99": "USD", "fund_depletion_probability": "1", "liquidated_share": "1", "forced_volume": "USD",
    "amplification": "1", "time_halted": "min", "fees": "USD", "fund_paid": "USD", "backstop_paid": "USD",
    "adl_notional": "USD", "adl_pnl": "USD", "socialized_loss": "USD", "residual_loss": "USD", "margin_cost": "1",
}  # fmt: skip
# Goes on with the first folder, then runs the same config into the second without a stop, and keeps all rows in the third.
THRICE = """
import sys
from tailrisk.cli import main
config, first, second, third = sys.argv[1:]
for words in ([first, "--resume"], [second], [third, "run.rows=6400", "run.part=640"]):
    try:
        main(["run", config, "--out", *words], standalone_mode=False)
    except SystemExit as end:
        assert not end.code, end.code
"""

# Whatever started the tests in the background may have had Ctrl-C ignored, which children inherit.
LISTENING = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from tailrisk.cli import main
main()
"""


def invoke(*words):
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(autouse=True)
def precision_is_put_back():
    precise = jax.config.jax_enable_x64
    yield
    jax.config.update("jax_enable_x64", precise)


def paths_on_disk(folder):
    """Paths that a run has rows or summaries of."""
    names = [file.stem.split("-") for file in folder.glob("parts/*.npz")]
    return sum(int(name[3]) - int(name[2]) if name[0] == "tally" else 64 for name in names)


def stop_after_a_part(command, folder, number, environment):
    """Starts a run and sends it a signal once it has written two more parts; its status and what it said."""
    before = paths_on_disk(folder)
    with open(folder.with_suffix(".log"), "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        try:
            deadline = time.monotonic() + 300.0
            while paths_on_disk(folder) <= before + 128 and process.poll() is None:
                assert time.monotonic() < deadline
                time.sleep(0.002)
            process.send_signal(number)
            return process.wait(60), folder.with_suffix(".log").read_text()
        finally:
            process.kill()


@pytest.mark.skipif(os.name != "posix", reason="signals as on Linux and macOS")
def test_a_stopped_and_killed_run_ends_in_the_same_bytes(tmp_path):
    """Ctrl-C, then kill -9, then resume: every array equals that of a run without a stop; the folder is complete."""
    config, folder, whole = tmp_path / "tiny.toml", tmp_path / "stopped", tmp_path / "whole"
    rows = tmp_path / "rows"
    config.write_text(CONFIG)
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache"), "JAX_PLATFORMS": "cpu"}
    environment["XLA_FLAGS"] = "--xla_backend_optimization_level=0"  # compiling is most of the time here
    command = [sys.executable, "-c", LISTENING, "run", str(config), "--out", str(folder)]

    status, said = stop_after_a_part(command, folder, signal.SIGINT, environment)
    assert status == 130, said
    assert "Traceback" not in said
    assert f"stopped; go on with: tailrisk run {config} --out {folder} --resume" in said
    first = paths_on_disk(folder)
    assert 128 < first < 6_400

    status, said = stop_after_a_part([*command, "--resume"], folder, signal.SIGKILL, environment)
    assert status == -signal.SIGKILL, said
    assert first < paths_on_disk(folder) < 6_400
    assert len(list(folder.glob("parts/*.npz"))) < 20  # neighbors are one
    assert not (folder / "run.json").exists()
    (folder / "parts" / ".0000-000000000000.npz.partial").write_bytes(b"what a kill may leave")

    done = subprocess.run(
        [sys.executable, "-c", THRICE, str(config), str(folder), str(whole), str(rows)],
        env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "6,400 of 6,400 paths" in done.stderr
    with np.load(folder / "results.npz") as resumed, np.load(whole / "results.npz") as plain:
        assert set(resumed.files) == set(plain.files)
        for name in plain.files:
            assert np.array_equal(resumed[name], plain[name]), name
        assert plain["path/bad_debt"].shape == (128,)
    for run in (folder, whole, rows):
        check_folder(run)
    check_streamed(folder, rows)
    check_report(folder)


def check_streamed(folder, rows):
    """A run that keeps 128 of its paths says what one says that keeps all: quantiles to a bin, all else to the bit."""
    streamed, kept = (json.loads((run / "summary.json").read_text()) for run in (folder, rows))
    with np.load(rows / "results.npz") as plain, np.load(folder / "results.npz") as bins:
        assert plain["path/bad_debt"].shape == (6_400,)
        assert bins["bins/bad_debt/count"].sum() == np.count_nonzero(plain["path/bad_debt"])
        for name in ("worst/path", "worst/log_price"):
            assert name not in plain  # none are watched
        np.testing.assert_array_equal(bins["path/bad_debt"], plain["path/bad_debt"][:128])
    for name, metric in kept["metrics"].items():
        other = streamed["metrics"][name]
        if name in ("bad_debt_var_99", "bad_debt_es_99"):
            assert other["value"] == pytest.approx(metric["value"], rel=2.0**-10)
            assert other["std_error"] == pytest.approx(metric["std_error"], rel=0.02)
            assert 0.0 < other["std_error"] < 0.2 * other["value"]
        else:
            assert other == metric, name
    for name in ("flags", "ledger_residual", "paths", "steps"):
        assert streamed[name] == kept[name]
    assert (streamed["rows"], kept["rows"]) == (128, 6_400)


def check_folder(folder):
    """What a finished run holds; `run.json` last."""
    names = {"config.toml", "results.npz", "summary.json", "run.json", "figures"}
    assert {path.name for path in folder.iterdir()} == names
    last = (folder / "run.json").stat().st_mtime_ns
    assert all(path.stat().st_mtime_ns <= last for path in folder.rglob("*") if path.is_file())
    assert {path.suffix for path in (folder / "figures").iterdir()} == {".pdf", ".png"}
    run = json.loads((folder / "run.json").read_text())
    assert set(run) == {
        "commit", "versions", "python", "device", "platform", "precision", "seed", "config_sha256", "wall_seconds",
        "processor_seconds", "peak_bytes", "processes",
    }  # fmt: skip
    assert {"jax", "jaxlib", "equinox", "numpy", "tailrisk"} == set(run["versions"])
    assert (run["seed"], run["precision"], run["platform"]) == (3, "float32", "cpu")
    check_summary(json.loads((folder / "summary.json").read_text()))


def check_summary(summary):
    """The keys others may rely on."""
    for name, unit in METRICS.items():
        metric = summary["metrics"][name]
        assert metric["unit"] == unit, name
        assert set(metric) - {"note"} == {"value", "std_error", "ci95", "unit"}
        low, high = metric["ci95"]
        assert low is None or low <= metric["value"]
        assert high is None or metric["value"] <= high
    assert (summary["paths"], summary["steps"], summary["seed"], summary["estimator"]) == (6_400, 6, 3, "monte_carlo")
    assert summary["wall_seconds"] > 0.0
    assert summary["ledger_residual"] < summary["ledger_tolerance"]
    assert not any(summary["flags"][name] for name in ("paths_not_finite", "paths_ledger_open"))
    assert summary["metrics"]["bad_debt_probability"]["value"] > 0.0


def check_report(folder):
    """The table again, without the run, and the figures drawn again."""
    for path in (folder / "figures").iterdir():
        path.unlink()
    said = invoke("report", folder)
    assert said.splitlines()[0].startswith("6,400 paths, 6 steps, 1M USD gross notional, seed 3")
    order = [line.split()[0] for line in said.splitlines()[3:]]
    assert order[: len(METRICS)][:3] == list(METRICS)[:3]
    assert any((folder / "figures").iterdir())


def test_validate_says_what_would_run():
    words = (ROOT / "tests" / "small.toml", "run.paths=640", "run.books=2")
    said = invoke("validate", *words)
    assert "valid. 2 book(s) of 12,000,000,000 USD gross notional, 640 paths of 12 steps, float32." in said


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.toml")), ids=lambda p: p.stem)
def test_every_config_is_valid(path, request):
    if "shared" in path.read_text():
        request.getfixturevalue("market_data")
    assert "valid." in invoke("validate", path, "run.paths=64")


def test_doctor():
    said = invoke("doctor")
    for word in ("tailrisk", "jax", "numpy", "device 0: ", "cores", "GiB free disk", "compiled programs", "float32"):
        assert word in said


def test_help_and_version():
    said = invoke("--help")
    for word in ("run", "validate", "report", "doctor", "bench"):
        assert word in said
    assert invoke("--version").strip().endswith(version("tailrisk-jax"))
    assert CliRunner().invoke(main, ["rnu"]).exit_code == 2
    assert CliRunner().invoke(main, ["run"]).exit_code == 2


@pytest.mark.parametrize(
    ("flags", "note", "status", "words"),
    [
        ((0, 0), "only 3 of 10 paths carry it", 0, ""),
        ((2, 0), "refused: weights", 1, "ledger residual above 1e-06"),
        ((0, 3), "", 1, "price that is not finite"),
        ((0, 0), "refused: weights", 3, "ruin refused: weights"),
    ],
)
def test_verdict(flags, note, status, words, capsys):
    """A run whose money or prices broke ends with status 1, one with an estimate that was refused with 3, and it says why."""
    from tailrisk.cli.estimate import verdict

    broken = {"paths_ledger_open": flags[0], "paths_not_finite": flags[1]}
    summary = {"flags": broken, "ledger_tolerance": 1e-6, "metrics": {"ruin": {"note": note}, "size": {}}}
    assert verdict(summary) == status
    assert words in capsys.readouterr().err
