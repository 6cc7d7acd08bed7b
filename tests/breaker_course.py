"""Drives a breaker by news and by a simple stream of forced orders, one asset."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tailrisk._fields import cast, parse_duration
from tailrisk.breaker import Gate

MINUTE = parse_duration("1min")
DTYPES = (jnp.float32, jnp.float64)
FALL = np.log1p(-0.12)  # log return of a fall of 12 %


class Course(NamedTuple):
    """What happened in each step, (steps,)."""

    gate: Gate
    after: jax.Array
    halted: jax.Array
    executed: jax.Array


@jax.jit
def _run(breaker, news, push, dt):
    def step(state, inputs):
        before, push = inputs
        gate = breaker.gate(state, before, dt)
        room = jnp.maximum(before - gate.band_floor, 0.0)
        executed = jnp.where(gate.open, jnp.minimum(jnp.minimum(push, gate.cap), room), 0.0)
        after = before - executed
        state = breaker.update(state, before, after, executed, dt)
        return state, Course(gate, after, breaker.halted(state), executed)

    start = breaker.init(jnp.zeros((1,), news.dtype))
    return jax.lax.scan(step, start, (news[:, None], push[:, None]))[1]


def drive(breaker, news, push=0.0, dtype=jnp.float64, dt=MINUTE) -> Course:
    """Runs news (steps,); forced orders want to lower the log price by `push` (steps,) within each step.

    The order that crosses a floor executes, a band stops the price, and impact is gone by the next step.
    """
    news = jnp.asarray(news, dtype)
    push = jnp.broadcast_to(jnp.asarray(push, dtype), news.shape)
    course = _run(cast(breaker, dtype), news, push, jnp.asarray(dt, dtype))
    return jax.tree.map(lambda a: np.asarray(a)[:, 0], course)


def closed(course):
    """The steps in which nothing may execute."""
    return list(np.flatnonzero(~course.gate.open))


def auctions(course):
    """The steps that are reopening auctions."""
    return list(np.flatnonzero(course.gate.auction))


def walk(steps=300, seed=3):
    """A random walk of 1 % a step."""
    return np.cumsum(0.01 * np.random.default_rng(seed).standard_normal(steps))
