"""Importance sampling at the level of noise: any system under another law of its noise, with the weight of each path.

A system is a deterministic map of noise whose law p never depends on its parameters. A proposal draws the noise of a step
from another law q instead, which may depend on the path so far, and says log dp/dq of what it drew. Then for every outcome

    E_p[F] = E_q[w F],     log w = sum over steps of log dp/dq,     E_q[w] = 1,

for every parameter of the system alike: parameters of the market change the map, not the law of the noise. So one frozen
proposal serves both ends of a difference, and a derivative at fixed noise keeps its weights. What must not happen is that
w follows a parameter while the draws do not; a proposal therefore holds its own numbers, those at which it was made, and
its own memory. One that looks at the state of the system is still valid, but the two ends of a difference then see
different states and weigh their paths differently; `Frozen` makes it look at another system's path instead.

**Source:** Glasserman, "Monte Carlo Methods in Financial Engineering" (2003), section 4.6.
"""

import abc
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .._fields import InputError, Real, duration, real
from .._hard import crosses
from .._streams import Noise
from ..simulate import AbstractSystem, AbstractWrapper


class AbstractProposal(eqx.Module):
    """Another law of the noise of a step, as a map of noise under the system's own law."""

    looks: ClassVar[bool]
    """Whether it reads the state of the system; if not, equal noise has equal weights in every system."""

    @abc.abstractmethod
    def init(self, dtype: Any) -> PyTree:
        """What it remembers before the first step."""

    @abc.abstractmethod
    def draw(self, memory: PyTree, state: PyTree, noise: Noise) -> tuple[Noise, Float[Array, ""], PyTree]:
        """Noise under q, its log dp/dq, and the memory after the step; `state` is the system's before the step."""


class TiltedState(NamedTuple):
    """A path of the system, what the proposal remembers, and the log weight so far."""

    path: PyTree
    memory: PyTree
    log_weight: Float[Array, ""]


class Tilted(AbstractWrapper):
    """Any system under a proposal; its outcomes are those of the system, `weight` and `log_weight`."""

    system: AbstractSystem
    proposal: AbstractProposal

    def init(self) -> TiltedState:
        return TiltedState(self.system.init(), self.proposal.init(self.dtype), jnp.zeros((), self.dtype))

    def step(self, state: TiltedState, noise: Noise) -> tuple[TiltedState, PyTree]:
        drawn, log_ratio, memory = self.proposal.draw(state.memory, state.path, noise)
        path, shown = self.system.step(state.path, drawn)
        return TiltedState(path, memory, state.log_weight + log_ratio), shown

    def outcome(self, state: TiltedState) -> dict[str, Float[Array, ""]]:
        weight = {"weight": jnp.exp(state.log_weight), "log_weight": state.log_weight}
        return self.system.outcome(state.path) | weight


class Frozen(AbstractProposal):
    """A proposal that looks at the path of another system, driven by the noise that it draws.

    With the system at theta, both ends of a difference get the same noise and the same weights, at the price of one more
    run beside each.
    """

    system: AbstractSystem
    proposal: AbstractProposal
    looks: ClassVar[bool] = False

    def init(self, dtype: Any) -> tuple[PyTree, PyTree]:
        return self.system.init(), self.proposal.init(dtype)

    def draw(
        self, memory: tuple[PyTree, PyTree], state: PyTree, noise: Noise
    ) -> tuple[Noise, Float[Array, ""], tuple[PyTree, PyTree]]:
        del state
        path, inner = memory
        drawn, log_ratio, inner = self.proposal.draw(inner, path, noise)
        return drawn, log_ratio, (self.system.step(path, drawn)[0], inner)


@runtime_checkable
class Arrivals(Protocol):
    """A law of moves whose jumps are counted by one uniform of a step: `u < chance` is a step with a jump."""

    def init(self, dtype: Any) -> Any: ...
    def move(self, state: Any, noise: Noise, dt: Any) -> tuple[Any, Any]: ...
    def arrival(self, state: Any, noise: Noise, dt: Any) -> tuple[int, Any]: ...


class JumpTilt(AbstractProposal):
    """Multiplies the odds of a step with jumps by `factor`: two cells of one uniform, below and above the chance c.

        q(u) = factor / (1 + c (factor - 1)) below c,   1 / (1 + c (factor - 1)) above

    so dp/dq lies between 1/factor and 1 + c (factor - 1) in every step. How many jumps come, given that some do, and how
    large they are stays as it was. Where the chance moves along a path, it is followed by the law held here, which draws
    the same jumps.

    **Raises:** `InputError` for a law without jumps.
    """

    law: Any  # of the market, at the numbers where the proposal is made
    step: Real = duration(above=0.0, infinite=False)
    factor: Real = real(unit="1", above=0.0)
    looks: ClassVar[bool] = False

    def __check_init__(self) -> None:
        if not isinstance(self.law, Arrivals):
            raise InputError(
                f"a {type(self.law).__name__} has no jumps to tilt; use JumpTilt with JumpDiffusion, Hawkes or "
                "RegimeSwitching, or sample without a proposal"
            )

    def init(self, dtype: Any) -> PyTree:
        return self.law.init(dtype)

    def draw(self, memory: PyTree, state: PyTree, noise: Noise) -> tuple[Noise, Float[Array, ""], PyTree]:
        del state
        place, chance = self.law.arrival(memory, noise, self.step)
        excess = 1.0 + chance * (self.factor - 1.0)
        tilted = chance * self.factor / excess
        uniform = noise.uniform[place]
        jumps = crosses(uniform, tilted, "the cell of a proposal, which must not depend on a parameter")
        below = uniform * (excess / self.factor)
        above = chance + (uniform - tilted) * excess
        drawn = jnp.where(jumps, below, jnp.minimum(jnp.maximum(above, chance), 1.0 - jnp.finfo(uniform.dtype).epsneg))
        log_ratio = jnp.log(excess) - jnp.where(jumps, jnp.log(self.factor), 0.0)
        drawn = noise._replace(uniform=noise.uniform.at[place].set(drawn))
        return drawn, log_ratio, self.law.move(memory, drawn, self.step)[1]
