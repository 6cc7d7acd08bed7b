"""Tools that keep a margin from rising just when cash is short, and measures of how much it does.

The three tools are those of the European rules for central counterparties (EMIR RTS 153/2013, article 28): a buffer of
at least 25 % that may be used up in stress, a weight of at least 25 % on stressed observations, and a floor from a
look-back of ten years. Margin is proportional to volatility here, so each tool maps estimated to charged volatility.
"""

import abc

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._fields import AnyArray, Number, Real, real


class AbstractVolatilityTool(eqx.Module):
    """From the volatility that is estimated to the volatility that is charged."""

    @abc.abstractmethod
    def charged(self, volatility: Float[Array, " assets"]) -> Float[Array, " assets"]:
        """Charged volatility per asset, 1/sqrt(year)."""


class Untreated(AbstractVolatilityTool):
    """Charges what is estimated."""

    def charged(self, volatility: Float[Array, " assets"]) -> Float[Array, " assets"]:
        return volatility


class MarginBuffer(AbstractVolatilityTool):
    """A buffer on top of the margin that is drawn down when volatility passes `trigger`.

        charged = max(s, (1 + share) min(s, trigger))

    Below the trigger margin is (1 + share) times the plain one; then it stands still until the plain one has caught up.
    A share of 0.25 or more satisfies article 28(1)(a).

    **Left out:** rebuilding the buffer slowly after stress; here it is back as soon as volatility is.
    """

    trigger: Real = real(unit="1/sqrt(year)", above=0.0)
    share: Real = real(0.25, unit="1", least=0.0)

    def charged(self, volatility: Float[Array, " assets"]) -> Float[Array, " assets"]:
        return jnp.maximum(volatility, (1.0 + self.share) * jnp.minimum(volatility, self.trigger))


class StressWeight(AbstractVolatilityTool):
    """Part of the weight goes to observations of a stressed period of volatility `stressed`.

        charged^2 = (1 - weight) s^2 + weight stressed^2

    A weight of 0.25 or more satisfies article 28(1)(b).
    """

    stressed: Real = real(unit="1/sqrt(year)", above=0.0)
    weight: Real = real(0.25, unit="1", least=0.0, most=1.0)

    def charged(self, volatility: Float[Array, " assets"]) -> Float[Array, " assets"]:
        return jnp.sqrt((1.0 - self.weight) * volatility**2 + self.weight * self.stressed**2)


class LookbackFloor(AbstractVolatilityTool):
    """Margin is never below that of the volatility of a long look-back (ten years in article 28(1)(c)).

    charged = max(s, volatility)
    """

    volatility: Real = real(unit="1/sqrt(year)", above=0.0)

    def charged(self, volatility: Float[Array, " assets"]) -> Float[Array, " assets"]:
        return jnp.maximum(volatility, self.volatility)


def peak_to_trough(margin: Float[AnyArray, "times ..."]) -> Float[Array, "..."]:
    """Highest over lowest margin of a history; 1 is a margin that never moves (Murphy, Vasios and Vause 2014)."""
    return jnp.max(margin, axis=0) / jnp.min(margin, axis=0)


def largest_call(margin: Float[AnyArray, "times ..."], steps: int) -> Float[Array, "..."]:
    """Largest increase of margin over `steps` observations, in the unit of the margin (the n-day call, same source)."""
    return jnp.max(margin[steps:] - margin[:-steps], axis=0)


def cushion(initial: Number, maintenance: Number) -> Number:
    """(IM - MM) / MM: how far a new position is from being closed, in units of its maintenance margin."""
    return (initial - maintenance) / maintenance
