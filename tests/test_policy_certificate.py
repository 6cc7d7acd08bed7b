"""Certificates: fresh keys, joint error over constraints and attempts, refusals; and the certified front."""

import dataclasses

import equinox as eqx
import numpy as np
import pytest
from policy_problems import (
    PLAIN,
    TRACES,
    Counted,
    best_margin,
    expected_bad_debt,
    hard_margin_problem,
    law,
    margin_problem,
)
from scipy import stats

from tailrisk import _streams
from tailrisk._fields import InputError
from tailrisk.policy import (
    Certification,
    Mean,
    Policy,
    Probability,
    Shortfall,
    Stream,
    certify,
    frontier,
    refine,
    settle,
    tune,
)
from tailrisk.policy.certificate import upper_bound
from tailrisk.policy.frontier import front_weights

QUICK = Certification(pilot_paths=65_536, most_paths=262_144, chunk=16_384)


def policy(margin, levels=1):
    return Policy({"margin": np.asarray(margin)}, np.zeros(levels))


@pytest.fixture(scope="module")
def safe():
    """A policy with 20 % less expected bad debt than the limit, and its certificate."""
    problem = margin_problem(1e-3)
    return problem, certify(problem, policy(best_margin(0.8e-3)), seed=1, method=QUICK)


def test_safe_policy_is_certified(safe):
    _, certificate = safe
    (attempt,) = certificate.attempts
    (line,) = attempt.lines
    assert certificate.status == "certified"
    assert line.passed
    assert abs(line.estimate - 0.8e-3) <= 4.0 * line.std_error
    assert line.estimate < line.upper_bound <= line.limit == 1e-3
    assert attempt.cost == pytest.approx(best_margin(0.8e-3), rel=1e-12)
    assert line.effective_hits > 1000
    # Enough paths for the expected bound to reach 97 % of the limit, and no more than a whole chunk beyond.
    quantile = stats.t.isf(0.025, QUICK.batches - 1)
    wanted = (quantile * line.std_error * np.sqrt(attempt.paths) / (0.17e-3)) ** 2
    assert attempt.paths == max(QUICK.pilot_paths, QUICK.chunk * np.ceil(wanted / QUICK.chunk))


def test_policy_that_misses_is_not_certified_and_is_spent(safe):
    problem, _ = safe
    first = certify(problem, policy(best_margin(1.1e-3)), seed=1, method=QUICK)
    second = certify(problem, policy(best_margin(1.05e-3)), seed=1, method=QUICK, previous=first)
    third = certify(problem, policy(best_margin(0.7e-3)), seed=1, method=QUICK, previous=second)
    assert [attempt.status for attempt in third.attempts] == ["not_certified", "not_certified", "certified"]
    np.testing.assert_allclose([attempt.error for attempt in third.attempts], [0.025, 0.0125, 0.00625])
    assert len({attempt.root for attempt in third.attempts}) == 3
    assert float(third.attempts[0].policy.parameters["margin"]) == best_margin(1.1e-3)
    assert third.status == "certified"
    with pytest.raises(InputError, match=r"level = 0\.9"):
        certify(problem, policy(0.2), seed=1, method=dataclasses.replace(QUICK, level=0.9), previous=first)


def test_errors_of_all_attempts_add_up_to_the_level():
    assert sum(0.05 * 0.5**j for j in range(1, 200)) == pytest.approx(0.05)


def test_constraints_share_the_error(safe):
    problem, single = safe
    double = dataclasses.replace(problem, constraints=problem.constraints * 2)
    both = certify(double, policy(best_margin(0.8e-3), 2), seed=1, method=QUICK).attempts[0]
    assert both.lines[0].upper_bound == both.lines[1].upper_bound
    assert both.lines[0].upper_bound > single.attempts[0].lines[0].upper_bound
    one_missed = dataclasses.replace(problem, constraints=(*problem.constraints, Mean("bad_debt", 0.5e-3)))
    missed = certify(one_missed, policy(best_margin(0.8e-3), 2), seed=1, method=QUICK)
    assert missed.status == "not_certified"
    assert [line.passed for line in missed.attempts[0].lines] == [True, False]


def test_keys_of_certificates_are_never_those_of_tuning(monkeypatch):
    used = []
    true_keys = _streams.noise_keys

    def recorded(seed, name):
        used.append(name)
        return true_keys(seed, name)

    monkeypatch.setattr(_streams, "noise_keys", recorded)
    problem = margin_problem(1e-3, grid=1e-3)
    tuned = tune(problem, seed=7, paths=20_000)
    refined = refine(problem, tuned.parameters, tuned.stream)
    assert set(used) == {"policy/tune"}
    used.clear()
    first = certify(problem, refined.policy, seed=7, method=QUICK)
    assert set(used) == {"policy/pilot/1", "policy/certify/1"}
    used.clear()
    certify(problem, refined.policy, seed=7, method=QUICK, previous=first)
    assert set(used) == {"policy/pilot/2", "policy/certify/2"}
    roots = ["policy/tune", *(f"policy/{kind}/{j}" for kind in ("pilot", "certify") for j in (1, 2))]
    keys = {tuple(int(word) for key in true_keys(7, root) for word in np.asarray(key)) for root in roots}
    assert len(keys) == len(roots)


def test_smoothed_optimum_without_refinement_is_caught():
    problem = hard_margin_problem(1e-3, 0.01, grid=1e-4)
    tuned = tune(problem, seed=1, paths=65_536)
    assert tuned.status == "converged"
    assert tuned.violation <= 1e-5  # of smoothed bad debt: a success by its own measure
    careless = settle(problem, tuned.parameters, tuned.stream)
    assert expected_bad_debt(float(careless.policy.parameters["margin"])) > 1.3e-3
    caught = certify(problem, careless.policy, seed=1, method=QUICK)
    assert caught.status == "not_certified"
    refined = refine(problem, tuned.parameters, tuned.stream)
    assert refined.violation <= 0.0
    again = certify(
        problem, refined.policy, seed=1, method=dataclasses.replace(QUICK, most_paths=1 << 20), previous=caught
    )
    assert again.status == "certified"
    assert expected_bad_debt(float(refined.policy.parameters["margin"])) <= 1e-3


@pytest.mark.parametrize(
    ("margin", "freedom", "method", "words"),
    [
        (0.17, 0, QUICK, "effective hits"),
        (0.3, 0, QUICK, "0.0 effective hits in 262,144 paths"),
        (0.1, 3, dataclasses.replace(QUICK, most_share=1e-4), "one path carries"),
        (0.1, 0, dataclasses.replace(QUICK, gate=lambda top, paths: f"{top.size} of {paths}"), "1536 of 262144"),
    ],
    ids=["few hits", "no hit", "one path", "gate"],
)
def test_refused_estimate_certifies_nothing(margin, freedom, method, words):
    method = dataclasses.replace(method, least_hits=150.0)
    limit = expected_bad_debt(margin, freedom) * 1.05 + 1e-12
    certificate = certify(margin_problem(limit, freedom), policy(margin), seed=2, method=method)
    (line,) = certificate.attempts[0].lines
    assert certificate.status == "refused"
    assert words in line.note
    assert np.isnan(line.upper_bound)
    assert not line.passed


def test_probability_is_certified_by_its_exact_bound():
    problem = dataclasses.replace(margin_problem(1.0), constraints=(Probability("excess", 2e-4, 0.0),))
    none = certify(problem, policy(0.4), seed=1, method=QUICK).attempts[0]
    assert none.status == "certified"  # no hit at all still bounds a probability
    assert none.lines[0].upper_bound == pytest.approx(-np.log(0.025) / none.paths, rel=1e-3)
    margin = float(law(0).isf(1.0e-4))
    some = certify(problem, policy(margin), seed=1, method=QUICK).attempts[0].lines[0]
    assert some.passed
    hits = round(some.estimate * QUICK.most_paths)
    assert stats.binom.cdf(hits, QUICK.most_paths, some.upper_bound) == pytest.approx(0.025, rel=1e-6)


def test_shortfall_is_certified_at_the_level_found_with_it():
    problem = dataclasses.replace(margin_problem(1.0), constraints=(Shortfall("bad_debt", 0.03, 0.99),))
    tuned = tune(problem, seed=1, paths=65_536)
    settled = settle(problem, tuned.parameters, tuned.stream)
    line = certify(problem, settled.policy, seed=1, method=QUICK).attempts[0].lines[0]
    margin = float(settled.policy.parameters["margin"])
    truth = expected_bad_debt(float(law(0).isf(0.01))) / 0.01 + float(law(0).isf(0.01)) - margin
    assert line.passed
    assert abs(line.estimate - truth) <= 4.0 * line.std_error
    assert line.std_error <= 0.02 * truth


def test_bound_of_skewed_means_exceeds_the_normal_one():
    rng = np.random.default_rng(0)
    means, stream = rng.pareto(2.5, (64, 200)).mean(axis=1), Stream("x", 1, 1)
    bound = upper_bound(means, 0.05, 9_999, stream)
    normal = means.mean() + 1.645 * means.std(ddof=1) / 8.0
    assert bound > normal
    assert bound == upper_bound(means, 0.05, 9_999, stream)
    assert bound != upper_bound(means, 0.05, 9_999, Stream("x", 2, 1))
    plain = rng.standard_normal(64)
    assert upper_bound(plain, 0.05, 99_999, stream) == pytest.approx(
        plain.mean() + stats.t.isf(0.05, 63) * plain.std(ddof=1) / 8.0, abs=0.02 * plain.std(ddof=1)
    )


def test_front_is_certified_and_its_prices_are_its_slope():
    limits = np.geomspace(1e-3, 1e-4, 8)
    problem = margin_problem(1.0, tilt=2.0, weighted=True)
    problem = eqx.tree_at(lambda p: p.model, problem, Counted(problem.model))
    TRACES.clear()
    points = frontier(
        problem, 0, limits, seed=1, certification=QUICK, paths=40_000, method=PLAIN_WITH_ROOM, chunk=16_384
    )
    assert len(TRACES) == 2  # one with gradients and one for judging, for the whole front
    assert {point.tuned.status for point in points} == {"converged"}
    assert {point.certificate.status for point in points} == {"certified"}
    costs = np.array([point.tuned.evaluation.cost for point in points])
    prices = np.array([point.shadow_price for point in points])
    slopes = np.array([point.slope for point in points])
    assert np.all(np.diff(costs) > 0.0)
    np.testing.assert_allclose(prices[1:-1], slopes[1:-1], rtol=0.05)
    assert np.isnan(slopes[[0, -1]]).all()
    known = [best_margin(0.9 * limit) for limit in limits]
    np.testing.assert_allclose(costs, known, rtol=5e-3)
    np.testing.assert_allclose(prices, [0.9 / law(0).sf(m) for m in known], rtol=0.03)


PLAIN_WITH_ROOM = dataclasses.replace(PLAIN, room=0.1)


def test_front_slopes_are_exact_for_a_parabola_in_the_logarithm():
    limits = np.array([1.0, 1.5, 3.0, 7.0])
    costs = 3.0 - 2.0 * np.log(limits) + 0.5 * np.log(limits) ** 2
    known = -(-2.0 + np.log(limits)) / limits
    np.testing.assert_allclose((front_weights(limits) @ costs)[1:-1], known[1:-1], rtol=1e-12)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Certification(level=1.0),
        lambda: Certification(batches=10),
        lambda: Certification(chunk=1000),
        lambda: frontier(margin_problem(1.0), 0, [1.0, 2.0], seed=0),
        lambda: frontier(margin_problem(1.0), 0, [1.0, 2.0, 2.0], seed=0),
    ],
    ids=["level", "batches", "chunk", "short front", "equal limits"],
)
def test_settings_out_of_bounds_are_refused(wrong):
    with pytest.raises(InputError, match="expected"):
        wrong()
