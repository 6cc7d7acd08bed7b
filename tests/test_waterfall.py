"""The loss waterfall and the backstop: who pays, in which order, and that no dollar is used twice or lost."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tailrisk._fields import cast, problems, to_duration
from tailrisk.waterfall import Closing
from tailrisk.waterfall.backstop import Backstop, average_price_trade
from tailrisk.waterfall.settle import Waterfall

PRECISION = [jnp.float64, jnp.float32]
LAST_RESORTS = ["adl", "adl_then_socialize", "socialize", "none"]
MINUTE = float(to_duration("1min"))


def closing(dtype, deficit=0.0, fee=0.0, surplus=0.0, bankrupt=(0.0,)):
    money = (deficit, fee, surplus, 0.0, 0.0, 0.0)
    return Closing(*(jnp.asarray(x, dtype) for x in money), bankrupt=jnp.asarray(bankrupt, dtype))


def settle(waterfall, step, profit, price=None, wealth=None, dtype=jnp.float64):
    waterfall = cast(waterfall, dtype)
    assets = step.bankrupt.shape[0]
    price = jnp.ones(assets, dtype) if price is None else jnp.asarray(price, dtype)
    state = waterfall.init(assets, dtype)
    wealth = None if wealth is None else jnp.asarray(wealth, dtype)
    return eqx.filter_jit(waterfall.settle)(state, step, jnp.asarray(profit, dtype), price, wealth)


def random_steps(rng, assets, count, dtype):
    for _ in range(count):
        deficit = rng.lognormal(3, 3) * (rng.random() < 0.8)
        bankrupt = rng.normal(size=assets) * (rng.random(assets) < 0.7)
        step = closing(dtype, deficit, rng.lognormal(1, 1), rng.lognormal(1, 1), bankrupt)
        profit = jnp.asarray(rng.lognormal(2, 2, (2, assets)) * (rng.random((2, assets)) < 0.7), dtype)
        yield step, profit, jnp.asarray(rng.lognormal(2, 1, assets), dtype)


@pytest.mark.parametrize("dtype", PRECISION, ids=["f64", "f32"])
def test_cls_06_fund_pays_alone(dtype):
    """CLS-06: a deficit of 550 against a fund of 1000 leaves 450 and nobody is deleveraged."""
    state, paid = settle(Waterfall(fund=1000.0), closing(dtype, 550.0, bankrupt=[10.0]), [[0], [900]], dtype=dtype)
    assert float(state.fund) == 450
    assert float(paid.fund) == 550
    assert float(paid.after_fund) == 0
    assert not bool(state.ruined)
    assert float(jnp.sum(paid.adl_contracts)) == 0


def test_cls_04_fund_update():
    """CLS-04: fees and kept surplus reach the fund before it pays; what leaves and what returns is booked."""
    waterfall = Waterfall(fund=10.0, keep=0.25, fee_to_fund=0.5, deleverage="none")
    state, paid = settle(waterfall, closing(jnp.float64, 20.0, 8.0, 12.0, [1.0]), [[0.0], [0.0]])
    assert [float(x) for x in (paid.fund, paid.venue, state.fund)] == [17, 3, 0]
    assert [float(x) for x in (paid.kept, paid.returned, paid.fees_out)] == [3, 9, 4]
    assert bool(state.ruined)


@pytest.mark.parametrize("dtype", PRECISION, ids=["f64", "f32"])
@pytest.mark.parametrize("last_resort", LAST_RESORTS)
def test_books_balance(last_resort, dtype):
    """R16 (b) (d): the parts add up to the deficit, no source pays more than it has, the fund explains itself."""
    waterfall = Waterfall(
        fund=50.0,
        keep=0.3,
        fee_to_fund=0.6,
        venue_capital=80.0,
        deleverage=last_resort,
        backstop=Backstop(capital=60.0),
    )
    waterfall = cast(waterfall, dtype)
    run = eqx.filter_jit(waterfall.settle)
    state, whole = waterfall.init(3, dtype), waterfall.unpaid(3, dtype)
    slack = 1e-13 if dtype == jnp.float64 else 1e-6
    rng = np.random.default_rng(0)
    for step, profit, price in random_steps(rng, 3, 60, dtype):
        wealth = jnp.asarray(100.0, dtype)
        new, paid = run(state, step, profit, price, wealth)
        assert jax.tree.map(jax.typeof, new) == jax.tree.map(jax.typeof, state)  # a carry of the scan, no weak types
        scale = float(step.deficit + step.fee + step.surplus + state.fund)
        assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(paid))
        np.testing.assert_allclose(float(paid.deficit), float(step.deficit), rtol=4 * slack, atol=0)
        assert all(float(leaf.min()) >= -slack * scale for leaf in paid)
        inflow = paid.kept + step.fee - paid.fees_out
        np.testing.assert_allclose(float(new.fund), float(state.fund + inflow - paid.fund), atol=slack * scale)
        np.testing.assert_allclose(float(paid.kept + paid.returned), float(step.surplus), rtol=slack)
        np.testing.assert_allclose(float(new.capital), float(state.capital - paid.capital), atol=slack * 80)
        assert float(jnp.max(paid.adl - profit)) <= slack * scale
        assert float(paid.socialized) <= 100
        winners = np.stack([step.bankrupt < 0, step.bankrupt > 0]) & (np.asarray(profit) > 0)
        assert not np.asarray(paid.adl)[~winners].any()
        assert not np.asarray(paid.adl_contracts)[~winners].any()
        if last_resort.startswith("adl"):
            pot = float(jnp.sum(jnp.where(winners, profit, 0)))
            np.testing.assert_allclose(float(paid.adl.sum()), min(float(paid.after_fund), pot), rtol=20 * slack)
            assert (np.asarray(paid.adl_contracts) <= np.abs(np.asarray(step.bankrupt)) * (1 + slack)).all()
        if float(paid.after_fund) > 0:
            assert float(new.fund) == 0
            assert bool(new.ruined)
        state, whole = new, jax.tree.map(jnp.add, whole, paid)
    total = 60 + 80 + 50
    assert float(whole.backstop) == pytest.approx(60, rel=1e-5)
    assert float(whole.capital) == pytest.approx(80, rel=1e-5)
    assert float(whole.deficit) > total


def test_zero_sum():
    """R16 (b): changes of traders, winners, users, venue and fund sum to minus the fees that leave the system."""
    rng = np.random.default_rng(1)
    waterfall = cast(Waterfall(fund=30.0, keep=0.3, fee_to_fund=0.6, deleverage="adl_then_socialize"), jnp.float64)
    run = eqx.filter_jit(waterfall.settle)
    state = waterfall.init(2, jnp.float64)
    for step, profit, price in random_steps(rng, 2, 20, jnp.float64):
        new, paid = run(state, step, profit, price, jnp.asarray(20.0))
        closed = step.deficit - step.fee - (step.surplus - paid.returned)  # what they owed, paid, lost
        others = -jnp.sum(paid.adl) - paid.socialized - paid.venue
        change = closed + others + (new.fund - state.fund)
        np.testing.assert_allclose(float(change), -float(paid.fees_out), atol=1e-12 * float(step.deficit + 1))
        state = new


def test_infinite_and_empty_fund():
    """R16 (e): no deleveraging with an infinite fund; with none, haircut = deficit while winners suffice."""
    step = closing(jnp.float64, 40.0, bankrupt=[2.0, -3.0])
    profit = [[10.0, 50.0], [30.0, 7.0]]
    state, paid = settle(Waterfall(fund=np.inf), step, profit, [1.0, 1.0])
    assert float(paid.fund) == 40
    assert np.isposinf(state.fund)
    assert not np.asarray(paid.adl_contracts).any()
    _, paid = settle(Waterfall(), step, profit, [1.0, 1.0])
    np.testing.assert_allclose(paid.adl, [[0, 24], [16, 0]])  # own coin first: 40 split 2 : 3 by notional
    np.testing.assert_allclose(paid.adl_contracts, [[0, 3], [2, 0]])
    assert float(paid.adl_shortfall) == 0


def test_infeasible_deleveraging_is_reported():
    """R16: beyond the profit of winners the excess is a residual, whatever other winners there are."""
    step = closing(jnp.float64, 100.0, bankrupt=[2.0, 0.0])
    profit = [[500.0, 500.0], [30.0, 500.0]]
    expected = {"adl": (30, 0, 70), "adl_then_socialize": (30, 20, 50), "socialize": (0, 50, 50), "none": (0, 0, 100)}
    for last_resort, parts in expected.items():
        _, paid = settle(Waterfall(deleverage=last_resort), step, profit, [1.0, 1.0], wealth=50.0)
        assert (float(paid.adl.sum()), float(paid.socialized), float(paid.venue)) == parts
        assert float(paid.adl_contracts.sum()) == (2 if parts[0] else 0)
    _, paid = settle(Waterfall(deleverage="socialize"), step, profit)
    assert float(paid.socialized) == 100


def test_spill_to_other_assets():
    """What the winners of one asset cannot pay is taken from the others where positions are bankrupt too."""
    step = closing(jnp.float64, 40.0, bankrupt=[2.0, 2.0, 0.0])
    _, paid = settle(Waterfall(), step, [[9, 9, 9.0], [5, 100, 9]])
    np.testing.assert_allclose(paid.adl, [[0, 0, 0], [5, 35, 0]])
    assert float(paid.venue) == 0


def test_contracts_follow_the_unpaid_share():
    """K10: a bankrupt short of 20 is offset by 20 of longs; a fund that pays a quarter leaves three quarters."""
    for fund, share in ((0.0, 1.0), (10.0, 0.75), (40.0, 0.0)):
        _, paid = settle(Waterfall(fund=fund), closing(jnp.float64, 40.0, bankrupt=[-20.0]), [[90.0], [90.0]])
        np.testing.assert_allclose(paid.adl_contracts, [[20 * share], [0]])
        np.testing.assert_allclose(paid.adl, [[40 * share], [0]])


def test_nothing_happens_without_a_deficit():
    """A quiet step moves nothing, is no ruin even with an empty fund, and keeps the full derivative of the fund."""
    waterfall = Waterfall(venue_capital=5.0)
    state, paid = settle(waterfall, closing(jnp.float64), [[3.0], [3.0]])
    assert not any(np.asarray(leaf).any() for leaf in paid)
    assert not bool(state.ruined)

    @jax.jit
    @jax.grad
    def slope(fund):
        w = Waterfall(fund=fund)
        s, venue = w.init(1, jnp.float64), 0.0
        for deficit in (0.0, 0.0, 3.0):
            s, payment = w.settle(s, closing(jnp.float64, deficit, bankrupt=[1.0]), jnp.zeros((2, 1)), jnp.ones(1))
            venue = venue + payment.venue
        return venue

    assert [float(slope(jnp.asarray(fund))) for fund in (0.0, 2.0, 4.0)] == [-1, -1, 0]


@pytest.mark.parametrize("last_resort", LAST_RESORTS)
def test_gradients_are_finite(last_resort):
    """Derivatives of every part in every traced field are finite, also in steps without deficit or winners."""
    waterfall = cast(
        Waterfall(fund=5.0, keep=0.3, venue_capital=2.0, deleverage=last_resort, backstop=Backstop(capital=1.0)),
        jnp.float64,
    )

    @eqx.filter_jit
    @eqx.filter_grad
    def slope(waterfall, step, profit):
        state = waterfall.init(2, jnp.float64)
        for _ in range(2):
            state, paid = waterfall.settle(state, step, profit, jnp.ones(2), jnp.asarray(10.0))
        return sum(jnp.sum(leaf) for leaf in paid)

    for deficit, bankrupt in ((0.0, (0.0, 0.0)), (30.0, (1.0, -2.0)), (30.0, (0.0, 0.0))):
        for profit in (jnp.zeros((2, 2)), jnp.ones((2, 2)), 100.0 * jnp.ones((2, 2))):
            grads = slope(waterfall, closing(jnp.float64, deficit, 1.0, 1.0, bankrupt), profit)
            assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


def test_average_price_examples():
    """R06: additions average, reductions realize, a flip closes the old lot and opens the rest at the new price."""
    q, a, realized = jnp.zeros(1), jnp.zeros(1), 0.0
    book = [(10, 100, 10, 100, 0), (10, 110, 20, 105, 0), (-5, 115, 15, 105, 50), (-20, 100, -5, 100, -75)]
    for change, price, quantity, average, gain in [*book, (5, 90, 0, 0, 50), (0, 80, 0, 0, 0)]:
        q, a, r = average_price_trade(q, a, jnp.asarray([change * 1.0]), jnp.asarray([price * 1.0]))
        assert (float(q[0]), float(a[0]), float(r[0])) == (quantity, average, gain)
        realized += float(r[0])
    assert realized == 25


def test_inventory_conserves_cash():
    """Realized plus open profit equals the cash flows of all trades, at any price, for random long and short books."""
    rng = np.random.default_rng(2)
    backstop = cast(Backstop(capital=7.0), jnp.float64)
    state, cash, held = backstop.init(4, jnp.float64), 7.0, np.zeros(4)
    for _ in range(200):
        change, price = np.round(rng.normal(size=4)), rng.uniform(50, 150, 4)
        if rng.random() < 0.5:
            state = backstop.take(state, jnp.asarray(change), jnp.asarray(price))
        else:
            state = backstop.fill(state, jnp.asarray(-change), jnp.asarray(price))
        cash, held = cash - change @ price, held + change
        np.testing.assert_allclose(state.quantity, held)
        np.testing.assert_allclose(
            backstop.value(state, jnp.asarray(price)), cash + held @ price, rtol=1e-10, atol=1e-8
        )


@pytest.mark.parametrize("dtype", PRECISION, ids=["f64", "f32"])
def test_scheduled_unwind(dtype):
    """R06: a fraction per interval, everything at the cutoff, never above the share of depth, sign of net selling."""
    backstop = cast(Backstop(fraction=0.5, interval="1min", cutoff=2.0, share=0.1), dtype)
    dt = jnp.asarray(MINUTE, dtype)
    state = backstop.take(backstop.init(3, dtype), *(jnp.asarray(x, dtype) for x in ([16.0, -16, 16], [1.0, 1, 1])))
    depth, seen = jnp.asarray([1000.0, 1000, 20], dtype), []
    for _ in range(6):
        volume, state = backstop.unwind(state, dt, depth)
        state = backstop.fill(state, volume, jnp.ones(3, dtype))
        seen.append(volume.tolist())
    assert seen == [[8, -8, 2], [4, -4, 2], [2, -2, 2], [2, -2, 2], [0, 0, 2], [0, 0, 2]]
    state = backstop.take(backstop.init(3, dtype), jnp.full(3, 16.0, dtype), jnp.ones(3, dtype))
    volumes = []
    for _ in range(10):  # a step of a quarter of the interval trades every fourth step
        volume, state = backstop.unwind(state, dt / 4.0, depth)
        volumes.append(float(volume[0]))
    assert volumes == [0, 0, 0, 8, 0, 0, 0, 8, 0, 0]
    volume, _ = backstop.unwind(state, dt * 2.0, depth)  # two intervals and a half: 1 - 0.5^2 of it
    assert float(volume[0]) == 12
    assert float(backstop.unwind(state, dt * 2.0, 0.0 * depth)[0][0]) == 0


def test_backstop_pays_from_its_equity():
    """The backstop pays after the fund, up to its marked equity, and each dollar once."""
    waterfall = cast(Waterfall(fund=10.0, deleverage="none", backstop=Backstop(capital=30.0)), jnp.float64)
    state = waterfall.init(1, jnp.float64)
    inventory = waterfall.backstop.take(state.backstop, jnp.asarray([2.0]), jnp.asarray([100.0]))
    state = state._replace(backstop=inventory)
    step, price = closing(jnp.float64, 25.0, bankrupt=[1.0]), jnp.asarray([95.0])  # equity 30 - 10 = 20
    state, paid = waterfall.settle(state, step, jnp.zeros((2, 1)), price)
    assert (float(paid.fund), float(paid.backstop), float(paid.venue)) == (10, 15, 0)
    assert float(waterfall.backstop.value(state.backstop, price)) == 5
    state, paid = waterfall.settle(state, step, jnp.zeros((2, 1)), price)
    assert (float(paid.fund), float(paid.backstop), float(paid.venue)) == (0, 5, 20)


def test_bad_fields_are_named():
    """Values out of bounds are reported by dotted key, unknown last resorts by the ones that exist."""
    complaints = list(problems(Waterfall(fund=-1.0, keep=2.0, backstop=Backstop(fraction=0.0))))
    assert [c.split(" ")[0] for c in complaints] == ["fund", "keep", "backstop.fraction"]
    with pytest.raises(ValueError, match="adl_then_socialize"):
        Waterfall(deleverage="adl_then_socialise")
