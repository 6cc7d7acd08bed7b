"""What of an outcome's distribution is differentiated: its mean, its expected shortfall, its value-at-risk.

All but the last are means of an integrand of one path, so that their difference is taken path by path.
"""

import abc
from typing import NamedTuple

import equinox as eqx
import numpy as np
from jaxtyping import Float

from .._fields import InputError, Real, real

UNCOVERED = "uncovered_debt"
"""Bad debt that the insurance fund did not pay, an outcome made of two of the system."""

Values = Float[np.ndarray, " paths"]


def with_derived(outcomes: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Outcomes in double precision, with those that are made of others and the weight of each path (1 if untilted)."""
    out = {name: np.asarray(value, np.float64) for name, value in outcomes.items()}
    if "bad_debt" in out and "fund_paid" in out:
        out[UNCOVERED] = out["bad_debt"] - out["fund_paid"]
    return {"weight": np.ones_like(next(iter(out.values())))} | out


def weighted_quantile(values: Values, weights: Values, level: float) -> float:
    """The smallest value that the share `level` of the weight does not exceed."""
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[order])
    return float(values[order][min(np.searchsorted(reached, level * reached[-1]), values.size - 1)])


class Fixed(NamedTuple):
    """A value-at-risk that a pilot has found, with the ends of its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"value-at-risk {self.value:.6g} of a pilot, 95 % interval {self.low:.6g} to {self.high:.6g}"


class AbstractQuantity(eqx.Module):
    """A number of the distribution of one named outcome."""

    outcome: eqx.AbstractVar[str]

    @abc.abstractmethod
    def fix(self, values: Values, weights: Values) -> Fixed | None:
        """What must be held fixed while differentiating, from pilot paths; None if nothing."""

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """As it is shown in tables."""


class AbstractMean(AbstractQuantity):
    """A quantity that is the mean of an integrand of one path."""

    @abc.abstractmethod
    def integrand(self, values: Values, fixed: float) -> Values:
        """Whose mean is differentiated."""

    @abc.abstractmethod
    def slope(self, values: Values, fixed: float) -> Values:
        """Derivative of the integrand in the outcome."""


class Expectation(AbstractMean):
    """The mean of an outcome; of an indicator, such as `fund_depleted`, a probability."""

    outcome: str = eqx.field(static=True, default="bad_debt")

    def fix(self, values: Values, weights: Values) -> None:
        del values, weights

    def integrand(self, values: Values, fixed: float) -> Values:
        del fixed
        return values

    def slope(self, values: Values, fixed: float) -> Values:
        del fixed
        return np.ones_like(values)

    @property
    def name(self) -> str:
        return self.outcome


def _order_statistics(values: Values, weights: Values, level: float) -> Fixed:
    """The quantile with its interval by the normal law of how many paths lie below it."""
    effective = weights.sum() ** 2 / np.square(weights).sum()
    if level >= 1.0 or effective * (1.0 - level) < 20.0:
        raise InputError(
            f"level = {level}: the pilot has {effective * (1.0 - level):.1f} paths beyond it, 20 are needed; use more "
            "paths or a lower level"
        )
    reach = 1.96 * np.sqrt(level * (1.0 - level) / effective)
    low, value, high = (weighted_quantile(values, weights, level + move) for move in (-reach, 0.0, reach))
    return Fixed(value, low, high)


class ExpectedShortfall(AbstractMean):
    """Mean of the worst 1 - level of an outcome. Its derivative is that of E[(L - v)+] / (1 - level) at v held fixed.

    v is the value-at-risk of pilot paths. Its error changes the derivative at first order, by up to what the record's
    bias says of the two ends of its interval.

    **Source:** Rockafellar and Uryasev (2000), with the envelope theorem.
    """

    outcome: str = eqx.field(static=True, default="bad_debt")
    level: Real = real(0.99, unit="1", above=0.0, below=1.0)

    @property
    def name(self) -> str:
        return f"expected shortfall {float(self.level):g} of {self.outcome}"

    def fix(self, values: Values, weights: Values) -> Fixed:
        return _order_statistics(values, weights, float(self.level))

    def integrand(self, values: Values, fixed: float) -> Values:
        return np.maximum(values - fixed, 0.0) / (1.0 - float(self.level))

    def slope(self, values: Values, fixed: float) -> Values:
        return (values > fixed) / (1.0 - float(self.level))


class ValueAtRisk(AbstractQuantity):
    """The level-quantile of an outcome; differentiated by differences of quantiles of common paths alone.

    That is the derivative of the quantile up to the bias of the step, and there is none where paths pile up at one value.
    """

    outcome: str = eqx.field(static=True, default="bad_debt")
    level: Real = real(0.99, unit="1", above=0.0, below=1.0)

    @property
    def name(self) -> str:
        return f"value-at-risk {float(self.level):g} of {self.outcome}"

    def fix(self, values: Values, weights: Values) -> Fixed:
        found = _order_statistics(values, weights, float(self.level))
        share = float(weights[values == found.value].sum() / weights.sum())
        if found.low == found.high or share > 0.1 * (1.0 - float(self.level)):
            raise InputError(
                f"value-at-risk of {self.outcome} at {float(self.level)}: {share:.2%} of paths are exactly "
                f"{found.value:g}, an atom without a derivative; use ExpectedShortfall, or a level beyond the atom"
            )
        return found
