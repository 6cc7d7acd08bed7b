"""One config at every combination of listed values: a run folder each, one table of all metrics.

A cell is a run like any other: its folder can be reported, and a sweep that was stopped goes on where it was. Cells whose
systems have the same shapes share a compiled program, so they stay in one process.
"""

import csv
import io
import itertools
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from .config import ConfigError, parse_override, put, read_toml
from .folder import read_json, same_config, write_json, write_text
from .memory import chunk_of
from .provenance import made_with
from .run import Study, build, check_size, execute, finish, from_table, prepare, resolved

PREFIX = "grid."
MOST = 10_000  # cells: more is a slip of the pen
RETRIES = 3  # of a cell whose worker died
COLUMNS = ("value", "std_error", "low", "high", "unit", "paths")

Report = Callable[[str], None]


class Cell(NamedTuple):
    """One combination: what it is called, the values of the swept keys, the tables of its config, its folder."""

    number: int
    values: dict[str, Any]
    table: dict[str, Any]
    folder: Path

    def __str__(self) -> str:
        return ", ".join(f"{key.rsplit('.', 1)[-1]}={plain(value)}" for key, value in self.values.items())


def plain(value: Any) -> str:
    """A value of a key as text: numbers and names as they are, lists and tables as JSON."""
    return value if isinstance(value, str) else json.dumps(value)


def cells(config: Path, words: tuple[str, ...], out: Path) -> list[Cell]:
    """All combinations of the words `grid.KEY=[...]`, on top of the words `KEY=VALUE`; the first key varies slowest.

    **Raises:** `ConfigError` naming the word when there is nothing to sweep or too much.
    """
    grid: dict[str, list[Any]] = {}
    fixed = []
    for word in words:
        key, value = parse_override(word)
        if not key.startswith(PREFIX):
            fixed.append((key, value))
            continue
        key = key.removeprefix(PREFIX)
        if not isinstance(value, list) or not value:
            raise ConfigError(f"{word!r}: expected a list of values, for example grid.{key}=[1.0, 2.0]")
        if key in grid:
            raise ConfigError(f"{word!r}: {key} is swept twice; put all its values into one list")
        if any(value[i] == value[j] for i in range(len(value)) for j in range(i)):
            raise ConfigError(f"{word!r}: a value stands in the list twice; leave one out")
        grid[key] = value
    if not grid:
        raise ConfigError("nothing to sweep; give at least one list, for example grid.waterfall.fund=[0, 1e6, 1e7]")
    count = int(np.prod([len(values) for values in grid.values()]))
    if count > MOST:
        raise ConfigError(f"{count:,} combinations; expected at most {MOST:,}: shorten a list of grid.")
    found = []
    for number, values in enumerate(itertools.product(*grid.values())):
        chosen = dict(zip(grid, values, strict=True))
        table = read_toml(config)
        for key, value in [*fixed, *chosen.items()]:
            put(table, key, value)
        found.append(Cell(number, chosen, table, out / f"{number:04d}"))
    return found


def execute_all(
    cells: list[Cell], out: Path, *, resume: bool, report: Report, engine: str = "auto", workers: int | None = None
) -> list[dict[str, Any]]:
    """Runs every cell, each into its folder, and writes `sweep.csv` and `sweep.json`; returns the rows of the table.

    Every config is built before the first runs, so that bad input is found at once.
    """
    _check_folder(out, resume)
    groups = _by_shape(cells)
    report(f"{len(cells)} runs, {len(groups)} compiled program(s)")
    if engine == "auto":
        engine = "local" if len(groups) == 1 else "processes"
    out.mkdir(parents=True, exist_ok=True)
    for done, (cell, summary) in enumerate(_ENGINES[engine](groups, workers or os.cpu_count() or 1), 1):
        debt = summary["metrics"]["expected_bad_debt"]
        value, (low, high) = (_text(debt["value"]), map(_text, debt["ci95"]))
        report(f"{done} of {len(cells)}: {cell}: expected bad debt {value} USD ({low} to {high})")
    rows = [row for cell in cells for row in _rows(cell)]
    write_text(out / "sweep.csv", _csv(rows))
    keys = list(cells[0].values)
    listed = [{"folder": cell.folder.name, **cell.values} for cell in cells]
    write_json(out / "sweep.json", {"keys": keys, "cells": listed, "engine": engine} | made_with())
    return rows


def _text(number: float | None) -> str:
    return "n/a" if number is None or not np.isfinite(number) else f"{number:.4g}"


def _check_folder(out: Path, resume: bool) -> None:
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out}: is a file; choose another --out")
    if resume and not out.is_dir():
        raise ConfigError(f"{out}: holds no sweep to go on with; leave out --resume or mend --out")
    if not resume and out.is_dir() and any(out.iterdir()):
        raise ConfigError(f"{out}: is not empty; add --resume to go on with a sweep or choose another --out")


def _by_shape(cells: list[Cell]) -> list[list[Cell]]:
    """Cells in groups that run the same compiled program."""
    groups: dict[Any, list[Cell]] = {}
    for cell in cells:
        try:
            study = from_table(cell.table)
            check_size(study, cell.folder)
            if (config := cell.folder / "config.toml").exists():
                same_config(config, resolved(study))
            system = build(study)
            leaves, tree = jax.tree.flatten(system)
            shape = (
                tree,
                tuple((np.shape(leaf), np.asarray(leaf).dtype) for leaf in leaves),
                chunk_of(study.run, system),
            )
            if shape not in groups:
                prepare(study)
        except ConfigError as error:
            raise ConfigError("\n".join(f"{line} (at {cell})" for line in str(error).splitlines())) from None
        groups.setdefault(shape, []).append(cell)
    return list(groups.values())


def run_cell(cell: Cell) -> tuple[Cell, dict[str, Any]]:
    """Runs a cell, goes on with it, or takes up what it gave."""
    study: Study = from_table(cell.table)
    if (cell.folder / "run.json").exists():
        return cell, read_json(cell.folder / "summary.json")
    summary = execute(study, cell.folder, resume=(cell.folder / "config.toml").exists())
    finish(cell.folder, study, summary)
    return cell, summary


def _local(groups: list[list[Cell]], workers: int) -> Iterator[tuple[Cell, dict[str, Any]]]:
    del workers  # a run keeps every core busy already
    for group in groups:
        yield from map(run_cell, group)


def _run_group(group: list[Cell]) -> list[tuple[Cell, dict[str, Any]]]:
    return [run_cell(cell) for cell in group]


def _keep_programs_in(cache: str | None) -> None:
    jax.config.update("jax_compilation_cache_dir", cache)


def _processes(groups: list[list[Cell]], workers: int) -> Iterator[tuple[Cell, dict[str, Any]]]:
    cache = jax.config.values["jax_compilation_cache_dir"]
    pool = ProcessPoolExecutor(min(workers, len(groups)), get_context("spawn"), _keep_programs_in, (cache,))
    try:
        for done in as_completed([pool.submit(_run_group, group) for group in groups]):
            yield from done.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _ray(groups: list[list[Cell]], workers: int) -> Iterator[tuple[Cell, dict[str, Any]]]:
    """Cells as tasks of the cluster that `RAY_ADDRESS` names, else of one started here; folders must be on a shared disk.

    A task whose worker dies is tried again and goes on from the parts that it has written.
    """
    try:
        import ray  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ConfigError("--engine ray: Ray is not installed; run: pip install 'tailrisk-jax[ray]'") from None
    started = not ray.is_initialized()
    if started:
        here = {} if "RAY_ADDRESS" in os.environ else {"num_cpus": workers, "include_dashboard": False}
        ray.init(log_to_driver=False, **here)
    try:
        task = ray.remote(num_cpus=1, max_retries=RETRIES)(run_cell)
        absolute = [cell._replace(folder=cell.folder.absolute()) for group in groups for cell in group]
        waiting = [task.remote(cell) for cell in absolute]
        while waiting:
            (ready,), waiting = ray.wait(waiting)
            yield ray.get(ready)
    finally:
        if started:
            ray.shutdown()


_ENGINES: dict[str, Callable[[list[list[Cell]], int], Iterator[tuple[Cell, dict[str, Any]]]]] = {
    "local": _local,
    "processes": _processes,
    "ray": _ray,
}


def _rows(cell: Cell) -> Iterator[dict[str, Any]]:
    """The table in long form: one row for each metric of the cell."""
    summary = read_json(cell.folder / "summary.json")
    for name, metric in summary["metrics"].items():
        low, high = metric["ci95"]
        found = (metric["value"], metric["std_error"], low, high, metric["unit"], summary["paths"])
        yield {**cell.values, "metric": name, **dict(zip(COLUMNS, found, strict=True))}


def _csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    table = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows({key: "" if item is None else plain(item) for key, item in row.items()} for row in rows)
    return text.getvalue()
