"""`tailrisk data`: fetch days of a public archive, and say what is wrong with a file."""

from pathlib import Path

import click

from .._fields import InputError
from ..data import AbstractTable, Bars, Funding, Liquidations, OpenInterest, Trades, archive, read, read_plain
from ..data.quality import examine

_KINDS: dict[str, type[AbstractTable]] = {
    "bars": Bars,
    "trades": Trades,
    "funding": Funding,
    "open-interest": OpenInterest,
    "liquidations": Liquidations,
}


@click.group()
def data() -> None:
    """Market data: fetch days of a public archive, check files before they are used."""


@data.command()
@click.argument("kind", type=click.Choice(sorted({kind for kinds in archive.KINDS.values() for kind in kinds})))
@click.argument("symbol")
@click.option("--start", required=True, metavar="DAY", help="First day, such as 2025-10-10 (UTC).")
@click.option("--end", metavar="DAY", help="Last day; default the first.")
@click.option("--market", type=click.Choice(list(archive.MARKETS)), default="um", show_default=True)
@click.option("--interval", type=click.Choice(archive.INTERVALS), default="1m", show_default=True, help="Of bars.")
@click.option("--to", "folder", type=click.Path(path_type=Path), help="Folder; default the user's cache.")
@click.option("--base-url", default=archive.BASE_URL, show_default=True, help="Of the archive or a mirror.")
@click.option("--jobs", type=click.IntRange(1, 16), default=4, show_default=True, help="Downloads at a time.")
def fetch(
    kind: str,
    symbol: str,
    start: str,
    end: str | None,
    market: str,
    interval: str,
    folder: Path | None,
    base_url: str,
    jobs: int,
) -> None:
    """Fetch days of KIND for SYMBOL from Binance's archive, with checksums; what was interrupted is continued."""
    wanted = archive.paths(kind, symbol, start, end or start, market, interval)
    files = archive.fetch(wanted, folder or archive.cache(), base_url, jobs, lambda text: click.echo(text, err=True))
    for file in files:
        click.echo(file)


@data.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path))
@click.option("--kind", type=click.Choice(list(_KINDS)), help="Of a table in no known format.")
@click.option("--column", "columns", multiple=True, metavar="FIELD=COLUMN", help="Where a field stands, or a number.")
@click.option("--where", "where", multiple=True, metavar="COLUMN=TEXT", help="Only rows with this text.")
@click.option("--start", default="", metavar="TIME", help="First time, ISO, UTC.")
@click.option("--end", default="", metavar="TIME", help="First time left out.")
def check(
    files: tuple[Path, ...], kind: str | None, columns: tuple[str, ...], where: tuple[str, ...], start: str, end: str
) -> None:
    """Print what is wrong with a file; status 2 if an estimate from it would be wrong."""
    refused = []
    for file in files:
        try:
            if kind or columns or where:
                table = read_plain(file, _KINDS[kind or "bars"], _map(columns), _texts(where))
            else:
                table = read(file)
            report = examine(table.between(start, end))
            click.echo(report.summary)
            for finding in report.findings:
                if not finding.poisons:
                    click.echo(f"note: {finding.line()}")
            report.refuse()
        except InputError as error:
            refused.append(str(error))
    if refused:
        raise InputError("\n".join(refused))
    click.echo(
        f"{'sound' if len(files) == 1 else f'all {len(files)} files are sound'}: nothing here would poison an estimate"
    )


def _texts(pairs: tuple[str, ...]) -> dict[str, str]:
    split = [pair.partition("=") for pair in pairs]
    for (name, sign, _), pair in zip(split, pairs, strict=True):
        if not (name and sign):
            raise InputError(f"{pair!r}: expected NAME=VALUE, such as symbol=BTCUSDT")
    return {name: value for name, _, value in split}


def _map(pairs: tuple[str, ...]) -> dict[str, str | float]:
    """A number is one for all rows, everything else the name of a column."""
    columns: dict[str, str | float] = {}
    for name, value in _texts(pairs).items():
        try:
            columns[name] = float(value)
        except ValueError:
            columns[name] = value
    return columns
