"""The benchmark models by hand in PyTorch: vectorized over paths, what every step does compiled, work only at a breach.

Runs on the GPU where PyTorch sees one. Compiling needs a C++ compiler on a CPU.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]

from .models import ACCOUNT_ROUNDS, LADDER_ROUNDS, Groups, Market

_CHUNK = {"ladder": 8_192, "accounts": 256}  # paths on a CPU; a GPU takes all of them at once
_KEPT = ("forced_notional", "bad_debt", "fees")


def _curve(m: Market, net: Any) -> Any:
    return m.scale * net / (torch.sqrt(net.abs() + m.core) + m.core**0.5)


def _panel(start: Any, end: Any, drop: Any) -> Any:
    """Average price over the first, less 1; `drop` in float64."""
    small = drop.abs() < 1e-3
    d = torch.where(small, 1.0, drop)
    lost = -torch.expm1(-d)
    zeroth = torch.where(small, drop * (-0.5 + drop / 6.0), lost / d - 1.0)
    first = torch.where(small, drop * (-1.0 / 3.0 + drop / 8.0), (lost - d * (1.0 - lost)) / (d * d) - 0.5)
    return 2.0 * (start * zeroth + (end - start) * first) / (start + end)


def _fill(m: Market, net: Any, extra: Any) -> Any:
    """log of the average execution price over the price before."""
    edge, end = m.core**0.5, net + extra
    across = net * end < 0.0
    start_root, end_root = torch.sqrt(net.abs() + m.core), torch.sqrt(end.abs() + m.core)
    turn = torch.where(across, edge, start_root)
    to_zero = torch.where(across, -net, 0.0)
    fall = m.scale * to_zero / (start_root + edge)
    first = _panel(start_root, torch.full_like(net, edge), fall)
    second = _panel(turn, end_root, m.scale * (extra - to_zero) / (turn + end_root))
    share = to_zero / torch.where(extra == 0.0, 1.0, extra)
    return torch.log1p(share * first + (1.0 - share) * (torch.exp(-fall) * (1.0 + second) - 1.0))


def _device() -> Any:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _in_chunks(work: Callable[[int], Any], paths: int, chunk: int, seed: int) -> dict[str, np.ndarray]:
    """A core takes a chunk by itself: threads inside an operation spend more time on meeting than on work."""
    torch.manual_seed(seed)
    on_cpu = _device().type == "cpu"
    if on_cpu:
        torch.set_num_threads(1)
    sizes = [min(chunk, paths - start) for start in range(0, paths, chunk)] if on_cpu else [paths]

    def one(size: int) -> Any:
        with torch.inference_mode():
            return work(size)

    with ThreadPoolExecutor(os.cpu_count() if on_cpu else 1) as pool:
        parts = list(pool.map(one, sizes))
    return dict(zip(_KEPT, torch.cat(parts, dim=1).cpu().numpy(), strict=True))


class Ladder:
    """Places by binary search, volumes by prefix sums, deficits group by group."""

    def __init__(self, market: Market, book: Groups) -> None:
        self.market, self.device = market, _device()
        self.level = [self._tensor(np.append(level, -np.inf), torch.float32) for level in book.level]
        self.rising = [self._tensor(-level) for level in book.level]
        self.sums = [self._tensor(np.concatenate([[0.0], np.cumsum(units)])) for units in book.units]
        self.units = [self._tensor(units) for units in book.units]
        self.equity = [self._tensor(equity) for equity in book.equity]
        self.advance = torch.compile(self._advance)
        self.fill = torch.compile(lambda net, extra: _fill(market, net, extra), dynamic=True)

    def _tensor(self, values: np.ndarray, dtype: Any = torch.float64) -> Any:
        return torch.as_tensor(values, dtype=dtype, device=self.device)

    def _advance(self, news: Any, fading: Any, lasting: Any, following: Any) -> tuple[Any, ...]:
        m = self.market
        news = news + m.drift + m.deviation * torch.randn_like(news)
        fading = fading * m.decay
        before = news - _curve(m, m.fading * fading + (1.0 - m.fading) * lasting)
        return news, fading, (following[0] > before) | (following[1] > -before)

    def _closed(self, side: int, start: Any, stop: Any, fill: Any) -> tuple[Any, ...]:
        """Notional, deficit and fee by path: all closed groups in one long row."""
        m, count = self.market, stop - start
        path = torch.repeat_interleave(count)
        group = torch.arange(path.numel(), device=self.device) + (start - torch.cumsum(count, 0) + count)[path]
        units, price = self.units[side][group], m.price * torch.exp(fill)
        equity = self.equity[side][group] + (1.0 - 2.0 * side) * units * (price - m.price)[path]
        fee = torch.minimum(m.fee * units * price[path], equity.clamp(min=0.0))
        nothing = torch.zeros_like(price)
        total = nothing.index_add(0, path, (-equity).clamp(min=0.0)), nothing.index_add(0, path, fee)
        return (self.sums[side][stop] - self.sums[side][start]) * price, *total

    def _chunk(self, n: int) -> Any:
        m = self.market
        news, fading, lasting = (torch.zeros(n, device=self.device) for _ in range(3))
        sold = torch.zeros((2, n), dtype=torch.int64, device=self.device)
        following = torch.stack([level[0].expand(n) for level in self.level])
        out = torch.zeros((3, n), dtype=torch.float64, device=self.device)
        for _ in range(m.steps):
            news, fading, breached = self.advance(news, fading, lasting, following)
            rows = breached.nonzero().squeeze(1)
            if not rows.numel():
                continue
            net = m.fading * fading[rows].double() + (1.0 - m.fading) * lasting[rows].double()
            at, start = news[rows].double(), sold[:, rows]
            order, volume = start, torch.zeros_like(at)
            for _ in range(LADDER_ROUNDS):
                price = at - _curve(m, net + volume / m.depth)
                found = [torch.searchsorted(self.rising[s], -(1.0 - 2.0 * s) * price) for s in (0, 1)]
                order = torch.maximum(order, torch.stack(found))
                units = [self.sums[s][order[s]] - self.sums[s][start[s]] for s in (0, 1)]
                volume = units[0] - units[1]
            extra = volume / m.depth
            fill = at - _curve(m, net) + self.fill(net, extra)
            for s in (0, 1):
                out[:, rows] += torch.stack(self._closed(s, start[s], order[s], fill))
                following[s, rows] = self.level[s][order[s]]
            sold[:, rows] = order
            fading[rows] += extra.float()
            lasting[rows] += extra.float()
        return out

    def __call__(self, paths: int, seed: int) -> dict[str, np.ndarray]:
        """Outcomes by path."""
        return _in_chunks(self._chunk, paths, _CHUNK["ladder"], seed)


class Accounts:
    """Equity against requirement of every group of every path in every step, in float32.

    What is one number a path and what is one number a group are compiled apart, or prices would be computed once a group.
    """

    def __init__(self, market: Market, book: Groups) -> None:
        self.market, self.device = market, _device()
        quantity = np.concatenate([book.units[0], -book.units[1]])
        self.quantity, self.equity = (
            torch.as_tensor(values, dtype=torch.float32, device=self.device)
            for values in (quantity, np.concatenate(book.equity))
        )
        self.advance, self.below = torch.compile(self._advance), torch.compile(_below)
        self.price = torch.compile(self._price, dynamic=True)
        self.sell, self.settle = torch.compile(_sell, dynamic=True), torch.compile(_settle, dynamic=True)
        self.fill = torch.compile(lambda net, extra: _fill(market, net, extra), dynamic=True)

    def _at(self, log_price: Any) -> tuple[Any, Any]:
        """Gain of a unit since the start and requirement of a unit, as columns."""
        m = self.market
        gain, required = m.price * torch.expm1(log_price), m.maintenance * m.price * torch.exp(log_price)
        return gain.float()[:, None], required.float()[:, None]

    def _advance(self, news: Any, fading: Any, lasting: Any) -> tuple[Any, ...]:
        m = self.market
        news = news + m.drift + m.deviation * torch.randn_like(news)
        fading = fading * m.decay
        return news, fading, *self._at(news - _curve(m, m.fading * fading + (1.0 - m.fading) * lasting))

    def _price(self, news: Any, net: Any, volume: Any) -> tuple[Any, Any]:
        return self._at(news - _curve(self.market, net + volume / self.market.depth))

    def _liquidated(self, news: Any, net: Any, held: Any, money: Any) -> tuple[Any, ...]:
        m = self.market
        volume, order = torch.zeros_like(net), torch.zeros(held.shape, dtype=torch.bool, device=self.device)
        for _ in range(ACCOUNT_ROUNDS):
            volume, order = self.sell(held, money, order, *self.price(news, net, volume))
        extra = volume / m.depth
        fill = news - _curve(m, net) + self.fill(net, extra.double())
        gain, price = (m.price * torch.expm1(fill)).float()[:, None], (m.price * torch.exp(fill)).float()[:, None]
        return *self.settle(held, money, order, gain, price, m.fee), extra

    def _chunk(self, n: int) -> Any:
        news, fading, lasting = (torch.zeros(n, dtype=torch.float64, device=self.device) for _ in range(3))
        held, money = self.quantity.repeat(n, 1), self.equity.repeat(n, 1)
        out = torch.zeros((3, n), dtype=torch.float64, device=self.device)
        for _ in range(self.market.steps):
            news, fading, gain, required = self.advance(news, fading, lasting)
            rows = self.below(held, money, gain, required).nonzero().squeeze(1)
            if not rows.numel():
                continue
            net = self.market.fading * fading[rows] + (1.0 - self.market.fading) * lasting[rows]
            booked, held[rows], money[rows], extra = self._liquidated(news[rows], net, held[rows], money[rows])
            out[:, rows] += booked
            fading[rows] += extra
            lasting[rows] += extra
        return out

    def __call__(self, paths: int, seed: int) -> dict[str, np.ndarray]:
        """Outcomes by path."""
        return _in_chunks(self._chunk, paths, _CHUNK["accounts"], seed)


def _below(held: Any, money: Any, gain: Any, required: Any) -> Any:
    """Paths with a group below its requirement."""
    return (money + held * gain - required * held.abs()).amin(dim=1) < 0.0


def _sell(held: Any, money: Any, order: Any, gain: Any, required: Any) -> tuple[Any, Any]:
    """Units sold by path and the groups that are to be closed after one more round."""
    order = order | (money + held * gain < required * held.abs())
    return torch.where(order, held, 0.0).sum(dim=1), order


def _settle(held: Any, money: Any, order: Any, gain: Any, price: Any, fee: float) -> tuple[Any, ...]:
    """Notional, deficit and fee by path, and what is left of the groups."""
    sold = torch.where(order, held, 0.0)
    left = torch.where(order, money + sold * gain, 0.0)
    notional = sold.abs() * price
    paid = torch.minimum(fee * notional, left.clamp(min=0.0))
    booked = torch.stack([notional.sum(dim=1), (-left).clamp(min=0.0).sum(dim=1), paid.sum(dim=1)]).double()
    return booked, torch.where(order, 0.0, held), torch.where(order, 0.0, money)
