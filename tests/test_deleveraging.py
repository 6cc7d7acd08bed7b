"""Splitting a loss over winners: reference cases (ADL, K10) and the laws every allocation obeys."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy.optimize import brentq, minimize

from tailrisk._fields import cast, problems
from tailrisk.waterfall import contracts, ranking
from tailrisk.waterfall import deleveraging as d

RULES = {f"queue {rank}": d.Queue(rank=rank) for rank in ("profit_leverage", "price_leverage", "profit_equity")}
RULES |= {f"queue {rank}": d.Queue(rank=rank) for rank in ("profit_times_leverage", "size")}
RULES |= {f"pro rata {base}": d.ProRata(base=base) for base in ("profit", "equity")}
RULES |= {f"capped {base}": d.CappedProRata(base=base) for base in ("profit", "equity", "size")}
RULES |= {f"risk aware {form}": d.RiskAware(form=form, threshold=2.0) for form in ("linear", "square", "excess")}
ONE_PER_CLASS = ["queue profit_leverage", "pro rata profit", "capped equity", "risk aware excess"]
PRECISION = [jnp.float64, jnp.float32]

QUANTITY = np.array([10.0, 10, 20, 30, 20, 10])  # BitMEX example: accounts 1 to 6, rank 6 goes first
RANK = np.array([3.0, 6, 1, 4, 5, 2])


def arrays(dtype, *values):
    return tuple(jnp.asarray(v, dtype) for v in values)


def winners(rng, n=40, dtype=jnp.float64):
    """Random accounts: about a third lose, some have less equity than profit, leverages differ by 100."""
    profit = np.where(rng.random(n) < 0.3, -1, 1) * rng.lognormal(3, 1.5, n)
    equity = np.where(rng.random(n) < 0.2, 0.3, 2.0) * np.abs(profit) * rng.uniform(0.2, 3, n)
    equity = np.where(rng.random(n) < 0.1, -equity, equity)
    return arrays(dtype, profit, equity, rng.lognormal(0.5, 1, n), rng.lognormal(6, 1, n))


@pytest.mark.parametrize("dtype", PRECISION, ids=["f64", "f32"])
class TestCases:
    """Reference cases in both precisions."""

    def test_adl_01_and_k10_queue(self, dtype):
        """ADL-01, K10: order, lights and what the first two accounts close."""
        quantity, rank = arrays(dtype, QUANTITY, RANK)
        assert (ranking.queue_order(rank) + 1).tolist() == [2, 5, 4, 1, 6, 3]
        lights = ranking.percentile_lights(quantity, rank)
        assert lights[ranking.queue_order(rank)].tolist() == [20, 40, 60, 80, 80, 100]
        closed = d.allocate_queue(jnp.asarray(20.0, dtype), quantity, rank)
        assert closed.tolist() == [0, 10, 0, 0, 10, 0]
        assert (quantity - closed)[4] == 10

    def test_adl_02_score(self, dtype):
        """ADL-02: profit share x effective leverage; divided by it for a loss; the same for the mirrored short."""
        leverage = ranking.effective_leverage(*arrays(dtype, [110.0, -90.0], [90.0, -110.0]))
        np.testing.assert_allclose(leverage, [5.5, 4.5], rtol=1e-6)
        score = ranking.profit_leverage_score(*arrays(dtype, [0.10, -0.10, 0.0], [5.5, 5.5, 0.0]))
        np.testing.assert_allclose(score, [0.55, -0.1 / 5.5, 0.0], rtol=1e-6)

    def test_adl_04_haircut(self, dtype):
        """ADL-04: queue haircut on positive P&L, half of a deficit of 15."""
        equity, profit = arrays(dtype, [10.0, 5, 1, -3, -12], [8.0, 4, 0.5, -3, -12])
        available = d.takeable(profit, equity)
        score = jnp.asarray([2.0, 3.0, 1.0, 9.0, 9.0], dtype)  # queue order 2, 1, 3
        taken = d.allocate_queue(jnp.asarray(0.5 * 15, dtype), available, score)
        np.testing.assert_allclose(taken, [3.5, 4, 0, 0, 0], rtol=1e-7)
        np.testing.assert_allclose(taken[:3] / profit[:3], [0.4375, 1, 0], rtol=1e-7)
        np.testing.assert_allclose(equity - taken, [6.5, 1, 1, -3, -12], rtol=1e-7)

    def test_adl_05_water_filling(self, dtype):
        """ADL-05: pro rata, queue with partial fill and with whole positions, caps."""
        need, profit = arrays(dtype, 40.0, [50.0, 30, 20])
        np.testing.assert_allclose(d.allocate_pro_rata(need, profit), [20, 12, 8], rtol=1e-6)
        assert d.allocate_queue(need, profit, profit).tolist() == [40, 0, 0]
        whole = d.allocate_queue(need, profit, profit, whole=True)
        assert float(whole.sum() - need) == 10
        assert float(ranking.overuse(whole, need)) == 1.25
        capped = d.allocate_capped_pro_rata(need, jnp.asarray([10.0, 30, 20], dtype), profit)
        np.testing.assert_allclose(capped, [10, 18, 12], rtol=1e-6)

    def test_adl_06_projection(self, dtype):
        """ADL-06: nearest point on the budget plane."""
        target, weight, budget = arrays(dtype, [0.0, 0, 0], [8.0, 4, 0.5], 7.5)
        share = d.project_to_budget(target, weight, budget)
        slack = 1e-10 if dtype == jnp.float64 else 1e-6
        np.testing.assert_allclose(share, [0.7476635514, 0.3738317757, 0.0467289720], atol=slack)

    @pytest.mark.parametrize(
        ("size", "need", "expected"),
        [
            ([5, 3, 2], 4, [2, 1, 1]),
            ([5, 3, 2], 7, [4, 2, 1]),
            ([7, -4, 2.5], 5.2, [4, 0, 2]),
            ([10, 1, 1], 6, [5, 0, 1]),
            ([1, 1, 1], 2, [0, 1, 1]),
            ([5, 3, 2], 0, [0, 0, 0]),
            ([5, 3, 2], 99, [5, 3, 2]),
            ([2.9, 2.9, 0.5], 4, [2, 2, 0]),
            ([0.5, 0.5], 1, [0, 0]),
        ],
    )
    def test_adl_07_largest_remainder(self, dtype, size, need, expected):
        """ADL-07: whole contracts; the last rows are ours: nobody gives more whole contracts than he has."""
        assert contracts.largest_remainder(*arrays(dtype, need, size)).tolist() == expected

    def test_adl_08_integers(self, dtype):
        """ADL-08: collected cash in whole units, the remainder to the main winner."""
        paid = contracts.socialize_integers(*arrays(dtype, 5080.0, [8000.0, 80.0]))
        assert paid.tolist() == [5030, 50]
        assert float(paid[0]) - 8000 == -2970
        assert contracts.socialize_integers(*arrays(dtype, 10.0, [0.0, 0.0])).tolist() == [0, 0]


def test_rep_04_units_stay_apart():
    """REP-04: overuse of the policy benchmark is P&L over P&L, 3.99; positions over a deficit (28 x) is no overuse."""
    ratio = ranking.overuse(jnp.asarray([60_108_335.0]), 15_079_670.0)
    np.testing.assert_allclose(ratio, 3.99, atol=0.005)


@pytest.mark.parametrize(
    ("name", "dtype"), [(name, jnp.float64) for name in RULES] + [(name, jnp.float32) for name in ONE_PER_CLASS]
)
def test_allocation_laws(name, dtype):
    """R16 (c) (d) (f): fully allocated, never exceeded, no account below zero, any order of rows."""
    rule = cast(RULES[name], dtype)
    allocate = eqx.filter_jit(rule.allocate)
    rng = np.random.default_rng(3)
    slack = 1e-12 if dtype == jnp.float64 else 1e-5
    for _ in range(8):
        accounts = tuple(map(np.asarray, winners(rng, dtype=dtype)))
        profit, equity = accounts[:2]
        available = np.maximum(np.minimum(profit, equity), 0)
        total = available.sum()
        for share in (0.0, 1e-3, 0.3, 0.9, 1.0, 1.5):
            need = np.asarray(share * total, dtype)
            haircut = np.asarray(allocate(need, *accounts))
            assert haircut.dtype == dtype
            np.testing.assert_allclose(haircut.sum(), min(need, total), rtol=slack)
            assert haircut.min() >= 0
            assert not haircut[available == 0].any()
            assert (haircut - np.maximum(equity, 0)).max() <= slack * total
            if name != "pro rata equity":
                assert (haircut - available).max() <= slack * total
            p = rng.permutation(len(haircut))
            moved = allocate(need, *(a[p] for a in accounts))
            np.testing.assert_allclose(moved, haircut[p], rtol=10 * slack, atol=slack * total)


def test_infeasible_rest_is_reported():
    """R16: what profits cannot pay is left over, exactly zero while they suffice; gross equity does not count."""
    profit, equity = jnp.asarray([50.0, 30.0, -20.0]), jnp.asarray([500.0, 500.0, 500.0])
    available = d.takeable(profit, equity)
    assert float(d.unallocated(jnp.asarray(100.0), available)) == 20
    assert float(d.unallocated(jnp.asarray(80.0), available)) == 0
    haircut = d.ProRata(base="equity").allocate(jnp.asarray(100.0), profit, equity, jnp.ones(3), jnp.ones(3))
    assert haircut.tolist() == [40, 40, 0]


def test_ties_go_to_the_lowest_account():
    """Equal scores are served by account id, so the order of rows does not matter even then."""
    score, available, account = jnp.zeros(6), jnp.arange(1.0, 7), jnp.arange(6)
    need = jnp.asarray(4.0)
    taken = d.allocate_queue(need, available, score, account)
    assert taken.tolist() == [1, 2, 1, 0, 0, 0]
    p = jnp.asarray([3, 5, 0, 2, 1, 4])
    assert d.allocate_queue(need, available[p], score[p], account[p]).tolist() == taken[p].tolist()
    assert d.allocate_queue(need, available, score).tolist() == taken.tolist()


def test_water_filling_is_exact():
    """The level agrees with a root search to 1e-12, with zero weights and zero caps among the accounts."""
    rng = np.random.default_rng(5)
    fill = jax.jit(d.allocate_capped_pro_rata)
    for _ in range(50):
        cap, weight = rng.lognormal(0, 2, 30), rng.lognormal(0, 2, 30)
        cap[rng.random(30) < 0.1] = 0
        weight[rng.random(30) < 0.1] = 0
        feasible = cap[weight > 0].sum()
        need = rng.random() * feasible
        high = max(c / w for c, w in zip(cap, weight, strict=True) if w > 0)
        level = brentq(lambda t, c=cap, w=weight, b=need: np.minimum(c, t * w).sum() - b, 0, high, xtol=1e-16)
        np.testing.assert_allclose(fill(need, cap, weight), np.minimum(cap, level * weight), rtol=1e-11, atol=1e-12)
        np.testing.assert_allclose(fill(need, cap, weight).sum(), need, rtol=1e-13)
        np.testing.assert_allclose(fill(2 * feasible, cap, weight), np.where(weight > 0, cap, 0), rtol=1e-15)
    assert fill(1.0, np.ones(3), np.zeros(3)).tolist() == [0, 0, 0]
    assert fill(0.0, np.ones(3), np.ones(3)).tolist() == [0, 0, 0]


def test_projection_is_nearest():
    """The projection meets the budget, stays in the box, is optimal and agrees with an optimizer."""
    rng = np.random.default_rng(6)
    project = jax.jit(d.project_to_budget)
    for _ in range(50):
        target, weight = rng.normal(0.3, 0.6, 20), rng.lognormal(0, 1.5, 20)
        weight[rng.random(20) < 0.1] = 0
        budget = rng.random() * weight.sum()
        h = np.asarray(project(target, weight, budget))
        np.testing.assert_allclose(weight @ h, budget, rtol=1e-12)
        inside = (h > 0) & (h < 1) & (weight > 0)
        nu = ((h - target)[inside] / weight[inside]).mean() if inside.any() else None
        if nu is not None:
            np.testing.assert_allclose(h, np.clip(target + nu * weight, 0, 1), atol=1e-9)
    target, weight, budget = np.array([0.5, -0.2, 0.9]), np.array([1.0, 2.0, 3.0]), 4.0
    best = minimize(
        lambda h: ((h - target) ** 2).sum(),
        np.full(3, 0.5),
        bounds=[(0, 1)] * 3,
        constraints={"type": "eq", "fun": lambda h: weight @ h - budget},
        options={"ftol": 1e-14},
    )
    np.testing.assert_allclose(project(target, weight, budget), best.x, atol=1e-6)
    assert project(target, weight, 99.0).tolist() == [1, 1, 1]
    assert project(target, weight, 0.0).tolist() == [0, 0, 0]


@pytest.mark.parametrize("function", ["capped", "projection"])
def test_gradients(function):
    """Class P: derivatives of the exact solution agree with central differences and are finite at ends and zeros."""
    rng = np.random.default_rng(7)
    cap, weight, test = rng.lognormal(0, 1, 12), rng.lognormal(0, 1, 12), rng.normal(size=12)
    need = 0.4 * cap.sum() if function == "capped" else 0.4 * weight.sum()

    def value(need, cap, weight):
        if function == "capped":
            return jnp.sum(jnp.asarray(test) * d.allocate_capped_pro_rata(need, cap, weight))
        return jnp.sum(jnp.asarray(test) * d.project_to_budget(cap - 1.0, weight, need))

    point = tuple(map(jnp.asarray, (need, cap, weight)))
    gradient = jax.jit(jax.grad(value, (0, 1, 2)))
    check_grads(jax.jit(value), point, order=1, modes=("fwd", "rev"), rtol=1e-6, eps=1e-6)
    cap[:3], weight[2:5] = 0, 0
    for at in (0.0, need, 1e9):
        for g in gradient(jnp.asarray(at), jnp.asarray(cap), jnp.asarray(weight)):
            assert np.isfinite(g).all()


@pytest.mark.parametrize("name", ONE_PER_CLASS)
def test_rule_gradients_are_finite(name):
    """Reverse mode through any rule gives no nan, with losers, empty accounts and an infeasible need."""
    rule = cast(RULES[name], jnp.float64)
    accounts = tuple(a.at[0].set(0.0) for a in winners(np.random.default_rng(8)))
    gradient = jax.jit(jax.grad(lambda *a: jnp.sum(rule.allocate(*a) ** 2), (0, 1, 2, 3, 4)))
    for need in (0.0, 50.0, 1e9):
        assert all(np.isfinite(g).all() for g in gradient(jnp.asarray(need), *accounts))


def test_largest_remainder_laws():
    """ADL-07: whole numbers, never above the own size, the whole need while sizes allow, one trace for all needs."""
    rng = np.random.default_rng(9)
    split = jax.jit(contracts.largest_remainder)
    for _ in range(50):
        size = rng.lognormal(1, 1, 15) if rng.random() < 0.5 else np.floor(rng.lognormal(2, 1, 15))
        need = rng.random() * 1.2 * size.sum()
        whole = np.asarray(split(need, size))
        assert (whole == np.floor(whole)).all()
        assert (whole <= size).all()
        assert whole.sum() == min(np.ceil(need), np.floor(size).sum())


def test_socialize_integers_laws():
    """ADL-08: whole payments that add up to what was collected; nobody negative."""
    rng = np.random.default_rng(10)
    for _ in range(50):
        gain = np.floor(rng.lognormal(5, 2, 8))
        collected = np.floor(rng.random() * gain.sum())
        paid = np.asarray(contracts.socialize_integers(jnp.asarray(collected), jnp.asarray(gain)))
        assert paid.sum() == collected
        assert (paid >= 0).all()
        assert (np.abs(paid - collected * gain / gain.sum()) <= len(gain)).all()


def test_who_bears_it():
    """F13: a queue concentrates haircuts, pro rata spreads them; whole positions overshoot."""
    profit, equity, leverage, size = winners(np.random.default_rng(11), 200)
    equity = jnp.maximum(equity, profit)
    need = 0.1 * d.takeable(profit, equity).sum()
    queue, spread = (eqx.filter_jit(r.allocate)(need, profit, equity, leverage, size) for r in (d.Queue(), d.ProRata()))
    whole = eqx.filter_jit(d.Queue(fill="whole").allocate)(need, profit, equity, leverage, size)
    assert float(ranking.gini(queue)) > float(ranking.gini(spread))
    assert float(ranking.overuse(whole, need)) >= 1
    assert float(ranking.gini(jnp.ones(10))) == pytest.approx(0)
    assert float(ranking.gini(jnp.eye(10)[0])) == pytest.approx(0.9)


def test_bad_fields_are_named():
    """Values out of bounds are reported by field, unknown rules by their nearest name."""
    assert next(problems(d.CappedProRata(cap=1.5))).startswith("cap")
    with pytest.raises(ValueError, match="profit_leverage"):
        d.Queue(rank="profit_leverag")
    with pytest.raises(ValueError, match="square"):
        d.risk_aware_weights(jnp.ones(2), jnp.ones(2), "cubic")
