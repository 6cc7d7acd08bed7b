"""`fundingRate`: what longs paid to shorts, one file a month."""

from pathlib import Path

from .._columns import read_columns
from .._rows import table_of
from ..tables import Funding


def read_funding_rate(path: Path | str) -> Funding:
    """Payments of one file; times are those of the calculation, up to some milliseconds after the hour."""
    columns = read_columns(path)
    fields = {
        "time": columns.time("calc_time"),
        "rate": columns.real("last_funding_rate"),
        "interval": columns.real("funding_interval_hours"),
    }
    return table_of(Funding, columns, fields)
