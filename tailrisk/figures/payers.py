"""Who pays the bad debt, by how far the price would have fallen on its own."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ..tails import measures
from . import style
from .style import BLACK, BLUE, GREEN, SKY, VERMILION, YELLOW

Results = Mapping[str, np.ndarray]

BINS = 7
LEAST_PATHS = 50  # with bad debt, per bin
_PAYERS = (  # result, label, color, hatch: readable in gray
    ("fund_paid", "insurance fund", BLUE, ""),
    ("backstop_paid", "backstop", SKY, ""),
    ("adl_pnl", "winners (deleveraged)", GREEN, "////"),
    ("socialized_loss", "all users", YELLOW, ""),
    ("residual_loss", "nobody (uncovered)", VERMILION, "xxxx"),
)
_REST = ("venue capital", "#bbbbbb", "")  # what the other payers leave of the bad debt


@style.house_style
def draw_who_pays(results: Results, summary: Mapping[str, Any]) -> Figure:
    """Shares of bad debt by payer, and mean bad debt, in bins of the exogenous fall with as many bad paths each."""
    del summary
    debt, fall, *paid = style.need(
        results, "path/bad_debt", "path/news_fall", *(f"path/{name}" for name, *_ in _PAYERS)
    )
    debt, fall = debt.astype(float), 100.0 * -np.expm1(-fall.astype(float))
    bad = debt > 0.0
    if np.count_nonzero(bad) < LEAST_PATHS:
        raise style.MissingData(
            f"who pays: {np.count_nonzero(bad):,} of {debt.size:,} paths had bad debt, {LEAST_PATHS} are needed"
        )
    edges = _edges(fall[bad])
    inside = np.clip(np.searchsorted(edges, fall, side="right") - 1, 0, edges.size - 2)
    layers = [np.asarray(row, float) for row in paid]
    rest = np.maximum(debt - sum(layers), 0.0)
    kinds = [(label, color, hatch) for _, label, color, hatch in _PAYERS]
    if rest.sum() > 1e-3 * debt.sum():
        layers, kinds = [*layers, rest], [*kinds, _REST]
    used = [i for i, layer in enumerate(layers) if layer.sum() > 1e-9 * debt.sum()]
    layers, kinds = [layers[i] for i in used], [kinds[i] for i in used]

    figure, (shares, size) = style.new_figure(height=3.5, rows=2, height_ratios=[1.5, 1])
    for place in range(edges.size - 1):
        _stack(shares, place, debt, layers, kinds, inside == place)
        _mean(size, place, debt[inside == place])
    shares.set_ylim(0.0, 1.0)
    shares.set_ylabel("Share of bad debt (%)")
    style.percent_axis(shares.yaxis)
    size.set_yscale("log")
    size.set_ylabel("Mean bad debt\n(USD, 95 %)")
    style.money_axis(size.yaxis)
    size.set_xlabel("Largest fall of the price without forced orders (%)")
    size.set_xlim(-0.5, edges.size - 1.5)
    size.set_xticks(np.arange(edges.size) - 0.5, [f"{edge:.3g}" for edge in edges])
    low, high = size.get_ylim()
    size.set_ylim(low / 1.5, high * 3.0)
    for place in range(edges.size - 1):
        size.annotate(
            ("n=" if place == 0 else "") + style.short_number(float(np.sum(inside == place))), (place, 1.0),
            xycoords=("data", "axes fraction"), xytext=(0, -7), textcoords="offset points", ha="center", fontsize=5.8,
        )  # fmt: skip
    handles = [Patch(facecolor=c, hatch=h, edgecolor="white", linewidth=0, label=label) for label, c, h in kinds]
    figure.legend(handles=handles, loc="outside upper center", ncols=2, columnspacing=1.0)
    figure.align_ylabels([shares, size])
    return figure


def _edges(fall: np.ndarray) -> np.ndarray:
    """Edges of bins, the first from zero, that hold equally many of the bad paths, rounded to three digits."""
    bins = int(min(BINS, fall.size // LEAST_PATHS))
    inner = np.quantile(fall, np.arange(1, bins) / bins) if bins > 1 else np.array([])
    edges = np.array([float(f"{edge:.3g}") for edge in (0.0, *inner, fall.max())])
    edges[-1] = max(edges[-1], float(fall.max()))
    edges = np.unique(edges)
    return edges if edges.size > 1 else np.array([0.0, 1.0])


def _stack(axes: Axes, place: int, debt: np.ndarray, layers: list, kinds: list, here: np.ndarray) -> None:
    """One stacked bar; a whisker on every boundary is its 95 % interval."""
    total, below = debt[here].sum(), 0.0
    paid = np.zeros(np.count_nonzero(here))
    for number, (layer, (_, color, hatch)) in enumerate(zip(layers, kinds, strict=True)):
        paid = paid + layer[here]
        top = paid.sum() / total
        axes.bar(place, top - below, 0.8, below, color=color, hatch=hatch, edgecolor="white", linewidth=0)
        below = top
        boundary = measures.ratio_of_means(paid, debt[here])
        if number < len(layers) - 1 and np.isfinite(boundary.low) and 1e-3 < top < 1.0 - 1e-3:
            x = place + 0.6 * ((number + 1) / len(layers) - 0.5)  # side by side
            axes.plot([x, x], [boundary.low, min(boundary.high, 1.0)], color=BLACK, linewidth=0.8)


def _mean(axes: Axes, place: int, debt: np.ndarray) -> None:
    estimate = measures.mean(debt)
    if not estimate.value > 0.0:
        return
    if np.isfinite(estimate.low):
        ends = [[estimate.value - estimate.low], [estimate.high - estimate.value]]
        axes.errorbar(place, estimate.value, ends, fmt="o", color=BLACK, markersize=2, elinewidth=0.8, capsize=2.5)
    else:  # no interval: hollow
        axes.plot(place, estimate.value, "o", color=BLACK, markersize=3, fillstyle="none")
