"""How many paths run at a time, from a memory budget, and the memory that a run took."""

import os
import sys
from typing import Any

import jax
import numpy as np

from ..scenario import VenueSystem
from ..simulate import LANES, cached_paths, state_bytes
from .config import ConfigError

STATES = 6  # of a path in a batch: XLA asks for 1.2 (ladder) to 4.7 (accounts) of them beside noise and outcomes
OUTCOMES = 28  # numbers of one path


def memory_bytes() -> float:
    """Memory of this machine; infinite where the system does not say."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):
        return float("inf")


def device_bytes() -> float:
    """Memory of the device that runs paths: of the machine for a CPU."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return float(stats.get("bytes_limit", memory_bytes()))


def path_bytes(system: VenueSystem) -> int:
    """Memory that one path of a batch may take: six states, its noise twice, its outcomes."""
    numbers = 2 * (system.draws.normals + system.draws.uniforms) + OUTCOMES
    return STATES * state_bytes(system) + numbers * np.dtype(system.dtype).itemsize


def batches_at_a_time() -> int:
    """Batches that share the memory of a device: one for each core of a CPU (`simulate.spread`)."""
    return (os.cpu_count() or 1) if jax.default_backend() == "cpu" else 1


def chunk_of(run: Any, system: VenueSystem) -> int:
    """Paths of one compiled batch: `run.chunk`, or the largest power of two that the budget allows, 64 at least.

    The budget is `run.memory`, else half of the device's memory, over the batches that run at a time. More than a part never
    runs at a time, nor more than a core's caches hold (`simulate.cached_paths`). No result depends on it.

    **Raises:** `ConfigError` if so many paths do not fit.
    """
    each, at_a_time = path_bytes(system), batches_at_a_time()
    share = float(run.memory) * 1e9 or 0.5 * device_bytes()
    most = min(run.part, cached_paths(system) if jax.default_backend() == "cpu" else run.part)
    fits = int(min(share / at_a_time / each, most))
    chunk = run.chunk or max(LANES, 1 << max(fits, 1).bit_length() - 1)
    needed = each * at_a_time * min(chunk, most, run.paths + LANES)
    limit = (float(run.memory) * 1e9 or device_bytes()) if not run.chunk else device_bytes()
    if needed > limit:
        given = f"run.chunk = {run.chunk}" if run.chunk else f"run.memory = {float(run.memory):g}"
        raise ConfigError(
            f"{given}: {at_a_time} x {min(chunk, most)} paths at once with {each / 1e3:,.1f} kB each need about "
            f"{needed / 1e9:,.2g} GB of memory, there is {limit / 1e9:,.2g} GB; "
            + ("lower run.chunk" if run.chunk else "raise run.memory or lower the number of accounts")
        )
    return chunk


def peak_bytes() -> int | None:
    """The most memory this process has held at once (resident set); None where the system does not say.

    Linux hands `ru_maxrss` on from the process that started this one, so the kernel's own record of this one is read first.
    """
    try:
        with open("/proc/self/status") as file:
            for line in file:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
