"""Candle files of freqtrade: Feather, Parquet or JSON, one pair and kind each, in milliseconds."""

import re
from pathlib import Path

import numpy as np

from .._fields import InputError
from ._columns import Columns, read_columns
from ._json import columns_of, read_json
from ._rows import table_of
from ._times import HOUR
from .tables import Bars, Funding

NAMES = ("date", "open", "high", "low", "close", "volume")
_UNTRADED = re.compile(r"-(mark|index|premiumIndex)\.")


def read_candles(path: Path | str) -> Bars:
    """Candles of one file; those of mark and index prices have no volume."""
    path = Path(path)
    columns = _read(path)
    fields = {"time": columns.time("date")}
    fields |= {name: columns.real(name) for name in ("open", "high", "low", "close")}
    absent = np.full(len(columns.row), np.nan)
    volume = absent if _UNTRADED.search(path.name) else columns.real("volume", optional=True)
    fields |= {"volume": volume, "quote_volume": absent, "taker_buy_volume": absent, "trades": absent}
    return table_of(Bars, columns, fields, symbol=_pair(path))


def read_funding(path: Path | str, interval: float | None = None) -> Funding:
    """Funding rates of one file, kept as `open` of a candle, or under their own name by later versions.

    The interval, in hours, is the usual time between rows unless given: the name says how often they were asked for.
    """
    path = Path(path)
    columns = _read(path)
    time = columns.time("date")
    rate = columns.real("funding_rate" if columns.has("funding_rate") else "open")
    return table_of(
        Funding, columns, {"time": time, "rate": rate, "interval": intervals(path, time, interval)}, symbol=_pair(path)
    )


def intervals(path: Path, time: np.ndarray, interval: float | None) -> np.ndarray:
    """The given interval for every row, or the usual time between rows, in hours."""
    if interval is None:
        if len(time) < 2:
            raise InputError(f"{path}: one funding rate does not say its interval; give it in hours")
        interval = float(np.rint(np.median(np.abs(np.diff(time))) / HOUR))
    return np.full(len(time), float(interval))


def _read(path: Path) -> Columns:
    if ".json" not in path.suffixes:
        return read_columns(path)
    return columns_of(path, NAMES, read_json(path))


def _pair(path: Path) -> str:
    """BTC/USDT:USDT of a file BTC_USDT_USDT-5m-futures.feather."""
    parts = path.name.split("-")[0].split("_")
    return "/".join(parts[:2]) + "".join(f":{part}" for part in parts[2:3]) if len(parts) in (2, 3) else ""
