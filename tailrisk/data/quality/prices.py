"""Bars, trades and other numbers that no market can have."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float64

from ..tables import Bars, Funding, Liquidations, OpenInterest, Trades
from .finding import Finding, found

_WINDOW = 31  # bars from whose moves the scale of a spike is taken
_SPIKE = 15.0  # scales
_LEAST = 5e-3  # below this it is a tick
_DOUBLES = np.log(2.0)
_PERCENT = 5e-3  # usual rates are near 1e-4; a median above this looks like percent


def positive(
    kind: str, table: Bars | Trades | OpenInterest | Liquidations, *names: str, zero: bool = False
) -> Iterator[Finding]:
    """Fields that must be above zero, or at least zero; nan passes, it says that the source has no such number."""
    for name in names:
        values = getattr(table, name)
        wrong = values < 0.0 if zero else values <= 0.0
        if wrong.any():
            worst = values[np.flatnonzero(wrong)[0]]
            text = f"{name} = {worst:g}, expected {'at least zero' if zero else 'a positive number'}; remove the row"
            yield from found(kind, table, wrong, text, True)


def bars(table: Bars) -> Iterator[Finding]:
    """Prices outside their own range, and bars that stand still."""
    yield from positive("bad price", table, "open", "high", "low", "close")
    yield from positive("bad volume", table, "volume", "taker_buy_volume", "quote_volume", zero=True)
    low, high = np.minimum(table.open, table.close), np.maximum(table.open, table.close)
    yield from _compare(table, table.high < table.low, "high", "low", "is below")
    inside = 1e-9 * np.abs(table.close)  # a double that was written and read again
    yield from _compare(
        table, (table.high >= table.low) & (table.high < high - inside), "high", "close", "is below open or"
    )
    yield from _compare(
        table, (table.high >= table.low) & (table.low > low + inside), "low", "close", "is above open or"
    )
    more = table.taker_buy_volume > table.volume * (1.0 + 1e-9)
    yield from _compare(table, more, "taker_buy_volume", "volume", "is above")
    yield from spikes(table, table.close, table.volume)
    still = (table.volume == 0.0) & (table.high == table.low)
    if still.mean() > 0.5:
        text = (
            f"{100 * still.mean():.0f} % of all bars have no volume and one price: filled in, or delisted; cut them off"
        )
        yield from found("frozen", table, still, text, True)


def _compare(table: Bars, wrong: Bool[np.ndarray, " rows"], one: str, other: str, how: str) -> Iterator[Finding]:
    if wrong.any():
        i = int(np.flatnonzero(wrong)[0])
        text = (
            f"{one} = {getattr(table, one)[i]:g} {how} {other} = {getattr(table, other)[i]:g}; remove or mend the row"
        )
        yield from found("bad bar", table, wrong, text, True)


def reverting(price: Float64[np.ndarray, " rows"]) -> tuple[Bool[np.ndarray, " rows"], Float64[np.ndarray, " rows"]]:
    """Prices that jump and come back at the next row, and the size of each jump as a log return.

    A spike is at least half a percent and 15 times the median move of the 31 rows around it, and four fifths of it are
    undone at once.
    """
    marked, size = np.zeros(len(price), bool), np.zeros(len(price))
    if len(price) <= _WINDOW or (price <= 0.0).any():
        return marked, size
    moves = np.diff(np.log(price))
    out, back = moves[:-1], moves[1:]
    size[1:-1] = np.minimum(np.abs(out), np.abs(back))
    undone = np.abs(out + back) < 0.2 * np.maximum(np.abs(out), np.abs(back))
    least = max(_SPIKE * float(np.median(np.abs(moves))), _LEAST)
    candidates = np.flatnonzero(undone & (size[1:-1] > least))  # few; only they need the scale around them
    start = np.clip(candidates - _WINDOW // 2, 0, len(moves) - _WINDOW)
    local = np.median(np.abs(moves)[start[:, None] + np.arange(_WINDOW)], axis=1)
    marked[1 + candidates] = size[1 + candidates] > _SPIKE * local
    return marked, size


def spikes(
    table: Bars | Trades | OpenInterest, price: Float64[np.ndarray, " rows"], volume: Float64[np.ndarray, " rows"]
) -> Iterator[Finding]:
    """Prices that jump and come back. One that halves or doubles on no more than the usual volume is a bad print."""
    marked, size = reverting(price)
    quiet = ~(volume > np.nanmedian(volume)) if np.isfinite(volume).any() else np.ones(len(price), bool)
    bad = marked & (size > _DOUBLES) & quiet
    for places, poisons in ((bad, True), (marked & ~bad, False)):
        if places.any():
            i = int(np.flatnonzero(places)[np.argmax(size[places])])
            text = f"{price[i - 1]:g} to {price[i]:g} and back to {price[i + 1]:g} in the next row"
            remedy = "; remove the row" if poisons else "; look at it"
            largest = np.array([i, *np.flatnonzero(places & (np.arange(len(price)) != i))])
            yield from found("spike that reverts", table, largest, text + remedy, poisons)


def trades(table: Trades) -> Iterator[Finding]:
    yield from positive("bad price", table, "price")
    yield from positive("bad amount", table, "amount")
    if (reverting(table.price)[1] > _DOUBLES).any():  # smaller ones are bid and ask
        yield from spikes(table, table.price, table.amount)


def funding(table: Funding) -> Iterator[Finding]:
    usual = np.median(np.abs(table.rate))
    if usual > _PERCENT:
        text = f"the median rate is {usual:g} of notional per {np.median(table.interval):g} h; divide by 100 if it is in percent"
        yield from found("unit", table, np.array([0]), text, False)
    yield from found("bad interval", table, table.interval <= 0.0, "interval must be above zero hours", True)


def interest(table: OpenInterest) -> Iterator[Finding]:
    """Open interest of zero, and the ramps after an outage of the feed, which look like a market that was closed."""
    yield from positive("bad open interest", table, "open_interest")
    if (table.open_interest > 0.0).all() and len(table) > 1:
        jumps = np.flatnonzero(np.abs(np.diff(np.log(table.open_interest))) > np.log(1.4)) + 1
        if jumps.size:
            i = int(jumps[0])
            text = f"open interest from {table.open_interest[i - 1]:g} to {table.open_interest[i]:g} in one row; look at it"
            yield from found("jump", table, jumps, text, False)


def liquidations(table: Liquidations) -> Iterator[Finding]:
    yield from positive("bad price", table, "price", "fill_price")
    yield from positive("bad amount", table, "amount")
