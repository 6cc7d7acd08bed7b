"""Tuning against problems whose optimum and shadow price are known."""

import dataclasses

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from policy_problems import (
    PLAIN,
    SIGMA,
    TRACES,
    Counted,
    IsolatedLong,
    Margin,
    TwoMargins,
    best_margin,
    deviation,
    expected_bad_debt,
    hard_margin_problem,
    law,
    margin_problem,
)
from scipy import stats

from tailrisk._fields import InputError
from tailrisk.policy import (
    AbstractSampledModel,
    AugmentedLagrangian,
    Mean,
    Probability,
    Problem,
    Rate,
    Shortfall,
    Stream,
    Tiers,
    TrustRegion,
    anneal,
    refine,
    settle,
    tune,
)
from tailrisk.policy.problem import checked, evaluate, judge, outcomes

PATHS = 100_000
MILLION = 1_000_000


@pytest.mark.parametrize(
    ("limit", "margin", "price"),
    [(1e-3, 0.0627565, 17.1426), (1e-4, 0.0971174, 131.7079), (1e-5, 0.1247355, 1099.843)],
)
def test_closed_form(limit, margin, price):
    best = best_margin(limit)
    assert best == pytest.approx(margin, abs=6e-8)
    assert 1.0 / law(0).sf(best) == pytest.approx(price, rel=3e-6)  # digits of the table


@pytest.mark.parametrize("freedom", [0, 3, 5])
def test_closed_form_is_the_integral_of_the_tail(freedom):
    for margin in (0.03, 0.1, 0.3):
        known = law(freedom).expect(lambda x, m=margin: x - m, lb=margin)
        assert expected_bad_debt(margin, freedom) == pytest.approx(known, rel=1e-6)


def errors(tuned, limit, freedom=0):
    """Distances from optimum and shadow price in the standard errors that the paths allow, and those errors."""
    best, n = best_margin(limit, freedom), tuned.stream.paths
    tail = law(freedom).sf(best)
    margin_error = deviation(best, freedom) / np.sqrt(n) / tail
    price_error = np.sqrt((1.0 - tail) / (n * tail))
    away = (float(tuned.parameters["margin"]) - best) / margin_error
    return away, (float(tuned.shadow_prices[0]) * tail - 1.0) / price_error, margin_error, price_error


@pytest.mark.parametrize(("limit", "paths"), [(1e-3, 200_000), (1e-4, MILLION), (1e-5, MILLION)])
def test_optimum_and_shadow_price_of_the_normal_law(limit, paths):
    tuned = tune(margin_problem(limit), seed=1, paths=paths, method=PLAIN)
    away, price_away, margin_error, price_error = errors(tuned, limit)
    assert tuned.status == "converged"
    assert abs(tuned.violation) <= 1e-5
    assert abs(away) <= 3.0
    assert abs(price_away) <= 3.0
    assert margin_error <= 6e-4
    assert price_error <= 0.035


def test_optimum_and_shadow_price_of_a_heavy_tail():
    tuned = tune(margin_problem(1e-3, 3), seed=1, paths=200_000, method=PLAIN)
    away, price_away, margin_error, price_error = errors(tuned, 1e-3, 3)
    assert tuned.status == "converged"
    assert abs(away) <= 3.0
    assert abs(price_away) <= 3.0
    assert margin_error <= 5e-3
    assert price_error <= 0.04


@pytest.mark.parametrize("tilt", [2.4, 2.9])
def test_importance_sampling_gives_four_digits_of_the_optimum(tilt):
    tuned = tune(margin_problem(1e-4, tilt=tilt, weighted=True), seed=1, paths=200_000, method=PLAIN)
    best = best_margin(1e-4)
    assert float(tuned.parameters["margin"]) == pytest.approx(best, abs=1e-4)
    assert float(tuned.shadow_prices[0]) == pytest.approx(1.0 / law(0).sf(best), rel=0.01)


@pytest.mark.parametrize(
    ("limit", "margin", "price"),
    [(0.05, 0.0620036817, 0.380113), (0.02, 0.0779741598, 0.802898), (0.01, 0.0885293567, 1.446655)],
)
def test_margin_of_an_isolated_long(limit, margin, price):
    variables = (Rate("margin", start=0.05, lower=0.001, upper=0.19),)
    problem = Problem(IsolatedLong(), variables, {"margin": 1.0}, (Mean("bad_debt", limit),))
    tuned = tune(problem, seed=1, paths=200_000, method=PLAIN)
    assert tuned.status == "converged"
    assert float(tuned.parameters["margin"]) == pytest.approx(margin, abs=1e-4)
    assert float(tuned.shadow_prices[0]) == pytest.approx(price, rel=0.01)


@pytest.mark.parametrize("tilt", [0.0, 1.5, 2.5])
def test_gradient_is_the_same_under_every_proposal(tilt):
    problem = checked(margin_problem(1e-4, tilt=tilt, weighted=True, start=0.08))
    stream = Stream("test/gradient", 3, PATHS)
    drawn = outcomes(problem, {"margin": 0.08}, stream)
    slope = -drawn["weight"] * (drawn["bad_debt"] > 0.0)
    error = slope.std() / np.sqrt(slope.size)
    known = -law(0).sf(0.08)
    found = evaluate(problem, stream, np.zeros(1)).value_gradient[0, 0] / (0.1 * 0.08)
    assert found == pytest.approx(slope.mean(), rel=1e-12)
    assert abs(found - known) <= 3.0 * error
    assert error <= 0.03 * abs(known)


def test_gradients_of_means_and_errors_are_those_of_differences():
    problem = checked(
        Problem(
            Margin(tilt=1.0, weighted=True),
            margin_problem(1.0, start=0.05).variables,
            {"margin": 1.0, "bad_debt": 3.0},
            (Mean("bad_debt", 0.01), Shortfall("bad_debt", 0.05, 0.9, 0.01), Probability("excess", 0.1, 0.0, 0.02)),
        )
    )
    stream, free = Stream("test/gradient", 4, 5_000), np.array([0.3, -0.2, 0.4])
    middle, step = evaluate(problem, stream, free), 1e-4
    for i in range(3):
        up, down = (evaluate(problem, stream, free + sign * step * np.eye(3)[i]) for sign in (1, -1))
        for name in ("cost", "value", "std_error"):
            known = (getattr(up, name) - getattr(down, name)) / (2.0 * step)
            scale = 1e-3 * np.abs(getattr(middle, name)) * 0.1 + 1e-12
            slope = np.asarray(getattr(middle, f"{name}_gradient"))[..., i]
            assert np.all(np.abs(slope - known) <= 2e-2 * np.abs(known) + scale), (name, i)


def test_two_starts_meet():
    found = [tune(margin_problem(1e-4, start=start), seed=2, paths=PATHS) for start in (0.02, 0.15, 0.8)]
    assert {tuned.status for tuned in found} == {"converged"}
    np.testing.assert_allclose([float(t.parameters["margin"]) for t in found], found[1].parameters["margin"], rtol=1e-5)
    np.testing.assert_allclose([t.shadow_prices[0] for t in found], found[1].shadow_prices[0], rtol=2e-3)


@pytest.mark.slow
def test_two_margins_match_a_dense_grid_on_the_same_paths():
    limit = 4e-4
    variables = (Tiers("margins", start=(0.05, 0.3), lower=0.001, upper=0.9),)
    problem = Problem(TwoMargins(), variables, {"margin": 1.0}, (Mean("bad_debt", limit),))
    tuned = tune(problem, seed=1, paths=PATHS, method=PLAIN)
    drawn = outcomes(
        checked(dataclasses.replace(problem, cost={"first": 1.0, "second": 1.0})), tuned.parameters, tuned.stream
    )
    grids = [np.linspace(0.02, 0.08, 601), np.linspace(0.06, 0.24, 601)]
    debts = [
        np.array([np.maximum(drawn[name] - margin, 0.0).mean() for margin in grid])
        for name, grid in zip(("first", "second"), grids, strict=True)
    ]
    total = debts[0][:, None] + debts[1][None, :]
    cost = grids[0][:, None] + grids[1][None, :]
    dense = cost[total <= limit].min()
    assert tuned.status == "converged"
    assert tuned.evaluation.cost == pytest.approx(dense, rel=2e-3)
    assert tuned.evaluation.cost <= dense * (1.0 + 1e-4)  # no point of the grid is cheaper
    assert tuned.evaluation.value[0] == pytest.approx(limit, rel=1e-4)
    # Both assets run the same probability of a shortfall at the optimum, one over the shadow price.
    tails = [
        float(np.mean(drawn[n] > m)) for n, m in zip(("first", "second"), tuned.parameters["margins"], strict=True)
    ]
    np.testing.assert_allclose(tails, 1.0 / tuned.shadow_prices[0], rtol=0.01)


def test_shortfall_limit_has_its_closed_form():
    # Beyond a margin below the value-at-risk, the shortfall of the bad debt is the shortfall of the loss less the margin.
    problem = dataclasses.replace(margin_problem(1.0), constraints=(Shortfall("bad_debt", 0.03, 0.99),))
    tuned = tune(problem, seed=1, paths=PATHS, method=PLAIN)
    shortfall, quantile = SIGMA * stats.norm.pdf(stats.norm.isf(0.01)) / 0.01, SIGMA * stats.norm.isf(0.01)
    square = integrate_tail(quantile)
    error = np.sqrt(square - (0.01 * (shortfall - quantile)) ** 2) / 0.01 / np.sqrt(PATHS)
    assert tuned.status == "converged"
    assert abs(float(tuned.parameters["margin"]) - (shortfall - 0.03)) <= 3.0 * error
    assert error <= 6e-4
    assert float(tuned.shadow_prices[0]) == pytest.approx(1.0, rel=0.01)


def integrate_tail(threshold):
    """E[((L - threshold)+)^2] of the normal law."""
    return deviation(threshold) ** 2 + expected_bad_debt(threshold) ** 2


@pytest.mark.slow
def test_probability_is_tuned_on_its_bound_and_refined_by_counting():
    problem = dataclasses.replace(margin_problem(1.0), constraints=(Probability("excess", 0.01, 0.0),))
    tuned = tune(problem, seed=1, paths=PATHS, method=PLAIN)
    quantile = SIGMA * stats.norm.isf(0.01)
    shortfall = SIGMA * stats.norm.pdf(stats.norm.isf(0.01)) / 0.01
    error = np.sqrt(integrate_tail(quantile)) / 0.01 / np.sqrt(PATHS)
    assert tuned.status == "converged"
    assert abs(float(tuned.parameters["margin"]) - shortfall) <= 3.0 * error
    refined = refine(problem, tuned.parameters, tuned.stream, TrustRegion(z=0.0, room=0.0))
    error = np.sqrt(0.01 * 0.99 / PATHS) / stats.norm.pdf(quantile, scale=SIGMA)
    assert refined.violation <= 0.0
    assert abs(float(refined.policy.parameters["margin"]) - quantile) <= 3.0 * error + 2e-4
    assert error <= 1e-3


def test_bound_and_room_are_kept_on_the_own_paths():
    tuned = tune(margin_problem(1e-4), seed=3, paths=PATHS, method=AugmentedLagrangian(z=2.0, room=0.1))
    evaluation = tuned.evaluation
    assert tuned.bounds[0] == pytest.approx(0.9e-4, rel=2e-5)
    assert tuned.bounds[0] == pytest.approx(float(evaluation.value[0] + 2.0 * evaluation.std_error[0]), rel=1e-12)


def test_infeasible_target_ends_at_the_least_violation():
    tuned = tune(margin_problem(1e-4, start=0.05, upper=0.08), seed=1, paths=PATHS, method=PLAIN)
    multipliers = [round_.multipliers[0] for round_ in tuned.rounds]
    assert tuned.status == "infeasible"
    assert float(tuned.parameters["margin"]) == pytest.approx(0.08, rel=1e-4)
    assert tuned.violation > 1.0
    assert np.all(np.diff(multipliers) > 0.0)
    assert multipliers[-1] > 10.0 * multipliers[0]


def test_target_that_conflicts_with_another_is_infeasible():
    class Opposed(AbstractSampledModel):
        def sample(self, parameters, keys, first, paths):
            rate = jnp.broadcast_to(parameters["rate"], (paths,))
            return {"up": rate, "down": 1.0 - rate}

    variables = (Rate("rate", start=0.2, lower=0.0, upper=1.0),)
    limits = (Mean("up", 0.4), Mean("down", 0.4))
    tuned = tune(Problem(Opposed(), variables, {"up": 1.0}, limits), seed=0, paths=100, method=PLAIN)
    assert tuned.status == "infeasible"
    assert float(tuned.parameters["rate"]) == pytest.approx(0.5, abs=1e-3)
    assert tuned.violation == pytest.approx(0.25, abs=5e-3)


def test_limit_that_does_not_bind_has_no_price():
    problem = margin_problem(1e-4)
    problem = dataclasses.replace(problem, constraints=(*problem.constraints, Mean("margin", limit=0.5)))
    tuned = tune(problem, seed=1, paths=PATHS, method=PLAIN)
    assert tuned.status == "converged"
    assert tuned.shadow_prices[0] > 100.0
    assert tuned.shadow_prices[1] == 0.0


def test_budget_in_paths_is_kept():
    method = AugmentedLagrangian(most_paths=7.5 * PATHS)
    tuned = tune(margin_problem(1e-4), seed=1, paths=PATHS, method=method)
    assert tuned.status == "budget_exhausted"
    assert tuned.evaluations == 7


class Holed(AbstractSampledModel):
    """Not a number below a margin of 0.09."""

    def sample(self, parameters, keys, first, paths):
        out = Margin().sample(parameters, keys, first, paths)
        hole = jnp.where(parameters["margin"] < 0.09, jnp.nan, 1.0)
        return out | {"bad_debt": hole * out["bad_debt"]}


@pytest.mark.parametrize(("start", "status"), [(0.15, "converged"), (0.05, "not_finite")])
def test_steps_that_are_not_finite_are_skipped(start, status):
    problem = dataclasses.replace(margin_problem(1e-4, start=start), model=Holed())
    tuned = tune(problem, seed=1, paths=PATHS, method=PLAIN)
    assert tuned.status == status
    if status == "converged":
        assert abs(errors(tuned, 1e-4)[0]) <= 3.0


class Breaches(AbstractSampledModel):
    """A penalty per breach: a jump, of which a pathwise gradient sees nothing."""

    def sample(self, parameters, keys, first, paths):
        out = Margin().sample(parameters, keys, first, paths)
        return out | {"bad_debt": jnp.where(out["excess"] > 0.0, 0.01, 0.0)}


def test_gradient_that_misses_jumps_is_never_a_success():
    problem = dataclasses.replace(margin_problem(1e-4), model=Breaches())
    tuned = tune(problem, seed=1, paths=PATHS, method=PLAIN)
    assert tuned.status != "converged"
    # Counting needs no gradient: the cheapest margin has one breach in a hundred.
    refined = refine(problem, {"margin": 0.15}, tuned.stream, TrustRegion(z=0.0, room=0.0))
    assert refined.violation <= 0.0
    assert float(refined.policy.parameters["margin"]) == pytest.approx(SIGMA * stats.norm.isf(0.01), abs=3e-3)


def test_one_trace_for_all_steps_limits_and_starts():
    problem = margin_problem(1e-3)
    problem = eqx.tree_at(lambda p: p.model, problem, Counted(Margin()))
    TRACES.clear()
    first = tune(problem, seed=1, paths=10_240, chunk=1024)
    assert len(TRACES) == 2  # with gradients, and without for judging
    problem = eqx.tree_at(lambda p: p.constraints[0].limit, problem, np.asarray(2e-3))
    second = tune(problem, seed=2, paths=5_000, chunk=1024, start=first.parameters)
    judge(second.problem, second.parameters, second.stream)
    assert first.evaluations + second.evaluations > 20
    assert len(TRACES) == 2


def test_chunks_change_nothing():
    problem = dataclasses.replace(
        margin_problem(1e-3), constraints=(Mean("bad_debt", 1e-3), Shortfall("bad_debt", 0.05, 0.99))
    )
    tuned = [tune(problem, seed=1, paths=10_000, chunk=size) for size in (10_000, 3_000)]
    np.testing.assert_allclose(tuned[0].parameters["margin"], tuned[1].parameters["margin"], rtol=1e-6)
    np.testing.assert_allclose(tuned[0].evaluation.value, tuned[1].evaluation.value, rtol=1e-6)


@pytest.mark.slow
def test_smoothed_optimum_approaches_the_hard_one_and_refinement_reaches_it():
    models = [Margin(smooth=True, smoothing=h) for h in (0.02, 0.01, 0.005, 0.0025)]
    problem = hard_margin_problem(1e-3, 0.02, grid=1e-4)
    stages = anneal(problem, models, seed=1, paths=PATHS, method=PLAIN)
    missed = np.array([stage.judged.value[0] / 1e-3 - 1.0 for stage in stages])
    assert {stage.tuned.status for stage in stages} == {"converged"}
    assert missed[0] > 0.3  # the first temperature misses the limit by far, on its own paths
    assert np.all(np.diff(missed) < 0.0)
    assert 0.18 < missed[-1] / missed[-2] < 0.3  # the bias goes with the square of the temperature
    assert 0.0 < missed[-1] < 0.05
    refined = refine(problem, stages[-1].tuned.parameters, stages[-1].tuned.stream, TrustRegion(z=0.0, room=0.0))
    exact = tune(margin_problem(1e-3), seed=1, paths=PATHS, method=PLAIN).parameters["margin"]
    assert refined.violation <= 0.0
    assert exact <= refined.policy.parameters["margin"] <= exact + 2.5e-4


def test_rounding_is_judged_after_it():
    problem = margin_problem(1e-4, grid=0.005)
    tuned = tune(problem, seed=1, paths=PATHS)
    settled = settle(problem, tuned.parameters, tuned.stream)
    assert float(settled.policy.parameters["margin"]) == 0.1
    assert settled.violation < tuned.violation
    assert settled.judged.cost == pytest.approx(0.1, rel=1e-12)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: AugmentedLagrangian(z=-1.0),
        lambda: TrustRegion(shares=(0.5,)),
        lambda: tune(margin_problem(1.0), seed=0, paths=1),
        lambda: tune(dataclasses.replace(margin_problem(1.0), cost={"margn": 1.0}), seed=0, paths=10),
    ],
    ids=["z", "shares", "paths", "outcome"],
)
def test_settings_out_of_bounds_are_refused(wrong):
    with pytest.raises(InputError, match="expected"):
        wrong()
