"""Paths spread over several devices: the same bits as on one."""

import os
import subprocess
import sys

import pytest
from conftest import ROOT

SPREAD = """
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
sys.path.insert(0, "tests")
from tail_problems import JumpCascade
from tailrisk.simulate import LANES, outcomes, simulate, spread
from tailrisk.study.run import load, prepare

assert jax.local_device_count() == 8
made_on = list(spread(lambda _: next(iter(jnp.zeros(()).devices())), range(16)))
assert made_on == 2 * jax.local_devices(), made_on

system = {system}
paths = 8 * LANES - 5  # the last device gets a chunk that is not full
everywhere = simulate(system, paths=paths, seed=4, chunk=LANES)
alone = outcomes(system, 4, np.arange(paths))[0]
assert sum(np.ptp(value) > 0.0 for value in alone.values()) > 1
for name, value in alone.items():
    np.testing.assert_array_equal(everywhere[name], value, err_msg=name)
"""


def on_eight_devices(program):
    """In a process of its own with eight virtual devices; each compiles, so the compiler is told to hurry."""
    flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    words = [sys.executable, "-c", program]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_paths_on_eight_devices_have_the_bits_of_one():
    on_eight_devices(SPREAD.format(system="JumpCascade()"))


@pytest.mark.slow
def test_a_venue_on_eight_devices_has_the_bits_of_one():
    on_eight_devices(SPREAD.format(system='prepare(load(Path("tests/small.toml")))'))
