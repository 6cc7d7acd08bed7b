"""From a config to a finished run folder: parts on disk, then estimates, then figures."""

import hashlib
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np

from .._fields import InputError, Real, choice, count, real
from .._streams import MAX_PATHS, Noise
from ..scenario import Scenario, VenueSystem
from ..simulate import rollout
from ..tails.moments import Moments
from ..tails.venue import VenueProblem
from . import hosts, parts
from .config import ConfigError, apply_override, dump, read_toml, structure
from .folder import free_bytes, prepare_folder, same_config, write_arrays, write_json
from .memory import OUTCOMES, chunk_of, memory_bytes, peak_bytes
from .observe import observe
from .provenance import made_with
from .rare import Answer, Told, answers, entries
from .summary import curves, summarize

_COPIES = 3  # of the results in memory at the end


class Run(eqx.Module):
    """How a scenario is estimated.

    `paths` plain paths give every metric and the figures, in memory that does not grow beyond `rows` of them. With another
    `estimator` than "monte_carlo" the tail, which is the value-at-risk and expected shortfall at `levels` and the chance that
    the fund runs out, gets paths of its own: "tilt" weighted paths, "splitting" (of the last alone, none tilted), "auto" the
    tilt where a pilot says that it pays.
    """

    paths: int = count(100_000, least=1)  # per book
    books: int = count(1, least=1)  # draws of the book, each with `paths` paths
    seed: int = count(0, most=2**64 - 1)
    chunk: int = count(0)  # paths of one compiled batch, 0: as many as fit into `memory`; changes no number
    memory: Real = real(0.0, unit="GB", least=0.0)  # of the batches that run at a time, 0: half of what the device has
    part: int = count(2**16, least=1)  # paths between two saves, the work a killed run may lose; changes no number
    rows: int = count(1_000_000)  # paths whose numbers are kept one by one; of more, quantiles come from bins of 0.1 %
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
        if self.estimator != "monte_carlo" and self.paths > self.rows:
            said = f"is {self.estimator!r} with {self.paths} paths, of which {self.rows} (rows) are kept one by one"
            yield "estimator", f"{said}, expected all of them; lower paths, raise rows, or use monte_carlo"
        if self.estimator == "splitting" and not self.split_paths:
            yield "split_paths", "is 0, expected the paths that splitting may use, for example 100000"
        if np.ndim(self.levels) != 1 or np.size(self.levels) == 0:
            yield "levels", f"{np.asarray(self.levels).tolist()}: expected a list of at least one level, such as [0.99]"
        if np.ndim(self.memory):
            yield "memory", f"{np.asarray(self.memory).tolist()}: expected one number of GB"
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
    paths = parts.kept(run) * run.books
    disk = 2 * paths * OUTCOMES * np.dtype(run.precision).itemsize  # parts and results
    memory = disk / 2 * _COPIES
    for needed, there, where in (
        (disk, free_bytes(folder), f"disk at {folder}"),
        (memory, memory_bytes(), "memory"),
    ):
        if needed > there:
            raise ConfigError(
                f"run.rows = {run.rows}: the results of {paths:,} paths need {needed / 1e9:,.1f} GB of {where}, "
                f"which has {there / 1e9:,.1f} GB; lower run.rows or run.paths"
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
    chunk_of(study.run, system)
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
    report: Callable[[int, int, Moments], None] | None = None,
    told: Told | None = None,
) -> dict[str, Any]:
    """Runs a study into a folder and returns its summary.

    Parts of `run.part` paths are written as they are done; a killed run resumed with the same config gives the same
    bytes.
    `report(done, all, bad_debt)` is called after every chunk with the moments of its bad debt, `told` hears of the targets
    of the tail.
    """
    started = time.time()
    run = study.run
    first = simulate_parts(study, folder, resume=resume, report=report)
    tallies, rows = parts.gather(run, folder)
    results = {f"path/{name}": value for name, value in rows.items()} | curves(tallies, run)
    results |= observe(study.scenario, first, run, tallies[0], rows)
    found: list[Answer] = []
    if run.estimator != "monte_carlo":
        found, weighted = answers(run, first, rows, folder, told or Told())
        results |= weighted
    write_arrays(folder / "results.npz", results)
    summary = summarize(study.scenario, run, first, tallies, rows, float(results["gross"]))
    if found:
        metrics, tail = entries(found, rows, float(run.confidence))
        summary["metrics"] |= metrics
        summary["tail"] = tail
    summary["wall_seconds"] = time.time() - started
    summary["peak_bytes"] = peak_bytes()
    write_json(folder / "summary.json", summary)
    return summary


def simulate_parts(
    study: Study,
    folder: Path,
    *,
    resume: bool = False,
    report: Callable[[int, int, Moments], None] | None = None,
) -> VenueSystem:
    """Makes what is missing of the paths, this process its share, and waits for the others; the system of the first book.

    Every process calls this; of several, that with number 0 calls it through `execute`.
    """
    run, alone = study.run, jax.process_count() == 1
    with hosts.together():
        check_size(study, folder)
        first = prepare(study)
        if jax.process_index() == 0:
            prepare_folder(folder, resolved(study), resume)
            hosts.clear(folder)
    with hosts.together():  # nobody writes before all have seen what is there
        if jax.process_index() > 0:
            same_config(folder / "config.toml", resolved(study))
        missing = parts.to_do(run, folder)
        there = list(parts.already(run, folder)) if alone else []
    mine = hosts.share(missing)
    done, total = 0, sum(part.last - part.first for part in mine) + sum(int(m.count) for m in there)

    def progress(bad_debt: Moments) -> None:
        nonlocal done
        done += int(bad_debt.count)
        if report:
            report(done, total, bad_debt)

    for moments in there:
        progress(moments)
    with hosts.noted(folder):
        parts.work(
            run, mine, lambda draw: build(study, draw) if draw else first, chunk_of(run, first), folder, progress
        )
    hosts.wait(run, folder)
    return first


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
            "processor_seconds": time.process_time(),
            "peak_bytes": peak_bytes(),
            "processes": jax.process_count(),
        }
        | (
            {"tail": {name: {k: one[k] for k in ("estimator", "why")} for name, one in summary["tail"].items()}}
            if "tail" in summary
            else {}
        ),
    )
    shutil.rmtree(folder / "parts", ignore_errors=True)
