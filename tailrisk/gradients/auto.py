"""Which estimator for which parameter: the choice by class of parameter, and the same call for every method.

A whole scenario goes to `venue.py`; for the reference ladder:

| parameter | default |
| --- | --- |
| drift, jump probability, jump mean | score |
| deviations of the walk and of its jumps | differences: the score of a scale is too noisy |
| maintenance ratio, no breaker | shift |
| band of the breaker | branch |
| initial shift, no breaker | residual |
| impact, no breaker | branch |
| maintenance ratio, initial shift, impact, with a breaker: few large accounts | branch |
| maintenance ratio, initial shift, impact, with a breaker: many small accounts | differences |
| fund, fee, impact exponent | differences |
| a functional that jumps by itself: parameters with a score | score |
| a functional that jumps by itself: others | differences; `tail.exhaustion` smooths it for all |
| halt, window, steps | none: whole numbers |
| single accounts | none by sampling: the quadrature has them all |

Expected shortfall, value-at-risk and the exhaustion of the fund (`tail`) are taken the same way, with their own functionals.

A book is one of few large accounts if it is worth fewer than 30 equal ones, 1 / sum of squared shares: with a breaker and 12
lognormal accounts branches were the better, with 400 the differences. Parameters that have a score, and the maintenance ratio
without a breaker, are taken from the paths of the branches where there are any: one pass serves all.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from .._fields import InputError
from ..scenario import Scenario
from . import branch, conditional, differences, measure_valued, residual, score, shift, smoothing_es, venue
from .functionals import AbstractFunctional
from .ladder import Ladder
from .record import Gradient, of_one

CONCENTRATED = 30.0

METHODS: dict[str, Callable[..., Gradient]] = {
    "shift": shift.estimate,
    "score": score.estimate,
    "measure_valued": measure_valued.estimate,
    "branch": branch.estimate,
    "residual": residual.estimate,
    "conditional": conditional.estimate,
    "differences": differences.estimate,
    "smoothing_es": smoothing_es.estimate,
}

WHOLE = ("halt", "window", "steps")
_WRONG = ("smoothed", "sigmoid", "straight-through", "naive")

_BY_KIND = {
    "law.drift": ("score", "a parameter of the law of the noise"),
    "law.jump_probability": ("score", "a parameter of the law of the noise"),
    "law.jump_mean": ("score", "a parameter of the law of the noise"),
    "law.deviation": ("differences", "a scale of the noise, whose score is too noisy"),
    "law.jump_deviation": ("differences", "a scale of the noise, whose score is too noisy"),
    "band": ("branch", "the band of a breaker"),
    "fund": ("differences", "few general parameters"),
    "fee": ("differences", "few general parameters"),
    "impact_exponent": ("differences", "few general parameters"),
}
_THRESHOLDS = {
    "maintenance": "maintenance ratio, active breaker",
    "initial_shift": "initial margins, which move thresholds apart",
    "impact": "impact, which moves thresholds apart",
}


def effective_accounts(ladder: Ladder) -> float:
    """How many equal accounts the book is worth, 1 / sum of squared shares of its quantity.

    **Source:** Hirschman (1964) and Herfindahl (1950) for the index it is the inverse of.
    """
    share = np.asarray(ladder.book.quantity) / np.sum(ladder.book.quantity)
    return float(1.0 / np.square(share).sum())


def choose(ladder: Ladder, parameter: str, functional: AbstractFunctional | None = None) -> tuple[str, str]:
    """The default method for a parameter of a ladder, and why.

    **Raises:** `InputError` for what has no derivative or is an array.
    """
    if parameter in WHOLE:
        raise InputError(
            f"parameter {parameter!r} is a whole number and has no derivative: compare simulations at neighboring values"
        )
    if functional is not None and functional.jumps and parameter in (*_BY_KIND, *_THRESHOLDS):
        way, why = _BY_KIND.get(parameter, ("", ""))
        return (way, why) if way == "score" else ("differences", "a functional that jumps at fixed events")
    if parameter in _BY_KIND:
        return _BY_KIND[parameter]
    if parameter not in _THRESHOLDS:
        known = ", ".join([*_THRESHOLDS, *_BY_KIND])
        raise InputError(
            f"parameter {parameter!r}: expected one of {known}; whole numbers have no derivative: compare simulations; "
            "single accounts: use the quadrature"
        )
    if parameter == "maintenance" and not ladder.has_breaker:
        return "shift", "a common move of all thresholds, no active breaker"
    if not ladder.has_breaker:
        return (
            "residual" if parameter == "initial_shift" else "branch"
        ), f"{_THRESHOLDS[parameter]}; no active breaker"
    worth = effective_accounts(ladder)
    if worth < CONCENTRATED:
        return "branch", f"{_THRESHOLDS[parameter]}; few large accounts (worth {worth:.3g} equal ones)"
    return "differences", f"{_THRESHOLDS[parameter]}; many small accounts (worth {worth:.3g} equal ones)"


def _shared(parameter: str, way: str, why: str) -> tuple[str, str]:
    """The same for a parameter that is asked for beside one by branches: their paths serve it as well."""
    rides = (parameter in branch.LAW and way == "score") or way in ("shift", "residual")
    return ("branch", f"{why}; on the paths of the branches") if rides else (way, why)


def estimate(
    target: Ladder | Scenario,
    parameters: tuple[str, ...] = ("maintenance",),
    *,
    seed: int = 0,
    paths: int = 64 * 16_384,
    batches: int = 64,
    functional: AbstractFunctional | None = None,
    method: str = "auto",
    dtype: Any = None,
    **venue_only: Any,
) -> dict[str, Gradient]:
    """Derivatives of the mean of a functional, one record per parameter, each with its method, reason and bias.

    Of a reference ladder here; of a scenario by `venue.estimate`, which takes `outcome`, `step`, `proposal` and `chunk` as
    well. `method`: "auto" chooses for each parameter (its `reason` says by which rule), or one of `METHODS` for all.
    Parameters of one method share its paths; their `seconds` are those of the whole run.

    **Raises:** `InputError` for unknown methods, and for parameters that a method does not apply to.
    """
    if isinstance(target, Scenario):
        if functional is not None:
            raise InputError("functional is for a ladder; of a scenario say outcome, a name or a quantity")
        return venue.estimate(
            target, parameters, seed=seed, paths=paths, batches=batches, method=method, dtype=dtype, **venue_only
        )
    if venue_only:
        raise InputError(f"{', '.join(venue_only)}: for a scenario; of a ladder say functional")
    ladder = target
    if method in _WRONG:
        raise InputError(
            f"method = {method!r} is biased by an amount that must be shown: read the report of gradients.smoothed.estimate, or "
            "of gradients.controls.estimate"
        )
    if method not in (*METHODS, "auto"):
        raise InputError(f"method = {method!r}: expected 'auto' or one of {', '.join(METHODS)}")
    chosen = {
        name: choose(ladder, name, functional) if method == "auto" else (method, "asked for by name")
        for name in parameters
    }
    if method == "auto" and any(way == "branch" for way, _ in chosen.values()):
        chosen = {name: _shared(name, *choice) for name, choice in chosen.items()}
    found: dict[str, Gradient] = {}
    for used in dict.fromkeys(way for way, _ in chosen.values()):
        names = tuple(name for name, (way, _) in chosen.items() if way == used)
        result = METHODS[used](
            ladder, names, seed=seed, paths=paths, batches=batches, functional=functional, dtype=dtype
        )
        for i, name in enumerate(names):
            found[name] = dataclasses.replace(of_one(result, i), reason=chosen[name][1])
    return {name: found[name] for name in parameters}
