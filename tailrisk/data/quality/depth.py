"""Books that hold orders which are not there, or that have stopped.

A band of k percent holds bids between (1 - k) m and m, or asks between m and (1 + k) m, around one mid m. So the average
price of what is between two bands bounds m from both sides:

    bids between k1 and k2 at average a:   a / (1 - k1) <= m <= a / (1 - k2)
    asks between k1 and k2 at average a:   a / (1 + k2) <= m <= a / (1 + k1)

If no m meets all bounds, some order lies where it cannot be: a phantom bid above the market, left behind by the feed,
as in Binance's BTCUSDT book of 10 October 2025.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64

from .._times import MINUTE, iso
from ..tables import Depth
from .finding import Finding, found

_ROUNDED = 1e-5  # relative: notional is written with four decimals
_STOPPED = 10 * MINUTE
_SHARE = 0.05  # of all snapshots that may be stale before an average is wrong


def mid_bounds(table: Depth) -> tuple[Float64[np.ndarray, " rows"], Float64[np.ndarray, " rows"]]:
    """The least and the greatest mid that a snapshot allows; a snapshot whose least exceeds its greatest is wrong."""
    bands = np.array(table.bands)
    least, greatest = np.full(len(table), -np.inf), np.full(len(table), np.inf)
    for side in (-1.0, 1.0):
        places = np.flatnonzero(np.sign(bands) == side)
        places = places[np.argsort(np.abs(bands[places]))]
        inner, units, value = 0.0, np.zeros(len(table)), np.zeros(len(table))
        for place in places:
            outer = abs(bands[place])
            more, worth = table.depth[:, place] - units, table.notional[:, place] - value
            filled = more > 1e-9 * table.depth[:, place]  # an empty shell says nothing
            average = np.divide(worth, more, out=np.full(len(table), np.nan), where=filled)
            low, high = sorted((1.0 + side * inner, 1.0 + side * outer))
            least, greatest = np.fmax(least, average / high), np.fmin(greatest, average / low)
            known = np.isfinite(table.depth[:, place])
            units, value = (
                np.where(known, table.depth[:, place], units),
                np.where(known, table.notional[:, place], value),
            )
            inner = outer
    return least, greatest


def phantom(table: Depth) -> Bool[np.ndarray, " rows"]:
    """Snapshots that no mid price explains."""
    least, greatest = mid_bounds(table)
    return least > greatest * (1.0 + _ROUNDED)


def depth(table: Depth) -> Iterator[Finding]:
    lacking: Any = ~np.isfinite(table.depth).all(axis=1)
    yield from found("missing band", table, lacking, "some bands have no row; they are nan", False)
    with np.errstate(invalid="ignore"):
        wrong: Any = ((table.depth < 0.0) | (table.notional < 0.0)).any(axis=1)
        inner = _nested(table)
    yield from found("bad depth", table, wrong, "depth or notional below zero; remove the snapshot", True)
    yield from found(
        "bad depth", table, inner, "a wider band holds less than a narrower one; remove the snapshot", True
    )
    ghosts = phantom(table)
    if ghosts.any():
        i = int(np.flatnonzero(ghosts)[0])
        text = (
            f"no mid price fits the bands from {iso(table.time[i])} on ({100 * ghosts.mean():.0f} % of all snapshots): an "
            "order that is not there. It may have spoiled the snapshots shortly before and between too; end the data "
            "well before it"
        )
        yield from found("phantom depth", table, ghosts, text, True)
    yield from _stale(table)


def _nested(table: Depth) -> Bool[np.ndarray, " rows"]:
    bands = np.array(table.bands)
    wrong = np.zeros(len(table), bool)
    for side in (-1.0, 1.0):
        places = np.flatnonzero(np.sign(bands) == side)
        held = table.depth[:, places[np.argsort(np.abs(bands[places]))]]
        wrong |= (np.diff(held, axis=1) < -1e-9 * np.abs(held[:, 1:])).any(axis=1)
    return wrong


def _stale(table: Depth) -> Iterator[Finding]:
    """Snapshots in which every band is as it was in the one before."""
    if len(table) < 2:
        return
    repeats = (table.depth[1:] == table.depth[:-1]) & (table.notional[1:] == table.notional[:-1])
    same = np.append(False, repeats.all(axis=1))
    if not same.any():
        return
    fresh = np.maximum.accumulate(np.where(same, 0, np.arange(len(table))))  # the last snapshot that was news
    held = table.time - table.time[fresh]
    longest = int(np.argmax(held))
    text = (
        f"the book stands still, longest for {held[longest] / MINUTE:.3g} min up to {iso(table.time[longest])}; leave these "
        "snapshots out"
    )
    yield from found("stale depth", table, same, text, bool(same.mean() > _SHARE or held[longest] > _STOPPED))
