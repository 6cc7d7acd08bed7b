"""Systems with known tails: the catalogue that every estimator of rare events must get right, with no settings of its own."""

from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from scipy import stats

from tailrisk._streams import Draws
from tailrisk.bench.tail_cases import LIMIT_STATES as LIMIT_STATES
from tailrisk.bench.tail_cases import JumpCascade as JumpCascade
from tailrisk.bench.tail_cases import Static as Static
from tailrisk.bench.tail_cases import hitting
from tailrisk.bench.tail_cases import jump_walk_referee as jump_walk_referee
from tailrisk.tails.problem import ALWAYS, AbstractProblem, Roles


def agrees(result, truth, most):
    """Within 3.5 standard errors, and the relative standard error bounded."""
    assert not result.refused, result.reason
    assert result.std_error <= most * truth, result.std_error / truth
    assert abs(result.value - truth) < 3.5 * result.std_error, (result.value, truth, result.std_error)


def number(value):
    """A traced field, so that problems which differ in numbers alone share their programs."""
    return eqx.field(default_factory=lambda: value, converter=lambda x: jnp.asarray(x, jnp.float64))


class Walk(NamedTuple):
    place: Any
    score: Any


class Maximum(AbstractProblem):
    """The highest place of a walk."""

    def place(self, state):
        return state.place

    def score(self, state):
        return state.score

    def outcome(self, state):
        return {"score": state.score}


class GaussianWalk(Maximum):
    """Maximum of a Brownian path on [0, 1] seen at `steps` equal times."""

    steps: int = eqx.field(static=True, default=16)
    dtype: Any = eqx.field(static=True, default=np.dtype(np.float64))

    @property
    def draws(self):
        return Draws(1)

    @property
    def roles(self):
        return Roles()

    def init(self):
        zero = jnp.zeros((), self.dtype)
        return Walk(zero, zero)

    def step(self, state, noise):
        place = state.place + noise.normal[0] * self.steps**-0.5
        return Walk(place, jnp.maximum(state.score, place)), None

    def chance(self, state, noise, event):
        raise AssertionError("no events")


class Ruin(Maximum):
    """Cramer-Lundberg: claims Exp(1) against premiums at rate 1 + loading, seen at the first `steps` claims."""

    loading: Any = number(0.1)
    steps: int = eqx.field(static=True, default=4096)
    dtype: Any = eqx.field(static=True, default=np.dtype(np.float64))

    @property
    def draws(self):
        return Draws(0, 2)

    @property
    def roles(self):
        return Roles(sizes=((0, ALWAYS), (1, ALWAYS)))

    def init(self):
        zero = jnp.zeros((), self.dtype)
        return Walk(zero, zero)

    def step(self, state, noise):
        claim, wait = -jnp.log(noise.uniform[0]), -jnp.log(noise.uniform[1])
        place = state.place + claim - (1.0 + self.loading) * wait
        return Walk(place, jnp.maximum(state.score, place)), None

    def chance(self, state, noise, event):
        raise AssertionError("no events")


def gaussian_referee(barrier, steps=16):
    """P(max of a Brownian path at i/steps >= barrier)."""
    deviation = steps**-0.5
    law = stats.norm(0.0, deviation)
    return hitting(barrier, steps, law.pdf, law.sf, -6.0, panels=30)
