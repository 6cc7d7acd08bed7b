"""The tuning contest: its optimum is known, every method keeps to its budget of paths, and what is certified costs more."""

import dataclasses
import math

import numpy as np
import pytest

from tailrisk.bench import policies
from tailrisk.bench.policies import METHODS, contest, problem_of
from tailrisk.policy import AugmentedLagrangian, tune

PATHS, EVALUATIONS = 2_048, 30
RIVALS = {"CMA-ES": "cma", "constrained Bayesian": "bayes_opt"}


def test_least_cost_is_that_of_the_plain_problem():
    problem, least = problem_of(3)
    tuned = tune(problem, seed=1, paths=50_000, method=AugmentedLagrangian(z=0.0, room=0.0))
    assert tuned.status == "converged"
    error = 1.0 / (float(tuned.shadow_prices[0]) ** -1 * 50_000) ** 0.5  # of the price, relative; the cost is flatter
    assert tuned.evaluation.cost == pytest.approx(least, rel=error)
    assert error < 0.03
    assert tuned.evaluation.cost == pytest.approx(sum(float(m) for m in tuned.parameters.values()))


@pytest.mark.parametrize("name", list(METHODS))
def test_every_method_keeps_to_its_budget_and_certifies(name, monkeypatch):
    if name in RIVALS:
        pytest.importorskip(RIVALS[name])
    quick = dataclasses.replace(policies.CERTIFICATION, most_paths=131_072)
    monkeypatch.setattr(policies, "CERTIFICATION", quick)
    row = contest(2, METHODS[name], PATHS, 1, EVALUATIONS)
    assert row.paths[0] <= PATHS * EVALUATIONS
    (regret,) = row.regrets
    assert math.isnan(regret) or regret > 0.0  # nothing certified is cheaper than the optimum
    if name.startswith("ours"):
        assert row.certified == 1.0
        assert regret < 0.15


def test_shares_of_the_range_are_free_numbers():
    problem, _ = problem_of(2)
    search = policies._Search(problem, policies.Stream("test", 0, 256, 256), 10)
    free = search.free(np.array([0.25, 0.75]))
    values = search.trials.values(free)
    span = policies.HIGHEST - policies.LOWEST
    np.testing.assert_allclose(values["margin0"], policies.LOWEST + 0.25 * span, rtol=1e-6)
    np.testing.assert_allclose(values["margin1"], policies.LOWEST + 0.75 * span, rtol=1e-6)
