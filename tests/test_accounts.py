"""Margin groups: who is in breach, what is sold, who is called, and what winners give."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from account_books import BOTH, SECOND, Run, book, groups, level, limits_of, noise, trade
from scipy.stats import norm

from tailrisk.liquidation import Full, Schedule, Slice
from tailrisk.margin.calls import Call
from tailrisk.margin.flat import Flat
from tailrisk.positions.accounts import MarginGroups
from tailrisk.positions.groups import group_positions


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
