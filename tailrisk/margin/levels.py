"""Published margin levels: four of them as multiples of maintenance, and the ratio that is shown to a client."""

from typing import NamedTuple

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from .._fields import InputError

Numbers = Float[ArrayLike, "..."]


class MarginLevels(NamedTuple):
    """USD. maintenance: close below. search: ask for cash below. initial: needed to open. release: pay out above."""

    maintenance: Float[Array, "..."]
    search: Float[Array, "..."]
    initial: Float[Array, "..."]
    release: Float[Array, "..."]


def slippage_maintenance(notional: Numbers, slippage: Numbers, risk_factor: Numbers) -> Float[Array, "..."]:
    """Maintenance of a position with the cost of closing it: notional x (slippage + risk factor), USD.

    Source: Vega margin specification (linear slippage factor).
    """
    return jnp.asarray(notional) * (slippage + risk_factor)


def margin_levels(
    maintenance: Numbers,
    search: Numbers = 1.2,
    initial: Numbers = 1.5,
    release: Numbers = 2.0,
    *,
    rounding: str = "none",
) -> MarginLevels:
    """Four levels as multiples of maintenance; `rounding="down"` truncates to whole units as the venue does.

    Source: Vega margin specification. A truncated level has a zero derivative.
    """
    _one_of("rounding", rounding, ("none", "down"))
    base = jnp.asarray(maintenance)
    levels = (base, base * search, base * initial, base * release)
    if rounding == "down":
        levels = tuple(jnp.floor(level) for level in levels)
    return MarginLevels(*levels)


def margin_ratio(equity: Numbers, maintenance: Numbers, *, ratio: str = "equity/maintenance") -> Float[Array, "..."]:
    """The margin ratio in either published convention: E/MM (closed below 1) or MM/E (closed above 1)."""
    _one_of("ratio", ratio, ("equity/maintenance", "maintenance/equity"))
    equity, maintenance = jnp.asarray(equity), jnp.asarray(maintenance)
    return equity / maintenance if ratio == "equity/maintenance" else maintenance / equity


def _one_of(name: str, value: str, options: tuple[str, ...]) -> None:
    if value not in options:
        raise InputError(f"{name} = {value!r}: expected one of {', '.join(options)}")
