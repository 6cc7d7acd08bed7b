"""Populations of leveraged accounts, built on the host once per run.

A builder draws from its own NumPy generator, so a book is the same whatever the paths are; several books (seeds) show how
much an answer depends on positions nobody can see.
"""

import abc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy.special import ndtri

from ._fields import InputError, Real, count, real
from .data._tables import numbers, read_table
from .margin import AbstractMargin
from .positions.base import Book
from .positions.groups import group_positions
from .positions.sorted import thresholds


class AbstractSizes(eqx.Module):
    """Law of account sizes; only ratios matter, the book scales them to its notional."""

    @abc.abstractmethod
    def quantile(self, u: np.ndarray) -> np.ndarray:
        """Size at probability u in (0, 1), any scale."""


class EqualSizes(AbstractSizes):
    """Every account is as large as the next."""

    def quantile(self, u: np.ndarray) -> np.ndarray:
        return np.ones_like(u)


class LognormalSizes(AbstractSizes):
    """Sizes exp(deviation * Z)."""

    deviation: Real = real(1.5, unit="1", least=0.0)

    def quantile(self, u: np.ndarray) -> np.ndarray:
        return np.exp(float(self.deviation) * ndtri(u))


class ParetoSizes(AbstractSizes):
    """P(size > x) = (1 + x)^-tail_index, cut so that no account holds more than the share `largest` of the book.

    Real books are this heavy: deleveraged accounts of 10 October 2025 have a Hill index near 0.8 (infinite mean) and the
    largest holds 16 % of their notional, so a few accounts carry a visible share of open interest and a book is never
    "many small accounts". Venues limit positions, which is what the cut stands for.
    """

    tail_index: Real = real(0.8, unit="1", above=0.0)
    largest: Real = real(0.02, unit="1", above=0.0, most=1.0)

    def quantile(self, u: np.ndarray) -> np.ndarray:
        size = (1.0 - u) ** (-1.0 / float(self.tail_index)) - 1.0
        share, n = float(self.largest), size.size
        if share * n <= 1.0:  # the cut leaves no room for differences
            return np.ones_like(u)
        # With the k largest at the cut c, c = share (k c + sum of the rest): the first k whose cut passes the next size.
        falling = np.sort(size)[::-1]
        k = np.arange(min(n, int(1.0 / share) + 1))
        rest = size.sum() - np.concatenate([[0.0], np.cumsum(falling)])[: k.size]
        cut = share * rest / np.maximum(1.0 - share * k, 1e-12)
        return np.minimum(size, cut[np.argmax(falling[k] <= cut)])


class AbstractBook(eqx.Module):
    """Builds the positions of a scenario."""

    @abc.abstractmethod
    def build(self, price: np.ndarray, margin: AbstractMargin, seed: int) -> Book:
        """The book at prices p0 (USD/unit); `seed` numbers the draw of the population."""


def equal_longs(price: np.ndarray, equity: Float[np.ndarray, " accounts"]) -> Book:
    """Isolated longs of equal size, together one unit, with these equities as shares of their notional."""
    n, spot = equity.size, float(np.asarray(price).reshape(-1)[0])
    return Book(
        np.full((n, 1), 1.0 / n), np.full((n, 1), spot), spot * equity / n, np.arange(n), np.ones(n), np.zeros(n)
    )


class LeverageMixture(AbstractBook):
    """Isolated one-asset accounts with a mixture of leverages, heavy-tailed sizes and entries around the spot.

    Sizes are stratified quantiles of their law in random order. Walking through the accounts in random order, each takes
    the leverage (and, in another order, the side) whose share of notional is due, so the shares hold to one account. Leverage
    is scattered lognormally and never above what the tier of the account allows. Entries scatter around the spot; an account
    that would start within `gap` of its liquidation price (it would not have survived) gets its entry at the spot, and less
    leverage if that is still too near.
    """

    notional: Real = real(unit="USD", above=0.0)  # gross, longs and shorts
    accounts: int = count(20_000, least=1)
    leverages: Real = real([3.0, 5.0, 10.0, 20.0, 50.0], unit="1", above=0.0)
    weights: Real = real([0.30, 0.30, 0.25, 0.10, 0.05], unit="1", least=0.0)  # shares of notional
    spread: Real = real(0.15, unit="1", least=0.0)  # deviation of log leverage around each
    long_share: Real = real(0.6, unit="1", least=0.0, most=1.0)
    sizes: AbstractSizes = eqx.field(default_factory=ParetoSizes)
    entry_deviation: Real = real(0.02, unit="1", least=0.0)  # of log(entry / spot)
    gap: Real = real(0.002, unit="1", above=0.0, below=0.5)  # least distance from liquidation, share of price
    reserve: Real = real(0.0, unit="1", least=0.0)  # further cash for calls, multiple of the collateral
    seed: int = count(0)

    def check(self) -> Iterator[tuple[str, str]]:
        yield from _mixture_complaints(self.leverages, self.weights)
        for name in ("notional", "spread", "long_share", "entry_deviation", "gap", "reserve"):
            if np.ndim(getattr(self, name)):
                yield name, f"{np.asarray(getattr(self, name)).tolist()}: expected one number, the book has one asset"

    def build(self, price: np.ndarray, margin: AbstractMargin, seed: int = 0) -> Book:
        rng = np.random.default_rng([self.seed, seed])
        n, spot = self.accounts, float(np.asarray(price).reshape(-1)[0])
        size = self.sizes.quantile((np.arange(n) + 0.5) / n)
        rng.shuffle(size)
        notional = float(self.notional) * size / size.sum()
        leverage = np.asarray(self.leverages, float)[_due(rng, notional, np.asarray(self.weights, float))]
        leverage = leverage * np.exp(float(self.spread) * rng.standard_normal(n))
        long_share = float(self.long_share)
        side = np.array([1.0, -1.0])[_due(rng, notional, np.array([long_share, 1.0 - long_share]))]
        entry = spot * np.exp(float(self.entry_deviation) * rng.standard_normal(n))
        return _survivors(spot, margin, float(self.gap), side * notional / spot, entry, leverage, float(self.reserve))


class ToppedUp(AbstractBook):
    """The accounts of another book after a change of margins: who has too little posts what is asked.

    Positions and entries are those of `book` under the margins of `reference`. An isolated account then holds the most of
    what it had, the initial requirement at its entry, and what keeps the spot `gap` away from its liquidation price,

        cash >= max_k s |q| p0 (1 - (1 - s r_k) (1 - gap)^s) - D_k - q (p0 - entry),     s = sign q

    so the book changes continuously with the margins, and may be differentiated in them. One asset.

    **Left out:** accounts do not raise their leverage where the new margins ask less than the reference, and none leaves.
    """

    book: AbstractBook
    reference: AbstractMargin
    gap: Real = real(0.002, unit="1", above=0.0, below=0.5)

    def build(self, price: np.ndarray, margin: AbstractMargin, seed: int = 0) -> Book:
        base, spot = self.book.build(price, self.reference, seed), float(np.asarray(price).reshape(-1)[0])
        if np.asarray(base.quantity).shape[1] != 1:
            raise InputError('book.kind = "ToppedUp" needs a book in one asset; tune a margin for one asset at a time')
        quantity, entry = np.asarray(base.quantity)[:, :1], np.asarray(base.entry)[:, :1]
        side, size = np.sign(quantity), np.abs(quantity)
        rates, deductions = margin.lines()
        initial = margin.initial(size * entry)[:, 0]  # pyright: ignore[reportArgumentType]
        xp = jnp if any(isinstance(x, jax.Array) for x in (rates, initial)) else np
        at_gap = (1.0 - float(self.gap)) ** side  # price over spot where an account may be liquidated
        apart = size * spot * side * (1.0 - at_gap * (1.0 - side * rates)) - deductions - quantity * (spot - entry)
        cash = xp.maximum(xp.maximum(base.cash, initial), apart.max(axis=1))
        return eqx.tree_at(lambda b: b.cash, base, cash)


def _mixture_complaints(leverages: Any, weights: Any) -> Iterator[tuple[str, str]]:
    if np.shape(leverages) != np.shape(weights) or np.ndim(leverages) != 1:
        yield "weights", f"{np.size(weights)} weight(s) for {np.size(leverages)} leverage(s); give one for each"
    elif np.sum(weights) <= 0:
        yield "weights", "all weights are zero; give at least one leverage a share of the notional"


def _due(rng: np.random.Generator, amount: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Assigns each item a class so that amounts follow the shares: random order, classes by cumulative amount."""
    order = rng.permutation(amount.size)
    middle = np.cumsum(amount[order]) - 0.5 * amount[order]
    edges = np.cumsum(shares / shares.sum())[:-1] * amount.sum()
    classes = np.empty(amount.size, np.int64)
    classes[order] = np.searchsorted(edges, middle, side="right")
    return classes


def _survivors(
    spot: float,
    margin: AbstractMargin,
    gap: float,
    quantity: np.ndarray,
    entry: np.ndarray,
    leverage: np.ndarray,
    reserve: float,
) -> Book:
    """The book of isolated accounts, none of which starts within `gap` of its liquidation price."""
    rates, deductions = (np.asarray(line, float) for line in margin.lines())

    def book(entry: np.ndarray, leverage: np.ndarray) -> Book:
        value = np.abs(quantity) * entry
        least = np.asarray(margin.initial(value[:, None]), float)[:, 0]  # pyright: ignore[reportArgumentType]
        cash = np.maximum(value / leverage, least)
        rows = np.arange(quantity.size)
        return Book(quantity[:, None], entry[:, None], cash, rows, np.ones(quantity.size), reserve * cash)

    def too_near(candidate: Book) -> np.ndarray:
        return thresholds(candidate, np.array([spot]), rates, deductions) > np.log1p(-gap)

    near = too_near(book(entry, leverage))
    entry = np.where(near, spot, entry)
    for _ in range(60):
        near = too_near(book(entry, leverage))
        if not near.any():
            break
        leverage = np.where(near, 0.9 * leverage, leverage)
    return book(entry, leverage)


class CrossMixture(AbstractBook):
    """Accounts with positions in several assets, some with one cash pool (cross), the others position by position.

    Each account holds an asset with probability `participation` (at least one); sides follow `long_share`, with a common
    direction for a share `crowding` of accounts. Collateral is the sum of notionals over the account's leverage, never
    below the initial margin; a cross account pools it, an isolated one splits it by notional.
    """

    notional: Real = real(unit="USD", above=0.0)  # gross per asset, (assets,)
    accounts: int = count(1_000, least=1)
    leverages: Real = real([3.0, 5.0, 10.0, 20.0], unit="1", above=0.0)
    weights: Real = real([0.35, 0.35, 0.2, 0.1], unit="1", least=0.0)
    cross_share: Real = real(0.5, unit="1", least=0.0, most=1.0)  # of accounts
    participation: Real = real(0.7, unit="1", above=0.0, most=1.0)
    long_share: Real = real(0.6, unit="1", least=0.0, most=1.0)
    crowding: Real = real(0.5, unit="1", least=0.0, most=1.0)
    sizes: AbstractSizes = eqx.field(default_factory=LognormalSizes)
    reserve: Real = real(0.0, unit="1", least=0.0)
    seed: int = count(0)

    def check(self) -> Iterator[tuple[str, str]]:
        yield from _mixture_complaints(self.leverages, self.weights)

    def build(self, price: np.ndarray, margin: AbstractMargin, seed: int = 0) -> Book:
        rng = np.random.default_rng([self.seed, seed])
        price = np.asarray(price, float).reshape(-1)
        n, assets = self.accounts, price.size
        size = self.sizes.quantile((np.arange(n) + 0.5) / n)
        rng.shuffle(size)
        holds = rng.random((n, assets)) < float(self.participation)
        holds[np.arange(n), rng.integers(0, assets, n)] = True
        value = holds * size[:, None] * rng.lognormal(0.0, 0.5, (n, assets))
        value = value / value.sum(axis=0) * np.broadcast_to(np.asarray(self.notional, float), (assets,))
        common = np.where(rng.random((n, 1)) < float(self.long_share), 1.0, -1.0)
        own = np.where(rng.random((n, assets)) < float(self.long_share), 1.0, -1.0)
        side = np.where(rng.random((n, 1)) < float(self.crowding), common, own)
        leverage = np.asarray(self.leverages, float)[_due(rng, value.sum(axis=1), np.asarray(self.weights, float))]
        least = np.asarray(margin.initial(value), float)
        cash = np.maximum(value / leverage[:, None], least)
        cross = rng.random(n) < float(self.cross_share)
        group = np.where(cross[:, None], 0, np.arange(assets)[None, :])
        entry = np.broadcast_to(price, value.shape)
        book = group_positions(side * value / price, entry, cash, group)
        return eqx.tree_at(lambda b: b.reserve, book, float(self.reserve) * np.asarray(book.cash))


class PositionTable(AbstractBook):
    """Positions read from a CSV (.csv, .csv.gz) or parquet file, one row per position.

    Columns: `account`, `quantity` (units, + long, - short), `entry` (USD/unit), `collateral` (USD, posted for the row), and
    optionally `asset` (0, 1, ...; default 0) and `mode` ("isolated" or "cross"; default isolated). Rows of a cross account
    share their collateral.
    """

    path: str = eqx.field(static=True)

    def build(self, price: np.ndarray, margin: AbstractMargin, seed: int = 0) -> Book:
        del margin, seed
        table, rows = read_table(
            Path(self.path), ("account", "quantity", "entry", "collateral"), optional=("asset", "mode"), least=1
        )
        assets = np.asarray(price).size
        table = {"asset": np.zeros(len(rows), int), "mode": np.full(len(rows), "isolated")} | table

        def column(name: str, expected: str, allowed: Any) -> np.ndarray:
            value = (
                numbers(table[name], rows, self.path, name) if name != "mode" else np.asarray(table[name]).astype(str)
            )
            for row in np.flatnonzero(~allowed(value))[:1]:
                raise InputError(
                    f"{self.path} row {rows[row]}: {name} = {value[row]!s}, expected {expected}; mend the row"
                )
            return value

        quantity = column("quantity", "a signed finite number other than 0", lambda v: np.isfinite(v) & (v != 0))
        entry = column("entry", "a finite price > 0", lambda v: np.isfinite(v) & (v > 0))
        cash = column("collateral", "USD >= 0 (a short has a negative quantity)", lambda v: np.isfinite(v) & (v >= 0))
        wanted = "0" if assets == 1 else f"a whole number from 0 to {assets - 1}"
        asset = column("asset", f"{wanted}, as in price", lambda v: np.isin(v, np.arange(assets))).astype(int)
        mode = column("mode", '"isolated" or "cross"', lambda v: np.isin(v, ("isolated", "cross")))
        owner = _codes(table["account"])
        keys = [(o, "cross" if m == "cross" else i) for i, (o, m) in enumerate(zip(owner, mode, strict=True))]
        group = _codes(keys)
        groups = group.max() + 1
        units, cost, money = np.zeros((groups, assets)), np.zeros((groups, assets)), np.zeros(groups)
        np.add.at(units, (group, asset), quantity)
        np.add.at(cost, (group, asset), quantity * entry)
        np.add.at(money, group, cash)
        mean_entry = np.where(units != 0, cost / np.where(units == 0, 1.0, units), np.asarray(price, float))
        money = money - np.where(units == 0, cost, 0.0).sum(axis=1)  # two rows that offset realize their difference
        account = np.zeros(groups, int)
        account[group] = owner
        held = (units != 0).any(axis=1)
        if not held.any():
            raise InputError(f"{self.path}: the rows of each account offset each other, expected at least one position")
        book: Any = (units, mean_entry, money, account, np.ones(groups), np.zeros(groups))
        return Book(*(value[held] for value in book))


def _codes(labels: Any) -> np.ndarray:
    known: dict[Any, int] = {}
    return np.array([known.setdefault(label, len(known)) for label in labels])
