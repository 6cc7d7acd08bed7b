"""Two expected losses in closed form, and the ways to differentiate a path of each in its margin.

| estimator | what is done to the hard event |
| --- | --- |
| pathwise | its chance given the path at coarse times takes its place |
| conditional | one Gaussian is integrated out |
| score | pushed out: the margin moves the law and not the event (Rubinstein 1992) |
| smoothed | a sigmoid of a temperature takes its place, bias of order 2 |
| extrapolated | the same at h and 2 h, (4 v(h) - v(2 h)) / 3, bias of order 4 |
| differences | nothing: the value itself, for central differences |

Every estimator but the last is the derivative of `value` at fixed noise.
"""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr
from jax.scipy.stats import norm
from jaxtyping import Array, Float, Int

from .. import anchors
from .._fields import Number, Real, duration, real
from .._streams import Draws, Noise
from ..margin.statistical import uncovered_loss
from ..simulate import AbstractSystem

PATHWISE, CONDITIONAL, SCORE, SMOOTHED, EXTRAPOLATED, DIFFERENCES = ESTIMATORS = (
    "pathwise",
    "conditional",
    "score",
    "smoothed",
    "extrapolated",
    "differences",
)
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(400)
_REACH = 40.0  # temperatures beyond which a sigmoid is 0 or 1 in double precision


class AbstractCase(eqx.Module):
    """An expected loss as a function of a margin, from one step of two normals and a uniform."""

    @abc.abstractmethod
    def expected(self, margin: Number) -> Float[Array, ""]:
        """The expected loss in closed form."""

    @abc.abstractmethod
    def smoothed(self, margin: Number, temperature: Number) -> Float[Array, ""]:
        """Its value under a sigmoid of a temperature, by quadrature."""

    @abc.abstractmethod
    def value(
        self, margin: Float[Array, ""], noise: Noise, temperature: Float[Array, "..."], estimator: str
    ) -> Float[Array, "..."]:
        """What a path is worth, of a shape like the temperatures where these matter."""


class LossBeyond(AbstractCase):
    """The part of a normal loss beyond a margin, E[(L - m)+], dE/dm = -P(L > m); L is the sum of two normals."""

    deviation: Real = real(0.04, unit="1", above=0.0)

    def expected(self, margin):
        return uncovered_loss(margin, self.deviation)

    def smoothed(self, margin, temperature):
        t = jnp.asarray(0.5 * _REACH * (_NODES + 1.0))
        lost = t / (1.0 + jnp.exp(t)) * jnp.asarray(0.5 * _REACH * _WEIGHTS)
        density = [norm.pdf(margin + sign * temperature * t, scale=self.deviation) for sign in (1.0, -1.0)]
        return self.expected(margin) - temperature**2 * jnp.sum(lost * (density[0] + density[1]))

    def value(self, margin, noise, temperature, estimator):
        half = self.deviation * 0.5**0.5
        over = half * (noise.normal[0] + noise.normal[1]) - margin
        if estimator == CONDITIONAL:
            return uncovered_loss(margin - half * noise.normal[0], half)
        if estimator in (SMOOTHED, EXTRAPOLATED):
            return _smoothed(lambda h: over * jax.nn.sigmoid(over / h), temperature, estimator)
        if estimator == SCORE:
            over = jax.lax.stop_gradient(over)
            return jax.nn.relu(over) * _pushed_out(lambda m: norm.logpdf(over + m, scale=self.deviation), margin)
        return jax.nn.relu(over)


class IsolatedLong(AbstractCase):
    """A long that is sold `delay` after its price touched p_B / (1 - m), p_B = p_0 (1 - 1/L): see `anchors`.

    The minimum of the path given its end is drawn with the uniform; what the sale loses on average is known at the touch.
    """

    price: Real = real(100.0, unit="USD", above=0.0)
    leverage: Real = real(5.0, unit="1", above=1.0)
    volatility: Real = real(0.8, unit="1/sqrt(year)", above=0.0)
    horizon: Real = duration("30d")
    delay: Real = duration("1d")

    @property
    def bankruptcy(self) -> Float[Array, ""]:
        """Price at which nothing is left, USD."""
        return self.price * (1.0 - 1.0 / self.leverage)

    def _sale(self, margin: Number) -> tuple[Any, Any]:
        """Log distance to the level that is touched, and what the sale loses on average from there, USD."""
        level = self.bankruptcy / (1.0 - margin)
        return jnp.log(level / self.price), anchors.zero_rate_put(level, self.bankruptcy, self.volatility, self.delay)

    def _chance(self, log_level: Any) -> Any:
        level = self.price * jnp.exp(log_level)
        return anchors.first_passage_probability(self.price, level, self.volatility, self.horizon)

    def expected(self, margin):
        log_level, loss = self._sale(margin)
        return self._chance(log_level) * loss

    def smoothed(self, margin, temperature):
        log_level, loss = self._sale(margin)
        start = jnp.maximum(-_REACH, log_level / temperature)  # the minimum is not above 0
        half = 0.5 * (_REACH - start)
        v = start + half * (1.0 + jnp.asarray(_NODES))
        kernel = 0.25 / jnp.cosh(0.5 * v) ** 2 * half * jnp.asarray(_WEIGHTS)
        return loss * (jnp.sum(kernel * self._chance(log_level - temperature * v)) + jax.nn.sigmoid(start))

    def value(self, margin, noise, temperature, estimator):
        (a, loss), width = self._sale(margin), self.volatility * jnp.sqrt(self.horizon)
        end = width * noise.normal[0] - 0.5 * width**2
        energy = -2.0 * width**2 * jnp.log(noise.uniform[0])
        lowest = 0.5 * (end - jnp.sqrt(end**2 + energy))
        if estimator == PATHWISE:
            touched = jnp.exp(jnp.minimum(-2.0 * a * (a - end) / width**2, 0.0))
        elif estimator == CONDITIONAL:  # the chance of an end so low that the minimum is below the level
            touched = ndtr((a - 0.25 * energy / a + 0.5 * width**2) / width)
        elif estimator in (SMOOTHED, EXTRAPOLATED):
            touched = _smoothed(lambda h: jax.nn.sigmoid((a - lowest) / h), temperature, estimator)
        else:
            touched = jnp.where(lowest <= a, 1.0, 0.0).astype(lowest.dtype)
            if estimator == SCORE:
                below = jax.lax.stop_gradient(a - lowest)
                touched = touched * _pushed_out(lambda a: _log_density_of_minimum(a - below, width), a)
        return touched * loss


def _smoothed(of: Any, temperature: Any, estimator: str) -> Any:
    return of(temperature) if estimator == SMOOTHED else (4.0 * of(temperature) - of(2.0 * temperature)) / 3.0


def _pushed_out(log_density: Any, margin: Any) -> Any:
    """1, with the derivative of the log density."""
    return jnp.exp(log_density(margin) - jax.lax.stop_gradient(log_density(margin)))


def _log_density_of_minimum(y: Any, width: Any) -> Any:
    """Of the minimum of a driftless geometric Brownian motion in log price at y < 0: the derivative of its chance."""
    return jnp.log(2.0 / width * norm.pdf(y / width + 0.5 * width) - jnp.exp(-y) * ndtr(y / width - 0.5 * width))


class CasePath(AbstractSystem):
    """A path of a case as a system of one step, whose outcome `value` is to be differentiated in its margin."""

    case: AbstractCase
    margin: Float[Array, ""]
    temperature: Float[Array, "..."]
    estimator: str = eqx.field(static=True)
    dtype: Any = eqx.field(static=True)
    steps: int = eqx.field(static=True, default=1)

    @property
    def draws(self) -> Draws:
        return Draws(normals=2, uniforms=1)

    def init(self) -> Noise:
        return Noise(jnp.zeros(2, self.dtype), jnp.zeros(1, self.dtype))

    def step(self, state: Noise, noise: Noise) -> tuple[Noise, None]:
        del state
        return noise, None

    def outcome(self, state: Noise) -> dict[str, Float[Array, "..."]]:
        return {"value": self.case.value(self.margin, state, self.temperature, self.estimator)}


class NaiveSale(AbstractSystem):
    """An isolated long on a time grid as one would write it down: compare, wait, sell. Its derivative is 0 and wrong."""

    case: IsolatedLong
    margin: Float[Array, ""]
    delay: Int[Array, ""]  # steps
    steps: int = eqx.field(static=True)  # of horizon and delay together
    dtype: Any = eqx.field(static=True)

    @property
    def draws(self) -> Draws:
        return Draws(normals=1)

    def init(self) -> tuple[Any, Any, Any]:
        """Log price, steps until the sale (-1: no breach yet, 0: sold), bad debt."""
        return jnp.zeros((), self.dtype), jnp.full((), -1, jnp.int32), jnp.zeros((), self.dtype)

    def step(self, state: tuple[Any, Any, Any], noise: Noise) -> tuple[tuple[Any, Any, Any], None]:
        case, (level, left, debt) = self.case, state
        spread = case.volatility * jnp.sqrt((case.horizon + case.delay) / self.steps)
        level = level + spread * noise.normal[0] - 0.5 * spread**2
        price = case.price * jnp.exp(level)
        debt = jnp.where(left == 1, jax.nn.relu(case.bankruptcy - price), debt)
        breached = (left == -1) & (price <= case.bankruptcy / (1.0 - self.margin))
        left = jnp.where(breached, self.delay, jnp.where(left > 0, left - 1, left))
        return (level, left, debt), None

    def outcome(self, state: tuple[Any, Any, Any]) -> dict[str, Float[Array, ""]]:
        return {"value": state[2]}
