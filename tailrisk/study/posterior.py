"""What an event says about numbers that nobody could measure before it: impact, leverage and loss of depth."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import numpy as np
import tomli_w

from ..calibrate.books import tilted
from ..calibrate.posterior import posterior, quantiles, simulation_based_check
from .events import Crash, Replays, World, measures_of, replay
from .tables import plain

NAMES = World._fields
STATISTICS = ("log drop", "rebound", "log liquidated share")
KEYS = {
    "prefactor": "impact.prefactor",
    "crash_loss": "impact.depth.crash_loss",
    "sensitivity": "impact.depth.sensitivity",
    "floor": "impact.depth.floor",
}
_LEAST = 1e-4  # share that counts as none


def overrides(world: World, wanted: Replays) -> str:
    """A world as overrides of a config, one line for the command line."""
    leverages = np.asarray(wanted.book.leverages, float)
    weights = tilted(np.asarray(wanted.book.weights, float), leverages, world.tilt)
    words = [f"{key}={getattr(world, name):.6g}" for name, key in KEYS.items()]
    words += [f"impact.depth.recovery={world.recovery:.6g}h", f"impact.memory={world.memory:.6g}h"]
    words.append(f"book.weights=[{','.join(f'{w:.6g}' for w in weights)}]")
    return " ".join(words)


def statistics_of(columns: dict[str, np.ndarray]) -> np.ndarray:
    """Statistics of draws, (draws, 3)."""
    drop = np.log(np.maximum(columns["drop"], _LEAST))
    liquidated = np.log(np.maximum(columns["liquidated share"], _LEAST))
    return np.column_stack([drop, columns["rebound"], liquidated])


def speak(
    task: Any, wanted: Replays, crashes: dict[str, Crash], seed: int, arrays: dict[str, np.ndarray],
    report: Callable[[str], None],
) -> tuple[dict[str, Any], dict[str, str]]:  # fmt: skip
    """The posterior of a world given what was seen in one event, its check, and files to run scenarios with: rows of it,
    the same as overrides of a config, and deviations for the robustness panel of `tailrisk tune`.
    """
    crash = crashes[task.event]
    share = np.asarray(crash.event.liquidated_share, float)
    belief = eqx.tree_at(lambda b: b.news, wanted.belief, np.asarray(task.news, float))
    played = replay(
        crash, dataclasses.replace(wanted, belief=belief, draws=task.draws), seed + 1, attribute=False, report=report
    )
    simulated = statistics_of(played.forecast)
    real = measures_of(crash.log_price)
    observed = np.array([np.log(real["drop"]), real["rebound"], 0.5 * float(np.log(share).sum())])
    error = np.array([float(task.errors[name]) for name in STATISTICS])
    found = posterior(played.worlds, simulated, observed, error, NAMES)
    checked = simulation_based_check(played.worlds, simulated, error, NAMES, task.truths, seed)
    arrays["posterior/draws"], arrays["posterior/weights"] = played.worlds, found.weights
    arrays["posterior/ranks"] = checked.ranks
    part = played.forecast["part of the cascade"]
    mean, ends = float(found.weights @ part), quantiles(part, found.weights, (0.025, 0.975))
    report(f"posterior: {found.effective:.0f} of {task.draws} draws are effective")
    rows = found.sample(played.worlds, task.keep, seed)
    plain_rows = "\n".join(",".join(f"{v:.6g}" for v in row) for row in rows)
    deviations = {key: found.estimates[name].std_error for name, key in KEYS.items()}
    files = {
        "posterior.csv": f"{','.join(NAMES)}\n{plain_rows}\n",
        "overrides.txt": "\n".join(overrides(World(*row), wanted) for row in rows.tolist()) + "\n",
        "deviations.toml": tomli_w.dumps({"tune": {"robustness": {"deviations": deviations}}}),
    }
    return {
        "event": task.event, "draws": task.draws, "effective": found.effective,
        "errors": {name: float(task.errors[name]) for name in STATISTICS},
        "observed": dict(zip(STATISTICS, observed.tolist(), strict=True)),
        "estimates": plain(found.estimates), "variance_left": found.left,
        "part_of_the_cascade": {"value": mean, "ci95": ends},
        "check": {"truths": len(checked.ranks), "p_values": checked.p_values, "effective": checked.effective},
    }, files  # fmt: skip
