"""What each estimator of a rare event must gain on the reference cascade: one row per measurement of the specification."""

import dataclasses
import math
from typing import Any

from ..tails import (
    RQMC,
    AbstractProblem,
    Antithetic,
    Controlled,
    CrossEntropy,
    Direction,
    Mean,
    Probability,
    Splitting,
    Stratified,
    Subset,
)
from ..tails.targets import AbstractTarget
from .tail_cases import JumpCascade

ACCOUNTS, SHORT = 256, 0.8
CASCADE, FULL = JumpCascade(), JumpCascade(accounts=ACCOUNTS)
CALM = JumpCascade(rate=0.0, volatility=0.055)
HIT = Probability(0.30)


@dataclasses.dataclass(frozen=True)
class Entry:
    """A method on a problem. `gain` and `spread` (relative standard deviation of a path, line or run) were measured elsewhere,
    without a share of nominal paths, which costs a tenth here. A gain must reach `least`, by default four fifths of that.
    `share` of the paths of a table; rows of one `reference` estimate the same number.
    """

    name: str
    problem: AbstractProblem
    method: Any
    wanted: AbstractTarget = HIT
    share: float = 1.0
    gain: float = float("nan")
    spread: float = float("nan")
    least: float = float("nan")
    per: str = "path"
    reference: str = "hit"

    @property
    def target(self) -> float:
        """The gain that is asked for."""
        return SHORT * self.gain if math.isnan(self.least) else self.least


CONSTANT, FEEDBACK = CrossEntropy(feedback=False), CrossEntropy()
RARER = ((0.37, 7e5, 8.4e5, 2.31, 2.11, 7e5), (0.44, 4.1e7, 4.7e7, 2.52, 2.37, SHORT * 4.7e7))


def entries() -> list[Entry]:
    """All rows; those with one `reference` estimate the same number."""
    rows = [
        Entry("tilt with feedback", CASCADE, FEEDBACK, gain=2.6e4, spread=1.73, least=2.0e4),
        Entry("constant tilt", CASCADE, CONSTANT, gain=1.8e4, spread=2.08),
        Entry("jump strata, a tilt in each", CASCADE, Stratified(), gain=1.5e4, spread=2.24, least=1.5e4),
        Entry("direction integrated", CASCADE, Direction(), share=0.2, gain=840.0, spread=1.49, per="line"),
        Entry("point sets x direction", CASCADE, RQMC(Direction()), share=0.82, per="run"),
        Entry("point sets x tilt", CASCADE, RQMC(FEEDBACK), share=1.65, per="run"),
        Entry("subset simulation", CASCADE, Subset(), share=4.0, gain=30.0, spread=0.49, least=30.0, per="run"),
    ]
    for conditional, gain, spread in ((0.1, 50.0, 0.40), (0.2, 76.0, 0.30), (0.4, 66.0, 0.29)):
        method = Splitting(conditional=conditional)
        rows.append(
            Entry(f"splitting, {conditional:g}", CASCADE, method, share=8.0, gain=gain, spread=spread, per="run")
        )
    rows += [
        Entry(
            "antithetic pairs, level 0.12", CASCADE, Antithetic(), Probability(0.12), 2.0, per="pair", reference="0.12"
        ),
        Entry("tilt, level 0.12", CASCADE, FEEDBACK, Probability(0.12), reference="0.12"),
        Entry(f"tilt, {ACCOUNTS} accounts", FULL, FEEDBACK, share=0.25, least=2.0e4, reference="accounts"),
        Entry(
            f"  with the continuum as control, {ACCOUNTS} accounts",
            FULL,
            Controlled(CASCADE, cost=1.0 / 64.0),  # by processor time; by accounts x steps it would be 1/256
            share=1.5,  # pairs enough in which the two differ
            least=1.5e5,
            reference="accounts",
        ),
        Entry(
            "E[L], its own tilt",
            CASCADE,
            FEEDBACK,
            Mean(),
            gain=1.8e3,
            spread=1.96,
            least=1.5e3,
            reference="loss",
        ),
    ]
    for level, constant, feedback, wide, narrow, least in RARER:
        hit, name = Probability(level), f"{level:g}"
        rows.append(Entry(f"constant tilt, level {name}", CASCADE, CONSTANT, hit, 1.5, constant, wide, reference=name))
        rows.append(
            Entry(
                f"tilt with feedback, level {name}",
                CASCADE,
                FEEDBACK,
                hit,
                1.5,
                feedback,
                narrow,
                least,
                reference=name,
            )
        )
    rows += [
        Entry("no jumps, constant tilt", CALM, CONSTANT, gain=5.6e4, spread=1.55, reference="calm"),
        Entry("no jumps, tilt with feedback", CALM, FEEDBACK, gain=1.25e5, spread=1.04, least=1.0e5, reference="calm"),
        Entry(
            "no jumps, splitting, 0.4",
            CALM,
            Splitting(),
            share=8.0,
            gain=661.0,
            least=600.0,
            per="run",
            reference="calm",
        ),
    ]
    return rows
