"""Deleveraging inside the accounts kernel: every allocation raises the need, closes the contracts and ruins nobody."""

import jax.numpy as jnp
import numpy as np
import pytest

import tailrisk as tr
from tailrisk import liquidation, margin
from tailrisk._fields import cast
from tailrisk.positions.accounts import MarginGroups
from tailrisk.waterfall import CappedProRata, ProRata, Queue, RiskAware

ALLOCATIONS = {
    "pro rata": ProRata(),
    "pro rata to equity": ProRata("equity"),
    "queue": Queue(),
    "queue by size": Queue("size"),
    "capped": CappedProRata(),
    "risk aware": RiskAware(),
}


def groups(allocation):
    rng = np.random.default_rng(0)
    count = 12
    units = np.where(np.arange(count) % 2, 1.0, -1.0) * rng.lognormal(size=count)
    book = tr.Book(
        quantity=units[:, None],
        entry=np.full((count, 1), 100.0),
        cash=abs(units) * 100.0 / rng.uniform(2.0, 10.0, count),
        account=np.arange(count),
        weight=np.where(np.arange(count) == 4, 2.0, 1.0),
        reserve=np.zeros(count),
    )
    rules = margin.Flat(0.01, 0.05), liquidation.Full(0.0)
    return cast(MarginGroups.build(book, [100.0], *rules, allocation=allocation), np.float64)


@pytest.mark.parametrize("name", ALLOCATIONS)
def test_the_need_is_raised_and_contracts_close_where_profit_is_taken(name):
    positions = groups(ALLOCATIONS[name])
    before, fallen = positions.init(np.float64), jnp.asarray([-0.05])
    amount = 0.6 * positions.profit(before, fallen)
    contracts = jnp.asarray([[0.0], [1.5]])
    after = positions.deleverage(before, amount, contracts, fallen)
    lost = positions.equity(before, fallen) - positions.equity(after, fallen)
    np.testing.assert_allclose(lost, amount.sum(), rtol=1e-12)
    closed = positions.weight * (jnp.abs(before.held) - jnp.abs(after.held))[0]
    np.testing.assert_allclose(closed.sum(), 1.5, rtol=1e-12)
    assert (closed[before.held[0] >= 0] == 0).all()  # longs have lost: they are no winners
    assert (positions._equities(after, fallen) >= -1e-12).all()


def test_the_queue_takes_all_of_the_first_before_it_touches_the_second():
    positions = groups(Queue("size"))
    before, fallen = positions.init(np.float64), jnp.asarray([-0.05])
    gain = positions.weight * positions._gains(before, fallen)[0]
    size = np.where(np.asarray(gain) > 0, np.asarray(positions.weight) * np.abs(np.asarray(before.held[0])), 0.0)
    first = int(size.argmax())
    amount = jnp.asarray([[0.0], [1.0]]) * 1.2 * gain[first]
    after = positions.deleverage(before, amount, jnp.zeros((2, 1)), fallen)
    lost = positions.weight * (positions._equities(before, fallen) - positions._equities(after, fallen))
    np.testing.assert_allclose(lost[first], gain[first], rtol=1e-12)
    assert int((lost > 1e-12).sum()) == 2
