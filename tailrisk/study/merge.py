"""Runs of one config with several seeds as one: more paths than a seed has, or a run made larger later.

Seeds give independent paths, so moments, counts and bins of losses add up as those of draws of a book do, and every metric has
the interval of all paths together. What shows single paths is taken from the first run.
"""

import json
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from . import tally as tallies
from .config import ConfigError
from .folder import differences, prepare_folder, read_arrays, write_arrays, write_json
from .provenance import made_with
from .run import Study, from_table, prepare
from .summary import rungs, summarize
from .tally import Tally

MAY_DIFFER = ("run.seed", "run.paths", "run.rows", "run.chunk", "run.memory", "run.part", "run.watch")


class Made(NamedTuple):
    """A finished run: its config as text and as a tree, what it found, and the summary of its paths."""

    folder: Path
    text: str
    study: Study
    summary: dict[str, Any]
    results: dict[str, np.ndarray]
    tally: Tally


def read(folder: Path) -> Made:
    """A finished run of plain paths of one book.

    **Raises:** `ConfigError` for anything else.
    """
    if not (folder / "run.json").is_file():
        raise ConfigError(f"{folder}: holds no finished run (no run.json); give folders that `tailrisk run` wrote")
    if "merged" in json.loads((folder / "run.json").read_text("utf-8")):
        raise ConfigError(f"{folder}: was merged itself; give the runs that it was made of")
    text = (folder / "config.toml").read_text("utf-8")
    study, results = from_table(tomllib.loads(text)), read_arrays(folder / "results.npz")
    run = study.run
    if run.estimator != "monte_carlo" or run.books > 1:
        raise ConfigError(
            f"{folder}: run.estimator is {run.estimator!r} and run.books is {run.books}; only runs with "
            '"monte_carlo" and one book are merged'
        )
    summary = json.loads((folder / "summary.json").read_text("utf-8"))
    return Made(folder, text, study, summary, results, _tally(folder, study, results))


def _tally(folder: Path, study: Study, results: dict[str, np.ndarray]) -> Tally:
    stored = {name.removeprefix("tally/"): value for name, value in results.items() if name.startswith("tally/")}
    if stored:
        return tallies.from_arrays(stored)
    rows = rows_of(results)
    if not rows or rows["bad_debt"].size != study.run.paths:
        raise ConfigError(
            f"{folder}/results.npz: holds no summary of all paths; run the config again with this version"
        )
    return tallies.tally(0, rows, float(tallies.LEDGER_TOLERANCE[study.run.precision]))


def rows_of(results: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The numbers of single paths."""
    return {name.removeprefix("path/"): value for name, value in results.items() if name.startswith("path/")}


def check(runs: list[Made]) -> None:
    """Refuses runs that are not of one config, and seeds that occur twice.

    **Raises:** `ConfigError` naming the folder and the key.
    """
    first = runs[0]
    for other in runs[1:]:
        for key, was, now in differences(tomllib.loads(first.text), tomllib.loads(other.text)):
            if key not in MAY_DIFFER:
                raise ConfigError(
                    f"{other.folder}: {key} is {now!r}, in {first.folder} it is {was!r}; merge runs of one config"
                )
    seen: dict[int, Path] = {}
    for one in runs:
        seed = int(one.study.run.seed)
        if seed in seen:
            raise ConfigError(
                f"{one.folder}: run.seed = {seed} is that of {seen[seed]}, so the paths are the same; use another seed"
            )
        seen[seed] = one.folder


def merge(folders: list[Path], out: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Makes one run of several into a folder; its summary and what the figures need."""
    if len(folders) < 2:
        raise ConfigError("expected at least two run folders to merge")
    runs = [read(folder) for folder in folders]
    check(runs)
    study, several = runs[0].study, [one.tally for one in runs]
    parts = [rows_of(one.results) for one in runs]
    rows = {name: np.concatenate([part[name] for part in parts])[: study.run.rows] for name in parts[0]}
    paths = sum(one.paths for one in several)
    prepare_folder(out, runs[0].text, resume=False)
    (out / "parts").rmdir()
    gross = float(runs[0].results["gross"])
    summary = summarize(study.scenario, study.run, prepare(study), several, rows, gross) | {
        "rows": int(rows["bad_debt"].size) if rows else 0,
        "seeds": [int(one.study.run.seed) for one in runs],
        "wall_seconds": sum(one.summary["wall_seconds"] for one in runs),
        "peak_bytes": max((one.summary["peak_bytes"] or 0) for one in runs) or None,
    }
    results = {
        name: value for name, value in runs[0].results.items() if not name.startswith(("path/", "bins/", "tally/"))
    }
    results |= {f"path/{name}": value for name, value in rows.items()}
    results |= rungs(several) if not rows or rows["bad_debt"].size < paths else {}
    write_arrays(out / "results.npz", results)
    write_json(out / "summary.json", summary)
    made = [{"folder": one.folder.name, "seed": int(one.study.run.seed), "paths": one.tally.paths} for one in runs]
    write_json(out / "run.json", made_with() | {"precision": study.run.precision, "merged": made})
    return summary, results
