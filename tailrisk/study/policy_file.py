"""What a tuned policy leaves behind: `policy.toml`, a config of its own, and `policy.json` with everything that was found."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tomli_w

from ..leaves import with_parameters
from ..policy import Curvature, Slopes
from ..policy.problem import Judgement
from ..policy.variables import Row, rows
from . import baselines, replay, robustness, surface
from .config import ConfigError
from .folder import prepare_folder, write_atomic, write_json
from .provenance import commit, package_version
from .run import Study, resolved
from .stages import Stages
from .tune import Outcome
from .venue import OUTCOMES

_DEVIATIONS = 3.0  # standard errors within which two derivatives agree
_BIAS = 1e-2  # share of a derivative that central differences over 5 % may be off


def begin(folder: Path, tables: dict[str, Any], resume: bool) -> Stages:
    """Makes the folder of a policy, or takes up one whose search was stopped, and gives what it has kept.

    **Raises:** `ConfigError` if the folder is in use, or was begun with another config, other code or another device.
    """
    if not (folder / "parts").is_dir() and (folder / "policy.json").exists():
        raise ConfigError(f"{folder}: holds a policy that is done, see report.md in it; choose another --out")
    prepare_folder(folder, tomli_w.dumps(tables), resume)
    return Stages(folder / "parts")


def finish(folder: Path) -> None:
    """Removes what was kept to go on with."""
    shutil.rmtree(folder / "parts", ignore_errors=True)


def write(folder: Path, study: Study, outcome: Outcome) -> None:
    """Writes `policy.toml`, which goes straight to `tailrisk run`, and `policy.json`."""
    scenario = with_parameters(outcome.scenario, outcome.refined.policy.parameters)
    text = "# Certified" if outcome.certified else "# NOT CERTIFIED"
    text += f" on fresh paths at {outcome.certificate.level:.0%}; search {outcome.status}: see policy.json.\n\n"
    config = resolved(Study(scenario=scenario, run=study.run))
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "policy.toml", lambda file: file.write((text + config).encode()))
    made = {
        "version": package_version(),
        "commit": commit(),
        "config_sha256": hashlib.sha256(config.encode()).hexdigest(),
        "device": str(jax.devices()[0].device_kind),
        "precision": "float32, sums in float64",
        "seed": outcome.wanted.seed,
        "seconds": outcome.seconds,
        "processor_seconds": outcome.processor_seconds,
    }
    write_json(folder / "policy.json", as_json(outcome) | {"made": made})


def as_json(outcome: Outcome) -> dict[str, Any]:
    """Everything that was found, in plain numbers; outcomes are shares of the first gross notional."""
    attempt = outcome.certificate.attempts[-1]
    problem, wanted = outcome.problem, outcome.wanted
    names = [constraint.name for constraint in problem.constraints]
    limits = {c.name: float(c.limit) for c in problem.constraints}
    refined, optimal = outcome.refined, outcome.audit.optimal

    def lines(judged: Judgement) -> dict[str, Any]:
        table = zip(names, judged.value, judged.std_error, limits.values(), strict=True)
        return {name: {"estimate": v, "std_error": e, "limit": limit} for name, v, e, limit in table}

    return {
        "status": outcome.certificate.status,
        "search": outcome.status,
        "tuned_policy": outcome.certified,
        "level": outcome.certificate.level,
        "choice": outcome.choice,
        "parameters": {name: value.tolist() for name, value in refined.policy.parameters.items()},
        "grid": {v.name: float(getattr(v, "grid", 0.0)) for v in wanted.variables},
        "before_rounding": {name: value.tolist() for name, value in refined.optimum.parameters.items()},
        "prices": {name: float(price) for name, price in problem.cost.items()},
        "cost": {
            "tuning": refined.judged.cost,
            "before_rounding": refined.at_optimum.cost,
            "fresh": attempt.cost,
            "incumbent": outcome.incumbent.cost,
        },
        "cost_split": {"policy": outcome.split, "incumbent": outcome.incumbent_split},
        "outcomes": OUTCOMES,
        "soft": _soft(outcome, names),
        "tuning": lines(refined.judged),
        "fresh": {line.name: line._asdict() for line in attempt.lines},
        "incumbent": lines(outcome.incumbent),
        "attempts": [
            {"root": a.root, "status": a.status, "error": a.error, "paths": a.paths}
            for a in outcome.certificate.attempts
        ],
        "shadow_prices": _prices(outcome),
        "conditions": {
            "residual": optimal.residual,
            "noise": optimal.noise,
            "cost_gradient": optimal.pull,
            "tolerance": float(wanted.tolerance),
            "complementarity": dict(zip(names, optimal.complementarity, strict=True)),
            "touched": [{"bound": label, "multiplier": force} for label, force in optimal.touched],
            "unidentified": [entry_name(*entry) for entry in optimal.unidentified],
            "directions": _directions(outcome.audit.bend),
        },
        "sensitivities": _sensitivities(outcome, names),
        "gradients": [row._asdict() for row in outcome.gradients],
        "touched_after_rounding": _touched(rows(wanted.variables, refined.policy.parameters)),
        "smooth": None
        if outcome.tuned is None
        else {
            "status": outcome.tuned.status,
            "evaluations": outcome.tuned.evaluations,
            "shadow_prices": dict(zip(names, outcome.tuned.shadow_prices, strict=True)),
        },
        "evaluations": refined.evaluations,
        "paths": {"tuning": wanted.paths, "coarse": outcome.searches[0].paths, "audit": wanted.audit_paths},
        "searches": [
            {
                "choice": one.choice,
                "start": one.start,
                "cost": one.refined.at_optimum.cost,
                "violation": one.refined.violation,
            }
            for one in outcome.searches
        ],
        "front": _front(outcome),
        "robustness": None if outcome.panel is None else robustness.as_json(outcome.panel, limits),
        "surface": surface.as_json(outcome.surface, wanted.surface, names),
        "replay": replay.as_json(outcome.replayed),
        "baselines": baselines.as_json(outcome.rivals, problem, wanted.baselines) if outcome.rivals else None,
    }


def _soft(outcome: Outcome, names: list[str]) -> dict[str, Any] | None:
    """The constrained quantities on the smooth twin, which has no breaker and bounds a probability from above."""
    smooth = outcome.audit.smooth
    if smooth is None or smooth.here is None or smooth.here_error is None:
        return None
    rows = zip(names, smooth.here, smooth.here_error, strict=True)
    return {name: {"estimate": value, "std_error": error} for name, value, error in rows}


def entry_name(name: str, place: int) -> str:
    """How one number of a policy is called."""
    return f"{name}[{place}]"


def _directions(bend: Curvature) -> list[dict[str, Any]]:
    """What is free to move where limits, bounds and orders bind, the flattest first; costs as shares of the cost."""
    return [
        {"direction": bend.words(j), "curvature": value, "std_error": error, "identified": known}
        for j, (value, error, known) in enumerate(
            zip(bend.eigenvalues.tolist(), bend.errors.tolist(), bend.identified, strict=True)
        )
    ]


def _touched(all_rows: list[Row]) -> list[str]:
    return [row.label for row in all_rows if row.slack <= 1e-9]


def _prices(outcome: Outcome) -> dict[str, Any]:
    """Cost per unit of each limit: by multipliers of the deciding model, of its smooth twin, and along the front."""
    optimal, smooth = outcome.audit.optimal, outcome.audit.smooth_optimal
    out = {}
    for k, constraint in enumerate(outcome.problem.constraints):
        out[constraint.name] = {
            "price": optimal.prices[k],
            "std_error": optimal.price_errors[k],
            "binding": bool(optimal.binding[k]),
            "smooth": None if smooth is None else smooth.prices[k],
            "smooth_error": None if smooth is None else smooth.price_errors[k],
            "along_front": None,
        }
    for target in outcome.front:
        constraint = outcome.problem.constraints[outcome.wanted.frontier.constraint]
        if target.limit == float(constraint.limit) and np.isfinite(target.slope):
            out[constraint.name]["along_front"] = target.slope
    return out


def _sensitivities(outcome: Outcome, names: list[str]) -> list[dict[str, Any]]:
    """Derivatives per 10 % of every number, by differences and by gradients, and whether they agree."""
    hard, smooth = outcome.audit.hard, outcome.audit.smooth
    limits = [float(constraint.limit) for constraint in outcome.problem.constraints]
    out = []
    for j, (name, place) in enumerate(hard.entries):
        kind = "difference" if name.startswith("breaker.") else "pathwise"
        twin = smooth if kind == "pathwise" else None  # the twin has no breaker
        row: dict[str, Any] = {
            "number": entry_name(name, place),
            "value": float(np.reshape(outcome.refined.optimum.parameters[name], -1)[place]),
            "gradient": kind,
            "cost": _pair(hard, twin, lambda s, j=j: (s.cost[j], s.cost_error[j])),
        }
        for k, constraint in enumerate(names):
            scale = 1.0 / limits[k]
            row[constraint] = _pair(
                hard, twin, lambda s, j=j, k=k, scale=scale: (scale * s.value[k, j], scale * s.value_error[k, j])
            )
        out.append(row)
    return out


def _pair(hard: Slopes, smooth: Slopes | None, pick: Any) -> dict[str, Any]:
    value, error = pick(hard)
    out = {"difference": value, "std_error": error}
    if smooth is not None:
        other, other_error = pick(smooth)
        reach = _DEVIATIONS * float(np.hypot(error, other_error)) + _BIAS * abs(value)
        out |= {"smooth": other, "smooth_error": other_error, "agree": bool(abs(value - other) <= reach)}
    return out


def _front(outcome: Outcome) -> list[dict[str, Any]]:
    constraint = outcome.wanted.frontier.constraint
    return [
        {
            "limit": target.limit,
            "cost": target.refined.judged.cost,
            "cost_before_rounding": target.searched.at_optimum.cost,
            "room": target.refined.room,
            "estimate": float(target.refined.judged.value[constraint]),
            "fresh": target.certificate.attempts[-1].lines[constraint].estimate,
            "upper_bound": target.certificate.attempts[-1].lines[constraint].upper_bound,
            "certificate": target.certificate.status,
            "violation": target.refined.violation,
            "parameters": {name: value.tolist() for name, value in target.refined.policy.parameters.items()},
            "price": target.price,
            "price_error": target.price_error,
            "slope": target.slope,
            "slope_error": target.slope_error,
            "agree": target.agree,
        }
        for target in outcome.front
    ]
