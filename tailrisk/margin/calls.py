"""Margin calls: between the initial and the maintenance margin an owner may be asked for cash, and may pay."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._fields import Real, duration, real


class Call(eqx.Module):
    """An account whose equity is below `call_level` x initial margin posts cash that restores the initial margin.

    It does so with probability u after the time `grace`; u falls in a crash, when owners are short of cash:

        u(crash) = calm + (crash_probability - calm) crash,   crash in [0, 1]

    Perpetual venues have no grace (0 s); brokered accounts 1 h to 24 h. Defaults are assumptions to calibrate or sweep.
    How the cash is posted, and out of which reserve, is the business of the positions.
    """

    call_level: Real = real(1.0, unit="1", least=0.0)
    calm: Real = real(0.3, unit="1", least=0.0, most=1.0)
    crash_probability: Real = real(0.05, unit="1", least=0.0, most=1.0)
    grace: Real = duration("0s", least=0.0)

    def probability(self, crash: Float[Array, "..."]) -> Float[Array, "..."]:
        """Probability that a call is met, given the crash factor in [0, 1]."""
        return jnp.asarray(self.calm) + (self.crash_probability - self.calm) * crash
