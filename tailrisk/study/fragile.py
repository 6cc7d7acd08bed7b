"""The liquidation map of a run's book, without simulating."""

import jax.numpy as jnp
import numpy as np

from .. import fragility
from ..positions.sorted import SortedThresholds
from ..scenario import VenueSystem

REACH = 0.5  # log price on either side of the spot
POINTS = 401


def liquidation_map(system: VenueSystem) -> dict[str, np.ndarray]:
    """Forced selling per log price on both sides of the spot, and its branching number."""
    positions, impact = system.cascade.positions, system.cascade.impact
    assert isinstance(positions, SortedThresholds)
    grid = jnp.asarray(np.linspace(-REACH, REACH, POINTS), system.dtype)
    spot = float(positions.price[0])
    out: dict[str, np.ndarray] = {"map/log_price": np.asarray(grid)}
    for side, name in enumerate(("long", "short")):
        levels, units = positions.entries(side)
        view = grid if side == 0 else -grid  # shorts are the mirror image
        if levels.size == 0:
            density = branching = jnp.zeros_like(grid)
        else:
            density = fragility.liquidation_map(levels, units, view)
            branching = fragility.branching_map(levels, units, impact, view)
        toward = np.asarray(view) < 0.0  # a side is closed on its own side of the spot only
        out[f"map/{name}"] = np.where(toward, np.asarray(density) * spot * np.exp(np.asarray(grid)), 0.0)
        out[f"map/branching_{name}"] = np.where(toward, np.asarray(branching), 0.0)
    return out
