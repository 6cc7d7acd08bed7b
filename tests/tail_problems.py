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
from tailrisk.tails.problem import ALWAYS, AbstractProblem, Roles


def number(value):
    """A traced field, so that problems which differ in numbers alone share their programs."""
    return eqx.field(default_factory=lambda: value, converter=lambda x: jnp.asarray(x, jnp.float64))


class Walk(NamedTuple):
    place: Any
    score: Any


class GaussianWalk(AbstractProblem):
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

    def place(self, state):
        return state.place

    def score(self, state):
        return state.score

    def chance(self, state, noise, event):
        raise AssertionError("no events")

    def outcome(self, state):
        return {"score": state.score}


class Ruin(AbstractProblem):
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

    def place(self, state):
        return state.place

    def score(self, state):
        return state.score

    def chance(self, state, noise, event):
        raise AssertionError("no events")

    def outcome(self, state):
        return {"score": state.score}


def hitting(barrier, steps, density, tail, low, panels=40, order=16):
    """P(max of a random walk at 1..steps >= barrier) by propagating its density below the barrier.

    Gauss-Legendre panels of the width of a step make the error that of rounding: the density is smooth between `low` (so far
    down that nothing comes back) and the barrier. `density` and `tail` are those of one step;
    """
    nodes, weights = np.polynomial.legendre.leggauss(order)
    edges = np.linspace(low, barrier, panels + 1)
    half = 0.5 * np.diff(edges)
    x = (0.5 * (edges[1:] + edges[:-1])[:, None] + half[:, None] * nodes).ravel()
    w = (half[:, None] * weights).ravel()
    kernel = density(x[:, None] - x[None, :]) * w[None, :]
    hit, mass = float(tail(barrier)), density(x)
    for _ in range(steps - 1):
        hit += float((w * mass) @ tail(barrier - x))
        mass = kernel @ mass
    return hit


def jump_walk_referee(barrier, steps=64, volatility=0.04, rate=0.12):
    """P(peak depth >= barrier) of the reference cascade without impact."""
    parts = [(1.0 - rate / steps, 0.0, volatility**2 / steps)]
    parts.append((rate / steps, 0.03, volatility**2 / steps + 0.03**2))

    def density(y):
        return sum(p * stats.norm.pdf(y, m, v**0.5) for p, m, v in parts)

    def tail(y):
        return sum(p * stats.norm.sf(y, m, v**0.5) for p, m, v in parts)

    return hitting(barrier, steps, density, tail, -8.0 * volatility, panels=80, order=12)


def gaussian_referee(barrier, steps=16):
    """P(max of a Brownian path at i/steps >= barrier)."""
    deviation = steps**-0.5
    law = stats.norm(0.0, deviation)
    return hitting(barrier, steps, law.pdf, law.sf, -6.0, panels=30)
