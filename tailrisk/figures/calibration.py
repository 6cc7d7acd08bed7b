"""What a calibration looks like: fitted laws beside what happened. Arrays and JSON in, files out."""

from collections.abc import Mapping
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from . import style
from .calibration_events import draw_margins, draw_posterior, draw_ratios
from .distributions import exceedance
from .style import BLACK, BLUE, GRAY, GREEN, ORANGE, SKY, VERMILION

COLORS = (VERMILION, BLUE, GREEN, ORANGE, SKY)
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))


def draw_calibration(found: Mapping[str, Any], arrays: Mapping[str, np.ndarray], folder: Path) -> list[Path]:
    """Draws what the folder of a calibration holds."""
    files = []
    if "market" in found:
        files += style.save(draw_law_fit(found["market"], arrays), folder, "market")
    if "replay" in found:
        files += style.save(draw_ratios(found["replay"]), folder, "events")
    if "posterior" in found:
        files += style.save(draw_posterior(found["posterior"], arrays), folder, "posterior")
    if "margins" in found:
        files += style.save(draw_margins(found["margins"]), folder, "margins")
    return files


@style.house_style
def draw_law_fit(market: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Figure:
    """Normal scores of returns under each law, exceedance of losses, and autocorrelation of absolute returns."""
    figure, ((left, middle, right),) = style.new_page(1, 3, 2.7)
    handles: dict[str, Any] = {}
    for (name, law), color, dash in zip(market["laws"].items(), cycle(COLORS), cycle(DASHES), strict=False):
        wanted, got = arrays[f"market/quantiles/{name}"].T
        (handles[name],) = left.plot(wanted, got, color=color, linestyle=dash, label=name)
        if f"market/simulated/{name}" in arrays:
            x, share, _, _ = exceedance(arrays[f"market/simulated/{name}"])
            middle.plot(100.0 * x, share, color=color, linestyle=dash)
            lags = _lags(law["simulated"])
            right.plot(list(lags), list(lags.values()), "o", color=color, ms=3, linestyle=dash)
    ends = np.array(left.get_xlim())
    left.plot(ends, ends, color=GRAY, linewidth=0.6, zorder=0)
    left.set_xlabel("Normal score expected (1)")
    left.set_ylabel("Normal score of the return\nunder the law (1)")
    x, share, low, high = exceedance(arrays["market/losses"])
    middle.fill_between(100.0 * x, low, high, step="post", color=BLACK, alpha=0.2, linewidth=0)
    handles["measured, 95 %"] = middle.step(100.0 * x, share, where="post", color=BLACK, linewidth=0.9)[0]
    middle.set_xscale("log")
    middle.set_yscale("log")
    middle.set_xlim(0.1, 130.0 * float(x.max()))
    middle.set_ylim(0.3 / arrays["market/losses"].size, 1.0)
    middle.set_xlabel(f"Log loss of {market['every_hours']:g} h (%)")
    middle.set_ylabel("P(loss > x)")
    real = market["measured"]
    lags = {lag: real[f"autocorrelation {lag}"] for lag in _lags(real)}
    value = np.array([m["value"] for m in lags.values()])
    reach = np.abs(np.array([[m["low"], m["high"]] for m in lags.values()]).T - value)
    right.errorbar(list(lags), value, yerr=reach, fmt="s", ms=3, color=BLACK, capsize=2, elinewidth=0.9)
    right.set_xscale("log")
    right.set_xticks(list(lags), [f"{lag}" for lag in lags])
    right.set_xticks([], minor=True)
    right.set_ylim(bottom=min(0.0, right.get_ylim()[0]))
    right.set_xlabel(f"Lag (intervals of {market['every_hours']:g} h)")
    right.set_ylabel("Autocorrelation of\nabsolute returns (1)")
    figure.legend(handles=list(handles.values()), labels=list(handles), loc="outside upper center", ncols=6)
    return figure


def _lags(statistics: Mapping[str, Any]) -> dict[int, Any]:
    prefix = "autocorrelation "
    return {int(name.removeprefix(prefix)): v for name, v in statistics.items() if name.startswith(prefix)}
