"""Requirements that rise with the size of a position: the notional tiers of perpetual futures venues.

`style = "bracket"` works like an income tax: each rate applies to the slice of notional above its floor, so maintenance
is continuous and convex, a maximum of lines. `style = "whole"` charges the whole notional at the rate of its tier, so
it jumps at the floors.
"""

from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._fields import AnyArray, Bounds, InputError, Real, choice, to_real
from .._hard import decisive
from .base import AbstractMargin

_ROUNDING = 1e-9
_TIER = 'the floor of a margin tier with style = "whole"'


def _pad(value: Any) -> Any:
    """Makes a table (assets, tiers): one list is one asset, short rows repeat their last tier, which adds nothing."""
    if isinstance(value, list | tuple) and any(isinstance(row, list | tuple | np.ndarray) for row in value):
        rows = [np.atleast_1d(to_real(row)) for row in value]
        if any(row.ndim != 1 or row.size == 0 for row in rows):
            raise InputError(f"expected one list of numbers per asset, none empty, got {value!r}")
        longest = max(row.size for row in rows)
        return np.stack([np.pad(row, (0, longest - row.size), mode="edge") for row in rows])
    value = to_real(value)
    return value.reshape(1, -1) if value.ndim < 2 else value


def _table(unit: str, **bounds: float) -> Any:
    return eqx.field(converter=_pad, metadata={"unit": unit, "bounds": Bounds(**bounds)})  # pyright: ignore[reportArgumentType]


class Brackets(AbstractMargin):
    """Tiered requirements, one row of tiers per asset (lists of unequal length are padded).

    With floors f_k and rates r_k, r_{-1} = 0, the maintenance requirement of a notional n is

        bracket: MM(n) = sum_k (r_k - r_{k-1}) max(n - f_k, 0) = max_k (r_k n - c_k),
                 c_k = c_{k-1} + f_k (r_k - r_{k-1})
        whole:   MM(n) = r_k n  for  f_k <= n < f_{k+1}

    `initial_style` says the same of the initial requirement with rates 1 / max_leverage. Venues cap the leverage of the
    whole position by its tier, hence "whole" is the default there.

    Sources: Binance and Hyperliquid margin documentation (bracket, published as n r_k - c_k).
    **Left out:** notional caps of the last tier; a larger position is charged the last rate.
    """

    floors: Real = _table("USD", least=0.0)
    maintenance_rates: Real = _table("1", least=0.0, most=1.0)
    max_leverage: Real = _table("1", least=1.0)
    style: str = choice("bracket", "bracket", "whole")
    initial_style: str = choice("whole", "whole", "bracket")

    def __check_init__(self) -> None:
        shape = np.shape(self.floors)
        for name in ("floors", "maintenance_rates", "max_leverage"):
            found = np.shape(getattr(self, name))
            if found != shape or len(found) != 2:
                raise InputError(
                    f"{name} is a table of shape {found}, but floors has {shape}; expected as many tiers (and assets) "
                    "in floors, maintenance_rates and max_leverage"
                )

    @property
    def is_static(self) -> bool:
        return True

    def maintenance(self, notional: Float[AnyArray, "*rest assets"]) -> Float[AnyArray, "*rest assets"]:
        return _charge(notional, self.floors, self.maintenance_rates, self.style)

    def initial(self, notional: Float[AnyArray, "*rest assets"]) -> Float[AnyArray, "*rest assets"]:
        return _charge(notional, self.floors, 1.0 / self.max_leverage, self.initial_style)

    def lines(self) -> tuple[Float[AnyArray, "#assets tiers"], Float[AnyArray, "#assets tiers"]]:
        if self.style == "whole":
            raise InputError(
                'Brackets with style = "whole" is not convex, so it is no maximum of lines and a liquidation price may '
                'not be unique; use style = "bracket", or the Accounts kernel, which asks for maintenance() only'
            )
        return self.maintenance_rates, _deductions(self.floors, self.maintenance_rates)

    def init(self, dtype: Any, assets: int = 1) -> tuple[()]:
        del dtype, assets
        return ()

    def update(self, state: tuple[()], log_return: Float[Array, " assets"], dt: Float[Array, ""]) -> tuple[()]:
        del log_return, dt
        return state

    def level(self, state: tuple[()]) -> Float[Array, " #assets"]:
        del state
        return jnp.ones_like(self.floors[:, 0])

    def check(self) -> Iterator[tuple[str, str]]:
        tables = (np.asarray(t) for t in (self.floors, self.maintenance_rates, self.max_leverage))
        for asset, (floors, rates, leverage) in enumerate(zip(*tables, strict=True)):
            where = f"asset {asset}: " if len(self.floors) > 1 else ""
            if floors[0] != 0.0:
                yield (
                    "floors",
                    f"{where}first tier starts at {floors[0]:g}, expected 0; add the tier of small positions",
                )
            yield from _disorder(where, floors, rates, leverage)
            for k in np.flatnonzero(rates > (1.0 + _ROUNDING) / leverage)[:1]:
                yield (
                    "maintenance_rates",
                    f"{where}tier {k} has maintenance rate {rates[k]:g} above its initial rate 1/{leverage[k]:g} = "
                    f"{1.0 / leverage[k]:g}, so a position is in breach when opened; lower the rate or the leverage",
                )
        if self.style == "whole" and self.initial_style == "bracket":
            yield (
                "initial_style",
                'is "bracket" with style "whole": maintenance jumps at a floor where the initial requirement does not, '
                'and may pass it; use initial_style = "whole"',
            )


def _disorder(where: str, floors: np.ndarray, rates: np.ndarray, leverage: np.ndarray) -> Iterator[tuple[str, str]]:
    """Complaints about the first pair of neighboring tiers that is out of order; an exact repeat is padding."""
    repeat = (np.diff(floors) == 0) & (np.diff(rates) == 0) & (np.diff(leverage) == 0)
    for k in np.flatnonzero((np.diff(floors) <= 0) & ~repeat)[:1]:
        yield (
            "floors",
            f"{where}tier {k + 1} starts at {floors[k + 1]:g} after {floors[k]:g}; sort tiers by rising floor",
        )
    # Tiers that a search has made equal may differ by rounding.
    for k in np.flatnonzero(rates[1:] < rates[:-1] * (1.0 - _ROUNDING))[:1]:
        yield (
            "maintenance_rates",
            f"{where}fall from {rates[k]:g} to {rates[k + 1]:g} at tier {k + 1}, expected rates that never fall; "
            "sort the tiers, rates as fractions",
        )
    for k in np.flatnonzero(leverage[1:] > leverage[:-1] * (1.0 + _ROUNDING))[:1]:
        yield (
            "max_leverage",
            f"{where}rises from {leverage[k]:g} to {leverage[k + 1]:g} at tier {k + 1}, expected leverage that never "
            "rises; sort the tiers",
        )


def _module_of(*arrays: Any) -> Any:
    """NumPy if every array is NumPy's, so a book is built on the host in float64 whatever the default of JAX."""
    return jnp if any(isinstance(array, jax.Array) for array in arrays) else np


def _deductions(floors: Real, rates: Real) -> Real:
    """c_k = sum_{j <= k} f_j (r_j - r_{j-1}), USD."""
    xp = _module_of(floors, rates)
    steps = xp.concatenate([rates[:, :1], rates[:, 1:] - rates[:, :-1]], axis=1)
    return (floors * steps).cumsum(axis=1)


def _charge(notional: Real, floors: Real, rates: Real, style: str) -> Real:
    """Requirement of a notional: one elementwise term a tier, so no gather, nothing of size tiers is stored, and padding
    adds zero."""
    xp, lead = _module_of(notional, floors, rates), (1,) * (notional.ndim - 1)

    def column(table: Real, tier: int) -> Real:
        return table[:, tier].reshape(*lead, -1)

    charge = rates_sum = column(rates, 0) * (notional if style == "bracket" else 1.0)
    for tier in range(1, floors.shape[1]):
        step, floor = column(rates, tier) - column(rates, tier - 1), column(floors, tier)
        if style == "bracket":
            charge = charge + step * xp.maximum(notional - floor, 0.0)
        else:
            reached = decisive(notional, _TIER) >= decisive(floor, _TIER)
            rates_sum = rates_sum + xp.where(reached, step, 0.0)
    return charge if style == "bracket" else notional * rates_sum
