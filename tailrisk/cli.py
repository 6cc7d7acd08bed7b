"""The `tailrisk` command.

Exit status: 0 done, 1 a check failed, 2 bad input or missing data, 3 an estimate refused by its diagnostics, 130
stopped by Ctrl-C. A `ValueError` that is no `InputError` is a bug and keeps its traceback.
"""

import json
import os
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
from tqdm import tqdm

from ._fields import InputError
from .data.command import data
from .study.config import ConfigError

BAD_INPUT = 2
CHECK_FAILED = 1
REFUSED = 3
INTERRUPTED = 130  # what a shell reports for Ctrl-C
_NO_MEMORY = "out of memory; lower run.chunk, run.paths or the number of accounts"


class _Group(click.Group):
    """Turns bad input into one or a few lines and exit status 2; everything else is a bug and keeps its traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except InputError as error:
            _fail(ctx, str(error))
        except BrokenPipeError:  # the reader of the output has gone, as in `tailrisk report RUN | head`
            raise
        except OSError as error:  # a disk or a file of the user, never the program
            name = error.filename or "the disk"
            _fail(ctx, f"{name}: {error.strerror or error}; check the path, its permissions and the free space")
        except MemoryError:
            _fail(ctx, _NO_MEMORY)
        except RuntimeError as error:  # what a device says when its memory is full
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            _fail(ctx, _NO_MEMORY)
        except KeyboardInterrupt:
            click.echo("stopped", err=True)
            ctx.exit(INTERRUPTED)


def _fail(ctx: click.Context, text: str) -> None:
    for line in text.splitlines():
        click.echo(f"error: {line}", err=True)
    ctx.exit(BAD_INPUT)


def _start_jax() -> None:
    """Keeps compiled programs in the user's cache folder, so that a second run starts at once."""
    import jax

    root = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    jax.config.update("jax_compilation_cache_dir", str(root / "tailrisk" / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tailrisk-jax", prog_name="tailrisk")
def main() -> None:
    """Monte Carlo tail risk of leveraged markets: liquidation cascades, bad debt and who pays."""
    _start_jax()


main.add_command(data)


@main.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--out", type=click.Path(path_type=Path), help="Run folder; default runs/<name of the config>.")
@click.option("--resume", is_flag=True, help="Go on with a run that was stopped.")
def run(config: Path, overrides: tuple[str, ...], out: Path | None, resume: bool) -> None:
    """Estimate the tail of a scenario: run folder, table and figures."""
    from .figures import draw_all, format_table
    from .study.folder import fresh_name, read_arrays
    from .study.rare import Told
    from .study.run import execute, finish, load

    study = load(config, overrides)
    if out is None:
        out = Path("runs") / config.stem
        out = out if resume else fresh_name(out)
    progress = _Progress()
    try:
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
    sys.exit(_verdict(summary))


def _verdict(summary: dict[str, Any]) -> int:
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
        self.count, self.sum, self.square = 0, 0.0, 0.0
        self.last = self.start = time.monotonic()
        self.terminal = sys.stderr.isatty()

    def __call__(self, done: int, total: int, bad_debt: np.ndarray) -> None:
        if self.bar is None and self.terminal:
            self.bar = tqdm(total=total, unit="path", unit_scale=True, dynamic_ncols=True)
        self.count += bad_debt.size
        self.sum += float(bad_debt.sum(dtype=float))
        self.square += float((bad_debt.astype(float) ** 2).sum())
        mean = self.sum / self.count
        half = 1.96 * max(self.square / self.count - mean**2, 0.0) ** 0.5 / self.count**0.5
        estimate = f"bad debt {mean:.4g} ± {half:.2g} USD"
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


@main.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
def validate(config: Path, overrides: tuple[str, ...]) -> None:
    """Check a config; every error names its dotted key."""
    from .study import tune as tuning
    from .study.config import read_toml
    from .study.run import check_size, load, prepare

    study = load(config, overrides)
    tuned = "tune" in read_toml(config)
    if tuned:
        tuning.load(config, overrides)
    check_size(study, Path("."))
    system = prepare(study)
    gross = float(system.cascade.positions.gross())
    click.echo(
        f"{config}: valid. {study.run.books} book(s) of {gross:,.0f} USD gross notional, {study.run.paths:,} paths of "
        f"{system.steps} steps, {study.run.precision}." + (" [tune] is valid." if tuned else "")
    )


@main.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Folder of the policy; default policies/<name of the config>."
)
def tune(config: Path, overrides: tuple[str, ...], out: Path | None) -> None:
    """Find the cheapest policy that meets its limits, with a certificate: policy.toml, report.md and figures."""
    from .figures import draw_certificate, draw_front, format_policy
    from .figures.style import save
    from .study import policy_file
    from .study import tune as tuning
    from .study.folder import fresh_name, read_json, write_text

    table, study, wanted = tuning.load(config, overrides)
    out = fresh_name(Path("policies") / config.stem) if out is None else out
    outcome = tuning.execute(table, wanted, lambda text: click.echo(text, err=True))
    policy_file.write(out, study, outcome)
    found = read_json(out / "policy.json")
    save(draw_certificate(found), out / "figures", "certificate")
    if found["front"]:
        save(draw_front(found), out / "figures", "front")
    text = format_policy(found)
    write_text(out / "report.md", text + "\n")
    click.echo(text)
    click.echo(f"folder: {out}; run it with: tailrisk run {out / 'policy.toml'}")
    sys.exit(0 if outcome.certified else CHECK_FAILED)


@main.command()
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
    from .figures import draw_sweep
    from .figures.style import save
    from .study import sweep as sweeping
    from .study.folder import fresh_name

    if out is None:
        out = Path("sweeps") / config.stem
        out = out if resume else fresh_name(out)
    found = sweeping.cells(config, words, out)
    told = lambda text: click.echo(text, err=True)  # noqa: E731
    rows = sweeping.execute_all(found, out, resume=resume, report=told, engine=engine, workers=workers)
    save(draw_sweep(list(found[0].values), rows), out / "figures", "sweep")
    click.echo(f"{len(found)} runs in {out}; table {out / 'sweep.csv'}, figure {out / 'figures'}")


@main.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--out", type=click.Path(path_type=Path), help="Folder; default calibrations/<name of the config>.")
def calibrate(config: Path, overrides: tuple[str, ...], out: Path | None) -> None:
    """Estimate numbers of a scenario from data: tables to include, with intervals, checks of fit and figures."""
    from .figures import draw_calibration, format_calibration
    from .study import calibrate as calibration
    from .study.folder import fresh_name, read_arrays, read_json, write_text

    wanted = calibration.load(config, overrides)
    out = fresh_name(Path("calibrations") / config.stem) if out is None else out
    calibration.execute(wanted, out, lambda text: click.echo(text, err=True))
    found = read_json(out / "calibration.json")
    draw_calibration(found, read_arrays(out / "results.npz"), out / "figures")
    text = format_calibration(found)
    write_text(out / "report.md", text + "\n")
    click.echo(text)
    click.echo(f"folder: {out}")


@main.command()
@click.argument("folder", metavar="RUN", type=click.Path(path_type=Path))
def report(folder: Path) -> None:
    """Print and draw a finished run again."""
    from .figures import draw_all, format_table
    from .study.folder import read_arrays

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


@main.command()
@click.argument("name")
@click.option("--smoke/--full", help="A quick run of the same checks, or that of the publication (default).")
@click.option("--seed", type=click.IntRange(0, 2**64 - 1), default=0, help="Of all random numbers.")
@click.option("--precision", type=click.Choice(["f32", "f64"]), default="f64", show_default=True)
@click.option("--device", type=click.Choice(["cpu", "gpu"]), help="Where to run; default what JAX finds first.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("figures"), show_default=True)
@click.option("--data", type=click.Path(path_type=Path), default=Path("data"), help="Folder of data files.")
@click.option("--experiments", type=click.Path(path_type=Path), default=Path("experiments"), show_default=True)
@click.option("--redraw", is_flag=True, help="Draw again from the table of points in --out, without simulating.")
def figure(
    name: str,
    smoke: bool,
    seed: int,
    precision: str,
    device: str | None,
    out: Path,
    data: Path,
    experiments: Path,
    redraw: bool,
) -> None:
    """Reproduce a published figure (NAME, all or list): PDF, PNG, table of points, manifest; its checks decide the status."""
    from .figures import published as drawn
    from .study import published

    known = published.names(experiments)
    chosen = [published.find(one, experiments) for one in (known if name in ("all", "list") else [name])]
    if name == "list":
        for one in chosen:
            needs = ", ".join(file.path for file in one.data) or "no data"
            click.echo(
                f"{one.name:<18}{one.question}\n{'':18}needs {needs}; smoke {one.cost(True)}, full {one.cost(False)}"
            )
        return
    published.choose_device(device, precision)
    found = []
    for one in chosen:

        def told(text: str, name: str = one.name) -> None:
            click.echo(f"{name}: {text}", err=True)

        setting = published.Setting(seed, published.PRECISIONS[precision], data, told)
        try:
            verdict = drawn.redraw(one, out) if redraw else drawn.publish(one, out, setting, smoke=smoke)
        except published.NoDataFile as error:
            if name != "all":
                raise
            click.echo(f"{one.name:<18}{'NO DATA':<9}{error}")
            found.append(BAD_INPUT)
            continue
        click.echo(verdict.line())
        for miss in verdict.misses():
            click.echo(miss, err=True)
        found.append(drawn.EXIT[verdict.status])
    sys.exit(CHECK_FAILED if CHECK_FAILED in found else max(found))


@main.command()
def doctor() -> None:
    """Devices, versions, precision and memory: what would run where."""
    import platform
    import shutil
    from importlib.metadata import version

    import jax

    click.echo(f"tailrisk {version('tailrisk-jax')}, Python {platform.python_version()}, {platform.platform()}")
    click.echo("  ".join(f"{name} {version(name)}" for name in ("jax", "jaxlib", "equinox", "optax", "numpy", "scipy")))
    for device in jax.devices():
        stats = device.memory_stats() or {}
        memory = f", {stats['bytes_limit'] / 2**30:.1f} GiB" if "bytes_limit" in stats else ""
        click.echo(f"device {device.id}: {device.platform} {device.device_kind}{memory}")
    pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    click.echo(
        f"{os.cpu_count()} cores, {pages / 2**30:.1f} GiB memory, "
        f"{shutil.disk_usage('.').free / 2**30:.1f} GiB free disk here"
    )
    click.echo(f"compiled programs are kept in {jax.config.values['jax_compilation_cache_dir']}")
    click.echo("precision: float32 for speed (run.precision), float64 for published numbers")


@main.command()
@click.argument("name", required=False)
@click.option("--paths", default=0, help="Paths of each timing; default chosen for about a minute in all.")
@click.option("--repeats", default=5, help="Timings of each program, in turn; seeds of `policy` and `tails`.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for bench.json.")
def bench(name: str | None, paths: int, repeats: int, out: Path | None) -> None:
    """Side-by-side benchmarks: speed (ladder, accounts, normals; extra `compare`), and by name: gradients, policy, tails."""
    from .bench import run_bench

    sys.exit(run_bench(name, paths, repeats, out))


if __name__ == "__main__":
    main()
