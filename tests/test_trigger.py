"""A breaker that is watched: approach, hit, reopening, and the bad debt of whom a halt held back, on a path known by hand."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from catalogue import GivenBook
from scipy import stats

from tailrisk import breaker, impact, liquidation, margin, market, waterfall
from tailrisk._streams import Noise
from tailrisk.data.series import PriceArray
from tailrisk.scenario import Accounts, Scenario, SmoothLadder, SortedLadder
from tailrisk.simulate import rollout
from tailrisk.study.trigger import distances, trigger, watched

PRICES = [100.0, 97.5, 94.0, 90.0, 87.0, 89.0, 84.0]
EQUITY = np.array([2.0, 6.0, 12.0, 30.0])  # of longs of one unit: closed at 98.99, 94.95, 88.89 and 70.71
ALONE = eqx.filter_jit(
    lambda system: outcome(system), compiler_options={"xla_backend_optimization_level": 0}
)  # one path
KERNELS = {"ladder": SortedLadder(), "accounts": Accounts(), "continuum": SmoothLadder(cells=65_536)}


def venue(kernel, rule):
    """Longs without fees on a market that takes every sale, at prices that are known."""
    return Scenario(
        market=market.Replay(PriceArray(PRICES, "5min")),
        book=GivenBook(np.ones(EQUITY.size), EQUITY),
        margin=margin.Flat(0.01, 0.02),
        impact=impact.SquareRoot(impact.ConstantDepth(np.inf), volatility=0.03),
        price=[100.0],
        horizon="30min",
        step="5min",
        positions=kernel,
        liquidation=liquidation.Full(0.0),
        breaker=rule,
        waterfall=waterfall.Waterfall(deleverage="none"),
    ).build(np.float64)


def outcome(system):
    state, _ = rollout(system, lambda _: Noise(jnp.zeros(0), jnp.zeros(0)))
    return system.outcome(state)


def seen(kernel, rule):
    return {name: float(x) for name, x in ALONE(watched(venue(kernel, rule))).items()}


@pytest.mark.parametrize("name", ["ladder", "accounts", pytest.param("continuum", marks=pytest.mark.slow)])
def test_a_halt_of_two_steps_on_a_path_known_by_hand(name):
    """The news of step 2 trips 5 %. The second long waits for the auction at 87; the third falls due in it."""
    found = seen(KERNELS[name], breaker.Halt(0.05, "10min", cooldown="1d"))
    tolerance = 2e-3 if name == "continuum" else 1e-9  # accounts spread over cells of 4e-5 of the price
    assert found["bad_debt"] == pytest.approx(0.5 + 7.0 + 1.0, abs=tolerance)
    assert found["late_bad_debt"] == pytest.approx(7.0, abs=tolerance)
    assert found["nearest"] == -np.inf  # hit
    assert found["reopened"] == 1.0
    assert found["gap"] == pytest.approx(np.log(95.0 / 87.0))
    assert found["overshoot"] == pytest.approx(np.log(95.0 / 84.0))
    assert distances(watched(venue(KERNELS[name], breaker.Halt(0.05))))[1] == pytest.approx(-0.5 * np.log(0.95))


@pytest.mark.parametrize("name", ["ladder", "accounts"])
def test_a_halt_that_outlasts_the_horizon_holds_back_open_deficits(name):
    found = seen(KERNELS[name], breaker.Halt(0.05, "1d", cooldown="1d"))
    assert found["bad_debt"] == pytest.approx(0.5 + 10.0 + 4.0)
    assert found["late_bad_debt"] == pytest.approx(14.0)
    assert (found["reopened"], found["gap"], found["overshoot"]) == (0.0, 0.0, 0.0)


def test_a_trigger_that_is_not_hit_holds_nobody_back():
    """The price comes within ln(84/83) of it."""
    found = seen(KERNELS["ladder"], breaker.Halt(0.17, "10min", cooldown="1d"))
    assert found["nearest"] == pytest.approx(np.log(84.0 / 83.0))
    assert (found["bad_debt"], found["late_bad_debt"]) == (pytest.approx(0.5 + 0.0 + 1.0), 0.0)


def test_a_throttle_has_no_trigger():
    assert distances(watched(venue(KERNELS["ladder"], breaker.Throttle(1.0)))) == ()


def test_hits_of_a_normal_walk_from_each_distance():
    """Two steps without drift, from two paths of numbers only: P(hit | came within d) is a ratio of bivariate normal laws."""
    level, deviation = np.log(0.95), 0.03
    rng = np.random.default_rng(5)
    walk = np.cumsum(deviation * rng.standard_normal((100_000, 2)), axis=1)
    lowest = np.minimum(walk.min(axis=1), 0.0)
    nearest = np.where(lowest <= level, -np.inf, lowest - level)
    found = trigger({"nearest": nearest, "reopened": np.zeros(100_000), "gap": nearest, "overshoot": nearest}, (0.02,))
    reach = lambda b: 1.0 - stats.multivariate_normal.cdf([-b, -b], cov=deviation**2 * np.array([[1, 1], [1, 2]]))  # noqa: E731
    for one, known in ((found.within[0], reach(level + 0.02)), (found.hit[0], reach(level) / reach(level + 0.02))):
        assert one.std_error < 0.003
        assert abs(one.value - known) < 4.0 * one.std_error
    assert found.gap.note
