"""Derivatives of expected bad debt: every estimator against the quadrature, side by side in one run.

The measure is work-normalized variance, squared standard error x processor seconds, as a ratio to central differences on
common random numbers with a step of 5e-4 in the same parameter; below 1 is better. Its error is that of two variances of
batch means. Each estimator runs a little first, so that compiling does not count. With a breaker there is no quadrature:
there estimates are compared with the most precise one that is unbiased by theorem.
"""

import dataclasses
import inspect
import time
from pathlib import Path
from typing import Any

import click
import jax
import numpy as np

from ..gradients import Gradient, Ladder, LadderWalk, oracle
from ..gradients import estimate as automatic
from ..simulate import simulate
from .gradient_cases import BATCHES, FORWARD_PASSES, GOALS, TARGETS, YARDSTICK, Case, Entry, cases
from .timing import machine, save

LIMIT = 4.0  # standard errors from the truth
PILOT = 65_536  # paths at most, and a sixteenth
PATHS = BATCHES * 8_192
FOUR = ("maintenance", "initial_shift", "impact", "law.drift")
CHECK_FAILED = 1


@dataclasses.dataclass(frozen=True)
class Row:
    """One estimator of one parameter: how far it is from the truth and what its precision costs.

    apart: (estimate - truth) over the error of the difference. bias: the same relative to the truth, with its error. ratio: of
    work-normalized variances. passes: processor time over that of the same paths without a gradient.
    """

    estimator: str
    kind: str
    parameter: str
    estimate: float
    std_error: float
    accepted: bool
    apart: float
    bias: float
    bias_error: float
    ratio: float
    ratio_error: float
    target: float
    verdict: str
    passes: float
    paths: int


def _forward(case: Case, paths: int) -> float:
    """Processor seconds a path of a simulation of the ladder."""
    walk = LadderWalk.build(case.ladder)
    spent = []
    for seed in range(4):
        began = time.process_time()
        simulate(walk, paths=paths, seed=seed, chunk=min(16_384, paths // BATCHES))
        spent.append((time.process_time() - began) / paths)
    return float(np.median(spent[1:]))


def _size(entry: Entry, paths: int) -> int:
    """Paths of a batch."""
    return max(64, int(paths * entry.share) // entry.batches // 64 * 64)


def measure(entry: Entry, case: Case, paths: int, truth: Ladder | None) -> Gradient:
    """A run after a short one that compiles the same programs."""
    size, found, began = _size(entry, paths), None, time.perf_counter()
    for batches, seed in ((2, 1), (entry.batches, 2)):
        given = {"pilot_paths": size if batches == 2 else min(PILOT, batches * size // 16), "truth": truth}
        takes = inspect.signature(entry.method).parameters
        more = {name: value for name, value in given.items() if name in takes}
        found = entry.method(case.ladder, entry.parameters, seed=seed, paths=batches * size, batches=batches, **more)
    assert found is not None
    click.echo(f"  {case.title}: {entry.name}, {time.perf_counter() - began:.0f} s", err=True)
    return found


def verdict(ratio: float, error: float, target: float, goal: float = np.nan) -> str:
    """Whether a ratio is at most its target (and the goal beyond it), or could be within two errors."""
    if np.isnan(target):
        return ""
    if ratio <= target:
        return "met" if not ratio > goal else f"met, goal {goal:g}: {verdict(ratio, error, goal)}"
    return "missed, within error" if ratio - 2.0 * error <= target else "missed"


def compare(case: Case, paths: int) -> tuple[dict[str, float], float, list[Row]]:
    """Truths (empty with a breaker), seconds of a forward pass, and a row per estimator and parameter."""
    forward = _forward(case, paths)
    truth = None if case.ladder.has_breaker else oracle.expected_bad_debt_and_gradient(case.ladder)[1]
    found = [(entry, measure(entry, case, paths, truth)) for entry in case.entries]
    truths = {} if truth is None else {name: truth.get(name) for entry, _ in found for name in entry.parameters}
    work: dict[str, float] = {}
    best: dict[str, tuple[float, float, str]] = {}
    for entry, result in found:
        for name, value, error in zip(result.parameters, result.estimate, result.std_error, strict=True):
            if entry.name == YARDSTICK:
                work[name] = float(error) ** 2 * result.seconds
            if entry.kind == "unbiased" and float(error) < best.get(name, (0.0, np.inf, ""))[1]:
                best[name] = (float(value), float(error), entry.name)
    rows = []
    for entry, result in found:
        for i, name in enumerate(result.parameters):
            if name not in work:
                continue
            value, error = float(result.estimate[i]), float(result.std_error[i])
            right, its_error, who = (truths[name], 0.0, "") if truths else best[name]
            apart = float(np.hypot(error, its_error)) if who != entry.name else np.nan
            ratio = error**2 * result.seconds / work[name]
            noise = 0.0 if entry.name == YARDSTICK else np.sqrt(2.0 / (entry.batches - 1.0) + 2.0 / (BATCHES - 1.0))
            target, goal = (wanted.get((case.title, entry.name, name), np.nan) for wanted in (TARGETS, GOALS))
            rows.append(
                Row(
                    estimator=entry.name,
                    kind=entry.kind,
                    parameter=name,
                    estimate=value,
                    std_error=error,
                    accepted=bool(result.accepted[i]),
                    apart=np.copysign(np.inf, value - right) if apart == 0.0 else (value - right) / apart,
                    bias=value / right - 1.0,
                    bias_error=apart / abs(right),
                    ratio=ratio,
                    ratio_error=ratio * noise,
                    target=target,
                    verdict=verdict(ratio, ratio * noise, target, goal),
                    passes=result.seconds / (forward * result.paths),
                    paths=result.paths,
                )
            )
    return truths, forward, rows


def failures(rows: list[Row]) -> list[str]:
    """What should not be: an unbiased estimator that is off, or a control that is not seen to be."""
    lines = []
    for row in rows:
        who = f"{row.estimator}, d/d {row.parameter}"
        if row.kind == "unbiased" and abs(row.apart) > LIMIT:
            lines.append(f"{who}: {row.apart:.1f} standard errors from the truth")
        if row.kind == "control" and row.accepted:
            lines.append(f"{who}: a control was accepted")
    for name in dict.fromkeys(row.estimator for row in rows if row.kind == "control"):
        if not any(row.estimator == name and abs(row.apart) > LIMIT for row in rows):
            lines.append(f"{name}: nothing shows that this control is wrong; give more paths")
    return lines


def default_of_four(case: Case, repeats: int = 3) -> dict[str, Any]:
    """Cost in forward passes of the default for four parameters together, median of pairs of runs, and who did it."""
    walk, ratios, found = LadderWalk.build(case.ladder), [], {}
    for seed, batches in enumerate((2, *[64] * repeats)):
        paths = batches * 8_192
        spent = [time.process_time()]
        simulate(walk, paths=paths, seed=seed, chunk=8_192)
        spent.append(time.process_time())
        found = automatic(case.ladder, FOUR, seed=seed, paths=paths, batches=batches)
        spent.append(time.process_time())
        ratios.append((spent[2] - spent[1]) / (spent[1] - spent[0]))
    methods = sorted({one.method for one in found.values()})
    return {"passes": float(np.median(ratios[1:])), "methods": methods, "target": FORWARD_PASSES}


def _line(row: Row) -> str:
    off = f"{row.apart:+.1f}" if np.isfinite(row.apart) else ("best" if np.isnan(row.apart) else "inf")
    places = 2 if row.bias_error < 0.1 else 0
    bias = f"{100 * row.bias:+.{places}f} ± {100 * row.bias_error:.{places}f}" if np.isfinite(row.bias_error) else ""
    ratio = f"{row.ratio:.3g} ± {row.ratio_error:.2g}" if row.ratio_error else "1" if row.ratio == 1.0 else ""
    target = "" if np.isnan(row.target) else f"<= {row.target:g}: {row.verdict}"
    refused = "refused" if row.kind == "control" and abs(row.apart) > LIMIT else ""
    return (
        f"{row.estimator:40}{row.estimate:>13.5g}{row.std_error:>10.2g}{off:>7}{bias:>17}{ratio:>18}"
        f"{row.passes:>8.2f}  {target}{refused}"
    )


def run(paths: int, out: Path | None) -> int:
    """Prints a table per case and parameter; status 1 if an unbiased estimator is off or a control passes."""
    jax.config.update("jax_enable_x64", True)
    about = machine()
    click.echo(f"{about['cpu']}, {about['cores']} cores, load {about['load']}, {about['device']}, float64")
    paths = BATCHES * 64 * max(1, round((paths or PATHS) / (BATCHES * 64)))
    click.echo(f"{paths:,} paths in {BATCHES} batches; a ratio of work-normalized variances has an error of "
               f"{200.0 / np.sqrt(BATCHES - 1.0):.0f} %")  # fmt: skip
    results: dict[str, Any] = {"machine": about, "paths": paths, "batches": BATCHES}
    failed, targets = [], []
    for case in cases():
        began = time.perf_counter()
        truths, forward, rows = compare(case, paths)
        entry: dict[str, Any] = {"truth": truths, "forward_seconds_per_path": forward}
        for parameter in dict.fromkeys(row.parameter for row in rows):
            known = f" = {truths[parameter]:.8g} by quadrature" if truths else ", against the most precise unbiased one"
            click.echo(f"\n{case.title}: d E[bad debt] / d {parameter}{known}")
            click.echo(
                f"{'':40}{'estimate':>13}{'error':>10}{'z':>7}{'bias, %':>17}{'variance x time':>18}{'passes':>8}  target"
            )
            for row in rows:
                if row.parameter == parameter:
                    click.echo(_line(row))
        if not case.ladder.has_breaker and case.title != "rare":
            four = entry["default_of_four"] = default_of_four(case)
            said = "met" if four["passes"] <= FORWARD_PASSES else "missed"
            click.echo(
                f"default for {', '.join(FOUR)} together ({', '.join(four['methods'])}): {four['passes']:.2f} forward passes, "
                f"<= {FORWARD_PASSES:g}: {said}"
            )
        targets += [f"{case.title}: {row.estimator}, {row.parameter}: {row.ratio:.2f} ± {row.ratio_error:.2f} "
                    f"(<= {row.target:g}) {row.verdict}" for row in rows if row.verdict]  # fmt: skip
        failed += [f"{case.title}: {line}" for line in failures(rows)]
        entry["rows"] = [dataclasses.asdict(row) for row in rows]
        entry["seconds"] = time.perf_counter() - began
        results[case.title] = entry
    click.echo("\n".join(["", "variance x time over that of the yardstick:", *targets]))
    for line in failed:
        click.echo(f"check failed: {line}", err=True)
    save(out, "bench-gradients.json", results)
    return CHECK_FAILED if failed else 0
