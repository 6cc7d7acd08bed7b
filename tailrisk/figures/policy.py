"""A tuned policy: what it asks for, what it costs, how far below its limits it is, and the front it lies on."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from .style import BLUE, COLUMN, GRAY, GREEN, VERMILION, house_style, new_figure


def _over_limit(rows: list[dict[str, Any]], key: str) -> np.ndarray:
    """Numbers over their limits; what the file has no number for (a refused bound) is nan."""
    return np.array([np.nan if row[key] is None else row[key] / row["limit"] for row in rows])


@house_style
def draw_certificate(policy: dict[str, Any]) -> Figure:
    """Every constraint over its limit: the incumbent, the policy on its tuning paths, and on fresh paths with its bound."""
    names = list(policy["fresh"])
    figure, (axes,) = new_figure(COLUMN, 0.9 + 0.75 * len(names))
    places = np.arange(len(names), dtype=float)
    for shift, part, color, label in (
        (-0.22, "incumbent", GRAY, "incumbent"),
        (0.0, "tuning", BLUE, "policy, tuning paths"),
    ):
        rows = [policy[part][name] for name in names]
        value, error = (_over_limit(rows, key) for key in ("estimate", "std_error"))
        axes.errorbar(value, places + shift, xerr=1.96 * error, fmt="o", ms=3, color=color, label=label)
    rows = [policy["fresh"][name] for name in names]
    value, bound = (_over_limit(rows, key) for key in ("estimate", "upper_bound"))
    reach = np.where(np.isfinite(bound), np.maximum(bound - value, 0.0), 0.0)
    axes.errorbar(
        value, places + 0.22, xerr=[0.0 * reach, reach], fmt="D", ms=3, color=VERMILION, label="policy, fresh paths"
    )
    axes.axvline(1.0, color="black", lw=0.8)
    axes.set_yticks(places, names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(left=0.0)
    axes.set_xlabel("constraint / limit")
    axes.legend(loc="upper center", bbox_to_anchor=(0.4, -0.45 / (0.9 + 0.75 * len(names)) * 2), ncols=1, frameon=False)
    return figure


@house_style
def draw_front(policy: dict[str, Any]) -> Figure:
    """Cost against the limit that is moved, certified points filled; short lines have the slope of the multipliers."""
    front = policy["front"]
    limit, cost = (np.array([point[key] for point in front], float) for key in ("limit", "cost_before_rounding"))
    figure, (axes,) = new_figure(COLUMN, 2.5)
    axes.plot(1e4 * limit, 100.0 * cost, color=GRAY, lw=0.8, zorder=1)
    certified = np.array([point["certificate"] == "certified" for point in front])
    for mask, face, label in ((certified, BLUE, "certified"), (~certified, "white", "not certified")):
        if mask.any():
            axes.plot(1e4 * limit[mask], 100.0 * cost[mask], "o", ms=4.5, color=BLUE, markerfacecolor=face, label=label)
    labelled = False
    for point, x, y in zip(front, limit, cost, strict=True):
        if point["price"] is None or not np.isfinite(point["price"]):
            continue
        reach = np.array([0.85, 1.18]) * x
        line = 100.0 * (y - point["price"] * (reach - x))
        axes.plot(1e4 * reach, line, color=VERMILION, lw=1.6, label=None if labelled else "slope by multipliers")
        labelled = True
    here = policy["cost"]["before_rounding"]
    axes.axhline(100.0 * here, color=GREEN, lw=0.7, ls=":", label="tuned policy")
    axes.set_xscale("log")
    axes.set_xticks(1e4 * limit, [f"{1e4 * x:.3g}" for x in limit], minor=False)
    axes.minorticks_off()
    axes.set_xlabel("limit (basis points of the book)")
    axes.set_ylabel("cost (% of the book)")
    axes.legend(loc="best")
    return figure
