"""Bybit: klines (public archive or API), funding rates (API) and liquidations (recorded websocket)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .._fields import InputError
from ._columns import arrow, read_columns
from ._json import columns_of, read_json, read_lines
from ._rows import table_of
from ._times import HOUR, times_of
from .freqtrade import intervals
from .tables import Bars, Funding, Liquidations

_KLINE = ("start", "open", "high", "low", "close", "volume", "turnover")
_ARCHIVE_CLOCK = 3 * HOUR


def read_klines(path: Path | str) -> Bars:
    """Bars of `kline_for_metatrader4` (.csv.gz without header, minutes like 2021.01.01 00:00) or of a stored API answer.

    The archive's clock is UTC+3 all year, which its files do not say: its users say so, and prices of other venues agree
    only after the shift. It is taken back here. The API answers newest first; bars come oldest first.
    """
    path = Path(path)
    if ".json" in path.suffixes:
        result = _result(path, read_json(path))
        columns = columns_of(path, _KLINE, result["list"])
        time, symbol = columns.time("start"), str(result.get("symbol", ""))
    else:
        columns = read_columns(path, _KLINE[:6])
        stamps = np.char.replace(columns.text("start"), ".", "-")
        pa = arrow(path)
        time = times_of(pa, pa.array(stamps.tolist(), pa.string()), columns.where, "start") - _ARCHIVE_CLOCK
        symbol = path.name.split("_")[0]
    fields = {"time": time} | {name: columns.real(name) for name in ("open", "high", "low", "close")}
    absent = np.full(len(time), np.nan)
    volume, turnover = columns.real("volume", optional=True), columns.real("turnover", optional=True)
    fields |= {"volume": volume, "quote_volume": turnover, "taker_buy_volume": absent, "trades": absent}
    return table_of(Bars, columns, fields, symbol=symbol, by_time=True)


def read_funding(path: Path | str, interval: float | None = None) -> Funding:
    """Rates of a stored answer of the API, oldest first; `interval` in hours is the usual one between rows unless given."""
    path = Path(path)
    columns = columns_of(
        path, ("symbol", "fundingRate", "fundingRateTimestamp"), _result(path, read_json(path))["list"]
    )
    time = columns.time("fundingRateTimestamp")
    fields = {"time": time, "rate": columns.real("fundingRate"), "interval": intervals(path, time, interval)}
    return table_of(Funding, columns, fields, symbol=columns.symbol(), by_time=True)


def read_liquidations(path: Path | str, symbol: str = "") -> Liquidations:
    """Liquidations of a recorded stream, JSON lines: topic `allLiquidation`, or the older `liquidation`.

    The side is that of the position, so Buy closes a long; the price is that of bankruptcy. The older topic gave at most
    one liquidation of a symbol in a second, so its sums are lower bounds.
    """
    path = Path(path)
    rows, numbers = [], []
    for number, message in read_lines(path):
        events = message.get("data", message.get("d")) if isinstance(message, Mapping) else None
        if events is None:
            continue  # the answer to a subscription, or a sign of life
        for event in [events] if isinstance(events, Mapping) else events:
            rows.append(_event(event))
            numbers.append(number)
    columns = columns_of(path, ("time", "symbol", "side", "amount", "price"), rows, numbers)
    if symbol:
        columns = columns.only("symbol", symbol)
    fields = {
        "time": columns.time("time"),
        "is_long": columns.side("side", "Buy", "Sell"),
        "amount": columns.real("amount"),
        "price": columns.real("price"),
        "fill_price": np.full(len(columns.row), np.nan),
    }
    return table_of(Liquidations, columns, fields, symbol=columns.symbol(), by_time=True)


def _event(event: Mapping[str, Any]) -> list[Any]:
    """Time, symbol, side, size and price under the long names of the older topic or the short ones of the newer."""
    long = ("updatedTime", "symbol", "side", "size", "price")
    return [event.get(name, event.get(short)) for name, short in zip(long, ("T", "s", "S", "v", "p"), strict=True)]


def _result(path: Path, answer: Any) -> dict[str, Any]:
    result = answer.get("result") if isinstance(answer, dict) else None
    if not isinstance(result, dict) or not isinstance(result.get("list"), list):
        said = f": it says {answer.get('retMsg')!r}" if isinstance(answer, dict) and answer.get("retMsg") else ""
        raise InputError(f"{path}: no answer of the API with result.list{said}; ask for it again")
    return result
