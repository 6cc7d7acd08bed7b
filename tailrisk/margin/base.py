"""What the cascade asks of a margin schedule.

A schedule has a static part, requirements as functions of the notional of a position, and a dynamic part, one
multiplier per asset that moves with the market. A static schedule has an empty state and the multiplier 1.

More maintenance margin may lower or raise bad debt. It closes positions earlier, which without impact always lowers
expected bad debt, and it forces more sales, which with impact feed the cascade. With 400 accounts of equity 8.5 to 30 %
of notional, jumps of -5 % and linear impact, going from 0.25 % to 8 % lowers bad debt while the branching number of the
book is about one or less and raises it beyond (2.5 and more). An objective made of bad debt alone therefore needs the
impact regime beside it.
"""

import abc
from typing import Any

import equinox as eqx
from jaxtyping import Array, Float

from .._fields import AnyArray


class AbstractMargin(eqx.Module):
    """How much equity a position must have: to be opened (initial) and not to be closed by force (maintenance).

    Notional is |quantity| x price >= 0 in USD. Tables hold one row per asset, or a single row shared by all assets.
    A tree that was not cast answers NumPy notionals in NumPy float64, which is how books are built on the host.
    """

    @property
    @abc.abstractmethod
    def is_static(self) -> bool:
        """True when `level` is 1 for ever, so thresholds can be tabulated before the first step."""

    @abc.abstractmethod
    def maintenance(self, notional: Float[AnyArray, "*rest assets"]) -> Float[AnyArray, "*rest assets"]:
        """Equity below which a position is closed by force, USD, before `level`."""

    @abc.abstractmethod
    def initial(self, notional: Float[AnyArray, "*rest assets"]) -> Float[AnyArray, "*rest assets"]:
        """Equity needed to open a position, USD, before `level`."""

    @abc.abstractmethod
    def lines(self) -> tuple[Float[AnyArray, "#assets tiers"], Float[AnyArray, "#assets tiers"]]:
        """(rates, deductions in USD) such that maintenance is `max_k(rate_k n - deduction_k)`, one row per asset.

        Raises ValueError if the schedule is not convex.
        """

    @abc.abstractmethod
    def init(self, dtype: Any, assets: int = 1) -> Any:
        """State before the first step; `assets` matters only to a dynamic schedule with fields shared by all assets."""

    @abc.abstractmethod
    def update(self, state: Any, log_return: Float[Array, " assets"], dt: Float[Array, ""]) -> Any:
        """State after a step in which log prices moved by `log_return`; `dt` in years."""

    @abc.abstractmethod
    def level(self, state: Any) -> Float[Array, " #assets"]:
        """Multiplier of both requirements."""
