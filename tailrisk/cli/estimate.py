"""Commands that estimate the tail of a scenario: `run`, `sweep`, `validate`, `report`."""

import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from ..study.config import ConfigError
from .group import CHECK_FAILED, REFUSED


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--out", type=click.Path(path_type=Path), help="Run folder; default runs/<name of the config>.")
@click.option("--resume", is_flag=True, help="Go on with a run that was stopped.")
@click.option(
    "--processes", type=click.IntRange(1), help="Processes that make this run together, each with this command."
)
@click.option("--process", type=click.IntRange(0), help="Number of this one, from 0, which prints and draws.")
@click.option("--coordinator", metavar="HOST:PORT", help="Where process 0 listens for the others.")
@click.option(
    "--cluster",
    is_flag=True,
    help="Let JAX find these three (Slurm: tested on one machine; Open MPI, Kubernetes, TPU: not tested here).",
)
def run(
    config: Path,
    overrides: tuple[str, ...],
    out: Path | None,
    resume: bool,
    processes: int | None,
    process: int | None,
    coordinator: str | None,
    cluster: bool,
) -> None:
    """Estimate the tail of a scenario: run folder, table and figures."""
    import jax

    from ..figures import draw_all, format_table
    from ..study.folder import fresh_name, read_arrays
    from ..study.rare import Told
    from ..study.run import execute, finish, load, simulate_parts

    if cluster or processes or coordinator or process is not None:
        _join(out, processes, process, coordinator, cluster)
    study = load(config, overrides)
    if out is None:
        out = Path("runs") / config.stem
        out = out if resume else fresh_name(out)
    progress = _Progress()
    try:
        if jax.process_index() > 0:
            simulate_parts(study, out, resume=resume, report=progress)
            progress.close()
            click.echo(f"process {jax.process_index()} of {jax.process_count()}: its paths are in {out}")
            return
        summary = execute(study, out, resume=resume, report=progress, told=Told(progress.say, progress.stage))
    except KeyboardInterrupt:
        progress.close()
        if (out / "config.toml").exists():
            words = ["tailrisk", "run", str(config), *overrides, "--out", str(out), "--resume"]
            click.echo(f"stopped; go on with: {shlex.join(words)}", err=True)
        raise
    finally:
        progress.close()
    _, notes = draw_all(read_arrays(out / "results.npz"), summary, out / "figures")
    finish(out, study, summary)
    click.echo(format_table(summary))
    for note in notes:
        click.echo(f"note: {note}")
    click.echo(f"run folder: {out}  (figures in {out / 'figures'})")
    sys.exit(verdict(summary))


def _join(out: Path | None, processes: int | None, process: int | None, coordinator: str | None, cluster: bool) -> None:
    """Makes this process one of several."""
    from ..study import hosts

    if out is None:
        raise ConfigError("--out: missing; several processes need one folder that all of them see")
    given = {"--processes": processes, "--process": process, "--coordinator": coordinator}
    missing = [name for name, value in given.items() if value is None]
    if missing and not cluster:
        raise ConfigError(f"{' and '.join(missing)}: missing; give all of {', '.join(given)}, or --cluster alone")
    if processes is not None and process is not None and process >= processes:
        raise ConfigError(f"--process = {process}: expected 0 to {processes - 1}, one less than --processes")
    hosts.start(coordinator, processes, process)


def verdict(summary: dict[str, Any]) -> int:
    """1 when money was not conserved or a path broke: the numbers of such a run are not to be used; 3 for a refused one."""
    flags = summary["flags"]
    failed = [
        text
        for count, text in (
            (flags["paths_ledger_open"], f"ledger residual above {summary['ledger_tolerance']:g} of gross notional"),
            (flags["paths_not_finite"], "price that is not finite"),
        )
        if count
    ]
    for text in failed:
        click.echo(f"check failed: paths with {text}", err=True)
    refused = [name for name, metric in summary["metrics"].items() if str(metric.get("note", "")).startswith("refused")]
    for name in refused:
        click.echo(f"{name} {summary['metrics'][name]['note']}", err=True)
    return CHECK_FAILED if failed else REFUSED if refused else 0


class _Progress:
    """A bar with rate, remaining time and the running estimate on a terminal; a line every few seconds in a log."""

    def __init__(self) -> None:
        self.bar: tqdm | None = None
        from ..tails.moments import empty_moments, merge_moments

        self.bad_debt, self.merge = empty_moments(), merge_moments
        self.last = self.start = time.monotonic()
        self.terminal = sys.stderr.isatty()

    def __call__(self, done: int, total: int, bad_debt: Any) -> None:
        if self.bar is None and self.terminal:
            self.bar = tqdm(total=total, unit="path", unit_scale=True, dynamic_ncols=True)
        self.bad_debt = self.merge(self.bad_debt, bad_debt)
        estimate = f"bad debt {float(self.bad_debt.mean):.4g} ± {1.96 * float(self.bad_debt.std_error):.2g} USD"
        now = time.monotonic()
        if self.bar is not None:
            self.bar.n = done
            self.bar.set_postfix_str(estimate)
        elif now - self.last > 10.0 or done == total:
            rate = done / (now - self.start)
            click.echo(f"{done:,} of {total:,} paths, {rate:,.0f} paths/s, {estimate}", err=True)
            self.last = now

    def say(self, text: str) -> None:
        """A sentence between two stages."""
        self.close()
        click.echo(text, err=True)
        self.last = self.start = time.monotonic()

    def stage(self, name: str, done: int, total: int) -> None:
        """Weighted paths of one target."""
        if self.bar is None and self.terminal:
            self.bar = tqdm(total=total, unit="path", unit_scale=True, dynamic_ncols=True, desc=name)
        now = time.monotonic()
        if self.bar is not None:
            self.bar.n = done
            self.bar.refresh()
        elif now - self.last > 10.0 or done == total:
            click.echo(f"{name}: {done:,} of {total:,} weighted paths", err=True)
            self.last = now

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
def validate(config: Path, overrides: tuple[str, ...]) -> None:
    """Check a config; every error names its dotted key."""
    from ..study import tune as tuning
    from ..study.config import read_toml
    from ..study.memory import chunk_of
    from ..study.run import check_size, load, prepare

    study = load(config, overrides)
    tuned = "tune" in read_toml(config)
    if tuned:
        tuning.load(config, overrides)
    check_size(study, Path("."))
    system = prepare(study)
    gross = float(system.cascade.positions.gross())
    click.echo(
        f"{config}: valid. {study.run.books} book(s) of {gross:,.0f} USD gross notional, {study.run.paths:,} paths of "
        f"{system.steps} steps, {study.run.precision}. Batches of {chunk_of(study.run, system):,}."
        + (" [tune] is valid." if tuned else "")
    )


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.argument("words", nargs=-1, metavar="grid.KEY=[VALUE,...]... [KEY=VALUE]...")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the runs; default sweeps/<name of the config>.")
@click.option("--resume", is_flag=True, help="Go on with a sweep that was stopped.")
@click.option(
    "--engine",
    type=click.Choice(["auto", "local", "processes", "ray"]),
    default="auto",
    show_default=True,
    help="Where: this process, several (auto: if there are several compiled programs), or a Ray cluster.",
)
@click.option("--workers", type=click.IntRange(1), help="Processes, or cores of a Ray started here; default all cores.")
def sweep(
    config: Path, words: tuple[str, ...], out: Path | None, resume: bool, engine: str, workers: int | None
) -> None:
    """Run a config at every combination of listed values: a run folder each, one table and one figure."""
    from ..figures import draw_sweep
    from ..figures.style import save
    from ..study import sweep as sweeping
    from ..study.folder import fresh_name

    if out is None:
        out = Path("sweeps") / config.stem
        out = out if resume else fresh_name(out)
    found = sweeping.cells(config, words, out)
    told = lambda text: click.echo(text, err=True)  # noqa: E731
    rows = sweeping.execute_all(found, out, resume=resume, report=told, engine=engine, workers=workers)
    save(draw_sweep(list(found[0].values), rows), out / "figures", "sweep")
    click.echo(f"{len(found)} runs in {out}; table {out / 'sweep.csv'}, figure {out / 'figures'}")


@click.command()
@click.argument("folder", metavar="RUN", type=click.Path(path_type=Path))
def report(folder: Path) -> None:
    """Print and draw a finished run again."""
    from ..figures import draw_all, format_table
    from ..study.folder import read_arrays

    file = folder / "summary.json"
    if (folder / "config.toml").is_file() and not (folder / "run.json").is_file():
        raise ConfigError(
            f"{folder}: this run is not finished (no run.json); go on with it by `tailrisk run ... --resume`"
        )
    if not file.is_file():
        raise ConfigError(
            f"{folder}: holds no finished run (no summary.json); give the folder that `tailrisk run` wrote"
        )
    try:
        summary = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise ConfigError(f"{file}: not valid JSON ({error}); run the config again into another folder") from None
    results = read_arrays(folder / "results.npz")
    try:
        table = format_table({"metrics": summary["metrics"]} | summary)
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{file}: not the summary of a run ({error!r}); run the config again into another folder"
        ) from None
    _, notes = draw_all(results, summary, folder / "figures")
    click.echo(table)
    for note in notes:
        click.echo(f"note: {note}")
    click.echo(f"figures: {folder / 'figures'}")


@click.command()
@click.argument("folders", nargs=-1, required=True, metavar="RUN RUN...", type=click.Path(path_type=Path))
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="Folder of the run that they make together."
)
def merge(folders: tuple[Path, ...], out: Path) -> None:
    """Join finished runs of one config with several seeds: the paths of all, one table, figures."""
    from ..figures import draw_all, format_table
    from ..study import merge as merging

    summary, results = merging.merge(list(folders), out)
    _, notes = draw_all(results, summary, out / "figures")
    click.echo(format_table(summary))
    for note in (*notes, f"paths of {len(folders)} seeds; what shows single paths is of {folders[0]}"):
        click.echo(f"note: {note}")
    click.echo(f"run folder: {out}  (figures in {out / 'figures'})")
    sys.exit(verdict(summary))
