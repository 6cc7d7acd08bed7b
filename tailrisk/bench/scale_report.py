"""The scaling report: a page and a figure from the measured numbers, and the projection to more paths than any machine runs."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from .._streams import MAX_PATHS
from ..figures import style
from ..figures.style import BLACK, BLUE, GREEN, ORANGE, VERMILION, short_number

COLORS = {"paths": BLACK, "steps": BLUE, "ladder": VERMILION, "groups": ORANGE, "assets": GREEN}
NAMES = {
    "paths": "paths",
    "steps": "steps",
    "ladder": "accounts, ladder",
    "groups": "accounts, kernel",
    "assets": "assets",
}
PROJECTED = 10**12  # paths
CORES = 1_024  # of the cluster on paper
PART = 2**24  # paths between two saves there
SUMMARY = 4e6  # bytes of a summary file at most: three histograms of some 40 octaves, a tenth of them in ten sections
PRICE = 0.04  # USD per core-hour


def plain(value: Any) -> Any:
    """Numbers and lists that JSON can say."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    return np.asarray(value).tolist() if isinstance(value, np.ndarray | np.generic | list) else value


def line(name: str, sweep: Mapping[str, Any]) -> str:
    """The exponents of a sweep in words."""
    return f"{NAMES[name]:18} exponent of time {_time(sweep)}, of memory {_exponent(sweep['memory'])}"


def _exponent(found: Mapping[str, float]) -> str:
    return f"{found['exponent']:.2f} ± {found['std_error']:.2f}"


def _time(sweep: Mapping[str, Any]) -> str:
    t = sweep["time"]
    if "exponent" in t:
        return _exponent(t)
    return f"(linear: {t['fixed']:.1f} s and {1e6 * t['per_path']:.2f} ± {1e6 * t['std_error']:.2f} µs a path)"


def projection(found: Mapping[str, Any]) -> dict[str, float]:
    """What 1e12 paths of the largest ladder (20,000 accounts, 288 steps) would cost on `CORES` cores like the one measured."""
    ladder = found["sweeps"]["ladder"]
    seconds = np.array(ladder["seconds"][-1])
    each, error = float(np.mean(seconds)), float(np.std(seconds, ddof=1) / np.sqrt(seconds.size))
    files = 2 * np.log2(max(PROJECTED / PART / CORES, 2.0)) * CORES
    return {
        "core_seconds_per_path": each,
        "core_hours": PROJECTED * each / 3600.0,
        "core_hours_error": PROJECTED * error / 3600.0,
        "days": PROJECTED * each / CORES / 86400.0,
        "usd": PROJECTED * each / 3600.0 * PRICE,
        "save_seconds": PART * each,
        "folder_bytes": files * SUMMARY,
        "seeds": float(np.ceil(PROJECTED / MAX_PATHS)),
    }


_PAGE = """# Scaling

Written by `tailrisk bench scale --paths 100000000 --out docs/scaling` from `scale.json`.

{cpu}, {cores} cores, load {load}, jax {jax}, float32.
Processor seconds, {repeats} repeats in turn, with standard errors; a shared machine makes them longer, not shorter.

Fitted exponents (cost = factor x size^exponent, least squares of logarithms; the error contains what is no power law):

| | time | memory |
| --- | --- | --- |
{exponents}

Paths are whole runs of `configs/scale.toml`, start, compilation and figures included; their memory is
the peak of the process. Elsewhere both are per path, and memory is what the compiler asks for. The state of a path of a ladder
does not grow with accounts; its time does, because more of them are closed in a step.

| | size | time | memory |
| --- | --- | --- | --- |
{rows}

![Time and memory](scaling.png)

## 1e12 paths, on paper

A path of the benchmark's ladder (20,000 accounts, 288 steps) takes {each:.3g} µs of a core here, so 1e12 take
{hours:,.0f} ± {error:,.0f} core-hours: {days:.2g} days of {many:,} such cores, about {usd:,.0f} USD.

Assumptions:

* cores as fast as this one, each with a process of its own; {price} USD per core-hour (an assumption, not a quote);
* cost is linear in paths, as above; processes share nothing but the folder, and do not slow each other;
* a save every 2^24 paths ({save:.0f} minutes of a core), which is what a process that dies loses;
* {summary:.0f} MB for a summary, and two of them for each binary digit of a process's parts: {folder:.0f} GB in the folder;
* a seed has 2^32 path numbers, so {seeds:.0f} runs with a seed each are needed, which `tailrisk merge` joins.
"""


def report(found: Mapping[str, Any]) -> str:
    """The page."""
    p = projection(found)
    return _PAGE.format(
        **{key: found["machine"][key] for key in ("cpu", "cores", "load")},
        jax=found["machine"]["versions"]["jax"],
        repeats=found["repeats"],
        exponents="\n".join(_exponents(name, sweep) for name, sweep in found["sweeps"].items()),
        rows="\n".join(row for name, sweep in found["sweeps"].items() for row in _rows(name, sweep)),
        each=1e6 * p["core_seconds_per_path"],
        hours=p["core_hours"],
        error=p["core_hours_error"],
        days=p["days"],
        many=CORES,
        usd=p["usd"],
        price=PRICE,
        save=p["save_seconds"] / 60.0,
        summary=SUMMARY / 1e6,
        folder=p["folder_bytes"] / 1e9,
        seeds=p["seeds"],
    )


def _exponents(name: str, sweep: Mapping[str, Any]) -> str:
    return f"| {NAMES[name]} | {_time(sweep)} | {_exponent(sweep['memory'])} |"


def _rows(name: str, sweep: Mapping[str, Any]) -> Iterator[str]:
    unit, scale = ("s", 1.0) if name == "paths" else ("µs", 1e6)
    for size, seconds, room in zip(sweep["size"], sweep["seconds"], sweep["bytes"], strict=True):
        cost = scale * np.array(seconds)
        error = f" ± {cost.std(ddof=1) / np.sqrt(cost.size):.1g}" if cost.size > 1 else ""
        memory = short_number(float(np.mean(room)))
        yield f"| {NAMES[name]} | {int(size):,} | {cost.mean():.3g}{error} {unit} | {memory}B |"


@style.house_style
def draw(found: Mapping[str, Any]) -> Figure:
    """Time and memory over size, each relative to its smallest."""
    figure, (time, memory) = style.new_figure(height=3.6, rows=2)
    for name, sweep in found["sweeps"].items():
        size = np.array(sweep["size"], float)
        seconds = np.array(sweep["seconds"], float)
        room = np.array(sweep["bytes"], float).reshape(size.size, -1).mean(axis=1)
        mean = seconds.mean(axis=1)
        spread = 1.96 * seconds.std(axis=1, ddof=1) / np.sqrt(seconds.shape[1]) if seconds.shape[1] > 1 else 0.0 * mean
        t = sweep["time"]
        label = NAMES[name] + (f": {t['exponent']:.2f}, {sweep['memory']['exponent']:.2f}" if "exponent" in t else "")
        time.errorbar(
            size / size[0], mean / mean[0], spread / mean[0], color=COLORS[name], marker="o", ms=2.5, label=label
        )
        memory.plot(size / size[0], room / room[0], color=COLORS[name], marker="o", ms=2.5)
    for axes in (time, memory):
        axes.set_xscale("log")
        axes.set_yscale("log")
    time.set_ylabel("Processor time\n(over the first, 95 %)")
    memory.set_ylabel("Memory\n(over the first)")
    memory.set_xlabel("Size over the smallest (1)")
    figure.legend(loc="outside upper center", ncols=2, columnspacing=1.0)
    return figure
