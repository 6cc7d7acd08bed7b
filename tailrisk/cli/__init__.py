"""The `tailrisk` command.

Exit status: 0 done, 1 a check failed, 2 bad input or missing data, 3 an estimate refused by its diagnostics, 130
stopped by Ctrl-C. A `ValueError` that is no `InputError` is a bug and keeps its traceback.
"""

import click

from .estimate import merge, report, run, sweep, validate
from .group import Group, start_jax
from .machine import bench, doctor
from .market_data import data
from .publish import figure
from .search import calibrate, tune


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tailrisk-jax", prog_name="tailrisk")
def main() -> None:
    """Monte Carlo tail risk of leveraged markets: liquidation cascades, bad debt and who pays."""
    start_jax()


for command in (run, sweep, tune, calibrate, figure, validate, report, merge, bench, doctor, data):
    main.add_command(command)
