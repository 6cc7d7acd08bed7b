"""Which format a file has, by the names and number of its columns, and its table."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .._fields import InputError
from . import binance, bybit, freqtrade, hyperliquid, tardis
from ._columns import content, first_cells, has_header
from ._json import read_json, read_lines
from .plain import read_plain
from .tables import AbstractTable, Bars

_Reader = Callable[[Path], Any]
_BY_COLUMNS: tuple[tuple[set[str], _Reader], ...] = (
    ({"percentage", "depth", "notional"}, binance.read_book_depth),
    ({"create_time", "sum_open_interest"}, binance.read_metrics),
    ({"calc_time", "last_funding_rate"}, binance.read_funding_rate),
    ({"original_quantity", "accumulated_fill_quantity"}, binance.read_liquidation_snapshot),
    ({"agg_trade_id", "is_buyer_maker"}, binance.read_agg_trades),
    ({"open_time", "close_time", "taker_buy_volume"}, binance.read_klines),
    ({"exchange", "local_timestamp", "side", "amount"}, tardis.read_trades),
    ({"open", "high", "low", "close"}, lambda path: read_plain(path, Bars)),
)
_BY_COUNT: dict[int, _Reader] = {  # of columns, in files without a header
    12: binance.read_klines,
    8: binance.read_agg_trades,
    7: binance.read_agg_trades,
    6: bybit.read_klines,
}
_FORMATS = (
    "Binance klines, aggTrades, bookDepth, metrics, fundingRate or liquidationSnapshot; Bybit klines, funding or "
    "liquidations; Tardis trades; Hyperliquid fills or funding; freqtrade candles; a table with open, high, low and close"
)


def read(path: Path | str) -> AbstractTable:
    """The table of a file in any of the known formats; other tables are read by `read_plain` and a map of columns."""
    path = Path(path)
    if not content(path):
        raise InputError(f"{path}: the file is empty; fetch it again")
    reader = _reader(path)
    if reader is None:
        raise InputError(f"{path}: not in a format known here ({_FORMATS}); give its kind and its columns")
    return reader(path)


def _reader(path: Path) -> _Reader | None:
    kinds = set(path.suffixes)
    if kinds & {".feather", ".parquet"}:
        return (
            freqtrade.read_funding
            if "funding_rate" in path.name
            else freqtrade.read_candles
            if _is_pair(path)
            else _plain
        )
    if ".json" in kinds:
        return _of_json(path, read_json(path))
    if kinds & {".jsonl", ".ndjson", ".lz4"}:
        return _of_line(read_lines(path))
    cells = first_cells(content(path))
    if has_header(cells):
        return next((reader for names, reader in _BY_COLUMNS if names <= set(cells)), None)
    return _BY_COUNT.get(len(cells))


def _plain(path: Path) -> Bars:
    return read_plain(path, Bars)


def _is_pair(path: Path) -> bool:
    return "-" in path.name and path.name.split("-")[0].count("_") in (1, 2)


def _of_json(path: Path, value: Any) -> _Reader | None:
    if isinstance(value, Mapping) and "result" in value:
        rows = (value["result"] or {}).get("list") or [[]]
        return bybit.read_funding if isinstance(rows[0], Mapping) else bybit.read_klines
    if isinstance(value, Mapping) and "marginTiers" in value:
        raise InputError(f"{path}: a margin table, not market data; read it with data.hyperliquid.read_margin_table")
    if isinstance(value, list) and value and isinstance(value[0], Mapping):
        return next((reader for name, reader in _OF_OBJECTS if name in value[0]), None)
    if isinstance(value, list):
        return freqtrade.read_funding if "funding_rate" in path.name else freqtrade.read_candles
    return None


_OF_OBJECTS: tuple[tuple[str, _Reader], ...] = (
    ("fundingRate", hyperliquid.read_funding),
    ("px", hyperliquid.read_fills),
)


def _of_line(lines: list[tuple[int, Any]]) -> _Reader | None:
    """By the first line that says something."""
    for _, line in lines:
        if isinstance(line, list) or (isinstance(line, Mapping) and "events" in line):
            return hyperliquid.read_fills
        if isinstance(line, Mapping) and ("d" in line or "liquidation" in str(line.get("topic", "")).lower()):
            return bybit.read_liquidations
    return None
