"""Exact clearing of a step by searches in sorted thresholds, O(log N) however far the cascade goes.

Accounts are sorted by liquidation price, the first to be sold first. With k of them sold the price is u - G_k, so that the
next one is sold while u < a_k = b_k + G_k: within a step the price only falls, hence those sold are always the first ones,
and a step that starts with n sold ends at the first k >= n with a_k <= u. Selling one by one and rounds of simultaneous
sales that are repeated until nothing changes end there alike.
"""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .._hard import crosses
from ..positions.search import DEFICIT, PrefixSums, count_above

THRESHOLD = "a liquidation or breaker threshold"


def range_minima(thresholds: np.ndarray) -> np.ndarray:
    """Row j, place k: the least of thresholds k to k + 2^j - 1, with minus infinity after the last."""
    places = thresholds.size + 1
    rows = [np.append(thresholds, -np.inf)]
    while 2 ** len(rows) < places:
        span = 2 ** (len(rows) - 1)
        ahead = np.append(rows[-1][span:], np.full(span, -np.inf))
        rows.append(np.minimum(rows[-1], ahead))
    return np.stack(rows)


class Sold(eqx.Module):
    """Sums over accounts sold at one price: units, debt, and value at the entry prices."""

    quantity: Float[Array, ""]
    debt: Float[Array, ""]
    entry_value: Float[Array, ""]


class SortedClearing(eqx.Module):
    """Tables of a sorted book; built on the host in float64.

    **Source:** Bender and Farach-Colton (2000) for range minima by powers of two, here descended as a search.
    """

    lowest: Float[Array, "rows places_plus_1"]
    thresholds: Float[Array, " places_plus_1"]  # a_k, minus infinity at the end
    pressure: Float[Array, " places_plus_1"]  # C_k^exponent
    fall: Float[Array, " places_plus_1"]  # G_k = coefficient C_k^exponent
    log_debt: Float[Array, " places"]  # descending
    sums: PrefixSums

    @classmethod
    def build(
        cls,
        log_debt: np.ndarray,
        log_entry: np.ndarray,
        quantity: np.ndarray,
        maintenance: Any,
        impact: Any,
        exponent: Any,
        dtype: Any,
    ) -> "SortedClearing":
        """Tables of accounts in the order in which they are sold."""
        pressure = np.append(0.0, np.cumsum(quantity)) ** exponent
        fall = impact * pressure
        minima = range_minima(log_debt - np.log1p(-maintenance) + fall[:-1])
        amounts = np.stack([quantity, quantity * np.exp(log_debt), quantity * np.exp(log_entry)], axis=-1)

        def table(numbers: np.ndarray) -> Array:
            return jnp.asarray(numbers.astype(dtype))

        sums = PrefixSums.build(amounts[None], dtype)
        return cls(table(minima), table(minima[0]), table(pressure), table(fall), table(log_debt), sums)

    def first_at_or_below(self, start: Int[Array, ""], level: Float[Array, ""]) -> Int[Array, ""]:
        """The first k >= start with a_k <= level; the number of accounts if there is none."""
        rows, places = self.lowest.shape
        flat = self.lowest.reshape(-1)
        place = start
        for row in reversed(range(rows)):
            above = crosses(level, flat[row * places + place], THRESHOLD)
            place = place + jnp.where(above, jnp.int32(2**row), jnp.int32(0))
        return place

    def first_beyond(self, room: Float[Array, ""]) -> Int[Array, ""]:
        """The first count of sales whose fall G is larger than `room`; one more than the accounts if there is none."""
        places = self.fall.shape[0]
        return places - count_above(self.fall[None, ::-1], room[None], THRESHOLD)[0]

    def last_before_stop(self, start: Int[Array, ""], floor: Float[Array, ""]) -> Int[Array, ""]:
        """The largest count r >= start that is sold where the fall G_r alone takes the price down to `floor`.

        Below the level floor + G_r of this r, and of no larger one, a breaker stops sales.
        """
        rows, places = self.lowest.shape
        flat = self.lowest.reshape(-1)
        place, least = start, jnp.full_like(floor, jnp.inf)
        for row in reversed(range(rows)):
            passed = jnp.minimum(least, flat[row * places + place])
            ahead = jnp.minimum(place + 2**row, places - 1)
            sold = crosses(floor + self.fall[ahead], passed, THRESHOLD)
            place, least = jnp.where(sold, ahead, place), jnp.where(sold, passed, least)
        return place

    def split(self, start: Int[Array, ""], stop: Int[Array, ""], log_price: Float[Array, ""]) -> tuple[Sold, Sold]:
        """Sums over those of the accounts start <= k < stop that are in deficit at the price, and over the others."""
        bankrupt = jnp.clip(count_above(self.log_debt[None, :], log_price[None], DEFICIT)[0], start, stop)
        starts, stops = jnp.stack([start, bankrupt]), jnp.stack([bankrupt, stop])
        both = self.sums.between(starts, stops, jnp.zeros(2, jnp.int32))
        return Sold(both[0, 0], both[0, 1], both[0, 2]), Sold(both[1, 0], both[1, 1], both[1, 2])
