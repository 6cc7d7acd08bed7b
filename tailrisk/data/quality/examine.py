"""The checks of each kind of table."""

from collections.abc import Callable, Iterator
from typing import Any

from .._times import iso
from ..tables import AbstractTable, Bars, Depth, Funding, Liquidations, OpenInterest, Table, Trades
from . import depth, prices, times
from .finding import Finding, Report

_OF_KIND: dict[type[AbstractTable], Callable[[Any], Iterator[Finding]]] = {
    Bars: prices.bars,
    Trades: prices.trades,
    Depth: depth.depth,
    Funding: prices.funding,
    OpenInterest: prices.interest,
    Liquidations: prices.liquidations,
}


def examine(table: AbstractTable) -> Report:
    """A report of gaps, repeats, order, clocks and impossible values; those that would poison an estimate come first."""
    kind = type(table)
    findings = [*times.order(table), *times.gaps(table), *times.clock(table), *_OF_KIND[kind](table)]
    name = f"{table.source.symbol} " if table.source.symbol else ""
    files = table.source.paths[0] if len(table.source.paths) == 1 else f"{len(table.source.paths)} files"
    summary = (
        f"{files}: {name}{kind.__name__}, {len(table):,} rows, {iso(table.time.min())} to {iso(table.time.max())} UTC"
    )
    return Report(summary, tuple(sorted(findings, key=lambda finding: not finding.poisons)))


def sound(table: Table) -> Table:
    """The table itself, if an estimate may be made from it.

    **Raises:** InputError naming the file, the row and the remedy of everything that would poison the estimate.
    """
    examine(table).refuse()
    return table
