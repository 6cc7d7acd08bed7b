"""Prices over time: the fan of all paths, and one bad path step by step."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from . import style
from .style import BLACK, BLUE, GRAY, GREEN, ORANGE, VERMILION

Results = Mapping[str, np.ndarray]


def _from_start(time: np.ndarray, rows: np.ndarray, start: float) -> tuple[np.ndarray, np.ndarray]:
    """Rows with the price before the first step in front."""
    if time[0] <= 0.0:
        return time, rows
    before = np.full((*rows.shape[:-1], 1), start)
    return np.concatenate([[0.0], time]), np.concatenate([before, rows], axis=-1)


@style.house_style
def draw_fan(results: Results, summary: Mapping[str, Any]) -> Figure:
    """Quantiles of the price over time, and the paths with the largest bad debt."""
    del summary
    time, levels, fan, price = style.need(results, "time", "fan/levels", "fan/price", "price", why=_NO_FAN)
    spot = float(price.reshape(-1)[0])
    moment, fan = _from_start(time.astype(float), fan.astype(float), spot)
    moment, label = style.hours(moment)
    figure, (axes,) = style.new_figure()
    handles: list[Any] = []
    order = np.argsort(levels)
    levels, fan = levels[order].astype(float), fan[order]
    pairs = [(i, levels.size - 1 - i) for i in range(levels.size // 2)]
    for depth, (low, high) in enumerate(pairs):
        shade = _mix(BLUE, 0.14 + 0.5 * depth / max(len(pairs) - 1, 1))
        axes.fill_between(moment, fan[low], fan[high], color=shade, linewidth=0)
        handles.append(Patch(color=shade, label=f"{100 * levels[low]:g} to {100 * levels[high]:g} %"))
    middle = np.flatnonzero(np.isclose(levels, 0.5))
    if middle.size:
        handles += axes.plot(moment, fan[middle[0]], color=BLACK, label="median")
    worst = results.get("worst/log_price")
    if worst is not None and np.size(worst):
        _, worst = _from_start(time.astype(float), spot * np.exp(np.asarray(worst, float)), spot)
        axes.plot(moment, worst.T, color=VERMILION, linewidth=0.5, alpha=0.8)
        handles.append(Line2D([], [], color=VERMILION, linewidth=0.8, label=f"{len(worst)} worst paths"))
    axes.set_xlim(moment[0], moment[-1])
    axes.set_xlabel(label)
    axes.set_ylabel("Price (USD)")
    style.money_axis(axes.yaxis)
    figure.legend(handles=handles, loc="outside upper center", ncols=3, columnspacing=1.0)
    return figure


_NO_FAN = "price fan: no paths were watched (run.watch = 0)"
_NO_PATH = "path of a median loss: no watched path had bad debt"


def _mix(color: str, share: float) -> tuple[float, float, float]:
    """The color on white paper at this share of ink."""
    red, green, blue = (1.0 - share * (1.0 - int(color[i : i + 2], 16) / 255.0) for i in (1, 3, 5))
    return red, green, blue


@style.house_style
def draw_bad_path(results: Results, summary: Mapping[str, Any]) -> Figure:
    """The path whose bad debt is the median of those that have any: price, forced sales, bad debt, fund, halts."""
    del summary
    names = ("log_price", "log_news", "log_mark", "notional", "deficit", "fund", "halted")
    time, price, *rows = style.need(results, "time", "price", *(f"bad/{name}" for name in names), why=_NO_PATH)
    shown = dict(zip(names, (np.asarray(row, float) for row in rows), strict=True))
    spot = float(price.reshape(-1)[0])
    moment, label = style.hours(time.astype(float))
    start = moment[0] - (moment[1] - moment[0]) if moment.size > 1 else 0.0
    figure, panels = style.new_figure(height=4.6, rows=4, height_ratios=[2.0, 1, 1, 1])

    axes = panels[0]
    axes.plot(moment, spot * np.exp(shown["log_news"]), color=BLUE, linewidth=0.9, label="without forced orders")
    axes.plot(moment, spot * np.exp(shown["log_price"]), color=BLACK, linewidth=0.9, label="market")
    axes.plot(
        moment, spot * np.exp(shown["log_mark"]), color=ORANGE, linewidth=0.9, linestyle=(0, (2, 1)), label="mark"
    )
    axes.set_ylabel("Price\n(USD)")

    forced = np.flatnonzero(shown["notional"] > 0.0)
    panels[1].vlines(moment[forced], 0.0, shown["notional"][forced], color=VERMILION, linewidth=0.8)
    panels[1].set_ylabel("Forced\n(USD/step)")
    panels[2].step(moment, np.cumsum(shown["deficit"]), where="post", color=VERMILION)
    panels[2].set_ylabel("Bad debt\n(USD)")
    panels[3].step(moment, shown["fund"], where="post", color=GREEN)
    panels[3].set_ylabel("Fund\n(USD)")
    panels[3].set_xlabel(label)

    halts = _runs(shown["halted"] > 0.0)
    for axes in panels:
        style.money_axis(axes.yaxis)
        for first, last in halts:
            left = moment[first - 1] if first else start
            axes.axvspan(left, moment[last], color="#d9d9d9", linewidth=0, zorder=0)
    for axes in panels[1:]:
        _from_zero(axes)
    axes = panels[0]
    axes.set_xlim(start, moment[-1])
    handles, _ = axes.get_legend_handles_labels()
    if halts:
        handles.append(Patch(color="#d9d9d9", label="trading halted"))
    figure.legend(handles=handles, loc="outside upper center", ncols=2, columnspacing=1.0)
    figure.align_ylabels(panels)
    return figure


def _from_zero(axes: Axes) -> None:
    """A scale from zero up, also where nothing happened."""
    top = axes.get_ylim()[1]
    axes.set_ylim(0.0, top if top > 1e-9 else 1.0)
    axes.axhline(0.0, color=GRAY, linewidth=0.4)


def _runs(flag: np.ndarray) -> list[tuple[int, int]]:
    """First and last index of every stretch of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flag.astype(int), [0]])))
    return [(int(first), int(last) - 1) for first, last in edges.reshape(-1, 2)]
