"""From a config to a finished run folder: parts on disk, then estimates, then figures."""

import hashlib
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np

from .._fields import InputError, Real, choice, count, real
from .._streams import MAX_PATHS, Noise
from ..scenario import Scenario, VenueSystem
from ..simulate import LANES, rollout, simulate
from ..tails.venue import VenueProblem
from .config import ConfigError, apply_override, dump, read_toml, structure
from .folder import free_bytes, memory_bytes, prepare_folder, read_arrays, write_arrays, write_json
from .observe import observe
from .rare import Answer, Told, answers, entries
from .summary import summarize

_OUTCOMES = 28  # numbers of one path
_COPIES = 3  # of the results in memory at the end, and of a path's state while a step is computed


class Run(eqx.Module):
    """How a scenario is estimated.

    `paths` plain paths give every metric and the figures. With another `estimator` than "monte_carlo" the tail, which is the
    value-at-risk and expected shortfall at `levels` and the chance that the fund runs out, gets paths of its own: "tilt" weighted
    paths, "splitting" (of the last alone, without tilts), "auto" the tilt where a pilot says that it pays.
    """

    paths: int = count(100_000, least=1)  # per book
    books: int = count(1, least=1)  # draws of the book, each with `paths` paths
    seed: int = count(0, most=2**64 - 1)
    chunk: int = count(16_384, least=1)  # paths of one compiled batch: bounds memory, changes no number
    part: int = count(2**16, least=1)  # paths between two saves, the work a killed run may lose; changes no number
    precision: str = choice("float32", "float32", "float64")
    levels: Real = real([0.99, 0.999], unit="1", above=0.0, below=1.0)  # of value-at-risk and expected shortfall
    confidence: Real = real(0.95, unit="1", above=0.0, below=1.0)
    watch: int = count(2000)  # paths whose steps are kept for the figures
    estimator: str = choice("monte_carlo", "monte_carlo", "tilt", "splitting", "auto")  # of the tail, see below
    tail_paths: int = count(100_000, least=1)  # weighted paths of every target of the tail
    split_paths: int = count(0)  # paths of splitting, which is also the check of a tilt for the fund; 0: none
    pilot: int = count(10_000, least=1000)  # paths of each round in which a tilt is tuned

    def check(self) -> Iterator[tuple[str, str]]:
        if self.estimator != "monte_carlo" and self.books > 1:
            yield "estimator", f"is {self.estimator!r} with {self.books} books, expected one book; use monte_carlo"
        if self.estimator == "splitting" and not self.split_paths:
            yield "split_paths", "is 0, expected the paths that splitting may use, for example 100000"
        if np.ndim(self.levels) != 1 or np.size(self.levels) == 0:
            yield "levels", f"{np.asarray(self.levels).tolist()}: expected a list of at least one level, such as [0.99]"
        if np.ndim(self.confidence):
            yield "confidence", f"{np.asarray(self.confidence).tolist()}: expected one number, such as 0.95"


class Study(eqx.Module):
    """A config file: the scenario's tables at the top level and a table `run`."""

    scenario: Scenario
    run: Run


def load(path: Path, overrides: tuple[str, ...] = ()) -> Study:
    """Reads a config with its include and overrides; a `path` in an override is relative to the working folder."""
    table = read_toml(path)
    for text in overrides:
        apply_override(table, text)
    return from_table(table)


def from_table(table: dict[str, Any]) -> Study:
    """Builds the typed tree of a study from its tables."""
    table = dict(table)
    run = table.pop("run", {})
    table.pop("tune", None)  # what is decided about the scenario is read by the command that tunes it
    complaints, parts = [], {}
    for name, value, cls in (("scenario", table, Scenario), ("run", run, Run)):
        try:
            parts[name] = structure(value, cls, "run" if name == "run" else "")
        except ConfigError as error:
            complaints += str(error).splitlines()
    if complaints:
        raise ConfigError("\n".join(complaints))
    return Study(**parts)


def resolved(study: Study) -> str:
    """The study as one TOML text without includes, defaults written out."""
    scenario, run = dump(study.scenario), dump(study.run)
    body = run.split("\n", 1)[1]
    return f"{scenario}\n[run]\n{body}".replace('kind = "Scenario"\n', "", 1)


def check_size(study: Study, folder: Path) -> None:
    """Refuses a run whose results cannot fit before anything starts."""
    run = study.run
    paths = run.paths * run.books
    disk = 2 * paths * _OUTCOMES * np.dtype(run.precision).itemsize  # parts and results
    memory = disk / 2 * _COPIES
    for needed, there, where in (
        (disk, free_bytes(folder), f"disk at {folder}"),
        (memory, memory_bytes(), "memory"),
    ):
        if needed > there:
            raise ConfigError(
                f"run.paths = {run.paths}: the results of {paths:,} paths need {needed / 1e9:,.1f} GB of {where}, "
                f"which has {there / 1e9:,.1f} GB; lower run.paths" + (" or run.books" if run.books > 1 else "")
            )
    if run.paths > MAX_PATHS:
        raise ConfigError(f"run.paths = {run.paths}: expected at most 2^32 paths per seed; lower run.paths")


def use_precision(precision: str) -> Any:
    """The dtype of a run; switches JAX to 64 bits when asked (an application's choice, never made on import)."""
    if precision == "float64":
        jax.config.update("jax_enable_x64", True)
    return np.dtype(precision)


def prepare(study: Study) -> VenueSystem:
    """The system of the first book, traced once, so that parts that do not fit together are found before a run starts.

    **Raises:** `ConfigError` saying what does not fit.
    """
    system = build(study, 0)
    if study.run.estimator != "monte_carlo":
        VenueProblem(system)  # says so if the noise of the market cannot be tilted
    try:
        jax.eval_shape(_one_path, system)
    except (TypeError, ValueError) as error:
        raise _misfit(study.scenario, error) from None
    state = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(jax.eval_shape(system.init)))
    needed = state * _COPIES * min(study.run.chunk, study.run.paths + LANES)
    if needed > memory_bytes():
        raise ConfigError(
            f"run.chunk = {study.run.chunk}: that many paths at once with {state / 1e3:,.1f} kB each need about "
            f"{needed / 1e9:,.1f} GB of memory, which has {memory_bytes() / 1e9:,.1f} GB; lower run.chunk"
        )
    return system


def build(study: Study, draw: int = 0) -> VenueSystem:
    """The system of a draw of the book, in the precision of the run.

    **Raises:** `ConfigError` saying what does not fit.
    """
    try:
        return study.scenario.build(use_precision(study.run.precision), draw)
    except InputError as error:
        raise ConfigError(str(error)) from None
    except (TypeError, ValueError, IndexError) as error:
        raise _misfit(study.scenario, error) from None


def _one_path(system: VenueSystem) -> Any:
    draws = system.draws
    noise = Noise(*(jax.numpy.full(size, 0.5, system.dtype) for size in (draws.normals, draws.uniforms)))
    return system.outcome(rollout(system, lambda _: noise)[0])


def _misfit(scenario: Scenario, error: Exception) -> Exception:
    """The lists of a scenario that are not one entry per asset, if there are any; else the error is a bug and stays."""
    assets = np.size(scenario.price)
    parts = {
        name: getattr(scenario, name) for name in ("margin", "impact", "liquidation", "oracle", "breaker", "waterfall")
    }
    parts["market"] = scenario.market
    leaves = jax.tree_util.tree_leaves_with_path(parts)
    odd = [
        f"{jax.tree_util.keystr(path, simple=True, separator='.')} of shape {np.shape(leaf)}"
        for path, leaf in leaves
        if np.ndim(leaf) and np.shape(leaf)[0] not in (1, assets)
    ]
    if not odd:
        return error
    return ConfigError(
        f"shapes do not fit together: price has {assets} asset(s), but there is {' and '.join(odd)}; give one number, "
        f"or one for each asset ({type(error).__name__}: {str(error).splitlines()[0]})"
    )


def execute(
    study: Study,
    folder: Path,
    *,
    resume: bool = False,
    report: Callable[[int, int, np.ndarray], None] | None = None,
    told: Told | None = None,
) -> dict[str, Any]:
    """Runs a study into a folder and returns its summary.

    Parts of `run.part` paths are written as they are done; a killed run resumed with the same config gives the same
    bytes.
    `report(done, all, bad_debt)` is called after every chunk, `told` hears of the targets of the tail.
    """
    started = time.time()
    run = study.run
    check_size(study, folder)
    first = prepare(study)
    prepare_folder(folder, resolved(study), resume)
    paths = _paths(study, first, folder, report)
    results = {f"path/{name}": value for name, value in paths.items()}
    results |= observe(study.scenario, first, run, paths)
    found: list[Answer] = []
    if run.estimator != "monte_carlo":
        found, weighted = answers(run, first, paths, folder, told or Told())
        results |= weighted
    write_arrays(folder / "results.npz", results)
    summary = summarize(study.scenario, run, first, paths, results)
    if found:
        metrics, tail = entries(found, paths, float(run.confidence))
        summary["metrics"] |= metrics
        summary["tail"] = tail
    summary["wall_seconds"] = time.time() - started
    write_json(folder / "summary.json", summary)
    return summary


def made_with() -> dict[str, Any]:
    """Commit, versions and device: what numbers were made with."""
    return {
        "commit": commit(),
        "versions": {name: version(name) for name in ("jax", "jaxlib", "equinox", "numpy")}
        | {"tailrisk": package_version()},
        "python": platform.python_version(),
        "device": str(jax.devices()[0].device_kind),
        "platform": jax.devices()[0].platform,
    }


def finish(folder: Path, study: Study, summary: dict[str, Any]) -> None:
    """Writes `run.json`, which means that the run is finished, and removes the parts."""
    text = (folder / "config.toml").read_bytes()
    write_json(
        folder / "run.json",
        made_with()
        | {
            "precision": study.run.precision,
            "seed": study.run.seed,
            "config_sha256": hashlib.sha256(text).hexdigest(),
            "wall_seconds": summary["wall_seconds"],
        }
        | (
            {"tail": {name: {k: one[k] for k in ("estimator", "why")} for name, one in summary["tail"].items()}}
            if "tail" in summary
            else {}
        ),
    )
    shutil.rmtree(folder / "parts", ignore_errors=True)


def _paths(study: Study, first_book: VenueSystem, folder: Path, report: Any) -> dict[str, np.ndarray]:
    run = study.run
    done, total = 0, run.paths * run.books
    parts: list[dict[str, np.ndarray]] = []
    size_of_part = run.chunk * max(1, run.part // run.chunk)
    for draw in range(run.books):
        system = first_book if draw == 0 else None
        for first in range(0, run.paths, size_of_part):
            size = min(size_of_part, run.paths - first)
            file = folder / "parts" / f"{draw:04d}-{first:012d}.npz"
            before = done

            def progress(result: dict[str, np.ndarray]) -> None:
                nonlocal done
                done += result["bad_debt"].size
                if report:
                    report(done, total, result["bad_debt"])

            if file.exists():
                part = _stored(file, size, parts)
                progress(part)
            else:
                system = system or build(study, draw)
                part = simulate(system, paths=size, first=first, seed=run.seed, chunk=run.chunk, progress=progress)
                write_arrays(file, part)
            done = before + size
            parts.append(part | {"book": np.full(size, draw, np.int32)})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _stored(file: Path, size: int, parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """A part of an earlier attempt, if it holds what this version of the program writes."""
    part = read_arrays(file, "delete it and resume the run")
    wanted = parts[0].keys() - {"book"} if parts else part.keys()
    if part.keys() != wanted or "bad_debt" not in part or any(value.shape != (size,) for value in part.values()):
        raise ConfigError(
            f"{file}: not a part of this run, expected {size} paths of each outcome; delete it and resume"
        )
    return part


def package_version() -> str:
    return version("tailrisk-jax")


def commit() -> str | None:
    """Commit of the checkout this package runs from, if it runs from one."""
    here = Path(__file__).resolve().parent
    try:
        out = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, timeout=5, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return out.stdout.strip()
