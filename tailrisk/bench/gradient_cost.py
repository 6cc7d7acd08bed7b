"""What derivatives cost in forward passes and memory: forward mode, reverse mode, differences, estimators of the hard model.

On a smooth ladder all of them are right, and must agree before anything is said. Reverse mode keeps what every step of every path
was (or, with checkpoints, its state, and runs the step again). On a hard ladder it is refused, because a threshold has no
derivative at fixed noise, and estimators take its place. The numbers are the maintenance rates of the first k of 16 tiers.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import click
import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from .. import _streams
from .._hard import HardThresholdGradientError
from ..clearing import Rounds
from ..figures import style
from ..figures.style import BLACK, BLUE, GRAY, VERMILION
from ..gradients import Ladder, reference_book
from ..gradients import estimate as automatic
from ..leaves import with_parameters
from ..margin import Brackets
from ..market import GeometricBrownian
from ..scenario import Scenario, SmoothLadder
from ..simulate import AbstractSystem, AbstractWrapper, batch, entry_point
from .gradients import FOUR
from .limits import spent
from .models import ladder_scenario
from .timing import machine, save

TIERS, COUNTS = 16, (1, 4, 16)
PATHS, STEP = 1_024, 1e-4  # the step of differences, relative
AGREE = 0.01  # of the largest derivative: what differences of that step and rounding may be off
METHODS = ("forward mode", "reverse mode", "reverse mode, checkpoints", "central differences")
CHECK_FAILED = 1


class Row(NamedTuple):
    """`passes`: time over that of the outcomes alone, `memory`: bytes a path that the program asks for, nan if none is asked."""

    model: str
    method: str
    parameters: int
    passes: float
    memory: float
    apart: float  # from forward mode, over its largest derivative


class Recomputed(AbstractWrapper):
    """A system whose steps are run again in reverse mode instead of kept."""

    system: AbstractSystem

    def init(self) -> Any:
        return self.system.init()

    def step(self, state: Any, noise: Any) -> Any:
        return jax.checkpoint(lambda state, noise: self.system.step(state, noise))(state, noise)

    def outcome(self, state: Any) -> Any:
        return self.system.outcome(state)


def tiered(hard: bool = False, accounts: int = 2_000, horizon: str = "4h") -> Scenario:
    """A wild market on the ladder of the speed benchmark with 16 tiers, so that short paths lose money."""
    floors = np.concatenate([[0.0], np.geomspace(1e3, 5e6, TIERS - 1)])
    margin = Brackets(floors, np.linspace(0.004, 0.02, TIERS), np.full(TIERS, 50.0))
    plain = dataclasses.replace(ladder_scenario(accounts), market=GeometricBrownian(volatility=3.0), horizon=horizon)
    smooth = plain.positions if hard else SmoothLadder(cells=1_024, clearing=Rounds(4))
    return dataclasses.replace(plain, margin=margin, positions=smooth)


def expected(scenario: Scenario, dtype: Any, again: bool = False) -> Callable[[Any, Any], Any]:
    """Mean bad debt as a function of the first maintenance rates and the numbers of the paths; the accounts stay."""
    book, keys = (
        scenario.book.build(np.asarray(scenario.price, float), scenario.margin, 0),
        _streams.noise_keys(1, "market"),
    )
    rates = np.asarray(scenario.margin.maintenance_rates).reshape(-1)  # pyright: ignore[reportAttributeAccessIssue]

    def mean(first: Any, paths: Any) -> Any:
        table = jnp.asarray(rates, dtype).at[: first.size].set(first)
        system = with_parameters(scenario, {"margin.maintenance_rates": table}).assemble(dtype, positions=book)
        return jnp.mean(batch(Recomputed(system) if again else system, keys, paths)[0]["bad_debt"])

    return mean


def _timed(call: Callable[[], Any], repeats: int) -> float:
    return float(np.median(spent(call, repeats)))


def smooth(count: int, paths: int, repeats: int, scenario: Scenario, dtype: Any) -> list[Row]:
    """All methods in `count` numbers on the smooth ladder."""
    f, again = expected(scenario, dtype), expected(scenario, dtype, again=True)
    at = jnp.asarray(np.asarray(scenario.margin.maintenance_rates).reshape(-1)[:count], dtype)  # pyright: ignore[reportAttributeAccessIssue]
    numbers = jnp.arange(paths, dtype=jnp.uint32)
    plain = entry_point(f)
    programs = {
        name: entry_point(way)
        for name, way in zip(METHODS, (jax.jacfwd(f), jax.grad(f), jax.grad(again)), strict=False)
    }
    step = STEP * at
    moves = jnp.diag(step)

    def differences() -> Any:
        ends = [(plain(at + move, numbers), plain(at - move, numbers)) for move in moves]
        return jnp.stack([above - below for above, below in ends]) / (2.0 * step)

    calls: dict[str, Callable[[], Any]] = {name: partial(way, at, numbers) for name, way in programs.items()}
    calls[METHODS[-1]] = differences
    first = _timed(lambda: plain(at, numbers), repeats)
    found = {name: np.asarray(call(), float) for name, call in calls.items()}
    right = found[METHODS[0]]
    memory = {name: _memory(program, at, numbers) for name, program in programs.items()}
    memory[METHODS[-1]] = _memory(plain, at, numbers)
    return [
        Row(
            "smooth ladder",
            name,
            count,
            _timed(call, repeats) / first,
            memory[name] / paths,
            float(np.abs(found[name] - right).max() / np.abs(right).max()),
        )
        for name, call in calls.items()
    ]


def _memory(program: Any, *given: Any) -> float:
    return float(program.lower(*given).compile().compiled.memory_analysis().temp_size_in_bytes)


def refused(scenario: Scenario, dtype: Any) -> str:
    """What reverse mode says to a hard ladder that is asked for a derivative in its impact.

    **Raises:** `AssertionError` if it gives a number, which would be a wrong one.
    """
    keys = _streams.noise_keys(1, "market")

    def mean(volatility: Any) -> Any:
        moved = with_parameters(scenario, {"impact.volatility": volatility})
        return jnp.mean(batch(moved.assemble(dtype), keys, jnp.arange(64, dtype=jnp.uint32))[0]["bad_debt"])

    try:
        jax.eval_shape(jax.grad(mean), jnp.asarray(0.025, dtype))
    except HardThresholdGradientError as error:
        return str(error).split(";")[0]
    raise AssertionError("reverse mode differentiated a hard threshold")


def hard(paths: int, repeats: int, accounts: int = 400) -> list[Row]:
    """The default estimators of the reference ladder, and differences, for one and for four numbers at once."""
    from ..gradients import LadderWalk
    from ..simulate import simulate

    ladder, batches = Ladder(book=reference_book(accounts, 0)), 16
    walk, size = LadderWalk.build(ladder), batches * 64 * max(1, paths // 64)
    chunk = min(8_192, size // batches)
    first = _timed(lambda: simulate(walk, paths=size, seed=1, chunk=chunk), repeats)
    rows = []
    for names in (FOUR[:1], FOUR):
        for method in ("auto", "differences"):
            call = lambda names=names, method=method: automatic(  # noqa: E731
                ladder, names, seed=2, paths=size, batches=batches, method=method
            )
            took = _timed(lambda call=call: [record.estimate for record in call().values()], repeats)
            said = "estimators by default" if method == "auto" else "differences with their bias"
            rows.append(Row(f"hard ladder, {accounts} accounts", said, len(names), took / first, np.nan, np.nan))
    return rows


def measure(paths: int, repeats: int, counts: tuple[int, ...] = COUNTS, **size: Any) -> tuple[list[Row], str]:
    """All rows in double precision, and what reverse mode says to the hard ladder."""
    dtype = np.dtype("float64")
    rows = [row for count in counts for row in smooth(count, paths, repeats, tiered(**size), dtype)]
    return rows, refused(tiered(hard=True, **size), dtype)


def failures(rows: list[Row]) -> list[str]:
    """Methods that do not agree."""
    return [
        f"{row.method}, {row.parameters} numbers: {row.apart:.2g} from forward mode"
        for row in rows
        if row.apart > AGREE
    ]


def run(paths: int, repeats: int, out: Path | None) -> int:
    """Prints the table, writes `gradient-cost.json` and a figure into `out`; status 1 if derivatives do not agree."""
    jax.config.update("jax_enable_x64", True)
    about, paths = machine(), paths or PATHS
    click.echo(f"{about['cpu']}, {about['cores']} cores, load {about['load']}, {about['device']}, float64")
    rows, said = measure(paths, repeats)
    rows += hard(paths, repeats)
    click.echo(f"{'':56}{'numbers':>8}{'passes':>9}{'bytes a path':>14}{'apart':>10}")
    for row in rows:
        memory = f"{row.memory:,.0f}" if np.isfinite(row.memory) else ""
        apart = f"{row.apart:.1e}" if np.isfinite(row.apart) else ""
        click.echo(f"{row.model + ': ' + row.method:56}{row.parameters:>8}{row.passes:>9.2f}{memory:>14}{apart:>10}")
    click.echo(f"hard ladder: reverse mode is refused: {said}")
    found = {
        "machine": about,
        "paths": paths,
        "repeats": repeats,
        "refused": said,
        "rows": [row._asdict() for row in rows],
    }
    save(out, "gradient-cost.json", found)
    if out is not None:
        style.save(draw(rows), out, "gradient-cost")
    for line in (wrong := failures(rows)):
        click.echo(f"check failed: {line}", err=True)
    return CHECK_FAILED if wrong else 0


@style.house_style
def draw(rows: list[Row]) -> Figure:
    """Passes and memory over the number of derivatives, on the smooth ladder."""
    figure, (passes, memory) = style.new_figure(height=3.4, rows=2)
    marks = dict(zip(METHODS, ((BLUE, "o"), (VERMILION, "s"), (BLACK, "^"), (GRAY, "D")), strict=True))
    for name, (color, mark) in marks.items():
        own = [row for row in rows if row.method == name]
        count = [row.parameters for row in own]
        passes.plot(count, [row.passes for row in own], color=color, marker=mark, ms=3, label=name)
        memory.plot(count, [row.memory for row in own], color=color, marker=mark, ms=3)
    for axes in (passes, memory):
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
    passes.set_ylabel("Time (forward passes)")
    memory.set_ylabel("Memory (bytes a path)")
    memory.set_xlabel("Derivatives (1)")
    memory.set_xticks(COUNTS, [str(count) for count in COUNTS])
    figure.legend(loc="outside upper center", ncols=2, columnspacing=1.0)
    return figure
