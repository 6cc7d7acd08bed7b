"""Series of real prices, from a file or given directly, checked before anything is simulated on them.

A series loads to times and prices on an even grid. Bad data are errors that name the file, the row (the header of a
CSV file is row 1) and what to do; nothing is repaired silently.
"""

import abc
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Float

from .._fields import SECONDS_PER_YEAR, InputError, Real, choice, duration, parse_duration, real
from ._tables import date, hint, located, numbers, read_table, seconds

_SCALE = {"s": 1.0, "ms": 1e-3, "us": 1e-6}
_LATEST = 1e11  # seconds; a later time means that the unit is wrong


class AbstractSeries(eqx.Module):
    """Prices of one or several assets on an even grid of times."""

    @property
    @abc.abstractmethod
    def assets(self) -> int:
        """How many assets the series has (structural)."""

    @abc.abstractmethod
    def load(self) -> tuple[Float[np.ndarray, " times"], Float[np.ndarray, "times assets"]]:
        """Times in seconds (from 1970 where the series has dates) and prices in USD/unit, on the host.

        **Raises:** ValueError naming the file, row, value, what was expected and the remedy.
        """


class LogReturns(AbstractSeries):
    """A series that has been read: what `prepare` of a market puts in the place of a file."""

    log_return: Real = real(unit="1")  # (times, assets)
    mean_square: Real = real(unit="1", least=0.0)  # (assets,) mean of squared log returns
    every: Real = duration()  # spacing

    def __check_init__(self):
        if np.ndim(self.log_return) != 2:
            raise InputError(
                f"log_return has shape {np.shape(self.log_return)}, expected (times, assets); to give prices in a "
                'config, use kind = "PriceArray"'
            )

    @property
    def assets(self) -> int:
        return self.log_return.shape[1]

    def load(self) -> tuple[Float[np.ndarray, " times"], Float[np.ndarray, "times assets"]]:
        moves = np.asarray(self.log_return, np.float64)
        prices = np.exp(np.vstack([np.zeros((1, self.assets)), np.cumsum(moves, axis=0)]))
        return np.arange(len(prices)) * float(np.asarray(self.every)) * SECONDS_PER_YEAR, prices


def log_returns(series: AbstractSeries) -> LogReturns:
    """Reads a series into log returns, in double precision before any cast."""
    if isinstance(series, LogReturns):
        return series
    times, prices = series.load()
    if np.isnan(prices).any():
        raise InputError(
            'missing = "mark" leaves prices that are not known, expected none here; use "hold" or "refuse"'
        )
    moves: Any = np.diff(np.log(prices), axis=0)
    every: Any = np.asarray((times[-1] - times[0]) / (len(times) - 1) / SECONDS_PER_YEAR)
    return LogReturns(moves, np.mean(moves**2, axis=0), every)


class PriceArray(AbstractSeries):
    """Prices given directly, evenly spaced; one asset may be a plain list."""

    prices: Real = real(unit="USD/unit", above=0.0)  # (times,) or (times, assets)
    every: Real = duration()  # spacing

    def __check_init__(self):
        shape = np.shape(self.prices)
        if len(shape) not in (1, 2) or shape[0] < 2:
            raise InputError(f"prices has shape {shape}, expected (times,) or (times, assets) with at least 2 times")

    @property
    def assets(self) -> int:
        shape = np.shape(self.prices)
        return shape[1] if len(shape) == 2 else 1

    def load(self) -> tuple[Float[np.ndarray, " times"], Float[np.ndarray, "times assets"]]:
        prices = np.asarray(self.prices, np.float64).reshape(-1, self.assets)
        _check_prices(prices, [f"asset {a}" for a in range(self.assets)], np.arange(len(prices)), "prices")
        return np.arange(len(prices)) * float(np.asarray(self.every)) * SECONDS_PER_YEAR, prices


def _names(value: Any) -> tuple[str, ...]:
    if not isinstance(value, str | list | tuple):
        raise InputError(f"expected a name or a list of names, got {value!r}")
    return (value,) if isinstance(value, str) else tuple(str(name) for name in value)


class PriceFile(AbstractSeries):
    """Prices from a CSV file (also .gz) or a Parquet file (extra `tailrisk-jax[data]`).

    Either several `columns` are the assets, or one column of a long table is read once for every one of the `symbols`
    (rows where `symbol_column` has that value). Times must increase by a constant step; `missing` says what happens
    where rows are missing: "refuse" names the first gap, "hold" repeats the last price, "mark" leaves nan, which a
    calibration takes as not seen, "skip" counts the rows alone and spaces them evenly, as for a market that closes at
    night and over weekends. `every` thins the series to a multiple of the file's spacing, counted from its first time.
    A path `package:NAME/FILE` is a file that the installed package NAME ships.

    Example: `PriceFile("trades.csv.gz", symbols=("BTCUSDT", "ETHUSDT"), every="5min").load()`.
    """

    path: str = eqx.field(static=True, converter=str)
    columns: tuple[str, ...] = eqx.field(static=True, converter=_names, default=("close",))
    time_column: str = eqx.field(static=True, default="open_time")
    time_unit: str = choice(
        "ms", "ms", "us", "s", "iso"
    )  # iso: text such as 2020-03-12T00:10:00, UTC unless it says otherwise
    symbol_column: str = eqx.field(static=True, default="symbol")
    symbols: tuple[str, ...] = eqx.field(
        static=True, converter=_names, default=()
    )  # none: the file has one row per time
    start: str = eqx.field(
        static=True, converter=str, default=""
    )  # first time kept, ISO, UTC; empty: from the beginning
    end: str = eqx.field(static=True, converter=str, default="")  # first time not kept; empty: to the end
    every: str = eqx.field(static=True, default="")  # spacing wanted, such as "5min"; empty: that of the file
    missing: str = choice("refuse", "refuse", "hold", "mark", "skip")

    def __check_init__(self):
        if not self.columns:
            raise InputError("columns is empty, expected at least one column of prices")
        if self.symbols and len(self.columns) != 1:
            raise InputError(
                f"columns = {list(self.columns)} with symbols = {list(self.symbols)}: expected one column of prices "
                "when rows are chosen by symbol; give one column, or no symbols"
            )
        if len(set(self.symbols)) != len(self.symbols) or len(set(self.columns)) != len(self.columns):
            raise InputError("columns and symbols must not repeat; name each asset once")
        for name in ("start", "end"):
            if getattr(self, name):
                seconds(getattr(self, name), name)
        if self.every:
            try:
                parse_duration(self.every)
            except ValueError as error:
                raise InputError(f"every: {error}") from None

    @property
    def assets(self) -> int:
        return len(self.symbols) or len(self.columns)

    def load(self) -> tuple[Float[np.ndarray, " times"], Float[np.ndarray, "times assets"]]:
        wanted = [self.time_column, *self.columns, *([self.symbol_column] if self.symbols else [])]
        table, rows = read_table(located(self.path), wanted)
        times = self._times(table[self.time_column], rows)
        prices = np.column_stack([numbers(table[name], rows, self.path, name) for name in self.columns])
        kept = np.ones(len(rows), bool)
        if self.start:
            kept &= times >= seconds(self.start, "start")
        if self.end:
            kept &= times < seconds(self.end, "end")
        if not kept.any():
            raise InputError(
                f"{self.path}: no row is between start = {self.start or 'any'!r} and end = {self.end or 'any'!r}; "
                f"the file has {date(times.min())} to {date(times.max())}"
            )
        if not self.symbols:
            return self._on_grid(times[kept], prices[kept], rows[kept], self.columns)
        label, parts = np.asarray(table[self.symbol_column]).astype(str), []
        for symbol in self.symbols:
            own = kept & (label == symbol)
            if not own.any():
                known = sorted(set(label.tolist()))
                raise InputError(f"{self.path}: no row has {self.symbol_column} = {symbol!r}{hint(symbol, known)}")
            parts.append(self._on_grid(times[own], prices[own], rows[own], (symbol,)))
        return self._join(parts)

    def _times(self, raw: Any, rows: np.ndarray) -> np.ndarray:
        raw = np.asarray(raw)
        if raw.dtype.kind == "M":  # Parquet may carry real timestamps
            return raw.astype("datetime64[us]").astype(np.int64) * 1e-6
        if self.time_unit == "iso":
            return np.array([seconds(str(t), f"{self.path} row {row}") for t, row in zip(raw, rows, strict=True)])
        times = numbers(raw, rows, self.path, self.time_column, remedy='write a number or set time_unit = "iso"')
        times = times * _SCALE[self.time_unit]
        wrong = np.flatnonzero(~(np.abs(times) < _LATEST))
        if wrong.size:
            i = wrong[0]
            raise InputError(
                f"{self.path} row {rows[i]}: {self.time_column} = {raw[i]} in {self.time_unit} lies beyond the year "
                "5000, "
                'expected a time of a market; set time_unit to "ms", "us" or "s"'
            )
        return times

    def _on_grid(
        self, times: np.ndarray, prices: np.ndarray, rows: np.ndarray, names: Sequence[str]
    ) -> tuple[np.ndarray, np.ndarray]:
        _check_prices(prices, names, rows, self.path)
        if len(times) < 2:
            raise InputError(f"{self.path}: only {len(times)} row is left, expected at least 2; widen start and end")
        steps = np.diff(times)
        back = np.flatnonzero(steps <= 0.0)
        if back.size:
            i = back[0] + 1
            cure = "sort the file" if steps[back[0]] < 0 else "remove the duplicate, or choose rows with symbols"
            raise InputError(
                f"{self.path} row {rows[i]}: time {date(times[i])} does not follow {date(times[i - 1])}, expected "
                f"strictly increasing times; {cure}"
            )
        if self.missing == "skip":
            spacing = float(times[-1] - times[0]) / steps.size
            return self._thin(times[0] + spacing * np.arange(len(times)), prices, spacing)
        spacing = float(np.median(steps))
        counts = np.rint(steps / spacing)
        uneven = np.flatnonzero(np.abs(steps / spacing - counts) > 1e-6)
        gaps = np.flatnonzero(counts > 1)
        if uneven.size:
            i = uneven[0]
            raise InputError(
                f"{self.path} row {rows[i + 1]}: {steps[i]:g} s after the row before, expected {spacing:g} s (the "
                "usual spacing) or a multiple; resample the file to an even grid"
            )
        if gaps.size and self.missing == "refuse":
            i = gaps[0]
            raise InputError(
                f"{self.path} row {rows[i + 1]}: {int(counts[i]) - 1} row(s) missing after {date(times[i])} "
                f"({gaps.size} gap(s), "
                f'{int((counts - 1).sum())} rows in all), expected one every {spacing:g} s; set missing = "hold" to '
                "repeat "
                "the last price, or choose start and end around the gap"
            )
        place = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        source = np.searchsorted(place, np.arange(place[-1] + 1), side="right") - 1
        filled = prices[source]
        if self.missing == "mark":
            filled[place[source] != np.arange(place[-1] + 1)] = np.nan
        return self._thin(times[0] + spacing * np.arange(place[-1] + 1), filled, spacing)

    def _thin(self, times: np.ndarray, prices: np.ndarray, spacing: float) -> tuple[np.ndarray, np.ndarray]:
        if not self.every:
            return times, prices
        wanted = parse_duration(self.every) * SECONDS_PER_YEAR
        ratio = round(wanted / spacing)
        if ratio < 1 or abs(wanted / spacing - ratio) > 1e-6:
            raise InputError(
                f"{self.path}: every = {self.every!r} is {wanted:g} s, expected a multiple of the file's spacing, "
                f"{spacing:g} s"
            )
        times, prices = times[::ratio], prices[::ratio]
        if len(times) < 2:
            raise InputError(
                f"{self.path}: every = {self.every!r} leaves one row, expected at least 2; take a shorter one"
            )
        return times, prices

    def _join(self, parts: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
        first = parts[0][0]
        for symbol, (times, _) in zip(self.symbols, parts, strict=True):
            if len(times) != len(first) or np.abs(times - first).max() > 1e-6:
                raise InputError(
                    f"{self.path}: {symbol} covers {date(times[0])} to {date(times[-1])} ({len(times)} times) but "
                    f"{self.symbols[0]} {date(first[0])} to {date(first[-1])} ({len(first)}), expected the same "
                    "times; choose start and end that all symbols cover"
                )
        return first, np.hstack([prices for _, prices in parts])


def _check_prices(prices: np.ndarray, names: Sequence[str], rows: np.ndarray, source: str) -> None:
    wrong = np.argwhere(~(np.isfinite(prices) & (prices > 0.0)))
    if wrong.size:
        i, a = wrong[0]
        raise InputError(
            f"{source} row {rows[i]}: price {prices[i, a]:g} of {names[a]}, expected a positive number; remove or "
            "mend the row"
        )
