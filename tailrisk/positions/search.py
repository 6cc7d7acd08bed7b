"""Searches over sorted tables and exact sums over two conditions, for one path.

Tables are built once on the host in float64 and cast to the precision of the run; queries are branch-free.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .._hard import decisive

_FAN = 16
DEFICIT = "which positions are closed in deficit"


def count_above(table: Float[Array, "sides places"], value: Float[Array, " sides"], what: str) -> Int[Array, " sides"]:
    """How many entries of each descending row lie strictly above a value: a binary search, O(log N).

    `what` the places decide is said if a derivative arrives here.
    """
    sides, places = table.shape
    flat, value = decisive(table.reshape(-1), what), decisive(value, what)
    start = jnp.arange(sides, dtype=jnp.int32) * places
    bits = int(places).bit_length()

    def halve(i: Any, found: Int[Array, " sides"]) -> Int[Array, " sides"]:
        ahead = found + (jnp.int32(1) << (bits - 1 - i))
        above = flat[start + jnp.minimum(ahead, places) - 1] > value
        return jnp.where((ahead <= places) & above, ahead, found)

    return jax.lax.fori_loop(0, bits, halve, jnp.zeros(sides, jnp.int32))


class Descending(eqx.Module):
    """Sorted rows under a wide search tree: a search looks a few times at neighbors instead of often at far places.

    `marks` has every s-th entry of all rows, for s a power of 16 from high to 1.
    """

    marks: tuple[Float[Array, " _"], ...]
    places: int = eqx.field(static=True)  # entries of a row, a power of two

    @classmethod
    def build(cls, table: np.ndarray, dtype: Any) -> "Descending":
        """`table`: (rows, places), each row descending; places is a power of two."""
        places = table.shape[1]
        tables = [table[:, step - 1 :: step].reshape(-1) for step in _steps(places)]
        return cls(tuple(jnp.asarray(marks, dtype) for marks in tables), places)

    def count_above(self, row: Int[Array, ""], value: Float[Array, ""], what: str) -> Int[Array, ""]:
        """How many entries of a row lie strictly above a value; `what` they decide is said if a derivative arrives."""
        value = decisive(value, what)
        found, block = jnp.zeros_like(row), self.places  # entries known to be above; the block after them is searched
        for step, marks in zip(_steps(self.places), self.marks, strict=True):
            first = (row * self.places + found) // step
            seen = jax.lax.dynamic_slice(decisive(marks, what), (first,), (block // step,))
            whole = jnp.sum(seen > value, dtype=jnp.int32)
            # A block that lies above as a whole is searched as well, for what comes next may be of another row.
            found = found + step * (whole if step == 1 else jnp.minimum(whole, block // step - 1))
            block = step
        return found


def _steps(places: int) -> list[int]:
    return [step for step in (_FAN**j for j in reversed(range(places.bit_length()))) if step < places] or [1]


class PrefixSums(eqx.Module):
    """Prefix sums of amounts along each row, precise in differences.

    In float32 every sum is kept as a high and a low part, so the sum over a range carries the relative error of the range
    and not that of the whole table.
    """

    table: Float[Array, "sides places_plus_1 parts"]  # (high, low) per column, interleaved

    @classmethod
    def build(cls, amounts: np.ndarray, dtype: Any) -> "PrefixSums":
        """`amounts`: (sides, places, columns) on the host."""
        sides, _, columns = amounts.shape
        sums = np.concatenate([np.zeros((sides, 1, columns)), np.cumsum(amounts, axis=1, dtype=np.float64)], axis=1)
        high = sums.astype(dtype)
        low = (sums - high.astype(np.float64)).astype(dtype)
        return cls(jnp.asarray(np.stack([high, low], axis=-1).reshape(sides, sums.shape[1], 2 * columns)))

    @property
    def columns(self) -> int:
        """Number of amounts."""
        return self.table.shape[-1] // 2

    def between(
        self, start: Int[Array, " rows"], stop: Int[Array, " rows"], row: Int[Array, " rows"] | None = None
    ) -> Float[Array, "rows columns"]:
        """Sums of the entries start <= i < stop of the given rows, or of each row."""
        sides, places, _ = self.table.shape
        flat = self.table.reshape(sides * places, -1)
        first = (jnp.arange(sides, dtype=jnp.int32) if row is None else row) * places
        gap = (flat[first + stop] - flat[first + start]).reshape(start.shape[0], -1, 2)
        return gap[..., 0] + gap[..., 1]


class Dominance(eqx.Module):
    """Exact sums of amounts over `start <= i < stop` and `level[i] > value`: a wavelet matrix over the ranks of the levels.

    O(log N) per query. Needed because under tiered margins the order of liquidation prices is not that of bankruptcy prices.

    **Source:** Claude, Navarro, Ordonez (2015), "The wavelet matrix", with prefix sums attached to every level.
    """

    levels: Float[Array, "sides places"]  # descending
    zeros_before: Int[Array, "bits_sides places_plus_1"]  # one row per bit and side
    zeros: Int[Array, " bits_sides"]
    sums: PrefixSums  # rows as above, in the order after the bit's partition

    @classmethod
    def build(cls, level: np.ndarray, amounts: np.ndarray, dtype: Any) -> "Dominance":
        """`level`: (sides, places), `amounts`: (sides, places, columns), both in the order of the positions."""
        level = level.astype(dtype)  # ranks and queries must see the same rounding
        sides, places = level.shape
        order = np.argsort(-level, axis=1, kind="stable")
        rank = np.empty_like(order)
        np.put_along_axis(rank, order, np.arange(places)[None, :], axis=1)
        bits = max(1, int(places).bit_length())
        zeros_before = np.zeros((bits, sides, places + 1), np.int32)
        moved_amounts = []
        for b in range(bits):
            one = (rank >> (bits - 1 - b)) & 1
            zeros_before[b, :, 1:] = np.cumsum(1 - one, axis=1)
            moved = np.argsort(one, axis=1, kind="stable")
            rank = np.take_along_axis(rank, moved, axis=1)
            amounts = np.take_along_axis(amounts, moved[:, :, None], axis=1)
            moved_amounts.append(amounts)
        rows = zeros_before.reshape(bits * sides, places + 1)
        return cls(
            levels=jnp.asarray(np.take_along_axis(level, order, axis=1)),
            zeros_before=jnp.asarray(rows),
            zeros=jnp.asarray(rows[:, -1]),
            sums=PrefixSums.build(np.concatenate(moved_amounts), dtype),
        )

    def above(
        self, start: Int[Array, " sides"], stop: Int[Array, " sides"], value: Float[Array, " sides"]
    ) -> Float[Array, "sides columns"]:
        """Sums over start <= i < stop with level[i] > value, per row."""
        sides, places = self.levels.shape
        bits = self.zeros.shape[0] // sides
        first_out = count_above(self.levels, value, DEFICIT)  # ranks below this one have level > value
        flat = self.zeros_before.reshape(-1)

        def descend(b: Any, carry: Any) -> Any:
            start, stop, total = carry
            row = jnp.arange(sides, dtype=jnp.int32) + sides * b
            zero_start = flat[row * (places + 1) + start]
            zero_stop = flat[row * (places + 1) + stop]
            one = ((first_out >> (bits - 1 - b)) & 1) == 1
            # Ranks in the half of the zeros are below `first_out` when its bit is one: all of that half counts.
            half = self.sums.between(zero_start, zero_stop, row)
            total = total + jnp.where(one[:, None], half, 0.0)
            start = jnp.where(one, self.zeros[row] + start - zero_start, zero_start)
            stop = jnp.where(one, self.zeros[row] + stop - zero_stop, zero_stop)
            return start, stop, total

        none = jnp.zeros((sides, self.sums.columns), self.levels.dtype)
        return jax.lax.fori_loop(0, bits, descend, (start, stop, none))[2]
