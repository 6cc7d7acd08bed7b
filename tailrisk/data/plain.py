"""Tables of one's own (CSV, also .gz or .zip, Parquet, Feather): any table with a header, by a map of its columns."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from .._fields import InputError
from ._columns import Columns, read_columns
from ._rows import table_of
from ._tables import hint
from .tables import Bars, Depth, Funding, Liquidations, OpenInterest, Table, Trades

_NEEDED = {
    Bars: ("open", "high", "low", "close"),
    Trades: ("price", "amount", "is_sell"),
    Funding: ("rate", "interval"),
    OpenInterest: ("open_interest",),
    Liquidations: ("is_long", "amount", "price"),
}
_SIDES = {"is_sell": ("sell", "buy"), "is_long": ("sell", "buy")}  # of the aggressive order; of the order that closes
TAKER_SELL = "taker_sell_volume"  # may stand for `taker_buy_volume`, which is the volume less this


def read_plain(
    path: Path | str,
    kind: type[Table],
    columns: Mapping[str, str | float] | None = None,
    where: Mapping[str, str] | None = None,
) -> Table:
    """A table of the given kind whose fields are the named columns, or numbers that hold for all rows.

    Fields that `columns` leaves out are read from the column of their own name where there is one, else they are nan;
    `where` keeps the rows in which columns have these values. A side is true or false, or sell or buy.

    Example: `read_plain("rates.csv.gz", Funding, {"time": "date", "rate": "funding_rate", "interval": 8.0})`.
    """
    if kind is Depth:
        raise InputError(
            f"{path}: a column map gives one row per time, but Depth has bands; use binance.read_book_depth"
        )
    names = [field.name for field in dataclasses.fields(kind) if field.name != "source"]
    given = dict(columns or {})
    for name in given:
        if name not in names and not (name == TAKER_SELL and "taker_buy_volume" in names):
            raise InputError(f"{path}: {kind.__name__} has no field {name!r}{hint(name, names)}")
    table = read_columns(path)
    for name, wanted in (where or {}).items():
        table = table.only(name, wanted)
    if "time" not in given and not table.has("time"):
        given["time"] = next((name for name in ("open_time", "date", "timestamp") if table.has(name)), "time")
    values = {name: _field(table, name, given.get(name, name), name in _NEEDED[kind]) for name in names}
    if TAKER_SELL in given:
        values["taker_buy_volume"] = values["volume"] - _field(table, TAKER_SELL, given[TAKER_SELL], True)
    return table_of(kind, table, values, symbol=table.symbol())


def _field(table: Columns, name: str, column: str | float, needed: bool) -> np.ndarray:
    if not isinstance(column, str):
        return np.full(len(table.row), float(column))
    if name == "time":
        return table.time(column)
    if name in _SIDES:
        text = set(np.char.lower(table.text(column)).tolist())
        return table.flag(column) if text <= {"true", "false"} else table.side(column, *_SIDES[name])
    return table.real(column, optional=not needed and column == name)
