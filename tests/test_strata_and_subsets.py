"""Strata by the number of jumps, and subset simulation: known laws, and agreement with the tilt."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from tail_problems import LIMIT_STATES, Static, jump_walk_referee

from tailrisk import tails
from tailrisk._fields import InputError
from tailrisk._streams import Draws
from tailrisk.bench.tail_cases import JumpCascade
from tailrisk.simulate import simulate
from tailrisk.tails import CrossEntropy, Mean, Probability, Stratified, Subset
from tailrisk.tails.problem import AbstractProblem, Roles
from tailrisk.tails.sampler import Fitted
from tailrisk.tails.strata import Counted, FittedStrata
from tailrisk.tails.targets import Hint


class Counter(AbstractProblem):
    """Counts events of a chance that may grow with their number; shows the last step that had one."""

    growth: float = eqx.field(static=True, default=0.0)
    steps: int = eqx.field(static=True, default=12)
    dtype: Any = eqx.field(static=True, default=np.dtype(np.float64))

    @property
    def draws(self):
        return Draws(0, 1)

    @property
    def roles(self):
        return Roles(events=(0,))

    def init(self):
        return jnp.zeros(3, self.dtype)

    def step(self, state, noise):
        happens = noise.uniform[0] < self.chance(state, noise, 0)
        count, step, first = state
        first = jnp.where(happens & (count == 0.0), step, first)
        return jnp.stack([count + jnp.where(happens, 1.0, 0.0), step + 1.0, first]), None

    def place(self, state):
        return state[0]

    def score(self, state):
        return state[0]

    def chance(self, state, noise, event):
        return 0.1 * (1.0 + self.growth * state[0])

    def outcome(self, state):
        return {"score": state[0], "first": state[2]}


def test_a_stratum_has_its_number_of_events_and_its_mass():
    """Exactly k events, the binomial probability of k as its share, and the first event as early as it should be."""
    for count in (0, 3, 12):
        found = simulate(Counted(Counter(), count), paths=4_096, seed=count)
        np.testing.assert_array_equal(found["score"], count)
        np.testing.assert_allclose(found["log_share"], stats.binom.logpmf(count, 12, 0.1), rtol=1e-12)
        if count == 3:  # the smallest of 3 steps of 12, drawn without replacement: mean (12 + 1)/4 - 1
            error = found["first"].std() / 64.0
            assert error < 0.05
            assert abs(found["first"].mean() - 2.25) < 3.5 * error


def test_chances_that_move_are_refused():
    target = Probability(1.0)
    plain = Fitted(target, Hint(), 0, True)
    masses = tuple(stats.binom.pmf(range(3), 12, 0.1).tolist())
    fitted = FittedStrata(target, 0, (plain,) * 3, masses, (0.2, 0.4, 0.4), float(stats.binom.sf(2, 12, 0.1)), 0)
    with pytest.raises(InputError, match="moves along a path"):
        fitted.run(Counter(growth=1.0), 640, 1)
    found = fitted.run(Counter(), 640, 1)["probability"]
    assert found.estimate.value == pytest.approx(stats.binom.cdf(2, 12, 0.1) - masses[0], rel=1e-9)
    assert [row.verdict for row in found.diagnosis.rows if row.name == "beyond_strata"] == [
        "refuse"
    ]  # a tenth is missing
    assert tails.loads(tails.dumps(fitted)) == fitted
    with pytest.raises(InputError, match="use CrossEntropy"):
        tails.fit(JumpCascade(), Mean(), Stratified())
    with pytest.raises(InputError, match="has 1 events"):
        tails.fit(JumpCascade(), Probability(0.3), Stratified(event=1))


def test_subset_simulation_of_a_linear_limit_state():
    """P = 2.9e-7 from 8 replicates; the levels are near the normal quantiles and moves get smaller."""
    inputs, limit, truth = LIMIT_STATES["linear in 2"]
    problem = Static(inputs, limit)
    fit = tails.fit(problem, Probability(0.0), Subset(pilot=1_000, replicates=8), 1)
    assert tails.loads(tails.dumps(fit)) == fit
    np.testing.assert_allclose(np.array(fit.levels[:3]) + 5.0, stats.norm.isf([0.1, 0.01, 0.001]), atol=0.25)
    result = tails.run(problem, fit, 8 * len(fit.levels) * 1_000, 2)["probability"]
    assert not result.refused, result.reason
    assert result.std_error < 0.25 * truth
    assert abs(result.value - truth) < 3.5 * result.std_error
    assert tails.run(problem, fit, 2 * 8 * len(fit.levels) * 10, 3)["probability"].paths > 0
    with pytest.raises(InputError, match="Probability of the score"):
        tails.fit(problem, Mean("score"), Subset())
    with pytest.raises(InputError, match="conditional probability up to"):
        Subset(conditional=0.6)


@pytest.mark.slow
def test_strata_of_the_reference_cascade():
    """The jump walk against its density; the gain of the cascade, tuning not counted, is that of section 11.2."""
    walk = JumpCascade(impact=0.0)
    result = tails.run(walk, tails.fit(walk, Probability(0.20), Stratified(), 1), 30_000, 1)["probability"]
    truth = jump_walk_referee(0.20)
    assert not result.refused, result.reason
    assert result.std_error < 0.012 * truth
    assert abs(result.value - truth) < 3.5 * result.std_error
    problem, target = JumpCascade(), Probability(0.30)
    strata = tails.run(problem, tails.fit(problem, target, Stratified(), 1), 40_000, 2)["probability"]
    tilt = tails.run(problem, tails.fit(problem, target, CrossEntropy(), 1), 40_000, 3)["probability"]
    assert abs(strata.value - tilt.value) < 3.5 * np.hypot(strata.std_error, tilt.std_error)
    print(f"gain {strata.gain_over_plain():.3g}, tuning {strata.tuning_paths}")
    assert strata.gain_over_plain() > 1.5e4
    assert not tails.confirm(tilt, strata).refused


@pytest.mark.slow
def test_subset_simulation_of_the_reference_cascade():
    """A gain of 30 over six runs, each of which agrees with the tilt."""
    problem, target = JumpCascade(), Probability(0.30)
    tilt = tails.run(problem, tails.fit(problem, target, CrossEntropy(), 1), 40_000, 1)["probability"]
    fit = tails.fit(problem, target, Subset(), 1)
    runs = [tails.run(problem, fit, 32_000 * len(fit.levels), seed)["probability"] for seed in range(6)]
    for run in runs:
        assert abs(run.value - tilt.value) < 4.5 * np.hypot(run.std_error, tilt.std_error)
    variance = np.mean([run.std_error**2 for run in runs])
    gain = (1.0 - tilt.value) * tilt.value / (runs[0].paths * variance)
    print(f"gain {gain:.3g}")
    assert gain > 30.0
