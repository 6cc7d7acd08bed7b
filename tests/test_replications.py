"""Models of the replications: known answers, limit cases and money, at sizes that are exact or quick."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT

from tailrisk.study import published


def module(name):
    return published.find(name, ROOT / "experiments").module


def config(name, **more):
    return published.find(name, ROOT / "experiments").config(True, **more)


FIRESALE, BASEL, DEFI = (module(name) for name in ("firesale", "basel-cycle", "defi-default"))


@pytest.fixture(scope="module")
def four_banks():
    """NET-01: four banks by CET1, leverage ratio, debt securities and government bonds."""
    rows = np.array(
        [[45.0, 4.5, 300.0, 200.0], [60.0, 6.0, 400.0, 250.0], [40.0, 4.0, 250.0, 100.0], [70.0, 7.0, 200.0, 50.0]]
    )
    return FIRESALE.Banks.of(*rows.T)


def test_four_banks_sell_out(four_banks):
    """NET-01: leverage after the shock and the first step, defaults, prices, final equities; money is conserved."""
    done = FIRESALE.stress(four_banks, shock=0.05, impact=0.05, buffer=0.04)
    np.testing.assert_allclose(done.ratios[0], [0.0353535354, 0.0481012658, 0.0351758794, 0.0676691729], atol=1e-10)
    np.testing.assert_allclose(done.ratios[1], done.ratios[0], rtol=1e-14)  # cash pays debt: no default, prices stand
    assert done.defaults.tolist() == [0, 4, 4, 4, 4, 4]
    np.testing.assert_allclose(done.price, [0.3405616263, 0.3584859224], atol=1e-10)
    np.testing.assert_allclose(done.equity, [-33.31253972, -146.53897418, -8.74639157, -30.92949671], atol=1e-8)
    assert done.share == pytest.approx(1.0, abs=1e-14)
    assert abs(done.residual) < 1e-10


def test_fire_sale_limits(four_banks):
    """No shock and a low threshold: nothing happens. No impact: prices stand. Any order of banks: the same."""
    still = FIRESALE.stress(four_banks, 0.0, 0.05, 0.035)
    assert still.share == 0.0
    assert still.defaults[-1] == 0
    np.testing.assert_array_equal(still.price, [1.0, 1.0])
    free = FIRESALE.stress(four_banks, 0.2, 0.0, 0.04)
    np.testing.assert_allclose(free.price, [0.8, 1.0], rtol=1e-15)
    assert free.defaults[0] == free.defaults[-1]  # the first round alone
    order = [2, 0, 3, 1]
    mixed = FIRESALE.stress(FIRESALE.Banks(*(part[order] for part in four_banks)), 0.05, 0.05, 0.04)
    ours = FIRESALE.stress(four_banks, 0.05, 0.05, 0.04)
    np.testing.assert_allclose(mixed.equity, ours.equity[order], rtol=1e-12)
    np.testing.assert_array_equal(mixed.defaults, ours.defaults)
    assert mixed.share == ours.share


def test_bank_table_is_checked(tmp_path):
    """A table with other totals is not the table of the EBA."""
    file = tmp_path / "EBA_2018.csv"
    file.write_text("bank_id,CET1E,leverage,debt_sec,govbonds\nXX01 100 5.0 50 10+20\n")
    with pytest.raises(published.ConfigError, match=r"assets add up to 2,000.00, expected 22,802,400.44; get it from"):
        FIRESALE.read_banks(file)
    file.write_text("bank_id\nXX01 a b c d\n")
    with pytest.raises(published.ConfigError, match="not the table of the EBA"):
        FIRESALE.read_banks(file)


def test_forty_eight_banks(market_data):
    """F10 (b): totals; the threshold rule tips between 7.5 and 10.5 %; leverage targeting sells with no shock."""
    banks = FIRESALE.read_banks(market_data / FIRESALE.FILE)
    assert banks.cash.size == 48
    assert FIRESALE.totals(banks)["assets"] == pytest.approx(22_802_400.44, abs=0.005)
    sold = [FIRESALE.stress(banks, shock, 0.01, 0.04).share for shock in (0.0, 0.075, 0.105)]
    np.testing.assert_allclose(sold, [0.04711, 0.37226, 0.85226], atol=5e-6)
    assert FIRESALE.stress(banks, 0.0, 0.01, 1.0).share == pytest.approx(0.31686, abs=5e-6)
    assert abs(FIRESALE.stress(banks, 0.2, 0.05, 0.04).residual) < 1e-12 * 22_802_400.44


def test_overlapping_portfolios():
    """Without impact one bank fails alone; the branching matrix is the failure of single banks; its radius is an eigenvalue."""
    small = config("firesale", banks=40)
    held = FIRESALE.overlap(np.random.default_rng(1), small, 6.0)
    linked = held.any(axis=1)
    np.testing.assert_allclose(held.sum(axis=1)[linked], 0.8, rtol=1e-14)
    assert FIRESALE.failed(held, 0.05, 3, 0.0).sum() == 1
    matrix = FIRESALE.branching_matrix(held, 0.05, 1.0536)
    whole = held.sum(axis=0)
    for bank in range(0, 40, 7):
        loss = held @ (1.0 - np.exp(-1.0536 * held[bank] / np.maximum(whole, 1e-300)))
        expected = loss > 0.05
        expected[bank] = False
        np.testing.assert_array_equal(matrix[bank].astype(bool), expected)
    assert matrix.sum() > 40
    law = np.abs(np.linalg.eigvals(matrix)).max()
    assert FIRESALE.spectral_radius(matrix) == pytest.approx(law, rel=0.01)
    assert FIRESALE.spectral_radius(np.triu(np.ones((5, 5)), 1)) == 0.0


@pytest.fixture(scope="module")
def basel():
    return config("basel-cycle").model


def test_basel_fixed_points(basel):
    """Check 1 of 3.3: price 25 and leverage 75 for the small bank, and a map that stays there."""
    small = BASEL.changed(basel, equity=1e-5)
    point = BASEL.fixed_point(small)
    assets, equity = BASEL.balance(small, point)
    assert assets / equity == pytest.approx(75.0, rel=1e-12)
    for new, old in zip(BASEL.step(small, point), point, strict=True):
        assert abs(new - old) <= 1e-14


@pytest.mark.parametrize(("speed", "equity", "leverage"), [(10, 2.27, 8.6353), (10, 0.25, 24.1965), (1, 1.0, 37.8933)])
def test_basel_critical_leverage(basel, speed, equity, leverage):
    """Check 2 of 3.3: the automatic Jacobian, against the table and against iterating the map on both sides."""
    model = BASEL.changed(basel, theta=speed, equity=equity)
    found = BASEL.critical_leverage(model)
    assert found == pytest.approx(leverage, rel=1e-4)
    assert BASEL.critical_leverage(BASEL.changed(model, b=0.25)) == pytest.approx(found, abs=1e-8)
    sizes = []
    for factor in (0.98, 1.02):
        near = BASEL.changed(model, alpha=factor * found * model.least_variance**-model.b)
        point = BASEL.fixed_point(near)
        start = point._replace(price=point.price * (1.0 + 1e-9))
        price = BASEL.paths(near, start, 4_000, np.random.default_rng(0), 1, False)[0, :, 0]
        sizes.append(np.abs(price[-200:] - 25.0).max())
    assert sizes[0] < 1e-9 < 1e-6 < sizes[1]


def test_lending_at_a_constant_price():
    """Closed forms of 3.4: days to sell, the largest debt that can be sold, and a debt that is paid once."""
    given = config("defi-default")
    flat = np.full((1, 100), 223.0)
    margin, sold = DEFI.margins(given, flat, 0.0 * flat, 400e6, 0.0)
    assert sold.sum() == pytest.approx(400e6, rel=1e-14)
    assert np.count_nonzero(sold) == 60  # of 59.8 days
    np.testing.assert_allclose(margin, 200e6, rtol=1e-12)  # collateral is worth half more, whatever was sold
    _, sold = DEFI.margins(given, np.full((1, 4_000), 223.0), np.zeros((1, 4_000)), 1e12, 0.01)
    assert sold.sum() == pytest.approx(665.66e6, rel=1e-5)
    assert DEFI.first_failure(np.array([[1.0, -1.0, 1.0], [1.0, 1.0, 0.0]])).tolist() == [2, 4]


FAT = module("fat-tails")


@pytest.fixture(scope="module")
def fund_market():
    """The market of the fat tails without and with leverage: its start and its step."""
    model = FAT.system(config("fat-tails", caps=[0.0, 5.0], steps=100), np.float64)
    step = eqx.filter_jit(model.step)

    def move(state, clock, normal):
        (state, _), log_price = step((state, jnp.asarray(clock)), FAT.Noise(jnp.array([normal]), jnp.zeros(0)))
        return jax.tree.map(np.asarray, state), np.asarray(log_price)

    return jax.tree.map(np.asarray, model.init()[0]), move


def test_fund_market_clears(fund_market):
    """Fat tails: at the price found, noise trader and funds hold all shares, leverage is capped, and nobody creates money."""
    now, move = fund_market
    for _ in range(4):  # the price falls below value
        before = now
        now, log_price = move(now, 0.0, -1.5)
    np.testing.assert_allclose(
        log_price[0], now.demand - np.log(1_000.0), atol=1e-11
    )  # no leverage: the noise trader alone
    invested, worth = now.shares * now.price, before.shares * now.price + before.cash
    np.testing.assert_allclose(np.exp(now.demand) + invested.sum(axis=0), 1_000.0 * now.price, rtol=1e-9)
    flow = np.maximum(-1.0, 0.15 * (now.performance - 0.005)) * worth
    np.testing.assert_allclose(invested + now.cash, worth + flow, rtol=1e-12)
    cheap = 1.0 - now.price[1]
    assert cheap > 0.1
    np.testing.assert_allclose((invested / worth)[:, 1], np.minimum(np.arange(5, 55, 5) * cheap, 5.0), rtol=1e-12)
    np.testing.assert_array_equal(invested[:, 0], 0.0)


def test_a_ruined_fund_is_away_for_a_hundred_steps(fund_market):
    """And comes back with what it had at the start. A default in the first tenth of the steps is not counted."""
    start, move = fund_market
    poor = start._replace(cash=np.where(np.arange(10)[:, None] == 0, 0.1, start.cash))
    assert move(poor, 9.0, 0.0)[0].defaults.tolist() == [0.0, 0.0]
    now, _ = move(poor, 10.0, 0.0)
    assert now.defaults.tolist() == [1.0, 1.0]
    for left in range(100, 0, -1):
        assert now.away[0].tolist() == [left, left]
        assert (now.cash[0] + now.shares[0]).tolist() == [0.0, 0.0]
        now, _ = move(now, 10.0, 0.0)
    assert now.away[0].tolist() == [0.0, 0.0]
    assert (now.cash[0].tolist(), now.performance[0].tolist()) == ([2.0, 2.0], [0.0, 0.0])
