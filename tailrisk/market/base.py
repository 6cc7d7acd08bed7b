"""What a market law is: exogenous log returns of a step, and one shared crash factor.

A law says how the price moves by news alone; forced sales move it further (impact). Laws are deterministic maps of
standard normals and uniforms, see one path, and may carry state. `drift` is always the growth rate of the expected
price, so with drift 0 every price is a martingale on any time grid.
"""

import abc
from collections.abc import Iterator
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._fields import InputError, Real
from .._streams import Draws, Noise


class Shock(NamedTuple):
    """What one step of a market law does."""

    log_return: Float[Array, " assets"]  # exogenous log return of the step
    crash: Float[Array, ""]  # shared crash factor in [0, 1]: 0 calm, 1 full crash


class AbstractMarket(eqx.Module):
    """A law of exogenous price moves.

    A new law is one final class: its fields, how many numbers a step draws, a state and one move.
    """

    @property
    @abc.abstractmethod
    def assets(self) -> int:
        """How many assets the law moves (structural)."""

    @property
    @abc.abstractmethod
    def draws(self) -> Draws:
        """How many normals and uniforms one step uses (structural)."""

    @abc.abstractmethod
    def init(self, dtype: Any) -> Any:
        """The state of a path before the first step."""

    @abc.abstractmethod
    def move(self, state: Any, noise: Noise, dt: Float[Array, ""]) -> tuple[Shock, Any]:
        """The shock of one step of `dt` years, and the state after it."""

    @abc.abstractmethod
    def prepare(self) -> "AbstractMarket":
        """The same law ready to run: laws of real data read it here, on the host before tracing; others return self."""

    @abc.abstractmethod
    def check_step(self, dt: float) -> Iterator[tuple[str, str]]:
        """Says, as (field, complaint), why steps of `dt` years are too coarse for the law; nothing if they are not."""


def count_assets(correlation: Any = None, **vectors: Any) -> int:
    """The number of assets that per-asset fields agree on; a field may be one number for all assets.

    **Raises:** ValueError naming the field if shapes contradict each other.
    """
    shapes = {name: np.shape(value) for name, value in vectors.items()}
    for name, shape in shapes.items():
        if len(shape) > 1:
            raise InputError(f"{name} has shape {shape}, expected one number or a list with one number per asset")
    matrix = np.shape(correlation) if correlation is not None else ()
    if len(matrix) not in (0, 2) or (matrix and matrix[0] != matrix[1]):
        raise InputError(
            f"correlation has shape {matrix}, expected one number (the same for all pairs) or a square matrix"
        )
    shapes = {"correlation": matrix[:1], **shapes}
    largest = max(shapes, key=lambda name: shapes[name])
    assets = shapes[largest][0] if shapes[largest] else 1
    for name, shape in shapes.items():
        if shape and shape[0] != assets:
            raise InputError(
                f"{name} is given for {shape[0]} assets but {largest} for {assets}; give both for the same assets, "
                "or one number"
            )
    return assets


def correlation_complaints(correlation: Any, assets: int, name: str = "correlation") -> Iterator[tuple[str, str]]:
    """Says why a number or matrix is no correlation of `assets` assets."""
    value = np.asarray(correlation, np.float64)
    if value.ndim == 0:
        lowest = -1.0 / (assets - 1) if assets > 1 else -1.0
        if value < lowest - 1e-12:
            yield (
                name,
                f"{float(value):g} for all pairs of {assets} assets is impossible, expected >= {lowest:g}; raise it",
            )
        return
    if np.abs(value - value.T).max() > 1e-9:
        yield name, "the matrix is not symmetric; make entry (i, j) equal to entry (j, i)"
    elif np.abs(np.diagonal(value) - 1.0).max() > 1e-9:
        yield name, f"the diagonal is {np.diagonal(value).tolist()}, expected ones"
    elif (smallest := np.linalg.eigvalsh(value).min()) < -1e-9:
        yield (
            name,
            f"the matrix has the negative eigenvalue {smallest:.3g}, expected none: some combination of assets would "
            "have negative variance; shrink the off-diagonal entries",
        )


def factor(correlation: Real, assets: int) -> Float[Array, "assets assets"]:
    """A lower triangle L with L L' = correlation, also where the matrix is singular (perfectly correlated assets).

    Asset 0 follows normal 0 alone, so adding assets leaves its path as it was. A pivot that is zero to rounding drops
    its column: that asset is a combination of the earlier ones. There the derivative in the correlation is infinite
    and zero is returned for the dropped column.

    **Source:** Cholesky factorization without pivoting, e.g. Golub and Van Loan (2013), section 4.2.
    """
    dtype = correlation.dtype
    eye = jnp.eye(assets, dtype=dtype)
    matrix = correlation if correlation.ndim == 2 else correlation + (1.0 - correlation) * eye
    tiny = 8.0 * assets * float(jnp.finfo(dtype).eps)
    columns: list[Any] = []
    for j in range(assets):
        left = matrix[:, j]
        for column in columns:
            left = left - column * column[j]
        sound = left[j] > tiny
        pivot = jnp.sqrt(jnp.where(sound, left[j], 1.0))
        columns.append(jnp.where((np.arange(assets) >= j) & sound, left / pivot, 0.0))
    return jnp.stack(columns, axis=1)


def correlate(correlation: Real, normal: Float[Array, " assets"]) -> Float[Array, " assets"]:
    """Correlated standard normals from independent ones."""
    assets = normal.shape[0]
    if assets == 1:
        return normal
    lower = factor(correlation, assets)
    # column by column: a matrix product may be rounded to fewer digits on accelerators
    mixed = lower[:, 0] * normal[0]
    for j in range(1, assets):
        mixed = mixed + lower[:, j] * normal[j]
    return mixed


def diffusion(
    volatility: Real, drift: Real, normal: Float[Array, " assets"], dt: Float[Array, ""]
) -> Float[Array, " assets"]:
    """Log return (drift - volatility^2 / 2) dt + volatility sqrt(dt) normal; its exponential has mean exp(drift dt)."""
    assets = normal.shape
    volatility, drift = jnp.broadcast_to(volatility, assets), jnp.broadcast_to(drift, assets)
    return (drift - 0.5 * volatility**2) * dt + volatility * jnp.sqrt(dt) * normal


def root(value: Float[Array, "..."]) -> Float[Array, "..."]:
    """Square root of the positive part, with derivative 0 (not infinite) at and below zero."""
    positive = value > 0.0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, value, 1.0)), 0.0)


def above_normal(level: Float[Array, ""], normal: Float[Array, ""]) -> Float[Array, ""]:
    """The crash factor 1 - min(1, normal / level): 0 up to the normal level (> 0), 1/2 at twice it, 1 far above it."""
    return 1.0 - normal / jnp.maximum(level, normal)
