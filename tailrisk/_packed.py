"""A tree of numbers in one vector.

Where a path's numbers are fetched and put back together, as one row of a table over paths, they cost one look into memory
instead of one per number.
"""

import itertools
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree


class Packed(eqx.Module):
    """A tree of floating arrays of one dtype, flattened into one vector."""

    numbers: Float[Array, " numbers"]
    layout: Any = eqx.field(static=True)  # shapes of the leaves, and the structure

    @classmethod
    def of(cls, tree: PyTree) -> "Packed":
        """Packs a tree."""
        leaves, structure = jax.tree.flatten(tree)
        shapes = tuple(leaf.shape for leaf in leaves)
        return cls(jnp.concatenate([leaf.reshape(-1) for leaf in leaves]), (shapes, structure))

    @property
    def tree(self) -> PyTree:
        """The tree again."""
        shapes, structure = self.layout
        ends = itertools.accumulate((math.prod(shape) for shape in shapes), initial=0)
        cut = [
            self.numbers[start : start + math.prod(shape)].reshape(shape)
            for start, shape in zip(ends, shapes, strict=False)
        ]
        return jax.tree.unflatten(structure, cut)
