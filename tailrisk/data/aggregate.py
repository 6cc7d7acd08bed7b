"""Bars made of trades."""

import jax
import numpy as np

from .._fields import SECONDS_PER_YEAR, InputError, parse_duration
from ._times import SECOND
from .tables import Bars, Trades


def bars_of(trades: Trades, every: str = "1min") -> Bars:
    """Bars of the trades in each interval, which opens at a multiple of `every`; an interval without trades has none.

    `quote_volume` is the sum of price times amount, so it means nothing where amounts are contracts of fixed USD value.
    """
    length = round(parse_duration(every) * SECONDS_PER_YEAR * SECOND)
    if length < 1:
        raise InputError(f"every = {every!r}: expected at least a microsecond")
    order = np.argsort(trades.time, kind="stable")
    time, price, amount = trades.time[order], trades.price[order], trades.amount[order]
    opens = time // length * length
    first = np.flatnonzero(np.append(True, np.diff(opens) != 0))
    last = np.append(first[1:], len(opens)) - 1
    return Bars(
        time=opens[first],
        open=price[first],
        high=np.maximum.reduceat(price, first),
        low=np.minimum.reduceat(price, first),
        close=price[last],
        volume=np.add.reduceat(amount, first),
        quote_volume=np.add.reduceat(amount * price, first),
        taker_buy_volume=np.add.reduceat(np.where(trades.is_sell[order], 0.0, amount), first),
        trades=(last - first + 1).astype(np.float64),
        source=jax.tree.map(lambda leaf: leaf[order][first], trades.source),
    )
