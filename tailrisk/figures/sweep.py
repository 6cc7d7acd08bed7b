"""Metrics of a sweep along its first key, a line for each combination of the others."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .style import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    SKY,
    VERMILION,
    house_style,
    money_axis,
    new_page,
    percent_axis,
    short_number,
)

COLORS = (BLUE, VERMILION, GREEN, ORANGE, SKY, BLACK)
MARKERS = ("o", "s", "^", "D", "v", "P")
LOG_RANGE = 20.0  # a wider range of values is drawn on a log axis
Row = Mapping[str, Any]


@house_style
def draw_sweep(keys: Sequence[str], rows: Sequence[Row]) -> Figure:
    """Expected bad debt, its highest expected shortfall, P(fund exhausted) and amplification, with 95 % intervals.

    An open point has no interval: too few of its paths carry the estimate.
    """
    names = [row["metric"] for row in rows]
    tail = next((name for name in reversed(names) if name.startswith("bad_debt_es_")), None)
    panels: list[tuple[str | None, str, Callable[[Any], None] | None]] = [
        ("expected_bad_debt", "Expected bad debt (USD)", money_axis),
        (tail, f"Expected shortfall {(tail or '').rsplit('_', 1)[-1]} % (USD)", money_axis),
        ("fund_depletion_probability", "P(fund exhausted) (%)", lambda axis: percent_axis(axis, 3)),
        ("amplification", "Amplification", None),
    ]
    figure, grid = new_page(2, 2, 4.6, sharex=True)
    for axes, (name, label, ticks) in zip(grid.flat, panels, strict=True):
        _panel(axes, keys, [row for row in rows if row["metric"] == name])
        axes.set_ylabel(label)
        if ticks:
            ticks(axes.yaxis)
    for axes in grid[1]:
        axes.set_xlabel(keys[0])
    handles, labels = grid[0, 0].get_legend_handles_labels()
    if len(keys) > 1:
        figure.legend(handles, labels, title=", ".join(keys[1:]), loc="outside upper center", ncols=len(COLORS))
    return figure


def _panel(axes: Axes, keys: Sequence[str], rows: Sequence[Row]) -> None:
    first, *others = keys
    values = _distinct([row[first] for row in rows])
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    place = {str(value): float(value) if numbers else float(i) for i, value in enumerate(values)}
    lines = _distinct([[row[key] for key in others] for row in rows])
    shades = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.9, max(len(lines), 2)))
    for i, line in enumerate(lines):
        mine = [row for row in rows if [row[key] for key in others] == line and row["value"] is not None]
        x = np.array([place[str(row[first])] for row in mine])
        y, low, high = (np.array([row[key] for row in mine], float) for key in ("value", "low", "high"))
        order = np.argsort(x)
        x, y, low, high = x[order], y[order], low[order], high[order]
        look: Any = {
            "color": COLORS[i] if len(lines) <= len(COLORS) else shades[i],
            "marker": MARKERS[i % len(MARKERS)],
        }
        axes.plot(x, y, **look, markersize=4.0, markerfacecolor="white", linewidth=1.0, zorder=2)
        known = np.isfinite(low) & np.isfinite(high)
        size = np.maximum(np.stack([y - low, high - y]), 0.0)[:, known]
        label = ", ".join(short_number(v) if isinstance(v, float) else _short(v) for v in line)
        axes.errorbar(x[known], y[known], size, **look, markersize=4.0, capsize=2.0, linewidth=0.7, ls="", label=label)
    if not numbers:
        axes.set_xticks(range(len(values)), [_short(value) for value in values])
        return
    if min(values, default=0) > 0 and max(values) > LOG_RANGE * min(values):
        axes.set_xscale("log")
    money_axis(axes.xaxis)


def _short(value: Any) -> str:
    return str(value.get("kind", value)) if isinstance(value, Mapping) else str(value)


def _distinct(values: Sequence[Any]) -> list[Any]:
    """Values in the order in which they come, each once; they may be lists or tables."""
    return list({str(value): value for value in values}.values())
