"""Systems with known tails: the catalogue that every estimator of rare events must get right, with no settings of its own."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.scipy.special as jsp
import numpy as np
from scipy import stats

from tailrisk._streams import Draws
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


class CascadeState(NamedTuple):
    depth: Any
    low: Any  # running maximum of the depth before impact
    peak: Any
    loss: Any


class JumpCascade(AbstractProblem):
    """The reference jump cascade: a logistic book that is sold as the price falls, with permanent impact.

    `accounts` = 0 is the continuum; otherwise accounts of equal size on its quantiles.
    """

    accounts: int = eqx.field(static=True, default=0)
    impact: Any = number(0.06)
    volatility: Any = number(0.04)
    rate: Any = number(0.12)
    steps: int = eqx.field(static=True, default=64)
    dtype: Any = eqx.field(static=True, default=np.dtype(np.float64))

    @property
    def draws(self):
        return Draws(2, 1)

    @property
    def roles(self):
        return Roles(events=(0,), marks=((1, 0),))

    def init(self):
        zero = jnp.zeros((), self.dtype)
        return CascadeState(zero, zero, zero, zero)

    def share(self, y):
        return jax.nn.sigmoid((y - 0.225) / 0.025)

    def integral(self, y):
        return 0.025 * jax.nn.softplus((y - 0.225) / 0.025)

    def thresholds(self):
        u = (np.arange(self.accounts) + 0.5) / self.accounts
        return jnp.asarray((0.225 + 0.025 * np.log(u / (1.0 - u))).astype(self.dtype))

    def step(self, state, noise):
        dt = 1.0 / self.steps
        jump = jnp.where(noise.uniform[0] < self.rate * dt, 0.03 - 0.03 * noise.normal[1], 0.0)
        depth = state.depth - self.volatility * dt**0.5 * noise.normal[0] + jump
        low = state.low
        if self.accounts:
            y, size = self.thresholds(), 1.0 / self.accounts
            sold = (y > low) & (y <= depth)
            volume = jnp.sum(jnp.where(sold, size, 0.0))
            top = depth + self.impact * volume - 0.03
            loss = jnp.sum(jnp.where(sold, jnp.maximum(top - y, 0.0), 0.0)) * size
        else:
            share = self.share
            volume = jnp.maximum(share(depth) - share(low), 0.0)
            top = depth + self.impact * volume - 0.03
            a = jnp.minimum(top, depth)
            inside = self.integral(a) - self.integral(low)
            part = (top - a) * share(a) - (top - low) * share(low) + inside
            loss = jnp.where(a > low, part, 0.0)
        after = depth + self.impact * volume
        low = jnp.maximum(low, depth)
        peak = jnp.maximum(jnp.maximum(state.peak, low), after)
        return CascadeState(after, low, peak, state.loss + loss), None

    def place(self, state):
        return state.depth

    def score(self, state):
        return state.peak

    def chance(self, state, noise, event):
        return self.rate / self.steps

    def outcome(self, state):
        return {"score": state.peak, "loss": state.loss}


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


class Static(AbstractProblem):
    """A limit state of standard normals as a path of one step: it fails where -g >= 0."""

    inputs: int = eqx.field(static=True)
    limit: Any = eqx.field(static=True)
    steps: int = eqx.field(static=True, default=1)
    dtype: Any = eqx.field(static=True, default=np.dtype(np.float64))

    @property
    def draws(self):
        return Draws(self.inputs)

    @property
    def roles(self):
        return Roles()

    def init(self):
        return jnp.asarray(-self.limit(jnp.zeros(self.inputs, self.dtype)), self.dtype)

    def step(self, state, noise):
        return -self.limit(noise.normal), None

    def place(self, state):
        return state

    def score(self, state):
        return state

    def chance(self, state, noise, event):
        raise AssertionError("no events")

    def outcome(self, state):
        return {"score": state}


def _four_branch(x):
    a, b = x[0] + x[1], x[0] - x[1]
    near = 3.0 + 0.1 * b * b
    terms = [near - a / 2**0.5, near + a / 2**0.5, b + 7.0 / 2**0.5, -b + 7.0 / 2**0.5]
    return jnp.minimum(jnp.minimum(terms[0], terms[1]), jnp.minimum(terms[2], terms[3]))


def _rp8(z):
    mean = np.array([120.0, 120.0, 120.0, 120.0, 50.0, 40.0])
    relative = np.array([12.0, 12.0, 12.0, 12.0, 10.0, 8.0]) / mean
    deviation = np.sqrt(np.log1p(relative**2))
    x = jnp.exp(np.log(mean) - 0.5 * deviation**2 + deviation * z)
    return x[0] + 2.0 * x[1] + 2.0 * x[2] + x[3] - 5.0 * x[4] - 5.0 * x[5]


def _rp14(z):
    # the small tail probability of each normal keeps the quantiles exact far out
    low, high = jsp.ndtr(z), jsp.ndtr(-z)
    scale = 350.0 * 6.0**0.5 / np.pi
    gumbel = (
        1500.0 - np.euler_gamma * scale - scale * jnp.log(-jnp.where(z[2] > 0.0, jnp.log1p(-high[2]), jnp.log(low[2])))
    )
    x1, x2, x4, x5 = 70.0 + 10.0 * low[0], 39.0 + 0.1 * z[1], 400.0 + 0.1 * z[3], 250000.0 + 35000.0 * z[4]
    return x1 - 32.0 / (np.pi * x2**3) * jnp.sqrt(gumbel**2 * x4**2 / 16.0 + x5**2)


def _rp25(x):
    return jnp.maximum(x[0] ** 2 - 8.0 * x[1] + 16.0, -16.0 * x[0] + x[1] + 32.0)


def _rp57(x):
    two = jnp.maximum(-(x[0] ** 2) + x[1] ** 3 + 3.0, 2.0 - x[0] - 8.0 * x[1])
    return jnp.minimum(two, (x[0] + 3.0) ** 2 + (x[1] + 3.0) ** 2 - 4.0)


def _linear(inputs):
    return lambda x: 5.0 - jnp.sum(x) * inputs**-0.5


LIMIT_STATES = {
    "linear in 2": (2, _linear(2), stats.norm.sf(5.0)),
    "linear in 100": (100, _linear(100), stats.norm.sf(5.0)),
    "linear in 1000": (1000, _linear(1000), stats.norm.sf(5.0)),
    "four-branch": (2, _four_branch, 2.222795066e-3),
    "RP8": (6, _rp8, 7.8980e-4),
    "RP14": (5, _rp14, 7.7285e-4),
    "RP25": (2, _rp25, 4.148566294e-5),
    "RP57": (2, _rp57, 2.823750666e-2),
}
"""Name: number of normals, limit state, probability of failure (section 12 of the reference cases)."""
