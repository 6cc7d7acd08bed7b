"""Known answers of forced closings (CLS), in both precisions, and the laws that tie the formulas together."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tailrisk.waterfall import closing as c

PRECISION = [jnp.float64, jnp.float32]


def close_to(value, expected, unit, dtype, gross=0.0):
    """Within one unit of the last printed digit in float64 and 1e-5 relative in float32 (tolerance P).

    `gross` is the money that was subtracted to get a small result: float32 then resolves 1e-6 of it.
    """
    assert value.dtype == dtype
    slack = unit if dtype == jnp.float64 else max(unit, 1e-5 * abs(expected), 1e-6 * gross)
    assert abs(float(value) - expected) <= slack


def slice_long(f):
    level = c.bankruptcy_price(f(1.0), f(0.5), f(2 / 19), f(0.98), "from_mark")
    return c.shortfall(f(0.4), level, f(0.78))


def short_close(f, level):
    return c.shortfall(f(-1.0), c.bankruptcy_price(f(-1.0), f(1.0), f(10 / 99), f(1.05), level), f(1.55))


def deleverage_at_bankruptcy(f, who):
    """A long 500 @ 1 and B short 500 @ 1 with 100 each; at 2 A is closed where B is worth nothing."""
    level = c.bankruptcy_price(f(-500.0), f(1.0), f(100.0), f(2.0))
    if who == "level":
        return level
    if who == "B at market":
        return c.full_close(f(-500.0), f(1.0), f(100.0), f(2.0)).equity
    quantity = 500.0 if who == "A" else -500.0
    return c.full_close(f(quantity), f(1.0), f(100.0), level).equity - (100.0 if who == "A" else 0.0)


def partial_close_leverage(f):
    """The share shortfall / notional with 0.1 % slippage: what leverage is left (it does not cure)."""
    share = f(18.0) / 850.0
    equity = 50.0 - 0.001 * share * 850.0
    return (1.0 - share) * 850.0 / equity


CASES = {
    "CLS-03 slice from mark": (slice_long, 0.0378947, 1e-7),
    "CLS-03 short from mark": (lambda f: short_close(f, "from_mark"), 0.3989899, 1e-7),
    "CLS-03 short by equity": (lambda f: short_close(f, "equity"), 0.4489899, 1e-7),
    "CLS-04 fee": (lambda f: c.closing_fee(f(0.5), f(1.30), f(1.05), on_mark=f(0.0040)), 0.0026, 1e-12),
    "CLS-05 (i) full": (
        lambda f: c.restoring_size(f(1.0), f(5.5), f(-4.399), f(0.10), f(5.55), f(-1.0), f(0.003)),
        1.0,
        0.0,
    ),
    "CLS-05 (i) size": (
        lambda f: c.restoring_size(f(20.0), f(5.5), f(11.0 - 4.949), f(0.10), f(5.55), f(-1.0), f(0.003)),
        10.236,
        1e-3,
    ),
    "CLS-05 (ii) no cost": (lambda f: c.restoring_share(f(50.0), f(68.0), f(850.0)), 0.2647058824, 1e-10),
    "CLS-05 (ii) cost": (
        lambda f: c.restoring_share(f(50.0), f(68.0), f(850.0), cost=f(0.001)),
        0.2680565897,
        1e-10,
    ),
    "CLS-06 equity": (lambda f: c.full_close(f(10.0), f(100.0), f(50.0), f(40.0)).equity, -550.0, 0.0),
    "CLS-06 fund": (lambda f: c.fund_update(f(1000.0), f(0.0), f(550.0))[0], 450.0, 0.0),
    "CLS-06 unpaid": (lambda f: c.fund_update(f(1000.0), f(0.0), f(550.0))[2], 0.0, 0.0),
    "CLS-07 equity": (lambda f: c.full_close(f(500.0), f(1.0), f(100.0), f(0.801)).equity, 0.50, 1e-12),
    "CLS-07 deficit": (lambda f: c.full_close(f(500.0), f(1.0), f(100.0), f(0.77)).deficit, 15.0, 1e-12),
    "CLS-07 spread": (lambda f: c.spread_used(f(0.801), f(0.77)), 0.03870, 1e-5),
    "CLS-08 long": (lambda f: c.fund_flow(f(1.0), f(3000.0), f(3060.0)), 60.0, 0.0),
    "CLS-08 long below": (lambda f: c.fund_flow(f(1.0), f(3000.0), f(2940.0)), -60.0, 0.0),
    "CLS-08 short": (lambda f: c.fund_flow(f(-1.0), f(3000.0), f(3060.0)), -60.0, 0.0),
    "CLS-09 cap": (lambda f: c.capped_fund_change(f(5610.0), f(5100.0), f(0.005)), 28.05, 1e-2),
    "CLS-09 gap": (lambda f: c.capped_fund_change(f(5000.0), f(5100.0), f(0.005)), -100.0, 0.0),
    "CLS-10 does not cure": (partial_close_leverage, 16.645993, 1e-6),
    "CLS-10 close at 85": (
        lambda f: 50.0 - c.full_close(f(10.0), f(100.0), f(200.0), f(85.0 * 0.999)).equity,
        0.85,
        1e-12,
        850.0,
    ),
    "CLS-10 draw at 60, slippage in the fill": (
        lambda f: c.full_close(f(10.0), f(100.0), f(200.0), f(60.0 * 0.999)).deficit,
        200.6,
        1e-12,
    ),
    "CLS-10 draw at 60, slippage as fee": (
        lambda f: c.full_close(f(10.0), f(100.0), f(200.0), f(60.0), f(0.001), fee_first=True).deficit,
        200.6,
        1e-12,
    ),
    "CLS-11 exponential": (
        lambda f: c.static_fund(lambda u: -jnp.log1p(-u), f(0.05), f(1.0)),
        2.9957322736,
        1e-10,
    ),
    "CLS-11 too dear": (lambda f: c.static_fund(lambda u: -jnp.log1p(-u), f(1.0), f(1.0)), 0.0, 0.0),
    "LIQ-12 long": (lambda f: c.bankruptcy_quote(f(-5000.0), f(499.0), f(-500.0), f(500.0)), 4501.0, 0.0),
    "LIQ-12 short": (lambda f: c.bankruptcy_quote(f(5000.0), f(499.0), f(-500.0), f(500.0)), -5499.0, 0.0),
    "ADL-03 level": (lambda f: deleverage_at_bankruptcy(f, "level"), 1.20, 1e-15),
    "ADL-03 B at market": (lambda f: deleverage_at_bankruptcy(f, "B at market"), -400.0, 0.0),
    "ADL-03 A gains": (lambda f: deleverage_at_bankruptcy(f, "A"), 100.0, 1e-12),
    "ADL-03 B ends at nothing": (lambda f: deleverage_at_bankruptcy(f, "B"), 0.0, 1e-12, 600.0),
    "R06 ratio MM/E": (lambda f: c.margin_ratio(f(1200.0), f(900.0), "MM/E"), 0.75, 0.0),
    "R06 fillable at NC = MMR": (
        lambda f: c.fillable_price(f(5000.0), f(0.1), f(500.0), f(500.0), f(1.5)),
        50000.0,
        1e-9,
    ),
    "R06 fillable at NC = 0": (
        lambda f: c.fillable_price(f(5000.0), f(0.1), f(0.0), f(500.0), f(1.5)),
        42500.0,
        1e-9,
    ),
}


@pytest.mark.parametrize("dtype", PRECISION, ids=["f64", "f32"])
@pytest.mark.parametrize("case", CASES)
def test_known_answer(case, dtype):
    """A formula gives the reference value in either precision."""
    function, expected, unit, *gross = CASES[case]
    close_to(jnp.asarray(function(lambda x: jnp.asarray(x, dtype))), expected, unit, dtype, *gross)


def test_slice_cures_exactly():
    """R06 (c): without cost and impact the ratio after the slice is the goal; the known wrong share does not cure."""
    rng = np.random.default_rng(0)
    goal, maintenance = rng.uniform(1.0, 2.0, 1000), rng.uniform(1.0, 100.0, 1000)
    equity = goal * maintenance * rng.uniform(0.05, 0.999, 1000)
    share = c.restoring_share(jnp.asarray(equity), jnp.asarray(maintenance), jnp.asarray(10 * maintenance), goal)
    np.testing.assert_allclose(equity / ((1 - share) * maintenance), goal, rtol=1e-12)
    assert float(partial_close_leverage(jnp.float64)) > 850.0 / 68.0


@pytest.mark.parametrize("impact", [0.0, 0.2, 1.0])
def test_slice_with_impact_cures(impact):
    """The size for linear impact restores the ratio it promises and agrees with the formula for a given fill."""
    size, mark, rate, cost, equity = 10.0, 85.0, 0.08, 0.001, 50.0
    x = c.restoring_size_linear(size, mark, jnp.asarray(equity), rate, impact, cost)
    assert 0 < float(x) < size
    fill = mark - impact * x / 2
    left = equity - (mark - fill) * x - cost * mark * x
    np.testing.assert_allclose(left, rate * mark * (size - x), rtol=1e-12)
    np.testing.assert_allclose(x, c.restoring_size(size, mark, jnp.asarray(equity), rate, fill, 1.0, cost), rtol=1e-12)


def test_slice_at_its_ends():
    """Nothing to close when healthy, all of it when costs eat the margin that closing frees, gradients finite."""
    assert float(c.restoring_share(jnp.asarray(70.0), 68.0, 850.0)) == 0
    assert float(c.restoring_share(jnp.asarray(50.0), 68.0, 850.0, 1.0, 0.09)) == 1
    assert float(c.restoring_share(jnp.asarray(-1.0), 68.0, 850.0)) == 1
    assert float(c.restoring_size_linear(10.0, 85.0, jnp.asarray(50.0), 0.08, 50.0)) == 10
    assert float(c.restoring_size_linear(10.0, 85.0, jnp.asarray(80.0), 0.08, 50.0)) == 0
    for function in (
        lambda e: c.restoring_share(e, 68.0, 850.0, 1.0, 0.08),
        lambda e: c.restoring_size_linear(10.0, 85.0, e, 0.08, 0.4),
        lambda e: c.margin_ratio(e, 68.0, "MM/E"),
    ):
        for equity in (-10.0, 0.0, 18.0, 50.0, 68.0, 90.0):
            assert np.isfinite(jax.grad(lambda e, f=function: f(e))(equity)).all()


@pytest.mark.parametrize("fee_first", [False, True])
def test_account_identity(fee_first):
    """R06 (a): deposits = surplus + fee + market transfer - bad debt for every account, and no part is negative."""
    rng = np.random.default_rng(1)
    quantity, entry = rng.normal(size=1000) * 5, rng.uniform(50, 150, 1000)
    fill, cash = entry * rng.uniform(0.5, 1.5, 1000), rng.uniform(0, 100, 1000)
    out = c.full_close(*map(jnp.asarray, (quantity, entry, cash, fill)), 0.01, fee_first=fee_first)
    np.testing.assert_allclose(cash, out.surplus + out.fee - quantity * (fill - entry) - out.deficit, atol=1e-10)
    assert min(float(x.min()) for x in (out.surplus, out.fee, out.deficit)) >= 0
    assert not fee_first or float(jnp.max(out.deficit)) > 0
    if not fee_first:  # a fee is never paid by an account that owes
        assert float(jnp.max(jnp.where(out.deficit > 0, out.fee, 0))) == 0


def test_static_fund_gradient():
    """CLS-11: dK*/dr = -1 / r for an exponential loss of mean 1, finite where no fund is worth holding."""
    slope = jax.grad(lambda r: c.static_fund(lambda u: -jnp.log1p(-u), r, 1.0))
    np.testing.assert_allclose(slope(0.05), -20.0, rtol=1e-10)
    assert float(slope(2.0)) == 0


def test_unknown_conventions_are_refused():
    """A misspelled convention names the ones that exist."""
    with pytest.raises(ValueError, match="from_mark"):
        c.bankruptcy_price(1.0, 1.0, 1.0, 1.0, "mark")  # type: ignore
    with pytest.raises(ValueError, match="MM/E"):
        c.margin_ratio(1.0, 1.0, "mm")  # type: ignore
