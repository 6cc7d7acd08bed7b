"""Laws of all normals of a path at once: the law itself, a wide one, and lobes where the event lies.

An event of independent normals z lies in one or several directions. A lobe is a law that looks in one of them, u: along it

    x = u.z    N(0, 1) given x >= edge with chance 1 - below, and edge minus an exponential of scale `slope` otherwise,
    b_j.z      logistic on the few axes b_j across it in which the event is narrower or wider than the law itself,

and everything else stays N(0, 1), so it can be learnt in a thousand dimensions. No tail is lighter than that of the event, where
a fitted normal law has weights without a variance. The wide law N(0, v I) with v = 1 + 4 sqrt(2/d), four deviations of |z|^2
farther out, finds parts of the event that no lobe points to. A path drawn from any of them has the weight
1 / sum_k pi_k (q_k/p), at most one over the share of the law itself.

**Source:** Kurtz and Song (2013), "Cross-entropy-based adaptive importance sampling using Gaussian mixture"; Papaioannou, Geyer,
Straub (2019), "Improved cross entropy-based importance sampling with a flexible mixture model", for mixtures in standard normal
space; Owen and Zhou (2000) for the defensive shares. The lobes are this project's.
"""

import math
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import jax.scipy.special as jsp
import numpy as np
import scipy.special
from jaxtyping import Array, Float, Int, PyTree

from .._streams import Noise
from .proposal import AbstractProposal

MOST = 8
AXES = 6
NORMALIZER = 0.5 * math.log(2.0 * math.pi)


class Library(NamedTuple):
    """Arrays and special functions."""

    arrays: Any
    special: Any


HOST, DEVICE = Library(np, scipy.special), Library(jnp, jsp)


class Lobes(NamedTuple):
    """Several lobes with their shares; axes of scale zero are not used."""

    share: Float[Any, " lobes"]
    toward: Float[Any, "lobes normals"]
    edge: Float[Any, " lobes"]
    slope: Float[Any, " lobes"]
    below: Float[Any, " lobes"]
    axes: Float[Any, "lobes axes normals"]
    center: Float[Any, "lobes axes"]
    scale: Float[Any, "lobes axes"]


def nothing(normals: int) -> Lobes:
    """No lobe."""
    shapes = [(0,), (0, normals), (0,), (0,), (0,), (0, AXES, normals), (0, AXES), (0, AXES)]
    return Lobes(*(np.zeros(shape) for shape in shapes))


def spread(normals: int) -> float:
    """The variance of the wide law."""
    return 1.0 + 4.0 * math.sqrt(2.0 / normals)


def lobe_densities(
    lobes: Lobes, x: Float[Any, "*paths lobes"], a: Float[Any, "*paths lobes axes"], library: Library
) -> Float[Any, "*paths lobes"]:
    """log q_k/p of every lobe from the coordinates of paths along it and on its axes."""
    xp, log_ndtr = library.arrays, library.special.log_ndtr
    beyond = xp.log1p(-lobes.below) - log_ndtr(-lobes.edge)
    short = xp.log(lobes.below / lobes.slope) + (x - lobes.edge) / lobes.slope + 0.5 * x * x + NORMALIZER
    used = lobes.scale > 0.0
    scale = xp.where(used, lobes.scale, 1.0)
    v = xp.abs((a - lobes.center) / scale)
    across = 0.5 * a * a + NORMALIZER - v - 2.0 * xp.log1p(xp.exp(-v)) - xp.log(scale)
    return xp.where(x >= lobes.edge, beyond, short) + xp.sum(xp.where(used, across, 0.0), axis=-1)


def log_densities(
    lobes: Lobes, others: tuple[float, float], z: Float[np.ndarray, "paths normals"]
) -> Float[np.ndarray, "paths laws"]:
    """log of share times q/p of the law itself, the wide one and every lobe, on the host."""
    x, a = z @ lobes.toward.T, np.einsum("pn,kan->pka", z, lobes.axes, optimize=True)
    d, v = z.shape[1], spread(z.shape[1])
    wide = 0.5 * (1.0 - 1.0 / v) * np.sum(z * z, axis=1) - 0.5 * d * math.log(v)
    base = np.stack([np.full(z.shape[0], math.log(others[0])), math.log(others[1]) + wide], axis=1)
    return np.concatenate([base, np.log(lobes.share) + lobe_densities(lobes, x, a, HOST)], axis=1)


def log_density(
    lobes: Lobes, others: tuple[float, float], z: Float[np.ndarray, "paths normals"]
) -> Float[np.ndarray, " paths"]:
    """log q/p of the whole mixture, on the host."""
    return np.logaddexp.reduce(log_densities(lobes, others, z), axis=1)


class LobeLaw(AbstractProposal):
    """All normals of a path from law `drawn`: 0 the law itself, 1 the wide one, 2 and more the lobes."""

    lobes: Lobes
    others: Float[Array, "2"]
    drawn: Int[Array, ""]
    looks: ClassVar[bool] = False

    def init(self, dtype: Any) -> None:
        return None

    def draw(self, memory: PyTree, state: PyTree, noise: Noise) -> tuple[Noise, Float[Array, ""], PyTree]:
        d = noise.normal.size
        deviation = math.sqrt(spread(d))
        z = jnp.where(self.drawn == 1, deviation * noise.normal, noise.normal)
        chosen = jax.tree.map(lambda leaf: leaf[jnp.maximum(self.drawn - 2, 0)], self.lobes)
        z = jnp.where(self.drawn >= 2, _moved(chosen, z), z)
        return noise._replace(normal=z), -self._log_density(z), memory

    def _log_density(self, z: Float[Array, " normals"]) -> Float[Array, ""]:
        d, v = z.size, spread(z.size)
        wide = 0.5 * (1.0 - 1.0 / v) * jnp.sum(z * z) - 0.5 * d * math.log(v)
        x = jnp.sum(self.lobes.toward * z[None, :], axis=1)  # a matmul may be of lower precision on a device
        a = jnp.sum(self.lobes.axes * z[None, None, :], axis=2)
        mine = jnp.log(self.lobes.share) + lobe_densities(self.lobes, x, a, DEVICE)
        return jsp.logsumexp(jnp.concatenate([jnp.log(self.others) + jnp.stack([jnp.zeros_like(wide), wide]), mine]))


def _moved(lobe: Lobes, z: Float[Array, " normals"]) -> Float[Array, " normals"]:
    """Normals of the law itself as normals of one lobe: its coordinates are replaced, each by a monotone map of its own."""
    p = jnp.sum(lobe.toward * z)
    chance, rest = jsp.ndtr(p), jsp.ndtr(-p)
    tiny, eps = jnp.finfo(z.dtype).tiny, jnp.finfo(z.dtype).epsneg
    short = lobe.edge + lobe.slope * jnp.log(jnp.maximum(chance, tiny) / lobe.below)
    beyond = -jsp.ndtri(jnp.minimum(jsp.ndtr(-lobe.edge) * rest / (1.0 - lobe.below), 1.0 - eps))
    x = jnp.where(chance < lobe.below, short, beyond)
    b = jnp.sum(lobe.axes * z[None, :], axis=1)
    a = jnp.where(lobe.scale > 0.0, lobe.center + lobe.scale * (jsp.log_ndtr(b) - jsp.log_ndtr(-b)), b)
    return z + (x - p) * lobe.toward + jnp.sum((a - b)[:, None] * lobe.axes, axis=0)
