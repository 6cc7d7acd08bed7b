"""How the feedback inside one step ends: sales lower the price, which orders the next sales."""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from ._fields import count


class AbstractClearing(eqx.Module):
    """How the feedback inside one step is resolved."""

    @abc.abstractmethod
    def resolve(self, order: Any, round_: Any) -> tuple[Any, Bool[Array, ""]]:
        """Repeats `round_(order) -> order`; returns the orders and whether the last round changed nothing."""


class Rounds(AbstractClearing):
    """A fixed number of simultaneous rounds: each sees the price after all sales of the rounds before.

    From below: with few rounds a cascade may be cut short; what is left goes on in the next step, and such steps are
    counted in the flag `unsettled`.
    """

    rounds: int = count(8, least=1, most=1000)

    def resolve(self, order: Any, round_: Any) -> tuple[Any, Bool[Array, ""]]:
        def one(order: Any, _: None) -> tuple[Any, Bool[Array, ""]]:
            new = round_(order)
            return new, _same(order, new)

        order, settled = jax.lax.scan(one, order, None, length=self.rounds)
        return order, settled[-1]


class Exact(AbstractClearing):
    """Rounds until nothing more is breached: the smallest fixed point, equal to selling one account at a time.

    Orders only grow and cannot exceed the book, so this ends: after at most as many rounds as there are groups on
    ladders and under full closes, and when rounds no longer change a digit where groups are closed in part (`Slice`) or
    the book is a continuum. It can be differentiated in forward mode only. Where sales of a continuum breed more sales
    than they are, its price jumps across that zone, and a pathwise derivative does not see the jump.
    """

    def resolve(self, order: Any, round_: Any) -> tuple[Any, Bool[Array, ""]]:
        def more(carry: Any) -> Bool[Array, ""]:
            return ~carry[1]

        def again(carry: Any) -> tuple[Any, Bool[Array, ""]]:
            new = round_(carry[0])
            return new, _same(carry[0], new)

        return jax.lax.while_loop(more, again, (order, jnp.asarray(False)))


def _same(old: Any, new: Any) -> Bool[Array, ""]:
    equal = [jnp.all(a == b) for a, b in zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=True)]
    return jnp.all(jnp.stack(equal))
