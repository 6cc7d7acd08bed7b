"""The script for a GPU: it says so without one, halves what does not fit, and refuses numbers that do not agree."""

import json

import numpy as np
import pytest
from tail_problems import JumpCascade

from tailrisk import bench
from tailrisk._fields import InputError
from tailrisk.bench import gpu, gpu_report
from tailrisk.bench.gpu import Size, Target


def test_without_a_gpu_it_says_so(capsys):
    assert bench.run_bench("gpu") == 2
    assert "no GPU found" in capsys.readouterr().err


def test_a_size_that_does_not_fit_is_halved():
    """Room for 300: 1,000 -> 500 -> 250, in whole lanes of 64; what is no lack of memory is raised."""
    asked = []

    def call(size):
        asked.append(size)
        if size > 300:
            raise RuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return -size

    assert gpu.halving(call, 1_000) == (-192, 192)
    assert asked == [1_000, 448, 192]
    with pytest.raises(RuntimeError, match="RESOURCE_EXHAUSTED"):
        gpu.halving(lambda size: call(1_000), 64)
    with pytest.raises(RuntimeError, match="else"):
        gpu.halving(lambda size: (_ for _ in ()).throw(RuntimeError("something else")), 1_000)


def test_speed_is_of_all_paths_in_batches_of_the_best_size():
    found = gpu.speed(JumpCascade(), 200, (64, 128), 3)
    assert set(found["tried"]) == {64, 128}
    assert found["chunk"] == max(found["tried"], key=found["tried"].get)
    assert found["paths"] == 256
    assert len(found["seconds"]) == 3
    assert found["path_steps"] == pytest.approx(200 * found["steps"] / np.median(found["seconds"]))


def test_products_are_timed():
    found = gpu.products(64, 8, 32, 2)
    assert 1e5 < found["highest"] < 1e15
    assert 1e5 < found["default"] < 1e15


@pytest.mark.parametrize(
    ("value", "most", "judged", "said"),
    [(2.0, False, True, "met"), (0.5, False, True, "missed"), (2.0, True, True, "missed"), (2.0, False, False, "not")],
)
def test_targets_are_met_missed_or_not_judged(value, most, judged, said):
    assert Target("x", value, 1.0, most, judged).verdict.startswith(said)


def test_numbers_that_do_not_agree_are_named():
    """One standard error between the means, and a fiftieth of the paths, may be apart."""
    row = {"float32": 1.0, "float64": 1.0, "std_error": 0.1, "apart": 0.9, "other_paths": 0.019}
    assert list(gpu.apart({"fees": row})) == []
    assert "1.1 standard errors" in next(gpu.apart({"fees": row | {"apart": 1.1}}))
    assert "3.0% of the paths" in next(gpu.apart({"fees": row | {"other_paths": 0.03}}))
    assert list(gpu.apart({"fees": row | {"apart": float("nan")}}))


def test_sizes_of_a_trial_and_of_a_gpu():
    assert gpu.sized("gpu", 0, 5) == Size()
    trial = gpu.sized("cpu", 100, 2)
    assert (trial.paths, trial.few, trial.pairs, trial.chunks, trial.few_chunks) == (
        100,
        100,
        100,
        (64, 128),
        (64, 128),
    )


def test_a_figure_of_what_was_found():
    kernel = {"tried": {64: 1e6, 128: 2e6}}
    targets = [
        Target("a", 2.0, 1.0, False, True),
        Target("b", 2.0, 1.0, True, True),
        Target("c", 1.0, 1.0, True, False),
    ]
    said = [target._asdict() | {"verdict": target.verdict} for target in targets]
    rate, reached = gpu_report.draw(
        {name: kernel for name in ("ladder", "accounts", "basket")} | {"targets": said}
    ).axes
    assert len(rate.lines) == 3
    assert np.asarray(reached.collections[0].get_offsets())[:, 0].tolist() == [2.0, 0.5, 1.0]


@pytest.mark.slow
def test_the_whole_script_on_a_cpu(tmp_path, monkeypatch, capsys):
    """An hour of small books: everything is said and written, precisions agree path by path, no speed is judged."""
    small = Size(
        paths=512,
        few=256,
        pairs=512,
        chunks=(256,),
        few_chunks=(128,),
        accounts=500,
        groups=64,
        assets=4,
        horizon="1h",
        derivatives=(1,),
        repeats=2,
    )
    monkeypatch.setattr(gpu, "sized", lambda *given: small)
    assert bench.run_bench("gpu", device="cpu", out=tmp_path) == 0
    said = capsys.readouterr().out
    assert "no GPU is used" in said
    assert "not judged" in said
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["failed"] == []
    for rows in found["agreement"].values():
        assert rows["forced_notional"]["float64"] > 0.0
        assert rows["forced_notional"]["std_error"] > 0.0
        assert all(row["apart"] < 0.01 and row["other_paths"] < 0.01 for row in rows.values())
    assert {target["name"].split(",")[0] for target in found["targets"]} >= {"ladder"}
    assert len(found["gradients"]) == 4
    assert (tmp_path / "gpu.png").stat().st_size > 0


def test_unknown_devices_are_no_choice():
    with pytest.raises(InputError, match="gradient-cost, gpu"):
        bench.run_bench("gpus")
