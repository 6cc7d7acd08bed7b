"""The catalogue of problems with known tails under default settings, and what the estimators gain (slow)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from tail_problems import (
    LIMIT_STATES,
    GaussianWalk,
    JumpCascade,
    Ruin,
    Static,
    agrees,
    gaussian_referee,
    jump_walk_referee,
)

from tailrisk import tails
from tailrisk.bench.tail_cases import CascadeState
from tailrisk.tails import Controlled, CrossEntropy, Mean, Probability, Splitting, Tail, exhaustion

pytestmark = pytest.mark.slow

PATHS = {
    "Brownian maximum 3": (GaussianWalk(), 3.0, gaussian_referee(3.0)),
    "Brownian maximum 4": (GaussianWalk(), 4.0, gaussian_referee(4.0)),
    "Brownian maximum 4.5": (GaussianWalk(), 4.5, gaussian_referee(4.5)),
    "jump walk 0.15": (JumpCascade(impact=0.0), 0.15, jump_walk_referee(0.15)),
    "jump walk 0.20": (JumpCascade(impact=0.0), 0.20, jump_walk_referee(0.20)),
}


def probability(problem, level, method, paths, seed=1):
    return probability_of(problem, Probability(level), paths, seed, method)


def probability_of(problem, target, paths, seed=1, method=None):
    method = method or CrossEntropy()
    return tails.run(problem, tails.fit(problem, target, method, seed), paths, seed)["probability"]


@pytest.mark.parametrize("name", PATHS)
def test_first_passage_by_both_families(name):
    problem, level, truth = PATHS[name]
    tilted = probability(problem, level, CrossEntropy(), 40_000)
    agrees(tilted, truth, 0.012)
    split = probability(problem, level, Splitting(), 400_000)
    agrees(split, truth, 0.25)
    assert not tails.confirm(tilted, split).refused


def test_ruin_at_one_percent_with_a_thousand_runs():
    """The fitted powers of both sizes are about those of Siegmund; ruin later than 4096 claims is left out of the run."""
    truth = float(np.exp(-0.1 * 100.0 / 1.1) / 1.1)
    agrees(probability(Ruin(), 100.0, CrossEntropy(pilot=1_000), 1_280), truth, 0.011)


@pytest.mark.parametrize("name", LIMIT_STATES)
def test_static_limit_states_are_right_or_refused(name):
    """One mean for a normal law per input: events in several places are refused, or have an interval as wide as it must be."""
    inputs, limit, truth = LIMIT_STATES[name]
    result = probability(Static(inputs, limit), 0.0, CrossEntropy(pilot=1_900), 9_600)
    if not result.refused:
        agrees(result, truth, 0.08)


def test_gains_of_the_reference_cascade():
    """At least the gains asked of it, tuning not counted, with the default share of nominal paths."""
    problem = JumpCascade(accounts=256)
    feedback = probability(problem, 0.30, CrossEntropy(), 40_000)
    assert feedback.gain_over_plain() > 2.0e4
    assert feedback.paths + feedback.tuning_paths <= 2e5
    constant = probability(problem, 0.30, CrossEntropy(feedback=False), 40_000)
    assert constant.gain_over_plain() > 1.3e4
    assert abs(feedback.value - constant.value) < 3.5 * np.hypot(feedback.std_error, constant.std_error)
    controlled = tails.fit(problem, Probability(0.30), Controlled(JumpCascade(), cost=1 / 64), 1)
    both = tails.run(problem, controlled, 60_000, 1)["probability"]
    assert not both.refused, both.reason
    assert both.gain_over_plain() > 1.5e5
    assert both.gain_over_plain() > 10.0 * feedback.gain_over_plain()
    assert abs(feedback.value - both.value) < 3.5 * np.hypot(feedback.std_error, both.std_error)


@pytest.mark.parametrize(("level", "gain"), [(0.37, 7e5), (0.44, 4e7)])
def test_relative_error_stays_bounded_for_rarer_events(level, gain):
    result = probability(JumpCascade(), level, CrossEntropy(), 64_000)
    assert result.gain_over_plain() > gain
    assert result.std_error < 0.0105 * result.value
    assert result.paths + result.tuning_paths <= 3e5


def test_gains_without_jumps():
    problem = JumpCascade(rate=0.0, volatility=0.055)
    tilted = probability(problem, 0.30, CrossEntropy(), 40_000)
    split = probability(problem, 0.30, Splitting(), 1_000_000)
    assert tilted.gain_over_plain() > 0.9e5
    assert split.gain_over_plain() > 300.0
    assert not tails.confirm(tilted, split).refused


def committor_of_cascade(problem):
    """The continuum's chance to reach 0.30 from its depth and running maximum, as the score of another cascade."""
    continuum = JumpCascade(rate=problem.rate, volatility=problem.volatility)
    grid = tails.Grid((-0.12, 0.30, 64), (0.0, 0.30, 48))

    def state(depth, low):
        return CascadeState(depth, low, jnp.maximum(depth, low), jnp.zeros_like(depth))

    return tails.guided(problem, continuum, 0.30, grid, lambda state: (state.depth, state.low), state)


def test_the_committor_of_the_continuum_guides_splitting():
    """Its own value is the probability of the continuum but for the grid, and splitting by it gains more than 600."""
    problem = JumpCascade(rate=0.0, volatility=0.055)
    guided = committor_of_cascade(problem)
    split = probability(guided, 0.0, Splitting(), 800_000)
    tilted = probability(problem, 0.30, CrossEntropy(), 40_000)
    assert not tails.confirm(tilted, split).refused
    assert np.exp(float(guided.init()[2])) == pytest.approx(tilted.value, rel=0.1)
    assert split.gain_over_plain() > 600.0


def test_the_committor_is_unbiased_with_jumps():
    """Overshoots by jumps limit what levels can gain, whatever the score; the estimate is that of the tilt."""
    problem = JumpCascade()
    split = probability(committor_of_cascade(problem), 0.0, Splitting(), 400_000)
    tilted = probability(problem, 0.30, CrossEntropy(), 40_000)
    assert not tails.confirm(tilted, split).refused
    assert split.std_error < 0.2 * split.value


def test_losses_and_exhaustion_with_their_own_tilts():
    problem = JumpCascade()
    assert probability_of(problem, exhaustion(0.02), 40_000).gain_over_plain() > 1e4
    fit = tails.fit(problem, Mean("loss"), CrossEntropy(), 1)
    mean = tails.run(problem, fit, 40_000, 1)["mean"]
    parts = list(fit.sample(problem, 40_000, 2))
    x, w = (np.concatenate(p) for p in ([c.outcome["loss"] for c in parts], [np.exp(c.log_weight) for c in parts]))
    plain = float(np.mean(w * x * x)) - mean.value**2  # variance of a plain path
    assert plain / (mean.paths * mean.std_error**2) > 1.5e3


def test_tail_measures_of_one_stream():
    """Value-at-risk and shortfall of the peak at 1e-4 to half a percent and one with 5,000 paths; exact for a walk."""
    problem = JumpCascade()
    found = tails.run(problem, tails.fit(problem, Tail((0.999, 0.9999), "score"), CrossEntropy(), 1), 5_000, 1)
    assert found["es_0.9999"].std_error < 0.005 * found["es_0.9999"].value
    assert found["var_0.9999"].std_error < 0.011 * found["var_0.9999"].value
    walk = JumpCascade(impact=0.0)
    level = 1.0 - jump_walk_referee(0.20)
    found = tails.run(walk, tails.fit(walk, Tail((level,), "score"), CrossEntropy(), 1), 20_000, 1)
    low, high = found[f"var_{level:g}"].interval
    assert low <= 0.20 <= high
    assert high - low < 0.005


def test_intervals_of_the_tilt_cover():
    """95 % intervals of 200 small runs of one fitted law, and the spread of their estimates against the error they report."""
    problem, truth = GaussianWalk(), gaussian_referee(4.0)
    fit = tails.fit(problem, Probability(4.0), CrossEntropy(), 1)
    runs = [tails.run(problem, fit, 1_280, seed)["probability"] for seed in range(200)]
    assert not any(run.refused for run in runs)
    covered = sum(run.interval[0] <= truth <= run.interval[1] for run in runs)
    assert stats.binom.cdf(covered, 200, 0.95) > 0.005
    assert covered / 200 < 0.99
    spread = np.std([run.value for run in runs], ddof=1)
    assert spread == pytest.approx(np.mean([run.std_error for run in runs]), rel=0.15)


def test_precision_of_single():
    """Float32 paths give the estimate of float64 within its error, though other paths cross."""
    with jax.enable_x64(True):
        double = probability(GaussianWalk(), 4.0, CrossEntropy(), 40_000)
    single = probability(GaussianWalk(dtype=np.dtype(np.float32)), 4.0, CrossEntropy(), 40_000)
    assert abs(single.value - double.value) < 3.5 * np.hypot(single.std_error, double.std_error)
