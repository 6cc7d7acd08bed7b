"""Feedback loops that have an answer on paper, and the one equation behind all of them: drop = shock + response(drop).

A forced sale lowers the price, which forces the next sale. The gain of the loop, R = d response / d drop, is the
branching number: below one the loop ends, from one on it runs away. Every result carries R and the flag `runaway`; a
number beside a raised flag means nothing.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.scipy.special as jsp
from jaxtyping import Array, Bool, Float, PyTree

from ._fields import Number

_NEAR_ONE = 1e-6  # 1 - R below this: derivatives are refused


class FixedPoint(NamedTuple):
    """drop: total log fall. branching: R there. runaway: no stable fixed point was reached; `drop` is then where the
    search stopped, and its derivatives are nan."""

    drop: Float[Array, "..."]
    branching: Float[Array, "..."]
    runaway: Bool[Array, "..."]


def fixed_point(
    response: Callable[[PyTree, Float[Array, ""]], Float[Array, ""]],
    parameters: PyTree,
    shock: Number,
    *,
    most: float = 5.0,
    rounds: int = 100_000,
) -> FixedPoint:
    """Smallest solution D >= shock of D = shock + response(parameters, D), for a response that rises with D.

    Rounds of the cascade itself (D <- shock + response(D) from D = shock), which cannot jump over a solution, then
    Newton steps for the last digits. The result is `runaway` when D passes `most`, when R >= 1 - 1e-6, or when `rounds`
    were not enough (about 20 / (1 - R) are).

    Derivatives in the shock and in any inexact leaf of `parameters` are implicit, dD = (d shock + d response) / (1 -
    R), in forward and reverse mode; they are nan exactly where `runaway` is set. `response` must be differentiable: for
    a book of single accounts use `fragility.shock_to_drop`.
    """
    drop, ended = _solve(response, most, rounds, parameters, _strong(shock))
    branching = _gain(response, parameters, drop)
    return FixedPoint(drop, branching, ~ended | (branching >= 1.0 - _NEAR_ONE))


def feedback_rounds(
    response: Callable[[PyTree, Float[Array, ""]], Float[Array, ""]],
    parameters: PyTree,
    shock: Number,
    rounds: int,
) -> Float[Array, " rounds"]:
    """Log fall of each round of the loop: the shock itself, then what each round adds; x R^j where R is constant."""

    def one(drop: Any, _: None) -> tuple[Any, Any]:
        new = shock + response(parameters, drop)
        return new, new - drop

    shock = _strong(shock)
    _, added = jax.lax.scan(one, shock, None, length=rounds - 1)
    return jnp.concatenate([shock[None], added])


def _strong(value: Any) -> Array:
    return jnp.asarray(value, jnp.asarray(value).dtype)


def _gain(response: Any, parameters: Any, drop: Any) -> Any:
    return jax.jvp(lambda at: response(parameters, at), (drop,), (jnp.ones_like(drop),))[1]


@partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def _solve(response: Any, most: float, rounds: int, parameters: Any, shock: Any) -> tuple[Any, Any]:
    eps = float(jnp.finfo(shock.dtype).eps)

    def more(carry: Any) -> Any:
        drop, step, count = carry
        return (step > eps**0.5 * drop) & (drop < most) & (count < rounds)

    def again(carry: Any) -> Any:
        drop, _, count = carry
        new = jnp.maximum(shock + response(parameters, drop), drop)
        return new, new - drop, count + 1

    start = (shock, jnp.full_like(shock, jnp.inf), jnp.zeros((), jnp.int32))
    drop, _, count = jax.lax.while_loop(more, again, start)
    ended = (drop < most) & (count < rounds)
    for _ in range(3):
        gain = _gain(response, parameters, drop)
        stable = ended & (gain < 1.0 - _NEAR_ONE)
        residual = shock + response(parameters, drop) - drop
        drop = jnp.where(stable, drop + residual / jnp.where(stable, 1.0 - gain, 1.0), drop)
    residual = shock + response(parameters, drop) - drop
    ended = ended & (jnp.abs(residual) <= 1e3 * eps * drop)  # a slow passage is no solution
    return jnp.minimum(drop, most), ended


@_solve.defjvp
def _solve_jvp(response: Any, most: float, rounds: int, primals: Any, tangents: Any) -> Any:
    parameters, shock = primals
    d_parameters, d_shock = tangents
    drop, ended = _solve(response, most, rounds, parameters, shock)
    gain = _gain(response, parameters, drop)
    stable = ended & (gain < 1.0 - _NEAR_ONE)
    scale = jnp.where(stable, 1.0 / jnp.where(stable, 1.0 - gain, 1.0), jnp.nan)
    pushed = jax.jvp(lambda given: response(given, drop), (parameters,), (d_parameters,))[1]
    return (drop, ended), (scale * (d_shock + pushed), jnp.zeros(ended.shape, jax.dtypes.float0))


def linear_feedback(shock: Number, gain: Number) -> FixedPoint:
    """Total move of a loop in which each round adds `gain` times the one before: shock / (1 - gain).

    The same formula holds for a uniform liquidation density g under linear impact k (gain k g); for an owner who keeps
    leverage L while selling A moves the price by kappa A (gain kappa A (L - 1), Greenwood, Landier, Thesmar 2015); and
    for the volatility of a market whose option dealers are short gamma (gain lambda S |Gamma|, shock the volatility
    without hedging). At gain >= 1 `runaway` is set, `drop` is the shock alone and its derivatives are nan.
    """
    shock, gain = _strong(shock), _strong(gain)
    shape = jnp.broadcast_shapes(shock.shape, gain.shape)
    gain = jnp.broadcast_to(gain, shape)
    return FixedPoint(_amplify(jnp.broadcast_to(shock, shape), gain), gain, gain >= 1.0 - _NEAR_ONE)


@jax.custom_jvp
def _amplify(shock: Any, gain: Any) -> Any:
    return shock / jnp.where(gain < 1.0 - _NEAR_ONE, 1.0 - gain, 1.0)


@_amplify.defjvp
def _amplify_jvp(primals: Any, tangents: Any) -> Any:
    shock, gain = primals
    total = _amplify(shock, gain)
    stable = gain < 1.0 - _NEAR_ONE
    scale = jnp.where(stable, 1.0 / jnp.where(stable, 1.0 - gain, 1.0), jnp.nan)
    return total, scale * (tangents[0] + total * tangents[1])


def square_root_feedback(shock: Number, strength: Number) -> Float[Array, "..."]:
    """Total fall D = x + a sqrt(D) under a uniform density g and square-root impact, a = Y sigma sqrt(g / V).

    D = ((a + sqrt(a^2 + 4 x)) / 2)^2. It tends to a^2 as the shock goes to zero: a jump out of nothing.
    """
    return (0.5 * (strength + jnp.sqrt(strength * strength + 4.0 * shock))) ** 2


def even_linear(shock: Number, impact: Number, density: Number, offset: Number = 0.0) -> Float[Array, "..."]:
    """Total fall D under linear impact of an even book of one unit that is sold out: the smallest D = x + k u, where the
    sold part is u = g D + c within 0 and 1.

    Counting whole accounts moves the sold part by less than half an account of a book with levels at the middles of their
    places, so c = -1/2 and +1/2 account bound the cascade of single accounts from below and above.
    """
    gain = impact * density
    slow = (shock + impact * offset) / jnp.where(gain < 1.0, 1.0 - gain, 1.0)
    total = jnp.where(gain < 1.0, jnp.minimum(slow, shock + impact), shock + impact)
    return jnp.where(density * shock + offset > 0.0, total, shock)


def even_square_root(shock: Number, impact: Number, density: Number, offset: Number = 0.0) -> Float[Array, "..."]:
    """The same under square-root impact, D = x + k sqrt(u): u - g k sqrt(u) = g x + c."""
    start = jnp.maximum(density * shock + offset, 0.0)
    sold = square_root_feedback(start, density * impact)
    return jnp.where(start > 0.0, jnp.minimum((sold - offset) / density, shock + impact), shock)


class Fold(NamedTuple):
    """drop: total log fall at which the price jumps. shock: the fall from outside that brings it there. slope, bend: first and
    second derivative of the density of thresholds at that drop."""

    drop: Float[Array, "..."]
    shock: Float[Array, "..."]
    slope: Float[Array, "..."]
    bend: Float[Array, "..."]


def crowded_fold(impact: Number, even: Number, crowd: Number, center: Number, width: Number) -> Fold:
    """Where the price jumps under linear impact k in a book of density `even` with a normal crowd of thresholds, which is the
    part `crowd` of it and lies around `center` with deviation `width`; all in log price.

    The jump is the first maximum of the shock x(D) = D - k F(D), where k f(D) = 1 for the density f = F'. There is one if
    1 / k lies between the even density and that at the center of the crowd; otherwise the result is nan.
    """
    crowded = 1.0 / impact - even  # density of the crowd at the fold
    z = -jnp.sqrt(-2.0 * jnp.log(crowded * width * jnp.sqrt(2.0 * jnp.pi) / crowd))
    drop = center + width * z
    shock = drop - impact * (even * drop + crowd * jsp.ndtr(z))
    return Fold(drop, shock, -crowded * z / width, crowded * (z * z - 1.0) / width**2)


def unwind(
    sold: Number, impact: Number, leverage: Number, exponent: float = 0.5
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Equity (over the first value of the position) and leverage after selling a fraction `sold` of a leveraged
    position.

    Selling goes along price 1 - I x^gamma; what is left is marked at that price:

        equity = 1 / L0 - I (x^gamma - gamma / (1 + gamma) x^(1 + gamma)),    leverage = (1 - x) (1 - I x^gamma) /
        equity

    **Source:** Caccioli, Bouchaud, Farmer (2012), "Impact-adjusted valuation and the criticality of leverage".
    """
    sold = jnp.asarray(sold)
    fall = impact * sold**exponent
    equity = 1.0 / leverage - fall * (1.0 - exponent / (1.0 + exponent) * sold)
    return equity, (1.0 - sold) * (1.0 - fall) / equity


def critical_leverage(impact: Number, exponent: float = 0.5) -> Number:
    """Leverage above which selling out leaves nothing, (1 + gamma) / I: 3 / (2 I) at gamma = 1/2, 2 / I at 1."""
    return (1.0 + exponent) / impact


def borel_pmf(branching: Number, size: Number) -> Float[Array, "..."]:
    """Probability that one liquidation ends as a cascade of `size` in all, P(n) = exp(-R n) (R n)^(n - 1) / n!, 0 < R
    <= 1.

    Exact for unit sizes, linear impact and thresholds that lie like a Poisson process; for large n it falls as n^(-3/2)
    at R = 1. Mean 1 / (1 - R), variance R / (1 - R)^3.

    **Source:** Borel (1942); the total progeny of a Poisson branching process.
    """
    mean = branching * size
    return jnp.exp(-mean + (size - 1.0) * jnp.log(mean) - jsp.gammaln(size + 1.0))


def borel_mean(branching: Number) -> Float[Array, "..."]:
    """Mean cascade size, 1 / (1 - R); inf from R = 1 on."""
    return jnp.where(branching < 1.0, 1.0 / jnp.where(branching < 1.0, 1.0 - branching, 1.0), jnp.inf)


def borel_variance(branching: Number) -> Float[Array, "..."]:
    """Variance of the cascade size, R / (1 - R)^3; inf from R = 1 on."""
    below = branching < 1.0
    return jnp.where(below, branching / jnp.where(below, 1.0 - branching, 1.0) ** 3, jnp.inf)
