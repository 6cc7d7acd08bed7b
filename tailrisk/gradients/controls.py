"""Wrong ways to differentiate hard thresholds, kept so that what accepts an estimator can be seen to refuse them.

All accounts, round by round: f is the share of each that has been sold, x = u - G(sum f q) the price that they leave,

    naive              f <- max(f, 1[x < b])
    sigmoid            f <- max(f, 1 / (1 + exp(-(b - x) / temperature)))
    straight-through   the first forward, the second backward

and automatic differentiation of the loss. The first leaves out that events move; the second is another model, in which a
part-sold account pushes the price towards its own threshold; the third is neither. The bias of each is measured against the
quadrature, and no result is accepted.

**Source:** Bengio, Leonard and Courville (2013) for the straight-through form.
"""

import dataclasses
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from .._fields import InputError
from .._streams import Noise
from . import oracle
from .companion import AbstractCompanion
from .ladder import Ladder
from .record import Bias, Gradient, gradient, require, run_batches
from .walk import LadderWalk

PARAMETERS = ("maintenance", "initial_shift", "impact")
KINDS = ("naive", "sigmoid", "straight-through")


class DensePath(NamedTuple):
    """Log price without sales, share sold of each account, bad debt."""

    level: Float[Array, ""]
    sold: Float[Array, " accounts"]
    bad_debt: Float[Array, ""]


class DenseState(NamedTuple):
    """A path, its tangent in each parameter (a leading axis), its weight, and whether it jumped."""

    path: DensePath
    slopes: DensePath
    weight: Float[Array, ""]
    jumped: Bool[Array, ""]


class DenseWalk(AbstractCompanion):
    """The ladder without a breaker as arrays over accounts, with tangents in `PARAMETERS` that ride in the scan."""

    walk: LadderWalk  # lends its noise
    numbers: Float[Array, "3"]  # values of `PARAMETERS`
    entry: Float[Array, " accounts"]
    initial_margin: Float[Array, " accounts"]
    quantity: Float[Array, " accounts"]
    exponent: Float[Array, ""]
    temperature: Float[Array, ""]
    kind: str = eqx.field(static=True)
    rounds: int = eqx.field(static=True)

    def init(self) -> DenseState:
        """Nothing sold, all tangents zero."""
        zero = jnp.zeros((), self.dtype)
        path = DensePath(zero, jnp.zeros_like(self.quantity), zero)
        slopes = jax.tree.map(lambda leaf: jnp.zeros((len(PARAMETERS), *leaf.shape), self.dtype), path)
        return DenseState(path, slopes, zero + 1.0, jnp.zeros((), bool))

    def _sell(self, path: DensePath, numbers: Float[Array, "3"]) -> DensePath:
        maintenance, initial_shift, impact = numbers
        log_debt = self.entry + jnp.log1p(-(self.initial_margin + initial_shift))
        threshold = log_debt - jnp.log1p(-maintenance)

        def price(sold: Any) -> Any:
            # A power of zero has no slope: a sum that is zero stays out of it.
            volume = jnp.sum(sold * self.quantity)
            some = volume > 0.0
            return path.level - impact * jnp.where(some, jnp.where(some, volume, 1.0) ** self.exponent, 0.0)

        def one_round(sold: Any, _: Any) -> Any:
            x = price(sold)
            hard, soft = (threshold > x).astype(self.dtype), jax.nn.sigmoid((threshold - x) / self.temperature)
            through = soft + jax.lax.stop_gradient(hard - soft)
            hit = {"naive": hard, "sigmoid": soft, "straight-through": through}[self.kind]
            return jnp.maximum(sold, hit), None

        sold = jax.lax.scan(one_round, path.sold, length=self.rounds)[0]
        short = jnp.maximum(jnp.exp(log_debt) - jnp.exp(price(sold)), 0.0)
        loss = jnp.sum((sold - path.sold) * self.quantity * short)
        return DensePath(path.level, sold, path.bad_debt + loss)

    def step(self, state: DenseState, noise: Noise) -> tuple[DenseState, None]:
        """A step of the path and of its tangents."""
        increment = self.walk.increment(noise)
        path = state.path._replace(level=state.path.level + increment.move)

        def tangent(slope: DensePath, direction: Any) -> Any:
            return jax.jvp(self._sell, (path, self.numbers), (slope, direction))

        new, slopes = jax.vmap(tangent, out_axes=(None, 0))(state.slopes, jnp.eye(len(PARAMETERS), dtype=self.dtype))
        jumped = state.jumped | increment.jump
        return DenseState(new, slopes, state.weight * increment.ratio, jumped), None

    def outcome(self, state: DenseState) -> dict[str, Float[Array, ""]]:
        """Bad debt, its derivatives, the weight, and whether the path jumped; there is no breaker to trip."""
        slopes = {f"slope_{name}": state.slopes.bad_debt[i] for i, name in enumerate(PARAMETERS)}
        classes = {"jumped": state.jumped.astype(self.dtype), "tripped": jnp.zeros_like(state.weight)}
        volume = jnp.sum(state.path.sold * self.quantity)
        return {"value": state.path.bad_debt, "volume": volume, "weight": state.weight} | classes | slopes


def dense(ladder: Ladder, kind: str, temperature: float = 0.004, rounds: int = 6, dtype: Any = None) -> DenseWalk:
    """The dense model of a ladder."""
    if kind not in KINDS or not temperature > 0.0 or rounds < 1:
        raise InputError(
            f"kind = {kind!r}, temperature = {temperature}, rounds = {rounds}: expected one of {', '.join(KINDS)}, "
            "a positive temperature and at least one round"
        )
    walk = LadderWalk.build(ladder, dtype=dtype)
    if walk.window:
        raise InputError(f"band = {float(ladder.band):g}: the controls have no circuit breaker; set band = inf")
    numbers = [ladder.get(name) for name in PARAMETERS]
    book = ladder.book
    arrays = (numbers, book.entry, book.initial_margin, book.quantity, ladder.impact_exponent, temperature)
    return DenseWalk(walk, *(jnp.asarray(np.asarray(x).astype(walk.dtype)) for x in arrays), kind=kind, rounds=rounds)


def estimate(
    ladder: Ladder,
    parameters: tuple[str, ...] = ("maintenance",),
    *,
    kind: str,
    temperature: float = 0.004,
    rounds: int = 6,
    seed: int = 0,
    paths: int = 64 * 2_048,
    batches: int = 64,
    chunk: int = 2_048,
    dtype: Any = None,
    truth: Ladder | None = None,
) -> Gradient:
    """What automatic differentiation returns for mean bad debt, with its measured bias; never an accepted gradient.

    `kind`: one of `KINDS`. `temperature`: width of the sigmoid (log price). `rounds` of sales in a step. The bias is the
    estimate less the derivative by quadrature, so its error is that of the estimate; `truth`: that derivative, if known.

    **Raises:** `InputError` for other parameters and kinds, and with a breaker, where the bias is not known.
    """
    require(parameters, PARAMETERS, "automatic differentiation of rounds", "it is a control: use another estimator")
    system = dense(ladder, kind, temperature, rounds, dtype)
    truth = oracle.expected_bad_debt_and_gradient(ladder)[1] if truth is None else truth

    def contributions(outcome: dict[str, np.ndarray]) -> np.ndarray:
        return np.stack([outcome["weight"] * outcome[f"slope_{name}"] for name in parameters])

    found = gradient(
        run_batches(system, contributions, seed=seed, paths=paths, batches=batches, chunk=chunk),
        parameters,
        method=kind if kind == "naive" else f"{kind}, temperature {temperature:g}",
        reason="a control that is known to be wrong",
        bias=Bias(np.full(len(parameters), np.nan), "measured against the quadrature"),
    )
    bias = found.estimate - np.array([truth.get(name) for name in parameters])
    return dataclasses.replace(found, bias=bias, accepted=np.zeros(len(parameters), bool))
