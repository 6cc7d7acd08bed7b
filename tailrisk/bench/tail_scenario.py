"""Expected shortfall of the shipped scenario: what a processor second buys by weighted paths and by plain ones.

Both kinds of path liquidate the same book; those of a tilt do so on most paths and so take longer. They run in turn in one
process, each on all cores, and cost counts processor time. The gain is the variance that a plain path leaves over that which a
weighted one leaves, times the seconds of a plain path over those of a weighted one; tuning is not included.
"""

import dataclasses
import math
import tempfile
import time
from pathlib import Path

import click
import numpy as np

from ..simulate import simulate
from ..study.memory import chunk_of
from ..study.rare import tail_law
from ..study.run import Study, load, prepare
from ..tails import measures

CONFIG = Path(__file__).parents[2] / "configs" / "btc_tail.toml"
WEIGHTED = 12_800
LIMIT = 4.0  # combined standard errors within which both must agree


@dataclasses.dataclass(frozen=True)
class Row:
    """Expected shortfall by weighted paths, its plain twin, and gains with their errors over the seeds."""

    level: float
    value: float
    std_error: float
    plain_value: float
    plain_std_error: float
    gain_per_path: float
    gain_per_path_error: float
    cost: float
    cost_error: float
    gain: float
    gain_error: float
    paths: int
    plain_paths: int
    tuning_paths: int
    refused: str

    def failures(self) -> list[str]:
        """A refused estimate, two that do not agree, and a tilt that does not pay."""
        lines = [f"shipped scenario: {self.refused}"] if self.refused else []
        apart = math.hypot(self.std_error, self.plain_std_error)
        if not abs(self.value - self.plain_value) <= LIMIT * apart:
            lines.append(f"shipped scenario: {self.value:.4g} by weighted paths, {self.plain_value:.4g} by plain ones")
        if not self.gain >= 1.0:
            lines.append(f"shipped scenario: gain {self.gain:.3g} per processor second, 1 is wanted")
        return lines


def measure(study: Study, seeds: int, weighted: int = WEIGHTED) -> Row:
    """A law tuned as by `tailrisk run`, then weighted and plain paths in turn under fresh seeds."""
    run, system = study.run, prepare(study)
    level = float(np.atleast_1d(np.asarray(run.levels, float))[-1])
    chunk = chunk_of(run, system)
    plain = simulate(system, paths=run.paths, seed=run.seed, chunk=chunk)
    with tempfile.TemporaryDirectory() as folder:
        law, problem = tail_law(run, system, plain, Path(folder))
    found, debts, seconds, squares = [], [], [], []
    for turn in range(-1, seeds):  # the first one compiles
        seed = run.seed + 1_000 + turn
        began = time.process_time()
        parts = list(law.sample(problem, weighted, seed))
        result = law.run(problem, weighted, seed, parts=iter(parts))[f"es_{level:g}"]
        middle = time.process_time()
        more = simulate(system, paths=run.paths, seed=seed, chunk=chunk)["bad_debt"]
        if turn >= 0:
            seconds.append(((middle - began) / result.paths, (time.process_time() - middle) / run.paths))
            found.append(result)
            debts.append(np.asarray(more, float))
            x = np.concatenate([np.asarray(part.outcome["bad_debt"], float) for part in parts])
            w = np.exp(np.concatenate([np.asarray(part.log_weight, float) for part in parts]))
            excess = np.maximum(x - law.hint.quantiles[-1], 0.0)
            squares.append(float(np.mean(w * excess**2) - np.mean(w * excess) ** 2) / (1.0 - level) ** 2)
    estimates = [one.estimate for one in found]
    own = np.array([one.std_error**2 for one in estimates]) * found[0].paths
    gains, costs = np.mean(squares) / own, np.array([a / b for a, b in seconds])
    other = measures.expected_shortfall(np.concatenate(debts), level)
    gain, cost = (float(np.mean(values)) for values in (gains, costs))
    errors = [float(np.std(values, ddof=1)) / math.sqrt(seeds) for values in (gains, costs)]
    return Row(
        level=level,
        value=float(np.mean([one.value for one in estimates])),
        std_error=math.sqrt(float(own.mean()) / found[0].paths / seeds),
        plain_value=other.value,
        plain_std_error=other.std_error,
        gain_per_path=gain,
        gain_per_path_error=errors[0],
        cost=cost,
        cost_error=errors[1],
        gain=gain / cost,
        gain_error=gain / cost * math.hypot(errors[0] / gain, errors[1] / cost),
        paths=found[0].paths,
        plain_paths=run.paths,
        tuning_paths=law.tuning_paths,
        refused=next((one.reason for one in found if one.refused), ""),
    )


def run(seeds: int) -> Row | None:
    """Prints the row; none without the configs of a clone."""
    if not CONFIG.exists():
        click.echo(f"shipped scenario: not measured, {CONFIG} is not there; run it from a clone of the project")
        return None
    row = measure(load(CONFIG), seeds)
    click.echo(
        f"\n{CONFIG.name}, expected shortfall {row.level:.1%}, {seeds} seeds, {row.tuning_paths:,} paths of tuning"
    )
    click.echo(f"  {row.paths:>9,} weighted paths each: {row.value:.4g} +- {row.std_error:.2g} {row.refused}")
    click.echo(f"  {row.plain_paths:>9,} plain paths each: {row.plain_value:.4g} +- {row.plain_std_error:.2g}")
    click.echo(
        f"  a weighted path is worth {row.gain_per_path:.3g} +- {row.gain_per_path_error:.1g} plain ones and costs "
        f"{row.cost:.2f} +- {row.cost_error:.1g} of them: gain {row.gain:.3g} +- {row.gain_error:.1g} per processor second"
    )
    return row
