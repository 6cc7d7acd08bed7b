"""Estimates of a run: every metric with its standard error and interval."""

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np

from .._fields import SECONDS_PER_YEAR
from ..scenario import Scenario, VenueSystem
from ..tails import binned, measures, summed
from ..tails.moments import Moments, merge_moments, scaled
from . import parts
from .tally import COLUMNS, COUNTED, LEDGER_TOLERANCE, Tally, section_sizes, to_arrays


def summarize(
    scenario: Scenario, run: Any, system: VenueSystem, tallies: list[Tally], rows: dict[str, np.ndarray], gross: float
) -> dict[str, Any]:
    """The contents of `summary.json` (without the wall time) from the summaries of every draw of the book and the rows kept.

    Quantiles are those of the rows where all are kept.
    """
    confidence, paths = float(run.confidence), sum(one.paths for one in tallies)
    columns = _Columns(tallies, confidence)
    counts = {name: sum(one.counts[name] for one in tallies) for name in tallies[0].counts}
    metrics: dict[str, measures.Estimate] = {}

    def mean(name: str, key: str, unit: str, scale: float = 1.0) -> None:
        metrics[name] = columns.mean(key, scale)._replace(unit=unit)

    mean("expected_bad_debt", "bad_debt", "USD")
    mean("expected_bad_debt_share", "bad_debt", "1", 1.0 / gross)
    metrics["bad_debt_probability"] = measures.probability(counts["bad"], confidence, paths=paths)
    for level in np.atleast_1d(np.asarray(run.levels, float)):
        name = f"{100 * level:g}"
        var, es = _tail(float(level), columns, tallies, rows, confidence)
        metrics[f"bad_debt_var_{name}"], metrics[f"bad_debt_es_{name}"] = (
            var._replace(unit="USD"),
            es._replace(unit="USD"),
        )
    metrics["fund_depletion_probability"] = measures.probability(counts["depleted"], confidence, paths=paths)
    mean("liquidated_share", "liquidated_share", "1")
    mean("forced_volume", "forced_notional", "USD")
    metrics["amplification"] = columns.ratio()
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
    posted = float(system.cascade.positions.equity(start, jnp.zeros(np.size(scenario.price), run.precision))) / gross
    metrics["margin_cost"] = measures.Estimate(posted, 0.0, posted, posted, "1", "")
    out = {
        "metrics": {name: _entry(estimate) for name, estimate in metrics.items()},
        "flags": {
            "unsettled_steps": counts["unsettled_steps"],
            "paths_unsettled": counts["unsettled"],
            "paths_not_finite": counts["not_finite"],
            "paths_ledger_open": counts["ledger_open"],
        },
        "ledger_residual": float(np.max([one.residual for one in tallies])),
        "ledger_tolerance": LEDGER_TOLERANCE[run.precision],
        "gross_notional": gross,
        "accounts": int(np.asarray(getattr(scenario.book, "accounts", 0))),
        "paths": paths,
        "rows": parts.kept(run) * run.books,
        "books": int(run.books),
        "steps": int(system.steps),
        "seed": int(run.seed),
        "estimator": run.estimator,
        "confidence": confidence,
    }
    if run.books > 1:
        out["between_books"] = _between_books(tallies)
    return out


def _entry(estimate: measures.Estimate) -> dict[str, Any]:
    entry = {
        "value": estimate.value,
        "std_error": estimate.std_error,
        "ci95": [estimate.low, estimate.high],
        "unit": estimate.unit,
    }
    return entry | ({"note": estimate.note} if estimate.note else {})


class _Columns:
    """Means of the columns of all paths."""

    def __init__(self, tallies: list[Tally], confidence: float):
        self.moments = functools.reduce(merge_moments, [one.moments for one in tallies])
        self.positive = np.all([one.positive for one in tallies], axis=0)
        self.broken = np.sum([one.broken for one in tallies], axis=0)
        self.confidence = confidence

    def of(self, key: str) -> Moments:
        return Moments(*(field[COLUMNS.index(key)] for field in self.moments))

    def complaint(self, *keys: str) -> str:
        bad = max(int(self.broken[COLUMNS.index(key)]) for key in keys)
        return f"{bad:,} of {int(self.moments.count[0]):,} paths are not finite" if bad else ""

    def mean(self, key: str, scale: float) -> measures.Estimate:
        if wrong := self.complaint(key):
            return measures.nothing(wrong)
        return summed.mean(scaled(self.of(key), scale), bool(self.positive[COLUMNS.index(key)]), self.confidence)

    def ratio(self) -> measures.Estimate:
        if wrong := self.complaint("market_fall", "news_fall"):
            return measures.nothing(wrong)
        market, news, added, apart = map(self.of, ("market_fall", "news_fall", "falls_added", "falls_apart"))
        return summed.ratio_of_means(market, news, added, apart, self.confidence)


def _tail(
    level: float, columns: _Columns, tallies: list[Tally], rows: dict[str, np.ndarray], confidence: float
) -> tuple[measures.Estimate, measures.Estimate]:
    """Value-at-risk and expected shortfall of bad debt."""
    paths = sum(one.paths for one in tallies)
    if rows and rows["bad_debt"].size == paths:
        debt = rows["bad_debt"].astype(float)
        return measures.quantile(debt, level, confidence), measures.expected_shortfall(debt, level, confidence)
    if wrong := columns.complaint("bad_debt"):
        return measures.nothing(wrong), measures.nothing(wrong)
    bins = functools.reduce(binned.merge, [one.bins["bad_debt"] for one in tallies])
    sizes = np.sum([section_sizes(one.paths) for one in tallies], axis=0)
    return binned.quantile(bins, paths, level, confidence), binned.shortfall(bins, paths, level, sizes, confidence)


def curves(tallies: list[Tally], run: Any) -> dict[str, np.ndarray]:
    """What a run that does not keep every path leaves beside rows: losses in bins for figures, its summary to be merged."""
    if parts.kept(run) == run.paths:
        return {}
    found = {f"tally/{name}": value for name, value in to_arrays(tallies[0]).items()} if len(tallies) == 1 else {}
    return found | rungs(tallies)


def rungs(tallies: list[Tally]) -> dict[str, np.ndarray]:
    """Values and counts of the losses of all paths, largest first."""
    out = {"paths": np.asarray(sum(one.paths for one in tallies))}
    for name in COUNTED:
        steps = binned.ladder(functools.reduce(binned.merge, [one.bins[name] for one in tallies]))
        out |= {f"bins/{name}/value": steps.mean, f"bins/{name}/count": steps.count}
    return out


def _between_books(tallies: list[Tally]) -> dict[str, Any]:
    """Quantiles over draws of the book of each book's mean: how much hangs on positions nobody can see."""
    names = (
        "bad_debt",
        "forced_notional",
        "liquidated_share",
        "market_fall",
        "news_fall",
        "adl_notional",
        "adl_pnl",
    )
    moments = [one.moments for one in tallies]
    means = {name: np.array([float(m.mean[COLUMNS.index(name)]) for m in moments]) for name in names}
    means["amplification"] = means["market_fall"] / np.where(means["news_fall"] > 0, means["news_fall"], np.nan)
    levels = (0.05, 0.25, 0.5, 0.75, 0.95)
    return {name: {f"q{100 * q:g}": float(np.quantile(value, q)) for q in levels} for name, value in means.items()}
