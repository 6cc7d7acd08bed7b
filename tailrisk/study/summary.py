"""Estimates of a run: every metric with its standard error and interval."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from .._fields import SECONDS_PER_YEAR
from ..scenario import Scenario, VenueSystem
from ..tails import measures

LEDGER_TOLERANCE = {"float32": 1e-6, "float64": 1e-12}


def summarize(
    scenario: Scenario, run: Any, system: VenueSystem, paths: dict[str, np.ndarray], results: dict[str, np.ndarray]
) -> dict[str, Any]:
    """The contents of `summary.json` (without the wall time)."""
    confidence, gross = float(run.confidence), float(results["gross"])
    debt = paths["bad_debt"].astype(float)
    metrics: dict[str, measures.Estimate] = {}

    def mean(name: str, key: str, unit: str, scale: float = 1.0) -> None:
        metrics[name] = measures.mean(paths[key].astype(float) * scale, confidence)._replace(unit=unit)

    mean("expected_bad_debt", "bad_debt", "USD")
    mean("expected_bad_debt_share", "bad_debt", "1", 1.0 / gross)
    metrics["bad_debt_probability"] = measures.probability(debt > 0.0, confidence)
    for level in np.atleast_1d(np.asarray(run.levels, float)):
        name = f"{100 * level:g}"
        metrics[f"bad_debt_var_{name}"] = measures.quantile(debt, level, confidence)._replace(unit="USD")
        metrics[f"bad_debt_es_{name}"] = measures.expected_shortfall(debt, level, confidence)._replace(unit="USD")
    metrics["fund_depletion_probability"] = measures.probability(paths["fund_depleted"] > 0.0, confidence)
    mean("liquidated_share", "liquidated_share", "1")
    mean("forced_volume", "forced_notional", "USD")
    metrics["amplification"] = measures.ratio_of_means(
        paths["market_fall"].astype(float), paths["news_fall"].astype(float), confidence
    )
    mean("time_halted", "halted_time", "min", SECONDS_PER_YEAR / 60.0)
    mean("fees", "fees", "USD")
    mean("fund_paid", "fund_paid", "USD")
    mean("backstop_paid", "backstop_paid", "USD")
    mean("adl_notional", "adl_notional", "USD")
    mean("adl_pnl", "adl_pnl", "USD")
    mean("adl_contracts", "adl_contracts", "units")
    mean("socialized_loss", "socialized_loss", "USD")
    mean("residual_loss", "residual_loss", "USD")
    start = system.init().books.positions
    posted = float(system.cascade.positions.equity(start, jnp.zeros(len(results["price"]), run.precision))) / gross
    metrics["margin_cost"] = measures.Estimate(posted, 0.0, posted, posted, "1", "")
    residual = np.abs(paths["ledger_residual"].astype(float))
    out = {
        "metrics": {name: _entry(estimate) for name, estimate in metrics.items()},
        "flags": {
            "unsettled_steps": int(paths["flag_unsettled"].sum()),
            "paths_unsettled": int((paths["flag_unsettled"] > 0).sum()),
            "paths_not_finite": int((paths["flag_broken"] > 0).sum()),
            "paths_ledger_open": int((~(residual <= LEDGER_TOLERANCE[run.precision])).sum()),  # nan is open too
        },
        "ledger_residual": float(residual.max()),
        "ledger_tolerance": LEDGER_TOLERANCE[run.precision],
        "gross_notional": gross,
        "accounts": int(np.asarray(getattr(scenario.book, "accounts", 0))),
        "paths": int(debt.size),
        "books": int(run.books),
        "steps": int(system.steps),
        "seed": int(run.seed),
        "estimator": run.estimator,
        "confidence": confidence,
    }
    if run.books > 1:
        out["between_books"] = _between_books(paths)
    return out


def _entry(estimate: measures.Estimate) -> dict[str, Any]:
    entry = {
        "value": estimate.value,
        "std_error": estimate.std_error,
        "ci95": [estimate.low, estimate.high],
        "unit": estimate.unit,
    }
    return entry | ({"note": estimate.note} if estimate.note else {})


def _between_books(paths: dict[str, np.ndarray]) -> dict[str, Any]:
    """Quantiles over draws of the book of each book's mean: how much hangs on positions nobody can see."""
    books = np.unique(paths["book"])
    means = {
        name: np.array([paths[name][paths["book"] == b].astype(float).mean() for b in books])
        for name in (
            "bad_debt",
            "forced_notional",
            "liquidated_share",
            "market_fall",
            "news_fall",
            "adl_notional",
            "adl_pnl",
        )
    }
    means["amplification"] = means["market_fall"] / np.where(means["news_fall"] > 0, means["news_fall"], np.nan)
    levels = (0.05, 0.25, 0.5, 0.75, 0.95)
    return {name: {f"q{100 * q:g}": float(np.quantile(value, q)) for q in levels} for name, value in means.items()}
