"""Arithmetic of a forced closing: how much is closed, what it costs, what is left and who owes it.

Everything here is a pure elementwise formula on numbers or arrays of equal shape. Quantities are signed (+ long, -
short) unless a docstring says size. Money is USD, prices are USD/unit, rates are per unit of notional.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from .._fields import Number


def covered(need: Number, source: Number) -> Array:
    """The part of a need that a source can pay: min(need, source).

    Written so that at a tie the derivative is that of the need: an untouched source of zero keeps its full sensitivity.
    """
    return jnp.where(need > source, source, need)


def ratio_of(part: Number, whole: Number) -> Array:
    """part / whole where whole > 0, else 0; values and derivatives stay finite."""
    positive = jnp.asarray(whole) > 0.0
    return jnp.where(positive, part / jnp.where(positive, whole, 1.0), 0.0)


def positive(value: Number) -> Array:
    """max(value, 0), with derivative 0 at 0."""
    return jnp.where(jnp.asarray(value) > 0.0, value, 0.0)


def margin_ratio(equity: Number, maintenance: Number, ratio: str = "E/MM") -> Array:
    """Margin ratio as published: equity over maintenance margin, or the inverse.

    Breach is `E/MM < 1`, that is `MM/E > 1` (or E <= 0, where MM/E is infinite).
    """
    if ratio not in ("E/MM", "MM/E"):
        raise ValueError(f'ratio = {ratio!r}: expected "E/MM" or "MM/E"')
    top, bottom = (equity, maintenance) if ratio == "E/MM" else (maintenance, equity)
    valid = jnp.asarray(bottom) > 0.0
    return jnp.where(valid, top / jnp.where(valid, bottom, 1.0), jnp.inf)


class FullClose(NamedTuple):
    """What is left of an account whose whole position was closed; USD. equity = surplus + fee - deficit."""

    equity: Array  # cash + realized profit, before the fee
    fee: Array  # paid to the venue
    surplus: Array  # left to the account
    deficit: Array  # bad debt


def full_close(
    quantity: Number, entry: Number, cash: Number, fill: Number, rate: Number = 0.0, *, fee_first: bool = False
) -> FullClose:
    """Closes a whole position at an execution price.

    `E = cash + quantity (fill - entry)`, `fee = min(rate |quantity| fill, max(E, 0))`, `surplus = max(E, 0) - fee`,
    `deficit = max(-E, 0)`: the fee is taken only out of equity that is there, so a fee nobody can pay is no bad debt.

    `fee_first=True` books the whole fee before equity is measured (`E' = E - fee`, `deficit = max(-E', 0)`), as some
    published examples do; the bad debt then contains a claim of the venue on itself.
    """
    equity = cash + quantity * (fill - entry)
    fee = rate * jnp.abs(quantity) * fill
    if fee_first:
        left = equity - fee
        return FullClose(jnp.asarray(equity), fee, positive(left), positive(-left))
    fee = covered(fee, positive(equity))
    return FullClose(jnp.asarray(equity), fee, positive(equity) - fee, positive(-equity))


def restoring_share(
    equity: Number, maintenance: Number, notional: Number, goal: Number = 1.0, cost: Number = 0.0
) -> Array:
    """Share of a position to close so that equity / maintenance returns to `goal`.

    `s = (g MM - E) / (g MM - cost |q| p)` clipped to [0, 1]: closing the share s costs `cost s |q| p` and lowers a
    maintenance margin linear in size to (1 - s) MM. Where costs eat more than closing frees, the answer is all of it.
    The share shortfall / notional, seen in public code, leaves the account in breach.
    """
    need = goal * maintenance - equity
    freed = goal * maintenance - cost * notional
    curable = (need > 0.0) & (need < freed)
    return jnp.where(curable, need / jnp.where(curable, freed, 1.0), jnp.where(jnp.asarray(need) > 0.0, 1.0, 0.0))


def restoring_size(
    size: Number, mark: Number, equity: Number, rate: Number, fill: Number, side: Number = 1.0, cost: Number = 0.0
) -> Array:
    """Size to close at a *given* execution price so that equity returns to `rate` times the notional that remains.

    `dq = (rate p q - E) / (side (fill - p) - cost p + rate p)`, between 0 and `size`; side is +1 when a long is sold
    and -1 when a short is bought back, size is unsigned. **Source:** arXiv 2512.01112.
    """
    need = rate * mark * size - equity
    freed = side * (fill - mark) - cost * mark + rate * mark
    curable = (need > 0.0) & (need < freed * size)
    return jnp.where(curable, need / jnp.where(curable, freed, 1.0), jnp.where(jnp.asarray(need) > 0.0, size, 0.0))


def restoring_size_linear(
    size: Number, mark: Number, equity: Number, rate: Number, impact: Number, cost: Number = 0.0
) -> Array:
    """Size to close when selling x units executes `impact x / 2` USD/unit away from the mark.

    The smaller root of `(impact / 2) x^2 - (rate - cost) p x + (rate p q - E) = 0`, or the whole size where no root
    lies in (0, size): then closing costs more than it frees. The mark stays at `mark`: a slice ignores
    its own push.
    """
    need = rate * mark * size - equity
    slope = (rate - cost) * mark
    square = slope * slope - 2.0 * impact * need
    solvable = (need > 0.0) & (slope > 0.0) & (square > 0.0)
    root = 2.0 * need / jnp.where(solvable, slope + jnp.sqrt(jnp.where(solvable, square, 1.0)), 1.0)
    curable = solvable & (root < size)
    return jnp.where(curable, root, jnp.where(jnp.asarray(need) > 0.0, size, 0.0))


def bankruptcy_price(quantity: Number, entry: Number, cash: Number, mark: Number, level: str = "equity") -> Array:
    """Price at which a position has used up its cash: `entry - cash / quantity`.

    `level="from_mark"` measures from the current mark instead, `mark - cash / quantity`, and so spends the same cash
    twice after a move: it is there to reproduce published arithmetic only.
    """
    if level not in ("equity", "from_mark"):
        raise ValueError(f'level = {level!r}: expected "equity" or "from_mark"')
    return jnp.asarray((entry if level == "equity" else mark) - cash / quantity)


def fund_flow(quantity: Number, bankruptcy: Number, fill: Number) -> Array:
    """USD the fund gains when `quantity` is closed at `fill` instead of the bankruptcy price; negative when it pays.

    `quantity (fill - bankruptcy)` with quantity signed as the position that is closed.
    """
    return jnp.asarray(quantity * (fill - bankruptcy))


def shortfall(quantity: Number, bankruptcy: Number, fill: Number) -> Array:
    """USD lost by closing `quantity` beyond the bankruptcy price: `max(quantity (bankruptcy - fill), 0)`."""
    return positive(quantity * (bankruptcy - fill))


def closing_fee(
    size: Number, mark: Number, fill: Number, fixed: Number = 0.0, on_mark: Number = 0.0, on_fill: Number = 0.0
) -> Array:
    """General fee of a closing: `fixed + on_mark mark size + on_fill fill size`, USD; size unsigned."""
    return jnp.asarray(fixed + on_mark * mark * size + on_fill * fill * size)


def fund_update(fund: Number, inflow: Number, deficit: Number) -> tuple[Array, Array, Array]:
    """Fund after a step, what it paid and what it left unpaid.

    The fund first receives fees and kept surplus, then pays: `paid = min(fund + inflow, deficit)`. It is never counted
    in the deficit, so no dollar is used twice.
    """
    available = fund + inflow
    paid = covered(deficit, available)
    return available - paid, paid, deficit - paid


def capped_fund_change(proceeds: Number, bankruptcy_quote: Number, fee_cap: Number) -> Array:
    """Change of a fund that earns at most a capped fee.

    `min(fee_cap |proceeds|, gap)` for `gap = proceeds - quote > 0`; a negative gap is paid by the fund in full.

    **Source:** dYdX v4 keeper.
    """
    gap = proceeds - bankruptcy_quote
    return jnp.where(jnp.asarray(gap) > 0.0, covered(gap, fee_cap * jnp.abs(proceeds)), gap)


def bankruptcy_quote(
    notional_change: Number, net_collateral: Number, maintenance_change: Number, maintenance: Number
) -> Array:
    """Quote that closing one position of a cross account must bring.

    `-d notional - NC |d MMR| / MMR`, notional signed: collateral is shared over positions in proportion to margin.

    **Source:** dYdX v4 keeper.
    """
    return jnp.asarray(-notional_change - net_collateral * jnp.abs(maintenance_change) / maintenance)


def fillable_price(
    notional: Number,
    size: Number,
    net_collateral: Number,
    maintenance: Number,
    spread: Number,
    adjustment: Number = 1.0,
) -> Array:
    """Price at which others may take over a position: `(notional - ABR spread MMR) / size`, notional and size signed.

    `ABR = clip(adjustment (1 - NC / MMR), 0, 1)`: the concession grows from nothing at NC = MMR to spread x MMR at NC
    = 0 (adjustment 1). **Source:** dYdX v4 keeper.
    """
    rating = jnp.clip(adjustment * (1.0 - net_collateral / maintenance), 0.0, 1.0)
    return (notional - rating * spread * maintenance) / size


def spread_used(oracle: Number, fill: Number) -> Array:
    """Price concession of a fill as a share of the oracle price: `|oracle - fill| / oracle`."""
    return jnp.abs(oracle - fill) / oracle


def static_fund(quantile: Callable[[Array], Array], rate: Number, penalty: Number) -> Array:
    """Fund size K that minimizes `rate K + penalty E[(D - K)+]`, by the quantile function of the loss D.

    K is the quantile of D at `1 - rate / penalty`, and 0 where capital costs more than it saves (rate >= penalty).
    **Source:** the newsvendor condition; arXiv 2512.01112.
    """
    level = 1.0 - jnp.asarray(rate / penalty)
    worth = level > 0.0
    return jnp.where(worth, quantile(jnp.where(worth, level, 0.5)), 0.0)
