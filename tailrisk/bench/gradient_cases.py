"""What the benchmark of gradients compares: cases, estimators, and the ratios that they should reach."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

from ..gradients import (
    Gradient,
    Ladder,
    WalkLaw,
    branch,
    conditional,
    controls,
    differences,
    measure_valued,
    reference_book,
    residual,
    score,
    shift,
    smoothing_es,
)

BATCHES, CONTROL_BATCHES = 128, 64
YARDSTICK = "differences, h = 5e-4"
BAND = 0.04
THRESHOLDS = ("maintenance", "initial_shift", "impact")


@dataclasses.dataclass(frozen=True)
class Entry:
    """An estimator of one or several parameters at once.

    share: of the paths that others get. kind: "unbiased" by theorem, "biased" by a step or temperature, or a "control" that
    these paths must be seen to refuse.
    """

    name: str
    method: Callable[..., Gradient]
    parameters: tuple[str, ...]
    kind: str = "unbiased"
    share: float = 1.0
    batches: int = BATCHES


@dataclasses.dataclass(frozen=True)
class Case:
    """A ladder, and who takes part; the first entries are the yardsticks of the parameters."""

    title: str
    ladder: Ladder
    entries: tuple[Entry, ...]


TARGETS = {
    ("400 accounts", "absorbed shift", "maintenance"): 0.65,
    ("400 accounts", "measure-valued", "maintenance"): 1.4,
    ("400 accounts", "push-out score", "maintenance"): 2.8,
    ("400 accounts", "boundary branching", "maintenance"): 4.2,
    ("400 accounts", "mean shift plus residual", "initial_shift"): 1.0,
    ("12 accounts", "absorbed shift", "maintenance"): 0.31,
    ("12 accounts", "measure-valued", "maintenance"): 1.6,
    ("12 accounts", "push-out score", "maintenance"): 0.65,
    ("12 accounts", "boundary branching", "maintenance"): 0.43,
    ("12 accounts", "mean shift plus residual", "initial_shift"): 0.27,
    ("400 accounts, breaker", "boundary branching, band", "band"): 1.4,
    ("12 accounts, breaker", "boundary branching, band", "band"): 0.21,
}
"""Work-normalized variance over that of the yardstick for the same parameter, at most."""

GOALS = {
    ("400 accounts", "boundary branching", "maintenance"): 1.0,
    ("400 accounts, breaker", "boundary branching, band", "band"): 1.0,
}
"""What would be better still."""

FORWARD_PASSES = 3.0  # of one derivative in four parameters


def _differences(step: float) -> Callable[..., Gradient]:
    return partial(differences.estimate, step=step, certify=False)


def _each(step: float, parameters: tuple[str, ...]) -> tuple[Entry, ...]:
    name, kind = f"differences, h = {step:g}".replace("0.0005", "5e-4").replace("0.002", "2e-3"), "biased"
    return tuple(Entry(name, _differences(step), (parameter,), kind) for parameter in parameters)


def _control(kind: str, temperature: float, share: float) -> Entry:
    name = kind if kind == "naive" else f"{kind}, {temperature:g}"
    method = partial(controls.estimate, kind=kind, temperature=temperature)
    seen = "biased" if kind == "sigmoid" and temperature < 0.008 else "control"
    return Entry(name, method, ("maintenance", "initial_shift"), seen, share, CONTROL_BATCHES)


def _without_breaker(accounts: int) -> tuple[Entry, ...]:
    many = accounts > 100
    m, few = ("maintenance",), 1 / 256 if many else 1 / 32  # controls work through all accounts
    return (
        *_each(5e-4, THRESHOLDS),
        *_each(2e-3, THRESHOLDS),
        Entry("differences, h = 8e-3", _differences(8e-3), m, "biased"),
        Entry("absorbed shift", shift.estimate, m),
        Entry("absorbed shift, 9 fields", partial(shift.estimate, fields=shift.NINE_FIELDS), m),
        Entry("push-out score", score.estimate, m),
        Entry("measure-valued", measure_valued.estimate, m),
        Entry("boundary branching", branch.estimate, THRESHOLDS),
        Entry("mean shift plus residual", residual.estimate, ("initial_shift", "impact")),
        Entry("conditional line", conditional.estimate, THRESHOLDS, share=1 / 8),
        Entry(
            "smoothing, sd 2e-3",
            partial(smoothing_es.estimate, step=2e-3, certify=False),
            THRESHOLDS,
            "biased",
            share=1 / 4,
        ),
        *(_control("sigmoid", temperature, few) for temperature in ((0.001, 0.008) if many else (0.001, 0.004, 0.008))),
        *(_control("straight-through", temperature, few) for temperature in ((0.008,) if many else (0.004, 0.008))),
        _control("naive", 0.004, few),
    )


def _with_breaker() -> tuple[Entry, ...]:
    m, names = ("maintenance",), ("band", "maintenance", "initial_shift")
    return (
        *_each(5e-4, names),
        *_each(2e-3, names),
        Entry("push-out score", score.estimate, m),
        Entry("measure-valued", measure_valued.estimate, m),
        Entry("boundary branching, band", branch.estimate, ("band",)),
        Entry("boundary branching", branch.estimate, ("maintenance", "initial_shift", "impact", "band")),
    )


def _rare(ladder: Ladder) -> tuple[Entry, ...]:
    m = ("maintenance",)

    def plainly(given: Ladder, *more: Any, **run: Any) -> Gradient:
        plain = given.replace("law.sampling_probability", given.get("law.jump_probability"))
        return differences.estimate(plain, *more, step=2e-3, certify=False, **run)

    return (
        *_each(5e-4, m),
        *_each(2e-3, m),
        Entry("differences, h = 2e-3, no jump sampling", plainly, m, "biased"),
        Entry("absorbed shift", shift.estimate, m),
        Entry("boundary branching", branch.estimate, THRESHOLDS),
    )


def cases() -> tuple[Case, ...]:
    """All cases."""
    many, few = Ladder(book=reference_book(400, 0)), Ladder(book=reference_book(12, 3))
    rare = Ladder(
        book=reference_book(100, 2, gap=0.05, highest_leverage=12.0),
        law=WalkLaw(deviation=0.0045, jump_probability=2e-5, sampling_probability=0.02),
    )
    return (
        Case("400 accounts", many, _without_breaker(400)),
        Case("12 accounts", few, _without_breaker(12)),
        Case("400 accounts, breaker", many.replace("band", BAND), _with_breaker()),
        Case("12 accounts, breaker", few.replace("band", BAND), _with_breaker()),
        Case("rare", rare, _rare(rare)),
    )
