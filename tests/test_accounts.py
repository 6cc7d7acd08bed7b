"""Margin groups: who is in breach, what is sold, and that no money appears or vanishes."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from tailrisk._fields import SECONDS_PER_YEAR, cast
from tailrisk.liquidation import Full, Schedule, Slice
from tailrisk.margin.calls import Call
from tailrisk.margin.flat import Flat
from tailrisk.positions.accounts import MarginGroups
from tailrisk.positions.base import Book, Closing, Limits
from tailrisk.positions.groups import group_positions
from tailrisk.positions.sorted import SortedThresholds
from tailrisk.positions.totals import total

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
        else np.broadcast_to(np.asarray(entry), quantity.shape),
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


# --- known answers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rho", "expected"),
    [
        pytest.param(None, 1.4517e-3, id="K7-isolated"),
        pytest.param(0.5, 2.3622e-4, id="K7-cross-.5"),
        pytest.param(0.0, 6.697e-6, id="K7-cross-0"),
        pytest.param(1.0, 1.4517e-3, id="K7-cross-1"),
        pytest.param(-1.0, 0.0, id="K7-cross--1"),
    ],
)
def test_k7_closed_form(rho, expected):
    np.testing.assert_allclose(k7(0.1, 0.6 / np.sqrt(365.0), rho), expected, rtol=1e-4)


def k7(margin, deviation, rho=None):
    """Probability that a leg (rho None) or a cross pair of equal longs touches zero free margin."""
    legs, spread = (1.0, 1.0) if rho is None else (2.0, np.sqrt(max(2.0 + 2.0 * rho, 0.0)))
    return 0.0 if spread == 0.0 else 2.0 * norm.cdf(-legs * margin / (spread * deviation))


@pytest.mark.parametrize("rho", [-1.0, 0.0, 0.5, 1.0])
def test_k7_simulated(rho):
    """Isolated legs and the cross pair on the same Brownian P&L; barrier moved by 0.5826 sigma sqrt(dt) (BGK)."""
    margin, deviation, steps, paths = 0.03, 0.03, 300, 8192
    both = np.array([[1.0, 1.0], [1.0, 1.0]])
    pairs = group_positions(both, 100.0 * both, 100.0 * margin * both, [[0, 1], [7, 7]])
    positions = groups(pairs, margin=Flat(0.0, 1.0), dtype=jnp.float32)

    @jax.jit
    @jax.vmap
    def hit(moves):
        def step(carry, move):
            state, walk = carry
            walk = walk + move
            state, _, _ = trade(positions, state, 1.0 + walk)
            return (state, walk), None

        start = (positions.init(jnp.float32), jnp.zeros(2, jnp.float32))
        (state, _), _ = jax.lax.scan(step, start, moves)
        return jnp.all(state.held == 0.0, axis=0)

    rng = np.random.default_rng(7)
    one, other = rng.standard_normal((2, paths, steps))
    mixed = np.stack([one, rho * one + np.sqrt(1.0 - rho**2) * other], axis=-1) * deviation / np.sqrt(steps)
    rate = np.asarray(hit(jnp.asarray(mixed, jnp.float32))).mean(axis=0)
    shift = 0.5826 * deviation / np.sqrt(steps)
    alone = k7(margin + shift, deviation)
    together = k7(margin + shift * np.sqrt(max(2.0 + 2.0 * rho, 0.0)) / 2.0, deviation, rho)
    for value, expected in zip(rate, [alone, alone, together], strict=True):
        error = np.sqrt(expected * (1.0 - expected) / paths)
        assert error < 0.006
        assert abs(value - expected) <= 4.0 * error
    if rho == 1.0:
        np.testing.assert_array_equal(rate, rate[0])
    if rho == -1.0:
        assert rate[2] == 0.0


@BOTH
@pytest.mark.parametrize(
    ("quantity", "price", "cash", "mark", "fill", "rate", "deficit", "fee", "surplus"),
    [
        pytest.param(10, 100, 50, 40, 40, 0.0, 550, 0, 0, id="CLS-06"),
        pytest.param(500, 1, 100, 0.801, 0.77, 0.0, 15, 0, 0, id="CLS-07"),
        pytest.param(10, 100, 200, 60, 60 - 0.06, 0.0, 200.6, 0, 0, id="CLS-10-at-60"),
        pytest.param(10, 100, 200, 85, 85, 0.001, 0, 0.85, 49.15, id="CLS-10-at-85"),
        pytest.param(-10, 100, 50, 104.9, 105.2, 0.01, 2, 0, 0, id="short-in-deficit"),
        pytest.param(10, 100, 50, 95.2, 95.3, 0.01, 0, 3, 0, id="fee-takes-what-is-left"),
    ],
)
def test_full_close(quantity, price, cash, mark, fill, rate, deficit, fee, surplus, dtype):
    positions = groups(book([[quantity]], cash, price), Full(fee=rate), Flat(0.08, 0.1), price, dtype)
    state, closing, volume = trade(positions, positions.init(dtype), mark / price, fill / price)
    close = lambda got, wanted: np.testing.assert_allclose(  # noqa: E731
        got, wanted, rtol=1e-10 if dtype == jnp.float64 else 1e-5, atol=1e-9 if dtype == jnp.float64 else 2e-4
    )
    close(closing.deficit, deficit)
    close(closing.fee, fee)
    close(closing.surplus, surplus)
    close(volume[0], quantity)
    close(closing.notional, abs(quantity) * fill)
    close(closing.opened, abs(quantity) * price)
    close(closing.bankrupt[0], quantity if deficit > 0 else 0.0)
    assert float(state.money[0]) == 0.0
    assert float(state.held[0, 0]) == 0.0


@pytest.mark.parametrize(
    ("side", "expected"), [(1, 96.2025316), (-1, 103.7037037)], ids=["LIQ-07-long", "LIQ-07-short"]
)
def test_liq_07_liquidation_price(side, expected):
    """Size 10 at 100 with isolated margin 50 and maintenance at half the initial rate of 40x."""
    positions = groups(book([[10.0 * side]], 50.0), margin=Flat(1 / 80, 1 / 40))
    state = positions.init(jnp.float64)
    for inside, wanted in ((-1e-7, 0.0), (1e-7, 10.0 * side)):
        _, _, volume = trade(positions, state, expected * (1.0 - side * inside) / 100.0)
        assert float(volume[0]) == wanted


def test_liq_07_schedule_timing_and_backstop():
    """120k USD: 20 % at once, nothing for 30 s, then the rest; below 2/3 of maintenance the backstop takes it all."""
    positions = groups(book([[1200.0]], 6000.0), Schedule(), Flat(1 / 80, 1 / 40))
    state, sold = positions.init(jnp.float64), []
    for mark in (0.962, 0.958, 0.958, 0.958):  # the first part cures at 96.2, so the price falls on
        state, closing, volume = trade(positions, state, mark, dt=10 * SECOND)
        assert float(closing.taken[0]) == 0.0
        sold.append(float(volume[0]))
    np.testing.assert_allclose(sold, [240.0, 0.0, 0.0, 960.0])
    state, closing, volume = trade(positions, positions.init(jnp.float64), 0.9562)
    assert float(volume[0]) == 0.0
    assert float(closing.taken[0]) == 1200.0
    np.testing.assert_allclose(closing.taken_money + 1200.0 * -4.38, 6000.0 - 1200.0 * 4.38, rtol=1e-12)
    assert float(state.money[0]) == 0.0
    assert float(closing.deficit) == 0.0


def test_backstop_takes_no_negative_equity():
    """What is under water when it is taken over is bad debt; the backstop starts from zero."""
    positions = groups(book([[1200.0]], 6000.0, weight=np.array([2.0])), Schedule(), Flat(1 / 80, 1 / 40))
    state, closing, _ = trade(positions, positions.init(jnp.float64), 0.94, limits=limits_of(positions, is_open=False))
    np.testing.assert_allclose(closing.deficit, 2 * 1200.0, rtol=1e-12)
    np.testing.assert_allclose(closing.taken_money - 6.0 * closing.taken[0], 0.0, atol=1e-9)
    np.testing.assert_allclose(closing.bankrupt, [2400.0])
    assert not bool(jnp.any(state.queue > 0))


@BOTH
def test_slice_restores_the_ratio(dtype):
    """R06 (c): without a fee and impact the ratio after the slice is the target, also for several legs."""
    rule = Slice(fee=0.0, target=1.3, cost=0.0)
    positions = groups(book([[10.0, -4.0]], 60.0), rule, Flat(0.04, 0.1), dtype=dtype)
    state, closing, _ = trade(positions, positions.init(dtype), jnp.asarray([0.99, 1.03]))
    held, prices = np.asarray(state.held[:, 0], float), np.array([99.0, 103.0])
    equity = float(state.money[0]) + held @ (prices - 100.0)
    np.testing.assert_allclose(
        equity / (0.04 * np.abs(held) @ prices), 1.3, rtol=2e-6 if dtype == jnp.float32 else 1e-12
    )
    assert float(closing.surplus) == 0.0


def test_slice_with_a_large_target_is_a_full_close():
    """R06 (b): as the target grows the slice tends to the whole position, and in a deficit it is the whole."""
    of = book([[10.0], [3.0]], [60.0, 25.0])
    full = groups(of, Full(fee=0.001), Flat(0.05, 0.1))
    part = groups(of, Slice(fee=0.001, cost=0.001, target=1e9), Flat(0.05, 0.1))
    for mark in (0.985, 0.93):
        _, one, sold = trade(full, full.init(jnp.float64), mark)
        state, other, some = trade(part, part.init(jnp.float64), mark)
        np.testing.assert_allclose(sold, some, rtol=1e-7)
        np.testing.assert_allclose(one.fee, other.fee, rtol=1e-7)
        if mark == 0.93:
            assert float(one.deficit) == float(other.deficit) > 0.0
            assert float(jnp.sum(jnp.abs(state.held[:, 0]))) == 0.0


# --- modes of margin (R08) --------------------------------------------------------------------------------------------


def _modes(quantity, cash, **more):
    quantity = np.asarray(quantity, float)
    entry = np.full(quantity.shape, 100.0)
    assets = quantity.shape[1]
    isolated = group_positions(quantity, entry, cash, np.tile(np.arange(assets), (len(quantity), 1)), **more)
    cross = group_positions(quantity, entry, cash, np.zeros(quantity.shape, int), **more)
    return groups(isolated), groups(cross)


def _bad_debt(positions, marks):
    state, debt = positions.init(jnp.float64), 0.0
    for mark in marks:
        state, closing, _ = trade(positions, state, jnp.asarray(mark))
        debt += float(closing.deficit)
    return debt


def test_one_position_makes_the_modes_equal():
    """R08 (b), bit for bit."""
    isolated, cross = _modes([[7.0], [-3.0], [0.4]], [[40.0], [31.0], [8.0]])
    moves, gates = noise(np.random.default_rng(1), 60, 1, jnp.float64, 0.03)
    one, other = Run()(isolated, moves, gates), Run()(cross, moves, gates)
    assert all(bool(jnp.all(a == b)) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


def test_a_perfect_hedge_in_a_cross_account_is_never_in_breach():
    """R08 (c): rho = -1 and equal sizes."""
    isolated, cross = _modes([[5.0, 5.0]], [[20.0, 20.0]])
    marks = [(1.0 + d, 1.0 - d) for d in (-0.02, -0.3, 0.6, 0.9)]
    assert _bad_debt(cross, marks) == 0.0
    _, _, volume = trade(cross, cross.init(jnp.float64), jnp.asarray(marks[-1]))
    assert float(jnp.sum(jnp.abs(volume))) == 0.0
    assert _bad_debt(isolated, marks) > 0.0


@pytest.mark.parametrize(
    ("marks", "worse"),
    [
        pytest.param([(0.6, 1.5)], "isolated", id="R08-d-gains-cover"),
        pytest.param([(0.965, 1.05), (0.5, 0.9)], "cross", id="R08-d-kept-open"),
    ],
)
def test_neither_mode_always_loses_less(marks, worse):
    isolated, cross = _modes([[10.0, 10.0]], [[38.0, 150.0]])
    debts = {"isolated": _bad_debt(isolated, marks), "cross": _bad_debt(cross, marks)}
    assert debts[worse] > debts["cross" if worse == "isolated" else "isolated"]


def test_names_of_groups_do_not_matter():
    """R08 (e): labels are names, and accounts may use the same ones."""
    rng = np.random.default_rng(3)
    quantity, cash = rng.normal(size=(20, 3)), rng.random((20, 3)) * 20.0
    labels = rng.integers(0, 3, (20, 3))
    renamed = np.array([41, -2, 7])[labels] + 100 * np.arange(20)[:, None]
    one, other = (group_positions(quantity, np.full((20, 3), 100.0), cash, label) for label in (labels, renamed))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_allclose(np.asarray(one.cash).sum(), cash.sum())
    np.testing.assert_allclose(np.asarray(one.quantity).sum(axis=0), quantity.sum(axis=0))


def test_isolated_positions_ignore_the_others():
    """R08 (f): neither P&L nor maintenance of other positions enters."""
    isolated, _ = _modes([[10.0, -8.0]], [[50.0, 30.0]])
    outcomes = []
    for other in (0.2, 1.0, 1.01):
        _, closing, volume = trade(isolated, isolated.init(jnp.float64), jnp.asarray([0.9, other]))
        outcomes.append((float(closing.deficit), float(volume[0])))
    assert outcomes[0] == outcomes[1] == outcomes[2]
    assert outcomes[0][0] == pytest.approx(50.0)


def test_any_partition_between_isolated_and_cross():
    built = group_positions(
        [[1.0, -2.0, 3.0], [0.0, 0.0, 4.0]],
        np.full((2, 3), 9.0),
        [[5.0, 6.0, 7.0], [0.0, 0.0, 8.0]],
        [[0, 1, 0], [0, 0, 1]],
    )
    np.testing.assert_array_equal(built.quantity, [[1.0, 0.0, 3.0], [0.0, -2.0, 0.0], [0.0, 0.0, 4.0]])
    np.testing.assert_array_equal(built.cash, [12.0, 6.0, 8.0])
    np.testing.assert_array_equal(built.account, [0, 0, 1])
    with pytest.raises(ValueError, match="cash has shape"):
        group_positions([[1.0, 2.0]], [[9.0, 9.0]], [5.0], [[0, 0]])
    with pytest.raises(ValueError, match="2 asset"):
        MarginGroups.build(book([[1.0]], 1.0), np.array([100.0, 100.0]), Flat(0.1, 0.2), Full())


# --- money ------------------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("rule", RULES)
def test_no_money_is_made_or_lost(rule, dtype):
    """Equity changes by trading, fees, surplus, deficits, deposits and takeovers, and by nothing else."""
    rng = np.random.default_rng(11)
    of = random_book(rng)
    positions = groups(of, rule, Flat(0.02, 0.1), dtype=dtype, call=Call(calm=0.5, grace="20s"))
    closings, state, error, _ = Run()(positions, *noise(rng, 150, 2, dtype))
    assert float(error) <= TIGHT[dtype] * float(positions.gross())
    assert float(closings.deficit) > 0.0
    assert float(closings.surplus + closings.fee) > 0.0
    assert float(closings.deposit) > 0.0
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(state))
    closed = np.all(np.asarray(state.held) == 0.0, axis=0)
    assert closed[: len(of.cash)].any()


@BOTH
@pytest.mark.parametrize("rule", RULES)
def test_cash_identity_of_every_account(rule, dtype):
    """R06 (a): what was brought = surplus + fee + what trading cost - bad debt (+ what the backstop took)."""
    rng = np.random.default_rng(5)
    of, run = random_book(rng, rows=12), Run(limited=True, deleverage=False)
    moves, gates = noise(rng, 120, 2, dtype, 0.03)
    for row in range(12):
        alone = jax.tree.map(lambda leaf, row=row: np.asarray(leaf)[row : row + 1], of)
        positions = groups(alone, rule, Flat(0.02, 0.1), dtype=dtype, call=Call(calm=1.0, crash_probability=1.0))
        closings, _, error, _ = run(positions, moves, gates)
        assert float(error) <= TIGHT[dtype] * float(positions.gross())
        assert float(closings.deposit) <= float(np.asarray(of.reserve)[row] * np.asarray(of.weight)[row]) * (1 + 1e-6)


def test_weight_two_is_two_groups():
    rng = np.random.default_rng(8)
    single = random_book(rng, rows=9, weight=np.ones(9))
    doubled = jax.tree.map(lambda leaf: np.concatenate([leaf, leaf]), single)
    heavy = eqx.tree_at(lambda b: b.weight, single, 2.0 * np.asarray(single.weight))
    given = noise(rng, 100, 2, jnp.float64)
    one, _, _, sold = Run()(groups(heavy, Slice()), *given)
    other, _, _, too = Run()(groups(doubled, Slice()), *given)
    np.testing.assert_allclose(sold, too, rtol=1e-9, atol=1e-9)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


def test_order_of_groups_does_not_matter():
    rng = np.random.default_rng(9)
    of = random_book(rng, rows=37)
    mixed = jax.tree.map(lambda leaf: np.asarray(leaf)[np.random.default_rng(0).permutation(37)], of)
    given = noise(rng, 100, 2, jnp.float64)
    one, *_ = Run()(groups(of, call=Call()), *given)
    other, *_ = Run()(groups(mixed, call=Call()), *given)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


def test_long_and_short_mirror():
    """A short book under prices 2 p0 - p earns what the long book earns under p, so breaches and debts agree."""
    long, short = (
        groups(book([[10.0]], 50.0), margin=Flat(0.0, 1.0)),
        groups(book([[-10.0]], 50.0), margin=Flat(0.0, 1.0)),
    )
    for move in (0.04, 0.06, 0.3):
        _, fall, _ = trade(long, long.init(jnp.float64), 1.0 - move)
        _, rise, _ = trade(short, short.init(jnp.float64), 1.0 + move)
        np.testing.assert_allclose(fall.deficit, rise.deficit, rtol=1e-12)
        np.testing.assert_allclose(fall.bankrupt, -rise.bankrupt)


def test_agrees_with_sorted_thresholds():
    """One asset, full closes, one round per step: the account kernel equals the exact ladder path by path."""
    rng = np.random.default_rng(21)
    of = random_book(rng, rows=200, assets=1)
    margin = Flat(0.01, 0.1)
    accounts = groups(of, Full(fee=0.003), margin)
    ladder = cast(SortedThresholds.build(of, np.array([100.0]), margin, 0.003, jnp.float64), jnp.float64)
    run = Run(limited=False, deleverage=False)
    for _ in range(3):
        given = noise(rng, 80, 1, jnp.float64, 0.03)
        one, _, _, sold = run(accounts, *given)
        other, _, _, too = run(ladder, *given)
        np.testing.assert_allclose(sold, too, rtol=1e-9, atol=1e-9)
        for name in ("deficit", "fee", "surplus", "notional", "opened", "bankrupt"):
            np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-9, atol=1e-7, err_msg=name)


# --- orders that must wait --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [Full(fee=0.0), Slice(fee=0.0, cost=0.0)], ids=["full", "slice"])
def test_halt_builds_a_queue_that_clears_when_trading_opens(rule):
    """Orders stand even though the price has recovered when the halt ends."""
    positions = groups(book([[10.0], [1.0]], [50.0, 90.0]), rule, Flat(0.02, 0.1))
    state, closing, volume = trade(
        positions, positions.init(jnp.float64), 0.96, limits=limits_of(positions, is_open=False)
    )
    assert float(volume[0]) == float(closing.notional) == 0.0
    ordered = float(positions._ordered(state, positions.standing(state)).sum())
    assert ordered > 0.0
    state, closing, volume = trade(positions, state, 1.02)
    np.testing.assert_allclose(volume[0], ordered)
    assert not bool(jnp.any(state.queue.astype(bool)))
    if isinstance(rule, Full):
        np.testing.assert_allclose(closing.surplus, 50.0 + 10.0 * 2.0)


def test_the_queue_of_a_closed_market_leaves_the_other_leg_alone():
    """A cross group is closed when its last leg is; only then its equity is counted."""
    positions = groups(book([[10.0, 5.0]], 60.0), margin=Flat(0.02, 0.1))
    shut = limits_of(positions)._replace(open=jnp.asarray([True, False]))
    state, closing, volume = trade(positions, positions.init(jnp.float64), 0.95, limits=shut)
    np.testing.assert_array_equal(volume, [10.0, 0.0])
    assert float(closing.surplus) == float(closing.deficit) == 0.0
    state, closing, volume = trade(positions, state, 0.90)
    np.testing.assert_array_equal(volume, [0.0, 5.0])
    np.testing.assert_allclose(closing.deficit, -(60.0 - 50.0 - 50.0))
    np.testing.assert_array_equal(closing.bankrupt, [0.0, 5.0])


@pytest.mark.parametrize("rule", RULES)
def test_caps_bind_and_clear(rule):
    """Executed volume never passes the cap of an asset and side, and the backlog is worked off."""
    of = book([[10.0, -6.0], [8.0, 2.0], [-3.0, 0.0], [-5.0, 1.0]], [40.0, 30.0, 12.0, 25.0])
    positions = groups(of, rule, Flat(0.05, 0.1))
    capped = limits_of(positions)._replace(sell_cap=jnp.asarray([3.0, 1.0]), buy_cap=jnp.asarray([2.0, 9.0]))
    state, sides = positions.init(jnp.float64), jnp.asarray([0.97, 1.03])
    for _ in range(12):
        order = positions.breached(state, positions.standing(state), jnp.log(sides), level(positions))
        net, executed = positions.volume(state, order, capped)
        units = positions._ordered(state, order)
        done = units * jnp.where(state.held > 0.0, executed.part[0][:, None], executed.part[1][:, None])
        assert bool(jnp.all(jnp.sum(jnp.maximum(done, 0.0), axis=1) <= capped.sell_cap * (1 + 1e-12)))
        assert bool(jnp.all(jnp.sum(jnp.maximum(-done, 0.0), axis=1) <= capped.buy_cap * (1 + 1e-12)))
        np.testing.assert_allclose(net, jnp.sum(done, axis=1), atol=1e-12)
        np.testing.assert_allclose(executed.gross, jnp.sum(jnp.abs(done), axis=1), atol=1e-12)
        state, _, _ = trade(positions, state, sides, limits=capped)
    if isinstance(rule, Full):
        assert bool(jnp.all(state.held[:, 1] == 0.0))


def test_room_is_passed_by_a_hair():
    """The order that trips a breaker executes: a room of 4 units lets slightly more than 4 through."""
    positions = groups(book([[10.0]], 40.0), margin=Flat(0.05, 0.1))
    _, _, volume = trade(positions, positions.init(jnp.float64), 0.98, limits=limits_of(positions, room=4.0))
    assert 4.0 < float(volume[0]) < 4.001
    _, _, volume = trade(positions, positions.init(jnp.float64), 0.98, limits=limits_of(positions, room=0.0))
    assert float(volume[0]) == 0.0


def test_slice_under_a_cap_ends_where_it_would_without():
    """A share of which a part executes leaves the rest on order, in units."""
    positions = groups(book([[10.0]], 60.0), Slice(fee=0.0, cost=0.0), Flat(0.05, 0.1))
    free, _, _ = trade(positions, positions.init(jnp.float64), 0.98)
    state = positions.init(jnp.float64)
    for _ in range(8):
        state, _, volume = trade(positions, state, 0.98, limits=limits_of(positions, cap=0.7))
        assert float(volume[0]) <= 0.7
    np.testing.assert_allclose(state.held, free.held, rtol=1e-9)


# --- calls ------------------------------------------------------------------------------------------------------------


def _called(call, reserve, marks, cash=100.0, rank=0.4, crash=0.0, dt=10 * SECOND):
    of = book([[10.0]], cash, reserve=np.array([reserve]))
    positions = groups(of, margin=Flat(0.05, 0.1), call=call, rank=[rank])
    state, posted = positions.init(jnp.float64), []
    for mark in marks:
        state, closing, _ = trade(positions, state, mark, crash=crash, dt=dt)
        posted.append(float(closing.deposit))
    return posted, state


def test_a_call_restores_the_initial_margin_once():
    posted, state = _called(Call(calm=0.5), 1000.0, [0.99, 0.99, 0.99])
    np.testing.assert_allclose(posted, [9.0, 0.0, 0.0], atol=1e-9)
    np.testing.assert_allclose(state.money[0] - 10.0, 99.0)


def test_reserves_run_out():
    posted, state = _called(Call(calm=0.5), 12.0, [0.99, 0.98, 0.97, 0.97])
    np.testing.assert_allclose(posted, [9.0, 3.0, 0.0, 0.0], atol=1e-9)
    assert float(state.reserve[0]) == 0.0


def test_who_meets_a_call_depends_on_rank_and_crash():
    assert _called(Call(calm=0.5), 1000.0, [0.99], rank=0.6)[0] == [0.0]
    assert _called(Call(calm=0.5, crash_probability=0.05), 1000.0, [0.99], rank=0.4, crash=1.0)[0] == [0.0]
    assert _called(Call(calm=0.5, crash_probability=0.45), 1000.0, [0.99], rank=0.4, crash=1.0)[0] != [0.0]


def test_grace_delays_the_deposit():
    posted, _ = _called(Call(calm=0.5, grace="30s"), 1000.0, [0.99] * 5)
    np.testing.assert_allclose(posted, [0.0, 0.0, 0.0, 9.0, 0.0], atol=1e-9)
    posted, _ = _called(Call(calm=0.5, grace="30s"), 1000.0, [0.99, 0.99, 1.02, 0.99, 0.99])
    assert posted == [0.0] * 5


def test_a_liquidated_account_posts_nothing():
    posted, state = _called(Call(calm=1.0), 1000.0, [0.94, 0.94])
    assert posted == [0.0, 0.0]
    assert float(state.reserve[0]) == 1000.0


def test_moving_margins_multiply_the_requirement():
    positions = groups(book([[10.0]], 60.0), margin=Flat(0.05, 0.1))
    state, at_start = positions.init(jnp.float64), jnp.zeros(1)
    for scale, wanted in ((1.0, False), (1.19, False), (1.21, True)):
        order = positions.breached(state, positions.standing(state), at_start, scale * level(positions))
        assert bool(order.share[0, 0]) == wanted
        assert bool(positions.needed(state, at_start, scale * level(positions))) == wanted


def test_only_breaches_and_orders_need_a_step():
    """Unless something runs on a clock, a path is left alone until a group is in breach or an order stands."""
    of = book([[10.0], [-1.0]], [60.0, 50.0])
    positions, low = groups(of, margin=Flat(0.05, 0.1)), jnp.log(jnp.asarray([0.97]))
    state, ones = positions.init(jnp.float64), level(positions)
    assert positions.sparse
    assert not bool(positions.needed(state, 0.0 * low, ones))
    assert bool(positions.needed(state, low, ones))
    state, _, _ = trade(positions, state, 0.97, limits=limits_of(positions, is_open=False))
    assert bool(positions.needed(state, 0.0 * low, ones))
    state, _, _ = trade(positions, state, 1.0)
    assert not bool(positions.needed(state, 0.0 * low, ones))
    for timed in (groups(of, Schedule()), groups(of, call=Call())):
        assert not timed.sparse
        assert bool(timed.needed(timed.init(jnp.float64), 0.0 * low, ones))


# --- deleveraging -----------------------------------------------------------------------------------------------------


def test_deleveraging_is_pro_rata_and_takes_exactly_the_amount():
    positions = groups(book([[10.0], [30.0], [-5.0]], [300.0, 900.0, 400.0]))
    state, log_price = positions.init(jnp.float64), jnp.log(jnp.asarray([1.1]))
    np.testing.assert_allclose(positions.profit(state, log_price), [[400.0], [0.0]])
    after = positions.deleverage(state, jnp.asarray([[80.0], [0.0]]), jnp.asarray([[8.0], [0.0]]), log_price)
    np.testing.assert_allclose(after.held[0], [8.0, 24.0, -5.0])
    np.testing.assert_allclose(positions.equity(state, log_price) - positions.equity(after, log_price), 80.0)
    np.testing.assert_allclose(positions.holdings(state) - positions.holdings(after), 8.0)
    np.testing.assert_allclose(after.money + after.held[0] * 10.0, [380.0, 1140.0, 350.0])


def test_deleveraging_leaves_nobody_below_zero():
    """A cross group whose gains are eaten by its losses can give no more than its equity, again and again."""
    positions = groups(book([[10.0, 10.0], [5.0, 0.0]], [150.0, 80.0]))
    state, log_price = positions.init(jnp.float64), jnp.log(jnp.asarray([1.3, 0.6]))
    np.testing.assert_allclose(positions.profit(state, log_price), [[50.0 + 150.0, 0.0], [0.0, 0.0]], atol=1e-9)
    for _ in range(3):
        profit = positions.profit(state, log_price)
        after = positions.deleverage(state, profit, jnp.zeros_like(profit), log_price)
        np.testing.assert_allclose(
            positions.equity(state, log_price) - positions.equity(after, log_price), profit.sum()
        )
        state = after
        deficit, _ = positions.open_deficit(state, log_price)
        assert float(deficit) <= 1e-9


def test_open_deficit_counts_groups_under_water():
    positions = groups(book([[10.0], [-10.0], [1.0]], [50.0, 50.0, 50.0], weight=np.array([2.0, 1.0, 1.0])))
    deficit, units = positions.open_deficit(positions.init(jnp.float64), jnp.log(jnp.asarray([0.9])))
    np.testing.assert_allclose(deficit, 2 * 50.0)
    np.testing.assert_allclose(units, [20.0])
    np.testing.assert_allclose(positions.gross(), 3100.0)


# --- the same whatever the batch --------------------------------------------------------------------------------------


def test_total_is_a_sum():
    rng = np.random.default_rng(2)
    for size in (1, 2, 7, 8, 9, 63, 64, 65, 1000):
        terms = rng.normal(size=(3, size))
        np.testing.assert_allclose(total(jnp.asarray(terms)), terms.sum(axis=1), atol=1e-11)


def test_a_path_does_not_depend_on_its_batch():
    """The same bits whether 1, 3 or 40 paths are computed together."""
    rng = np.random.default_rng(4)
    positions = groups(random_book(rng, rows=101), Full(), dtype=jnp.float32)
    moves = jnp.asarray(0.02 * rng.standard_normal((40, 50, 2)), jnp.float32)
    gates = jnp.asarray(rng.random((40, 50)), jnp.float32)
    run = jax.jit(jax.vmap(lambda moves, gates: Run(deleverage=False)(positions, moves, gates)))
    whole = run(moves, gates)
    for paths in (1, 3):
        some = run(moves[:paths], gates[:paths])
        for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(some), strict=True):
            np.testing.assert_array_equal(a[:paths], b)


def test_closing_without_a_backstop_has_no_takeover():
    assert Closing._field_defaults == {"taken": None, "taken_money": None}
