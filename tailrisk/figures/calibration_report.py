"""The report of a calibration in Markdown, from its JSON."""

from collections.abc import Iterator, Mapping
from typing import Any


def format_calibration(found: Mapping[str, Any]) -> str:
    """Tables of what was estimated, with intervals, and of how it fits."""
    lines = [f"# Calibration from {found['source']}, {found['date']}", ""]
    if "market" in found:
        lines += _market(found["market"])
    return "\n".join(lines).rstrip()


def table(head: list[str], rows: list[list[str]]) -> Iterator[str]:
    """A Markdown table."""
    yield "| " + " | ".join(head) + " |"
    yield "|" + " --- |" * len(head)
    for row in rows:
        yield "| " + " | ".join(row) + " |"
    yield ""


def _market(market: Mapping[str, Any]) -> Iterator[str]:
    laws = market["laws"]
    yield (
        f"{market['returns']:,} returns of {market['every_hours']:g} h, {market['start']} to {market['end']}. Written: "
        f"{market['chosen'] or 'nothing'}."
    )
    yield ""
    rows = [
        [name, key, f"{e['value']:.4g}", f"{e['ci95'][0]:.4g} to {e['ci95'][1]:.4g}", e["unit"]]
        for name, law in laws.items()
        for key, e in law["estimates"].items()
    ]
    yield from table(["law", "number", "value", "95 % interval", "unit"], rows)
    rows = []
    for name, law in laws.items():
        good = law["goodness"]
        left = ", ".join(f"{value:.3f}" for value in good["left_over"].values())
        tails = ", ".join(f"{value:.2f}" for value in good["tails"].values())
        rows.append(
            [name, f"{law['log_likelihood']:.1f}", f"{law['bic']:.1f}", f"{good['kolmogorov']:.4f}", left, tails]
        )
    head = ["law", "log likelihood", "2 log L - k log n", "largest distance of ranks from uniform"]
    yield from table([*head, "clustering left at 1, 6, 24", "tail counts over expected (0.1, 99.9, 1, 99 %)"], rows)
    if market["contests"]:
        rows = [
            [f"{c['first']} over {c['second']}", f"{c['statistic']:.1f}", f"{c['z']:.2f}", f"{c['p_value']:.2g}"]
            for c in market["contests"]
        ]
        yield from table(["likelihood ratio", "2 log ratio", "Vuong z", "p-value"], rows)
    able = [name for name in laws if "simulated" in laws[name]]
    rows = []
    for key, m in market["measured"].items():
        cells = [laws[name]["simulated"][key] for name in able]
        marks = [f"{v:.4g}" + ("" if m["low"] <= v <= m["high"] else " *") for v in cells]
        rows.append([key, f"{m['value']:.4g}", f"{m['low']:.4g} to {m['high']:.4g}", *marks])
    yield from table(["statistic (log returns)", "measured", "95 % interval", *able], rows)
    yield "A star marks what lies outside the interval of what was measured."
    yield ""
