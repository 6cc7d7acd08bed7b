"""Prices at which a position is closed (equity = maintenance) and at which it is worth nothing (equity = 0).

Closed forms, differentiable in everything that is not a switch, elementwise over arrays of positions. Conventions in
which venues differ are arguments:

    contract       "linear" (quantity in units of the asset, cash in USD) or "inverse" (quantity in contracts of 1 USD,
                   cash in coin; profit q (1/p0 - 1/p))
    mm_basis       maintenance on the notional at "mark" or at "entry"
    mode           "isolated", or "cross" with maintenance and unrealized profit of the other positions of the account
    tick_rounding  "none", "up" or "down" to a multiple of `tick`; a rounded price has a zero derivative

Maintenance is a maximum of lines max_k(rate_k n - deduction_k) in the notional n, as given by `AbstractMargin.lines`.
Equity minus a maximum is a minimum, so a long is healthy above the highest root of the lines, a short below the lowest.
A price of 0 (long) or inf (short) means that no price of the asset closes the position.
"""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from .levels import _one_of

Numbers = Float[ArrayLike, "..."]


def liquidation_price(
    entry: Numbers,
    quantity: Numbers,
    cash: Numbers,
    rates: Numbers,
    deductions: Numbers = 0.0,
    *,
    contract: str = "linear",
    mm_basis: str = "mark",
    mode: str = "isolated",
    other_maintenance: Numbers = 0.0,
    other_profit: Numbers = 0.0,
    closing_fee: Numbers = 0.0,
    tick: Numbers = 1.0,
    tick_rounding: str = "none",
) -> Float[Array, "..."]:
    """Price p^L at which equity, net of the fee of closing, equals maintenance, USD/unit.

    With C = cash + other_profit - other_maintenance (both zero when isolated), side s = sign q, fee phi:

        linear, mark:    p = (q p0 - C - d_k) / (q - (r_k + phi) |q|)
        linear, entry:   p = (q p0 - C + (1 + phi) M) / (q - phi |q|),              M = max_k(r_k |q| p0 - d_k)
        inverse, mark:   p = |q| (s + phi + r_k) / (C + q / p0 + d_k)
        inverse, entry:  p = |q| (s + phi) / (C + q / p0 - (1 + phi) M),            M = max_k(r_k |q| / p0 - d_k)

    On entry basis the maintenance also covers the fee (1 + phi), as venues charge it for inverse contracts.
    Position arguments (entry, quantity, cash, other_*, fee, tick) have one shape or are scalars; `rates` and
    `deductions` are scalars (one tier) or have tiers as last axis, after the axes of the position or the last of them.

    Sources: Binance, Bybit and Hyperliquid margin documentation.
    """
    _one_of("mm_basis", mm_basis, ("mark", "entry"))
    _one_of("mode", mode, ("isolated", "cross"))
    if mode == "isolated":
        other_maintenance = other_profit = 0.0
    pool = jnp.asarray(cash) + other_profit - other_maintenance
    entry, quantity, pool, fee = _together(entry, quantity, pool, closing_fee)
    r, d = _tiers(rates, entry.ndim), _tiers(deductions, entry.ndim)
    if mm_basis == "entry":
        notional = jnp.abs(quantity) * (entry if contract == "linear" else 1.0 / entry)
        margin = jnp.max(r * notional[..., None] - d, axis=-1)
        price = _root(contract, entry, quantity, pool - (1.0 + fee) * margin, fee)
    else:
        roots = _root(contract, entry[..., None], quantity[..., None], pool[..., None] + d, fee[..., None] + r)
        price = jnp.where(quantity < 0.0, jnp.min(roots, axis=-1), jnp.max(roots, axis=-1))
    return _round(price, tick, tick_rounding)


def bankruptcy_price(
    entry: Numbers,
    quantity: Numbers,
    cash: Numbers,
    *,
    contract: str = "linear",
    mode: str = "isolated",
    other_profit: Numbers = 0.0,
    closing_fee: Numbers = 0.0,
    tick: Numbers = 1.0,
    tick_rounding: str = "none",
) -> Float[Array, "..."]:
    """Price p^B at which equity, net of the fee of closing, is zero, USD/unit: maintenance zero in `liquidation_price`.

    This is the level of the engine (`bankruptcy_level = "equity"`). The other convention, "from_mark", current mark -+
    cash / quantity, is the same function with `entry` set to the mark; it spends the cash twice after a move.
    """
    _one_of("mode", mode, ("isolated", "cross"))
    pool = cash if mode == "isolated" else jnp.asarray(cash) + other_profit
    return _round(_root(contract, *_together(entry, quantity, pool, closing_fee)), tick, tick_rounding)


def liquidation_price_at_mark(
    price: Numbers, quantity: Numbers, equity: Numbers, maintenance_rate: Numbers
) -> Float[Array, "..."]:
    """p^L from the equity at the current price: p - s (margin available / |q|) / (1 - rate s), USD/unit.

    Margin available = equity - rate |q| p. Source: Hyperliquid documentation, rate = 1 / (2 max leverage) (LIQ-07).
    """
    price, quantity = jnp.asarray(price), jnp.asarray(quantity)
    side, size = jnp.sign(quantity), jnp.abs(quantity)
    available = equity - maintenance_rate * size * price
    return price - side * (available / size) / (1.0 - maintenance_rate * side)


def liquidation_price_with_slippage(
    mark: Numbers, quantity: Numbers, collateral: Numbers, slippage: Numbers, risk_factor: Numbers
) -> Float[Array, "..."]:
    """p^L when maintenance also pays linear slippage: max(0, (c - q S) / (|q| slip + |q| rf - q)), USD/unit.

    Source: Vega margin specification (LIQ-09).
    """
    quantity = jnp.asarray(quantity)
    size = jnp.abs(quantity)
    return jnp.maximum((collateral - quantity * mark) / (size * slippage + size * risk_factor - quantity), 0.0)


def bankruptcy_quote(
    delta_notional: Numbers, delta_maintenance: Numbers, net_collateral: Numbers, maintenance: Numbers
) -> Float[Array, "..."]:
    """Quote a cross account receives (+) or pays (-) for closing a part at its bankruptcy price, USD.

        -delta_notional - net_collateral |delta_maintenance| / maintenance

    The part takes its share of net collateral in proportion to maintenance; notional is signed like the position.
    Source: dYdX v4 (LIQ-12).
    """
    share = jnp.abs(jnp.asarray(delta_maintenance)) / maintenance
    return -jnp.asarray(delta_notional) - net_collateral * share


def _together(*values: Numbers) -> list[Array]:
    return jnp.broadcast_arrays(*(jnp.asarray(value) for value in values))


def _root(contract: str, entry: Array, quantity: Array, pool: Array, rate: Array) -> Array:
    """Price at which pool + profit(p) - rate x notional(p) = 0; 0 or inf where no price in (0, inf) does."""
    _one_of("contract", contract, ("linear", "inverse"))
    side, size = jnp.where(quantity < 0.0, -1.0, 1.0), jnp.where(quantity == 0.0, 1.0, jnp.abs(quantity))
    never = jnp.where(quantity < 0.0, jnp.inf, 0.0)
    if contract == "linear":
        slope = size * (side - rate)  # equity net of rate x notional per unit of price
        level = quantity * entry - pool
        price = jnp.maximum(level / jnp.where(slope == 0.0, 1.0, slope), 0.0)
        price = jnp.where((quantity > 0.0) & (slope <= 0.0), jnp.inf, price)  # a rate of 1 or more: never healthy
    else:
        slope = size * (side + rate)  # per unit of 1/p, falling for a long
        level = pool + quantity / entry
        inside = (slope != 0.0) & (level * slope > 0.0)
        price = jnp.where(inside, slope / jnp.where(inside, level, 1.0), jnp.inf)
        price = jnp.where((quantity < 0.0) & (slope >= 0.0), 0.0, price)
    return jnp.where(quantity == 0.0, never, price)


def _tiers(table: Numbers, ndim: int) -> Array:
    """Puts the tiers of a table on the axis after the `ndim` axes of the positions."""
    table = jnp.atleast_1d(jnp.asarray(table))
    return table.reshape((1,) * (ndim + 1 - table.ndim) + table.shape)


def _round(price: Array, tick: Numbers, rounding: str) -> Array:
    """Rounds to a multiple of the tick; a price within rounding error of a multiple is that multiple."""
    _one_of("tick_rounding", rounding, ("none", "up", "down"))
    if rounding == "none":
        return price
    ticks = price / tick
    near = jnp.round(ticks)
    close = jnp.abs(ticks - near) <= 8.0 * float(jnp.finfo(ticks.dtype).eps) * jnp.abs(ticks)
    return jnp.where(close, near, jnp.ceil(ticks) if rounding == "up" else jnp.floor(ticks)) * tick
