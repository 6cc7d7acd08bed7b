"""`metrics`: open interest and ratios of longs to shorts, every five minutes."""

from pathlib import Path

from .._columns import read_columns
from .._rows import table_of
from ..tables import OpenInterest

RATIOS = {
    "account_ratio": "count_long_short_ratio",
    "top_account_ratio": "count_toptrader_long_short_ratio",
    "top_position_ratio": "sum_toptrader_long_short_ratio",
    "taker_ratio": "sum_taker_long_short_vol_ratio",
}


def read_metrics(path: Path | str) -> OpenInterest:
    """Rows of one file; ratios are empty texts in old coin-margined files and for most of 2022, nan here.

    The value of open interest is in USDT for USD-margined contracts, in coins for coin-margined ones. Times are as
    written. Comparing them with trades, others found that a row describes the moment of its time up to 3 March 2024 and
    the moment five minutes later since; whoever needs it to the minute should test that on the days at hand.
    """
    columns = read_columns(path)
    fields = {
        "time": columns.time("create_time"),
        "open_interest": columns.real("sum_open_interest"),
        "value": columns.real("sum_open_interest_value"),
    }
    fields |= {name: columns.real(column, optional=True) for name, column in RATIOS.items()}
    return table_of(OpenInterest, columns, fields, symbol=columns.symbol())
