"""Times of archives: epoch seconds, milliseconds, microseconds or nanoseconds, or text in UTC, all to microseconds of UTC.

The unit of a number is told by its size: 1e11 s is the year 5138, 1e11 ms is 1973, and no market here is older. Spot
files of Binance changed from ms to us on 1 January 2025, so a column that was put together from both is read as well.
"""

import datetime
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Int64

from .._fields import InputError
from ._tables import seconds

SECOND = 10**6  # us
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR
_LATEST = 4 * 10**15  # us: October 2096


def microseconds(text: str, where: str) -> int:
    """The time that an ISO text says, UTC unless it names a zone, in microseconds since 1970."""
    return round(seconds(text, where) * SECOND)


def iso(time: Any) -> str:
    """A time in microseconds as text, to the digits that it has."""
    moment = datetime.datetime.fromtimestamp(0, datetime.UTC) + datetime.timedelta(microseconds=int(time))
    return moment.replace(tzinfo=None).isoformat(sep=" ").removesuffix("000")


def times_of(pa: Any, column: Any, where: Callable[[int], str], name: str) -> Int64[np.ndarray, " rows"]:
    """A column of an Arrow table as microseconds since 1970, UTC; text without a zone is UTC."""
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("us", column.type.tz), safe=False)
        times = column.cast(pa.int64())
    elif pa.types.is_date(column.type):
        times = column.cast(pa.timestamp("us")).cast(pa.int64())
    elif pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = pa.compute.utf8_trim_whitespace(column)
        first = next((value.as_py() for value in column if value.is_valid), "")
        is_number = first.replace(".", "", 1).isdigit()
        times = _converted(pa, column, _of_number if is_number else _of_text, where, name)
    else:
        times = _converted(pa, column, _of_number, where, name)
    found = times.fill_null(0).to_numpy(zero_copy_only=False)
    wrong = np.flatnonzero((found <= 0) | (found > _LATEST))
    if wrong.size:
        i = int(wrong[0])
        raise InputError(
            f"{where(i)}: {name} = {column[i].as_py()!r}, expected a time between 1970 and 2096; mend the row"
        )
    return found


def _of_number(pa: Any, column: Any) -> Any:
    try:
        found = column.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    except pa.ArrowException:  # decimals; a double holds the microseconds of our time
        found = column.cast(pa.float64()).fill_null(0).to_numpy(zero_copy_only=False)
        found = np.where(np.abs(found) < 1e18, found, 0.0)  # what is no time is refused by the caller
    multiple = np.select([found < 10**11, found < 10**14], [10**6, 10**3], 1)
    scaled = np.where(found >= 10**17, found // 1000, found * multiple)
    return pa.array(np.rint(scaled).astype(np.int64))


def _of_text(pa: Any, column: Any) -> Any:
    for unit in ("us", "ns"):  # some feeds write seven digits of a second
        for zone in (None, "UTC"):
            try:
                return column.cast(pa.timestamp(unit, zone)).cast(pa.timestamp("us", zone), safe=False).cast(pa.int64())
            except pa.ArrowException:
                continue
    raise pa.ArrowInvalid("no time in one format")


def _converted(pa: Any, column: Any, convert: Callable[[Any, Any], Any], where: Callable[[int], str], name: str) -> Any:
    """Converts a column at once; the first cell that cannot be read, or differs in form from the first, is named."""
    try:
        return convert(pa, column)
    except pa.ArrowException:
        low, high = 0, len(column)  # the shortest part from the first cell on that fails
        while high - low > 1:
            middle = (low + high) // 2
            try:
                convert(pa, column[:middle])
                low = middle
            except pa.ArrowException:
                high = middle
        raise InputError(
            f"{where(high - 1)}: {name} = {column[high - 1].as_py()!r}, expected a time like that of the first row, "
            f"{column[0].as_py()!r}, or like 1760054400000 or 2025-10-10 00:00:00; mend the row"
        ) from None
