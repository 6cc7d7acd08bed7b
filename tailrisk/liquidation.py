"""How much of a margin group the venue closes when it is in breach, and what it charges for it.

A liquidation rule is a formula from equity E, maintenance requirement M and gross notional N of a group to the share of
the group to sell now. The fee is paid out of what equity is left after the trade, never out of thin air:
`min(fee * traded notional, max(E, 0))`.
"""

import abc
from collections.abc import Iterator
from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ._fields import Real, duration, real
from ._hard import crosses, decisive

BREACH = "the maintenance margin of a position"
_SIZE = "the size above which a group is closed in parts"
_WAIT = "the wait before the rest of a group is closed"
_CLOCK_SLACK = 1e-5  # a clock that is a sum of steps may fall short of the wait by rounding


class AbstractLiquidation(eqx.Module):
    """The share of a margin group that is sold at a breach, and the venue's fee.

    `partial`: whether less than everything may be sold. `timed`: whether groups carry a clock. `backstopped`: whether a
    backstop may take a group over off the market. All three are structural.
    """

    fee: eqx.AbstractVar[Real]
    partial: eqx.AbstractClassVar[bool]
    timed: eqx.AbstractClassVar[bool]
    backstopped: eqx.AbstractClassVar[bool]

    @abc.abstractmethod
    def share(
        self,
        equity: Float[Array, " groups"],
        maintenance: Float[Array, " groups"],
        notional: Float[Array, " groups"],
        clock: Float[Array, " groups"] | None,
    ) -> tuple[Float[Array, " groups"], Bool[Array, " groups"] | None]:
        """Share to sell now, 0 where the group is not in breach, and who is taken over (None: nobody ever is)."""

    @abc.abstractmethod
    def advance(
        self, clock: Float[Array, " groups"] | None, ordered: Bool[Array, " groups"], dt: Float[Array, ""]
    ) -> Float[Array, " groups"] | None:
        """The clocks at the next test, `dt` years later; `ordered`: open groups on order now."""

    def charge(self, traded: Float[Array, " groups"], equity: Float[Array, " groups"]) -> Float[Array, " groups"]:
        """Fee on a traded notional, at most the equity after the trade; USD."""
        return jnp.minimum(self.fee * traded, jnp.maximum(equity, 0.0))


class Full(AbstractLiquidation):
    """Closes the whole group at the breach.

    share = 1 if E < M else 0.
    """

    fee: Real = real(0.005, unit="1 of traded notional", least=0.0, below=1.0)
    partial: ClassVar[bool] = False
    timed: ClassVar[bool] = False
    backstopped: ClassVar[bool] = False

    def share(self, equity: Any, maintenance: Any, notional: Any, clock: Any = None) -> tuple[Any, None]:
        """Everything where equity is below maintenance."""
        del notional, clock
        return jnp.where(crosses(equity, maintenance, BREACH), jnp.ones_like(equity), 0.0), None

    def advance(self, clock: Any, ordered: Any, dt: Any) -> None:
        """No clock."""
        del clock, ordered, dt


class Slice(AbstractLiquidation):
    """Sells as much as brings equity back to `target` times maintenance.

    s = clip((g M - E) / (g M - phi N), 0, 1), and s = 1 where selling cannot cure (g M <= phi N). With a requirement
    that is linear in notional the ratio E/M after the trade is exactly g; with rising tiers it is above g. `cost` is
    what a trade is expected to cost per unit of notional, fee and slippage: close to g M / N every slice is the whole.

    **Source:** Chitra, "Autodeleveraging: Impossibilities and Optimization", arXiv 2512.01112, closing amount.
    **Left out:** the execution price is anticipated through `cost` only; all legs of a cross group are cut by the same
    share, where venues often cut the leg with the largest requirement first.
    """

    fee: Real = real(0.001, unit="1 of traded notional", least=0.0, below=1.0)
    target: Real = real(1.25, unit="1", least=1.0)  # g
    cost: Real = real(0.001, unit="1 of traded notional", least=0.0, below=1.0)  # phi
    partial: ClassVar[bool] = True
    timed: ClassVar[bool] = False
    backstopped: ClassVar[bool] = False

    def check(self) -> Iterator[tuple[str, str]]:
        """A slice that does not count its own fee cannot restore the target."""
        fee, cost = np.max(np.asarray(self.fee)), np.min(np.asarray(self.cost))
        if cost < fee:
            yield "cost", f"{cost:g} is below the fee {fee:g}; it is fee plus slippage, raise it to at least the fee"

    def share(self, equity: Any, maintenance: Any, notional: Any, clock: Any = None) -> tuple[Any, None]:
        """The slice where equity is below maintenance."""
        del clock
        wanted = self.target * maintenance
        relief = wanted - self.cost * notional
        curable = relief > 0.0
        part = jnp.where(curable, (wanted - equity) / jnp.where(curable, relief, 1.0), 1.0)
        return jnp.where(crosses(equity, maintenance, BREACH), jnp.clip(part, 0.0, 1.0), 0.0), None

    def advance(self, clock: Any, ordered: Any, dt: Any) -> None:
        """No clock."""
        del clock, ordered, dt


class Schedule(AbstractLiquidation):
    """A first part of a large group, a wait, then the rest; a backstop takes what falls too far (Hyperliquid).

    In breach (E < M): everything if N <= `size_limit`, otherwise `first_share` and, if the group is still in breach
    `wait` later, the rest. At E < `backstop_level` M the backstop takes the whole group at the mark with the equity
    that is left, and a negative equity is bad debt. The clock is the time since the first part was ordered, negative
    when there is none.

    **Source:** Hyperliquid documentation, "Liquidations".
    **Left out:** the size limit is tested on the notional of the group, not leg by leg.
    """

    fee: Real = real(0.0, unit="1 of traded notional", least=0.0, below=1.0)
    first_share: Real = real(0.2, unit="1", above=0.0, most=1.0)
    wait: Real = duration("30s", least=0.0)
    size_limit: Real = real(1e5, unit="USD", least=0.0, infinite=True)
    backstop_level: Real = real(2.0 / 3.0, unit="1", least=0.0, below=1.0)  # of maintenance; 0 switches it off
    partial: ClassVar[bool] = True
    timed: ClassVar[bool] = True
    backstopped: ClassVar[bool] = True

    def _waited(self, clock: Any) -> Any:
        return decisive(clock, _WAIT) >= decisive(self.wait, _WAIT) * (1.0 - _CLOCK_SLACK)

    def share(self, equity: Any, maintenance: Any, notional: Any, clock: Any) -> tuple[Any, Any]:
        """The part that is due where equity is below maintenance; nothing while the wait lasts."""
        breach = crosses(equity, maintenance, BREACH)
        small = decisive(notional, _SIZE) <= decisive(self.size_limit, _SIZE)
        at_first = jnp.where(small, 1.0, self.first_share)
        later = jnp.where(self._waited(clock), jnp.ones_like(clock), 0.0)
        part = jnp.where(clock >= 0.0, later, at_first)
        taken = crosses(equity, self.backstop_level * maintenance, "the equity at which the backstop takes over")
        taken = (self.backstop_level > 0.0) & taken
        return jnp.where(breach & ~taken, part, 0.0), taken

    def advance(self, clock: Any, ordered: Any, dt: Any) -> Any:
        """Starts with the first order, runs through the wait, and stops where the group is cured when it ends."""
        running = clock >= 0.0
        cured = running & self._waited(clock) & ~ordered
        runs_on = (running & ~cured) | (~running & ordered)
        return jnp.where(runs_on, jnp.maximum(clock, 0.0) + dt, -1.0)
