"""Derivatives at fixed noise of any system that can be differentiated, path by path.

Right where no event is decided by what moves (a smooth ladder, an event that was integrated out or smoothed); where a hard
threshold would decide, the engine raises `HardThresholdGradientError`. The mean of the slopes is then the derivative of the
mean, and their scatter its error.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from .. import _streams
from ..simulate import LANES, AbstractSystem, batch, entry_point


def direction(system: AbstractSystem, where: Callable[[Any], Any]) -> PyTree:
    """The tangent of a system in which the number at `where` moves at speed 1 and nothing else moves."""
    still = jax.tree.map(lambda _: None, system)
    return eqx.tree_at(where, still, jnp.ones_like(where(system)), is_leaf=lambda leaf: leaf is None)


@entry_point
def _values_and_slopes(system: AbstractSystem, tangent: PyTree, keys: Any, paths: Any) -> tuple[PyTree, PyTree]:
    return eqx.filter_jvp(lambda system: batch(system, keys, paths)[0], (system,), (tangent,))


def slopes(
    system: AbstractSystem, tangent: PyTree, *, paths: int, seed: int = 0, chunk: int = 16_384
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Outcomes of paths and their derivatives in the direction of a tangent; 0 where nothing moves the outcome.

    The paths are those that `simulate` runs under the same seed.
    """
    keys = _streams.noise_keys(seed, "market")
    lanes = LANES * -(-min(chunk, paths) // LANES)
    values, rates = [], []
    for first in range(0, paths, lanes):
        numbers = jnp.asarray(np.arange(first, first + lanes).astype(np.uint32))
        found, moved = _values_and_slopes(system, tangent, keys, numbers)
        found = {name: np.asarray(column)[: paths - first] for name, column in found.items()}
        values.append(found)
        rates.append(
            {
                name: np.zeros_like(column) if moved[name] is None else np.asarray(moved[name])[: paths - first]
                for name, column in found.items()
            }
        )
    return _joined(values), _joined(rates)


def _joined(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
