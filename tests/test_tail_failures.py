"""Ways in which estimators of rare events have failed elsewhere: each must give the truth here, or no value (slow)."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from tail_problems import LIMIT_STATES, Maximum, Static, Walk, number

from tailrisk import _streams, tails
from tailrisk._streams import Draws
from tailrisk.tails import CrossEntropy, LobeMixture, Probability, Splitting
from tailrisk.tails.lobe_search import Seen, on_device
from tailrisk.tails.lobes import nothing
from tailrisk.tails.problem import Roles
from tailrisk.tails.sampler import paths_of

pytestmark = pytest.mark.slow


class Gambler(Maximum):
    """A fortune that rises by one with a chance and falls by one else, until it is gone: discrete, with ties everywhere."""

    rises: Any = number(0.4)
    start: Any = number(1.0)
    steps: int = eqx.field(static=True, default=256)
    dtype: Any = eqx.field(static=True, default=np.dtype(np.float64))

    @property
    def draws(self):
        return Draws(0, 1)

    @property
    def roles(self):
        return Roles(events=(0,))

    def init(self):
        return Walk(self.start, self.start)

    def step(self, state, noise):
        move = jnp.where(noise.uniform[0] < self.rises, 1.0, -1.0)
        place = jnp.where(state.place > 0.0, state.place + move, state.place)
        return Walk(place, jnp.maximum(state.score, place)), None

    def chance(self, state, noise, event):
        return self.rises


def hidden(z):
    """Fails beyond 4 in one direction, and beyond a cliff at 3.9 in another that no level leads to."""
    return jnp.minimum(4.0 - z[0], jnp.where(z[1] < -3.9, -1.0, 50.0))


def test_discrete_states_end_and_are_right():
    """P(12 before 0 from 1) = (1 - r)/(1 - r^12) with r = 1.5, by both families."""
    truth = 0.5 / (1.5**12 - 1.0)
    for method, paths in ((Splitting(), 200_000), (CrossEntropy(pilot=5_000), 20_000)):
        result = tails.run(Gambler(), tails.fit(Gambler(), Probability(12.0), method, 1), paths, 1)["probability"]
        assert not result.refused, result.reason
        assert result.std_error < 0.1 * truth
        assert abs(result.value - truth) < 3.5 * result.std_error


@pytest.mark.parametrize("method", [LobeMixture(), CrossEntropy(pilot=2_000)])
def test_certain_and_impossible_events(method):
    sure = Static(2, lambda z: -1.0 - z[0] ** 2)
    result = tails.run(sure, tails.fit(sure, Probability(0.0), method, 1), 4_000, 1)["probability"]
    assert not result.refused, result.reason
    assert abs(result.value - 1.0) < max(3.5 * result.std_error, 1e-9)
    never = Static(2, lambda z: 1.0 + z[0] ** 2)
    result = tails.run(never, tails.fit(never, Probability(0.0), method, 1), 4_000, 1)["probability"]
    assert result.refused
    assert 0.0 < result.upper_bound < 0.05


def test_kept_points_are_in_the_event():
    """What the pilot keeps of a point is what the problem says of it."""
    inputs, limit, _ = LIMIT_STATES["RP14"]
    problem, numbers = Static(inputs, limit), np.arange(256)
    seen = paths_of(
        lambda law: Seen(problem, on_device(nothing(inputs), (0.5, 0.5), law, problem.dtype)),
        _streams.noise_keys(1, "pilot"),
        numbers,
        np.repeat([0, 1], 128).astype(np.int32),
        128,
    )
    again = [-float(limit(jnp.asarray(z))) for z in seen["normal"][::16]]
    np.testing.assert_allclose(seen["score"][::16], again, rtol=1e-9)


@pytest.mark.parametrize("method", [LobeMixture(), CrossEntropy(pilot=500), Splitting(pilot=200)])
def test_small_runs_give_numbers_or_none(method):
    problem = Static(2, lambda z: 3.0 - z[0])
    for seed in range(4):
        result = tails.run(problem, tails.fit(problem, Probability(0.0), method, seed), 50, seed)["probability"]
        if not result.refused:
            assert 0.0 < result.interval[0] < result.value < result.interval[1] <= 1.0


def test_values_that_are_no_numbers_are_refused():
    problem = Static(2, lambda z: jnp.where(z[1] > 0.5, jnp.nan, 3.0 - z[0]))
    for method in (LobeMixture(), CrossEntropy(pilot=2_000)):
        result = tails.run(problem, tails.fit(problem, Probability(0.0), method, 1), 4_000, 1)["probability"]
        assert result.refused
        assert "not_finite" in result.reason


@pytest.mark.parametrize("name", ["hidden", "four-branch by one tilt", "RP25 by one tilt"])
def test_a_hidden_second_mode_is_refused_or_covered(name):
    """Of 200 runs of 20 laws at least 93 % are refused or cover the truth."""
    a, b = stats.norm.sf(4.0), stats.norm.sf(3.9)
    problem, truth = Static(2, hidden), a + b - a * b
    method: Any = LobeMixture()
    if name != "hidden":
        inputs, limit, truth = LIMIT_STATES[name.split()[0]]
        problem, method = Static(inputs, limit), CrossEntropy(pilot=1_000)
    good = 0
    for law in range(20):
        fit = tails.fit(problem, Probability(0.0), method, law)
        for seed in range(10):
            result = tails.run(problem, fit, 3_840, seed)["probability"]
            good += result.refused or result.interval[0] <= truth <= result.interval[1]
    assert good >= 0.93 * 200, good
