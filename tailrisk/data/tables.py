"""What the readers return: one typed table per kind of data, the same for every venue.

Times are int64 microseconds since 1970, UTC; everything else is float64, and nan where a source does not say. A row
remembers its file and row, so that a later check can name them. What a source measures in units or in contracts stays
as it is: `amount` of coin-margined futures is contracts of a fixed USD value.
"""

from collections.abc import Sequence
from typing import Any, TypeVar

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Bool, Float64, Int64

from .._fields import InputError
from ._times import microseconds

Times = Int64[np.ndarray, " rows"]
Reals = Float64[np.ndarray, " rows"]
Flags = Bool[np.ndarray, " rows"]
_Self = TypeVar("_Self", bound="AbstractTable")


class Source(eqx.Module):
    """Where the rows of a table come from."""

    file: Int64[np.ndarray, " rows"]  # index in `paths`
    row: Int64[np.ndarray, " rows"]  # in that file; the first line of a text file is row 1
    paths: tuple[str, ...] = eqx.field(static=True)
    symbol: str = eqx.field(static=True, default="")  # empty where no file says
    repeated: int = eqx.field(static=True, default=0)  # exact repeats of rows, dropped by the reader

    def where(self, i: int) -> str:
        return f"{self.paths[self.file[i]]} row {self.row[i]}"


class AbstractTable(eqx.Module):
    """Rows in the order of their file."""

    time: eqx.AbstractVar[Times]
    source: eqx.AbstractVar[Source]

    def __len__(self) -> int:
        return len(self.time)

    def keep(self: _Self, chosen: Flags) -> _Self:
        """The rows where `chosen` is true."""
        return jax.tree.map(lambda leaf: leaf[chosen], self)

    def between(self: _Self, start: str = "", end: str = "") -> _Self:
        """The rows from `start` on and before `end`, ISO texts in UTC; an empty text is no limit."""
        chosen = np.ones(len(self), bool)
        if start:
            chosen &= self.time >= microseconds(start, "start")
        if end:
            chosen &= self.time < microseconds(end, "end")
        if not chosen.any():
            raise InputError(
                f"{self.source.paths[0]}: no row is between start = {start or 'any'!r} and end = {end or 'any'!r}"
            )
        return self.keep(chosen)


class Bars(AbstractTable):
    """Prices and volumes by interval of time."""

    time: Times  # when the interval opens
    open: Reals  # quote per unit
    high: Reals
    low: Reals
    close: Reals
    volume: Reals  # units (coin-margined: contracts); nan for mark and index prices, which nobody trades
    quote_volume: Reals  # quote currency (coin-margined: coins)
    taker_buy_volume: Reals  # part of `volume` that an aggressive buyer took
    trades: Reals  # how many
    source: Source

    @property
    def every(self) -> int:
        """The usual time between bars, in microseconds."""
        return int(np.median(np.diff(self.time))) if len(self) > 1 else 0


class Trades(AbstractTable):
    """Trades, or groups of trades at one price of one aggressive order."""

    time: Times
    price: Reals  # quote per unit
    amount: Reals  # units (coin-margined: contracts)
    is_sell: Flags  # the aggressive side sold
    source: Source


class Depth(AbstractTable):
    """Resting orders within bands around the mid price, one row per snapshot.

    Band -0.02 holds all bids from the mid down to 2 % below it, 0.02 all asks up to 2 % above it: bands are nested.
    """

    time: Times
    depth: Float64[np.ndarray, "rows bands"]  # units (coin-margined: contracts); nan where the archive has no such row
    notional: Float64[np.ndarray, "rows bands"]  # quote currency (coin-margined: coins)
    source: Source
    bands: tuple[float, ...] = eqx.field(static=True)  # ascending, fraction of the mid


class Funding(AbstractTable):
    """Funding payments: longs pay shorts `rate` of their notional at `time`."""

    time: Times
    rate: Reals  # fraction of notional per interval
    interval: Reals  # hours that the rate is for
    source: Source


class OpenInterest(AbstractTable):
    """Open interest and positioning ratios (longs over shorts)."""

    time: Times
    open_interest: Reals  # units (coin-margined: contracts)
    value: Reals  # quote currency (coin-margined: coins)
    account_ratio: Reals  # accounts net long over accounts net short
    top_account_ratio: Reals  # the same among the largest accounts
    top_position_ratio: Reals  # positions of the largest accounts
    taker_ratio: Reals  # aggressive buy volume over aggressive sell volume
    source: Source


class Liquidations(AbstractTable):
    """Positions closed by force."""

    time: Times
    is_long: Flags  # a long was closed, so the order sold
    amount: Reals  # units (coin-margined: contracts)
    price: Reals  # of the order, usually the bankruptcy price; quote per unit
    fill_price: Reals  # average paid
    source: Source


Table = TypeVar("Table", bound=AbstractTable)


def join(tables: Sequence[Table]) -> Table:
    """One table of several, such as the days of an archive, in the order given."""
    bare = [eqx.tree_at(lambda t: t.source, table, None) for table in tables]
    sources = [table.source for table in tables]
    if len({jax.tree.structure(table) for table in bare}) > 1 or len({source.symbol for source in sources}) > 1:
        raise InputError(
            f"{', '.join(source.paths[0] for source in sources)}: tables of different kinds, symbols or bands, expected "
            "parts of one table"
        )
    before = np.cumsum([0, *(len(source.paths) for source in sources)])
    source = Source(
        np.concatenate([source.file + count for source, count in zip(sources, before[:-1], strict=True)]),
        np.concatenate([source.row for source in sources]),
        tuple(path for source in sources for path in source.paths),
        sources[0].symbol,
        sum(source.repeated for source in sources),
    )
    joined: Any = jax.tree.map(lambda *leaves: np.concatenate(leaves), *bare)
    return eqx.tree_at(lambda t: t.source, joined, source, is_leaf=lambda leaf: leaf is None)
