"""Real crashes beside simulated ones, a posterior with its check, and margin rules on a real history."""

from collections.abc import Mapping
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from scipy import stats

from . import style
from .style import BLACK, BLUE, GRAY, GREEN, ORANGE, VERMILION

COLORS, MARKERS = (BLUE, ORANGE, GREEN, VERMILION), ("o", "s", "^", "D")
_LEAST = 0.03  # ratio at the left edge
_LABELS = {"prefactor": "Impact prefactor (1)", "tilt": "Tilt of leverage (1)", "crash_loss": "Crash loss of depth (1)"}
_LABELS |= {"news": "Part of the fall after\nthe onset that was news (1)"}


@style.house_style
def draw_ratios(events: Mapping[str, Any]) -> Figure:
    """Simulated over realized by event and statistic, median and 90 % of worlds; open where most worlds have none."""
    rows = list(
        dict.fromkeys(key for event in events.values() for key, row in event["forecast"].items() if "ratio" in row)
    )
    figure, (axes,) = style.new_figure(height=0.42 * len(rows) + 1.0)
    for i, ((name, event), color, marker) in enumerate(
        zip(events.items(), cycle(COLORS), cycle(MARKERS), strict=False)
    ):
        label = name
        for j, key in enumerate(rows):
            ratio = event["forecast"][key].get("ratio")
            if ratio is None or ratio["median"] is None:
                continue
            place = j + 0.16 * (i - 1.5)
            reach = [[ratio["median"] - ratio["low"]], [ratio["high"] - ratio["median"]]]
            fill = "full" if ratio["missing"] < 0.5 else "none"
            if ratio["median"] < _LEAST:  # off to the left
                axes.plot(_LEAST, place, "<", ms=4, color=color, label=label)
                label = "_"
                continue
            axes.errorbar(
                ratio["median"], place, xerr=reach, fmt=marker, ms=3, color=color, elinewidth=0.9, fillstyle=fill,
                label=label,
            )  # fmt: skip
            label = "_"
    axes.axvline(1.0, color=GRAY, linewidth=0.6, zorder=0)
    axes.set_xscale("log")
    axes.set_xlim(0.9 * _LEAST, 40.0)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_yticks(range(len(rows)), rows)
    axes.invert_yaxis()
    axes.set_xlabel("Simulated over realized (1)")
    figure.legend(loc="outside upper center", ncols=2)
    return figure


@style.house_style
def draw_posterior(found: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Figure:
    """Prior and posterior of what an event speaks about, and the ranks that check it with their 95 % band."""
    draws, weights = style.need(arrays, "posterior/draws", "posterior/weights")
    names = list(found["estimates"])
    figure, grid = style.new_page(1, 5, 2.0)
    for axes, (name, label) in zip(grid[0], _LABELS.items(), strict=False):
        x = draws[:, names.index(name)]
        edges = np.histogram_bin_edges(x, 20)
        axes.hist(x, edges, density=True, color=GRAY, alpha=0.4, label="prior")
        axes.hist(x, edges, density=True, weights=weights, histtype="step", color=BLUE, label="posterior")
        axes.axvline(found["estimates"][name]["value"], color=BLUE, linewidth=0.8, linestyle="--")
        axes.set_xlabel(label)
        axes.set_yticks([])
    grid[0][0].set_ylabel("Density")
    axes, ranks = grid[0][4], arrays["posterior/ranks"]
    for name, color, dash in zip(_LABELS, (BLACK, BLUE, VERMILION, GREEN), ("-", "--", "-.", ":"), strict=True):
        count = np.histogram(ranks[:, names.index(name)], 10, (0.0, 1.0))[0]
        axes.stairs(count, np.linspace(0.0, 1.0, 11), color=color, linestyle=dash, label=name.replace("_", " "))
    low, high = stats.binom.interval(0.95, len(ranks), 0.1)
    axes.axhspan(low, high, color=GRAY, alpha=0.25, linewidth=0)
    axes.set_ylim(0.0, 2.2 * high)
    axes.set_xlabel("Rank of the truth (1)")
    axes.set_ylabel("Truths")
    axes.legend(loc="upper center", fontsize=5.5, ncols=2, handlelength=1.4, columnspacing=0.7)
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2)
    return figure


@style.house_style
def draw_margins(found: Mapping[str, Any]) -> Figure:
    """Periods that are not covered and uncovered loss, with 95 % intervals, and how the margin moves, by rule."""
    rules = found["rules"]
    figure, ((left, middle, right),) = style.new_page(1, 3, 0.2 * len(rules) + 1.0, sharey=True)
    place = np.arange(len(rules))
    for axes, key, scale in ((left, "coverage", 100.0), (middle, "uncovered", 1e4)):
        value = np.array([r[key]["value"] for r in rules.values()])
        ends = np.array([r[key]["ci95"] for r in rules.values()]).T
        if key == "coverage":  # what is missed has the digits
            value, ends = 1.0 - value, 1.0 - ends[::-1]
        least = 0.3 * value[value > 0.0].min(initial=1.0)  # a logarithmic axis has no zero: an arrow stands for it
        shown = np.maximum(value, least)
        reach = np.abs(np.maximum(ends, least) - shown)
        axes.errorbar(scale * shown, place, xerr=scale * reach, fmt="none", ecolor=BLUE, elinewidth=0.9, capsize=2)
        axes.plot(scale * shown[value > 0.0], place[value > 0.0], "o", ms=3, color=BLUE)
        axes.plot(scale * shown[value <= 0.0], place[value <= 0.0], "<", ms=4, color=BLUE)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axes.xaxis.set_minor_formatter("")
        axes.set_xlim(left=scale * least)
    left.axvline(1.0, color=GRAY, linewidth=0.6, zorder=0)
    left.set_yticks(place, list(rules))
    left.invert_yaxis()
    left.set_xlabel("Periods not covered (%), 95 %\n(line: 1 %, what rules are fitted to)")
    middle.set_xlabel("Uncovered loss (bp of notional\na period), 95 %")
    for key, marker, color, label in (
        ("mean_margin", "o", BLUE, "mean"),
        ("largest_call", "D", VERMILION, f"largest call in {found['call']:,} periods"),
    ):
        right.plot([100.0 * r[key] for r in rules.values()], place, marker, ms=3.5, color=color, label=label)
    right.set_xlabel("Margin (% of notional)")
    figure.legend(loc="outside upper center", ncols=2)
    return figure
