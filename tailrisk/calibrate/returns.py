"""What a law is fitted to: log returns over even intervals, and which of them were observed."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from .._fields import SECONDS_PER_YEAR, InputError
from ..data._tables import date
from ..data.quality import reverting
from ..data.series import AbstractSeries

LEAST = 100  # observed returns
MONTH = 30.4 * 86400.0 / SECONDS_PER_YEAR  # years; scores and resamples keep this much of a series together


class Returns(NamedTuple):
    """Log returns of one asset; those into and out of a gap are 0 and not `seen`, and time goes on in them."""

    moves: Float[np.ndarray, "times *assets"]
    seen: Bool[np.ndarray, " times"]
    every: float  # years
    start: str
    end: str

    @property
    def observed(self) -> Float[np.ndarray, "observed *assets"]:
        """The returns that were observed."""
        return self.moves[self.seen]

    @property
    def block(self) -> int:
        """Returns in a month, or in a fortieth of a history shorter than 40 months."""
        return max(1, min(round(MONTH / self.every), self.seen.size // 40))

    @property
    def months(self) -> int:
        """How many of those there are, a part of one included."""
        return -(-self.seen.size // self.block)


def returns(series: AbstractSeries, asset: int = 0) -> Returns:
    """Log returns of one asset of a series.

    **Raises:** `InputError` if fewer than 100 returns were observed, or a price halves or doubles for one interval alone,
    which is a bad print (a table of bars says by its volume whether such a price was traded).
    """
    times, prices = series.load()
    known = ~np.isnan(prices[:, asset])
    spikes, size = reverting(prices[known, asset])
    bad = np.flatnonzero(spikes & (size > np.log(2.0)))
    if bad.size:
        when = date(times[known][bad[0]])
        raise InputError(
            f"series: price {prices[known, asset][bad[0]]:g} at {when} is undone at the next, {bad.size} such price(s); "
            "remove what was not traded"
        )
    moves = np.diff(np.log(prices[:, asset]))
    seen = ~np.isnan(moves)
    if seen.sum() < LEAST:
        raise InputError(f"series: {seen.sum()} returns, expected at least {LEAST}; give a longer series")
    every = float(times[1] - times[0]) / SECONDS_PER_YEAR
    return Returns(np.where(seen, moves, 0.0), seen, every, date(times[0])[:16], date(times[-1])[:16])


def of_moves(moves: Float[np.ndarray, " times"], every: float) -> Returns:
    """Simulated returns, all observed."""
    return Returns(np.asarray(moves, float), np.ones(len(moves), bool), every, "simulated", "simulated")


def thinned(found: Returns, ratio: int) -> Returns:
    """The same history in intervals `ratio` times as long; an interval with a gap in it was not observed."""
    whole = found.moves.size - found.moves.size % ratio
    moves, seen = (a[:whole].reshape(-1, ratio) for a in (found.moves, found.seen))
    whole_seen = np.asarray(seen.all(axis=1))
    every = found.every * ratio
    return Returns(np.where(whole_seen, moves.sum(axis=1), 0.0), whole_seen, every, found.start, found.end)


def joined(*series: Returns) -> Returns:
    """Several assets over the same times, (times, assets); an interval is seen where all of them are.

    **Raises:** `InputError` if they do not cover the same times.
    """
    first = series[0]
    for other in series[1:]:
        if (other.start, other.end, other.seen.size) != (first.start, first.end, first.seen.size):
            raise InputError(
                f"one series covers {first.start} to {first.end} and another {other.start} to {other.end}; give both the "
                "same start and end"
            )
    seen = np.asarray(np.stack([one.seen for one in series]).all(axis=0))
    moves = np.where(seen[:, None], np.column_stack([one.moves for one in series]), 0.0)
    return Returns(moves, seen, first.every, first.start, first.end)
