"""From the columns of a file to a table: rows that the file holds twice are dropped and counted."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64

from ._columns import Columns
from .tables import Source, Table


def table_of(
    kind: type[Table],
    columns: Columns,
    fields: Mapping[str, np.ndarray],
    keys: Sequence[np.ndarray] = (),
    symbol: str = "",
    by_time: bool = False,
) -> Table:
    """A table of the given kind without the rows that equal an earlier one in all fields and other `keys`.

    The first key is what tells rows apart best, such as a number of trades. With `by_time` rows are put in that order.
    """
    kept = distinct(*keys, *fields.values())
    if by_time:
        kept = kept[np.argsort(fields["time"][kept], kind="stable")]
    parts: dict[str, Any] = {name: values[kept] for name, values in fields.items()}
    return kind(**parts, source=source_of(columns, kept, symbol))


def source_of(
    columns: Columns, kept: Int64[np.ndarray, " rows"], symbol: str = "", repeated: int | None = None
) -> Source:
    """The source of the kept rows of one file; what was not kept was repeated, unless said otherwise."""
    repeated = len(columns.row) - len(kept) if repeated is None else repeated
    return Source(np.zeros(len(kept), np.int64), columns.row[kept], (str(columns.path),), symbol, repeated)


def distinct(*keys: np.ndarray) -> Int64[np.ndarray, " rows"]:
    """The places of rows that differ from every row before them in some key, in the order of the file."""
    rows = len(keys[0])
    if np.all(np.diff(keys[0]) > 0):  # so nothing repeats
        return np.arange(rows)
    bits = [key.view(np.int64) if key.dtype == np.float64 else key for key in keys]  # nan equals itself
    order = np.lexsort(bits[::-1])
    same = np.logical_and.reduce([key[order][1:] == key[order][:-1] for key in bits])
    repeats = np.zeros(rows, bool)
    repeats[order[1:][same]] = True  # the sort is stable: the first of equals stays
    return np.flatnonzero(~repeats)
