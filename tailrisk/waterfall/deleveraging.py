"""How a loss is split over winning accounts: queue, pro rata, capped pro rata, risk aware.

The functions are pure, of fixed shape and permutation invariant. A need above what is available is infeasible: all that
is available is taken and `unallocated` is what remains. Haircuts are USD of profit, never contracts or notional.
"""

import abc

import equinox as eqx
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from .._fields import Real, choice, real
from .._sums import total
from .closing import covered, positive, ratio_of
from .ranking import price_leverage_score, profit_leverage_score, queue_order

Accounts = Float[Array, " accounts"]
Scalar = Float[Array, ""]


def takeable(profit: Accounts, equity: Accounts) -> Accounts:
    """What may be taken of an account, USD: its positive profit, never more than its equity."""
    return positive(covered(profit, equity))


def unallocated(need: Scalar, available: Accounts) -> Scalar:
    """What no allocation can cover, USD: `max(need - sum(available), 0)`, exactly zero when feasible."""
    return positive(need - total(available))


def allocate_queue(
    need: Scalar,
    available: Accounts,
    score: Accounts,
    account: Int[Array, " accounts"] | None = None,
    *,
    whole: bool = False,
) -> Accounts:
    """Takes from the highest score downwards until the need is met; ties go to the lowest account id.

    The last one pays the part that is still needed, or everything if `whole` (positions are closed entirely): then more
    is taken than needed.
    """
    order = queue_order(score, account)
    line = available[order]
    before = jnp.cumsum(line) - line
    taken = jnp.where(before < need, line, 0.0) if whole else jnp.clip(need - before, 0.0, line)
    return jnp.zeros_like(available).at[order].set(taken)


def allocate_pro_rata(need: Scalar, base: Accounts) -> Accounts:
    """Takes the same share of everybody's base: `need base / sum(base)`, at most all of it."""
    base = positive(base)
    whole = total(base)
    return ratio_of(covered(need, whole), whole) * base


def allocate_capped_pro_rata(need: Scalar, cap: Accounts, weight: Accounts) -> Accounts:
    """Takes `min(cap_i, t weight_i)`, in proportion to weight and never above a cap, with t such that the need is met.

    Water filling, exact and differentiable: sort by `cap / weight`; with prefix sums of caps and suffix sums of weights
    the level is `t = (need - caps below) / weights above` at the first place whose total reaches the need. Weight 0
    pays nothing. If the need exceeds the caps everyone pays his cap.
    """
    weighted = weight > 0.0
    cap = jnp.where(weighted, positive(cap), 0.0)
    weight = jnp.where(weighted, weight, 0.0)
    full_at = ratio_of(cap, weight)
    order = jnp.argsort(full_at, stable=True)
    caps, weights = cap[order], weight[order]
    below = jnp.cumsum(caps) - caps
    above = lax.cumsum(weights, reverse=True)
    short = below + full_at[order] * above < need  # the level of this place is too low to raise the need
    place = jnp.minimum(jnp.sum(short), cap.shape[0] - 1)
    missing = need - below[place]
    level = ratio_of(jnp.where(missing < 0.0, 0.0, missing), above[place])  # negative only by rounding
    feasible = need < total(cap)
    return jnp.where(feasible & (level * weight < cap), level * weight, cap)


def risk_aware_weights(
    equity: Accounts, leverage: Accounts, form: str = "linear", threshold: Real | float = 0.0
) -> Accounts:
    """Weights of risk-aware deleveraging: `e l g(l)`, e equity, l effective leverage.

    g(l) = l ("linear"), l^2 ("square") or max(l - threshold, 0) ("excess"). **Source:** Chitra, arXiv 2512.01112.
    """
    exposure = positive(equity) * leverage
    if form == "linear":
        return exposure * leverage
    if form == "square":
        return exposure * leverage * leverage
    if form == "excess":
        return exposure * positive(leverage - threshold)
    raise ValueError(f'form = {form!r}: expected "linear", "square" or "excess"')


def project_to_budget(target: Accounts, weight: Accounts, budget: Scalar) -> Accounts:
    """The haircut shares h in [0, 1] nearest to a target that raise a budget: `sum(weight h) = budget`.

    `h = clip(target + nu weight, 0, 1)`; the raised sum is piecewise linear in nu, so nu is found exactly by sorting
    its 2 n kinks and polished by one Newton step, which also carries the exact derivative. Weights >= 0; a budget
    outside [0, sum(weight)] gives the nearest end. **Source:** Euclidean projection onto a capped simplex; arXiv
    2512.01112.
    """
    used = weight > 0.0
    safe = jnp.where(used, weight, 1.0)
    square = jnp.where(used, weight * weight, 0.0)
    kinks = jnp.concatenate([-target / safe, (1.0 - target) / safe])
    order = jnp.argsort(kinks)
    kink = kinks[order]
    slope = jnp.cumsum(jnp.concatenate([square, -square])[order])
    step = slope[:-1] * jnp.diff(kink)
    raised = jnp.concatenate([jnp.zeros_like(step[:1]), jnp.cumsum(step)])
    place = jnp.clip(jnp.sum(raised <= budget) - 1, 0, kink.shape[0] - 2)
    nu = kink[place] + ratio_of(budget - raised[place], slope[place])
    nu = jnp.clip(nu, kink[place], kink[place + 1])
    raw = target + nu * weight
    inside = used & (raw > 0.0) & (raw < 1.0)
    missing = budget - total(weight * jnp.clip(raw, 0.0, 1.0))
    nu = nu + ratio_of(missing, total(jnp.where(inside, square, 0.0)))
    return jnp.clip(target + nu * weight, 0.0, 1.0)


class AbstractAllocation(eqx.Module):
    """How a deleveraged amount is split over accounts on the winning side."""

    @abc.abstractmethod
    def allocate(
        self, need: Scalar, profit: Accounts, equity: Accounts, leverage: Accounts, size: Accounts
    ) -> Accounts:
        """Haircut per account, USD.

        need: USD to raise. profit: unrealized profit of the position, USD. equity: of the account, USD. leverage:
        effective leverage of the account. size: entry value |q| x entry of the position, USD. Accounts that may not be
        deleveraged have profit 0. Everything is raised while `sum(takeable(profit, equity))` suffices.
        """


class Queue(AbstractAllocation):
    """Auto-deleveraging queue: the highest rank pays first, with all the profit it has.

    rank: "profit_leverage" (BitMEX: profit / entry value x leverage), "price_leverage" (Hyperliquid for a long: (1 +
    profit / entry value) x leverage), "profit_equity" (profit / equity), "profit_times_leverage" (USD profit x
    leverage), "size". fill: "partial" stops at the need, "whole" takes the last position entirely and so overshoots.
    """

    rank: str = choice(
        "profit_leverage", "profit_leverage", "price_leverage", "profit_equity", "profit_times_leverage", "size"
    )
    fill: str = choice("partial", "partial", "whole")

    def score(self, profit: Accounts, equity: Accounts, leverage: Accounts, size: Accounts) -> Accounts:
        """Rank score per account, highest first in the queue."""
        if self.rank == "profit_leverage":
            return profit_leverage_score(ratio_of(profit, size), leverage)
        if self.rank == "price_leverage":
            return price_leverage_score(1.0 + ratio_of(profit, size), leverage)
        if self.rank == "profit_equity":
            return ratio_of(profit, equity)
        return profit * leverage if self.rank == "profit_times_leverage" else size

    def allocate(
        self, need: Scalar, profit: Accounts, equity: Accounts, leverage: Accounts, size: Accounts
    ) -> Accounts:
        score = self.score(profit, equity, leverage, size)
        return allocate_queue(need, takeable(profit, equity), score, whole=self.fill == "whole")


class ProRata(AbstractAllocation):
    """Everybody in profit pays the same share of his base.

    base: "profit", or "equity" ("wealth" pro rata: the total is still limited by what profits can pay, but one account
    may pay more than its own profit, never more than its equity).
    """

    base: str = choice("profit", "profit", "equity")

    def allocate(
        self, need: Scalar, profit: Accounts, equity: Accounts, leverage: Accounts, size: Accounts
    ) -> Accounts:
        del leverage, size
        available = takeable(profit, equity)
        if self.base == "profit":
            return allocate_pro_rata(need, available)
        wealth = jnp.where(available > 0.0, equity, 0.0)
        return allocate_pro_rata(covered(need, total(available)), wealth)


class CappedProRata(AbstractAllocation):
    """Pro rata where nobody loses more than a share of his profit: water filling.

    base: what the haircut is proportional to, "profit", "equity" or "size". cap: most that is taken, share of profit;
    below 1 the feasible total shrinks and the rest is residual loss.
    """

    base: str = choice("profit", "profit", "equity", "size")
    cap: Real = real(1.0, unit="1", least=0.0, most=1.0)

    def allocate(
        self, need: Scalar, profit: Accounts, equity: Accounts, leverage: Accounts, size: Accounts
    ) -> Accounts:
        del leverage
        available = takeable(profit, equity)
        weight = {"profit": available, "equity": equity, "size": size}[self.base]
        return allocate_capped_pro_rata(need, self.cap * available, weight)


class RiskAware(AbstractAllocation):
    """Pro rata to `equity x leverage x g(leverage)`, nobody above his profit.

    What the weighted accounts cannot pay is taken pro rata from the profit that is left.
    form: g = "linear" (l), "square" (l^2) or "excess" (max(l - threshold, 0)). **Source:** Chitra, arXiv 2512.01112;
    the second round is ours, so that the need is raised whenever profits suffice.
    """

    form: str = choice("linear", "linear", "square", "excess")
    threshold: Real = real(1.0, unit="1", least=0.0)

    def allocate(
        self, need: Scalar, profit: Accounts, equity: Accounts, leverage: Accounts, size: Accounts
    ) -> Accounts:
        del size
        available = takeable(profit, equity)
        weight = risk_aware_weights(equity, leverage, self.form, self.threshold)
        first = allocate_capped_pro_rata(need, available, weight)
        return first + allocate_pro_rata(positive(need - total(first)), available - first)
