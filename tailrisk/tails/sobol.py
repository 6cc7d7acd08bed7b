"""Scrambled Sobol points as a source of noise, made on the device from 32-bit integers.

Point i of 2^m has, in every dimension, the integer

    x = shift xor (sum over the set bits b of i) M v_b        (sums without carry)

with the direction numbers v of Joe and Kuo, a random lower triangular bit matrix M and a random shift, both from a named
stream. A number is made from the integer itself, never from a rounded uniform: with t = (min(x, 2^32 - 1 - x) + 1/2) 2^-32,

    normal = -+ |Phi^-1(t)| by the top bit,     uniform = (x + 1/2) 2^-32.

The first point is kept, and means over 2^m points have no bias.

**Source:** Matousek (1998), "On the L2-discrepancy for anchored boxes", for the scramble; Owen (2003), "Variance with
alternative scramblings of digital nets"; Joe and Kuo (2008) for direction numbers, as in `scipy.stats.qmc.Sobol`.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt32
from scipy.stats import qmc

from .._fields import InputError
from .._streams import AbstractSource, Draws, Noise, stream_key, tail_quantile, threefry2x32

MOST_DIMENSIONS = qmc.Sobol.MAXDIM
MOST_BITS = 24
_BITS = 32


@functools.lru_cache(maxsize=8)
def direction_numbers(dimensions: int, bits: int) -> UInt32[np.ndarray, "dimensions bits"]:
    """v_0, v_1, ... as integers whose top bit is the first digit.

    SciPy walks in Gray code order, so its point 2^b is v_b xor v_(b-1).
    """
    engine = qmc.Sobol(dimensions, scramble=False, bits=_BITS)
    found, last = np.zeros((dimensions, bits), np.uint32), np.zeros(dimensions, np.uint32)
    for b in range(bits):
        engine.fast_forward(2**b - engine.num_generated)
        last ^= (engine.random(1)[0] * 2.0**_BITS).astype(np.uint32)
        found[:, b] = last
    return found


def _random_words(seed: int, name: str, count: int) -> UInt32[np.ndarray, " count"]:
    key = np.asarray(stream_key(seed, name))
    with np.errstate(over="ignore"):
        return np.asarray(
            threefry2x32(key[0], key[1], np.arange(count, dtype=np.uint32), np.zeros(count, np.uint32))[0]
        )


def scrambled(
    numbers: UInt32[np.ndarray, "dimensions bits"], seed: int, name: str
) -> tuple[UInt32[np.ndarray, "dimensions bits"], UInt32[np.ndarray, " dimensions"]]:
    """Direction numbers times random matrices, one for each dimension, and random shifts."""
    dimensions = numbers.shape[0]
    words = _random_words(seed, name, dimensions * (_BITS + 1)).reshape(_BITS + 1, dimensions)
    found = np.zeros_like(numbers)
    for digit in range(_BITS):  # a digit of the product: the parity of a row of the matrix and the number
        place = np.uint32(_BITS - 1 - digit)
        earlier = np.uint32((0xFFFFFFFF << (_BITS - digit)) & 0xFFFFFFFF)
        row = (words[digit] & earlier) | np.uint32(1 << int(place))
        parity = np.bitwise_count(row[:, None] & numbers).astype(np.uint32) & np.uint32(1)
        found |= parity << place
    return found, words[_BITS]


class Sobol(AbstractSource):
    """A scrambled point set as noise; the path number is that of the point. Dimensions go by step, normals first."""

    normal: UInt32[Array, "steps normals bits"]
    uniform: UInt32[Array, "steps uniforms bits"]
    normal_shift: UInt32[Array, "steps normals"]
    uniform_shift: UInt32[Array, "steps uniforms"]

    @classmethod
    def scrambled(cls, steps: int, draws: Draws, bits: int, seed: int, name: str) -> "Sobol":
        """2^bits points for paths of `steps` steps, with the scramble of a named stream.

        **Raises:** `InputError` for more dimensions or points than there are.
        """
        each = draws.normals + draws.uniforms
        if not 0 < steps * each <= MOST_DIMENSIONS or not 0 < bits <= MOST_BITS:
            raise InputError(
                f"{steps * each} numbers a path, 2^{bits} points: expected 1 to {MOST_DIMENSIONS} numbers and at most "
                f"2^{MOST_BITS} points"
            )
        numbers, shift = scrambled(direction_numbers(steps * each, bits), seed, name)
        table, shift = numbers.reshape(steps, each, bits), shift.reshape(steps, each)
        first = draws.normals
        return cls(*(jnp.asarray(x) for x in (table[:, :first], table[:, first:], shift[:, :first], shift[:, first:])))

    def path(self, number: Any, steps: int, draws: Draws, dtype: Any) -> Callable[[Any], Noise]:
        index = jnp.asarray(number).astype(jnp.uint32)

        def draw(step: Any) -> Noise:
            normal = _point(self.normal[step], self.normal_shift[step], index)
            uniform = _point(self.uniform[step], self.uniform_shift[step], index)
            return Noise(to_normal(normal, dtype), to_uniform(uniform, dtype))

        return draw


def _point(table: UInt32[Array, "draws bits"], shift: UInt32[Array, " draws"], index: Any) -> UInt32[Array, " draws"]:
    point = shift
    for b in range(table.shape[1]):
        point = point ^ jnp.where((index >> np.uint32(b)) & np.uint32(1) == 1, table[:, b], np.uint32(0))
    return point


def _center(x: UInt32[Array, "..."], dtype: Any) -> Float[Array, "..."]:
    return (x.astype(dtype) + 0.5) * 2.0**-_BITS


def to_normal(x: UInt32[Array, "..."], dtype: Any) -> Float[Array, "..."]:
    """A standard normal from a uniform 32-bit integer: the integer's complement gives its negative."""
    lower = x >> np.uint32(_BITS - 1) == 0
    z = tail_quantile(_center(jnp.where(lower, x, ~x), dtype))
    return jnp.where(lower, -z, z)


def to_uniform(x: UInt32[Array, "..."], dtype: Any) -> Float[Array, "..."]:
    """A uniform on (0, 1) from a uniform 32-bit integer, to relative precision where it is small."""
    return jnp.minimum(_center(x, dtype), 1.0 - jnp.finfo(dtype).epsneg)
