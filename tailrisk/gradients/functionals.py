"""What a path's bad debt and fund income are worth: the functionals whose mean is differentiated.

Each is continuous and piecewise linear in both, so its derivative at fixed events is the chain rule.
"""

import abc

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._fields import Real, real


class AbstractFunctional(eqx.Module):
    """One number of a path from its gross bad debt, what its sales paid into the fund, and the fund at the start."""

    @abc.abstractmethod
    def __call__(
        self, bad_debt: Float[Array, ""], fund_income: Float[Array, ""], fund: Float[Array, ""]
    ) -> Float[Array, ""]:
        """The functional; money is in units of the initial notional."""


class BadDebt(AbstractFunctional):
    """Gross bad debt L."""

    def __call__(
        self, bad_debt: Float[Array, ""], fund_income: Float[Array, ""], fund: Float[Array, ""]
    ) -> Float[Array, ""]:
        """L."""
        return bad_debt


class UncoveredDebt(AbstractFunctional):
    """Debt that the fund does not cover, (L - fund - income)+."""

    def __call__(
        self, bad_debt: Float[Array, ""], fund_income: Float[Array, ""], fund: Float[Array, ""]
    ) -> Float[Array, ""]:
        """(L - fund - income)+."""
        return jnp.maximum(bad_debt - fund - fund_income, 0.0)


class TailExcess(AbstractFunctional):
    """The integrand of expected shortfall at a value-at-risk v that is held fixed, (L - v)+ / (1 - level).

    With v the true quantile the derivative of its mean is that of the expected shortfall, by the envelope theorem.

    **Source:** Rockafellar and Uryasev (2000).
    """

    value_at_risk: Real = real(unit="1", least=0.0)
    level: Real = real(0.99, unit="1", above=0.0, below=1.0)

    def __call__(
        self, bad_debt: Float[Array, ""], fund_income: Float[Array, ""], fund: Float[Array, ""]
    ) -> Float[Array, ""]:
        """(L - v)+ / (1 - level)."""
        return jnp.maximum(bad_debt - self.value_at_risk, 0.0) / (1.0 - self.level)
