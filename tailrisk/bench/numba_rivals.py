"""The benchmark models by hand in Numba: a thread per core, a scalar loop over steps, an early exit without a breach.

Normals come from a ziggurat (Marsaglia and Tsang 2000) on SplitMix64.
"""

import math
from typing import Any, no_type_check

import numba  # pyright: ignore[reportMissingImports]
import numpy as np

from .models import ACCOUNT_ROUNDS, LADDER_ROUNDS, Groups, Market

_LAYERS = 128
_EDGE, _AREA = 3.442619855899, 9.91256303526217e-3
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX1, _MIX2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def _layers() -> np.ndarray:
    x = [_AREA / math.exp(-0.5 * _EDGE * _EDGE), _EDGE]
    for _ in range(2, _LAYERS):
        x.append(math.sqrt(-2.0 * math.log(_AREA / x[-1] + math.exp(-0.5 * x[-1] * x[-1]))))
    return np.array([*x, 0.0])


_X = _layers()
# Numba compiles a function's own code, so kernels are left out when tests check annotations: `no_type_check`.
_fast = numba.njit(fastmath=True, inline="always")


@_fast
@no_type_check
def _next(state: Any) -> Any:
    z = state
    z = (z ^ (z >> np.uint64(30))) * _MIX1
    z = (z ^ (z >> np.uint64(27))) * _MIX2
    return z ^ (z >> np.uint64(31))


@_fast
@no_type_check
def _uniform(bits: Any) -> float:
    return (np.float64(bits >> np.uint64(11)) + 0.5) * 2.0**-53


@numba.njit(fastmath=True)
@no_type_check
def _normal(state: Any) -> Any:
    """A standard normal and the next state."""
    while True:
        state += _GOLDEN
        bits = _next(state)
        layer = np.int64(bits & np.uint64(_LAYERS - 1))
        u = 2.0 * _uniform(bits) - 1.0
        x = u * _X[layer]
        if abs(x) < _X[layer + 1]:
            return x, state
        state += _GOLDEN
        other = _uniform(_next(state))
        if layer == 0:
            while True:
                far = -math.log(other) / _EDGE
                state += _GOLDEN
                height = -math.log(_uniform(_next(state)))
                if 2.0 * height > far * far:
                    return (_EDGE + far if u > 0.0 else -_EDGE - far), state
                state += _GOLDEN
                other = _uniform(_next(state))
        low = math.exp(-0.5 * (_X[layer] * _X[layer] - x * x))
        high = math.exp(-0.5 * (_X[layer + 1] * _X[layer + 1] - x * x))
        if low + other * (high - low) < 1.0:
            return x, state


@_fast
@no_type_check
def _curve(scale: float, core: float, net: float) -> float:
    return scale * net / (math.sqrt(abs(net) + core) + math.sqrt(core))


@_fast
@no_type_check
def _panel(start: float, end: float, drop: float) -> float:
    if abs(drop) < 1e-3:
        zeroth, first = drop * (-0.5 + drop / 6.0), drop * (-1.0 / 3.0 + drop / 8.0)
    else:
        lost = -math.expm1(-drop)
        zeroth, first = lost / drop - 1.0, (lost - drop * (1.0 - lost)) / (drop * drop) - 0.5
    return 2.0 * (start * zeroth + (end - start) * first) / (start + end)


@_fast
@no_type_check
def _fill(scale: float, core: float, net: float, extra: float) -> float:
    if extra == 0.0:
        return 0.0
    end, edge = net + extra, math.sqrt(core)
    start_root, end_root = math.sqrt(abs(net) + core), math.sqrt(abs(end) + core)
    if net * end >= 0.0:
        return math.log1p(_panel(start_root, end_root, scale * extra / (start_root + end_root)))
    fall = -scale * net / (start_root + edge)
    first = _panel(start_root, edge, fall)
    second = _panel(edge, end_root, scale * end / (edge + end_root))
    share = -net / extra
    return math.log1p(share * first + (1.0 - share) * (math.exp(-fall) * (1.0 + second) - 1.0))


@numba.njit(fastmath=True, parallel=True)
@no_type_check
def _ladder(m: Any, rounds: Any, paths: Any, seed: Any, long_book: Any, short_book: Any) -> Any:
    steps, drift, deviation, price0, depth, scale, core, decay, share, fee, _ = m
    long_level, long_sum, long_units, long_equity = long_book
    short_level, short_sum, short_units, short_equity = short_book
    out = np.zeros((3, paths))
    for path in numba.prange(paths):
        state = _next(np.uint64(path) * _GOLDEN ^ np.uint64(seed))
        news, fading, lasting = 0.0, 0.0, 0.0
        longs, shorts = 0, 0
        notional, deficit, fees = 0.0, 0.0, 0.0
        for _ in range(steps):
            z, state = _normal(state)
            news += drift + deviation * z
            fading *= decay
            net = share * fading + (1.0 - share) * lasting
            before = news - _curve(scale, core, net)
            if long_level[longs] <= before and short_level[shorts] <= -before:
                continue
            to_long, to_short, extra = longs, shorts, 0.0
            for _ in range(rounds):
                price = news - _curve(scale, core, net + extra)
                while long_level[to_long] > price:
                    to_long += 1
                while short_level[to_short] > -price:
                    to_short += 1
                extra = long_sum[to_long] - long_sum[longs] - (short_sum[to_short] - short_sum[shorts])
                extra /= depth
            at = price0 * math.exp(before + _fill(scale, core, net, extra))
            for group in range(longs, to_long):
                equity = long_equity[group] + long_units[group] * (at - price0)
                deficit += max(-equity, 0.0)
                fees += min(fee * long_units[group] * at, max(equity, 0.0))
            for group in range(shorts, to_short):
                equity = short_equity[group] - short_units[group] * (at - price0)
                deficit += max(-equity, 0.0)
                fees += min(fee * short_units[group] * at, max(equity, 0.0))
            notional += at * (long_sum[to_long] - long_sum[longs] + short_sum[to_short] - short_sum[shorts])
            longs, shorts = to_long, to_short
            fading += extra
            lasting += extra
        out[0, path], out[1, path], out[2, path] = notional, deficit, fees
    return out


@numba.njit(fastmath=True, parallel=True)
@no_type_check
def _accounts(m: Any, rounds: Any, paths: Any, seed: Any, quantity: Any, equity: Any) -> Any:
    steps, drift, deviation, price0, depth, scale, core, decay, share, fee, maintenance = m
    groups, zero = quantity.size, np.float32(0.0)
    out = np.zeros((3, paths))
    for path in numba.prange(paths):
        state = _next(np.uint64(path) * _GOLDEN ^ np.uint64(seed))
        news, fading, lasting = 0.0, 0.0, 0.0
        held, money = quantity.copy(), equity.copy()
        ordered = np.zeros(groups, np.bool_)
        notional, deficit, fees = 0.0, 0.0, 0.0
        for _ in range(steps):
            z, state = _normal(state)
            news += drift + deviation * z
            fading *= decay
            net = share * fading + (1.0 - share) * lasting
            before = news - _curve(scale, core, net)
            moved = np.float32(price0 * math.expm1(before))
            needed = np.float32(maintenance * price0 * math.exp(before))
            breaches = 0
            for g in range(groups):
                breaches += money[g] + held[g] * moved < needed * abs(held[g])
            if breaches == 0:
                continue
            ordered[:] = False
            extra = 0.0
            for _ in range(rounds):
                price = news - _curve(scale, core, net + extra)
                moved = np.float32(price0 * math.expm1(price))
                needed = np.float32(maintenance * price0 * math.exp(price))
                volume = zero
                for g in range(groups):
                    ordered[g] |= money[g] + held[g] * moved < needed * abs(held[g])
                    volume += held[g] if ordered[g] else zero
                extra = volume / depth
            fill = before + _fill(scale, core, net, extra)
            at, moved = np.float32(price0 * math.exp(fill)), np.float32(price0 * math.expm1(fill))
            for g in range(groups):
                if ordered[g]:
                    left = money[g] + held[g] * moved
                    deficit += max(-left, zero)
                    fees += min(np.float32(fee) * abs(held[g]) * at, max(left, zero))
                    notional += abs(held[g]) * at
                    held[g] = zero
                    money[g] = zero
            fading += extra
            lasting += extra
        out[0, path], out[1, path], out[2, path] = notional, deficit, fees
    return out


def _numbers(m: Market) -> tuple[Any, ...]:
    parts = m.steps, m.drift, m.deviation, m.price, m.depth, m.scale, m.core, m.decay, m.fading, m.fee, m.maintenance
    return parts


def _named(out: np.ndarray) -> dict[str, np.ndarray]:
    return dict(zip(("forced_notional", "bad_debt", "fees"), out, strict=True))


def ladder(m: Market, book: Groups, paths: int, seed: int) -> dict[str, np.ndarray]:
    """Outcomes of the ladder: the next threshold of each side, then groups one by one."""
    sides = [
        (np.append(level, -np.inf), np.concatenate([[0.0], np.cumsum(units)]), units, equity)
        for level, units, equity in zip(book.level, book.units, book.equity, strict=True)
    ]
    return _named(_ladder(_numbers(m), LADDER_ROUNDS, paths, seed, *sides))


def accounts(m: Market, book: Groups, paths: int, seed: int) -> dict[str, np.ndarray]:
    """Outcomes of the accounts: every group of every path in every step, in float32."""
    quantity = np.concatenate([book.units[0], -book.units[1]]).astype(np.float32)
    equity = np.concatenate(book.equity).astype(np.float32)
    return _named(_accounts(_numbers(m), ACCOUNT_ROUNDS, paths, seed, quantity, equity))
