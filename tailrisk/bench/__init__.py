"""Side-by-side speed benchmarks: the same work by this package and by hand-written rivals, in one run."""

from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import click
import jax
import numpy as np

from .._fields import InputError
from ..figures import style
from . import limits, speed_report
from .limits import Limits, Used
from .timing import Contestant, Timing, disagreements, machine, race, save

CHECK_FAILED, BAD_INPUT = 1, 2
NAMES = ("ladder", "accounts", "normals")
OTHERS = ("gradients", "gradient-cost", "gpu", "policy", "scale", "tails")


class Race(NamedTuple):
    """Who takes part, and the size of a call."""

    contestants: dict[str, Contestant]
    paths: int
    work: float  # units a path
    unit: str
    system: Any = None  # ours, whose operations are counted
    batch: int = 0  # paths that ours runs at a time


def run_bench(
    name: str | None = None, paths: int = 0, repeats: int = 5, out: Path | None = None, device: str = "gpu"
) -> int:
    """Runs one benchmark or all; prints tables, writes `bench.json` and a figure into `out`. Returns the exit status.

    No time is printed for programs that do not agree on what they computed (status 1).
    """
    if name == "gradients":
        from . import gradients

        return gradients.run(paths, out)
    if name == "gradient-cost":
        from . import gradient_cost

        return gradient_cost.run(paths, repeats, out)
    if name == "gpu":
        from . import gpu

        return gpu.run(paths, repeats, out, device)
    if name == "policy":
        from . import policies

        return policies.run(paths, repeats, out)
    if name == "tails":
        from . import tails

        return tails.run(paths, repeats, out)
    if name == "scale":
        from . import scale

        return scale.run(paths, repeats, out)
    if name is not None and name not in NAMES:
        raise InputError(f"no benchmark {name!r}; choose one of {', '.join(NAMES + OTHERS)}")
    if find_spec("numba") is None and name != "normals":
        click.echo("error: the rivals need Numba: pip install 'tailrisk-jax[compare]'", err=True)
        return BAD_INPUT
    results: dict[str, Any] = {"machine": machine()}
    about, races = results["machine"], {}
    click.echo(f"{about['cpu']}, {about['cores']} cores, load {about['load']}, {about['device']}")
    click.echo("  ".join(f"{package} {number}" for package, number in about["versions"].items()))
    for chosen in NAMES if name is None else (name,):
        entry = prepare(chosen)
        size = paths or entry.paths
        outcomes, timings = race(entry.contestants, size, size * entry.work, repeats)
        wrong = disagreements(outcomes)
        if wrong:
            for line in wrong:
                click.echo(f"check failed: {chosen}: {line}", err=True)
            return CHECK_FAILED
        spent = races[chosen] = timings()
        click.echo(speed_report.table(chosen, size, repeats, entry.unit, spent))
        results[chosen] = {"paths": size, "repeats": repeats, "unit": entry.unit}
        results[chosen] |= {who: timing._asdict() for who, timing in spent.items()}
        if entry.system is not None:
            found = nearness(entry, spent["tailrisk"])
            click.echo(speed_report.limits(entry.unit, *found))
            results[chosen]["limits"] = {"per_unit": found[0]._asdict(), "per_second": found[1]._asdict()}
    save(out, "bench.json", results)
    if out is not None:
        units = {chosen: results[chosen]["unit"] for chosen in races}
        style.save(speed_report.draw(races, units), out, "bench")
    return 0


def nearness(entry: Race, ours: Timing) -> tuple[Used, Limits]:
    """How near our program comes to what this machine can do, and what that is."""
    on_cpu = jax.default_backend() == "cpu"
    cost, room = limits.of_system(entry.system, entry.batch)
    most, draws = limits.measure(room), entry.system.draws.normals * entry.system.steps / entry.work
    units = entry.batch * entry.work
    return limits.used(cost, units, draws * units, ours.per_core if on_cpu else ours.rate, most), most


def prepare(name: str, groups: int = 0) -> Race:
    """The contestants of a benchmark, ours first; `groups` changes the size of the book."""
    if name == "normals":
        from . import normals

        return Race(normals.contestants(), 65_536, normals.STEPS, "normals")
    from ..simulate import cached_paths, simulate
    from . import models, numba_rivals, numpy_rivals

    ladder = name == "ladder"
    groups = groups or (20_000 if ladder else 1_000)
    scenario = (models.ladder_scenario if ladder else models.accounts_scenario)(groups)
    system, market, book = scenario.build(np.float32), models.market_of(scenario), models.groups_of(scenario)
    hands: dict[str, Any] = {"numpy": getattr(numpy_rivals, name), "numba": getattr(numba_rivals, name)}
    rivals: dict[str, Contestant] = {who: partial(rival, market, book) for who, rival in hands.items()}
    if find_spec("torch") is None:
        click.echo(f"{name}: PyTorch is left out, it is not installed: pip install 'tailrisk-jax[torch]'", err=True)
    else:
        from . import torch_rivals

        rivals["torch"] = (torch_rivals.Ladder if ladder else torch_rivals.Accounts)(market, book)
    chunk = cached_paths(system)

    def ours(paths: int, seed: int) -> dict[str, np.ndarray]:
        found = simulate(system, paths=paths, seed=seed, chunk=chunk)
        return {key: found[key] for key in ("forced_notional", "bad_debt", "fees")}

    contestants = {"tailrisk": ours} | rivals
    if ladder:
        return Race(contestants, 65_536, scenario.steps, "path-steps", system, chunk)
    return Race(contestants, 4_096, scenario.steps * groups, "account-steps", system, chunk)
