"""Derivatives of a policy by differences and by gradients, and the multipliers that follow from them."""

import dataclasses

import jax
import numpy as np
import pytest
from policy_problems import SIGMA, TwoMargins, best_margin, law, margin_problem
from scipy import stats

from tailrisk.policy import (
    Above,
    Mean,
    Policy,
    Probability,
    Problem,
    Rate,
    Shortfall,
    Stream,
    Tiers,
    TrustRegion,
    differences,
    pathwise,
    refine,
    restore,
    stationarity,
)
from tailrisk.policy.problem import checked, evaluate, judge
from tailrisk.policy.sensitivity import entries, room
from tailrisk.policy.variables import rows

STREAM = Stream("test/audit", 5, 200_000, 65_536)


def at_margin(margin, *constraints):
    problem = dataclasses.replace(margin_problem(1e-3), constraints=constraints or margin_problem(1e-3).constraints)
    judged = judge(problem, {"margin": np.asarray(margin)}, STREAM)
    return problem, Policy({"margin": np.asarray(margin)}, judged.levels), judged


def test_derivatives_of_mean_shortfall_and_probability_have_their_closed_forms():
    """Per 10 % of m: dE/dm = -P(L > m), dES/dm = -1 below the quantile, dP/dm = -density."""
    margin = 0.07
    limits = (Mean("bad_debt", 1e-3), Shortfall("bad_debt", 0.05, 0.99), Probability("excess", 0.05, 0.0))
    problem, policy, _ = at_margin(margin, *limits)
    found = differences(problem, policy, STREAM)
    known = -0.1 * margin * np.array([law(0).sf(margin), 1.0, law(0).pdf(margin)])
    assert found.entries == (("margin", 0),)
    assert found.cost[0] == pytest.approx(0.1 * margin, rel=1e-9)
    assert found.cost_error[0] == pytest.approx(0.0, abs=1e-12)
    assert (np.abs(found.value[:, 0] - known) <= 4.0 * found.value_error[:, 0] + 0.01 * np.abs(known)).all()
    assert (found.value_error[:2, 0] <= 0.03 * np.abs(known[:2])).all()
    smooth = pathwise(problem, policy, STREAM)
    assert (np.abs(smooth.value[:2, 0] - known[:2]) <= 4.0 * smooth.value_error[:2, 0] + 1e-9).all()
    assert (smooth.value_error[:2, 0] <= 0.03 * np.abs(known[:2])).all()


def test_bound_moves_with_its_standard_error():
    problem, policy, _ = at_margin(0.07)
    plain, high = (differences(problem, policy, STREAM, z=z) for z in (0.0, 3.0))
    np.testing.assert_array_equal(plain.bound, plain.value)
    error = judge(problem, policy.parameters, STREAM).std_error[0]
    beyond = judge(problem, {"margin": np.asarray(0.07 * 1.001)}, STREAM).std_error[0]
    assert high.bound[0, 0] - high.value[0, 0] == pytest.approx(3.0 * (beyond - error) * 100.0, rel=0.05)


@pytest.fixture(scope="module")
def two():
    """Two margins at their optimum, where both assets have the same probability of a shortfall."""
    limit, price = 4e-4, 1.0
    probability = 0.012
    deviations = np.array([0.02, 0.06])
    margins = deviations * stats.norm.isf(probability)
    debt = float(np.sum(deviations * (stats.norm.pdf(margins / deviations) - margins / deviations * probability)))
    variables = (Tiers("margins", start=(0.05, 0.3), lower=0.001, upper=0.9),)
    problem = Problem(
        TwoMargins(), variables, {"margin": price}, (Mean("bad_debt", debt), Mean("bad_debt", 100 * limit))
    )
    return problem, margins, debt, probability


def conditions(problem, margins, **settings):
    parameters = {"margins": np.asarray(margins)}
    judged = judge(problem, parameters, STREAM)
    slopes = differences(problem, Policy(parameters, judged.levels), STREAM, z=0.0)
    return stationarity(problem, parameters, judged, slopes, z=0.0, room=0.0, **settings)


def test_multiplier_at_the_optimum_is_one_over_the_probability(two):
    problem, margins, _, probability = two
    found = conditions(problem, margins)
    assert found.binding.tolist() == [True, False]
    assert abs(found.prices[0] - 1.0 / probability) <= 4.0 * found.price_errors[0]
    assert found.price_errors[0] <= 0.03 / probability
    assert found.prices[1] == 0.0
    assert found.residual <= 4.0 * found.noise
    assert found.noise <= 0.03 * found.pull
    assert found.holds(0.0) == (found.residual <= 3.0 * found.noise)
    assert found.unidentified == ()
    assert found.touched == ()


def test_conditions_fail_away_from_the_optimum(two):
    problem, margins, *_ = two
    moved = conditions(problem, margins * [1.3, 0.955])
    assert moved.binding[0]
    assert moved.residual > 10.0 * moved.noise
    assert not moved.holds(0.01)


def test_without_a_limit_that_binds_all_of_the_cost_is_left_over(two):
    problem, margins, *_ = two
    loose = dataclasses.replace(problem, constraints=(Mean("bad_debt", 1.0),))
    found = conditions(loose, margins)
    assert found.prices.tolist() == [0.0]
    assert found.residual == pytest.approx(found.pull)


def test_a_touched_order_carries_its_own_multiplier():
    """With one deviation for both tiers reversed, the cheaper tier would be the higher one, and the order stops it."""
    variables = (Tiers("margins", start=(0.05, 0.3), lower=0.001, upper=0.9),)
    probe = TwoMargins(deviations=(0.06, 0.02))
    problem = Problem(probe, variables, {"margin": 1.0}, (Mean("bad_debt", 1.0),))
    margins = np.array([0.1, 0.1])
    judged = judge(problem, {"margins": margins}, STREAM)
    problem = dataclasses.replace(problem, constraints=(Mean("bad_debt", float(judged.value[0])),))
    found = conditions(problem, margins)
    ((label, force),) = found.touched
    assert label == "margins[1] at margins[0]"
    assert force > 0.0
    assert found.residual <= 3.0 * found.noise + 1e-3 * found.pull


def test_a_number_that_moves_nothing_is_named():
    variables = (*margin_problem(1e-3).variables, Rate("idle", start=0.5, lower=0.0, upper=1.0))
    problem = dataclasses.replace(margin_problem(1e-3), variables=variables)
    parameters = {"margin": np.asarray(best_margin(1e-3)), "idle": np.asarray(0.5)}
    judged = judge(problem, parameters, STREAM)
    slopes = differences(problem, Policy(parameters, judged.levels), STREAM)
    found = stationarity(problem, parameters, judged, slopes, z=0.0, room=0.0)
    assert found.unidentified == (("idle", 0),)


def test_bounds_and_orders_say_how_far_an_entry_may_move():
    variables = (
        Tiers("low", start=(0.01, 0.05), lower=0.005, upper=0.2),
        Above("high", base="low", start=(0.02, 0.1), upper=0.3),
        Rate("rate", start=0.5, lower=0.25, upper=1.0),
    )
    known = {"low": np.array([0.01, 0.05]), "high": np.array([0.02, 0.1]), "rate": np.asarray(0.5)}
    found = rows(variables, known)
    assert entries(known) == (("low", 0), ("low", 1), ("high", 0), ("high", 1), ("rate", 0))
    np.testing.assert_allclose(room(found, ("low", 0)), (0.005, 0.01))
    np.testing.assert_allclose(room(found, ("low", 1)), (0.04, 0.05))
    np.testing.assert_allclose(room(found, ("high", 0)), (0.01, 0.08))
    np.testing.assert_allclose(room(found, ("high", 1)), (0.05, 0.2))
    np.testing.assert_allclose(room(found, ("rate", 0)), (0.25, 0.5))


def test_least_violation_is_found_where_nothing_holds():
    problem = margin_problem(1e-4, start=0.05, upper=0.08)
    stuck = restore(problem, {"margin": 0.05}, STREAM._replace(paths=20_000), TrustRegion(shares=(1.0,)))
    assert stuck.violation > 1.0
    assert float(stuck.policy.parameters["margin"]) == pytest.approx(0.08, rel=1e-2)
    held = restore(margin_problem(1e-3, start=0.02), {"margin": 0.02}, STREAM._replace(paths=20_000))
    assert held.violation <= 0.0


def test_refinement_keeps_its_optimum_beside_the_rounded_policy():
    problem = margin_problem(1e-3, grid=0.01)
    found = refine(problem, {"margin": 0.15}, STREAM._replace(paths=20_000), TrustRegion(shares=(1.0,)))
    exact, whole = float(found.optimum.parameters["margin"]), float(found.policy.parameters["margin"])
    assert exact < whole < exact + 0.01
    assert found.at_optimum.cost == pytest.approx(exact)
    assert exact > SIGMA


def test_gradients_agree_in_single_and_double_precision():
    """Same paths; in single precision sums over a chunk of 2,048 paths carry rounding errors of about 1e-6."""
    problem = dataclasses.replace(
        margin_problem(1e-3), constraints=(Mean("bad_debt", 1e-3), Shortfall("bad_debt", 0.05, 0.99, 0.02))
    )
    stream, free = STREAM._replace(paths=50_000, chunk=2_048), np.array([-3.0, 0.1])
    double = evaluate(checked(problem), stream, free)
    with jax.enable_x64(False):
        single = evaluate(checked(problem), stream, free)
    assert double.value[0] > 0.0
    for name in ("cost", "cost_gradient", "value", "value_gradient", "std_error", "std_error_gradient"):
        known = np.asarray(getattr(double, name))
        np.testing.assert_allclose(
            getattr(single, name), known, rtol=1e-4, atol=1e-5 * np.abs(known).max(), err_msg=name
        )
