"""The lines and the figure of the benchmark of a GPU."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ..figures import style
from ..figures.style import BLACK, BLUE, GRAY, GREEN, VERMILION
from .gradient_cost import Row

NAMES = {"ladder": "ladder", "accounts": "accounts, 1 asset", "basket": "accounts, many assets"}


def speed(name: str, found: Mapping[str, Any], groups: int) -> str:
    """The rate of a kernel, and what was tried."""
    seconds, rate = np.array(found["seconds"]), found["path_steps"]
    each = "" if groups == 1 else f", {rate * groups:.3g} account-steps/s"
    tried = ", ".join(f"{int(chunk):,}: {one:.3g}" for chunk, one in found["tried"].items())
    return (
        f"{NAMES[name]}: {rate:.3g} path-steps/s{each}; {found['paths']:,} paths of {found['steps']} steps in "
        f"{np.median(seconds):.4g} s ({seconds.min():.4g} to {seconds.max():.4g}), batches of {found['chunk']:,} (tried {tried})"
    )


def products(found: Mapping[str, float]) -> str:
    """The rate of matrix products and the share of the accounts kernel."""
    return (
        f"matrix products of that shape: {found['highest']:.3g} operations/s in float32 ({found['default']:.3g} by default); "
        f"the accounts kernel makes its two a step at {found['share']:.1%} of that rate"
    )


def rival(name: str, found: Mapping[str, Any]) -> str:
    """Our rate over that of PyTorch."""
    ours, theirs = found["tailrisk"]["rate"], found["torch"]["rate"]
    rates = f"{ours:.3g} and {theirs:.3g} units/s, results on the host"
    return f"{name}: {ours / theirs:.2f} x PyTorch on the {found['device']} ({rates})"


def agreement(name: str, found: Mapping[str, Mapping[str, float]]) -> str:
    """Means in both precisions, and how many paths differ."""
    lines = [f"{name}, float32 on the device and float64 on the CPU, same paths:"]
    lines += [
        f"  {outcome:18} {row['float32']:.7g} and {row['float64']:.7g}, {row['apart']:.2g} standard errors apart; "
        f"{row['other_paths']:.2%} of paths differ"
        for outcome, row in found.items()
    ]
    return "\n".join(lines)


def gradients(rows: Sequence[Row]) -> str:
    """Cost of derivatives in forward passes."""
    lines = ["derivatives on a smooth ladder, float64, in forward passes (bytes a path):"]
    for count in dict.fromkeys(row.parameters for row in rows):
        own = [row for row in rows if row.parameters == count]
        lines.append(f"  {count:>2}: " + "; ".join(f"{row.method} {row.passes:.2f} ({row.memory:,.0f})" for row in own))
    return "\n".join(lines)


def targets(found: Sequence[Mapping[str, Any]]) -> str:
    """What was asked for, and what came out."""
    return "\n".join(
        f"target {one['name']} {'<=' if one['most'] else '>='} {one['wanted']:.3g}: {one['value']:.3g}, {one['verdict']}"
        for one in found
    )


@style.house_style
def draw(found: Mapping[str, Any]) -> Figure:
    """Rates over the size of a batch, and how often each target is reached."""
    figure = Figure(figsize=(style.COLUMN, 3.8))
    rate, reached = figure.subplots(2, 1, gridspec_kw={"height_ratios": [2, 1]})
    for name, color, mark in (("ladder", BLUE, "o"), ("accounts", VERMILION, "s"), ("basket", GREEN, "^")):
        tried = found[name]["tried"]
        rate.plot([int(c) for c in tried], list(tried.values()), color=color, marker=mark, ms=3, label=NAMES[name])
    rate.set_xscale("log", base=2)
    rate.set_yscale("log")
    rate.set_xlabel("Paths of a batch (1)")
    rate.set_ylabel("Path-steps/s")
    rate.legend()
    shown = [one["wanted"] / one["value"] if one["most"] else one["value"] / one["wanted"] for one in found["targets"]]
    judged = ["not judged" not in one["verdict"] for one in found["targets"]]
    reached.scatter(shown, range(len(shown)), color=[BLUE if one else GRAY for one in judged], s=14)
    reached.axvline(1.0, color=BLACK)
    reached.set_xscale("log")
    reached.set_yticks(range(len(shown)), ["ladder", "million paths", "products"])
    reached.set_ylim(len(shown) - 0.5, -0.5)
    reached.set_xlabel("Speed over its target (1)" + ("" if any(judged) else ", not judged"))
    return figure
