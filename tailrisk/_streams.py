"""Noise as data: standard normals and uniforms that are a pure function of (seed, stream, path, step, draw).

Nothing is ever split or advanced, so a path does not depend on the chunk, device or order in which it is computed; common
random numbers are an equal seed, and a resume or a replay is the same call again. The generator is threefry-2x32 (Salmon
et al. 2011), written unrolled so that XLA fuses it into the step that uses the numbers; it reproduces the bits of JAX's own
threefry. One 64-bit block makes one number:

    A = sign (1 bit) | mantissa (22 bits) | spare (9 bits),     B = 32 bits whose leading zeros make the exponent
    t = (2^23 + 2 m + 1) 2^-23 2^-(k+2),    k = leading zeros of B (continued into the spare bits when B is zero)
    normal  = sign * |Phi^-1(t)|,           uniform = 2 t

so that t lies in (0, 1/2) with 24 significant bits at every size: normals are exactly symmetric and right in the tail (they
reach beyond 7), uniforms are never 0 or 1, and an event of small probability p may be drawn as `uniform < p`.
"""

import abc
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.scipy.special as jsp
import numpy as np
from jaxtyping import Array, Float, UInt32

MAX_STEPS = 2**24
MAX_DRAWS = 2**12
MAX_PATHS = 2**32

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA
_BLOCK = 2**8  # draws under one key
_NO_STEP = np.uint32(2**32 - 1)
# |Phi^-1(t)| / (1 - 2t) as a polynomial in w = -log(4 t (1 - t)) below w = 6 and in sqrt(w) up to w = 30: Chebyshev fits made
# for this project, relative error 8e-9 and 1.6e-7 before rounding.
_CENTER = (3.0, -7.680064351027044e-09, -5.989035683142494e-09, 6.329555896540544e-07, -2.6688102943323444e-06)
_CENTER += (-1.796501777851066e-05, 0.00027645960274475185, -0.0011825744111953083, -0.00811560433987234)
_CENTER += (0.3417170116489065, 2.296035240368805)
_TAIL = (3.9633576589174195, -6.7330953522219794e-06, 3.762458774726071e-05, -7.825823470546224e-05)
_TAIL += (9.187830763577185e-05, -0.00015830207847089556, 0.00047993605146035923, -0.0013095840809762707)
_TAIL += (0.0019233300027915552, 1.4275048417683551, 5.377964579152904)
_TAIL_FROM = 6.0


class Draws(NamedTuple):
    """How many numbers of each kind one step of a component uses (structural)."""

    normals: int = 0
    uniforms: int = 0


ALWAYS = -1  # in place of an event: the number is used in every step


class Roles(NamedTuple):
    """What the numbers of a step do, so that a tilt knows how to move them (structural).

    Normals that are not named are used in every step; uniforms that are not named are left as they are.
    """

    events: tuple[int, ...] = ()
    """Uniforms below whose chance something happens; a later one may depend on an earlier one of the same step."""
    marks: tuple[tuple[int, int], ...] = ()
    """(normal, number of its event): used only in a step in which the event happens."""
    sizes: tuple[tuple[int, int], ...] = ()
    """(uniform, number of its event or ALWAYS): the smaller, the larger an effect, as in -log u; or the other way round.

    On the uniform of the event itself it is u over the chance of the event, which is uniform where the event happens.
    """
    spare: int | None = None
    """A uniform that nothing reads: a tilt that chooses between laws within a step needs one."""

    def free(self, draws: Draws) -> tuple[int, ...]:
        """Normals used in every step."""
        return tuple(i for i in range(draws.normals) if i not in {normal for normal, _ in self.marks})


class Noise(NamedTuple):
    """The numbers of one step of one path."""

    normal: Float[Array, " normals"]
    uniform: Float[Array, " uniforms"]


def middle(draws: Draws, dtype: Any) -> Noise:
    """The noise of a step in which nothing is out of the ordinary: normals are zero, uniforms one half."""
    return Noise(jnp.zeros(draws.normals, dtype), jnp.full(draws.uniforms, 0.5, dtype))


def threefry2x32(key0: Any, key1: Any, count0: Any, count1: Any) -> tuple[Any, Any]:
    """The threefry-2x32 block cipher with 20 rounds: two 32-bit words from a key and a counter, elementwise.

    **Source:** Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
    """
    keys = (key0, key1, key0 ^ key1 ^ np.uint32(_PARITY))
    x0, x1 = count0 + keys[0], count1 + keys[1]
    for i in range(5):
        for rotation in _ROTATIONS[i % 2]:
            x0 = x0 + x1
            x1 = (x1 << np.uint32(rotation)) | (x1 >> np.uint32(32 - rotation))
            x1 = x0 ^ x1
        x0 = x0 + keys[(i + 1) % 3]
        x1 = x1 + keys[(i + 2) % 3] + np.uint32(i + 1)
    return x0, x1


def stream_key(seed: int, name: str) -> UInt32[Array, "2"]:
    """The key of a named stream. Names are hashed, so adding a stream never shifts another one.

    `seed` is any whole number from 0 to 2^64 - 1.
    """
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed = {seed}: expected a whole number from 0 to 2^64 - 1")
    words = np.array([seed >> 32, seed & 0xFFFFFFFF, zlib.crc32(name.encode()), 0], np.uint32)
    with np.errstate(over="ignore"):
        return jnp.stack([jnp.asarray(word) for word in threefry2x32(*words)])


def _half_uniform(word_a: Any, word_b: Any, dtype: Any) -> Float[Array, "..."]:
    """t in (0, 1/2) with 24 significant bits at every size."""
    mantissa = ((word_a >> np.uint32(8)) & np.uint32(0x7FFFFE)) | np.uint32(1)
    spare = (word_a << np.uint32(23)) | np.uint32(1 << 22)
    zeros = jax.lax.clz(word_b)
    zeros = jnp.where(word_b == 0, np.uint32(32) + jax.lax.clz(spare), zeros)
    bits = ((np.uint32(125) - zeros) << np.uint32(23)) | mantissa
    return jax.lax.bitcast_convert_type(bits, jnp.float32).astype(dtype)


def tail_quantile(t: Float[Array, "..."]) -> Float[Array, "..."]:
    """|Phi^-1(t)| for a tail probability t in (0, 1/2].

    In float32 the error is below 5e-7 max(1, |z|) down to t = 2^-43; in float64 it is that of `scipy.special.ndtri`.
    """
    if t.dtype != jnp.float32:
        return -jsp.ndtri(t)
    w = -jnp.log(4.0 * t * (1.0 - t))
    s = jnp.sqrt(jnp.maximum(w, _TAIL_FROM))

    def horner(coefficients: tuple[float, ...], x: Any) -> Any:
        center, first, *rest = coefficients
        x, value = x - center, first
        for c in rest:
            value = value * x + c
        return value

    return (1.0 - 2.0 * t) * jnp.where(w < _TAIL_FROM, horner(_CENTER, w), horner(_TAIL, s))


def _words(key: UInt32[Array, "2"], path: Any, step: Any, draws: int) -> tuple[Any, Any]:
    if draws > MAX_DRAWS:
        raise ValueError(f"{draws} numbers of one kind a step: expected at most {MAX_DRAWS}; use a second stream")
    draw = jnp.arange(min(draws, _BLOCK), dtype=jnp.uint32) << np.uint32(24)
    count0 = jnp.broadcast_to(jnp.asarray(path).astype(jnp.uint32), draw.shape)
    words = threefry2x32(key[0], key[1], count0, draw + jnp.asarray(step).astype(jnp.uint32))
    if draws <= _BLOCK:
        return words
    # no step has this counter, so the next block's key is none of the numbers
    rest = _words(jnp.stack(threefry2x32(key[0], key[1], _NO_STEP, _NO_STEP)), path, step, draws - _BLOCK)
    return jnp.concatenate([words[0], rest[0]]), jnp.concatenate([words[1], rest[1]])


def normals(key: UInt32[Array, "2"], path: Any, step: Any, draws: int, dtype: Any) -> Float[Array, " draws"]:
    """Standard normals of one path and step; `draws` is structural."""
    word_a, word_b = _words(key, path, step, draws)
    z = tail_quantile(_half_uniform(word_a, word_b, dtype))
    return jnp.where(word_a >> np.uint32(31) == 0, z, -z)


def uniforms(key: UInt32[Array, "2"], path: Any, step: Any, draws: int, dtype: Any) -> Float[Array, " draws"]:
    """Uniforms on (0, 1) of one path and step, with relative resolution 2^-24; `draws` is structural."""
    return 2.0 * _half_uniform(*_words(key, path, step, draws), dtype)


def noise(seed_keys: tuple[Any, Any], path: Any, step: Any, draws: Draws, dtype: Any) -> Noise:
    """The noise of one step of one path from the keys of a normal and a uniform stream."""
    return Noise(
        normals(seed_keys[0], path, step, draws.normals, dtype),
        uniforms(seed_keys[1], path, step, draws.uniforms, dtype),
    )


def noise_keys(seed: int, name: str) -> tuple[Any, Any]:
    """The two keys (normals, uniforms) of a named source of noise."""
    return stream_key(seed, f"{name}/normal"), stream_key(seed, f"{name}/uniform")


class AbstractSource(eqx.Module):
    """Noise that is no named stream: points of a set, or another source seen in other coordinates."""

    @abc.abstractmethod
    def path(self, number: Any, steps: int, draws: Draws, dtype: Any) -> Callable[[Any], Noise]:
        """The noise of a path as a function of the step."""


def noise_of(keys: Any, number: Any, steps: int, draws: Draws, dtype: Any) -> Callable[[Any], Noise]:
    """The noise of a path as a function of the step, from the keys of a stream or from another source."""
    if isinstance(keys, AbstractSource):
        return keys.path(number, steps, draws, dtype)
    return lambda step: noise(keys, number, step, draws, dtype)
