"""A tuned policy: what it asks for, what it costs, and how far below its limits it is on fresh paths."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from .style import BLUE, COLUMN, GRAY, VERMILION, house_style, new_figure

_VERDICT = {
    "certified": "CERTIFIED",
    "not_certified": "NOT CERTIFIED: a limit is missed by its upper bound on fresh paths",
    "refused": "REFUSED: too few losses were seen to bound every constraint",
}


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
        value, error = (np.array([row[key] / row["limit"] for row in rows]) for key in ("estimate", "std_error"))
        axes.errorbar(value, places + shift, xerr=1.96 * error, fmt="o", ms=3, color=color, label=label)
    rows = [policy["fresh"][name] for name in names]
    value = np.array([row["estimate"] / row["limit"] for row in rows])
    bound = np.array([row["upper_bound"] / row["limit"] for row in rows])
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


def format_policy(policy: dict[str, Any]) -> str:
    """The policy, its cost and its constraints as text."""
    lines = [_VERDICT[policy["status"]] + f" (joint level {policy['level']:.0%})", ""]
    for name, value in {**policy["choice"], **policy["parameters"]}.items():
        shown = value if isinstance(value, str) else ", ".join(f"{v:.6g}" for v in np.ravel(value))
        lines.append(f"  {name:<32}{shown}")
    cost = policy["cost"]
    lines += ["", f"cost {cost['fresh']:.6g} on fresh paths, incumbent {cost['incumbent']:.6g}", ""]
    lines.append(f"{'constraint':<34}{'limit':>10}{'incumbent':>12}{'tuning':>12}{'fresh':>12}{'bound':>12}")
    for name, row in policy["fresh"].items():
        numbers = (row["limit"], policy["incumbent"][name]["estimate"], policy["tuning"][name]["estimate"])
        numbers += (row["estimate"], row["upper_bound"])
        text = "".join(f"{v:>{width}.4g}" for v, width in zip(numbers, (10, 12, 12, 12, 12), strict=True))
        lines.append(f"{name:<34}{text}" + (f"  {row['note']}" if row["note"] else ""))
    return "\n".join(lines)
