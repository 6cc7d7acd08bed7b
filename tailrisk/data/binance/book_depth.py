"""`bookDepth`: resting orders within nested bands of percent around the mid price, every 30 seconds or so."""

from pathlib import Path

import numpy as np

from ..._fields import InputError
from .._columns import read_columns
from .._rows import distinct, source_of
from .._times import iso
from ..tables import Depth


def read_book_depth(path: Path | str) -> Depth:
    """Snapshots of one file; bands that a snapshot lacks are nan."""
    columns = read_columns(path)
    time, percent = columns.time("timestamp"), columns.real("percentage")
    depth, notional = columns.real("depth"), columns.real("notional")
    kept = distinct(time, percent, depth, notional)
    time, percent, depth, notional = time[kept], percent[kept], depth[kept], notional[kept]
    starts = np.flatnonzero(np.append(True, np.diff(time) != 0))
    snapshot = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(time))))
    bands, band = np.unique(percent, return_inverse=True)
    cell = snapshot * len(bands) + band
    twice = np.setdiff1d(np.arange(len(cell)), np.unique(cell, return_index=True)[1])
    if twice.size:
        i = twice[0]
        raise InputError(
            f"{path} row {columns.row[kept[i]]}: a second, different value of band {percent[i]:g} % at {iso(time[i])}, "
            "expected one; remove the wrong row"
        )
    tables = [np.full(len(starts) * len(bands), np.nan) for _ in range(2)]
    for table, values in zip(tables, (depth, notional), strict=True):
        table[cell] = values
    depths, notionals = (table.reshape(len(starts), len(bands)) for table in tables)
    where = source_of(columns, kept[starts], repeated=len(columns.row) - len(kept))
    return Depth(
        time=time[starts], depth=depths, notional=notionals, source=where, bands=tuple((bands / 100.0).tolist())
    )
