"""Operations and memory traffic of a program, each loop counted as often as it turns.

XLA's own analysis of a compiled program counts the body of a loop once, and of several branches the dearest. Here every body is
compiled by itself for its cost c, and a copy of the program that carries counters says how often it runs, n, on the data that
is timed. The whole is the sum over bodies of n (c - what is nested in it, as XLA has counted it). Costs are those of fused
programs: bytes are what goes in and out of fused kernels, from caches too. A body of its own may be fused a little differently.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal, jaxpr_as_fun

from ..simulate import entry_point

_CALLS = ("jit", "pjit", "closed_call", "custom_jvp_call", "custom_vjp_call")
_KEYS = ("flops", "transcendentals", "bytes accessed")


class Cost(NamedTuple):
    """`operations`: on elements, of whole numbers and comparisons as well; 2 for each term of a matrix product."""

    operations: float
    transcendentals: float
    bytes: float


@dataclasses.dataclass
class _Body:
    """What runs a number of times: its counter, its cost as XLA counts it, and the places where others are inside."""

    number: int
    once: np.ndarray
    places: list[list["_Body"]]  # the branches of each place, or the one body of a loop


def count(function: Callable[..., Any], *arguments: Any) -> Cost:
    """The cost of one call on these arrays, which is made to count the turns of its loops."""
    closed = jax.make_jaxpr(function)(*arguments)
    leaves = jax.tree.leaves(arguments)
    bodies: dict[int, _Body] = {}
    _collect(closed, jaxpr_as_fun(closed), closed.in_avals, bodies)

    def counted(*given: Any) -> Any:
        return _walk(closed, given, bodies, jnp.zeros(len(bodies), jnp.int32).at[bodies[id(closed)].number].set(1))[0]

    turns = np.asarray(entry_point(counted)(*leaves))
    cost = np.zeros(len(_KEYS))
    for body in bodies.values():
        nested = [np.max([one.once for one in place], axis=0) for place in body.places]
        cost += turns[body.number] * (body.once - np.sum([0.0 * cost, *nested], axis=0))
    return Cost(*cost.tolist())


def _collect(closed: ClosedJaxpr, run: Callable[..., Any], avals: Any, bodies: dict[int, _Body]) -> _Body:
    """The body of a jaxpr, made with all that is inside if it is not known yet."""
    if id(closed) not in bodies:
        places = [[_collect(*one, bodies) for one in place] for place in _places(closed)]
        given = [jnp.zeros(aval.shape, aval.dtype) for aval in avals]
        found = entry_point(run).lower(*given).compile().compiled.cost_analysis()
        once = np.array([found.get(key, 0.0) for key in _KEYS])
        bodies[id(closed)] = _Body(len(bodies), once, places)
    return bodies[id(closed)]


def _places(closed: ClosedJaxpr) -> Iterator[list[tuple[ClosedJaxpr, Callable[..., Any], Any]]]:
    """Loops and branches of a jaxpr, those of the functions that it calls included: what to run, and on what."""
    for eqn in closed.jaxpr.eqns:
        name, p = eqn.primitive.name, eqn.params
        if name == "while":
            more, again = p["cond_jaxpr"], p["body_jaxpr"]
            own, others = more.in_avals[: p["cond_nconsts"]], again.in_avals

            def turn(*given: Any, more: Any = more, again: Any = again, p: Any = p) -> Any:
                own, rest = given[: p["cond_nconsts"]], given[p["cond_nconsts"] :]
                return jaxpr_as_fun(more)(*own, *rest[p["body_nconsts"] :]), jaxpr_as_fun(again)(*rest)

            yield [(again, turn, [*own, *others])]
        elif name == "scan":
            yield [(p["jaxpr"], jaxpr_as_fun(p["jaxpr"]), p["jaxpr"].in_avals)]
        elif name == "cond":
            yield [(branch, jaxpr_as_fun(branch), branch.in_avals) for branch in p["branches"]]
        elif (called := _called(eqn)) is not None:
            yield from _places(called)


def _called(eqn: Any) -> ClosedJaxpr | None:
    """The function that an equation does nothing but call."""
    inner = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr")) if eqn.primitive.name in _CALLS else None
    return inner if isinstance(inner, ClosedJaxpr) else None


def _walk(closed: ClosedJaxpr, given: Any, bodies: dict[int, _Body], turns: Any) -> tuple[Any, list[Any]]:
    """Evaluates a jaxpr; the counters go through its loops and come back."""
    values: dict[Any, Any] = dict(zip(closed.jaxpr.constvars, closed.consts, strict=True))
    values |= dict(zip(closed.jaxpr.invars, given, strict=True))

    def read(variable: Any) -> Any:
        return variable.val if isinstance(variable, Literal) else values[variable]

    for eqn in closed.jaxpr.eqns:
        turns, out = _equation(eqn, [read(v) for v in eqn.invars], bodies, turns)
        values |= dict(zip(eqn.outvars, out, strict=True))
    return turns, [read(v) for v in closed.jaxpr.outvars]


def _equation(eqn: Any, given: list[Any], bodies: dict[int, _Body], turns: Any) -> tuple[Any, list[Any]]:
    name, p = eqn.primitive.name, eqn.params

    def inside(closed: ClosedJaxpr, turns: Any, values: Any) -> tuple[Any, list[Any]]:
        return _walk(closed, values, bodies, turns.at[bodies[id(closed)].number].add(1))

    if name == "while":
        c, b = p["cond_nconsts"], p["cond_nconsts"] + p["body_nconsts"]
        own, fixed, start = given[:c], given[c:b], given[b:]
        more = lambda carry: jaxpr_as_fun(p["cond_jaxpr"])(*own, *carry[1])[0]  # noqa: E731
        return jax.lax.while_loop(
            more, lambda carry: inside(p["body_jaxpr"], carry[0], [*fixed, *carry[1]]), (turns, start)
        )
    if name == "scan":
        fixed, moving = p["num_consts"], p["num_carry"]

        def step(carry: Any, row: Any) -> Any:
            turns, out = inside(p["jaxpr"], carry[0], [*given[:fixed], *carry[1], *row])
            return (turns, out[:moving]), out[moving:]

        start, rows = given[fixed : fixed + moving], given[fixed + moving :]
        (turns, last), shown = jax.lax.scan(step, (turns, start), rows, p["length"], p["reverse"])
        return turns, [*last, *shown]
    if name == "cond":
        which, *rest = given
        return jax.lax.switch(which, [lambda t, v, b=b: inside(b, t, v) for b in p["branches"]], turns, rest)
    if (called := _called(eqn)) is not None:
        return _walk(called, given, bodies, turns)
    out = eqn.primitive.bind(*given, **eqn.primitive.get_bind_params(p))
    return turns, list(out) if eqn.primitive.multiple_results else [out]
