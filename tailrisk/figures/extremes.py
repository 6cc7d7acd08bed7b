"""Where a tail begins and how it goes on: mean excess, stability of the fit, Hill plot, return levels."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..tails.extremes import gev
from ..tails.extremes.thresholds import Choice, Curve
from . import style
from .style import BLACK, BLUE, GRAY, VERMILION


def _band(axes: Axes, curve: Curve, color: str, label: str) -> None:
    axes.fill_between(curve.at, curve.low, curve.high, color=color, alpha=0.2, linewidth=0)
    axes.plot(curve.at, curve.value, color=color, label=label)


@style.house_style
def draw_mean_excess(curve: Curve, unit: str, line: tuple[float, float, float] | None = None) -> Figure:
    """Mean excess over thresholds with its 95 % band; `line` is (shape, scale, threshold) of a fit, drawn from there on."""
    figure, (axes,) = style.new_figure()
    _band(axes, curve, BLUE, "sample, 95 % band")
    if line is not None:
        shape, scale, threshold = line
        u = np.array([threshold, float(curve.at[-1])])
        axes.plot(u, (scale + shape * (u - threshold)) / (1.0 - shape), "--", color=VERMILION, label="fitted law")
    axes.set_ylim(0.0, min(1.05 * float(np.max(curve.high)), 2.0 * float(np.max(curve.value))))
    axes.set_xlabel(f"Threshold u ({unit})")
    axes.set_ylabel(f"Mean of x - u above u ({unit})")
    figure.legend(loc="outside upper center", ncols=2)
    return figure


@style.house_style
def draw_stability(shape: Curve, scale: Curve, unit: str, choice: Choice | None = None) -> Figure:
    """Shape and modified scale over thresholds with 95 % limits, and the p-values of the fit if they are given."""
    tested = choice is not None
    figure, panels = style.new_figure(height=4.2 if tested else 3.2, rows=3 if tested else 2)
    for axes, curve, label in zip(panels, (shape, scale), ("Shape (1)", f"Modified scale\n({unit})"), strict=False):
        reach = [curve.value - curve.low, curve.high - curve.value]
        axes.errorbar(curve.at, curve.value, yerr=reach, fmt="o", ms=2.5, color=BLUE, elinewidth=0.8, label="fit, 95 %")
        axes.set_ylabel(label)
    panels[0].axhline(0.0, color=GRAY, linewidth=0.5)
    if choice is not None:
        at = [test.threshold for test in choice.tests]
        panels[2].plot(
            at, [t.p_anderson_darling for t in choice.tests], "s", ms=3, color=BLACK, label="Anderson-Darling"
        )
        panels[2].plot(
            at, [t.p_cramer_von_mises for t in choice.tests], "x", ms=3.5, color=VERMILION, label="Cramér-von Mises"
        )
        panels[2].set_ylim(-0.03, 1.03)
        panels[2].set_ylabel("p-value (1)")
        for axes in panels:
            if np.isfinite(choice.threshold):
                axes.axvline(choice.threshold, color=GRAY, linewidth=0.8, linestyle="--")
    panels[-1].set_xlabel(f"Threshold u ({unit})")
    handles = [h for axes in (panels[0], panels[-1]) for h in axes.get_legend_handles_labels()[0]]
    labels = [t for axes in (panels[0], panels[-1]) for t in axes.get_legend_handles_labels()[1]]
    unique = dict(zip(labels, handles, strict=True))
    figure.legend(list(unique.values()), list(unique), loc="outside upper center", ncols=3, columnspacing=1.0)
    return figure


@style.house_style
def draw_hill(curve: Curve) -> Figure:
    """Hill plot: the tail index over the number of values used, with pointwise 95 % limits."""
    figure, (axes,) = style.new_figure()
    _band(axes, curve, BLUE, "Hill, 95 % band")
    axes.set_xscale("log")
    axes.set_ylim(0.0, 1.5 * float(np.median(curve.high)))
    axes.set_xlabel("Largest values used k")
    axes.set_ylabel("Tail index, 1 over exponent (1)")
    figure.legend(loc="outside upper center")
    return figure


@style.house_style
def draw_return_levels(fit: gev.Fit, unit: str, block: str = "blocks") -> Figure:
    """Return levels of block maxima with profile-likelihood limits, and the maxima at their plotting positions."""
    figure, (axes,) = style.new_figure()
    period = np.geomspace(1.1, 10.0 * fit.maxima.size, 25)
    p = 1.0 / period
    level = [gev.return_level(fit.location, fit.scale, fit.shape, float(q)) for q in p]
    axes.plot(period, level, color=BLUE, label="fitted law")
    checked = np.unique(np.geomspace(2.0, 10.0 * fit.maxima.size, 5))
    ends = [gev.return_level_interval(fit, float(1.0 / t)) for t in checked]
    reach = [[e.value - e.low for e in ends], [e.high - e.value for e in ends]]
    axes.errorbar(
        checked, [e.value for e in ends], yerr=reach, fmt="none", elinewidth=0.9, capsize=2, color=BLUE, label="95 %"
    )
    n = fit.maxima.size
    axes.plot((n + 1.0) / np.arange(n, 0, -1), np.sort(fit.maxima), "o", ms=2, color=BLACK, label="maxima")
    axes.set_xscale("log")
    axes.set_xlabel(f"Return period ({block})")
    axes.set_ylabel(f"Level ({unit})")
    figure.legend(loc="outside upper center", ncols=3)
    return figure
