"""Estimators of rare events: how much less work than plain paths they need, on systems whose answers are known or shared.

The measure is the gain, the work-normalized relative variance of plain Monte Carlo, (1 - p)/p for a probability, over that of
the method: paths x (standard error / value)^2 with paths counted in whole paths of the same system, tuning not included. Every
row is run under several seeds after one fit; the gain is that of the mean variance, and its error comes from the scatter.
Rows that estimate the same number must agree.
"""

import dataclasses
import math
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import jax
import numpy as np

from .. import tails
from ..tails import Probability
from ..tails.diagnostics import Result
from . import tail_scenario
from .tail_rows import CASCADE, HIT, Entry, entries
from .timing import machine, save

PATHS = 40_000
CONTROL = 10.0  # gain of the control variate on top of the tilt
LIMIT = 4.0  # combined standard errors within which rows of one number must agree
CONTESTS = 4  # repeats of a static case for each seed of the other rows
CHECK_FAILED = 1


@dataclasses.dataclass(frozen=True)
class Row:
    """One estimator: its value, relative standard deviation per path, line or run, gain, and processor seconds of a run.

    `one_percent`: processor seconds to a relative standard error of 1 %, tuning not included.
    """

    name: str
    reference: str
    value: float
    std_error: float
    spread: float
    per: str
    spread_elsewhere: float
    gain: float
    gain_error: float
    target: float
    gain_elsewhere: float
    verdict: str
    paths: int
    tuning_paths: int
    seconds: float
    one_percent: float
    refused: str


def verdict(gain: float, error: float, target: float) -> str:
    """Whether a gain is at least its target, or could be within two errors."""
    if math.isnan(target):
        return ""
    if gain >= target:
        return "met"
    return "missed, within error" if gain + 2.0 * error >= target else "missed"


def measure(entry: Entry, paths: int, seeds: int, seed: int = 0) -> Row:
    """A fit, a short run that compiles, and a run for each of several seeds, all others for another `seed`."""
    began, first = time.perf_counter(), 1 + seed * (1 + seeds)
    fitted = tails.fit(entry.problem, entry.wanted, entry.method, first)
    size = max(int(paths * entry.share), 1_024)
    found: list[Result] = []
    tails.run(entry.problem, fitted, size, first)  # compiles
    start = time.process_time()
    for each in range(first + 1, first + 1 + seeds):
        found.append(next(iter(tails.run(entry.problem, fitted, size, each).values())))
    seconds = (time.process_time() - start) / seeds
    click.echo(f"  {entry.name}, {time.perf_counter() - began:.0f} s", err=True)
    refused = next((one.reason for one in found if one.refused), "")
    values = np.array([one.estimate.value for one in found])
    variances = np.array([one.estimate.std_error**2 for one in found])
    value = float(values.mean()) or math.nan  # where nothing was hit there is no gain
    work = found[0].paths
    relative = variances / value**2
    plain = (
        (1.0 - value) / value if isinstance(entry.wanted, Probability) else _plain_variance(entry, fitted, value, size)
    )
    gain = plain / (work * float(relative.mean()))
    error = gain * float(relative.std(ddof=1)) / float(relative.mean()) / math.sqrt(seeds) if seeds > 1 else math.nan
    line, runs = getattr(fitted, "effort", 1), getattr(fitted, "replicates", 16)
    samples = {"path": work, "pair": work / 2, "line": work / line, "run": runs}[entry.per]
    return Row(
        name=entry.name,
        reference=entry.reference,
        value=value,
        std_error=math.sqrt(float(variances.mean()) / seeds),
        spread=math.sqrt(float(relative.mean()) * samples),
        per=entry.per,
        spread_elsewhere=entry.spread,
        gain=gain,
        gain_error=error,
        target=entry.target,
        gain_elsewhere=entry.gain,
        verdict=verdict(gain, 0.0 if math.isnan(error) else error, entry.target),
        paths=work,
        tuning_paths=found[0].tuning_paths,
        seconds=seconds,
        one_percent=seconds * float(relative.mean()) / 1e-4,
        refused=refused,
    )


def _plain_variance(entry: Entry, fitted: Any, mean: float, paths: int) -> float:
    """Relative variance of a plain path, from weighted ones."""
    square, count = 0.0, 0
    for part in fitted.sample(entry.problem, paths, 99):
        x, w = np.asarray(part.outcome[entry.wanted.outcome], float), np.exp(np.asarray(part.log_weight, float))
        square, count = square + float(w @ (x * x)), count + x.size
    return square / count / mean**2 - 1.0


def gradients(paths: int) -> dict[str, dict[str, Any]]:
    """d ln P / d ln theta by the integrated direction: relative deviation of a line, against those measured elsewhere."""
    elsewhere = {"volatility": 1.10, "impact": 0.62}
    fitted = tails.fit(CASCADE, HIT, tails.Direction(), 1)
    where = {"volatility": lambda p: p.volatility, "impact": lambda p: p.impact}
    began = time.process_time()
    found = fitted.gradient(CASCADE, where, paths, 2)
    seconds, rows = time.process_time() - began, {}
    for name, result in found.items():
        relative = result.std_error / abs(result.value)
        rows[name] = {
            "value": result.value,
            "std_error": result.std_error,
            "lines": result.paths,
            "spread": relative * math.sqrt(result.paths),
            "spread_elsewhere": elsewhere[name],
            "at_20000_lines": relative * math.sqrt(result.paths / 20_000),
            "verdict": "met" if relative * math.sqrt(result.paths / 20_000) <= 0.01 else "missed",
            "seconds": seconds,
        }
    return rows


def failures(rows: list[Row]) -> list[str]:
    """Rows that miss their target beyond error, are refused, or do not agree with the most precise one of their number."""
    lines = []
    for row in rows:
        if row.refused:
            lines.append(f"{row.name}: {row.refused}")
        if row.verdict == "missed":
            lines.append(f"{row.name}: gain {row.gain:.3g}, {row.target:.3g} is wanted")
        best = min((r for r in rows if r.reference == row.reference), key=lambda r: r.std_error)
        apart = math.hypot(row.std_error, best.std_error)
        if row is not best and not abs(row.value - best.value) <= LIMIT * apart:
            lines.append(f"{row.name}: {row.value:.4g}, {best.name} says {best.value:.4g} +- {apart:.2g}")
    return lines


def control(rows: list[Row]) -> dict[str, Any]:
    """What the control variate gains beyond the tilt that it stands on."""
    tilt, both = (row for row in rows if row.reference == "accounts")
    gain = both.gain / tilt.gain
    error = gain * math.hypot(both.gain_error / both.gain, tilt.gain_error / tilt.gain)
    return {"gain": gain, "gain_error": error, "target": CONTROL, "verdict": verdict(gain, error, CONTROL)}


def _line(row: Row) -> str:
    elsewhere = "" if math.isnan(row.spread_elsewhere) else f"({row.spread_elsewhere:.2f})"
    error = "" if math.isnan(row.gain_error) else f"+-{row.gain_error:.1g}"
    target = "" if math.isnan(row.target) else f">= {row.target:.2g}: {row.verdict}"
    target += "" if math.isnan(row.gain_elsewhere) else f" (elsewhere {row.gain_elsewhere:.2g})"
    spread = f"{row.spread:.2f} {elsewhere} a {row.per}"
    return (
        f"{row.name:44}{row.value:>12.4g}{row.std_error:>9.1g}{spread:>21}{row.gain:>11.3g}{error:>9}"
        f"{row.paths:>9,}{row.tuning_paths:>9,}{row.one_percent:>9.2f}  {target}"
    )


def run(paths: int, seeds: int, out: Path | None) -> int:
    """Prints the tables and writes `bench-tails.json`; status 1 if a gain is missed or estimates do not agree."""
    jax.config.update("jax_enable_x64", True)
    paths, seeds, about = paths or PATHS, max(seeds, 2), machine()
    click.echo(
        f"{about['cpu']}, {about['cores']} cores, load {about['load']}, {about['device']}, float64, {seeds} seeds"
    )
    rows = [measure(entry, paths, seeds) for entry in entries()]
    click.echo("\nreference jump cascade of 64 steps; relative deviation (elsewhere), gain over plain paths")
    click.echo(
        f"{'':44}{'value':>12}{'error':>9}{'deviation':>21}{'gain':>11}{'':>9}{'paths':>9}{'tuning':>9}{'s to 1 %':>9}  target"
    )
    for row in rows:
        click.echo(_line(row))
    results: dict[str, Any] = {"machine": about, "paths": paths, "seeds": seeds}
    results["cascade"] = [dataclasses.asdict(row) for row in rows]
    slopes = results["gradients"] = gradients(max(paths // 2, 640))
    for name, one in slopes.items():
        click.echo(
            f"d ln P / d ln {name} = {one['value']:.4g} +- {one['std_error']:.2g}; deviation {one['spread']:.2f} "
            f"({one['spread_elsewhere']:.2f}) a line; 20,000 lines: {one['at_20000_lines']:.2%}, <= 1 %: {one['verdict']}"
        )
    failed = failures(rows) + [f"d ln P / d {n}: {o['verdict']}" for n, o in slopes.items() if o["verdict"] != "met"]
    further = results["control"] = control(rows)
    click.echo(
        f"the control variate gains {further['gain']:.3g} +- {further['gain_error']:.1g} on top of the tilt, >= {CONTROL:g}: "
        f"{further['verdict']}"
    )
    if further["verdict"] == "missed":
        failed.append(f"control variate on top of the tilt: gain {further['gain']:.3g}, {CONTROL:g} is wanted")
    scenario = tail_scenario.run(seeds)
    if scenario is not None:
        results["scenario"] = dataclasses.asdict(scenario)
        failed += scenario.failures()
    if find_spec("openturns") is None:
        click.echo("static limit states: not compared, OpenTURNS is not installed (extra `compare`)")
    else:
        from . import static_rivals

        results["static"] = static_rivals.run(CONTESTS * seeds)
    for line in failed:
        click.echo(f"check failed: {line}", err=True)
    save(out, "bench-tails.json", results)
    return CHECK_FAILED if failed else 0
