"""Margin groups: no money appears or vanishes, orders that must wait, the same numbers in any batch."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from account_books import BOTH, RULES, TIGHT, Run, book, groups, level, limits_of, noise, random_book, trade

from tailrisk._fields import cast
from tailrisk._sums import total
from tailrisk.liquidation import Full, Slice
from tailrisk.margin.calls import Call
from tailrisk.margin.flat import Flat
from tailrisk.positions.sorted import SortedThresholds
from tailrisk.waterfall import Closing


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
