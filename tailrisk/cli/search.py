"""Commands that find numbers: `tune` a policy, `calibrate` a scenario."""

import shlex
import sys
from pathlib import Path

import click

from .group import CHECK_FAILED


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Folder of the policy; default policies/<name of the config>."
)
@click.option("--resume", is_flag=True, help="Go on with a search that was stopped.")
def tune(config: Path, overrides: tuple[str, ...], out: Path | None, resume: bool) -> None:
    """Find the cheapest policy that meets its limits, with a certificate: policy.toml, report.md and figures."""
    from ..figures import draw_certificate, draw_front, format_policy
    from ..figures.style import save
    from ..study import policy_file
    from ..study import tune as tuning
    from ..study.folder import fresh_name, read_json, write_text

    table, study, wanted = tuning.load(config, overrides)
    if out is None:
        out = Path("policies") / config.stem
        out = out if resume else fresh_name(out)
    stages = policy_file.begin(out, tuning.tables(config, overrides), resume)
    try:
        outcome = tuning.execute(table, wanted, lambda text: click.echo(text, err=True), stages)
    except KeyboardInterrupt:
        words = ["tailrisk", "tune", str(config), *overrides, "--out", str(out), "--resume"]
        click.echo(f"stopped; go on with: {shlex.join(words)}", err=True)
        raise
    policy_file.write(out, study, outcome)
    found = read_json(out / "policy.json")
    save(draw_certificate(found), out / "figures", "certificate")
    if found["front"]:
        save(draw_front(found), out / "figures", "front")
    text = format_policy(found)
    write_text(out / "report.md", text + "\n")
    policy_file.finish(out)
    click.echo(text)
    click.echo(f"folder: {out}; run it with: tailrisk run {out / 'policy.toml'}")
    sys.exit(0 if outcome.certified else CHECK_FAILED)


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--out", type=click.Path(path_type=Path), help="Folder; default calibrations/<name of the config>.")
def calibrate(config: Path, overrides: tuple[str, ...], out: Path | None) -> None:
    """Estimate numbers of a scenario from data: tables to include, with intervals, checks of fit and figures."""
    from ..figures import draw_calibration, format_calibration
    from ..study import calibrate as calibration
    from ..study.folder import fresh_name, read_arrays, read_json, write_text

    wanted = calibration.load(config, overrides)
    out = fresh_name(Path("calibrations") / config.stem) if out is None else out
    calibration.execute(wanted, out, lambda text: click.echo(text, err=True))
    found = read_json(out / "calibration.json")
    draw_calibration(found, read_arrays(out / "results.npz"), out / "figures")
    text = format_calibration(found)
    write_text(out / "report.md", text + "\n")
    click.echo(text)
    click.echo(f"folder: {out}")
