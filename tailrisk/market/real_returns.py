"""Laws made of real returns: a stationary block bootstrap of a series, and the series itself."""

from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .._fields import SECONDS_PER_YEAR, InputError, Real, duration, real
from .._hard import decisive
from .._streams import Draws, Noise
from ..data.series import AbstractSeries, LogReturns, log_returns
from .base import AbstractMarket, Shock, above_normal

_STEP_TOLERANCE = 1e-6


class _Path(eqx.Module):
    """Where a path stands in the series, and its recent squared returns over their mean."""

    index: Int[Array, ""]  # next return; -1 before the first
    activity: Float[Array, ""]


def _prepared(series: AbstractSeries) -> LogReturns:
    if not isinstance(series, LogReturns):
        raise InputError(
            f"the series is still a {type(series).__name__}; call prepare() on the market to read it first"
        )
    return series


def _activity(
    path: _Path, table: LogReturns, log_return: Float[Array, " assets"], memory: Real, dt: Float[Array, ""]
) -> Float[Array, ""]:
    """Exponential average of squared returns over the mean square of the series, averaged over assets."""
    square = table.mean_square
    relative = log_return**2 / jnp.where(square > 0.0, square, 1.0)
    relative = sum((relative[a] for a in range(1, table.assets)), relative[0]) / table.assets
    return path.activity + (relative - path.activity) * -jnp.expm1(-dt / memory)


def _crash(activity: Float[Array, ""], crash_from: Real) -> Float[Array, ""]:
    """1 - min(1, crash_from / realized volatility relative to its mean)."""
    return above_normal(jnp.sqrt(jnp.maximum(activity, crash_from**2)), crash_from)


def _step_complaints(series: AbstractSeries, dt: float) -> Iterator[tuple[str, str]]:
    try:
        every = float(np.asarray(log_returns(series).every))
    except ValueError as error:  # what is wrong with the file, under the key of the series
        yield "series", str(error)
        return
    if abs(dt / every - 1.0) > _STEP_TOLERANCE:
        found, step = every * SECONDS_PER_YEAR, dt * SECONDS_PER_YEAR
        yield (
            "series",
            f"its prices are {found:g} s apart but the step of the run is {step:g} s, expected the same; set the "
            "step to the "
            'spacing of the series, or thin the series with every = "..."',
        )


class BlockBootstrap(AbstractMarket):
    """Real returns in random order: blocks of random length and start, several assets drawn together.

    With probability dt / block a step starts a new block at a uniformly chosen time, else it takes the return that
    followed the last one (the first follows the last). Block lengths are geometric with mean `block`, and every step
    has the law of the sample. One uniform does both. The step of the run must be the spacing of the series.

    The crash factor is 1 - min(1, crash_from / v), with v the realized volatility over its mean in the series
    (exponential average of squared returns with memory `crash_memory`, averaged over assets).

    **Source:** Politis and Romano (1994).
    """

    series: AbstractSeries
    block: Real = duration("1d")  # mean block length
    crash_memory: Real = duration("1h")
    crash_from: Real = real(1.0, unit="1", above=0.0)  # multiple of the mean volatility where a crash begins

    @property
    def assets(self) -> int:
        return self.series.assets

    @property
    def draws(self) -> Draws:
        return Draws(uniforms=1)

    def init(self, dtype: Any) -> _Path:
        return _Path(jnp.full((), -1, jnp.int32), jnp.ones((), dtype))

    def move(self, state: _Path, noise: Noise, dt: Float[Array, ""]) -> tuple[Shock, _Path]:
        table = _prepared(self.series)
        rows, u = table.log_return.shape[0], noise.uniform[0]
        chance = decisive(jnp.minimum(dt / self.block, 1.0), "the start of a block of returns")
        chance = jnp.where(state.index < 0, 1.0, chance)
        start = jnp.minimum(jnp.astype(u / chance * rows, jnp.int32), rows - 1)
        index = jnp.where(u < chance, start, (state.index + 1) % rows)
        log_return = table.log_return[index]
        activity = _activity(state, table, log_return, self.crash_memory, dt)
        return Shock(log_return, _crash(activity, self.crash_from)), _Path(index, activity)

    def prepare(self) -> "BlockBootstrap":
        return BlockBootstrap(log_returns(self.series), self.block, self.crash_memory, self.crash_from)

    def check_step(self, dt: float) -> Iterator[tuple[str, str]]:
        yield from _step_complaints(self.series, dt)


class Replay(AbstractMarket):
    """The real path of a series, once; steps beyond its end hold the last price.

    Uses no noise, so every path is the same. The step of the run must be the spacing of the series. The crash factor
    is that of `BlockBootstrap`.
    """

    series: AbstractSeries
    crash_memory: Real = duration("1h")
    crash_from: Real = real(1.0, unit="1", above=0.0)  # multiple of the mean volatility where a crash begins

    @property
    def assets(self) -> int:
        return self.series.assets

    @property
    def draws(self) -> Draws:
        return Draws()

    def init(self, dtype: Any) -> _Path:
        return _Path(jnp.zeros((), jnp.int32), jnp.ones((), dtype))

    def move(self, state: _Path, noise: Noise, dt: Float[Array, ""]) -> tuple[Shock, _Path]:
        del noise
        table = _prepared(self.series)
        rows = table.log_return.shape[0]
        row = table.log_return[jnp.minimum(state.index, rows - 1)]
        log_return = jnp.where(state.index < rows, row, 0.0)
        activity = _activity(state, table, log_return, self.crash_memory, dt)
        after = _Path(jnp.minimum(state.index + 1, rows), activity)
        return Shock(log_return, _crash(activity, self.crash_from)), after

    def prepare(self) -> "Replay":
        return Replay(log_returns(self.series), self.crash_memory, self.crash_from)

    def check_step(self, dt: float) -> Iterator[tuple[str, str]]:
        yield from _step_complaints(self.series, dt)
