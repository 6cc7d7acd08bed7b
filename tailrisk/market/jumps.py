"""Jumps of the log price: how many in a step, how large, and what keeps the expected price on its drift.

The number of jumps of a step is drawn by inversion of one uniform, up to a structural maximum `most`. The law is
exactly that of min(N, most) with N Poisson, and the drift is compensated for just this law, so that a price with
drift 0 stays a martingale whatever the step; what the maximum cuts off is said by `missed` and refused by
`check_step` when it matters.
"""

import abc
import itertools
import math
from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._fields import Real, count, real
from .._hard import crosses
from .._streams import Draws, Noise, Roles

_EXTRA_TERMS = 8
_MISSED = 1e-3


class AbstractJumps(eqx.Module):
    """A law of jump sizes (log returns) with a rate and a maximal number in one step."""

    rate: eqx.AbstractVar[Real]
    most: eqx.AbstractVar[int]

    @property
    @abc.abstractmethod
    def draws(self) -> Draws:
        """Numbers used by the sizes of one step; the count uses one more uniform."""

    @abc.abstractmethod
    def growth(self, loading: Float[Array, " assets"]) -> Float[Array, " assets"]:
        """E[exp(loading J)] - 1 of one jump J; inf where the expectation is infinite."""

    @abc.abstractmethod
    def total(self, number: Float[Array, ""], noise: Noise) -> Float[Array, ""]:
        """The sum of the sizes of `number` jumps."""


class MertonJumps(AbstractJumps):
    """Normal jump sizes: J ~ Normal(mean, deviation^2), at `rate` per year.

    The sum of n sizes is drawn with one normal, n mean + sqrt(n) deviation Z, which is exact.

    **Source:** Merton (1976).
    """

    rate: Real = real(unit="1/year", least=0.0)
    deviation: Real = real(unit="1", least=0.0)
    mean: Real = real(0.0, unit="1")
    most: int = count(4, least=1, most=64)  # jumps in one step

    @property
    def draws(self) -> Draws:
        return Draws(normals=1)

    def growth(self, loading: Float[Array, " assets"]) -> Float[Array, " assets"]:
        return jnp.expm1(loading * self.mean + 0.5 * (loading * self.deviation) ** 2)

    def total(self, number: Float[Array, ""], noise: Noise) -> Float[Array, ""]:
        return number * self.mean + jnp.sqrt(number) * self.deviation * noise.normal[0]


class KouJumps(AbstractJumps):
    """Double exponential jump sizes: up with probability `up`, then Exponential(mean up_mean), else down (down_mean).

    The down tail is drawn from uniforms near 0, where they are finest.

    **Source:** Kou (2002), with means 1/eta.
    """

    rate: Real = real(unit="1/year", least=0.0)
    up: Real = real(unit="1", least=0.0, most=1.0)  # probability that a jump goes up
    up_mean: Real = real(unit="1", above=0.0)
    down_mean: Real = real(unit="1", above=0.0)
    most: int = count(4, least=1, most=64)  # jumps in one step

    @property
    def draws(self) -> Draws:
        return Draws(uniforms=self.most)

    def growth(self, loading: Float[Array, " assets"]) -> Float[Array, " assets"]:
        up, down = loading * self.up_mean, loading * self.down_mean
        finite = (up < 1.0) & (down > -1.0)
        up, down = jnp.where(finite, up, 0.0), jnp.where(finite, down, 0.0)
        return jnp.where(finite, self.up * up / (1.0 - up) - (1.0 - self.up) * down / (1.0 + down), jnp.inf)

    def total(self, number: Float[Array, ""], noise: Noise) -> Float[Array, ""]:
        down = 1.0 - self.up
        total = jnp.zeros_like(number)
        for k in range(self.most):
            u = noise.uniform[k]
            falls = crosses(u, down, "the direction of a jump")
            low = jnp.where(falls, u / jnp.where(down > 0.0, down, 1.0), 1.0)
            high = jnp.where(falls, 1.0, (u - down) / jnp.where(self.up > 0.0, self.up, 1.0))
            # u - down may round to zero: the log then stops at the resolution of the uniforms
            size = self.down_mean * jnp.log(low) - self.up_mean * jnp.log(jnp.maximum(high, 2.0**-24))
            total = total + jnp.where(k < number, size, 0.0)
        return total


def tails(mean: Float[Array, ""], most: int) -> list[Float[Array, ""]]:
    """P(N >= k) for k = 1..most and N ~ Poisson(mean), with small relative error at any mean.

    Small means sum the terms above k (truncated after `most` + 8, relative error below 2e-5 where used, 1e-8 at
    mean <= 1/2); larger ones subtract the terms below k from 1.
    """
    terms = [jnp.exp(-mean)]
    for k in range(1, most + _EXTRA_TERMS + 1):
        terms.append(terms[-1] * mean * (1.0 / k))
    above = list(itertools.accumulate(reversed(terms)))[::-1]
    below = list(itertools.accumulate(terms))
    small = mean < 0.5 * (most + 1)
    return [jnp.where(small, above[k], jnp.maximum(1.0 - below[k - 1], 0.0)) for k in range(1, most + 1)]


def arrival_chance(rate: Float[Array, ""], dt: Float[Array, ""]) -> Float[Array, ""]:
    """P(N >= 1), the chance of a step with jumps."""
    return -jnp.expm1(-rate * dt)


def jump(
    jumps: AbstractJumps, rate: Float[Array, ""], loading: Real, assets: int, noise: Noise, dt: Float[Array, ""]
) -> tuple[Float[Array, ""], Float[Array, ""], Float[Array, " assets"]]:
    """Number of jumps in a step at the given rate, their total size J, and the compensated log return of every asset.

    The return is loading J - log E[exp(loading J)], where the expectation is over the truncated law,
    E = 1 + g sum_k P(N >= k) (1 + g)^(k-1) with g = `growth`. `noise.uniform[0]` is the count; the rest goes to the
    sizes.
    """
    chances = tails(rate * dt, jumps.most)
    number = jnp.zeros_like(chances[0])
    for chance in chances:
        number = number + jnp.where(crosses(noise.uniform[0], chance, "the arrival of a jump"), 1.0, 0.0)
    loading = jnp.broadcast_to(loading, (assets,))
    growth = jumps.growth(loading)
    # asset by asset on scalars: with arrays XLA would recompute the chain of chances for every term that uses it
    expected = []
    for asset in range(assets):
        polynomial = jnp.zeros_like(number)
        for chance in reversed(chances):
            polynomial = polynomial * (1.0 + growth[asset]) + chance
        expected.append(jnp.log1p(growth[asset] * polynomial))
    total = jumps.total(number, Noise(noise.normal, noise.uniform[1:]))
    return number, total, loading * total - jnp.stack(expected)


def jump_roles(
    jumps: AbstractJumps, normals: int, before: tuple[int, ...], start: tuple[int, int] | None = None
) -> Roles:
    """Roles of the noise of a law with jumps: `before` are its uniforms that decide something earlier in a step.

    The count follows them, and the sizes follow the count and the `normals` of the diffusion. Of uniform sizes the first alone
    is named: the others belong to jumps that few steps have. `start`: a size that is used in the first step.
    """
    count, arrival = len(before), len(before)
    marks = tuple((normals + k, arrival) for k in range(jumps.draws.normals))
    sizes = ((count, arrival),) * (jumps.most > 1) + ((count + 1, arrival),) * (jumps.draws.uniforms > 0)
    return Roles((*before, count), marks, ((start,) if start else ()) + sizes)


def missed(mean: float, most: int) -> float:
    """The share of jumps that a maximum of `most` in a step cuts off, E[(N - most)^+] / mean for N ~ Poisson(mean)."""
    if mean <= 0.0:
        return 0.0
    mass, lost = math.exp(-mean), 0.0
    for k in range(1, most + 64 + int(4 * mean)):
        mass *= mean / k
        lost += max(k - most, 0) * mass
    return lost / mean


def jump_complaints(jumps: AbstractJumps, rate: float, dt: float) -> Iterator[tuple[str, str]]:
    """Says why `most` jumps in a step of `dt` years at `rate` per year are too few."""
    share = missed(rate * dt, jumps.most)
    if share > _MISSED:
        yield (
            "jumps.most",
            f"{jumps.most} jumps in one step are too few: {rate * dt:.3g} are expected and {share:.2g} of all jumps "
            f"would be missed, expected at most {_MISSED:g}; raise most or take shorter steps",
        )


def loading_complaints(jumps: AbstractJumps, loading: Any) -> Iterator[tuple[str, str]]:
    """Says why the expected price would be infinite."""
    if not bool(jnp.all(jnp.isfinite(jumps.growth(jnp.atleast_1d(jnp.asarray(loading)))))):
        yield (
            "loading",
            "the expected price after one jump is infinite, expected loading * up_mean < 1 (and loading * down_mean "
            "> -1); lower the mean jump or the loading",
        )
