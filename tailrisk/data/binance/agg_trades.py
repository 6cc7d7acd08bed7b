"""`aggTrades`: trades at one price that one aggressive order made at once."""

from pathlib import Path

from .._columns import read_columns
from .._rows import table_of
from ..tables import Trades

NAMES = ("agg_trade_id", "price", "quantity", "first_trade_id", "last_trade_id", "transact_time", "is_buyer_maker")


def read_agg_trades(path: Path | str) -> Trades:
    """Trades of one file: spot (no header, ms or us, True/False, one column more) or futures (header, ms, true/false)."""
    columns = read_columns(path, NAMES, (*NAMES, "is_best_match"))
    fields = {
        "time": columns.time("transact_time"),
        "price": columns.real("price"),
        "amount": columns.real("quantity"),
        "is_sell": columns.flag("is_buyer_maker"),
    }
    return table_of(Trades, columns, fields, keys=[columns.whole("agg_trade_id")])
