"""The tables and the figure of the speed benchmarks."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from ..figures import style
from ..figures.style import BLACK, BLUE, COLUMN, GRAY, short_number
from .limits import Limits, Used
from .timing import Timing

OURS = "tailrisk"


def table(name: str, paths: int, repeats: int, unit: str, spent: Mapping[str, Timing]) -> str:
    """Rates of all contestants, and ours over theirs."""
    ours = spent[OURS]
    lines = [
        "",
        f"{name}: {paths:,} paths, median of {repeats} in turn",
        f"{'':12}{unit + '/s':>18}{'per core':>12}{'cores':>8}{'first call':>12}{'tailrisk is':>14}{'per core':>12}",
    ]
    for who, t in spent.items():
        ratio = "" if who == OURS else f"{ours.rate / t.rate:>12.2f} x{ours.per_core / t.per_core:>10.2f} x"
        lines.append(f"{who:12}{t.rate:>18.3g}{t.per_core:>12.3g}{t.cores:>8.2f}{t.first:>10.1f} s{ratio}")
    return "\n".join(lines)


def limits(unit: str, used: Used, most: Limits) -> str:
    """What a unit of our work needs, what the machine does, and how near we are to it."""
    one = unit.removesuffix("s")
    return "\n".join(
        [
            f"{OURS} by {one}: {used.operations:.4g} operations, {used.transcendentals:.3g} exponentials and the like, "
            f"{used.bytes:.4g} bytes, {used.normals:.3g} normals",
            f"this machine by core (device) and second: {most.operations:.3g} operations, {most.transcendentals:.3g} "
            f"exponentials, {most.bytes:.3g} bytes, {most.normals:.3g} normals",
            f"share of the time that the machine at its limit needs: arithmetic {used.arithmetic:.1%}, noise {used.noise:.1%}, "
            f"memory at most {used.memory:.1%} (all of an array counts where rows of it are touched)",
        ]
    )


@style.house_style
def draw(races: Mapping[str, Mapping[str, Timing]], units: Mapping[str, str]) -> Figure:
    """Every timing of every contestant on a logarithmic axis, medians as bars, and how many times faster ours is."""
    rows = [len(race) for race in races.values()]
    figure = Figure(figsize=(COLUMN, 0.55 * len(rows) + 0.2 * sum(rows)))
    panels = figure.subplots(len(rows), 1, squeeze=False, gridspec_kw={"height_ratios": rows})[:, 0]
    for axes, (name, race) in zip(panels, races.items(), strict=True):
        ours = race[OURS].rate
        for place, (who, timing) in enumerate(race.items()):
            color = BLUE if who == OURS else GRAY
            axes.plot(timing.rates, np.full(len(timing.rates), place), "o", ms=3, mfc="none", mew=0.7, color=color)
            axes.plot([timing.rate] * 2, [place - 0.32, place + 0.32], color=BLACK)
            said = short_number(timing.rate) + ("" if who == OURS else f"; ours {ours / timing.rate:.2g}x")
            axes.annotate(said, (1.02, place), xycoords=axes.get_yaxis_transform(), va="center", fontsize=6.5)
        axes.set_xscale("log")
        axes.set_yticks(range(len(race)), list(race))
        axes.set_ylim(len(race) - 0.4, -0.6)
        low, high = (edge(rate for t in race.values() for rate in t.rates) for edge in (min, max))
        axes.set_xlim(low / 1.6, high * 1.6)
        axes.set_xlabel(f"{name} ({units[name]}/s)", labelpad=1)
    return figure
