"""Numbers and tables of a Markdown page whose columns line up in plain text too."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np


def number(value: Any, digits: int = 4) -> str:
    if value is None or (isinstance(value, float) and not np.isfinite(value)):
        return "-"
    return f"{value:.{digits}g}"


def estimate(value: float | None, error: float | None) -> str:
    return "-" if value is None or error is None else f"{number(value)} ± {number(1.96 * error, 2)}"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    """A Markdown table whose columns line up in plain text too."""
    lines = [list(head), *(list(row) for row in rows)]
    widths = [max(len(line[k]) for line in lines) for k in range(len(lines[0]))]

    def shown(line: list[str]) -> str:
        first, *others = zip(line, widths, strict=True)
        return "| " + " | ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]) + " |"

    yield shown(lines[0])
    yield "|" + "|".join(("-" * (w + 1) + ":") if k else "-" * (w + 2) for k, w in enumerate(widths)) + "|"
    yield from map(shown, lines[1:])
    yield ""


def compact(head: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    """A Markdown table whose cells are as wide as what they hold."""
    head = list(head)
    for row in (head, ["---"] * len(head), *rows):
        yield f"| {' | '.join(row)} |"
    yield ""
