"""`liquidationSnapshot`: forced orders.

Like the stream that it records, it holds at most the last order of a symbol in a second, so sums are lower bounds.
"""

from pathlib import Path

from .._columns import read_columns
from .._rows import table_of
from ..tables import Liquidations


def read_liquidation_snapshot(path: Path | str) -> Liquidations:
    """Forced orders of one file by time. The archive repeats rows exactly; one of each is kept.

    `side` is that of the order, so SELL closes a long. The amount is what has been filled so far of the order.
    """
    columns = read_columns(path)
    fields = {
        "time": columns.time("time"),
        "is_long": columns.side("side", "SELL", "BUY"),
        "amount": columns.real("accumulated_fill_quantity"),
        "price": columns.real("price"),
        "fill_price": columns.real("average_price"),
    }
    return table_of(
        Liquidations,
        columns,
        fields,
        keys=[columns.real("original_quantity"), columns.real("last_fill_quantity")],
        by_time=True,
    )
