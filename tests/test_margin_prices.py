"""Prices at which margin binds, published margin levels and funding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tailrisk.margin import Brackets, Flat
from tailrisk.margin import funding as fund
from tailrisk.margin import levels as lev
from tailrisk.margin import prices as pr

RAGGED = Brackets(
    [[0, 100, 1e3], [0.0, 50.0], [0]], [[0.01, 0.02, 0.05], [0.02, 0.1], [0.03]], [[50, 25, 10], [20, 5], [10]]
)


def usd(*values):
    return jnp.asarray(values, float)


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
