"""What a path is worth: the functionals whose mean is differentiated.

Most are continuous and piecewise differentiable in bad debt and fund income while events stay as they are, so that their
derivative at fixed events is the chain rule; volume and halted steps move with events alone. One that jumps there as well
has a boundary of its own, which the estimators of thresholds do not see: they refuse it.
"""

import abc
from typing import ClassVar, NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._fields import InputError, Real, flag, real
from .._hard import indicator


class Totals(NamedTuple):
    """Of a finished path: gross bad debt, what its sales paid into the fund, and the fund at the start (initial notional).

    volume: units sold by force. halted: steps that a breaker let nobody sell in.
    """

    bad_debt: Float[Array, ""]
    fund_income: Float[Array, ""]
    fund: Float[Array, ""]
    volume: Float[Array, ""]
    halted: Float[Array, ""]


class AbstractFunctional(eqx.Module):
    """One number of a path from its totals."""

    jumps: ClassVar[bool]
    """Whether it jumps while events stay as they are."""

    @abc.abstractmethod
    def __call__(self, totals: Totals) -> Float[Array, ""]:
        """The functional."""


class BadDebt(AbstractFunctional):
    """Gross bad debt L."""

    jumps: ClassVar[bool] = False

    def __call__(self, totals: Totals) -> Float[Array, ""]:
        """L."""
        return totals.bad_debt


class UncoveredDebt(AbstractFunctional):
    """Debt that the fund does not cover, (L - fund - income)+."""

    jumps: ClassVar[bool] = False

    def __call__(self, totals: Totals) -> Float[Array, ""]:
        """(L - fund - income)+."""
        return jnp.maximum(totals.bad_debt - totals.fund - totals.fund_income, 0.0)


class TailExcess(AbstractFunctional):
    """The integrand of expected shortfall at a value-at-risk v that is held fixed, (L - v)+ / (1 - level).

    With v the true quantile the derivative of its mean is that of the expected shortfall, by the envelope theorem.

    **Source:** Rockafellar and Uryasev (2000).
    """

    jumps: ClassVar[bool] = False
    value_at_risk: Real = real(unit="1", least=0.0)
    level: Real = real(0.99, unit="1", above=0.0, below=1.0)

    def __call__(self, totals: Totals) -> Float[Array, ""]:
        """(L - v)+ / (1 - level)."""
        return jnp.maximum(totals.bad_debt - self.value_at_risk, 0.0) / (1.0 - self.level)


class ForcedVolume(AbstractFunctional):
    """Units sold by force."""

    jumps: ClassVar[bool] = False

    def __call__(self, totals: Totals) -> Float[Array, ""]:
        """C."""
        return totals.volume


class HaltedSteps(AbstractFunctional):
    """Steps in which a breaker that tripped before lets nobody sell."""

    jumps: ClassVar[bool] = False

    def __call__(self, totals: Totals) -> Float[Array, ""]:
        """The count."""
        return totals.halted


class Exceedance(AbstractFunctional):
    """The indicator of X > threshold, X = L or, if `net`, L - fund - income, smoothed over `width` on either side.

        H((X - threshold) / width),   H(y) = 1/2 + (3 y - y^3) / 4 on [-1, 1]

    H is what is left of (X - q)+ by a local linear fit of its slope, over all q within `width` of the threshold, so the mean
    is P(X > threshold) up to (width^2 / 10) d^2 P / d threshold^2.

    **Source:** Epanechnikov (1969) for the kernel H'; Fan and Gijbels (1996) for local linear fits as kernels.
    """

    jumps: ClassVar[bool] = False
    threshold: Real = real(unit="1")
    width: Real = real(unit="1", above=0.0)
    net: bool = flag(False)

    def _place(self, totals: Totals) -> Float[Array, ""]:
        loss = totals.bad_debt - totals.fund - totals.fund_income if self.net else totals.bad_debt
        return jnp.clip((loss - self.threshold) / self.width, -1.0, 1.0)

    def __call__(self, totals: Totals) -> Float[Array, ""]:
        """H((X - threshold) / width)."""
        y = self._place(totals)
        return 0.5 + 0.25 * y * (3.0 - y * y)


class FundExhausted(AbstractFunctional):
    """The indicator of L > fund + income. It jumps where a path's loss passes the fund, whatever the events are."""

    jumps: ClassVar[bool] = True

    def __call__(self, totals: Totals) -> Float[Array, ""]:
        """1 or 0, with the derivative nan."""
        money = (totals.bad_debt, totals.fund_income, totals.fund)
        beyond = totals.bad_debt - totals.fund_income > totals.fund
        return indicator(beyond.astype(totals.fund.dtype), money)


def refuse_jumps(functional: AbstractFunctional | None, method: str) -> None:
    """Refuses a functional with a boundary of its own.

    **Raises:** `InputError`.
    """
    if functional is not None and functional.jumps:
        raise InputError(
            f"{method} got {type(functional).__name__}, which jumps at fixed events, where a part of the derivative would be "
            "lost; use exhaustion, differences, or score for parameters of the law"
        )
