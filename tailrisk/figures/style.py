"""House style: sizes for a two-column page, a palette for color-blind readers and for gray, files that redraw exactly.

Figures are made without global state: no pyplot, and the style is set only while a figure is drawn or written.
"""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

COLUMN = 3.4  # inches
PAGE = 7.0  # both columns
DPI = 200

# Okabe and Ito (2008); dark enough to print in gray
BLACK, GRAY = "#000000", "#7f7f7f"
BLUE, SKY, GREEN = "#0072b2", "#56b4e9", "#009e73"
ORANGE, VERMILION, YELLOW = "#e69f00", "#d55e00", "#f0e442"

_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so it is the same everywhere
    "font.size": 8.0,
    "axes.titlesize": 8.0,
    "axes.labelsize": 8.0,
    "xtick.labelsize": 7.0,
    "ytick.labelsize": 7.0,
    "legend.fontsize": 7.0,
    "legend.frameon": False,
    "legend.handlelength": 1.6,
    "legend.labelspacing": 0.3,
    "legend.borderaxespad": 0.3,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "lines.linewidth": 1.1,
    "hatch.linewidth": 0.5,
    "figure.dpi": DPI,
    "savefig.dpi": DPI,
    "pdf.fonttype": 42,  # fonts as text, not as curves
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.h_pad": 0.03,
    "figure.constrained_layout.w_pad": 0.03,
}


class MissingData(LookupError):
    """The results hold nothing for this figure; the message is a sentence that says why."""


def house_style(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Draws a figure in the house style, whatever the caller's settings are."""

    @functools.wraps(draw)
    def styled(*args: Any, **kwargs: Any) -> Figure:
        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            matplotlib.rcParams.update(_STYLE)
            return draw(*args, **kwargs)

    return styled


def new_figure(width: float = COLUMN, height: float = 2.4, rows: int = 1, **grid: Any) -> tuple[Figure, list[Axes]]:
    """A figure and its panels, one below the other."""
    figure = Figure(figsize=(width, height))
    axes = figure.subplots(rows, 1, squeeze=False, gridspec_kw=grid, sharex=rows > 1)[:, 0]
    return figure, list(axes)


def new_page(rows: int, columns: int, height: float, **grid: Any) -> tuple[Figure, Any]:
    """A figure over both columns of a page, and its panels as an array of rows and columns."""
    figure = Figure(figsize=(PAGE, height))
    return figure, figure.subplots(rows, columns, squeeze=False, **grid)


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Writes NAME.pdf and NAME.png without dates or program names, so that equal data give equal files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{name}.pdf", folder / f"{name}.png"]
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        figure.savefig(files[0], metadata={"Creator": None, "Producer": None, "CreationDate": None})
        figure.set_layout_engine("none")  # the layout is found; the second file shares it
        figure.savefig(files[1], metadata={"Software": None})
    return files


def need(results: Mapping[str, np.ndarray], *names: str, why: str = "") -> list[np.ndarray]:
    """The arrays with these names.

    **Raises:** `MissingData` with a sentence when one is missing or empty.
    """
    missing = [name for name in names if name not in results or np.size(results[name]) == 0]
    if missing:
        raise MissingData(why or f"the results hold no {missing[0]!r}")
    return [np.asarray(results[name]) for name in names]


_PREFIXES = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))


def short_number(value: float, digits: int = 3, *, strip: bool = True) -> str:
    """1234567 -> 1.23M: three significant digits, without zeros at the end, and the suffixes k, M, B, T."""
    if not np.isfinite(value):
        return "n/a"
    if value == 0.0:
        return "0"
    size = float(f"{abs(value):.{digits - 1}e}")  # rounded first, so that 999,999 is 1M and not 1000k
    scale, suffix = next(((s, p) for s, p in _PREFIXES if size >= s), (1.0, ""))
    sign = "-" if value < 0 else ""
    if size < 1e-3 or size >= 1e15:
        return f"{value:.{digits - 1}e}"
    scaled = size / scale
    decimals = max(0, digits - 1 - int(np.floor(np.log10(scaled) + 1e-12)))
    text = f"{scaled:.{decimals}f}"
    return sign + (text.rstrip("0").rstrip(".") if strip and "." in text else text) + suffix


def money_axis(axis: Any) -> None:
    """Ticks of an axis of USD as 10k, 1M, ..."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))


def percent_axis(axis: Any, digits: int = 0) -> None:
    """Ticks of an axis of shares in percent."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.{digits}f}"))


def hours(time: np.ndarray) -> tuple[np.ndarray, str]:
    """Times given in hours, in the unit that reads best, and its label."""
    last = float(time[-1])
    if last <= 3.0:
        return time * 60.0, "Time (minutes)"
    return (time, "Time (hours)") if last <= 96.0 else (time / 24.0, "Time (days)")
