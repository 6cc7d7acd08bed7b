"""Margin schedules and their dynamics."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

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
from tailrisk.margin import procyclicality as pro

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


def test_tiers_that_are_equal_but_for_rounding_are_in_order():
    """As a search leaves them; a relative step of 1e-6 is out of order."""

    def table(apart):
        return Brackets([0.0, 1e3], [0.02, 0.02 * (1.0 - apart)], [25.0, 25.0 * (1.0 + apart)])

    assert not list(problems(table(1e-14)))
    assert len(list(problems(table(1e-6)))) == 2


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
