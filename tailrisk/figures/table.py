"""The numbers of a run as plain text."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from .style import short_number

_SHARES = ("_probability", "_share", "margin_cost")  # dimensionless metrics that read as percent
_BASIS_POINTS = 1e-3  # shares below this are given in basis points


def format_table(summary: Mapping[str, Any]) -> str:
    """Metrics with value, 95 % interval and unit, one a line, and below them what to know before using them."""
    rows = [("metric", "value", "95 % interval", "unit")]
    notes: dict[str, int] = {}  # metrics with the same note share its number
    for name, metric in summary.get("metrics", {}).items():
        marker = ""
        if metric.get("note"):
            marker = f" ({notes.setdefault(metric['note'], len(notes) + 1)})"
        value, interval, unit = _row(name, metric)
        rows.append((name, value, interval, unit + marker))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [
        f"{name:<{widths[0]}}  {value:>{widths[1]}}  {interval:<{widths[2]}}  {unit}".rstrip()
        for name, value, interval, unit in rows
    ]
    lines.insert(1, "-" * max(map(len, lines)))
    footnotes = [f"({number}) {note}" for note, number in notes.items()]
    return "\n".join([*_head(summary), *lines, *footnotes, *_over_books(summary), *_warnings(summary)])


def _over_books(summary: Mapping[str, Any]) -> list[str]:
    """Quantiles over draws of the book, where there are several."""
    spread = summary.get("between_books")
    if not spread:
        return []
    levels = list(next(iter(spread.values())))
    lines = [f"{'mean of each book, over books':<30}" + "".join(f"{level:>10}" for level in levels)]
    for name, quantiles in spread.items():
        lines.append(
            f"{name:<30}" + "".join(f"{short_number(quantiles[level], 3, strip=False):>10}" for level in levels)
        )
    return lines


def _row(name: str, metric: Mapping[str, Any]) -> tuple[str, str, str]:
    value, (low, high) = metric.get("value"), metric.get("ci95") or (None, None)
    unit, scale = str(metric.get("unit", "1")), 1.0
    if unit == "1" and name.endswith(_SHARES):
        size = max((abs(number) for number in (value, high) if number is not None and _known(number)), default=0.0)
        unit, scale = ("bp", 1e4) if 0.0 < size < _BASIS_POINTS else ("%", 1e2)
    digits = _digits(value, low, high)

    def text(number: float | None) -> str:
        return short_number(scale * number, digits, strip=False) if number is not None and _known(number) else "n/a"

    if not (_known(low) and _known(high)):
        interval = "-"
    elif low == high and not metric.get("note"):  # computed, not estimated
        interval = "exact"
    else:
        interval = f"{text(low)} to {text(high)}"
    return text(value), interval, "" if unit == "1" else unit


def _digits(value: float | None, low: float | None, high: float | None) -> int:
    """As many significant digits as the interval supports, three at least."""
    if value is None or low is None or high is None or not (_known(low) and _known(high)) or not value or low == high:
        return 3
    return int(np.clip(np.ceil(-np.log10((high - low) / abs(value))) + 1, 3, 6))


def _known(number: float | None) -> bool:
    return number is not None and bool(np.isfinite(number))


def _head(summary: Mapping[str, Any]) -> list[str]:
    parts = []
    if "paths" in summary:
        parts.append(f"{summary['paths']:,} paths")
    if "steps" in summary:
        parts.append(f"{summary['steps']:,} steps")
    if summary.get("books", 1) > 1:
        parts.append(f"{summary['books']} books")
    if "gross_notional" in summary:
        parts.append(f"{short_number(summary['gross_notional'])} USD gross notional")
    if "seed" in summary:
        parts.append(f"seed {summary['seed']}")
    if "wall_seconds" in summary:
        parts.append(f"{summary['wall_seconds']:.3g} s")
    if summary.get("peak_bytes"):
        parts.append(f"{summary['peak_bytes'] / 1e9:.2g} GB at most")
    return [", ".join(parts)] if parts else []


def _warnings(summary: Mapping[str, Any]) -> list[str]:
    """Flags that are up and how well money was conserved."""
    lines = [f"flag {name}: {count:,}" for name, count in summary.get("flags", {}).items() if count]
    if _known(summary.get("ledger_residual")):
        lines.append(f"largest ledger residual: {summary['ledger_residual']:.1e} of gross notional")
    return lines
