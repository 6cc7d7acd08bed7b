"""`klines`, `markPriceKlines`, `indexPriceKlines`: bars of trades, of the mark or of the index price."""

from pathlib import Path

import numpy as np

from .._columns import read_columns
from .._rows import table_of
from ..tables import Bars

NAMES = (
    "open_time",
    "open",
    "high",
    "low",
    "close",
    "volume",
    "close_time",
    "quote_volume",
    "count",
    "taker_buy_volume",
    "taker_buy_quote_volume",
    "ignore",
)


def read_klines(path: Path | str) -> Bars:
    """Bars of one file, with or without header, in ms (futures, spot before 2025) or us (spot from 2025 on).

    Mark and index klines have the columns of trades but count seconds in `count` and have no volume at all; theirs is
    nan here, since a volume of zero would say that nobody traded.
    """
    columns = read_columns(path, NAMES)
    fields = {"time": columns.time("open_time")}
    fields |= {name: columns.real(name) for name in ("open", "high", "low", "close")}
    amounts = {name: columns.real(name, optional=True) for name in ("volume", "quote_volume", "taker_buy_volume")}
    amounts["trades"] = columns.real("count", optional=True)
    if not np.nansum(amounts["volume"]) and np.nansum(amounts["trades"]):
        amounts = {name: np.full_like(values, np.nan) for name, values in amounts.items()}
    return table_of(Bars, columns, fields | amounts)
