"""One run by several processes: the bytes of one, also when one of them is killed and the rest is made by another number."""

import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from command import BASE, invoke, refused
from test_cli import CONFIG, paths_on_disk

from tailrisk.study import hosts, parts
from tailrisk.study.folder import read_json
from tailrisk.study.parts import Part
from tailrisk.study.run import Run

PATHS = 64_000


def free_port():
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


def start(config, out, count, environment, *more):
    """The command of every process, begun."""
    words = [sys.executable, "-m", "tailrisk.cli", "run", str(config), f"run.paths={PATHS}", "run.part=640", *more]
    words += ["--out", str(out)]
    together = ["--processes", str(count), "--coordinator", f"localhost:{free_port()}"]
    begun = []
    for number in range(count):
        own = [*together, "--process", str(number)] if count > 1 else []
        log = open(out.with_name(f"{out.name}-{count}-{number}.log"), "wb")  # noqa: SIM115
        begun.append(subprocess.Popen([*words, *own], stdout=log, stderr=log, env=environment))
    return begun


def check_same(out, alone):
    with np.load(out / "results.npz") as ours, np.load(alone / "results.npz") as theirs:
        assert set(ours.files) == set(theirs.files)
        for name in theirs.files:
            np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
        assert theirs["bins/bad_debt/count"].sum() > 1000
    one, other = read_json(out / "summary.json"), read_json(alone / "summary.json")
    for summary in (one, other):
        del summary["wall_seconds"], summary["peak_bytes"]
    assert one == other


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals as on Linux and macOS")
def test_two_processes_and_one_that_dies(tmp_path):
    """Alone; by two; by two of which one is killed, which ends the other, and then by three and by one."""
    config = tmp_path / "tiny.toml"
    config.write_text(CONFIG)
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_backend_optimization_level=0"}
    alone, both, killed = (tmp_path / name for name in ("alone", "both", "killed"))
    for out, count in ((alone, 1), (both, 2)):
        for process in start(config, out, count, environment):
            assert process.wait(300) == 0, out
    assert read_json(both / "run.json")["processes"] == 2
    assert "process 1 of 2: its paths are in" in (tmp_path / "both-2-1.log").read_text()
    check_same(both, alone)

    first, second = start(config, killed, 2, environment)
    while paths_on_disk(killed) < 6_400:
        assert second.poll() is None
        time.sleep(0.01)
    second.send_signal(signal.SIGKILL)
    assert first.wait(300) != 0  # JAX misses the other one after 100 s
    made = paths_on_disk(killed)
    assert 6_400 <= made < PATHS
    third = start(config, killed, 3, environment, "--resume")
    while paths_on_disk(killed) < made + 6_400:
        assert third[0].poll() is None
        time.sleep(0.01)
    for process in third:
        process.send_signal(signal.SIGKILL)
        process.wait(60)
    assert made < paths_on_disk(killed) < PATHS
    (last,) = start(config, killed, 1, environment, "--resume")
    assert last.wait(300) == 0
    check_same(killed, alone)


def slurm(count):
    """The variables that `srun` sets for every task; JAX makes the port 61440 + id mod 4096."""
    for job in range(1 << 12):
        with socket.socket() as found:
            try:
                found.bind(("localhost", 61_440 + job))
            except OSError:
                continue
        return {"SLURM_JOB_ID": str(job), "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": str(count)}
    raise AssertionError("no port is free")


@pytest.mark.slow
def test_a_cluster_is_recognized_by_its_variables(tmp_path):
    """Two tasks of Slurm on this machine, which are told nothing but `--cluster`, make the run of one process."""
    config, alone, both = tmp_path / "tiny.toml", tmp_path / "alone", tmp_path / "both"
    config.write_text(CONFIG)
    plain = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_backend_optimization_level=0"}
    words = [sys.executable, "-m", "tailrisk.cli", "run", str(config)]
    common = plain | slurm(2)
    tasks = []
    for number in ("0", "1"):
        own = common | {"SLURM_PROCID": number, "SLURM_LOCALID": number}
        tasks.append(subprocess.Popen([*words, "--cluster", "--out", str(both)], env=own))
    assert [task.wait(300) for task in tasks] == [0, 0]
    assert read_json(both / "run.json")["processes"] == 2
    subprocess.run([*words, "--out", str(alone)], env=plain, check=True)
    with np.load(both / "results.npz") as ours, np.load(alone / "results.npz") as theirs:
        for name in theirs.files:
            np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


@pytest.mark.slow
def test_all_processes_end_where_one_cannot_begin(tmp_path):
    """The folder is taken: process 0 says so and the other says that it does."""
    config, out = tmp_path / "tiny.toml", tmp_path / "out"
    config.write_text(CONFIG)
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    both = start(config, out, 2, os.environ | {"JAX_PLATFORMS": "cpu"})
    assert [process.wait(120) for process in both] == [2, 2]
    assert "is not empty and holds no run" in (tmp_path / "out-2-0.log").read_text()
    assert "error: process 0 cannot go on" in (tmp_path / "out-2-1.log").read_text()


@pytest.mark.parametrize(
    ("words", "fragments"),
    [
        (["--processes", "2"], ["--out: missing"]),
        (["--out", "x", "--processes", "2"], ["--process and --coordinator: missing", "--cluster alone"]),
        (["--out", "x", "--processes", "2", "--process", "2", "--coordinator", "a:1"], ["--process = 2", "0 to 1"]),
    ],
)
def test_what_several_processes_need(words, fragments):
    refused(invoke("run", BASE, *words), *fragments)


def test_shares_are_neighbors_and_all_there_is(monkeypatch):
    """Seven parts over three processes; what is on disk in rows or in a summary is not made again."""
    run = Run(paths=64 * 9 - 5, part=64, rows=100)
    names = [Part(0, 64 * i, min(64 * (i + 1), run.paths)) for i in range(9)]
    assert parts.all_parts(run) == names
    assert parts.kept(run) == 128
    seen = []
    for process in range(3):
        monkeypatch.setattr(hosts.jax, "process_index", lambda process=process: process)
        monkeypatch.setattr(hosts.jax, "process_count", lambda: 3)
        seen += [hosts.share(names[:7])]
    assert seen == [names[0:2], names[2:4], names[4:7]]


def test_what_is_on_disk_is_not_made_again(tmp_path):
    """Rows of one part, a summary of two, and one of four that holds these as well, as after a kill between two writes."""
    run = Run(paths=64 * 9 - 5, part=64, rows=100)
    (tmp_path / "parts").mkdir()
    pairs = [Part(0, 128, 256), Part(0, 128, 384), Part(0, 512, 571)]
    for file in (Part(0, 64, 128).rows(tmp_path), *(part.summary(tmp_path) for part in pairs)):
        file.write_bytes(b"")
    assert parts.on_disk(run, tmp_path) == ([Part(0, 64, 128)], pairs[1:])
    assert [part.first for part in parts.to_do(run, tmp_path)] == [0, 384, 448]
    (tmp_path / "parts" / "stopped-1").touch()
    with pytest.raises(ValueError, match=r"process 1 has stopped.*--resume"):
        hosts.wait(run, tmp_path)
    hosts.clear(tmp_path)
    assert not list((tmp_path / "parts").glob("stopped-*"))
