"""What tuning and certificates promise, counted in repetition against the truth in closed form."""

import dataclasses

import numpy as np
import pytest
from policy_problems import PLAIN, best_margin, expected_bad_debt, margin_problem
from scipy import stats

from tailrisk.policy import AugmentedLagrangian, Certification, Policy, certify, settle, tune

BOUND = AugmentedLagrangian(room=0.0)  # the upper confidence bound meets the limit exactly
QUICK = Certification(pilot_paths=65_536, most_paths=1_048_576, chunk=65_536, resamples=1999)


def true_ratios(limit, freedom, method, paths, seeds):
    """True expected bad debt over its limit of policies tuned on different seeds."""
    problem = margin_problem(limit, freedom)
    tuned = [tune(problem, seed=seed, paths=paths, method=method) for seed in seeds]
    assert {t.status for t in tuned} == {"converged"}
    return np.array([expected_bad_debt(float(t.parameters["margin"]), freedom) for t in tuned]) / limit


def test_plain_averages_violate_and_bounds_rarely_do():
    plain = true_ratios(1e-3, 0, PLAIN, 5_000, range(20))
    bounded = true_ratios(1e-3, 0, BOUND, 5_000, range(20))
    coin = stats.binom(20, 0.5)
    assert coin.ppf(1e-3) <= np.count_nonzero(plain > 1.0) <= coin.isf(1e-3)
    assert np.count_nonzero(bounded > 1.0) <= stats.binom.isf(1e-3, 20, 0.1)
    assert np.all(bounded < plain)
    assert np.median(bounded) > 0.8  # and not at any price


@pytest.mark.slow
def test_share_of_violations_at_full_size():
    plain = true_ratios(1e-4, 0, PLAIN, 100_000, range(200))
    bounded = true_ratios(1e-4, 0, BOUND, 100_000, range(200))
    print("plain", np.quantile(plain, (0.05, 0.5, 0.95)), np.mean(plain > 1.0))
    print("bound", np.quantile(bounded, (0.05, 0.5, 0.95)), np.mean(bounded > 1.0))
    assert 0.41 <= np.mean(plain > 1.0) <= 0.61
    assert np.mean(bounded > 1.0) <= 0.10
    np.testing.assert_allclose(np.quantile(plain, (0.05, 0.5, 0.95)), (0.92, 1.0, 1.08), atol=0.03)
    np.testing.assert_allclose(np.quantile(bounded, (0.05, 0.5, 0.95)), (0.85, 0.92, 1.0), atol=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("freedom", [0, 3], ids=["normal", "t3"])
def test_tuned_and_certified_policies_hold(freedom):
    """200 fresh tunings, each rounded, certified on keys of its own, and compared with the truth."""
    problem = margin_problem(1e-4, freedom, grid=1e-4)
    status, truth = [], []
    for seed in range(200):
        tuned = tune(problem, seed=seed, paths=100_000)
        policy = settle(problem, tuned.parameters, tuned.stream).policy
        status.append(certify(problem, policy, seed=seed, method=QUICK).status)
        truth.append(expected_bad_debt(float(policy.parameters["margin"]), freedom) / 1e-4)
    status, wrong = np.array(status), np.array(truth) > 1.0
    counts = {name: int(np.sum(status == name)) for name in ("certified", "not_certified", "refused")}
    print(freedom, counts, "wrong", wrong.sum(), "certified and wrong", np.sum(wrong & (status == "certified")))
    most = 0.05 + 2.0 * np.sqrt(0.05 * 0.95 / 200)
    assert np.mean(wrong & (status == "certified")) <= most
    assert counts["certified"] >= 40  # a certificate that never passes promises nothing


@pytest.mark.slow
@pytest.mark.parametrize("freedom", [0, 3], ids=["normal", "t3"])
def test_accepted_policies_satisfy_their_limit(freedom):
    """Half of all plainly tuned policies miss the limit; of those that certificates let pass, at most 5 % do."""
    problem = margin_problem(1e-4, freedom)
    accepted = []
    for seed in range(400):
        tuned = tune(problem, seed=seed, paths=100_000, method=PLAIN)
        policy = Policy(tuned.parameters, np.zeros(1))
        if certify(problem, policy, seed=seed, method=QUICK).status == "certified":
            accepted.append(expected_bad_debt(float(tuned.parameters["margin"]), freedom) <= 1e-4)
    print(freedom, "accepted", len(accepted), "of them true", np.mean(accepted))
    assert len(accepted) >= 40
    assert np.mean(accepted) >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize(("freedom", "paths"), [(0, 131_072), (3, 1_048_576)], ids=["normal", "t3"])
def test_policy_on_its_limit_is_accepted_as_rarely_as_promised(freedom, paths):
    method = dataclasses.replace(QUICK, pilot_paths=65_536, most_paths=paths, least_hits=50.0, most_share=0.2)
    policy = Policy({"margin": np.asarray(best_margin(1e-4, freedom))}, np.zeros(1))
    problem = margin_problem(1e-4, freedom)
    passed = [certify(problem, policy, seed=seed, method=method).status == "certified" for seed in range(400)]
    print(freedom, "accepted on the limit", np.mean(passed))
    assert np.mean(passed) <= 0.025 + 3.0 * np.sqrt(0.025 * 0.975 / 400)
