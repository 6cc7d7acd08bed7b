"""From a config to a finished run folder: parts on disk, then estimates, then figures."""

import hashlib
import platform
import subprocess
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np

from .._fields import Real, choice, count, real
from .._streams import MAX_PATHS
from ..scenario import Scenario, VenueSystem
from ..simulate import simulate
from .config import ConfigError, apply_override, dump, read_toml, structure
from .folder import free_bytes, prepare_folder, read_arrays, write_arrays, write_json
from .observe import observe
from .summary import summarize

PART = 2**16  # paths of one part on disk


class Run(eqx.Module):
    """How a scenario is estimated."""

    paths: int = count(100_000, least=1)  # per book
    books: int = count(1, least=1)  # draws of the book, each with `paths` paths
    seed: int = count(0)
    chunk: int = count(4096, least=1)  # paths of one compiled batch
    precision: str = choice("float32", "float32", "float64")
    levels: Real = real([0.99, 0.999], unit="1", above=0.0, below=1.0)  # of value-at-risk and expected shortfall
    confidence: Real = real(0.95, unit="1", above=0.0, below=1.0)
    watch: int = count(2000)  # paths whose steps are kept for the figures
    estimator: str = choice("monte_carlo", "monte_carlo")


class Study(eqx.Module):
    """A config file: the scenario's tables at the top level and a table `run`."""

    scenario: Scenario
    run: Run


def load(path: Path, overrides: tuple[str, ...] = ()) -> Study:
    """Reads a config with its include and overrides; relative files in it are relative to it."""
    table = _anchor(read_toml(path), path.parent)  # overrides are written where the command is, not where the config is
    for text in overrides:
        apply_override(table, text)
    return from_table(table)


def from_table(table: dict[str, Any]) -> Study:
    """Builds the typed tree of a study from its tables."""
    table = dict(table)
    run = table.pop("run", {})
    complaints, parts = [], {}
    for name, value, cls in (("scenario", table, Scenario), ("run", run, Run)):
        try:
            parts[name] = structure(value, cls)
        except ConfigError as error:
            prefix = "run." if name == "run" else ""
            complaints += [prefix + line for line in str(error).splitlines()]
    if complaints:
        raise ConfigError("\n".join(complaints))
    return Study(**parts)


def _anchor(value: Any, folder: Path) -> Any:
    """Makes every `path` of a config relative to the working folder instead of the config."""
    if isinstance(value, dict):
        return {
            key: str(folder / item) if key == "path" and isinstance(item, str) else _anchor(item, folder)
            for key, item in value.items()
        }
    return [_anchor(item, folder) for item in value] if isinstance(value, list) else value


def resolved(study: Study) -> str:
    """The study as one TOML text without includes, defaults written out."""
    scenario, run = dump(study.scenario), dump(study.run)
    body = run.split("\n", 1)[1]
    return f"{scenario}\n[run]\n{body}".replace('kind = "Scenario"\n', "", 1)


def check_size(study: Study, folder: Path) -> None:
    """Refuses a run whose results cannot fit before anything starts."""
    run = study.run
    width = 4 if run.precision == "float32" else 8
    paths = run.paths * run.books
    bytes_needed = paths * 28 * width * 2
    free = free_bytes(folder)
    if bytes_needed > free:
        raise ConfigError(
            f"run.paths = {run.paths}: the results of {paths:,} paths need {bytes_needed / 1e9:,.1f} GB on disk and as much "
            f"memory in the end, {folder} has {free / 1e9:,.1f} GB free; lower run.paths"
        )
    if run.paths > MAX_PATHS:
        raise ConfigError(f"run.paths = {run.paths}: expected at most 2^32 paths per seed; lower run.paths")


def use_precision(precision: str) -> Any:
    """The dtype of a run; switches JAX to 64 bits when asked (an application's choice, never made on import)."""
    if precision == "float64":
        jax.config.update("jax_enable_x64", True)
    return np.dtype(precision)


def execute(
    study: Study, folder: Path, *, resume: bool = False, report: Callable[[int, int, np.ndarray], None] | None = None
) -> dict[str, Any]:
    """Runs a study into a folder and returns its summary.

    Parts of 65,536 paths are written as they are done; a killed run resumed with the same config gives the same bytes.
    `report(done, all, bad_debt)` is called after every chunk.
    """
    started = time.time()
    run, text = study.run, resolved(study)
    if (folder / "run.json").exists() and resume:
        raise ConfigError(f"{folder}: this run is finished; `tailrisk report {folder}` shows it")
    check_size(study, folder)
    dtype = use_precision(run.precision)
    systems = [study.scenario.build(dtype, draw) for draw in range(run.books)]
    prepare_folder(folder, text, resume)
    paths = _paths(systems, run, folder, report)
    results = {f"path/{name}": value for name, value in paths.items()}
    results |= observe(study.scenario, systems[0], run, paths)
    write_arrays(folder / "results.npz", results)
    summary = summarize(study.scenario, run, systems[0], paths, results)
    summary["wall_seconds"] = time.time() - started
    write_json(folder / "summary.json", summary)
    return summary


def finish(folder: Path, study: Study, summary: dict[str, Any]) -> None:
    """Removes the parts and writes `run.json`: from now on the run is finished."""
    for part in sorted((folder / "parts").glob("*.npz")):
        part.unlink()
    (folder / "parts").rmdir()
    text = (folder / "config.toml").read_bytes()
    write_json(
        folder / "run.json",
        {
            "commit": _commit(),
            "versions": {name: version(name) for name in ("jax", "jaxlib", "equinox", "numpy")} | {"tailrisk": _version()},
            "python": platform.python_version(),
            "device": str(jax.devices()[0].device_kind),
            "platform": jax.devices()[0].platform,
            "precision": study.run.precision,
            "seed": study.run.seed,
            "config_sha256": hashlib.sha256(text).hexdigest(),
            "wall_seconds": summary["wall_seconds"],
        },
    )


def _paths(systems: list[VenueSystem], run: Run, folder: Path, report: Any) -> dict[str, np.ndarray]:
    done, total = 0, run.paths * run.books
    parts: list[dict[str, np.ndarray]] = []
    part_size = run.chunk * max(1, PART // run.chunk)
    for draw, system in enumerate(systems):
        for first in range(0, run.paths, part_size):
            size = min(part_size, run.paths - first)
            file = folder / "parts" / f"{draw:04d}-{first:012d}.npz"
            if file.exists():
                part = read_arrays(file)
                done += size
                if report:
                    report(done, total, part["bad_debt"])
            else:
                before = done

                def progress(result: dict[str, np.ndarray]) -> None:
                    nonlocal done
                    done += result["bad_debt"].size
                    if report:
                        report(done, total, result["bad_debt"])

                part = simulate(system, paths=size, first=first, seed=run.seed, chunk=run.chunk, progress=progress)
                done = before + size
                write_arrays(file, part)
            part["book"] = np.full(size, draw, np.int32)
            parts.append(part)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _version() -> str:
    return version("tailrisk-jax")


def _commit() -> str | None:
    """Commit of the checkout this package runs from, if it runs from one."""
    here = Path(__file__).resolve().parent
    try:
        out = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return out.stdout.strip()
