"""Margin from a law of losses: value at risk and expected shortfall of named laws, and what a margin leaves uncovered.

Losses are positive numbers, as fractions of notional unless said otherwise. `level` is a confidence such as 0.99. All
are pure, elementwise and differentiable, but not in the degrees of freedom of a Student law.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import betainc, gammaln, log_ndtr, ndtr, ndtri
from jax.scipy.stats import norm
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from ..anchors import zero_rate_put
from .levels import _one_of

Numbers = Float[ArrayLike, "..."]


class TailRisk(NamedTuple):
    """Value at risk (quantile of the loss) and expected shortfall (mean loss beyond it)."""

    value_at_risk: Float[Array, "..."]
    expected_shortfall: Float[Array, "..."]


def normal_tail(volatility: Numbers, level: Numbers) -> TailRisk:
    """Normal loss of standard deviation s: VaR = s z, ES = s phi(z) / (1 - level), z = Phi^-1(level)."""
    volatility, level = jnp.asarray(volatility), jnp.asarray(level)
    z = ndtri(level)
    return TailRisk(volatility * z, volatility * jnp.exp(norm.logpdf(z)) / (1.0 - level))


def student_t_tail(scale: Numbers, level: Numbers, degrees: Numbers, *, scaling: str = "plain") -> TailRisk:
    """Student-t loss with nu > 1 degrees of freedom.

        VaR = c q,   ES = c f(q) / (1 - level) (nu + q^2) / (nu - 1),   q the quantile, f the density

    scaling "plain": c = scale (the variance of the law is nu / (nu - 2), TAIL-07);
    scaling "unit_variance": c = scale sqrt((nu - 2) / nu), so `scale` is the standard deviation (nu > 2, TAIL-03).
    Source: McNeil, Frey and Embrechts (2005).
    """
    _one_of("scaling", scaling, ("plain", "unit_variance"))
    scale, level, degrees = jnp.asarray(scale), jnp.asarray(level), jnp.asarray(degrees)
    if scaling == "unit_variance":
        scale = scale * jnp.sqrt((degrees - 2.0) / degrees)
    q = student_t_quantile(level, degrees)
    shortfall = jnp.exp(_student_log_density(q, degrees)) / (1.0 - level) * (degrees + q**2) / (degrees - 1.0)
    return TailRisk(scale * q, scale * shortfall)


def student_t_quantile(level: Numbers, degrees: Numbers) -> Float[Array, "..."]:
    """Quantile of Student's t for level in [0.5, 1).

    The survival function is convex and falling on t > 0, so Newton steps from 0 rise to the root and cannot pass it;
    the last one carries the derivative with respect to `level`.
    """
    level, degrees = jnp.broadcast_arrays(jnp.asarray(level), jnp.asarray(degrees))
    degrees = jax.lax.stop_gradient(degrees)
    tail = 1.0 - level

    def newton(t: Array) -> Array:
        excess = _student_survival(jax.lax.stop_gradient(t), degrees) - tail
        return t + excess / jnp.exp(_student_log_density(t, degrees))

    start = jnp.zeros_like(tail)
    root = jax.lax.fori_loop(0, 96, lambda _, t: jax.lax.stop_gradient(newton(t)), start)
    return newton(jax.lax.stop_gradient(root))


def lognormal_risk_factors(
    volatility: Numbers, horizon: Numbers, tail: Numbers
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """(long, short) expected shortfall per unit of notional of a driftless lognormal price over `horizon`.

        long 1 - Phi(z - s) / tail,   short Phi(z + s) / tail - 1,   s = volatility sqrt(horizon),  z = Phi^-1(tail)

    `tail` is the probability of the worst outcomes averaged over, e.g. 1e-6. Source: Vega specification (PM-05).
    """
    s = jnp.asarray(volatility) * jnp.sqrt(jnp.asarray(horizon))
    z = ndtri(jnp.asarray(tail))
    # ratios of tiny probabilities as differences of logs, with log Phi(z) for log(tail) so that errors of z cancel
    return -jnp.expm1(log_ndtr(z - s) - log_ndtr(z)), jnp.expm1(log_ndtr(z + s) - log_ndtr(z))


def block_maxima_margin(location: Numbers, scale: Numbers, shape: Numbers, exceedance: Numbers) -> Float[Array, "..."]:
    """Margin that the largest loss of a block passes with probability `exceedance`: an extreme value quantile.

        b + (a / k) ((-ln(1 - p))^(-k) - 1),   Gumbel b - a ln(-ln(1 - p)) at k = 0

    location b and scale a in the unit of the loss. Source: Longin (1999).
    """
    return jnp.asarray(location) + scale * _box_cox(-jnp.log(-jnp.log1p(-jnp.asarray(exceedance))), shape)


def peaks_over_threshold_tail(
    threshold: Numbers, scale: Numbers, shape: Numbers, share: Numbers, level: Numbers
) -> TailRisk:
    """VaR and ES when the excess over a threshold, passed with probability `share`, is generalized Pareto.

        VaR = u + (beta / xi) (((1 - level) / share)^(-xi) - 1),   ES = (VaR + beta - xi u) / (1 - xi),   xi < 1

    Valid for 1 - level <= share. Sources: McNeil and Frey (2000), Cotter and Dowd (2006).
    """
    u, beta, xi = jnp.asarray(threshold), jnp.asarray(scale), jnp.asarray(shape)
    value = u + beta * _box_cox(jnp.log(jnp.asarray(share) / (1.0 - jnp.asarray(level))), xi)
    return TailRisk(value, (value + beta - xi * u) / (1.0 - xi))


def breach_probability(margin: Numbers, volatility: Numbers) -> Float[Array, "..."]:
    """P(L > m) = Phi(-m / sigma) of a normal loss; a path that is watched continuously breaches twice as often."""
    return ndtr(-jnp.asarray(margin) / volatility)


def uncovered_loss(margin: Numbers, volatility: Numbers, *, law: str = "bachelier") -> Float[Array, "..."]:
    """E[(L - m)^+], the mean loss that a margin m leaves uncovered, as a fraction of notional.

        bachelier: sigma phi(m / sigma) - m Phi(-m / sigma);   lognormal: zero-rate put with price 1 and strike 1 - m

    sigma is the volatility of the period the margin must last. dE/dm = -P(L > m). Case TAIL-01.
    """
    _one_of("law", law, ("bachelier", "lognormal"))
    margin, volatility = jnp.asarray(margin), jnp.asarray(volatility)
    if law == "lognormal":
        return zero_rate_put(1.0, 1.0 - margin, volatility, 1.0)
    z = margin / volatility
    return volatility * jnp.exp(norm.logpdf(z)) - margin * ndtr(-z)


def _box_cox(log_value: Array, shape: Numbers) -> Array:
    """(exp(k x) - 1) / k, and its limit x at k = 0, with a finite derivative there."""
    k = jnp.asarray(shape)
    small = jnp.abs(k) < 1e-4
    safe = jnp.where(small, 1.0, k)
    series = log_value * (1.0 + 0.5 * k * log_value * (1.0 + k * log_value / 3.0))
    return jnp.where(small, series, jnp.expm1(safe * log_value) / safe)


def _student_log_density(t: Array, degrees: Array) -> Array:
    constant = gammaln(0.5 * (degrees + 1.0)) - gammaln(0.5 * degrees) - 0.5 * jnp.log(degrees * math.pi)
    return constant - 0.5 * (degrees + 1.0) * jnp.log1p(t**2 / degrees)


def _student_survival(t: Array, degrees: Array) -> Array:
    """P(T > t) for t >= 0."""
    return 0.5 * betainc(0.5 * degrees, jnp.full_like(degrees, 0.5), degrees / (degrees + t**2))
