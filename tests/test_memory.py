"""The memory budget picks the batch; a run takes no more memory for more paths."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from conftest import ROOT
from test_cli import CONFIG

from tailrisk import _streams
from tailrisk.simulate import MOST_CACHED, batch, entry_point
from tailrisk.study import memory
from tailrisk.study.config import ConfigError
from tailrisk.study.run import Run, load, prepare


@pytest.fixture(scope="module")
def system():
    return prepare(load(ROOT / "tests" / "small.toml"))


@pytest.mark.parametrize(
    ("platform", "room", "asked", "chunk"),
    [
        ("cpu", 1e9, {}, MOST_CACHED),  # a core gains nothing by more
        ("gpu", 1e9, {}, 2**16),  # a part
        ("gpu", 1e9, {"part": 2**12}, 2**12),
        ("gpu", 3000.5, {}, 1024),  # half of it, in whole powers of two
        ("gpu", 1e9, {"memory": 1500.0}, 1024),
        ("cpu", 1e9, {"memory": 1500.0}, 512),  # two batches at a time
        ("gpu", 1e9, {"chunk": 100}, 100),
        ("cpu", 200.0, {}, 64),  # the smallest batch, though more than half
    ],
)
def test_the_budget_picks_the_batch(system, platform, room, asked, chunk, monkeypatch):
    """Memory in paths of this system: half of the device, or `run.memory`, over the batches that run at a time."""
    each = memory.path_bytes(system)
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(memory, "device_bytes", lambda: room * each)
    asked = {key: value * each / 1e9 if key == "memory" else value for key, value in asked.items()}
    assert memory.chunk_of(Run(paths=10**6, **asked), system) == chunk


def test_what_does_not_fit_is_refused(system, monkeypatch):
    each = memory.path_bytes(system)
    monkeypatch.setattr(memory, "device_bytes", lambda: 10.0 * each)
    with pytest.raises(ConfigError, match=r"run.memory = 0: .* 64 paths at once"):
        memory.chunk_of(Run(paths=10**6), system)
    with pytest.raises(ConfigError, match=r"run.chunk = 128: .*lower run.chunk"):
        memory.chunk_of(Run(paths=10**6, chunk=128), system)


@pytest.mark.slow
@pytest.mark.parametrize("config", ["btc_perpetual", "cross_margin"])
def test_the_rule_covers_what_the_compiler_asks_for(config):
    """Temporary memory and outcomes of a compiled batch: below the rule, and not below an eighth of it."""
    system, paths = prepare(load(ROOT / "configs" / f"{config}.toml")), 1024
    compiled = entry_point(batch).lower(system, _streams.noise_keys(0, "market"), jnp.zeros(paths, jnp.uint32))
    found = compiled.compile().compiled.memory_analysis()
    needed = (found.temp_size_in_bytes + found.output_size_in_bytes) / paths
    assert 0.125 * memory.path_bytes(system) < needed < memory.path_bytes(system)


@pytest.mark.slow
def test_a_hundred_times_the_paths_in_the_same_memory(tmp_path):
    """20,000 and 2 million paths of six steps, of which 10,000 are kept: the peak grows by less than a tenth."""
    config, peak = tmp_path / "tiny.toml", {}
    config.write_text(CONFIG)
    for paths in (20_000, 2_000_000):
        out = tmp_path / str(paths)
        more = (f"run.paths={paths}", "run.rows=10_000", "run.chunk=0", "run.part=10_048", "--out", str(out))
        words = [sys.executable, "-m", "tailrisk.cli", "run", str(config), *more]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        peak[paths] = json.loads((out / "run.json").read_text())["peak_bytes"]
        assert "GB at most" in done.stdout
    assert peak[2_000_000] < 1.1 * peak[20_000]
