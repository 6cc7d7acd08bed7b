"""Fitted numbers as tables of a config, each line with its interval and unit."""

import datetime
import re
from typing import Any

import equinox as eqx
import numpy as np
import tomli_w

from .._fields import SECONDS_PER_YEAR
from ..calibrate import Fit
from ..tails.measures import Estimate
from .config import CONVERTER

_LIST, _BREAK = re.compile(r"\[\n\s+([^\[\]]*?),\n\]"), re.compile(r",\s+")  # lists that could stand on one line
_HOUR = 3600.0 / SECONDS_PER_YEAR


def market_table(found: Fit, crash_from: float, source: str, about: str) -> str:
    """The table `[market]` of a fit, ready to `include`."""
    market: Any = found.market
    if hasattr(market, "crash_from"):
        market = eqx.tree_at(lambda m: m.crash_from, market, np.asarray(float(f"{crash_from:.2g}")))
    note = next((e.note for e in found.estimates.values() if e.note), "")
    head = (
        f"# {type(found.law).__name__} by maximum likelihood from {source}:",
        f"# {about}. Made by `tailrisk calibrate` on {datetime.date.today().isoformat()}.",
        "# Intervals are 95 %, from standard errors that are robust to dependence within a month. The drift is set to 0.",
        *([f"# Numbers and intervals are {note}."] if note else []),
    )
    return annotated({"market": CONVERTER.unstructure(market)}, found.estimates, "\n".join(head))


def in_hours(found: Estimate) -> Estimate:
    """A time in hours; anything else as it is."""
    if found.unit != "year":
        return found
    value, error, low, high = (number / _HOUR for number in found[:4])
    return found._replace(value=value, std_error=error, low=low, high=high, unit="hour")


def annotated(table: dict[str, Any], estimates: dict[str, Estimate], head: str) -> str:
    """A table as TOML with numbers rounded as their errors deserve; known keys get their intervals as comments."""
    lines = [head]
    text = _LIST.sub(lambda found: "[" + _BREAK.sub(", ", found[1]) + "]", tomli_w.dumps(_rounded(table)))
    for line in text.splitlines():
        key = line.partition(" = ")[0]
        found = estimates.get(key)
        if found is None or not np.isfinite(found.low) or key == "drift":  # the drift is not that of the fit
            lines.append(line)
            continue
        found = in_hours(found)
        lines.append(f"{line:<32}# {found.low:.4g} to {found.high:.4g}, {found.unit}")
    return "\n".join(lines) + "\n"


def _rounded(value: Any) -> Any:
    """Numbers to 4 digits; times to 3, in hours."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    if isinstance(value, str) and value.endswith(" s") and value[:-2].replace(".", "").replace("e", "").isdigit():
        return f"{float(value[:-2]) / 3600.0:.3g}h"
    return float(f"{value:.4g}") if isinstance(value, float) else value


def plain(value: Any) -> Any:
    """Estimates as tables with their intervals."""
    if isinstance(value, Estimate):
        out = {"value": value.value, "std_error": value.std_error, "ci95": [value.low, value.high], "unit": value.unit}
        return out | ({"note": value.note} if value.note else {})
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return value
