"""Normals of a path in other coordinates: one of them along a direction, in cells if wanted.

An orthogonal map leaves the law of standard normals as it is. A reflection takes the first normal of a path to its
coordinate along a unit vector e and the others to what is orthogonal to it,

    z = y - 2 v (v . y) / (v . v),     v = (1, 0, ...) - e,

so that the best numbers of a point set, or strata, go where they matter.

**Source:** Glasserman, Heidelberger, Shahabuddin (1999), "Asymptotically optimal importance sampling and stratification for
pricing path-dependent options"; Imai and Tan (2006), for point sets.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.scipy.special as jsp
from jaxtyping import Array, Float

from .. import _streams
from .._streams import AbstractSource, Draws, Noise, tail_quantile


def unit(vector: Float[Array, "..."]) -> Float[Array, "..."]:
    """The vector over its length."""
    return vector / jnp.sqrt(jnp.sum(vector * vector))


def noise_of_path(keys: Any, number: Any, steps: int, draws: Draws, dtype: Any) -> Noise:
    """The noise of all steps of a path, from keys or another source."""
    return jax.vmap(_streams.noise_of(keys, number, steps, draws, dtype))(jnp.arange(steps, dtype=jnp.uint32))


class Along(AbstractSource):
    """Another source, whose first normal is the coordinate along `direction`, a unit vector over steps and free normals.

    With cells, that coordinate of path i lies in the (i mod cells)-th of equally likely ones.
    """

    keys: Any
    direction: Float[Array, "steps free"]
    free: tuple[int, ...] = eqx.field(static=True)
    cells: int = eqx.field(static=True, default=1)

    def path(self, number: Any, steps: int, draws: Draws, dtype: Any) -> Callable[[Any], Noise]:
        normal, uniform = noise_of_path(self.keys, number, steps, draws, dtype)
        e, free = self.direction.reshape(-1), jnp.asarray(self.free)
        y = normal[:, free].reshape(-1)
        if self.cells > 1:
            y = y.at[0].set(_in_cell(y[0], number % self.cells, self.cells))
        v = -e.at[0].add(-1.0)
        length = jnp.sum(v * v)
        scale = jnp.where(length > 0.0, 2.0 / jnp.where(length > 0.0, length, 1.0), 0.0)
        z = y - scale * jnp.sum(v * y) * v
        normal = normal.at[:, free].set(z.reshape(steps, len(self.free)))
        return lambda step: Noise(normal[step], uniform[step])


def _in_cell(y: Float[Array, ""], cell: Any, cells: int) -> Float[Array, ""]:
    """A standard normal moved into one of equally likely cells, exact in both tails."""
    cell = cell.astype(y.dtype)
    low = (cell + jsp.ndtr(y)) / cells
    high = (cells - 1.0 - cell + jsp.ndtr(-y)) / cells
    t = tail_quantile(jnp.minimum(low, high))
    return jnp.where(low < high, -t, t)
