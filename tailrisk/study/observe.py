"""What the figures of a run need beyond one number per path: replayed paths and the liquidation map.

Noise is data, so a path is replayed exactly from its number; nothing is stored while the run goes on.
"""

from typing import Any

import numpy as np

from .._fields import SECONDS_PER_YEAR
from ..positions.sorted import SortedThresholds
from ..scenario import Scenario, VenueSystem
from ..simulate import outcomes
from .fragile import liquidation_map
from .tally import Tally

FAN = np.array([0.001, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999])
WORST = 12
BLOCK = 256  # paths replayed at a time, by one program however many are wanted


def observe(
    scenario: Scenario, system: VenueSystem, run: Any, tally: Tally, rows: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Arrays for the figures: "fan/...", "worst/...", "bad/...", "map/...", "time", "price", "gross".

    Paths are those of the first book, whose summary is given; the median bad one is that of the rows kept, or of the worst
    where none of them is bad.
    """
    price = np.asarray(scenario.price, float).reshape(-1)
    out = {
        "time": np.arange(1, system.steps + 1) * float(scenario.step) * SECONDS_PER_YEAR / 3600.0,
        "price": price,
        "gross": np.asarray(float(system.cascade.positions.gross())),
    }
    watched = np.arange(min(run.watch, run.paths))
    if watched.size:
        log_price = np.concatenate(
            [
                _flow(system, run.seed, block).log_price[..., 0]
                for block in np.split(watched, range(BLOCK, watched.size, BLOCK))
            ]
        )
        out["fan/levels"] = FAN
        out["fan/price"] = price[0] * np.exp(np.quantile(log_price.astype(float), FAN, axis=0))
        worst = tally.worst_path[:WORST]
        out["worst/path"] = worst
        out["worst/log_price"] = _flow(system, run.seed, worst).log_price[..., 0]
    debt = rows["bad_debt"][rows["book"] == 0] if rows else np.zeros(0)
    number = np.arange(debt.size)
    if not np.any(debt > 0.0):
        debt, number = tally.worst, tally.worst_path
    bad = np.flatnonzero(debt > 0.0)
    if bad.size:
        median = number[bad[np.argsort(debt[bad], kind="stable")[bad.size // 2]]]
        flow = _flow(system, run.seed, np.array([median]))
        out["bad/path"] = median
        for name in ("log_price", "log_news", "log_mark"):
            out[f"bad/{name}"] = getattr(flow, name)[0, :, 0]
        out |= {f"bad/{name}": getattr(flow, name)[0] for name in ("notional", "deficit", "fund")}
        out["bad/halted"] = flow.halted[0, :, 0]
    if isinstance(system.cascade.positions, SortedThresholds):
        out |= liquidation_map(system)
    return out


def _flow(system: VenueSystem, seed: int, numbers: np.ndarray) -> Any:
    _, flow = outcomes(system, seed, numbers, lanes=BLOCK, record=True)
    return flow
