"""How large losses and cascades get: complementary distributions with pointwise bands."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from ..tails import measures
from . import style
from .style import BLACK, BLUE, GRAY, ORANGE, VERMILION

Results = Mapping[str, np.ndarray]

DECADES = 5.0  # of the horizontal axis at most: below lies rounding, not risk
LEFT_OUT = 0.03  # of positive values on the left, where the curve is flat
POINTS = 300
_POWERS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


class Counted(NamedTuple):
    """Positive values of paths, largest first, how many are at least that large, and the number of paths."""

    value: np.ndarray
    rank: np.ndarray
    paths: int


def counted(sample: np.ndarray) -> Counted:
    """The values of a sample."""
    positive = np.sort(sample[sample > 0.0].astype(float))[::-1]
    return Counted(positive, np.arange(1, positive.size + 1), sample.size)


def _of_run(results: Results, name: str) -> Counted:
    """Values of all paths of a run: one by one, or from bins where a run keeps no more than that."""
    if f"bins/{name}/value" not in results:
        return counted(style.need(results, f"path/{name}")[0])
    return Counted(results[f"bins/{name}/value"], np.cumsum(results[f"bins/{name}/count"]), int(results["paths"]))


def exceedance(sample: np.ndarray | Counted, confidence: float = 0.95) -> tuple[np.ndarray, ...]:
    """x, P(X > x) just below x, and its exact binomial limits, at up to 300 ranks spread evenly in log rank.

    At the j-th largest value j of n paths are at least that large.
    """
    value, rank, paths = sample if isinstance(sample, Counted) else counted(sample)
    wanted = np.geomspace(1, max(int(rank[-1]) if rank.size else 0, 1), POINTS)
    place = np.unique(np.searchsorted(rank, np.round(wanted).astype(int)))
    x, rank = value[place], rank[place]
    low, high = measures.binomial_interval(rank, paths, confidence)
    return x, rank / paths, low, high


def _curve(axes: Axes, sample: Counted, color: str, label: str, line: str = "-") -> tuple[float, float]:
    """Draws a complementary distribution with its 95 % band; returns its largest value and smallest probability."""
    x, share, low, high = exceedance(sample)
    axes.fill_between(x, low, high, step="post", color=color, alpha=0.25, linewidth=0)
    axes.step(x, share, where="post", color=color, linestyle=line, label=label)
    return float(x[0]), float(share[0])


def _finish(axes: Axes, largest: float, smallest: float, least: float, gross: float | None) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    left = max(least, largest * 10.0**-DECADES)
    axes.set_xlim(left * 0.8, largest * 2.0)
    axes.set_ylim(smallest * 0.3, 1.3)
    style.money_axis(axes.xaxis)
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_locator(LogLocator(numticks=12))
    axes.yaxis.set_major_formatter(FuncFormatter(_probability))
    axes.grid(color="#e5e5e5", linewidth=0.4)
    if gross:
        percent, money = (lambda x: np.multiply(x, 100.0 / gross)), (lambda x: np.multiply(x, gross / 100.0))
        top = axes.secondary_xaxis("top", functions=(percent, money))
        top.set_xlabel("Share of open interest (%)")
        top.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        top.xaxis.set_minor_formatter(NullFormatter())


def _probability(value: float, _: Any) -> str:
    if value >= 0.0099:
        return f"{value:g}"
    return "10" + str(round(np.log10(value))).translate(_POWERS)


@style.house_style
def draw_exceedance(results: Results, summary: Mapping[str, Any]) -> Figure:
    """Loss exceedance curve of bad debt with value-at-risk and expected shortfall."""
    debt = _of_run(results, "bad_debt")
    if not debt.value.size:
        raise style.MissingData(f"loss exceedance: none of {debt.paths:,} paths had bad debt")
    figure, (axes,) = style.new_figure(height=2.7)
    largest, smallest = _curve(axes, debt, BLUE, "paths, 95 % band")
    handles: dict[str, Any] = {"curve": axes.get_lines()[0]}
    for level, kind, metric in _marks(summary):
        marker, color, label = ("o", BLACK, "VaR, 95 %") if kind == "var" else ("D", VERMILION, "ES, 95 %")
        value, (low, high) = metric["value"], metric["ci95"]
        if not _known(value) or value <= 0.0:
            continue
        share = (1.0 - level) * (1.0 if kind == "var" else 0.85)  # a little apart: intervals do not hide each other
        bounded = _known(low) and _known(high)
        if bounded:
            axes.plot([max(low, 1e-9 * value), high], [share, share], "|-", color=color, linewidth=0.9, markersize=4)
        axes.plot(value, share, marker, color=color, markersize=3, fillstyle="full" if bounded else "none", zorder=4)
        handles[kind] = Line2D([], [], marker=marker, color=color, markersize=3, linewidth=0.9, label=label)
    for level in sorted({level for level, _, _ in _marks(summary)}):
        axes.axhline(1.0 - level, color=GRAY, linewidth=0.5, linestyle=(0, (1, 2)), zorder=1)
        axes.annotate(
            f"{100 * level:g} %", (1.0, 1.0 - level), xycoords=("axes fraction", "data"),
            xytext=(2, 0), textcoords="offset points", va="center", fontsize=6.5, color=GRAY,
        )  # fmt: skip
    _finish(axes, largest, smallest, _left(debt), _gross(results))
    axes.set_xlabel("Bad debt x (USD)")
    axes.set_ylabel("P(bad debt > x)")
    figure.legend(handles=list(handles.values()), loc="outside upper center", ncols=3, columnspacing=1.0)
    return figure


def _marks(summary: Mapping[str, Any]) -> list[tuple[float, str, Mapping[str, Any]]]:
    """Levels, kinds and values of the metrics `bad_debt_var_99`, `bad_debt_es_99.9`, ..."""
    marks = []
    for name, metric in summary.get("metrics", {}).items():
        for kind in ("var", "es"):
            prefix = f"bad_debt_{kind}_"
            if name.startswith(prefix):
                marks.append((float(name.removeprefix(prefix)) / 100.0, kind, metric))
    return marks


def _known(value: Any) -> bool:
    return value is not None and bool(np.isfinite(value))


def _left(sample: Counted) -> float:
    """Where a curve begins to fall."""
    if not sample.value.size:
        return np.inf
    place = np.searchsorted(sample.rank, (1.0 - LEFT_OUT) * sample.rank[-1])
    return float(sample.value[min(int(place), sample.value.size - 1)])


def _gross(results: Results) -> float | None:
    return float(np.sum(results["gross"])) if "gross" in results else None


@style.house_style
def draw_cascade_sizes(results: Results, summary: Mapping[str, Any]) -> Figure:
    """Distribution of forced notional per path and of its largest single step."""
    del summary
    total, peak = (_of_run(results, name) for name in ("forced_notional", "peak_notional"))
    if not total.value.size:
        raise style.MissingData(f"cascade sizes: none of {total.paths:,} paths had a forced order")
    figure, (axes,) = style.new_figure(height=2.7)
    largest, smallest = _curve(axes, total, BLUE, "whole path, 95 %")
    if peak.value.size:
        _curve(axes, peak, ORANGE, "largest step, 95 %", line="--")
    _finish(axes, largest, smallest, min(_left(total), _left(peak)), _gross(results))
    axes.set_xlabel("Forced notional x (USD)")
    axes.set_ylabel("P(forced notional > x)")
    figure.legend(loc="outside upper center", ncols=2, columnspacing=1.0)
    return figure
