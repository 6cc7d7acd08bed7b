"""What a run costs in time and memory as paths, steps, accounts and assets grow, and what 1e12 paths would cost.

Points of a sweep are timed in turn, several times, in processor time, after a call that compiles. The memory of a batch is what
the compiler asks for, exactly; that of a run is the peak of a process of its own.
"""

import dataclasses
import functools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from .. import _streams
from ..scenario import Scenario, VenueSystem
from ..simulate import batch, entry_point, simulate
from .models import accounts_scenario, basket_scenario, ladder_scenario
from .timing import machine, save

STEPS, LADDER, GROUPS, ASSETS = (72, 288, 1152), (200, 2_000, 20_000), (64, 256, 1024), (1, 2, 4)
PATHS = 4_096
GROUP_PATHS = 256
SHORT = 36  # steps of the sweeps over groups and assets


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Systems by size, and the paths that each is timed with."""

    unit: str
    systems: dict[int, VenueSystem]
    paths: int


def sweeps() -> dict[str, Sweep]:
    """One quantity varies in each; the rest is that of the speed benchmark."""
    ladder = ladder_scenario(2_000)
    hours = {steps: dataclasses.replace(ladder, horizon=f"{5 * steps}min") for steps in STEPS}
    groups = {n: dataclasses.replace(accounts_scenario(n), horizon=f"{5 * SHORT}min") for n in GROUPS}

    def built(scenarios: dict[int, Scenario]) -> dict[int, VenueSystem]:
        return {size: scenario.build(np.float32) for size, scenario in scenarios.items()}

    return {
        "steps": Sweep("steps of a ladder of 2,000 accounts", built(hours), PATHS),
        "ladder": Sweep("accounts of a ladder, 288 steps", built({n: ladder_scenario(n) for n in LADDER}), PATHS),
        "groups": Sweep(f"accounts of the accounts kernel, {SHORT} steps", built(groups), GROUP_PATHS),
        "assets": Sweep(
            f"assets of 256 cross accounts, {SHORT} steps", built({n: _assets(n) for n in ASSETS}), GROUP_PATHS
        ),
    }


def _assets(assets: int) -> Scenario:
    return dataclasses.replace(basket_scenario(assets), horizon=f"{5 * SHORT}min")


def fit(size: ArrayLike, cost: ArrayLike) -> dict[str, float]:
    """Exponent and factor of cost = factor x size^exponent by least squares of logarithms, with the error of the exponent."""
    x, y = np.log(np.asarray(size, float)), np.log(np.asarray(cost, float))
    slope = float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())
    rest = y - y.mean() - slope * (x - x.mean())
    error = float(np.sqrt((rest**2).sum() / max(x.size - 2, 1) / ((x - x.mean()) ** 2).sum()))
    return {"exponent": slope, "std_error": error, "factor": float(np.exp(y.mean() - slope * x.mean()))}


def timed(calls: dict[int, Callable[[int], Any]], repeats: int) -> dict[int, list[float]]:
    """Processor seconds of every call, in turn: A B C A B C ..., after one call of each; the argument is the turn."""
    for call in calls.values():
        call(0)
    spent: dict[int, list[float]] = {size: [] for size in calls}
    for turn in range(repeats):
        for size, call in calls.items():
            began = time.process_time()
            call(turn + 1)
            spent[size].append(time.process_time() - began)
    return spent


def measure(sweep: Sweep, repeats: int) -> dict[str, Any]:
    """Processor seconds and bytes per path by size, with fitted exponents."""
    calls = {size: functools.partial(_simulate, system, sweep.paths) for size, system in sweep.systems.items()}
    spent = timed(calls, repeats)
    sizes = np.array(list(spent))
    seconds = np.array(list(spent.values())) / sweep.paths
    memory = np.array([batch_bytes(system, sweep.paths) for system in sweep.systems.values()])
    return {
        "unit": sweep.unit,
        "paths": sweep.paths,
        "size": sizes,
        "seconds": seconds,
        "bytes": memory,
        "time": fit(np.repeat(sizes, repeats), seconds.reshape(-1)),
        "memory": fit(sizes, memory),
    }


def _simulate(system: VenueSystem, paths: int, turn: int) -> Any:
    return simulate(system, paths=paths, seed=turn)


def batch_bytes(system: VenueSystem, paths: int) -> float:
    """Bytes per path that a compiled batch asks for: temporary memory and outcomes."""
    lowered = entry_point(batch).lower(system, _streams.noise_keys(0, "market"), jnp.zeros(paths, jnp.uint32))
    found = lowered.compile().compiled.memory_analysis()
    return (found.temp_size_in_bytes + found.output_size_in_bytes) / paths


def over_paths(config: Path, most: int, repeats: int) -> dict[str, Any]:
    """Whole runs of a config from 1e4 paths on, each in a process of its own, in turn; the first of each compiles."""
    sizes = [10**k for k in range(4, 1 + round(np.log10(most)))]
    seconds: dict[int, list[float]] = {size: [] for size in sizes}
    peaks: dict[int, list[int]] = {size: [] for size in sizes}
    for turn in range(repeats):
        for size in sizes:
            with tempfile.TemporaryDirectory() as folder:
                words = [str(config), f"run.paths={size}", f"run.seed={turn}", "--out", f"{folder}/run"]
                subprocess.run([sys.executable, "-m", "tailrisk.cli", "run", *words], check=True, capture_output=True)
                about = json.loads((Path(folder) / "run" / "run.json").read_text())
            seconds[size].append(about["processor_seconds"])
            peaks[size].append(about["peak_bytes"])
    return whole_runs(sizes, list(seconds.values()), list(peaks.values()))


def whole_runs(sizes: list[int], seconds: list[list[float]], peaks: list[list[int]]) -> dict[str, Any]:
    """What whole runs took; their time is a + b n, start, compilation and figures being a, so b is fitted and no exponent."""
    x = np.concatenate([np.full(len(row), size) for size, row in zip(sizes, seconds, strict=True)]).astype(float)
    y = np.concatenate(seconds)
    slope = ((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum()
    fixed = y.mean() - slope * x.mean()
    error = np.sqrt(((y - fixed - slope * x) ** 2).sum() / max(x.size - 2, 1) / ((x - x.mean()) ** 2).sum())
    each = {"per_path": float(slope), "std_error": float(error), "fixed": float(fixed)}
    return {"size": sizes, "seconds": seconds, "bytes": peaks, "time": each, "memory": fit(x, np.concatenate(peaks))}


def run(paths: int, repeats: int, out: Path | None) -> int:
    """Measures all sweeps, prints the exponents and writes `scale.json`, `scaling.md` and a figure into `out`."""
    from ..figures import style
    from . import scale_report

    found: dict[str, Any] = {"machine": machine(), "repeats": repeats, "sweeps": {}}
    for name, sweep in sweeps().items():
        found["sweeps"][name] = measure(sweep, repeats)
        click.echo(scale_report.line(name, found["sweeps"][name]))
    config = Path(__file__).resolve().parents[2] / "configs" / "scale.toml"
    if config.is_file():
        found["sweeps"]["paths"] = over_paths(config, paths or 10**6, repeats)
        click.echo(scale_report.line("paths", found["sweeps"]["paths"]))
    found = scale_report.plain(found)
    if out is not None:
        save(out, "scale.json", found)
        (out / "scaling.md").write_text(scale_report.report(found), "utf-8")
        style.save(scale_report.draw(found), out, "scaling")
    return 0
