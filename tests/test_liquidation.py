"""Liquidation rules as formulas: how much is sold, what it costs, when the rest follows."""

import jax.numpy as jnp
import numpy as np
import pytest

from tailrisk._fields import SECONDS_PER_YEAR, cast, problems
from tailrisk.liquidation import Full, Schedule, Slice

SECOND = 1.0 / SECONDS_PER_YEAR


def at(*numbers):
    return tuple(jnp.asarray([float(n)]) for n in numbers)


@pytest.mark.parametrize(
    ("equity", "maintenance", "notional", "target", "cost", "expected"),
    [
        pytest.param(50, 68, 850, 1.0, 0.0, 0.2647058824, id="CLS-05-ii-free"),
        pytest.param(50, 68, 850, 1.0, 0.001, 0.2680565897, id="CLS-05-ii-cost"),
        # The source's own execution price, 0.05 off the mark of 5.5, and fee 30 bp: dq = 10.236, so everything.
        pytest.param(-4.399, 0.55, 5.5, 1.0, 0.003 + 0.05 / 5.5, 1.0, id="CLS-05-i"),
        pytest.param(70, 68, 850, 1.25, 0.0, 0.0, id="healthy"),
        pytest.param(68, 68, 850, 1.25, 0.0, 0.0, id="exactly-at-maintenance"),
        pytest.param(0, 68, 850, 1.0, 0.0, 1.0, id="worthless"),
        pytest.param(50, 68, 850, 1.0, 0.1, 1.0, id="cannot-be-cured"),
        pytest.param(-1e-9, 0, 0, 1.0, 0.0, 1.0, id="nothing-held"),
    ],
)
def test_slice_share(equity, maintenance, notional, target, cost, expected):
    rule = cast(Slice(fee=0.0, target=target, cost=cost), jnp.float64)
    share, taken = rule.share(*at(equity, maintenance, notional), None)
    assert taken is None
    np.testing.assert_allclose(share[0], expected, rtol=1e-9)


def test_cls_05_i_uncapped():
    """The quotient before it is capped at the whole position."""
    rule = cast(Slice(fee=0.0, target=1.0, cost=0.003 + 0.05 / 5.5), jnp.float64)
    equity, maintenance, notional = -4.399, 0.55, 5.5
    share = (maintenance - equity) / (maintenance - float(rule.cost) * notional)
    np.testing.assert_allclose(share, 4.949 / 0.4835, rtol=1e-12)


def test_cls_10_shortfall_over_notional_does_not_cure():
    """Closing 18/850 leaves the account in breach; the slice of CLS-05 does not."""
    equity, maintenance, notional, cost = 50.0, 68.0, 850.0, 0.001
    naive = (maintenance - equity) / notional
    np.testing.assert_allclose(naive, 0.0211764706, rtol=1e-8)
    left = equity - cost * naive * notional
    np.testing.assert_allclose(left, 49.982, rtol=1e-9)
    np.testing.assert_allclose(notional * (1.0 - naive) / left, 16.645993, rtol=1e-7)
    assert left < maintenance * (1.0 - naive)
    share, _ = cast(Slice(fee=cost, target=1.0, cost=cost), jnp.float64).share(*at(equity, maintenance, notional), None)
    after, required = equity - cost * float(share[0]) * notional, maintenance * (1.0 - float(share[0]))
    np.testing.assert_allclose(after / required, 1.0, rtol=1e-12)


def test_full_closes_everything_below_maintenance_only():
    share, taken = Full().share(jnp.asarray([0.9, 1.0, 1.1, -5.0]), jnp.ones(4), jnp.ones(4))
    assert taken is None
    np.testing.assert_array_equal(share, [1.0, 0.0, 0.0, 1.0])


def test_fee_is_paid_out_of_what_is_left():
    """Never more than the equity after the trade, never out of a deficit."""
    rule = cast(Full(fee=0.01), jnp.float64)
    fee = rule.charge(jnp.asarray([100.0, 100.0, 100.0]), jnp.asarray([5.0, 0.4, -3.0]))
    np.testing.assert_allclose(fee, [1.0, 0.4, 0.0])


def test_schedule_share_by_size_and_depth():
    """LIQ-07: 20 % above 100k USD, everything below; the backstop under two thirds of maintenance."""
    rule = cast(Schedule(), jnp.float64)
    equity = jnp.asarray([90.0, 90.0, 101.0, 66.0, 67.0])
    share, taken = rule.share(equity, jnp.full(5, 100.0), jnp.asarray([2e5, 1e5, 2e5, 2e5, 2e5]), jnp.full(5, -1.0))
    np.testing.assert_allclose(share, [0.2, 1.0, 0.0, 0.0, 0.2])
    np.testing.assert_array_equal(taken, [False, False, False, True, False])


def _orders(rule, equities, dt):
    """Shares ordered step by step by one large group with maintenance 100."""
    clock, given = jnp.asarray([-1.0]), []
    for equity in equities:
        share, _ = rule.share(*at(equity, 100.0, 5e5), clock)
        clock = rule.advance(clock, share > 0.0, jnp.asarray(dt))
        given.append(float(share[0]))
    return given


def test_schedule_waits_then_sells_the_rest():
    """LIQ-07: with steps of 10 s nothing follows the first part until 30 s have passed."""
    rule = cast(Schedule(), jnp.float64)
    assert _orders(rule, [90.0] * 5, 10 * SECOND)[:4] == [0.2, 0.0, 0.0, 1.0]
    assert _orders(rule, [90.0] * 5, 7 * SECOND) == [0.2, 0.0, 0.0, 0.0, 0.0]
    assert _orders(rule, [90.0] * 2, 60 * SECOND) == [0.2, 1.0]


def test_schedule_starts_anew_after_a_cure():
    """A group that is healthy when the wait ends gets a new first part at its next breach."""
    rule = cast(Schedule(), jnp.float64)
    given = _orders(rule, [90.0, 120.0, 120.0, 120.0, 90.0, 90.0], 10 * SECOND)
    assert given == [0.2, 0.0, 0.0, 0.0, 0.2, 0.0]


def test_backstop_can_be_switched_off():
    rule = cast(Schedule(backstop_level=0.0), jnp.float64)
    share, taken = rule.share(*at(-5.0, 100.0, 5e4), jnp.asarray([-1.0]))
    assert not bool(taken[0])
    assert float(share[0]) == 1.0


@pytest.mark.parametrize(
    ("rule", "word"),
    [
        (Slice(fee=0.01, cost=0.005), "cost"),
        (Slice(target=0.9), "target"),
        (Full(fee=-0.1), "fee"),
        (Schedule(first_share=0.0), "first_share"),
    ],
)
def test_bad_values_are_named(rule, word):
    assert [line for line in problems(rule, "liquidation") if f"liquidation.{word}" in line]


@pytest.mark.parametrize("rule", [Full(), Slice(), Schedule()])
def test_defaults_are_in_bounds(rule):
    assert list(problems(rule)) == []
