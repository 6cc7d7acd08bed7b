"""A scenario as a model to tune: parameters are leaves of its tree, outcomes are in shares of the book.

The deciding model is the scenario as it stands, breakers and all. Its smooth twin has the continuum of the same book and no
breaker: differentiable in margins, fees and the fund, and only the way to a good start, never the judge.
"""

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..breaker import NoBreaker
from ..leaves import with_parameters
from ..policy import AbstractSampledModel
from ..scenario import Scenario, SmoothLadder
from ..simulate import batch, simulate

LANES = 1024  # paths of one compiled batch, whatever the size of a sample, so that all share a program


def _scales(system: Any) -> tuple[Any, ...]:
    """Gross notional, collateral posted at the start, the fund (USD) and the horizon (years) of a built scenario."""
    positions = system.cascade.positions
    start = positions.init(system.dtype)
    posted = positions.equity(start, jnp.zeros_like(positions.price))
    return positions.gross(), posted, system.cascade.waterfall.fund, system.dt * system.steps


def _shares(found: Mapping[str, Any], gross: Any, posted: Any, fund: Any, horizon: Any) -> dict[str, Any]:
    """Outcomes in shares of the first gross notional, so that targets are written in basis points of open interest."""
    ones = found["bad_debt"] * 0.0 + 1.0
    return {
        "bad_debt": found["bad_debt"] / gross,
        "uncovered_debt": (found["bad_debt"] - found["fund_paid"]) / gross,
        "beyond_fund": (found["bad_debt"] - fund) / gross * ones,
        "forced_volume": found["forced_notional"] / gross,
        "liquidated_share": found["liquidated_share"],
        "halted_share": found["halted_time"] / horizon,
        "posted_margin": posted / gross * ones,
        "fund": fund / gross * ones,
        "adl_profit": found["adl_pnl"] / gross,
    }


OUTCOMES = {
    "bad_debt": "negative equity at closing, before the waterfall",
    "uncovered_debt": "bad debt that the fund did not pay",
    "beyond_fund": "bad debt less the fund at the start, negative where it suffices",
    "forced_volume": "notional closed by force",
    "liquidated_share": "share of the first notional closed by force",
    "halted_share": "share of the time halted",
    "posted_margin": "collateral posted at the start",
    "fund": "size of the insurance fund",
    "adl_profit": "profit taken from winners",
}


class Held:
    """A scenario that no trace looks into: its numbers that are not tuned stay on the host, where books are built."""

    def __init__(self, scenario: Scenario):
        self.scenario = scenario
        self._last: tuple[Any, Any] = (None, None)

    def built(self, parameters: Mapping[str, Any], dtype: Any) -> Any:
        """The scenario with plain parameters, built; kept until others are asked for, because chunks follow each other."""
        key = (dtype, *((name, value.tobytes()) for name, value in parameters.items()))
        if self._last[0] != key:
            self._last = key, with_parameters(self.scenario, parameters).build(dtype)
        return self._last[1]


class SmoothVenue(AbstractSampledModel):
    """The continuum of the scenario's book without its breaker, differentiable in forward mode.

    Numbers of the breaker move nothing here: a search leaves them at their start, and the deciding model moves them.
    """

    held: Held = eqx.field(static=True)

    @classmethod
    def of(cls, scenario: Scenario, cells: int = 2048) -> "SmoothVenue":
        """The smooth twin of a scenario on a ladder."""
        kernel = SmoothLadder(cells=cells, clearing=scenario.positions.clearing)
        return cls(Held(eqx.tree_at(lambda s: (s.positions, s.breaker), scenario, (kernel, NoBreaker()))))

    def sample(
        self, parameters: Mapping[str, Any], keys: tuple[Any, Any], first: Any, paths: int
    ) -> dict[str, Float[Array, " paths"]]:
        felt = {name: value for name, value in parameters.items() if not name.startswith("breaker.")}
        scenario = with_parameters(self.held.scenario, felt)
        system = scenario.assemble(np.dtype(jnp.zeros(()).dtype))
        found, _ = batch(system, keys, first + jnp.arange(paths, dtype=jnp.uint32))
        return _shares(found, *_scales(system))


class HardVenue(AbstractSampledModel):
    """The scenario as it stands: exact thresholds, breakers, whatever kernel it names. Single precision unless asked."""

    held: Held = eqx.field(static=True)
    dtype: Any = eqx.field(static=True, default=np.dtype("float32"))

    def sample(
        self, parameters: Mapping[str, Any], keys: tuple[Any, Any], first: Any, paths: int
    ) -> dict[str, Float[Array, " paths"]]:
        values = {name: np.asarray(value, float) for name, value in parameters.items()}
        system = self.held.built(values, self.dtype)
        found = simulate(system, paths=paths, first=int(first), keys=keys, chunk=LANES)
        return {name: jnp.asarray(value) for name, value in shares(found, system).items()}


def shares(found: Mapping[str, np.ndarray], system: Any) -> dict[str, np.ndarray]:
    """Outcomes of the paths of a built scenario in shares of its first gross notional, on the host."""
    double = {name: np.asarray(value, float) for name, value in found.items()}
    return _shares(double, *(float(scale) for scale in _scales(system)))
