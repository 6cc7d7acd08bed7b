"""Fitted numbers as tables of a config, each line with its interval and unit."""

import datetime
from typing import Any

import equinox as eqx
import numpy as np
import tomli_w

from .._fields import SECONDS_PER_YEAR
from ..calibrate import Fit
from ..tails.measures import Estimate
from .config import CONVERTER

_HOUR = 3600.0 / SECONDS_PER_YEAR


def market_table(found: Fit, crash_from: float, source: str, about: str) -> str:
    """The table `[market]` of a fit, ready to `include`."""
    market: Any = found.market
    if hasattr(market, "crash_from"):
        market = eqx.tree_at(lambda m: m.crash_from, market, np.asarray(float(f"{crash_from:.2g}")))
    head = (
        f"# {type(found.law).__name__} by maximum likelihood from {source}:",
        f"# {about}. Made by `tailrisk calibrate` on {datetime.date.today().isoformat()}.",
        "# Intervals are 95 %, from standard errors that are robust to dependence within a month. The drift is set to 0.",
    )
    return annotated({"market": CONVERTER.unstructure(market)}, found.estimates, "\n".join(head))


def annotated(table: dict[str, Any], estimates: dict[str, Estimate], head: str) -> str:
    """A table as TOML with numbers rounded as their errors deserve; known keys get their intervals as comments."""
    lines = [head]
    for line in tomli_w.dumps(_rounded(table)).splitlines():
        key = line.partition(" = ")[0]
        found = estimates.get(key)
        if found is None or not np.isfinite(found.low) or key == "drift":  # the drift is not that of the fit
            lines.append(line)
            continue
        scale, unit = (1.0 / _HOUR, "hours") if found.unit == "year" else (1.0, found.unit)
        low, high = found.low * scale, found.high * scale
        lines.append(f"{line:<32}# {low:.4g} to {high:.4g}, {unit}")
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
