"""The exact ladder equals a loop over accounts; clearing, limits, ledger and limit cases."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

from tailrisk import breaker, impact, liquidation, margin, market, waterfall
from tailrisk._fields import cast
from tailrisk.book import LeverageMixture, LognormalSizes, ParetoSizes
from tailrisk.clearing import Exact, Rounds
from tailrisk.positions.base import Book
from tailrisk.positions.sorted import SortedThresholds
from tailrisk.scenario import Accounts, Scenario, SmoothLadder, SortedLadder
from tailrisk.simulate import outcomes, simulate

BRACKETS = margin.Brackets(
    floors=[0.0, 2e5, 1e6, 5e6], maintenance_rates=[0.004, 0.01, 0.025, 0.05], max_leverage=[100.0, 50.0, 20.0, 10.0]
)


def scenario(**changes):
    parts = dict(
        market=market.GeometricBrownian(volatility=2.5),
        book=LeverageMixture(accounts=300, notional=2e8, sizes=LognormalSizes(1.5)),
        margin=BRACKETS,
        impact=impact.SquareRoot(impact.ConstantDepth(4e4), volatility=0.05),
        price=[100.0],
        horizon="6h",
        step="15min",
        liquidation=liquidation.Full(0.005),
        waterfall=waterfall.Waterfall(fund=2e5, deleverage="adl_then_socialize"),
    )
    return Scenario(**(parts | changes))


def test_a_halt_that_never_trips_is_none():
    """Bit for bit: without a breaker one side of the ladder is settled, with one both."""
    rules = breaker.NoBreaker(), breaker.Halt(np.inf, "5min")
    runs = [simulate(scenario(breaker=rule).build(np.float32), paths=128, seed=4) for rule in rules]
    assert scenario().build(np.float32).cascade.positions.apart
    assert np.mean(runs[0]["forced_notional"] > 0.0) > 0.3
    for name, values in runs[0].items():
        np.testing.assert_array_equal(values, runs[1][name], name)


def by_hand(book: Book, price, chosen, fill, fee):
    """Deficit, fee, surplus of closing the chosen groups at a fill price."""
    q, entry, cash = book.quantity[:, 0], book.entry[:, 0], book.cash
    equity = cash[chosen] + q[chosen] * (fill - entry[chosen])
    charged = np.minimum(fee * np.abs(q[chosen]) * fill, np.maximum(equity, 0))
    return np.maximum(-equity, 0).sum(), charged.sum(), np.maximum(equity - charged, 0).sum()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_settlement_equals_a_loop_over_accounts(dtype):
    """K20 for any schedule: the tables give what adding up 3,000 accounts gives, however far the fill is."""
    rng = np.random.default_rng(3)
    price = np.array([100.0])
    book = LeverageMixture(accounts=3000, notional=1e8, sizes=ParetoSizes(0.8)).build(price, BRACKETS, 0)
    ladder = cast(SortedThresholds.build(book, price, BRACKETS, 0.01, dtype), dtype)
    q = book.quantity[:, 0]
    rates, deductions = (np.asarray(x) for x in BRACKETS.lines())
    settle = eqx.filter_jit(lambda s, o, f: ladder.settle(s, o, o, f, None, None)[1])
    for _ in range(20):
        marks = np.sort(rng.normal(0, 0.15, 2))[::-1].astype(dtype)
        fill = float(np.float32(rng.normal(0, 0.3)))
        state = ladder.init(dtype)
        start = ladder.breached(state, ladder.standing(state), jnp.asarray([max(marks)], dtype), None)
        stop = ladder.breached(state, start, jnp.asarray([min(marks)], dtype), None)
        closing = settle(state._replace(sold=start.place), stop, jnp.asarray([fill], dtype))

        # who: equity below maintenance at some mark on the way, by definition and not by threshold
        def breached(log_mark):
            p = 100.0 * np.exp(float(log_mark))
            equity = book.cash + q * (p - book.entry[:, 0])
            n = np.abs(q) * p
            return equity < (rates * n[:, None] - deductions).max(axis=1)

        before, after = breached(max(marks)), breached(max(marks)) | breached(min(marks))
        chosen = after & ~before
        units = ladder.sums.between(start.place, stop.place)[:, 0]
        if dtype == np.float64:
            np.testing.assert_allclose(
                units, [q[chosen & (q > 0)].sum(), -q[chosen & (q < 0)].sum()], rtol=1e-9, atol=1e-9
            )
            deficit, fee, surplus = by_hand(book, 100.0, chosen, 100.0 * np.exp(fill), 0.01)
            np.testing.assert_allclose(
                [closing.deficit, closing.fee, closing.surplus], [deficit, fee, surplus], rtol=1e-9, atol=1e-7
            )
        else:  # money is conserved to rounding whatever the dtype
            gain = 100.0 * float(units[0] - units[1]) * np.expm1(fill)
            total = gain + float(ladder.sums.between(start.place, stop.place)[:, 1].sum())
            assert abs(float(closing.fee + closing.surplus - closing.deficit) - total) <= 1e-6 * 1e8


def test_no_account_starts_in_breach_and_shares_hold():
    book = LeverageMixture(accounts=5000, notional=1e9, long_share=0.7).build(np.array([50.0]), BRACKETS, 1)
    value = np.abs(book.quantity[:, 0]) * 50.0
    assert value.sum() == pytest.approx(1e9)
    largest = value.max() / value.sum()
    assert abs(value[book.quantity[:, 0] > 0].sum() / 1e9 - 0.7) <= largest
    ladder = SortedThresholds.build(book, [50.0], BRACKETS, 0.0, np.float64)
    assert (np.asarray(ladder.level) < np.log1p(-0.002) + 1e-12).all()


def test_sorted_ladder_equals_accounts_path_by_path():
    """The same book, noise and rules: both kernels give the same money on every path."""
    numbers = np.arange(64)
    rules = dict(waterfall=waterfall.Waterfall(fund=2e5, deleverage="socialize"))  # a ladder's winners stay open
    ladder = scenario(positions=SortedLadder(clearing=Rounds(6)), **rules).build(np.float64)
    accounts = scenario(positions=Accounts(clearing=Rounds(6)), **rules).build(np.float64)
    a, _ = outcomes(ladder, 7, numbers)
    b, _ = outcomes(accounts, 7, numbers)
    assert (a["bad_debt"] > 0).sum() > 5
    for name in (
        "bad_debt",
        "forced_notional",
        "peak_notional",
        "fees",
        "surplus_returned",
        "fund_end",
        "liquidated_share",
    ):
        np.testing.assert_allclose(a[name], b[name], rtol=1e-8, atol=1e-4, err_msg=name)
    np.testing.assert_allclose(a["market_fall"], b["market_fall"], rtol=1e-9, atol=1e-12)


def test_chunks_change_no_bit():
    system = scenario().build(np.float32)
    whole = simulate(system, paths=1000, chunk=1000, seed=5)
    for chunk in (1, 7, 64, 4096):
        paths = 1000 if chunk >= 64 else 20
        part = simulate(system, paths=paths, chunk=chunk, seed=5)
        for name, value in part.items():
            np.testing.assert_array_equal(value, whole[name][:paths], err_msg=f"{name} at chunk {chunk}")


def test_replay_equals_rollout_and_a_path_can_be_resumed():
    system = scenario().build(np.float32)
    whole = simulate(system, paths=200, chunk=128, seed=5)
    again, flow = outcomes(system, 5, np.array([150, 3, 77]), record=True)
    for name in whole:
        np.testing.assert_array_equal(again[name], whole[name][[150, 3, 77]], err_msg=name)
    np.testing.assert_allclose(flow.deficit.sum(axis=1) + again["open_deficit"], again["bad_debt"], rtol=1e-5)
    later = simulate(system, paths=72, first=128, chunk=128, seed=5)
    for name in whole:
        np.testing.assert_array_equal(later[name], whole[name][128:200], err_msg=name)


def test_exact_clearing_is_the_limit_of_rounds_from_below():
    last = None
    for rounds in (1, 3, 64):
        some = simulate(
            scenario(horizon="15min", positions=SortedLadder(clearing=Rounds(rounds))).build(np.float64), paths=128
        )
        if last is not None:
            assert (some["forced_notional"] >= last - 1e-6).all()
        last = some["forced_notional"]
    one = simulate(scenario(horizon="15min", positions=SortedLadder(clearing=Exact())).build(np.float64), paths=128)
    np.testing.assert_array_equal(one["forced_notional"], last)
    assert one["flag_unsettled"].max() == 0


@pytest.mark.slow
def test_limits_no_leverage_infinite_depth_infinite_fund():
    unlevered = scenario(
        book=LeverageMixture(
            accounts=50, notional=1e7, leverages=[1.0], weights=[1.0], long_share=1.0, spread=0.0, entry_deviation=0.0
        )
    )
    result = simulate(unlevered.build(np.float64), paths=64)
    assert result["forced_notional"].max() < 1e-6 * 1e7 * 64 or (result["market_fall"] > 3).any()
    deep = scenario(impact=impact.SquareRoot(impact.ConstantDepth(1e30), volatility=0.05))
    result = simulate(deep.build(np.float64), paths=64)
    np.testing.assert_allclose(result["market_fall"], result["news_fall"], atol=1e-10)
    rich = scenario(waterfall=waterfall.Waterfall(fund=1e15, deleverage="adl"))
    result = simulate(rich.build(np.float64), paths=128)
    assert result["adl_pnl"].max() == 0
    np.testing.assert_allclose(result["fund_paid"], result["bad_debt"], rtol=1e-9)


@pytest.mark.slow
def test_breaker_that_never_trips_changes_no_bit():
    plain = simulate(scenario().build(np.float64), paths=128)
    never = breaker.Halt(threshold=1.0 - 1e-9, length="5min", reference=breaker.FixedReference())
    guarded = simulate(scenario(breaker=never).build(np.float64), paths=128)
    for name in ("bad_debt", "forced_notional", "market_fall", "fund_end"):
        np.testing.assert_array_equal(plain[name], guarded[name], err_msg=name)
    assert guarded["halted_time"].max() == 0


def test_halts_let_the_backlog_grow_and_clear_at_one_price():
    halted = scenario(
        breaker=breaker.Halt(threshold=0.05, length="2h", reference=breaker.FixedReference(), cooldown="1d")
    )
    result, flow = outcomes(halted.build(np.float64), 0, np.arange(200), record=True)
    hit = result["halted_time"] > 0
    assert hit.sum() > 10
    closed = flow.halted[..., 0]
    assert np.abs(flow.volume[closed]).max() == 0.0  # nothing executes while halted
    assert np.abs(result["ledger_residual"]).max() < 1e-12


def test_throttle_caps_every_step():
    cap = 2000.0  # units per step
    throttled = scenario(breaker=breaker.Throttle(cap, "15min"))
    _, flow = outcomes(throttled.build(np.float64), 0, np.arange(200), record=True)
    _, free_flow = outcomes(scenario().build(np.float64), 0, np.arange(200), record=True)
    assert np.abs(free_flow.volume).max() > cap
    assert np.abs(flow.volume).max() <= cap * (1 + 1e-9)


def test_smooth_ladder_approaches_the_exact_one():
    exact = simulate(scenario(positions=SortedLadder()).build(np.float64), paths=512)
    smooth = simulate(scenario(positions=SmoothLadder(cells=8192)).build(np.float64), paths=512)
    for name in ("forced_notional", "market_fall", "bad_debt"):
        a, b = exact[name], smooth[name]
        assert abs(a.mean() - b.mean()) < 0.05 * a.mean(), name
        assert np.corrcoef(a, b)[0, 1] > 0.97, name
