"""What a published figure is made of: curves with their errors, and the checks that they must pass.

A figure is a function of its curves alone. They are written as a table of points, in full precision, so that the file that a
reader gets is the file that the figure is drawn from.
"""

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import special

from .config import ConfigError
from .folder import write_atomic

COLUMNS = ("panel", "series", "x", "y", "se", "lo95", "hi95", "n_paths", "unit")
SINGLE = 3.0  # standard errors that one check may be off
JOINT = 1e-3  # probability that any of many true checks fails
_TWO_SIDED = 1.959963984540054  # of a 95 % interval


class Curve(NamedTuple):
    """Points of one series of a panel: y over x with standard error, 95 % interval and paths (0 if computed exactly)."""

    x: Float[np.ndarray, " points"]
    y: Float[np.ndarray, " points"]
    se: Float[np.ndarray, " points"]
    low: Float[np.ndarray, " points"]
    high: Float[np.ndarray, " points"]
    paths: Int[np.ndarray, " points"]
    unit: str


Curves = dict[tuple[str, str], Curve]
"""Curves by panel and series."""


def curve(x: Any, y: Any, se: Any = np.nan, *, unit: str, paths: Any = 0, low: Any = None, high: Any = None) -> Curve:
    """A curve from arrays or numbers of one length; the interval is normal unless its ends are given."""
    x, y, se, paths = np.broadcast_arrays(np.atleast_1d(np.asarray(x, float)), y, se, paths)
    y, se = y.astype(float), se.astype(float)
    low = y - _TWO_SIDED * se if low is None else np.broadcast_to(np.asarray(low, float), y.shape)
    high = y + _TWO_SIDED * se if high is None else np.broadcast_to(np.asarray(high, float), y.shape)
    return Curve(x.astype(float), y, se, low, high, paths.astype(np.int64), unit)


class Check(NamedTuple):
    """A number of a figure against a reference.

    `tolerance` is absolute; where `std_error` is given it is a multiple of that, found by `judged`. `side`: 0 both, +1 if
    only a number above the reference misses it, -1 if only one below. `refused`: why diagnostics withhold the number.
    """

    id: str
    expected: float
    obtained: float
    tolerance: float
    provenance: str
    std_error: float = np.nan
    side: int = 0
    refused: str = ""


def exact(id: str, expected: float, obtained: float, tolerance: float, provenance: str, side: int = 0) -> Check:
    """A check with a tolerance that was agreed beforehand."""
    return Check(id, float(expected), float(obtained), float(tolerance), provenance, side=side)


def sampled(
    id: str,
    expected: float,
    obtained: float,
    std_error: float,
    provenance: str,
    *,
    most: float = np.inf,
    side: int = 0,
    refused: str = "",
) -> Check:
    """A check within sampling error: of what was obtained and, in quadrature, of a reference that is sampled itself.

    Refused if the error is above `most`: a band so wide would let everything pass.
    """
    if not refused and not std_error <= most:
        refused = f"standard error {std_error:.2g}, expected at most {most:.2g}: run more paths"
    return Check(id, float(expected), float(obtained), np.nan, provenance, float(std_error), side, refused)


class Claim(NamedTuple):
    """A line of the card of a replication: what was published, what we find, and where the published number stands.

    A number of ours never stands under `published`.
    """

    what: str
    published: str
    ours: str
    provenance: str


class Row(NamedTuple):
    """A check with its verdict; `deviation` is in units of the tolerance."""

    id: str
    expected: float
    obtained: float
    tolerance: float
    deviation: float
    passed: bool
    provenance: str
    refused: str


def band(checks: int) -> float:
    """Standard errors allowed to each of several checks: 3 for one, else Bonferroni at a joint level of 1e-3."""
    return SINGLE if checks <= 1 else float(-special.ndtri(0.5 * JOINT / checks))


def judged(checks: Iterable[Check]) -> list[Row]:
    """Verdicts; the band of sampled checks is that of their number in the figure. Nothing but numbers can pass."""
    checks = list(checks)
    width = band(sum(not np.isnan(check.std_error) for check in checks))
    rows = []
    for check in checks:
        tolerance = check.tolerance if np.isnan(check.std_error) else width * check.std_error
        apart = check.obtained - check.expected
        apart = abs(apart) if check.side == 0 else max(check.side * apart, 0.0) if np.isfinite(apart) else np.nan
        passed = bool(apart <= tolerance) and not check.refused
        deviation = apart / tolerance if tolerance > 0.0 else (0.0 if apart == 0.0 else np.inf)
        rows.append(
            Row(
                check.id,
                check.expected,
                check.obtained,
                tolerance,
                deviation,
                passed,
                check.provenance,
                check.refused,
            )
        )
    return rows


def status(rows: list[Row]) -> str:
    """FAILED if a band is missed, REFUSED if none is but diagnostics withhold an estimate, else PASSED."""
    if any(not row.passed and not row.refused for row in rows):
        return "FAILED"
    return "REFUSED" if any(row.refused for row in rows) else "PASSED"


def write_curves(file: Path, curves: Curves) -> None:
    """All points in long form, one a line; numbers read back to the same bits."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for (panel, series), found in curves.items():
        for x, y, se, low, high, paths in zip(*found[:6], strict=True):
            numbers = [repr(float(number)) for number in (x, y, se, low, high)]
            table.writerow([panel, series, *numbers, int(paths), found.unit])
    write_atomic(file, lambda out: out.write(text.getvalue().encode()))


def read_curves(file: Path) -> Curves:
    """The curves of a table that `write_curves` wrote.

    **Raises:** `ConfigError` if there is no such file or it holds something else.
    """
    try:
        rows = list(csv.reader(io.StringIO(file.read_text("utf-8"))))
        if not rows or tuple(rows[0]) != COLUMNS:
            raise ValueError(f"expected the columns {', '.join(COLUMNS)}")
        parts: dict[tuple[str, str], list[list[str]]] = {}
        for row in rows[1:]:
            parts.setdefault((row[0], row[1]), []).append(row[2:])
        found = {}
        for key, part in parts.items():
            x, y, se, low, high = np.array([row[:5] for row in part], float).T
            found[key] = Curve(x, y, se, low, high, np.array([row[5] for row in part], np.int64), part[0][6])
        return found
    except (OSError, ValueError, IndexError) as error:
        raise ConfigError(f"{file}: not a table of a figure ({error}); run the figure again") from None
