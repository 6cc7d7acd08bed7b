"""Indirect inference: parameters whose simulated histories are fitted with the values of the real history."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from .likelihood import Fit, at, climb
from .reproduce import simulate
from .returns import Returns


class Corrected(NamedTuple):
    """The corrected point, and how far refits of the last round were from the target (mean over histories, its error)."""

    point: Float[np.ndarray, " parameters"]
    gap: Float[np.ndarray, " parameters"]
    gap_error: Float[np.ndarray, " parameters"]


def indirect(
    found: Fit,
    data: Returns,
    *,
    held: tuple[int, ...] = (),
    histories: int = 2,
    rounds: int = 3,
    seed: int = 4,
    report: Callable[[str], None] = lambda text: None,
) -> Corrected:
    """Moves the point of a fit until histories simulated from it are fitted with it on average; `held` numbers stay.

    Random numbers are common to all rounds. The gap of one round corrects the next, which converges where a refit moves
    nearly as far as the truth does.

    **Source:** Gourieroux, Monfort, Renault (1993), "Indirect inference".
    """
    target, point = found.point, found.point.copy()
    moved = ~np.isin(np.arange(target.size), held)
    gap = error = np.zeros_like(target)
    for number in range(1, rounds + 1):
        values = {name: float(value) for name, value in found.law.values(jnp.asarray(point)).items()}
        market = found.law.market(values)
        if market is None:
            raise ValueError(f"{type(found.law).__name__} has no law to simulate from")
        moves, _ = simulate(market, data.every, histories, data.moves.size, seed)
        refits = [climb(found.law, data._replace(moves=np.where(data.seen, m, 0.0)), target)[0] for m in moves]
        gap = np.where(moved, np.mean(refits, axis=0) - target, 0.0)
        error = np.std(refits, axis=0, ddof=1) / np.sqrt(histories) if histories > 1 else np.full_like(gap, np.nan)
        report(f"round {number}: refit less target {np.round(gap, 3).tolist()}")
        point = point - gap
    return Corrected(point, gap, error)


def corrected(found: Fit, data: Returns, rounds: int, report: Callable[[str], None] = lambda text: None) -> Fit:
    """The fit at the corrected point. Its errors are those of the filter, on the scale on which nothing bounds a parameter.

    The mean of the jumps and the drift stay: the filter does not bias them.
    """
    names = list(found.estimates)
    held = tuple(i for i, name in enumerate(names) if name in ("mean", "drift"))
    point = indirect(found, data, held=held, rounds=rounds, report=report).point
    return at(found, data, point)
