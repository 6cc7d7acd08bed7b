"""Timing several programs that do the same work, fairly: agreement first, then turn by turn in one process."""

import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..study.folder import write_json

Contestant = Callable[[int, int], dict[str, np.ndarray]]  # (paths, seed) -> outcomes by path
LIMIT = 4.0  # combined standard errors within which means must agree


class Timing(NamedTuple):
    """Medians over the repeats, and the rate of each; `cores` is processor time over wall time."""

    rate: float  # work per second
    per_core: float  # work per second of processor time
    cores: float
    first: float  # seconds of the first call, compilation included
    rates: tuple[float, ...]  # work per second, in turn


def disagreements(outcomes: dict[str, dict[str, np.ndarray]]) -> list[str]:
    """Means of the first contestant against those of every other one; a line for each that is too far off."""
    (first, ours), *others = outcomes.items()
    lines = []
    for name, theirs in others:
        for key in sorted(ours.keys() & theirs.keys()):
            a, b = np.asarray(ours[key], float), np.asarray(theirs[key], float)
            error = (a.var(ddof=1) / a.size + b.var(ddof=1) / b.size) ** 0.5
            if not abs(a.mean() - b.mean()) <= LIMIT * error:
                lines.append(
                    f"{key}: {first} {a.mean():.6g}, {name} {b.mean():.6g}, apart by more than {LIMIT:g} x {error:.2g}"
                )
    return lines


def race(
    contestants: dict[str, Contestant], paths: int, work: float, repeats: int, seed: int = 1
) -> tuple[dict[str, dict[str, np.ndarray]], Callable[[], dict[str, Timing]]]:
    """Outcomes of one call of each, and a function that times them: A B C A B C ..., `work` units a call."""
    first, outcomes = {}, {}
    for name, call in contestants.items():
        started = time.perf_counter()
        outcomes[name] = call(paths, seed)
        first[name] = time.perf_counter() - started

    def timings() -> dict[str, Timing]:
        spent: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
        for turn in range(repeats):
            for name, call in contestants.items():
                wall, processor = time.perf_counter(), time.process_time()
                call(paths, seed + 1 + turn)
                spent[name].append((time.perf_counter() - wall, time.process_time() - processor))
        return {name: _median(work, np.array(spent[name]), first[name]) for name in contestants}

    return outcomes, timings


def _median(work: float, spent: np.ndarray, first: float) -> Timing:
    wall, processor = spent.T
    return Timing(
        rate=float(np.median(work / wall)),
        per_core=float(np.median(work / processor)),
        cores=float(np.median(processor / wall)),
        first=first,
        rates=tuple((work / wall).tolist()),
    )


def save(out: Path | None, name: str, results: dict[str, Any]) -> None:
    """Writes the results of a benchmark into a folder, if one is given; numbers that are not finite become null."""
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / name, results)


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    import jax

    versions = {}
    for name in ("tailrisk-jax", "jax", "jaxlib", "numpy", "numba", "torch"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    device = jax.devices()[0]
    load = os.getloadavg() if hasattr(os, "getloadavg") else (float("nan"),)
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "device": f"{device.platform} {device.device_kind}",
        "load": round(load[0], 2),
        "python": platform.python_version(),
        "versions": versions,
    }


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
