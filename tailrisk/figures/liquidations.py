"""Where forced orders wait, and where one triggers more than one other."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from . import style
from .style import BLACK, BLUE, GRAY, VERMILION

Results = Mapping[str, np.ndarray]

SHARE_SHOWN = 0.98  # of the mass of each side; the far tail would squeeze the rest
_NO_MAP = "liquidation map: this kind of positions has no fixed liquidation prices"


@style.house_style
def draw_liquidation_map(results: Results, summary: Mapping[str, Any]) -> Figure:
    """Notional closed per 1 % of price, longs below and shorts above the spot, with the branching number below."""
    del summary
    names = ("log_price", "long", "short", "branching_long", "branching_short")
    arrays = style.need(results, *(f"map/{name}" for name in names), why=_NO_MAP)
    grid, long, short, branching_long, branching_short = (np.asarray(array, float) for array in arrays)
    move = 100.0 * np.expm1(grid)
    figure, (density, branching) = style.new_figure(height=3.3, rows=2, height_ratios=[1.6, 1])
    sides = (
        (grid <= 0.0, long, branching_long, VERMILION, "longs, sold", -1.0),
        (grid >= 0.0, short, branching_short, BLUE, "shorts, bought back", 1.0),
    )
    ends, tallest = [], 0.0
    for there, mass, number, color, label, sign in sides:
        density.fill_between(move[there], 0.01 * mass[there], color=color, alpha=0.35, linewidth=0)
        density.plot(move[there], 0.01 * mass[there], color=color, linewidth=0.8, label=label if mass.any() else None)
        branching.plot(move[there], number[there], color=color)
        ends.append(_reach(np.abs(move[there]), mass[there]) * sign)
        tallest = max(tallest, float(number[there].max(initial=0.0)))
    density.set_xlim(min(ends[0], -1.0), max(ends[1], 1.0))
    density.set_ylim(bottom=0.0)
    density.set_ylabel("Forced orders\n(USD per 1 % of price)")
    style.money_axis(density.yaxis)
    figure.legend(loc="outside upper center", ncols=2)
    branching.axhline(1.0, color=BLACK, linewidth=0.6, linestyle=(0, (3, 2)))
    branching.set_ylim(0.0, 1.15 * max(tallest, 1.0))
    branching.annotate(
        "R = 1: self-sustaining", (0.99, 1.0), xycoords=("axes fraction", "data"), xytext=(0, 1.5),
        textcoords="offset points", ha="right", fontsize=6.5,
    )  # fmt: skip
    branching.set_ylabel("Branching\nnumber R")
    branching.set_xlabel("Price change from the spot (%)")
    branching.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:+g}" if value else "0"))
    for axes in (density, branching):
        axes.axvline(0.0, color=GRAY, linewidth=0.6)
    figure.align_ylabels([density, branching])
    return figure


def _reach(distance: np.ndarray, mass: np.ndarray) -> float:
    """How far from the spot to show a side."""
    order = np.argsort(distance)
    total = np.cumsum(mass[order])
    if total.size == 0 or total[-1] <= 0.0:
        return 0.0
    return 1.05 * float(distance[order][np.searchsorted(total, SHARE_SHOWN * total[-1])])
