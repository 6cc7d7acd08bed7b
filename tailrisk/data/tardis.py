"""CSV files of tardis.dev."""

from pathlib import Path

from ._columns import read_columns
from ._rows import table_of
from .tables import Trades


def read_trades(path: Path | str) -> Trades:
    """Tick trades of one market and day, by the time of the venue, in us."""
    columns = read_columns(path)
    fields = {
        "time": columns.time("timestamp"),
        "price": columns.real("price"),
        "amount": columns.real("amount"),
        "is_sell": columns.side("side", "sell", "buy"),
    }
    return table_of(Trades, columns, fields, keys=[columns.code("id")], symbol=columns.symbol())
