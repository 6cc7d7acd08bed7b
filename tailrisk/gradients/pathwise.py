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
from jaxtyping import Array, Float, PyTree

from .. import _streams
from ..simulate import LANES, AbstractSystem, batch, entry_point


def direction(system: AbstractSystem, where: Callable[[Any], Any]) -> PyTree:
    """The tangent of a system in which the number at `where` moves at speed 1 and nothing else moves."""
    still = jax.tree.map(lambda _: None, system)
    return eqx.tree_at(where, still, jnp.ones_like(where(system)), is_leaf=lambda leaf: leaf is None)


@entry_point
def _values_and_slopes(system: AbstractSystem, tangent: PyTree, keys: Any, paths: Any) -> tuple[PyTree, PyTree]:
    def values(system: AbstractSystem) -> dict[str, Float[Array, " paths"]]:
        return batch(system, keys, paths)[0]

    return eqx.filter_jvp(values, (system,), (tangent,))


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
        numbers = first + np.arange(lanes)
        found, moved = _values_and_slopes(system, tangent, keys, jnp.asarray(numbers.astype(np.uint32)))
        kept = slice(0, min(lanes, paths - first))
        values.append({name: np.asarray(column)[kept] for name, column in found.items()})
        rates.append(
            {
                name: np.zeros_like(values[-1][name]) if moved[name] is None else np.asarray(moved[name])[kept]
                for name in found
            }
        )
    return tuple(
        {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} for parts in (values, rates)
    )
