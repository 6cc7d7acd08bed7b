"""Systems with known tails: the reference jump cascade and limit states whose probabilities of failure are known."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.scipy.special as jsp
import numpy as np
from jaxtyping import Array, Float
from scipy import stats

from .._fields import Real, count, real
from .._hard import crosses
from .._streams import Draws, Noise
from ..tails.problem import AbstractProblem, Roles

_CENTER, _SCALE, _BUFFER = 0.225, 0.025, 0.03  # of the liquidation depths, and the equity behind one


class CascadeState(NamedTuple):
    """Depth, its running maximum before impact, its peak with impact, and the bad debt."""

    depth: Float[Array, ""]
    low: Float[Array, ""]
    peak: Float[Array, ""]
    loss: Float[Array, ""]


class JumpCascade(AbstractProblem):
    """The reference jump cascade: a logistic book that is sold as the price falls, with permanent impact, over horizon 1.

    Depth is minus the log price. `accounts` = 0 is the continuum; otherwise accounts of equal size on its quantiles.
    """

    accounts: int = count(default=0)
    impact: Real = real(default=0.06, unit="1", least=0.0)
    volatility: Real = real(default=0.04, unit="1/sqrt(horizon)", least=0.0)
    rate: Real = real(default=0.12, unit="1/horizon", least=0.0)
    steps: int = eqx.field(static=True, default=64)
    dtype: Any = eqx.field(static=True, default=np.dtype(np.float64))

    @property
    def draws(self) -> Draws:
        return Draws(2, 1)

    @property
    def roles(self) -> Roles:
        return Roles(events=(0,), marks=((1, 0),))

    def init(self) -> CascadeState:
        zero = jnp.zeros((), self.dtype)
        return CascadeState(zero, zero, zero, zero)

    def step(self, state: CascadeState, noise: Noise) -> tuple[CascadeState, None]:
        jumps = crosses(noise.uniform[0], self.rate / self.steps, "whether a jump arrives")
        depth = state.depth - self.volatility * self.steps**-0.5 * noise.normal[0]
        depth = depth + jnp.where(jumps, 0.03 - 0.03 * noise.normal[1], 0.0)
        volume, loss = (self._sold if self.accounts else self._sold_of_continuum)(depth, state.low)
        after = depth + self.impact * volume
        low = jnp.maximum(state.low, depth)
        peak = jnp.maximum(jnp.maximum(state.peak, low), after)
        return CascadeState(after, low, peak, state.loss + loss), None

    def _sold(self, depth: Float[Array, ""], low: Float[Array, ""]) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Share of accounts sold in a step, and their bad debt."""
        size, u = 1.0 / self.accounts, (np.arange(self.accounts) + 0.5) / self.accounts
        y = jnp.asarray((_CENTER + _SCALE * np.log(u / (1.0 - u))).astype(self.dtype))
        sold = crosses(low, y, "an account is sold") & ~crosses(depth, y, "an account is sold")
        volume = jnp.sum(jnp.where(sold, size, 0.0))
        top = depth + self.impact * volume - _BUFFER
        return volume, jnp.sum(jnp.where(sold, jnp.maximum(top - y, 0.0), 0.0)) * size

    def _sold_of_continuum(
        self, depth: Float[Array, ""], low: Float[Array, ""]
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        def share(y: Float[Array, ""]) -> Float[Array, ""]:
            return jax.nn.sigmoid((y - _CENTER) / _SCALE)

        def integral(y: Float[Array, ""]) -> Float[Array, ""]:
            return _SCALE * jax.nn.softplus((y - _CENTER) / _SCALE)

        volume = jnp.maximum(share(depth) - share(low), 0.0)
        top = depth + self.impact * volume - _BUFFER
        a = jnp.minimum(top, depth)
        part = (top - a) * share(a) - (top - low) * share(low) + integral(a) - integral(low)
        return volume, jnp.where(a > low, part, 0.0)

    def place(self, state: CascadeState) -> Float[Array, ""]:
        return state.depth

    def score(self, state: CascadeState) -> Float[Array, ""]:
        return state.peak

    def chance(self, state: CascadeState, noise: Noise, event: int) -> Any:
        return self.rate / self.steps

    def outcome(self, state: CascadeState) -> dict[str, Any]:
        return {"score": state.peak, "loss": state.loss}


def hitting(
    barrier: float,
    steps: int,
    density: Callable[[Any], Any],
    tail: Callable[[Any], Any],
    low: float,
    panels: int = 40,
    order: int = 16,
) -> float:
    """P(max of a random walk at 1..steps >= barrier) by propagating its density below the barrier.

    Gauss-Legendre panels of the width of a step make the error that of rounding: the density is smooth between `low` (so far
    down that nothing comes back) and the barrier. `density` and `tail` are those of one step.
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


def jump_walk_referee(barrier: float, steps: int = 64, volatility: float = 0.04, rate: float = 0.12) -> float:
    """P(peak depth >= barrier) of the reference cascade without impact."""
    parts = [(1.0 - rate / steps, 0.0, volatility**2 / steps)]
    parts.append((rate / steps, 0.03, volatility**2 / steps + 0.03**2))

    def density(y: Any) -> Any:
        return sum(p * stats.norm.pdf(y, m, v**0.5) for p, m, v in parts)

    def tail(y: Any) -> Any:
        return sum(p * stats.norm.sf(y, m, v**0.5) for p, m, v in parts)

    return hitting(barrier, steps, density, tail, -8.0 * volatility, panels=80, order=12)


class AsianState(NamedTuple):
    """Log of the price over the first one, and the average price so far with what is to come counted as nothing."""

    log_price: Float[Array, ""]
    average: Float[Array, ""]


class AsianCall(AbstractProblem):
    """A discounted call on the average of equally spaced prices over one year, with price 50, rate 5 % and volatility 10 %.

    **Source:** Glasserman, Heidelberger, Shahabuddin (1999), Table 5.1.
    """

    strike: Real = real(unit="1", above=0.0)
    steps: int = eqx.field(static=True, default=16)
    dtype: Any = eqx.field(static=True, default=np.dtype(np.float64))

    @property
    def draws(self) -> Draws:
        return Draws(1)

    @property
    def roles(self) -> Roles:
        return Roles()

    def init(self) -> AsianState:
        return AsianState(jnp.zeros((), self.dtype), jnp.zeros((), self.dtype))

    def step(self, state: AsianState, noise: Noise) -> tuple[AsianState, None]:
        dt, volatility = 1.0 / self.steps, 0.1
        log_price = state.log_price + (0.05 - 0.5 * volatility**2) * dt + volatility * dt**0.5 * noise.normal[0]
        return AsianState(log_price, state.average + 50.0 * jnp.exp(log_price) * dt), None

    def place(self, state: AsianState) -> Float[Array, ""]:
        return state.average

    def score(self, state: AsianState) -> Float[Array, ""]:
        return state.average

    def chance(self, state: AsianState, noise: Noise, event: int) -> Any:
        raise AssertionError("no events")

    def outcome(self, state: AsianState) -> dict[str, Any]:
        payoff = np.exp(-0.05) * jnp.maximum(state.average - self.strike, 0.0)
        return {"score": state.average, "payoff": payoff}


class Static(AbstractProblem):
    """A limit state of standard normals as a path of one step: it fails where -g >= 0."""

    inputs: int = eqx.field(static=True)
    limit: Any = eqx.field(static=True)
    steps: int = eqx.field(static=True, default=1)
    dtype: Any = eqx.field(static=True, default=np.dtype(np.float64))

    @property
    def draws(self) -> Draws:
        return Draws(self.inputs)

    @property
    def roles(self) -> Roles:
        return Roles()

    def init(self) -> Any:
        return jnp.asarray(-self.limit(jnp.zeros(self.inputs, self.dtype)), self.dtype)

    def step(self, state: Any, noise: Noise) -> tuple[Any, None]:
        return -self.limit(noise.normal), None

    def place(self, state: Any) -> Any:
        return state

    def score(self, state: Any) -> Any:
        return state

    def chance(self, state: Any, noise: Noise, event: int) -> Any:
        raise AssertionError("no events")

    def outcome(self, state: Any) -> dict[str, Any]:
        return {"score": state}


def _four_branch(x: Any) -> Any:
    a, b = x[0] + x[1], x[0] - x[1]
    near = 3.0 + 0.1 * b * b
    terms = [near - a / 2**0.5, near + a / 2**0.5, b + 7.0 / 2**0.5, -b + 7.0 / 2**0.5]
    return jnp.minimum(jnp.minimum(terms[0], terms[1]), jnp.minimum(terms[2], terms[3]))


def _rp8(z: Any) -> Any:
    mean = np.array([120.0, 120.0, 120.0, 120.0, 50.0, 40.0])
    relative = np.array([12.0, 12.0, 12.0, 12.0, 10.0, 8.0]) / mean
    deviation = np.sqrt(np.log1p(relative**2))
    x = jnp.exp(np.log(mean) - 0.5 * deviation**2 + deviation * z)
    return x[0] + 2.0 * x[1] + 2.0 * x[2] + x[3] - 5.0 * x[4] - 5.0 * x[5]


def _rp14(z: Any) -> Any:
    # the small tail probability of each normal keeps the quantiles exact far out
    low, high = jsp.ndtr(z), jsp.ndtr(-z)
    scale = 350.0 * 6.0**0.5 / np.pi
    gumbel = (
        1500.0 - np.euler_gamma * scale - scale * jnp.log(-jnp.where(z[2] > 0.0, jnp.log1p(-high[2]), jnp.log(low[2])))
    )
    x1, x2, x4, x5 = 70.0 + 10.0 * low[0], 39.0 + 0.1 * z[1], 400.0 + 0.1 * z[3], 250000.0 + 35000.0 * z[4]
    return x1 - 32.0 / (np.pi * x2**3) * jnp.sqrt(gumbel**2 * x4**2 / 16.0 + x5**2)


def _rp25(x: Any) -> Any:
    return jnp.maximum(x[0] ** 2 - 8.0 * x[1] + 16.0, -16.0 * x[0] + x[1] + 32.0)


def _rp57(x: Any) -> Any:
    two = jnp.maximum(-(x[0] ** 2) + x[1] ** 3 + 3.0, 2.0 - x[0] - 8.0 * x[1])
    return jnp.minimum(two, (x[0] + 3.0) ** 2 + (x[1] + 3.0) ** 2 - 4.0)


def _linear(inputs: int) -> Any:
    return lambda x: 5.0 - jnp.sum(x) * inputs**-0.5


LIMIT_STATES = {
    "linear in 2": (2, _linear(2), stats.norm.sf(5.0)),
    "linear in 100": (100, _linear(100), stats.norm.sf(5.0)),
    "four-branch": (2, _four_branch, 2.222795066e-3),
    "RP8": (6, _rp8, 7.8980e-4),
    "RP14": (5, _rp14, 7.7285e-4),
    "RP25": (2, _rp25, 4.148566294e-5),
    "RP57": (2, _rp57, 2.823750666e-2),
}
"""Name: number of normals, limit state, probability of failure (section 12 of the reference cases)."""
