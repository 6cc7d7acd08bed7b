"""Columns of CSV, gzipped CSV and Parquet files, with errors that name the file and the row."""

import csv
import datetime
import difflib
import gzip
import importlib.util
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .._fields import InputError

PACKAGE = "package:"  # before the name of an installed package and a file that it ships


def located(path: str) -> Path:
    """The file that a path names: itself, or one that an installed package ships. The package is not imported.

    **Raises:** `InputError` if there is no such package.
    """
    if not path.startswith(PACKAGE):
        return Path(path)
    name, _, inside = path.removeprefix(PACKAGE).partition("/")
    found = importlib.util.find_spec(name) if name.isidentifier() else None
    if found is None or not found.submodule_search_locations:
        raise InputError(
            f"{path}: no package {name!r} is installed; pip install {name or 'it'}, or give a file of yours"
        )
    return Path(found.submodule_search_locations[0]) / inside


def read_table(
    path: Path, wanted: Sequence[str], optional: Sequence[str] = (), least: int = 2
) -> tuple[dict[str, Any], np.ndarray]:
    """The wanted columns of a table, the optional ones it has, and the row number of each line in the file.

    **Raises:** ValueError if the table cannot be read, lacks a column or has no rows; `least` is what it should have.
    """
    check_exists(path, ".csv, .csv.gz or .parquet")
    try:
        if path.suffix == ".parquet":
            table, rows = _read_parquet(path, wanted, optional)
        else:
            with (
                gzip.open(path, "rt", encoding="utf-8-sig", newline="")
                if path.suffix == ".gz"
                else path.open(encoding="utf-8-sig", newline="") as file
            ):
                table, rows = _read_csv(path, csv.reader(file), wanted, optional)
    except (OSError, EOFError, UnicodeDecodeError, zlib.error, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as a table: {error}; expected .csv, .csv.gz or .parquet") from None
    if not len(rows):
        raise InputError(f"{path}: the table has no rows, expected at least {least}")
    return table, rows


def check_exists(path: Path, suffixes: str) -> None:
    """Refuses a path that is no file, with the nearest name in its folder."""
    if path.is_dir():
        raise InputError(f"{path}: is a folder, expected a {suffixes} file")
    if not path.exists():
        near = difflib.get_close_matches(
            path.name, [p.name for p in path.parent.glob("*")] if path.parent.is_dir() else [], 1
        )
        raise InputError(
            f"{path}: no such file{f'; did you mean {path.parent / near[0]}?' if near else ', check the path'}"
        )


def _read_csv(
    path: Path, reader: Iterator[list[str]], wanted: Sequence[str], optional: Sequence[str]
) -> tuple[dict[str, Any], np.ndarray]:
    header = [name.strip() for name in next(reader, [])]
    wanted = _columns(path, header, wanted, optional)
    places = [header.index(name) for name in wanted]
    columns: list[list[str]] = [[] for _ in wanted]
    rows = []
    for row, line in enumerate(reader, start=2):
        if not line:
            continue
        if len(line) != len(header):
            raise InputError(
                f"{path} row {row}: {len(line)} values, expected {len(header)} as in the header; mend the row"
            )
        rows.append(row)
        for column, place in zip(columns, places, strict=True):
            column.append(line[place])
    return dict(zip(wanted, columns, strict=True)), np.array(rows)


def _read_parquet(path: Path, wanted: Sequence[str], optional: Sequence[str]) -> tuple[dict[str, Any], np.ndarray]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise InputError(
            f"{path}: reading Parquet needs pyarrow; install tailrisk-jax[data], or give a .csv file"
        ) from None
    try:
        wanted = _columns(path, pyarrow.parquet.read_schema(path).names, wanted, optional)
        table = pyarrow.parquet.read_table(path, columns=list(dict.fromkeys(wanted)))
    except pyarrow.ArrowException as error:
        raise InputError(f"{path}: not a valid Parquet file: {error}") from None
    return {name: table[name].to_numpy() for name in wanted}, np.arange(1, table.num_rows + 1)


def _columns(path: Path, header: Sequence[str], wanted: Sequence[str], optional: Sequence[str]) -> list[str]:
    """The columns to read: all that are wanted, and the optional ones that are there."""
    if not header:
        raise InputError(f"{path}: the file is empty, expected a header with {', '.join(wanted)}")
    for name in wanted:
        if name not in header:
            raise InputError(f"{path}: no column {name!r}{hint(name, list(header))}")
    names = [*wanted, *(name for name in optional if name in header)]
    for name in names:
        if list(header).count(name) > 1:
            raise InputError(f"{path}: there are two columns {name!r}, expected one; remove or rename the other")
    return names


def numbers(raw: Any, rows: np.ndarray, path: str, name: str, remedy: str = "remove or mend the row") -> np.ndarray:
    try:
        return np.asarray(raw).astype(np.float64)
    except (ValueError, TypeError):
        for value, row in zip(np.asarray(raw).tolist(), rows, strict=True):
            try:
                float(value)
            except (ValueError, TypeError):
                raise InputError(f"{path} row {row}: {name} = {value!r}, expected a number; {remedy}") from None
        raise


def seconds(text: str, where: str) -> float:
    try:
        moment = datetime.datetime.fromisoformat(text.strip())
    except ValueError:
        raise InputError(
            f"{where}: {text!r} is no ISO time, expected for example 2020-03-12 or 2020-03-12T00:10:00"
        ) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp()


def date(seconds: Any) -> str:
    return datetime.datetime.fromtimestamp(float(seconds), datetime.UTC).strftime("%Y-%m-%d %H:%M:%S")


def hint(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return (
        f"; did you mean {near[0]!r}?"
        if near
        else f"; the file has {', '.join(known[:12])}{', ...' if len(known) > 12 else ''}"
    )
