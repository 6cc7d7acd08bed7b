"""What a law produces beside what happened: scale, tails and clustering of hours and days.

Statistics are taken over rows (months of the history, simulated paths), so a resample of rows keeps dependence within them.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._fields import SECONDS_PER_YEAR, cast
from .._streams import Draws, Noise
from ..market import AbstractMarket
from ..simulate import AbstractSystem, outcomes
from .returns import Returns

LEVELS = (0.95, 0.99, 0.999)
LAGS = (1, 6, 24)
TAIL = 0.005  # share of returns that the tail index is made from
_ROWS = 256  # paths at a time


class News(AbstractSystem):
    """The exogenous price alone: what every step showed is (log return, crash factor)."""

    market: AbstractMarket
    dt: Float[Array, ""]
    steps: int = eqx.field(static=True)
    dtype: Any = eqx.field(static=True)

    @property
    def draws(self) -> Draws:
        return self.market.draws

    def init(self) -> Any:
        return self.market.init(self.dtype)

    def step(self, state: Any, noise: Noise) -> tuple[Any, tuple[Any, Any]]:
        shock, state = self.market.move(state, noise, self.dt)
        return state, (shock.log_return, shock.crash)

    def outcome(self, state: Any) -> dict[str, Float[Array, ""]]:
        return {}


def news(market: AbstractMarket, every: float, steps: int, dtype: Any = np.float32) -> News:
    """The system of a law in steps of `every` years."""
    return News(market=cast(market.prepare(), dtype), dt=jnp.asarray(every, dtype), steps=steps, dtype=np.dtype(dtype))


def simulate(
    market: AbstractMarket, every: float, rows: int, times: int, seed: int, substeps: int = 12
) -> tuple[Float[np.ndarray, "rows times"], Float[np.ndarray, "rows times"]]:
    """Log returns over intervals, each simulated in substeps, and the crash factor at the end of each; first asset."""
    system = news(market, every / substeps, times * substeps)
    moves, crash = [], []
    for first in range(0, rows, _ROWS):
        number = np.arange(first, min(first + _ROWS, rows))
        _, (move, factor) = outcomes(system, seed, number, lanes=min(_ROWS, 64 * -(-rows // 64)), record=True)
        moves.append(move[..., 0].astype(float).reshape(number.size, times, substeps).sum(axis=2))
        crash.append(factor.astype(float)[:, substeps - 1 :: substeps])
    return np.concatenate(moves), np.concatenate(crash)


def rows_of(data: Returns) -> Float[np.ndarray, "months times"]:
    """The history by months, nan where nothing was seen; a part of a month at the end is left out."""
    months = data.moves.size // data.block
    moves = np.where(data.seen, data.moves, np.nan)
    return moves[: months * data.block].reshape(months, data.block)


def statistics(rows: Float[np.ndarray, "rows times"], day: int) -> dict[str, float]:
    """Standard deviation, excess kurtosis, quantiles of losses and gains and tail indices (Hill, top 0.5 %) of intervals and
    of windows of `day` intervals, and the autocorrelation of absolute returns; logs.
    """
    out: dict[str, float] = {}
    spans = {"interval": -rows}
    if 1 < day < rows.shape[1]:
        spans["day"] = -np.lib.stride_tricks.sliding_window_view(rows, day, axis=1).sum(axis=2)
    for span, losses in spans.items():
        x = losses[~np.isnan(losses)]
        centered = x - x.mean()
        out[f"{span} sd"] = float(x.std())
        out[f"{span} kurtosis"] = float((centered**4).mean() / (centered**2).mean() ** 2 - 3.0)
        for side, sign in (("loss", 1.0), ("gain", -1.0)):
            for level, value in zip(LEVELS, np.quantile(sign * x, LEVELS), strict=True):
                out[f"{span} {side} {level:.1%}"] = float(value)
            if span == "interval":
                out[f"{side} tail index"] = _hill(sign * x)
    size = np.abs(rows) - np.nanmean(np.abs(rows))
    square = float(np.nanmean(size**2))
    for lag in LAGS:
        if lag < rows.shape[1]:
            out[f"autocorrelation {lag}"] = float(np.nanmean(size[:, lag:] * size[:, :-lag])) / square
    return out


def _hill(x: np.ndarray) -> float:
    """Exponent of the power tail of the largest values, one over Hill's estimate."""
    k = max(int(TAIL * x.size), 10)
    top = np.sort(np.partition(x, x.size - k - 1)[x.size - k - 1 :])
    return float(1.0 / np.mean(np.log(np.maximum(top[1:], 1e-12) / max(top[0], 1e-12)))) if top[0] > 0.0 else np.nan


class Measured(NamedTuple):
    """A statistic of the history with its 95 % interval from resampled months."""

    value: float
    low: float
    high: float


def measured(data: Returns, day: int, draws: int = 200, seed: int = 1) -> dict[str, Measured]:
    """Statistics of a history; intervals are basic bootstrap percentiles over months."""
    rows, rng = rows_of(data), np.random.default_rng(seed)
    center = statistics(rows, day)
    samples = [statistics(rows[rng.integers(0, len(rows), len(rows))], day) for _ in range(draws)]
    out = {}
    for name, value in center.items():
        low, high = np.nanquantile([sample[name] for sample in samples], (0.025, 0.975))
        out[name] = Measured(value, float(low), float(high))
    return out


def day_of(data: Returns) -> int:
    """Intervals in a day."""
    return max(1, round(86400.0 / SECONDS_PER_YEAR / data.every))
