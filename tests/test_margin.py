"""Margin schedules, their dynamics, and the prices at which they bind."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from tailrisk._fields import cast, problems
from tailrisk.margin import (
    Brackets,
    Call,
    Flat,
    LookbackFloor,
    MarginBuffer,
    StressWeight,
    Untreated,
    VolatilityScaled,
)
from tailrisk.margin import funding as fund
from tailrisk.margin import levels as lev
from tailrisk.margin import prices as pr
from tailrisk.margin import procyclicality as pro
from tailrisk.margin import statistical as st

LIQ04 = Brackets([0.0, 50e3, 250e3], [0.004, 0.005, 0.01], [125.0, 100.0, 50.0])
RAGGED = Brackets(
    [[0, 100, 1e3], [0.0, 50.0], [0]], [[0.01, 0.02, 0.05], [0.02, 0.1], [0.03]], [[50, 25, 10], [20, 5], [10]]
)
DAY = 1.0 / 365.0


def usd(*values):
    return jnp.asarray(values, float)


# ---------------------------------------------------------------- schedules


def test_liq04_deductions_and_maintenance():
    """LIQ-04: cumulative deductions 0, 50, 1300; 2700 of 400,000; COIN-M step 1.81 BTC."""
    _, deductions = LIQ04.lines()
    np.testing.assert_allclose(deductions, [[0.0, 50.0, 1300.0]], rtol=1e-14)
    np.testing.assert_allclose(LIQ04.maintenance(usd(400e3)), [2700.0], rtol=1e-15)
    coin = Brackets([0.0, 22.4, 50.0], [0.0, 0.025, 0.05], [40.0, 20.0, 10.0])  # the first step stands for the 0.56 BTC
    np.testing.assert_allclose(coin.lines()[1][0], [0.0, 0.56, 1.81], rtol=1e-14)


def test_liq11_whole_style():
    """LIQ-11: the whole notional at the rate of its tier, and no lines."""
    table = Brackets([0.0, 100e3, 1e6], [0.005, 0.01, 0.025], [100.0, 50.0, 20.0], style="whole")
    n = jnp.asarray([[50e3], [100e3], [200e3], [5e6]])
    np.testing.assert_allclose(table.maintenance(n) / n, [[0.005], [0.01], [0.01], [0.025]], rtol=1e-15)
    assert 50.0 - 1.0 >= float(table.maintenance(usd(99.0))[0]) == pytest.approx(0.495)
    with pytest.raises(ValueError, match="Accounts kernel"):
        table.lines()
    bracket = dataclasses.replace(table, style="bracket")
    assert (np.asarray(bracket.maintenance(n))[2:] < np.asarray(table.maintenance(n))[2:]).all()


def test_lines_equal_sum_of_relus_on_ragged_tables():
    """max_k(rate n - deduction) is the sum of relus, padding adds nothing, at any leading axes."""
    n = jnp.asarray(np.random.default_rng(0).uniform(0.0, 3e3, (40, 7, 3)))
    rates, deductions = RAGGED.lines()
    by_lines = np.max(rates * np.asarray(n)[..., None] - deductions, axis=-1)
    np.testing.assert_allclose(RAGGED.maintenance(n), by_lines, atol=1e-12, rtol=1e-12)
    for asset, tiers in enumerate((3, 2, 1)):
        alone = Brackets(
            *(np.asarray(t)[asset, :tiers] for t in (RAGGED.floors, RAGGED.maintenance_rates, RAGGED.max_leverage))
        )
        np.testing.assert_allclose(
            alone.maintenance(n[..., asset : asset + 1])[..., 0], by_lines[..., asset], atol=1e-12
        )
        np.testing.assert_array_equal(alone.initial(n[..., asset : asset + 1])[..., 0], RAGGED.initial(n)[..., asset])


def test_maintenance_is_continuous_and_convex_at_tier_edges():
    """R05 (a): no jump at any edge to 1e-6, and slopes never fall."""
    for edge in (50e3, 250e3):
        below, at, above = np.asarray(LIQ04.maintenance(jnp.asarray([[edge - 1e-5], [edge], [edge + 1e-5]])))[:, 0]
        assert abs(at - below) < 1e-6
        assert abs(above - at) < 1e-6
        assert above - at >= at - below - 1e-9
    n = jnp.linspace(0.0, 1e6, 4001)
    slope = np.diff(np.asarray(LIQ04.maintenance(n[:, None]))[:, 0])
    assert (np.diff(slope) > -1e-9).all()


@pytest.mark.parametrize("initial_style", ["whole", "bracket"])
def test_maintenance_never_exceeds_initial(initial_style):
    """A position that may be opened is healthy, at every size, under a table that passes its checks."""
    table = dataclasses.replace(LIQ04, initial_style=initial_style)
    assert not list(problems(table))
    n = jnp.linspace(0.0, 1e6, 4001)[:, None]
    assert bool(jnp.all(table.maintenance(n) <= table.initial(n)))
    assert float(pro.cushion(table.initial(n), table.maintenance(n))[1, 0]) == pytest.approx(1.0)


WRONG = {
    "unsorted": (Brackets([0, 2e3, 1e3], [0.01, 0.02, 0.05], [50, 25, 10]), "floors", "sort tiers"),
    "repeated": (Brackets([0, 1e3, 1e3], [0.01, 0.02, 0.05], [50, 25, 10]), "floors", "sort tiers"),
    "first": (Brackets([5, 1e3], [0.01, 0.02], [50, 25]), "floors", "expected 0"),
    "falling": (Brackets([0, 1e3], [0.02, 0.01], [25, 25]), "maintenance_rates", "never fall"),
    "leverage": (Brackets([0, 1e3], [0.01, 0.02], [20, 25]), "max_leverage", "never rises"),
    "above initial": (Brackets([0, 1e3], [0.01, 0.05], [50, 25]), "maintenance_rates", "above its initial rate 1/25"),
    "second asset": (
        Brackets([[0, 9], [0]], [[0.01, 0.02], [0.2]], [[9, 9], [9]]),
        "maintenance_rates",
        "asset 1: tier 0",
    ),
    "nan": (Brackets([0, 1e3], [0.01, np.nan], [50, 25]), "maintenance_rates", "not nan"),
    "negative": (Brackets([0, 1e3], [-0.01, 0.01], [50, 25]), "maintenance_rates", ">= 0"),
    "styles": (dataclasses.replace(LIQ04, style="whole", initial_style="bracket"), "initial_style", "whole"),
    "flat": (Flat(0.1, 0.05), "maintenance_rate", "above the initial rate"),
    "scaled floor": (VolatilityScaled(Flat(0.1, 0.2), floor=10.0), "floor", "never healthy"),
    "weight": (VolatilityScaled(Flat(0.1, 0.2), StressWeight(0.9, weight=1.5)), "tool.weight", "<= 1"),
    "call": (Call(calm=1.2), "calm", "<= 1"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_tables_are_refused(name):
    """Each complaint names the field, the value and what was expected."""
    tree, field, text = WRONG[name]
    lines = list(problems(tree))
    assert any(line.startswith(field) and text in line for line in lines), lines


def test_wrong_structure_is_refused():
    with pytest.raises(ValueError, match="as many tiers"):
        Brackets([0.0, 1.0], [0.01], [10.0])
    with pytest.raises(ValueError, match="did you mean 'whole'"):
        Brackets([0.0], [0.01], [10.0], style="hole")
    with pytest.raises(ValueError, match="static schedule"):
        VolatilityScaled(VolatilityScaled(Flat(0.01, 0.1)))
    with pytest.raises(ValueError, match="one number per asset"):
        Flat([[0.01]], 0.1)
    scaled = VolatilityScaled(Flat(0.01, 0.1))
    with pytest.raises(ValueError, match="one number per asset"):
        scaled.update(scaled.init(jnp.float64), jnp.zeros(2), DAY)


SCHEDULES = {
    "Flat": Flat([0.01, 0.02, 0.03], 0.1),
    "Brackets": RAGGED,
    "VolatilityScaled": VolatilityScaled(RAGGED, MarginBuffer(0.8), reference=[0.6, 0.7, 0.8]),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_float32_agrees_and_keeps_its_dtype(name):
    """A cast tree runs in float32 through and through, under strict promotion, with a fixed state."""
    notional = np.random.default_rng(1).uniform(0.0, 3e3, (5, 3))
    out = []
    for dtype in (jnp.float32, jnp.float64):
        margin = cast(SCHEDULES[name], dtype)
        state = margin.init(dtype, 3)
        new = margin.update(state, jnp.full(3, 0.05, dtype), jnp.asarray(DAY, dtype))
        assert jax.tree.map(jnp.shape, new) == jax.tree.map(jnp.shape, state)
        n = jnp.asarray(notional, dtype)
        out.append([margin.maintenance(n), margin.initial(n), *margin.lines(), margin.level(new)])
        assert all(x.dtype == dtype for x in out[-1])
    for low, high in zip(*out, strict=True):
        np.testing.assert_allclose(low, high, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", SCHEDULES)
def test_host_arithmetic_stays_in_numpy(name):
    """An uncast tree answers NumPy with NumPy float64, so a book does not depend on the precision of JAX."""
    margin, notional = SCHEDULES[name], np.full((2, 3), 500.0)
    for value in (margin.maintenance(notional), margin.initial(notional), *margin.lines()):
        assert isinstance(value, np.ndarray)
    np.testing.assert_allclose(margin.initial(notional), margin.initial(jnp.asarray(notional)), rtol=1e-14)


def test_tables_are_swept_and_differentiated_with_one_trace():
    """Rates and floors are traced numbers; MM_n is the rate of the tier, and dMM/dr_k the notional above the floor."""

    @eqx.filter_jit
    @eqx.debug.assert_max_traces(max_traces=1)
    def gradient(margin, n):
        return jax.grad(lambda m, n: jnp.sum(m.maintenance(n)), argnums=(0, 1))(margin, n)

    for scale in (1.0, 1.1):
        tree = cast(
            dataclasses.replace(LIQ04, maintenance_rates=np.asarray(LIQ04.maintenance_rates) * scale), jnp.float64
        )
        by_table, by_n = gradient(tree, usd(400e3))
        np.testing.assert_allclose(by_n, [0.01 * scale], rtol=1e-14)
        np.testing.assert_allclose(by_table.maintenance_rates, [[50e3, 200e3, 150e3]], rtol=1e-14)


# ---------------------------------------------------------------- volatility


def history(steps=2000, seed=5):
    """Daily log returns of one asset: a volatility of 40 %, a tenth of the time 130 % from one day to the next."""
    rng = np.random.default_rng(seed)
    t = np.arange(steps) / steps
    return np.where((t > 0.5) & (t < 0.6), 1.3, 0.4) * np.sqrt(DAY) * rng.standard_normal(steps)


def margin_path(margin, returns):
    margin = cast(margin, jnp.float64)

    def step(state, r):
        state = margin.update(state, r, jnp.asarray(DAY))
        return state, margin.level(state) * margin.initial(jnp.ones(1))

    return np.asarray(jax.lax.scan(step, margin.init(jnp.float64), jnp.asarray(returns)[:, None])[1])


def scaled(tool, **fields):
    return VolatilityScaled(Flat(0.02, 0.1), tool, half_life="10d", reference=0.5, **({"floor": 0.0} | fields))


def test_ewma_matches_its_recursion():
    returns = history(50)
    variance = 0.25
    for r in returns:
        weight = 2.0 ** (-1.0 / 10.0)
        variance = weight * variance + (1.0 - weight) * r**2 / DAY
    path = margin_path(scaled(Untreated()), returns)
    np.testing.assert_allclose(path[-1], 0.1 * np.sqrt(variance) / 0.5, rtol=1e-12)


def test_k_sigma_form():
    """m^I = max(floor i, k sigma sqrt(h)): starts at the initial rate of the first tier, then follows volatility."""
    tool = scaled(Untreated(), form="k_sigma", k=4.0, horizon="2d", floor=0.9)
    start = cast(tool, jnp.float64)
    np.testing.assert_allclose(start.level(start.init(jnp.float64)), [1.0], rtol=1e-12)
    reference = 0.1 / (4.0 * np.sqrt(2.0 * DAY))
    np.testing.assert_allclose(start.reference_volatility(), [reference], rtol=1e-12)
    path, returns, variance = margin_path(tool, history(300))[:, 0], history(300), reference**2
    for t, r in enumerate(returns):
        weight = 2.0 ** (-0.1)
        variance = weight * variance + (1.0 - weight) * r**2 / DAY
        assert path[t] == pytest.approx(max(0.09, 4.0 * np.sqrt(variance) * np.sqrt(2.0 * DAY)), rel=1e-10)


def test_margin_does_not_see_the_future():
    """A change of later returns leaves earlier margins alone."""
    returns = history(200)
    changed = returns.copy()
    changed[120:] *= 5.0
    a, b = (margin_path(scaled(Untreated()), r) for r in (returns, changed))
    np.testing.assert_array_equal(a[:120], b[:120])
    assert (a[120:] != b[120:]).all()


def test_lookback_floor_lowers_the_call_and_raises_the_mean():
    """R05 (e): strictly, on a path through a burst of volatility; peak-to-trough falls as well."""
    returns = history()
    plain, floored = (margin_path(scaled(tool), returns) for tool in (Untreated(), LookbackFloor(0.55)))
    assert (floored >= plain).all()
    assert floored.mean() > plain.mean()
    for days in (5, 20, 60):
        assert pro.largest_call(floored, days)[0] < pro.largest_call(plain, days)[0]
    assert pro.peak_to_trough(floored)[0] < pro.peak_to_trough(plain)[0]


@pytest.mark.parametrize("tool", [MarginBuffer(0.8), StressWeight(1.2)])
def test_buffer_and_stress_weight_damp_the_cycle(tool):
    """Both raise calm margin and shrink the ratio of peak to trough."""
    returns = history()
    plain, treated = margin_path(scaled(Untreated()), returns), margin_path(scaled(tool), returns)
    assert treated.mean() > plain.mean()
    assert pro.peak_to_trough(treated)[0] < pro.peak_to_trough(plain)[0]


def test_tools_by_hand():
    vol = usd(0.4, 0.9, 2.0)
    np.testing.assert_allclose(MarginBuffer(0.8).charged(vol), [0.5, 1.0, 2.0])
    np.testing.assert_allclose(LookbackFloor(0.7).charged(vol), [0.7, 0.9, 2.0])
    np.testing.assert_allclose(StressWeight(1.0, weight=0.25).charged(vol), np.sqrt(0.75 * np.asarray(vol) ** 2 + 0.25))
    for tool in (MarginBuffer(0.8, share=0.0), StressWeight(1.0, weight=0.0), LookbackFloor(1e-9)):
        np.testing.assert_allclose(tool.charged(vol), vol)


def test_call_probability_falls_in_a_crash():
    call = cast(Call(grace="4h"), jnp.float64)
    np.testing.assert_allclose(call.probability(jnp.asarray([0.0, 0.5, 1.0])), [0.3, 0.175, 0.05])
    assert float(call.grace) == pytest.approx(4.0 / 8760.0)


# ---------------------------------------------------------------- liquidation and bankruptcy prices

BINANCE = dict(entry=1456.84, quantity=3683.979, cash=1535443.01, rates=0.1, deductions=135365.0)
OTHERS = dict(other_maintenance=71200.81144, other_profit=-56354.57)
K4 = dict(entry=60000.0, rates=0.004)
COIN = dict(entry=7890.08, contract="inverse", mm_basis="entry")
V = 1.0 / 7890.08  # coin value of one contract at entry
SWITCHES = ("contract", "mm_basis", "mode", "tick_rounding")
LIQ = jax.jit(pr.liquidation_price, static_argnames=SWITCHES)
BKR = jax.jit(pr.bankruptcy_price, static_argnames=("contract", "mode", "tick_rounding"))
PRICES = {
    "K4": (lambda: LIQ(quantity=1.0, cash=6000.0, **K4), 54216.87, 0.005),
    "LIQ-02": (lambda: LIQ(**BINANCE), 1114.7850, 5e-5),
    "LIQ-02-forced": (lambda: LIQ(**BINANCE, **OTHERS), 1114.7850, 5e-5),
    "LIQ-02-published": (lambda: LIQ(**BINANCE, tick=0.01, tick_rounding="down"), 1114.78, 1e-9),
    "LIQ-03": (lambda: LIQ(**BINANCE, **OTHERS, mode="cross"), 1153.2565, 5e-5),
    "LIQ-05-pB": (lambda: BKR(7890.08, 1.0, V / 50, contract="inverse"), 7735.3725, 5e-5),
    "LIQ-05-pL": (lambda: LIQ(quantity=1.0, cash=V / 50, rates=0.005, **COIN), 7773.4778, 5e-5),
    "LIQ-05-pB-up": (lambda: BKR(7890.08, 1.0, V / 50, contract="inverse", tick=0.5, tick_rounding="up"), 7735.5, 0.0),
    "LIQ-05-pL-up": (
        lambda: LIQ(quantity=1.0, cash=V / 50, rates=0.005, **COIN, tick=0.5, tick_rounding="up"),
        7773.5,
        0.0,
    ),
    "LIQ-05-mark": (
        lambda: LIQ(7890.08, 1.0, V / 50, 0.005, contract="inverse", mm_basis="mark"),
        7774.0494,
        5e-5,
    ),
    "LIQ-05-short": (
        lambda: LIQ(quantity=-1.0, cash=V / 50, rates=0.005, **COIN),
        7890.08 * 50 / (50 - 1 + 0.005 * 50),
        1e-8,
    ),
    "LIQ-06": (lambda: BKR(10000.0, 1.0, 200.0), 9800.0, 0.0),
    "LIQ-06-up": (lambda: BKR(10000.0, 1.0, 10000.0 / 50.0, tick=0.1, tick_rounding="up"), 9800.0, 1e-9),
    "LIQ-07-long": (lambda: pr.liquidation_price_at_mark(100.0, 10.0, 50.0, 1 / 80), 96.2025316, 5e-8),
    "LIQ-07-short": (lambda: pr.liquidation_price_at_mark(100.0, -10.0, 50.0, 1 / 80), 103.7037037, 5e-8),
    "LIQ-07-pB-long": (lambda: BKR(100.0, 10.0, 50.0), 95.0, 0.0),
    "LIQ-07-pB-short": (lambda: BKR(100.0, -10.0, 50.0), 105.0, 0.0),
    "LIQ-08-mark-long": (lambda: LIQ(quantity=1.0, cash=6000.0, **K4), 54216.86747, 5e-6),
    "LIQ-08-mark-short": (lambda: LIQ(quantity=-1.0, cash=6000.0, **K4), 65737.05179, 5e-6),
    "LIQ-08-entry-long": (lambda: LIQ(quantity=1.0, cash=6000.0, mm_basis="entry", **K4), 54240.0, 1e-9),
    "LIQ-08-entry-short": (lambda: LIQ(quantity=-1.0, cash=6000.0, mm_basis="entry", **K4), 65760.0, 1e-9),
    "LIQ-09-0": (lambda: pr.liquidation_price_with_slippage(100.0, 10.0, 200.0, 0.0, 0.1), 88.8888889, 5e-8),
    "LIQ-09-5": (lambda: pr.liquidation_price_with_slippage(100.0, 10.0, 200.0, 0.05, 0.1), 94.1176471, 5e-8),
    "LIQ-09-rich": (lambda: pr.liquidation_price_with_slippage(100.0, 10.0, 1000.0, 0.05, 0.1), 0.0, 0.0),
    "LIQ-12-long": (lambda: pr.bankruptcy_quote(-5000.0, -500.0, 499.0, 500.0), 4501.0, 1e-12),
    "LIQ-12-short": (lambda: pr.bankruptcy_quote(5000.0, -500.0, 499.0, 500.0), -5499.0, 1e-12),
    "R05-inverse-cross-pB": (
        lambda: BKR(8000.0, 100.0, 0.002, contract="inverse", mode="cross", closing_fee=0.00075),
        100 * 1.00075 / (0.002 + 100 / 8000),
        1e-9,
    ),
    "R05-inverse-cross-pL": (
        lambda: LIQ(8000.0, 100.0, 0.002, 0.005, contract="inverse", mm_basis="entry", closing_fee=0.00075),
        100 * 1.00075 / (0.002 + 100 / 8000 - 0.005 * 1.00075 * 100 / 8000),
        1e-9,
    ),
    "R05-L1-never": (lambda: LIQ(100.0, 10.0, 1000.0, 0.01), 0.0, 0.0),
    "R05-L1-inverse-short-never": (lambda: LIQ(100.0, -10.0, 0.1, 0.01, contract="inverse"), jnp.inf, 0.0),
    "R05-IM-is-MM": (lambda: LIQ(100.0, 10.0, 40.0, 0.04), 100.0, 1e-12),
    "empty-position": (lambda: LIQ(100.0, 0.0, 0.0, 0.04), 0.0, 0.0),
    "level-above-one": (lambda: LIQ(100.0, 1.0, 50.0, 1.2), jnp.inf, 0.0),
}


@pytest.mark.parametrize("case", PRICES)
def test_prices(case):
    compute, expected, tolerance = PRICES[case]
    np.testing.assert_allclose(compute(), expected, atol=tolerance + 1e-15 * abs(expected), rtol=0)


def test_liq07_equity_is_maintenance_at_the_price():
    """LIQ-07: at the long p^L equity and maintenance are both 12.0253165; the mark form agrees with the entry form."""
    price = float(pr.liquidation_price_at_mark(100.0, 10.0, 50.0, 1 / 80))
    assert 50.0 + 10.0 * (price - 100.0) == pytest.approx(12.0253165, abs=5e-8)
    assert 10.0 * price / 80.0 == pytest.approx(12.0253165, abs=5e-8)
    moved = pr.liquidation_price_at_mark(98.0, 10.0, 50.0 + 10.0 * (98.0 - 100.0), 1 / 80)
    np.testing.assert_allclose([moved, LIQ(100.0, 10.0, 50.0, 1 / 80)], price, rtol=1e-14)


def test_liq01_five_accounts():
    """LIQ-01: leverage, open interest, funding, equity, bankruptcy and liquidation prices of five accounts."""
    size, cash = usd(1, 1, 4, 1, 1), usd(2, 2 / 3, 8 / 3, 2 / 19, 10 / 99)
    quantity = size * usd(1, 1, -1, 1, -1)
    ones = jnp.ones(5)
    np.testing.assert_allclose(fund.leverage(quantity, 1.0, cash), [0.5, 1.5, 1.5, 9.5, 9.9], rtol=1e-12)
    np.testing.assert_allclose(fund.leverage(quantity, 1.4, cash), [0.7, 2.1, 2.1, 13.3, 13.86], rtol=1e-12)
    np.testing.assert_allclose(fund.open_interest(quantity, 1.0), (3.0, 5.0))
    long, short = fund.open_interest(quantity, 1.4)
    np.testing.assert_allclose((long, short), (4.2, 7.0))
    rate = fund.funding_rate(long, short, 1.4, 1.5)
    np.testing.assert_allclose(rate, -1 / 3)
    paid = fund.funding_cash(rate, 1.4, quantity)
    np.testing.assert_allclose(paid, [-0.466667, -0.466667, 1.866667, -0.466667, 0.466667], atol=5e-7)
    np.testing.assert_allclose(jnp.sum(paid), 0.933333, atol=5e-7)
    equity = cash + quantity * (1.4 - ones) + paid
    np.testing.assert_allclose(equity, [1.9333333, 0.6, 2.9333333, 0.0385964912, 0.1676767677], atol=5e-8)
    breached = equity < Flat(0.10, 1.0).maintenance(size * 1.4)
    np.testing.assert_array_equal(breached, [False, False, False, True, False])
    bankrupt = [0, 1 / 3, 5 / 3, 0.8947368421, 1.1010101010]
    np.testing.assert_allclose(BKR(ones, quantity, cash), bankrupt, atol=5e-11)
    liquidated = [0, 0.3703703704, 1.5151515152, 0.9941520468, 1.0009182736]
    np.testing.assert_allclose(LIQ(ones, quantity, cash, 0.10), liquidated, atol=5e-11)


def shortfall(p, entry, quantity, pool, rates, deductions, contract, basis, fee):
    """Equity net of the closing fee minus maintenance at a price, written independently of the roots."""
    size = np.abs(quantity)
    if contract == "linear":
        profit, notional, at_entry = quantity * (p - entry), size * p, size * entry
    else:
        profit, notional, at_entry = quantity * (1 / entry - 1 / p), size / p, size / entry
    base, factor = (notional, 1.0) if basis == "mark" else (at_entry, 1.0 + fee)
    return pool + profit - fee * notional - factor * np.max(rates * base[:, None] - deductions, axis=-1)


@pytest.mark.parametrize("contract", ["linear", "inverse"])
@pytest.mark.parametrize("basis", ["mark", "entry"])
@pytest.mark.parametrize("mode", ["isolated", "cross"])
def test_price_solves_equity_equals_maintenance(contract, basis, mode):
    """|E - MM| at p^L is below 1e-10 of notional on random positions; a long is healthy above, a short below."""
    rng = np.random.default_rng(3)
    count = 500
    entry, quantity = rng.uniform(50.0, 200.0, count), rng.uniform(1.0, 5e3, count) * rng.choice([-1.0, 1.0], count)
    notional = np.abs(quantity) * (entry if contract == "linear" else 1.0 / entry)
    cash, others = notional * rng.uniform(0.1, 0.5, count), notional * rng.uniform(0.0, 0.04, (2, count))
    table = Brackets(np.asarray([0.0, 0.2, 0.5]) * notional.max(), [0.01, 0.02, 0.05], [50.0, 25.0, 10.0])
    rates, deductions = (np.asarray(t)[0] for t in table.lines())
    fee = 0.0005
    price = np.asarray(
        LIQ(
            entry, quantity, cash, rates, deductions, contract=contract, mm_basis=basis, mode=mode,
            other_maintenance=others[0], other_profit=others[1], closing_fee=fee,
        )
    )  # fmt: skip
    pool = cash + (others[1] - others[0]) * (mode == "cross")
    assert np.isfinite(price).all()
    assert (price > 0).all()
    args = (entry, quantity, pool, rates, deductions, contract, basis, fee)
    assert (np.abs(shortfall(price, *args)) / notional < 1e-10).all()
    side = np.sign(quantity)
    assert (shortfall(price * np.exp(1e-4 * side), *args) > 0).all()
    assert (shortfall(price * np.exp(-1e-4 * side), *args) < 0).all()
    levels = np.asarray(
        BKR(entry, quantity, cash, contract=contract, mode=mode, other_profit=others[1], closing_fee=fee)
    )
    assert (side * (price - levels) > 0).all(), "a position is liquidated before it is bankrupt"


@pytest.mark.parametrize("contract", ["linear", "inverse"])
@pytest.mark.parametrize("basis", ["mark", "entry"])
def test_gradient_of_liquidation_price(contract, basis):
    """dp^L/d(rates, cash, entry, fee) by autodiff against central differences; scales of the tiers differ."""
    entry, quantity = usd(100.0, 110.0, 90.0), usd(30.0, -20.0, 5.0)
    unit = 1.0 if contract == "linear" else 1e-4
    deductions = usd(0.0, 3.0, 10.0) * unit

    def price(rates, cash, entry, fee):
        switches = dict(contract=contract, mm_basis=basis)
        return jnp.sum(LIQ(entry, quantity, cash, rates, deductions, closing_fee=fee, **switches))

    at = [usd(0.005, 0.01, 0.02), usd(600.0, 500.0, 100.0) * unit, entry, jnp.asarray(0.0005)]
    gradients = jax.jit(jax.grad(price, argnums=(0, 1, 2, 3)))(*at)
    for i, gradient in enumerate(gradients):
        for j in range(at[i].size):
            step = 1e-6 * max(abs(float(at[i].reshape(-1)[j])), 1e-3 * unit)
            ends = []
            for sign in (1.0, -1.0):
                moved = list(at)
                moved[i] = at[i].reshape(-1).at[j].add(sign * step).reshape(at[i].shape)
                ends.append(float(price(*moved)))
            difference = (ends[0] - ends[1]) / (2.0 * step)
            assert float(gradient.reshape(-1)[j]) == pytest.approx(difference, rel=1e-5, abs=1e-7 * abs(ends[0]))


def test_prices_broadcast_over_groups_and_assets():
    """Tables of `lines()`, (assets, tiers), go with positions (groups, assets); unknown switches name their options."""
    rates, deductions = RAGGED.lines()
    rng = np.random.default_rng(4)
    entry, quantity = rng.uniform(5.0, 9.0, (4, 3)), rng.uniform(-300.0, 300.0, (4, 3))
    cash = 0.3 * entry * np.abs(quantity)
    whole = np.asarray(LIQ(entry, quantity, cash, rates, deductions))
    for g in range(4):
        for a in range(3):
            one = LIQ(entry[g, a], quantity[g, a], cash[g, a], rates[a], deductions[a])
            np.testing.assert_allclose(one, whole[g, a], rtol=1e-13)
    with pytest.raises(ValueError, match="linear, inverse"):
        LIQ(1.0, 1.0, 0.1, 0.01, contract="quanto")


# ---------------------------------------------------------------- margin levels and funding


def test_liq10_margin_levels_and_funding_part():
    """LIQ-10."""
    base = lev.slippage_maintenance(15900.0, 0.25, 0.1)
    np.testing.assert_allclose(base, 5565.0, rtol=1e-15)
    assert [float(x) for x in lev.margin_levels(4879.0, rounding="down")] == [4879.0, 5854.0, 7318.0, 9758.0]
    payment = fund.premium_funding(1590.0, 1600.0, 0.002, 0.05)
    np.testing.assert_allclose(payment, 0.16, atol=1e-12)
    np.testing.assert_allclose(556.5 + fund.funding_margin(1.0, payment), 556.58, rtol=1e-14)
    for venue, clamp, expected, long, short in (
        (1500.0, {"upper": 0.05}, -20.0, 525.0, 535.0),
        (1700.0, {"lower": -0.05}, 20.0, 605.0, 595.0),
    ):
        payment = fund.premium_funding(venue, 1600.0, 0.002, 0.05, **clamp)
        np.testing.assert_allclose(payment, expected, atol=1e-10)
        sides = 0.35 * venue + fund.funding_margin(usd(1.0, -1.0), payment)
        np.testing.assert_allclose(sides, [long, short], atol=1e-9)


def test_margin_ratio_in_both_conventions():
    np.testing.assert_allclose(lev.margin_ratio(1200.0, 900.0, ratio="maintenance/equity"), 0.75)
    np.testing.assert_allclose(lev.margin_ratio(1200.0, 900.0), 4.0 / 3.0)


# ---------------------------------------------------------------- statistical margin

T_TAIL = jax.jit(st.student_t_tail, static_argnames="scaling")
T_QUANTILE = jax.jit(st.student_t_quantile)
FACTORS = jax.jit(st.lognormal_risk_factors)
STATISTICS = {
    "PM-05-long": (lambda x: FACTORS(x(1.0), x(0.001), x(1e-6))[0], 0.1452637352, 5e-11),
    "PM-05-short": (lambda x: FACTORS(x(1.0), x(0.001), x(1e-6))[1], 0.1688236885, 5e-11),
    "TAIL-01-P5": (lambda x: st.breach_probability(x(0.05), x(0.04)), 0.1056498, 5e-8),
    "TAIL-01-P10": (lambda x: st.breach_probability(x(0.10), x(0.04)), 0.00620967, 5e-9),
    "TAIL-01-P15": (lambda x: st.breach_probability(x(0.15), x(0.04)), 8.84173e-5, 5e-11),
    "TAIL-01-E5": (lambda x: st.uncovered_loss(x(0.05), x(0.04)), 2.023475e-3, 5e-10),
    "TAIL-01-E10": (lambda x: st.uncovered_loss(x(0.10), x(0.04)), 8.016549e-5, 5e-12),
    "TAIL-01-E15": (lambda x: st.uncovered_loss(x(0.15), x(0.04)), 8.412345e-7, 5e-14),
    "TAIL-03-normal-VaR": (lambda x: st.normal_tail(x(0.04), x(0.99))[0], 0.0930539, 5e-8),
    "TAIL-03-normal-ES": (lambda x: st.normal_tail(x(0.04), x(0.99))[1], 0.1066086, 5e-8),
    "TAIL-03-t-VaR": (
        lambda x: T_TAIL(x(0.04), x(0.99), x(3.0), scaling="unit_variance")[0],
        0.1048630,
        5e-8,
    ),
    "TAIL-03-t-ES": (
        lambda x: T_TAIL(x(0.04), x(0.99), x(3.0), scaling="unit_variance")[1],
        0.1617293,
        5e-8,
    ),
    "TAIL-04": (lambda x: st.block_maxima_margin(x(0.03), x(0.01), x(0.25), x(0.10)), 0.0602086, 5e-8),
    "TAIL-05-VaR": (
        lambda x: st.peaks_over_threshold_tail(x(0.05), x(0.015), x(0.3), x(0.02), x(0.99))[0],
        0.0615572,
        5e-8,
    ),
    "TAIL-05-ES": (
        lambda x: st.peaks_over_threshold_tail(x(0.05), x(0.015), x(0.3), x(0.02), x(0.99))[1],
        0.0879389,
        5e-8,
    ),
    "TAIL-07-quantile": (lambda x: T_QUANTILE(x(0.99), x(6.0)), 3.1426684033, 5e-11),
    "TAIL-07-factor": (lambda x: T_TAIL(x(1.0), x(0.99), x(6.0))[1], 4.0325276795, 5e-11),
    "TAIL-07-margin": (lambda x: x(1000.0) * T_TAIL(x(0.02), x(0.99), x(6.0))[1], 80.6505535902, 5e-11),
}


@pytest.mark.parametrize("case", STATISTICS)
def test_statistics(case):
    """Last printed digit in float64; 1e-5 relative in float32."""
    compute, expected, tolerance = STATISTICS[case]
    np.testing.assert_allclose(compute(jnp.float64), expected, atol=tolerance, rtol=0)
    single = compute(jnp.float32)
    assert single.dtype == jnp.float32
    np.testing.assert_allclose(single, expected, rtol=1e-5)


@pytest.mark.parametrize(("margin", "lognormal"), [(0.05, 1.842481e-3), (0.10, 4.981530e-5), (0.15, 1.989273e-7)])
def test_tail01_uncovered_loss_and_gradient(margin, lognormal):
    """TAIL-01: lognormal column (float64 only: a put is a difference of near-equal numbers), and dE/dm = -P(L > m)."""
    np.testing.assert_allclose(st.uncovered_loss(margin, 0.04, law="lognormal"), lognormal, rtol=5e-7)
    np.testing.assert_allclose(
        jax.grad(st.uncovered_loss)(margin, 0.04), -st.breach_probability(margin, 0.04), rtol=1e-10
    )


def test_student_quantile_over_a_grid():
    """Against SciPy from the median far into heavy and light tails, and its derivative 1 / density."""
    level, degrees = np.meshgrid([0.5, 0.6, 0.9, 0.99, 0.9999, 1.0 - 1e-7], [1.0, 1.5, 3.0, 6.0, 30.0, 200.0])
    np.testing.assert_allclose(T_QUANTILE(level, degrees), stats.t.ppf(level, degrees), rtol=1e-7, atol=1e-12)
    slope = jax.grad(lambda p: T_QUANTILE(p, 6.0))(0.99)
    np.testing.assert_allclose(slope, 1.0 / stats.t.pdf(stats.t.ppf(0.99, 6.0), 6.0), rtol=1e-10)


def test_extreme_value_limits():
    """Shape 0 is the Gumbel and the exponential limit, smoothly, with finite derivatives."""
    gumbel = 0.03 - 0.01 * np.log(-np.log(0.9))
    exponential = 0.05 + 0.015 * np.log(2.0)
    for shape in (0.0, 1e-9, 0.99e-4, 1.01e-4):
        np.testing.assert_allclose(st.block_maxima_margin(0.03, 0.01, shape, 0.1), gumbel, rtol=2e-4)
        tail = st.peaks_over_threshold_tail(0.05, 0.015, shape, 0.02, 0.99)
        np.testing.assert_allclose(tail.value_at_risk, exponential, rtol=2e-4)
    below, above = (jax.grad(st.block_maxima_margin, argnums=2)(0.03, 0.01, s, 0.1) for s in (0.99e-4, 1.01e-4))
    np.testing.assert_allclose(below, above, rtol=1e-4)
    reference = stats.genextreme.ppf(0.9, -0.25, loc=0.03, scale=0.01)
    np.testing.assert_allclose(st.block_maxima_margin(0.03, 0.01, 0.25, 0.1), reference, rtol=1e-12)


def kupiec(exceptions, days, probability):
    """Likelihood ratio of the unconditional coverage test, chi-square with one degree of freedom."""
    share = exceptions / days
    null = stats.binom.logpmf(exceptions, days, probability)
    return 2.0 * (stats.binom.logpmf(exceptions, days, share) - null)


def test_normal_margin_covers_99_percent():
    """R05 (d): 99 % normal quantiles stay within Kupiec's 95 % band; a 97.5 % margin leaves it."""
    days = 20000
    loss = 0.04 * np.random.default_rng(6).standard_normal(days)
    margin = float(st.normal_tail(0.04, 0.99).value_at_risk)
    assert kupiec(int((loss > margin).sum()), days, 0.01) < stats.chi2.ppf(0.95, 1)
    short = float(st.normal_tail(0.04, 0.975).value_at_risk)
    assert kupiec(int((loss > short).sum()), days, 0.01) > stats.chi2.ppf(0.95, 1)
