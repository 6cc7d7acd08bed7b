"""What this machine can do: `doctor`, `bench`."""

import os
import sys
from pathlib import Path

import click


@click.command()
def doctor() -> None:
    """Devices, versions, precision and memory: what would run where."""
    import platform
    import shutil
    from importlib.metadata import version

    import jax

    from ..study import memory

    click.echo(f"tailrisk {version('tailrisk-jax')}, Python {platform.python_version()}, {platform.platform()}")
    click.echo("  ".join(f"{name} {version(name)}" for name in ("jax", "jaxlib", "equinox", "optax", "numpy", "scipy")))
    for device in jax.devices():
        stats = device.memory_stats() or {}
        limit = f", {stats['bytes_limit'] / 2**30:.1f} GiB" if "bytes_limit" in stats else ""
        click.echo(f"device {device.id}: {device.platform} {device.device_kind}{limit}")
    click.echo(
        f"{os.cpu_count()} cores, {memory.memory_bytes() / 2**30:.1f} GiB memory, "
        f"{shutil.disk_usage('.').free / 2**30:.1f} GiB free disk here"
    )
    click.echo(
        f"batches of paths take at most {0.5 * memory.device_bytes() / 2**30:.1f} GiB (run.memory), "
        f"{memory.batches_at_a_time()} at a time"
    )
    click.echo(f"compiled programs are kept in {jax.config.values['jax_compilation_cache_dir']}")
    click.echo("precision: float32 for speed (run.precision), float64 for published numbers")


@click.command()
@click.argument("name", required=False)
@click.option("--paths", default=0, help="Paths of each timing; default chosen for about a minute in all.")
@click.option("--repeats", default=5, help="Timings of each program, in turn; seeds of `policy` and `tails`.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for the numbers (JSON) and the figure.")
@click.option(
    "--device",
    type=click.Choice(["gpu", "cpu"]),
    default="gpu",
    show_default=True,
    help="Of `gpu`: what takes the place of the GPU; with cpu and few --paths the script is tried out.",
)
def bench(name: str | None, paths: int, repeats: int, out: Path | None, device: str) -> None:
    """Benchmarks: speed beside rivals (ladder, accounts, normals; extra `compare`); gradients, gradient-cost, policy, scale,
    tails; gpu: all that is asked of a GPU, in one go."""
    from ..bench import run_bench

    sys.exit(run_bench(name, paths, repeats, out, device))
