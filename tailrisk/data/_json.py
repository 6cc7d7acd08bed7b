"""JSON files and JSON lines as columns, with the line or entry of each row."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .._fields import InputError
from ._columns import Columns, arrow, content


def read_json(path: Path) -> Any:
    """The value that a file holds."""
    try:
        return json.loads(content(path))
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON: {error}; fetch the file again if it is cut short") from None


def read_lines(path: Path) -> list[tuple[int, Any]]:
    """The value of each line that is not empty, with its number from 1."""
    values = []
    for number, line in enumerate(content(path).splitlines(), start=1):
        if line.strip():
            try:
                values.append((number, json.loads(line)))
            except ValueError as error:
                raise InputError(f"{path} row {number}: not valid JSON: {error}; remove or mend the line") from None
    return values


def columns_of(
    path: Path, names: Sequence[str], rows: Sequence[Mapping[str, Any] | Sequence[Any]], numbers: Sequence[int] = ()
) -> Columns:
    """Rows of JSON, lists or objects, as columns of text; `numbers` are their lines, else entries count from 1."""
    numbers = numbers or range(1, len(rows) + 1)
    if not rows:
        raise InputError(f"{path}: holds no rows, expected at least 1 with {', '.join(names)}")
    cells: list[list[str | None]] = [[] for _ in names]
    for number, row in zip(numbers, rows, strict=True):
        known = (
            row.get if isinstance(row, Mapping) else dict(zip(names, row, strict=False)).get if _is_list(row) else None
        )
        if known is None:
            raise InputError(f"{path} row {number}: {row!r:.60}, expected a list or an object with {', '.join(names)}")
        for name, column in zip(names, cells, strict=True):
            value = known(name)
            column.append(None if value is None else str(value))
    pa = arrow(path)
    table = pa.table({name: pa.array(column, pa.string()) for name, column in zip(names, cells, strict=True)})
    return Columns(path, table, np.array(numbers, np.int64))


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)
