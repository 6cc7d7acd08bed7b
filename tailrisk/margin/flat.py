"""One rate for every size: the schedule of textbooks, of closed forms and of assets with a single tier."""

from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._fields import AnyArray, InputError, Real, real
from .base import AbstractMargin


class Flat(AbstractMargin):
    """Requirements proportional to notional: MM(n) = m n and IM(n) = i n.

    Rates are scalars, or one per asset. `1 / initial_rate` is the maximum leverage.

    **Left out:** rates that rise with size; use `Brackets` for the table of a real venue.
    """

    maintenance_rate: Real = real(unit="1", least=0.0, below=1.0)
    initial_rate: Real = real(unit="1", above=0.0, most=1.0)

    def __check_init__(self) -> None:
        for name in ("maintenance_rate", "initial_rate"):
            if np.ndim(getattr(self, name)) > 1:
                shape = np.shape(getattr(self, name))
                raise InputError(f"{name} has shape {shape}; expected one number, or a list with one number per asset")

    @property
    def is_static(self) -> bool:
        return True

    def maintenance(self, notional: Float[AnyArray, "*rest assets"]) -> Float[AnyArray, "*rest assets"]:
        return _spread(self.maintenance_rate, notional) * notional

    def initial(self, notional: Float[AnyArray, "*rest assets"]) -> Float[AnyArray, "*rest assets"]:
        return _spread(self.initial_rate, notional) * notional

    def lines(self) -> tuple[Float[AnyArray, "#assets 1"], Float[AnyArray, "#assets 1"]]:
        rates = self.maintenance_rate.reshape(-1, 1)
        return rates, 0.0 * rates

    def init(self, dtype: Any, assets: int = 1) -> tuple[()]:
        del dtype, assets
        return ()

    def update(self, state: tuple[()], log_return: Float[Array, " assets"], dt: Float[Array, ""]) -> tuple[()]:
        del log_return, dt
        return state

    def level(self, state: tuple[()]) -> Float[Array, " #assets"]:
        del state
        return jnp.ones_like(self.maintenance_rate.reshape(-1))

    def check(self) -> Iterator[tuple[str, str]]:
        low, high = np.broadcast_arrays(np.asarray(self.maintenance_rate), np.asarray(self.initial_rate))
        for m, i in zip(low.ravel(), high.ravel(), strict=True):
            if m > i:
                yield (
                    "maintenance_rate",
                    f"{m:g} is above the initial rate {i:g}, so a position would be in breach when opened; "
                    "lower it or raise initial_rate",
                )


def _spread(rate: Real, notional: Real) -> Real:
    """Aligns a scalar or (assets,) rate with the last axis of `notional`."""
    return rate if rate.ndim == 0 else rate.reshape((1,) * (notional.ndim - 1) + (-1,))
