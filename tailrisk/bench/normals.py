"""Standard normals: this package's counter-based stream, JAX's generator keyed by path and step, NumPy."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import _streams

STEPS = 288


def contestants() -> dict[str, Callable[[int, int], dict[str, np.ndarray]]]:
    """Each sums the normals of `STEPS` steps by path, and their squares, so that nothing is left out or stored."""
    return {"tailrisk": _ours, "jax.random": _jax, "numpy": _numpy}


def _sums(draw: Callable[[Any, Any], Any], path: Any) -> Any:
    def add(carry: Any, step: Any) -> tuple[Any, None]:
        z = draw(path, step)
        return (carry[0] + z, carry[1] + z * z), None

    zero = jnp.zeros((), jnp.float32)
    return jax.lax.scan(add, (zero, zero), jnp.arange(STEPS, dtype=jnp.uint32))[0]


@jax.jit
def ours_chunk(key: Any, paths: Any) -> Any:
    return jax.vmap(lambda path: _sums(lambda p, s: _streams.normals(key, p, s, 1, jnp.float32)[0], path))(paths)


@jax.jit
def _jax_chunk(key: Any, paths: Any) -> Any:
    def draw(path: Any, step: Any) -> Any:
        return jax.random.normal(jax.random.fold_in(jax.random.fold_in(key, path), step), (), jnp.float32)

    return jax.vmap(lambda path: _sums(draw, path))(paths)


def _named(total: Any, square: Any) -> dict[str, np.ndarray]:
    return {"sum": np.asarray(total, float), "square": np.asarray(square, float)}


def _ours(paths: int, seed: int) -> dict[str, np.ndarray]:
    return _named(*ours_chunk(_streams.stream_key(seed, "bench"), jnp.arange(paths, dtype=jnp.uint32)))


def _jax(paths: int, seed: int) -> dict[str, np.ndarray]:
    return _named(*_jax_chunk(jax.random.key(seed), jnp.arange(paths, dtype=jnp.uint32)))


def _numpy(paths: int, seed: int) -> dict[str, np.ndarray]:
    workers = os.cpu_count() or 1

    def one(own: np.random.SeedSequence) -> np.ndarray:
        rng = np.random.Generator(np.random.SFC64(own))
        z = np.empty(-(-paths // workers), np.float32)
        total, square = np.zeros_like(z), np.zeros_like(z)
        for _ in range(STEPS):
            rng.standard_normal(out=z, dtype=np.float32)
            total += z
            square += z * z
        return np.stack([total, square])

    with ThreadPoolExecutor(workers) as pool:
        parts = pool.map(one, np.random.SeedSequence(seed).spawn(workers))
    return _named(*np.concatenate(list(parts), axis=1)[:, :paths])
