"""The benchmark models by hand in NumPy: vectorized over paths, a thread per core, work only at a breach."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from .models import ACCOUNT_ROUNDS, LADDER_ROUNDS, Groups, Market

_CHUNK = {"ladder": 8192, "accounts": 128}  # paths; a guess that was not tuned
_KEPT: tuple[str, ...] = ("forced_notional", "bad_debt", "fees")


def _in_threads(
    work: Callable[[int, np.random.Generator], np.ndarray], paths: int, chunk: int, seed: int
) -> dict[str, np.ndarray]:
    starts = range(0, paths, chunk)
    seeds = np.random.SeedSequence(seed).spawn(len(starts))

    def one(start: int, own: np.random.SeedSequence) -> np.ndarray:
        return work(min(chunk, paths - start), np.random.Generator(np.random.SFC64(own)))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        parts = np.concatenate(list(pool.map(one, starts, seeds)), axis=1)
    return dict(zip(_KEPT, parts, strict=True))


def _curve(m: Market, net: np.ndarray) -> np.ndarray:
    return m.scale * net / (np.sqrt(np.abs(net) + m.core) + m.core**0.5)


def _panel(start: np.ndarray, end: np.ndarray, drop: np.ndarray) -> np.ndarray:
    """Average price over the first, less 1; `drop` in float64."""
    small = np.abs(drop) < 1e-3
    d = np.where(small, 1.0, drop)
    zeroth = np.where(small, drop * (-0.5 + drop / 6.0), -np.expm1(-d) / d - 1.0)
    first = np.where(small, drop * (-1.0 / 3.0 + drop / 8.0), (-np.expm1(-d) - d * np.exp(-d)) / (d * d) - 0.5)
    return 2.0 * (start * zeroth + (end - start) * first) / (start + end)


def _fill(m: Market, net: np.ndarray, extra: np.ndarray) -> np.ndarray:
    """log of the average execution price over the price before."""
    edge, end = m.core**0.5, net + extra
    across = net * end < 0.0
    start_root, end_root = np.sqrt(np.abs(net) + m.core), np.sqrt(np.abs(end) + m.core)
    turn = np.where(across, edge, start_root)
    to_zero = np.where(across, -net, 0.0)
    fall = m.scale * to_zero / (start_root + edge)
    first = _panel(start_root, np.full_like(net, edge), fall)
    second = _panel(turn, end_root, m.scale * (extra - to_zero) / (turn + end_root))
    share = to_zero / np.where(extra == 0.0, 1.0, extra)
    return np.log1p(share * first + (1.0 - share) * (np.exp(-fall) * (1.0 + second) - 1.0))


def ladder(m: Market, book: Groups, paths: int, seed: int) -> dict[str, np.ndarray]:
    """Outcomes of the ladder: places by binary search, volumes by prefix sums, deficits group by group."""
    guarded = [np.append(level, -np.inf).astype(np.float32) for level in book.level]
    rising = [-level.astype(np.float32) for level in book.level]
    sums = [np.concatenate([[0.0], np.cumsum(units)]) for units in book.units]

    def closed(side: int, start: np.ndarray, stop: np.ndarray, fill: np.ndarray) -> tuple[np.ndarray, ...]:
        """Deficit and fee by path: all closed groups in one long row."""
        count = stop - start
        path = np.repeat(np.arange(count.size), count)
        group = np.arange(path.size) + np.repeat(start - np.cumsum(count) + count, count)
        units = book.units[side][group]
        price = m.price * np.exp(fill)
        sign = 1.0 - 2.0 * side
        equity = book.equity[side][group] + sign * units * (price - m.price)[path]
        fee = np.minimum(m.fee * units * price[path], np.maximum(equity, 0.0))
        total = np.bincount(path, np.maximum(-equity, 0.0), count.size), np.bincount(path, fee, count.size)
        return (sums[side][stop] - sums[side][start]) * price, *total

    def chunk(n: int, rng: np.random.Generator) -> np.ndarray:
        news, fading, lasting = (np.zeros(n, np.float32) for _ in range(3))
        sold = np.zeros((2, n), np.int64)
        following = np.stack([np.full(n, level[0]) for level in guarded])
        out = np.zeros((3, n))
        drift, deviation, decay = np.float32(m.drift), np.float32(m.deviation), np.float32(m.decay)
        for _ in range(m.steps):
            z = rng.standard_normal(n, np.float32)
            z *= deviation
            z += drift
            news += z
            fading *= decay
            before = news - _curve(m, m.fading * fading + (1.0 - m.fading) * lasting)
            rows = np.flatnonzero((following[0] > before) | (following[1] > -before))
            if not rows.size:
                continue
            net = m.fading * fading[rows].astype(float) + (1.0 - m.fading) * lasting[rows]
            at, start = news[rows].astype(float), sold[:, rows]
            order, volume = start, np.zeros(rows.size)
            for _ in range(LADDER_ROUNDS):
                price = at - _curve(m, net + volume / m.depth)
                found = [np.searchsorted(rising[s], -(1.0 - 2.0 * s) * price) for s in (0, 1)]
                order = np.maximum(order, found)
                units = [sums[s][order[s]] - sums[s][start[s]] for s in (0, 1)]
                volume = units[0] - units[1]
            extra = volume / m.depth
            fill = at - _curve(m, net) + _fill(m, net, extra)
            for s in (0, 1):
                out[:, rows] += closed(s, start[s], order[s], fill)
                following[s, rows] = guarded[s][order[s]]
            sold[:, rows] = order
            fading[rows] += extra
            lasting[rows] += extra
        return out

    return _in_threads(chunk, paths, _CHUNK["ladder"], seed)


def accounts(m: Market, book: Groups, paths: int, seed: int) -> dict[str, np.ndarray]:
    """Outcomes of the accounts: equity against requirement of every group of every path in every step."""
    quantity = np.concatenate([book.units[0], -book.units[1]]).astype(np.float32)
    equity = np.concatenate(book.equity).astype(np.float32)

    def chunk(n: int, rng: np.random.Generator) -> np.ndarray:
        news, fading, lasting = np.zeros(n), np.zeros(n), np.zeros(n)
        held, money = np.tile(quantity, (n, 1)), np.tile(equity, (n, 1))
        room, work = np.empty_like(held), np.empty_like(held)
        required = np.abs(held) * np.float32(m.maintenance * m.price)
        out = np.zeros((3, n))
        for _ in range(m.steps):
            news += m.drift + m.deviation * rng.standard_normal(n, np.float32)
            fading *= m.decay
            net = m.fading * fading + (1.0 - m.fading) * lasting
            before = news - _curve(m, net)
            np.multiply(held, (m.price * np.expm1(before)).astype(np.float32)[:, None], out=room)
            room += money
            room -= np.multiply(required, np.exp(before).astype(np.float32)[:, None], out=work)
            rows = np.flatnonzero(room.min(axis=1) < 0.0)
            if not rows.size:
                continue
            order = room[rows] < 0.0
            units, cash, need = held[rows], money[rows], required[rows]
            for _ in range(ACCOUNT_ROUNDS - 1):
                volume = np.where(order, units, np.float32(0.0)).sum(axis=1)
                price = news[rows] - _curve(m, net[rows] + volume / m.depth)
                moved = (m.price * np.expm1(price)).astype(np.float32)[:, None]
                order |= cash + units * moved < need * np.exp(price).astype(np.float32)[:, None]
            sold = np.where(order, units, np.float32(0.0))
            extra = sold.sum(axis=1) / m.depth
            fill = before[rows] + _fill(m, net[rows], extra)
            left = np.where(
                order, cash + sold * (m.price * np.expm1(fill)).astype(np.float32)[:, None], np.float32(0.0)
            )
            notional = np.abs(sold) * (m.price * np.exp(fill)).astype(np.float32)[:, None]
            fee = np.minimum(np.float32(m.fee) * notional, np.maximum(left, 0.0))
            out[:, rows] += notional.sum(axis=1), np.maximum(-left, 0.0).sum(axis=1), fee.sum(axis=1)
            held[rows], money[rows] = np.where(order, 0.0, units), np.where(order, 0.0, cash)
            required[rows] = np.where(order, 0.0, need)
            fading[rows] += extra
            lasting[rows] += extra
        return out

    return _in_threads(chunk, paths, _CHUNK["accounts"], seed)
