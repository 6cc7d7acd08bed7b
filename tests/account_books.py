"""Books, single steps and rollouts that the tests of margin groups share."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tailrisk._fields import SECONDS_PER_YEAR, cast
from tailrisk.liquidation import Full, Schedule, Slice
from tailrisk.margin.flat import Flat
from tailrisk.positions.accounts import MarginGroups
from tailrisk.positions.base import Book, Limits

SECOND = 1.0 / SECONDS_PER_YEAR
BOTH = pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64], ids=["float32", "float64"])
TIGHT = {jnp.float32: 1e-6, jnp.float64: 1e-12}
RULES = [
    pytest.param(Full(fee=0.004), id="full"),
    pytest.param(Slice(fee=0.004, target=1.5, cost=0.006), id="slice"),
    pytest.param(Schedule(fee=0.002, size_limit=400.0, wait="20s"), id="schedule"),
]


def book(quantity, cash, entry=None, **more) -> Book:
    quantity = np.atleast_2d(np.asarray(quantity, float))
    rows = len(quantity)
    columns: dict[str, Any] = {
        "quantity": quantity,
        "entry": np.full(quantity.shape, 100.0)
        if entry is None
        else np.broadcast_to(np.asarray(entry, float), quantity.shape),
        "cash": np.broadcast_to(np.asarray(cash, float), (rows,)),
        "account": np.arange(rows),
        "weight": np.ones(rows),
        "reserve": np.zeros(rows),
    }
    return Book(**(columns | more))


def random_book(rng, rows=60, assets=2, **more) -> Book:
    quantity = rng.choice([-1.0, 1.0], (rows, assets), p=[0.4, 0.6]) * rng.lognormal(0.0, 1.0, (rows, assets))
    quantity *= rng.random((rows, assets)) < 0.8
    entry = 100.0 * np.exp(rng.normal(0.0, 0.01, (rows, assets)))
    cash = (np.abs(quantity) * entry).sum(axis=1) / rng.choice([3.0, 5.0, 10.0], rows) + 0.1
    filled = {"weight": rng.integers(1, 4, rows).astype(float), "reserve": rng.random(rows) * cash}
    return book(quantity, cash, entry, **(filled | more))


def groups(of, rule=None, margin=None, price=100.0, dtype=jnp.float64, **more) -> MarginGroups:
    price = np.broadcast_to(np.asarray(price, float), (np.asarray(of.quantity).shape[1],))
    margin = Flat(0.005, 0.02) if margin is None else margin
    return cast(MarginGroups.build(of, price, margin, Full(fee=0.0) if rule is None else rule, **more), dtype)


def level(positions):
    return jnp.ones_like(positions.price)


def trade(positions, state, mark, fill=None, limits=None, crash=0.0, dt=10 * SECOND):
    """One step without impact at prices given in units of p0: a round, then settlement."""
    like = positions.price
    log = lambda relative: jnp.broadcast_to(jnp.log(jnp.asarray(relative, like.dtype)), like.shape)  # noqa: E731
    order = positions.breached(state, positions.standing(state), log(mark), level(positions))
    volume, executed = positions.volume(state, order, limits)
    scalar = lambda value: jnp.asarray(value, like.dtype)  # noqa: E731
    state, closing = positions.settle(
        state, order, executed, log(mark if fill is None else fill), scalar(crash), scalar(dt)
    )
    return state, closing, volume


def limits_of(positions, is_open=True, cap=np.inf, room=np.inf):
    full = lambda value: jnp.full(positions.price.shape, value, positions.price.dtype)  # noqa: E731
    return Limits(jnp.full(positions.price.shape, is_open), full(cap), full(cap), full(room), full(room))


class Run(eqx.Module):
    """A rollout with linear impact, random halts and caps, and deleveraging, that keeps the ledger."""

    impact: float = eqx.field(static=True, default=2e-4)
    limited: bool = eqx.field(static=True, default=True)
    deleverage: bool = eqx.field(static=True, default=True)

    @eqx.filter_jit
    def __call__(self, positions, moves, gates):
        """Totals of the closings, final state, and the largest error of the ledger of a step in USD."""
        price, dt = positions.price, jnp.asarray(10 * SECOND, positions.price.dtype)

        def step(carry, given):
            state, news, offset = carry
            move, gate = given
            news = news + move
            before = news - offset
            limits = None
            if self.limited:
                cap = jnp.where(gate > 0.7, 2.0, jnp.inf).astype(price.dtype) * jnp.ones_like(price)
                limits = Limits(gate > 0.2 * jnp.ones_like(price), cap, cap, cap, cap)
            order = positions.breached(state, positions.standing(state), before, level(positions))
            volume, executed = positions.volume(state, order, limits)
            fill, offset = before - 0.5 * self.impact * volume, offset * 0.9 + self.impact * volume
            after = news - offset
            moved, now = price * jnp.expm1(fill), price * jnp.expm1(after)
            held, closing = positions.settle(state, order, executed, fill, 1.0 - gate, dt)
            was, is_ = positions.equity(state, after), positions.equity(held, after)
            out = closing.fee + closing.surplus - closing.deficit - closing.deposit
            if closing.taken is not None:
                out = out + closing.taken_money + jnp.sum(closing.taken * now)
            error = is_ - was - jnp.sum(volume * (moved - now)) + out
            if self.deleverage:
                profit = positions.profit(held, after)
                amount = profit * jnp.minimum(closing.deficit / jnp.maximum(jnp.sum(profit), 1e-9), 1.0)
                cut = positions.deleverage(held, amount, jnp.abs(closing.bankrupt)[None, :] * jnp.sign(amount), after)
                error = jnp.maximum(jnp.abs(error), jnp.abs(positions.equity(cut, after) - is_ + jnp.sum(amount)))
                held = cut
            return (held, news, offset), (closing, jnp.abs(error), volume)

        start = (positions.init(price.dtype), jnp.zeros_like(price), jnp.zeros_like(price))
        (state, _, _), (closings, errors, volumes) = jax.lax.scan(step, start, (moves, gates))
        return jax.tree.map(lambda x: jnp.sum(x, axis=0), closings), state, jnp.max(errors), volumes


def noise(rng, steps, assets, dtype, scale=0.02):
    moves = scale * rng.standard_normal((steps, assets)) - 0.2 * scale
    return jnp.asarray(moves, dtype), jnp.asarray(rng.random(steps), dtype)
