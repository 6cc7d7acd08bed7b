"""The book of a venue from published facts and beliefs: what `[book]` of a calibration does."""

from collections.abc import Iterator
from typing import Any

import equinox as eqx
import numpy as np

from .._fields import Real, real
from ..calibrate.books import BookBelief, open_interest
from ..tails.measures import Estimate
from .config import CONVERTER
from .tables import annotated

_Z = 1.96


class BookTask(eqx.Module):
    """How far open interest fell and what share of it that was, the venue's part of it, and the belief about the rest.

    Numbers with a second entry are [value, half its rounding or its standard error].
    """

    belief: BookBelief
    fall: Real = real(unit="units", above=0.0)  # of open interest, all venues
    fall_share: Real = real(unit="1", above=0.0)
    venue_share: Real = real(unit="1", above=0.0)  # of open interest, from traded volume
    price: Real = real(unit="USD/unit", above=0.0)
    tail_index: Real = real(unit="1", above=0.0)
    exposed: Real = real(0.5, unit="1", above=0.0, most=1.0)  # part of both sides that can be liquidated

    def check(self) -> Iterator[tuple[str, str]]:
        for name in ("fall", "fall_share", "venue_share", "tail_index"):
            if np.shape(getattr(self, name)) != (2,):
                yield name, f"{np.asarray(getattr(self, name)).tolist()}: expected [value, error]"


def estimate(task: BookTask, seed: int, source: str) -> tuple[dict[str, Any], str]:
    """The center of the distribution over books as a table `[book]`, its intervals, and draws of what is uncertain."""
    fall, share, part, tail = (
        (float(pair[0]), float(pair[1]))
        for pair in (np.asarray(v, float) for v in (task.fall, task.fall_share, task.venue_share, task.tail_index))
    )
    units, error = open_interest(fall, share)
    price, belief = float(np.asarray(task.price)), task.belief
    notional = 2.0 * float(task.exposed) * units * part[0] * price
    spread = float(np.hypot(error / units, part[1] / part[0]))
    rng = np.random.default_rng(seed)
    mixes = np.array([np.asarray(belief.draw(rng, 1.0).weights, float) for _ in range(2_000)])
    low, high = np.quantile(mixes, (0.025, 0.975), axis=0)

    def known(value: float, deviation: float, unit: str) -> Estimate:
        return Estimate(value, deviation, value - _Z * deviation, value + _Z * deviation, unit)

    facts = {
        "notional": known(notional, notional * spread, "USD, error of the published numbers alone"),
        "tail_index": known(tail[0], tail[1], "Hill index of deleveraged accounts"),
        "long_share": known(float(belief.long_share), float(belief.long_deviation), "1 [A]"),
    }
    center = belief.draw(np.random.default_rng(seed), 1.0)
    center = eqx.tree_at(
        lambda b: (b.notional, b.weights, b.long_share, b.sizes.tail_index),
        center,
        tuple(np.asarray(v) for v in (float(f"{notional:.3g}"), belief.weights, belief.long_share, tail[0])),
    )
    mix = ", ".join(f"{a:.2f} to {b:.2f}" for a, b in zip(low, high, strict=True))
    head = (
        f"# The book of a venue from {source}. Made by `tailrisk calibrate`.\n"
        f"# Open interest of all venues {units:,.0f} units, plus or minus {_Z * error:,.0f}; {part[0]:.2f} of it here; "
        f"{float(task.exposed):g} of both sides exposed [A].\n"
        f"# Shares of notional by leverage [A] lie within {mix} (95 % of the belief)."
    )
    table = annotated({"book": CONVERTER.unstructure(center)}, facts, head)
    out = {
        "open_interest_units": [units, error], "mix": {"low": low.tolist(), "high": high.tolist()},
        "facts": {name: {"value": e.value, "std_error": e.std_error, "ci95": [e.low, e.high]} for name, e in facts.items()},
        "weights": np.asarray(belief.weights, float).tolist(), "leverages": np.asarray(belief.leverages, float).tolist(),
    }  # fmt: skip
    return out, table
