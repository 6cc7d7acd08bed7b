"""Columns of archive files (CSV, also inside .zip or .gz, Parquet, Feather), read by Arrow without unpacking to disk.

An archive day may hold ten million rows, which is too much for Python's `csv`; hence the extra `data`. Every cell that
cannot be read is an error that names the file and the row. The first line of a CSV file is row 1.
"""

import gzip
import io
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64

from .._fields import InputError
from ._tables import check_exists, hint
from ._times import times_of

SUFFIXES = ".csv, .csv.gz, .zip, .parquet or .feather"
_NUMBER = re.compile(r"[+-]?[0-9.]+([eE][+-]?[0-9]+)?")


def arrow(path: Path | str) -> Any:
    """The module `pyarrow` with the parts that readers use."""
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.csv
        import pyarrow.feather
        import pyarrow.parquet
    except ImportError:
        raise InputError(f"{path}: reading archive files needs pyarrow; install tailrisk-jax[data]") from None
    return pyarrow


def content(path: Path) -> bytes:
    """The bytes of a file, out of its .gz, .lz4 or .zip with one member."""
    check_exists(path, SUFFIXES)
    raw = path.read_bytes()
    unpack = {".zip": _of_zip, ".gz": gzip.decompress, ".lz4": lambda raw: _of_lz4(path, raw)}.get(path.suffix)
    if unpack is None:
        return raw
    try:
        return unpack(raw)
    except Exception as error:  # a broken archive fails in any way it likes
        if isinstance(error, InputError | MemoryError):
            raise
        raise InputError(f"{path}: cannot be unpacked: {error}; it is broken or cut short, fetch it again") from None


def _of_zip(raw: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        members = [name for name in archive.namelist() if not name.endswith("/")]
        if len(members) != 1:
            raise zipfile.BadZipFile(f"it holds {len(members)} files, expected one")
        return archive.read(members[0])


def _of_lz4(path: Path, raw: bytes) -> bytes:
    pa = arrow(path)
    return pa.input_stream(pa.BufferReader(raw), compression="lz4").read()


class Columns:
    """The columns of one file by name, each as the array that its reader asks for."""

    def __init__(self, path: Path, table: Any, row: Int64[np.ndarray, " rows"]):
        self.path, self.table, self.row = path, table, row

    def has(self, name: str) -> bool:
        return name in self.table.column_names

    def where(self, i: int) -> str:
        return f"{self.path} row {self.row[i]}"

    def keep(self, chosen: Bool[np.ndarray, " rows"]) -> "Columns":
        return Columns(self.path, self.table.filter(arrow(self.path).array(chosen)), self.row[chosen])

    def real(self, name: str, optional: bool = False) -> Float64[np.ndarray, " rows"]:
        """Finite numbers; with `optional` an empty cell, or a column that is not there, is nan."""
        if optional and not self.has(name):
            return np.full(len(self.row), np.nan)
        values = self._cast(name, arrow(self.path).float64(), "a number")
        found = values.fill_null(np.nan).to_numpy(zero_copy_only=False)
        self._refuse(name, np.isinf(found) if optional else ~np.isfinite(found), "a finite number")
        return found

    def whole(self, name: str) -> Int64[np.ndarray, " rows"]:
        values = self._cast(name, arrow(self.path).int64(), "a whole number")
        self._refuse(name, _is_null(values), "a whole number")
        return values.to_numpy(zero_copy_only=False)

    def flag(self, name: str) -> Bool[np.ndarray, " rows"]:
        values = self._cast(name, arrow(self.path).bool_(), "true or false")
        self._refuse(name, _is_null(values), "true or false")
        return values.to_numpy(zero_copy_only=False)

    def text(self, name: str) -> np.ndarray:
        values = self._cast(name, arrow(self.path).string(), "text")
        return np.array(values.fill_null("").to_pylist(), dtype=str)

    def side(self, name: str, true: str, false: str) -> Bool[np.ndarray, " rows"]:
        """True where a column says `true`, False where it says `false`, in any case."""
        found = np.char.lower(self.text(name))
        self._refuse(name, (found != true.lower()) & (found != false.lower()), f"{true} or {false}")
        return found == true.lower()

    def time(self, name: str) -> Int64[np.ndarray, " rows"]:
        """Microseconds of UTC from epoch numbers or text."""
        return times_of(arrow(self.path), self._column(name), self.where, name)

    def code(self, name: str) -> Int64[np.ndarray, " rows"]:
        """A number for each different text."""
        column = self._column(name)
        return column.dictionary_encode().indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)

    def only(self, name: str, wanted: str) -> "Columns":
        """The rows in which a column has this text."""
        found = self.text(name)
        if not (found == wanted).any():
            raise InputError(f"{self.path}: no row has {name} = {wanted!r}{hint(wanted, sorted(set(found.tolist())))}")
        return self.keep(found == wanted)

    def symbol(self, name: str = "symbol") -> str:
        """The one symbol of the file, empty where it has no such column."""
        if not self.has(name):
            return ""
        known = sorted(set(self.text(name).tolist()))
        if len(known) > 1:
            raise InputError(
                f"{self.path}: has rows of {len(known)} symbols ({', '.join(known[:4])}, ...), expected those of one; "
                f'choose them, e.g. where={{"{name}": "{known[0]}"}} of read_plain, --where {name}={known[0]} of data check'
            )
        return known[0]

    def _column(self, name: str) -> Any:
        if not self.has(name):
            raise InputError(f"{self.path}: no column {name!r}{hint(name, self.table.column_names)}")
        return self.table[name].combine_chunks()

    def _cast(self, name: str, wanted: Any, expected: str) -> Any:
        pa, column = arrow(self.path), self._column(name)
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        if pa.types.is_string(column.type) and not pa.types.is_string(wanted):
            column = pa.compute.utf8_trim_whitespace(column)
        try:
            return column.cast(wanted)
        except pa.ArrowException:
            for i, value in enumerate(column):
                try:
                    value.cast(wanted)
                except pa.ArrowException:
                    raise InputError(
                        f"{self.where(i)}: {name} = {value.as_py()!r}, expected {expected}; remove or mend the row"
                    ) from None
            raise

    def _refuse(self, name: str, wrong: Bool[np.ndarray, " rows"], expected: str) -> None:
        if wrong.any():
            i = int(np.flatnonzero(wrong)[0])
            found = self._column(name)[i].as_py()
            cell = "an empty cell" if found is None else repr(found)
            raise InputError(f"{self.where(i)}: {name} is {cell}, expected {expected}; remove or mend the row")


def _is_null(values: Any) -> Bool[np.ndarray, " rows"]:
    return values.is_null().to_numpy(zero_copy_only=False)


def read_columns(path: Path | str, *headerless: Sequence[str]) -> Columns:
    """All columns of a file; `headerless` are names for the columns of a file that has no header, told by how many."""
    path = Path(path)
    pa = arrow(path)
    data = content(path)
    read = _read_binary if path.suffix in (".parquet", ".feather") else _read_csv
    columns = read(pa, path, data, headerless)
    if not len(columns.row):
        raise InputError(f"{path}: the table has no rows, expected at least 1")
    return columns


def first_cells(data: bytes) -> list[str]:
    """The cells of the first line of a CSV file."""
    line = data[:65536].removeprefix(b"\xef\xbb\xbf").split(b"\n", 1)[0].decode("utf-8", "replace")
    return [cell.strip().strip('"') for cell in line.split(",")]


def has_header(cells: Sequence[str]) -> bool:
    return not any(_NUMBER.fullmatch(cell) for cell in cells)


def _read_csv(pa: Any, path: Path, data: bytes, headerless: Sequence[Sequence[str]]) -> Columns:
    names, header = first_cells(data), True
    if names == [""]:
        raise InputError(f"{path}: the file or its first line is empty, expected a header or a row of numbers")
    if not has_header(names):
        known, header = next((known for known in headerless if len(known) == len(names)), None), False
        if known is None:
            counts = " or ".join(str(len(known)) for known in headerless)
            raise InputError(
                f"{path} row 1: {len(names)} columns without a header, expected "
                f"{f'{counts} columns' if counts else 'a header'}; add a header"
            )
        names = list(known)
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{path}: there are two columns {name!r}, expected one; remove or rename the other")
    _check_text(path, data)
    wrong: list[tuple[int, int, int]] = []

    def refuse(row: Any) -> str:
        wrong.append((row.number, row.actual_columns, row.expected_columns))
        return "error"

    try:
        table = pa.csv.read_csv(
            pa.BufferReader(data),
            read_options=pa.csv.ReadOptions(use_threads=False, column_names=names, skip_rows=int(header)),
            parse_options=pa.csv.ParseOptions(ignore_empty_lines=False, invalid_row_handler=refuse),
            convert_options=pa.csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=True, null_values=[""]
            ),
        )
    except (pa.ArrowException, UnicodeDecodeError) as error:
        if wrong:
            row, found, expected = wrong[0]
            raise InputError(
                f"{path} row {row}: {found} values, expected {expected}; mend the row, or fetch the file again if it is "
                "cut short"
            ) from None
        raise InputError(f"{path}: cannot be read as a table: {error}; expected {SUFFIXES}") from None
    columns = Columns(path, table, np.arange(table.num_rows) + 1 + header)
    blank = np.logical_and.reduce([_is_null(columns._column(name)) for name in names])
    return columns.keep(~blank) if blank.any() else columns


def _check_text(path: Path, data: bytes) -> None:
    if data.isascii():
        return
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        row = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path} row {row}: cannot be read as text: {error}; expected a table in {SUFFIXES}") from None


def _read_binary(pa: Any, path: Path, data: bytes, headerless: Sequence[Sequence[str]]) -> Columns:
    del headerless
    try:
        read = pa.parquet.read_table if path.suffix == ".parquet" else pa.feather.read_table
        table = read(pa.BufferReader(data))
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: not a valid {path.suffix[1:].capitalize()} file: {error}") from None
    return Columns(path, table, np.arange(1, table.num_rows + 1))
