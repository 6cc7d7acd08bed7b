"""`figure`: a published figure and its checks."""

import sys
from pathlib import Path

import click

from .group import BAD_INPUT, CHECK_FAILED


@click.command()
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
    from ..figures import published as drawn
    from ..study import published

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
