"""Derivatives of expected bad debt in the maintenance ratio: every estimator against the quadrature, side by side.

The measure is work-normalized variance, squared standard error x processor seconds, as a ratio to central differences on
common random numbers with a step of 5e-4; below 1 is better. Each estimator runs twice and the second run, on other paths,
counts, so that compiling does not.
"""

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import jax
import numpy as np

from ..gradients import (
    Gradient,
    Ladder,
    LadderWalk,
    branch,
    differences,
    measure_valued,
    oracle,
    reference_book,
    score,
    shift,
)
from ..simulate import simulate
from .timing import machine

BOOKS = {"400 accounts": (400, 0), "12 accounts": (12, 3)}
REFERENCE = "differences, h = 5e-4"
LIMIT = 4.0  # standard errors from the quadrature
BATCHES = 64
CHECK_FAILED = 1

Method = Callable[..., Gradient]


def methods() -> dict[str, Method]:
    """Estimators of one parameter, the yardstick first."""
    return {
        REFERENCE: lambda *given, **more: differences.estimate(*given, step=5e-4, certify=False, **more),
        "differences, h = 2e-3": lambda *given, **more: differences.estimate(*given, step=2e-3, certify=False, **more),
        "absorbed shift": shift.estimate,
        "push-out score": score.estimate,
        "measure-valued": measure_valued.estimate,
        "boundary branching": branch.estimate,
    }


@dataclasses.dataclass(frozen=True)
class Row:
    """One estimator on one book: relative bias measured against the quadrature, its error, and what it costs."""

    estimate: float
    std_error: float
    apart: float  # (estimate - truth) / std_error
    ratio: float  # work-normalized variance over that of the yardstick
    ratio_error: float  # relative, from the sampling error of two variances
    cost: float  # processor time over that of the same paths without a gradient


def compare(accounts: int, seed: int, paths: int) -> tuple[float, dict[str, Row]]:
    """The derivative by quadrature, and a row per estimator."""
    ladder = Ladder(book=reference_book(accounts, seed))
    truth = float(oracle.expected_bad_debt_and_gradient(ladder)[1].maintenance)
    walk = LadderWalk.build(ladder)
    for seed_ in (0, 1):
        began = time.process_time()
        simulate(walk, paths=paths, seed=seed_)
        forward = time.process_time() - began
    found = {}
    for name, method in methods().items():
        for seed_ in (0, 1):
            found[name] = method(ladder, ("maintenance",), seed=seed_, paths=paths, batches=BATCHES)
    work = {name: float(one.std_error[0]) ** 2 * one.seconds for name, one in found.items()}
    noise = 2.0 / np.sqrt(BATCHES - 1.0)  # of a ratio of two variances with as many batches each
    return truth, {
        name: Row(
            float(one.estimate[0]),
            float(one.std_error[0]),
            (float(one.estimate[0]) - truth) / float(one.std_error[0]),
            work[name] / work[REFERENCE],
            0.0 if name == REFERENCE else noise,
            one.seconds / forward,
        )
        for name, one in found.items()
    }


def run(paths: int, out: Path | None) -> int:
    """Prints a table per book; status 1 if an estimator that is unbiased by theorem is off by more than four errors."""
    jax.config.update("jax_enable_x64", True)
    about = machine()
    click.echo(f"{about['cpu']}, {about['cores']} cores, load {about['load']}, {about['device']}, float64")
    paths = BATCHES * max(1, round((paths or BATCHES * 16_384) / BATCHES))
    results: dict[str, Any] = {"machine": about, "paths": paths}
    failed = False
    for title, (accounts, seed) in BOOKS.items():
        truth, rows = compare(accounts, seed, paths)
        click.echo(f"\n{title}, {paths:,} paths: d E[bad debt] / d maintenance = {truth:.8g} by quadrature")
        click.echo(f"{'':24}{'estimate':>13}{'error':>10}{'apart':>8}{'variance x time':>17}{'forward passes':>16}")
        for name, row in rows.items():
            reach = f"{row.ratio:.2f} ± {row.ratio * row.ratio_error:.2f}" if row.ratio_error else "1"
            click.echo(
                f"{name:24}{row.estimate:>13.5g}{row.std_error:>10.2g}{row.apart:>8.1f}{reach:>17}{row.cost:>16.2f}"
            )
            if not name.startswith("differences") and not abs(row.apart) <= LIMIT:
                click.echo(f"check failed: {name} is {row.apart:.1f} standard errors from the quadrature", err=True)
                failed = True
        results[title] = {"truth": truth} | {name: dataclasses.asdict(row) for name, row in rows.items()}
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "bench-gradients.json").write_text(json.dumps(results, indent=2) + "\n", "utf-8")
    return CHECK_FAILED if failed else 0
