"""Order, repeats, gaps and clocks."""

import datetime
import re
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from .._times import DAY, HOUR, SECOND, iso
from ..tables import AbstractTable, Bars, Depth, Funding, OpenInterest
from .finding import Finding, found

_NAMED = re.compile(r"-(\d{4})-(\d{2})(?:-(\d{2}))?(?:\.csv)?(?:\.zip|\.gz)?$")  # SYMBOL-kind-2025-10-10.zip
_SLACK = 10 * 60 * SECOND  # files may hold the first moment of the next day, no zone is this close to UTC
_GRID = (Bars, Depth, Funding, OpenInterest)  # one row per time


def order(table: AbstractTable) -> Iterator[Finding]:
    """Rows that go back in time, or give another value for the same time."""
    steps = np.diff(table.time)
    grid = isinstance(table, _GRID)
    back = np.flatnonzero(steps < 0) + 1
    if back.size:
        i = int(back[0])
        text = f"{iso(table.time[i])} after {iso(table.time[i - 1])}; sort the file by time"
        if steps[i - 1] > -2 * HOUR and _clocks_change(table.time[i]):
            text += ", or write UTC: clocks go back an hour on this day"
        yield from found("out of order", table, back, text, grid)
    if grid:
        by_time = np.sort(table.time)
        again = by_time[1:][np.diff(by_time) == 0]
        if again.size:
            places = np.flatnonzero(table.time == again[0])[1:]
            text = f"another value for {iso(again[0])}; remove the wrong row"
            finding = found("conflict", table, places, text, True)[0]
            yield finding._replace(count=int(again.size))
    if table.source.repeated:
        where = table.source.paths[0]
        yield Finding("repeated rows", False, table.source.repeated, where, "exact copies; they were dropped")


def gaps(table: AbstractTable) -> Iterator[Finding]:
    """Times between which rows are missing, for tables with one row per interval; and bars off their grid."""
    if not isinstance(table, _GRID) or len(table) < 3:
        return
    steps = np.diff(table.time)
    usual = np.median(steps)
    if isinstance(table, Funding):
        usual = np.minimum(table.interval[1:], table.interval[:-1]) * HOUR
    least = 5.0 if isinstance(table, Depth) else 1.5  # snapshots come when they come
    wide = np.flatnonzero(steps > least * usual)
    if wide.size:
        missing = int(np.rint((steps / usual)[wide] - 1).sum())
        longest = int(wide[np.argmax(steps[wide])])
        text = (
            f"{_length(steps[wide[0]])} after {iso(table.time[wide[0]])}; {missing:,} rows missing in all, longest "
            f"{_length(steps[longest])} after {iso(table.time[longest])}; do not take returns across them"
        )
        yield from found("gap", table, wide + 1, text, False)
        spring = [i for i in wide if steps[i] == np.median(steps) + HOUR and _clocks_change(table.time[i + 1])]
        if spring:
            text = f"an hour is missing at {iso(table.time[spring[0]])}, when clocks go forward; write UTC"
            yield from found("time zone", table, np.array(spring) + 1, text, False)
    if isinstance(table, Bars):
        off = np.flatnonzero((steps > 0) & (steps % usual != 0))
        if off.size:
            step = f"{_length(steps[off[0]])} after the bar before, no multiple of {_length(usual)}"
            text = f"{step}; returns to such bars span other times"
            yield from found("off the grid", table, off + 1, text, False)


def clock(table: AbstractTable) -> Iterator[Finding]:
    """Signs that times are not UTC, or not of this world."""
    late = table.time > (time.time() + 86400.0) * SECOND
    yield from found("future", table, late, f"{iso(table.time.max())}; check the unit and the clock", True)
    for file, path in enumerate(table.source.paths):
        yield from _against_name(table, file, path)
    if isinstance(table, Funding):
        hours = table.interval * HOUR
        off = np.rint(np.mod(table.time, hours) / (HOUR / 4)) / 4  # hours after the payment that UTC would have
        odd = (off > 0.0) & (off < table.interval) & (table.interval > 1.0)
        if odd.mean() > 0.5:
            text = (
                f"payments are {np.median(off[odd]):g} h off the UTC hours that {np.median(table.interval):g} h divide; "
                "write UTC unless the venue pays then"
            )
            yield from found("time zone", table, odd, text, False)
    if isinstance(table, Bars) and table.every == DAY:
        odd = table.time % DAY != 0
        text = f"days open at {iso(table.time[0])[11:]}, not at 00:00:00; write UTC unless they are of a local day"
        yield from found("time zone", table, odd, text, False)


def _against_name(table: AbstractTable, file: int, path: str) -> Iterator[Finding]:
    """Rows outside the day or month that the name of their file says."""
    named = _NAMED.search(path)
    if not named:
        return
    year, month, day = (int(part) if part else 0 for part in named.groups())
    try:
        first = datetime.datetime(year, month, day or 1, tzinfo=datetime.UTC)
    except ValueError:
        return
    last = first + datetime.timedelta(days=1 if day else 31)
    last = last if day else last.replace(day=1)
    low, high = (round(moment.timestamp()) * SECOND for moment in (first, last))
    own = table.source.file == file
    outside = own & ((table.time < low - _SLACK) | (table.time > high + _SLACK))
    if outside.any():
        shift = (table.time[own].min() - low) / HOUR
        text = f"{iso(table.time[outside][0])} lies outside the file's {'day' if day else 'month'}"
        if 0.2 < abs(shift) < 15.0:
            text += f"; its times seem to be {abs(shift):.3g} h {'ahead of' if shift > 0 else 'behind'} UTC"
        yield from found("time zone", table, outside, text + "; write UTC, or give the file its right name", True)


def _clocks_change(moment: Any) -> bool:
    """Whether European or American clocks change on this day: a Sunday at the right end of spring or autumn."""
    day = datetime.datetime.fromtimestamp(int(moment) / SECOND, datetime.UTC)
    ranges = {3: (*range(8, 15), *range(25, 32)), 10: range(25, 32), 11: range(1, 8)}
    return day.weekday() == 6 and day.day in ranges.get(day.month, ())


def _length(microseconds: Any) -> str:
    seconds = int(microseconds) / SECOND
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"
