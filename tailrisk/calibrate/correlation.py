"""How two assets move together in calm and in a crash."""

from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr
from jaxtyping import Array, Float

from ..market import RegimeSwitching
from .likelihood import SIGNED, AbstractLaw
from .regimes import forward
from .returns import Returns


class PairRegimes(AbstractLaw):
    """Two assets under one hidden Markov chain: volatilities and the correlation differ between calm and crash.

    The diffusions of `RegimeSwitching` for two assets, by the forward recursion, exact up to switches inside an interval.

    **Source:** Hamilton (1989); for correlations that rise in bear markets, Ang and Bekaert (2002).
    """

    assets: ClassVar[int] = 2
    units: ClassVar[dict[str, str]] = {
        "volatility_1": "1/sqrt(year)",
        "volatility_2": "1/sqrt(year)",
        "crash_volatility_1": "1/sqrt(year)",
        "crash_volatility_2": "1/sqrt(year)",
        "correlation": "1",
        "crash_correlation": "1",
        "correlation_rise": "1",
        "enter": "1/year",
        "leave": "1/year",
    }
    limits: ClassVar[dict[str, tuple[float, float]]] = {
        "correlation": SIGNED,
        "crash_correlation": SIGNED,
        "correlation_rise": (-2.0, 2.0),
    }

    def start(self, data: Returns) -> Float[np.ndarray, " parameters"]:
        spread = np.log(data.observed.std(axis=0) / np.sqrt(data.every))
        rho = np.arctanh(np.clip(np.corrcoef(data.observed.T)[0, 1], -0.95, 0.95))
        switch = np.log(0.05 / data.every)
        return np.array([*(spread - 0.7), *(spread + 0.5), rho, rho, switch, switch])

    def values(self, p: Float[Array, " parameters"]) -> dict[str, Float[Array, ""]]:
        names = ("volatility_1", "volatility_2", "crash_volatility_1", "crash_volatility_2")
        calm, wild = jnp.tanh(p[4]), jnp.tanh(p[5])
        correlations = {"correlation": calm, "crash_correlation": wild, "correlation_rise": wild - calm}
        switches = {"enter": jnp.exp(p[6]), "leave": jnp.exp(p[7])}
        return {name: jnp.exp(p[i]) for i, name in enumerate(names)} | correlations | switches

    def densities(self, p: Any, moves: Any, seen: Any, every: Any) -> tuple[Any, Any]:
        v = self.values(p)
        parts = []
        for prefix in ("", "crash_"):
            sd = [v[f"{prefix}volatility_{k}"] * jnp.sqrt(every) for k in (1, 2)]
            rho = v[f"{prefix}correlation"]
            x, y = moves[:, 0] / sd[0], moves[:, 1] / sd[1]
            square = (x**2 - 2.0 * rho * x * y + y**2) / (1.0 - rho**2)
            scale = jnp.log(2.0 * jnp.pi * sd[0] * sd[1]) + 0.5 * jnp.log1p(-(rho**2))
            parts.append((-0.5 * square - scale, ndtr(x)))
        (log_calm, below_calm), (log_wild, below_wild) = parts
        density, chance = forward(log_calm, log_wild, seen, v["enter"], v["leave"], every)
        return density, (1.0 - chance) * below_calm + chance * below_wild

    def market(self, values: dict[str, float]) -> RegimeSwitching | None:
        return None  # the jumps of a scenario are those of a fit of one asset


class Bucket(NamedTuple):
    """Correlation of the returns that follow a span of realized volatility between two of its quantiles."""

    low: float  # quantile
    high: float
    correlation: float
    ci95: tuple[float, float]
    returns: int


def by_volatility(
    data: Returns,
    edges: tuple[float, ...] = (0.0, 0.5, 0.9, 0.99, 1.0),
    span: int = 24,
    draws: int = 200,
    seed: int = 1,
) -> list[Bucket]:
    """Correlations by the realized volatility of the first asset over `span` intervals *before* each return.

    Sorting by what came before keeps the bias away that a sort by the returns themselves has (Forbes and Rigobon 2002).
    Intervals from resampled months.
    """
    square = np.concatenate([[0.0], np.cumsum(data.moves[:, 0] ** 2)])
    level = np.full(data.seen.size, np.nan)
    level[span:] = square[span:-1] - square[: -span - 1]
    kept = data.seen & ~np.isnan(level)
    cuts = np.quantile(level[kept], edges)
    month = np.arange(data.seen.size) // data.block
    rng, months = np.random.default_rng(seed), int(month[-1]) + 1
    weights = rng.multinomial(months, np.full(months, 1.0 / months), draws).astype(float)
    out = []
    for i in range(len(edges) - 1):
        inside = kept & (level >= cuts[i]) & ((level < cuts[i + 1]) | (i == len(edges) - 2))
        x, y = data.moves[inside].T
        columns = np.stack([x * x, y * y, x * y, x, y, np.ones_like(x)])
        sums = np.stack([np.bincount(month[inside], c, months) for c in columns])
        value = _correlation(sums.sum(axis=1))
        low, high = np.nanquantile(_correlation(sums @ weights.T), (0.025, 0.975))
        out.append(Bucket(edges[i], edges[i + 1], float(value), (float(low), float(high)), int(inside.sum())))
    return out


def _correlation(sums: np.ndarray) -> Any:
    xx, yy, xy, x, y, n = sums
    with np.errstate(invalid="ignore", divide="ignore"):
        return (xy - x * y / n) / np.sqrt((xx - x * x / n) * (yy - y * y / n))
