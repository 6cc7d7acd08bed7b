"""What a machine can do at most, and how near a program comes to it, measured in one run.

A second is one of processor time on a CPU, so that all is per core, and one of wall time elsewhere. The limits are arithmetic
without memory traffic, exponentials, traffic in the memory that a batch of paths lives in (caches, for a batch that is as small
as that), and this package's normals. A program cannot be faster than any one of them alone. Bytes are an upper bound: XLA counts
all of an array of which a gather or an update touches a few rows, so the share of memory may exceed one.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from .. import _streams
from ..simulate import batch, entry_point
from . import normals
from .counts import Cost, count

_CHAINS, _LINKS = 8, 16  # independent products and sums of one element, so that no unit waits for another's result
_FLAT = 4_096  # elements of a core's arithmetic; a GPU gets more
_REPEATS = 5


class Limits(NamedTuple):
    """Of a second of one core, or of one device."""

    operations: float
    transcendentals: float
    bytes: float
    normals: float


class Used(NamedTuple):
    """What a unit of work needs, and the share of the time it takes in which the machine at its limit would be done."""

    operations: float
    transcendentals: float
    bytes: float
    normals: float
    arithmetic: float
    memory: float
    noise: float


def clock() -> float:
    """Seconds of the machine's time: of its cores together, or of the wall where a device works."""
    return time.process_time() if jax.default_backend() == "cpu" else time.perf_counter()


def spent(call: Callable[[], Any], repeats: int) -> list[float]:
    """The times of several calls after a first one."""
    jax.block_until_ready(call())
    times = []
    for _ in range(repeats):
        began = clock()
        jax.block_until_ready(call())
        times.append(clock() - began)
    return times


def seconds(call: Callable[[], Any]) -> float:
    """The least time of several calls: a limit is what can be reached."""
    return min(spent(call, _REPEATS))


def measure(room: float) -> Limits:
    """The limits of this machine for batches that take `room` bytes; a few seconds."""
    wide = 1 if jax.default_backend() == "cpu" else 1_024
    few = jnp.linspace(0.1, 0.9, wide * _FLAT, dtype=jnp.float32)
    many = jnp.ones(max(_FLAT, int(room) // 8), jnp.float32)  # two arrays
    turns = max(1, 2**28 // (8 * many.size))
    paths = jnp.arange(65_536, dtype=jnp.uint32)
    key = _streams.stream_key(0, "bench")
    return Limits(
        operations=2.0 * _CHAINS * _LINKS * few.size * 1_000 / seconds(lambda: _arithmetic(few, 1_000)),
        transcendentals=few.size * 4_000 / seconds(lambda: _exponentials(few, 4_000)),
        bytes=12.0 * many.size * turns / seconds(lambda: _traffic(many, many, turns)),
        normals=normals.STEPS * paths.size / seconds(lambda: normals.ours_chunk(key, paths)),
    )


def used(cost: Cost, work: float, draws: float, rate: float, limits: Limits) -> Used:
    """Per unit of `work`: the cost, the normals, and the shares at `rate` units a second of the machine's time."""
    operations, transcendentals, traffic, noise = (number / work for number in (*cost, draws))
    return Used(
        operations=operations,
        transcendentals=transcendentals,
        bytes=traffic,
        normals=noise,
        arithmetic=rate * (operations / limits.operations + transcendentals / limits.transcendentals),
        memory=rate * traffic / limits.bytes,
        noise=rate * noise / limits.normals,
    )


def of_system(system: Any, paths: int) -> tuple[Cost, float]:
    """The cost of a batch of so many paths, and the memory that its program asks for."""
    arrays, still = eqx.partition(system, eqx.is_array)

    def run(arrays: Any, keys: Any, numbers: Any) -> Any:
        return batch(eqx.combine(arrays, still), keys, numbers)[0]

    given = arrays, _streams.noise_keys(1, "market"), jnp.arange(paths, dtype=jnp.uint32)
    found = entry_point(run).lower(*given).compile().compiled.memory_analysis()
    return count(run, *given), float(found.temp_size_in_bytes)


@jax.jit
def _arithmetic(x: Any, turns: Any) -> Any:
    def turn(_: Any, x: Any) -> Any:
        chains = [x + 0.1 * k for k in range(_CHAINS)]
        for _ in range(_LINKS - 1):
            chains = [0.3 * chain + 0.2 for chain in chains]
        return sum(chains[1:], chains[0]) * (1.0 / _CHAINS)

    return jax.lax.fori_loop(0, turns, turn, x)


@jax.jit
def _exponentials(x: Any, turns: Any) -> Any:
    return jax.lax.fori_loop(0, turns, lambda _, x: jnp.exp(-x), x)


@jax.jit
def _traffic(x: Any, y: Any, turns: Any) -> Any:
    return jax.lax.fori_loop(0, turns, lambda _, x: 0.5 * x + y, x)
