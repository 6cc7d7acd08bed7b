"""From a config of data to tables of a scenario: what `tailrisk calibrate` does, and the folder that it writes."""

import datetime
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import equinox as eqx
import numpy as np

from .._fields import Real, choice, count, flag, real
from ..calibrate import AbstractLaw, Fit, HawkesFilter, contest, fit, goodness, joined, returns
from ..calibrate.correlation import PairRegimes, by_volatility
from ..calibrate.goodness import quantile_plot
from ..calibrate.heston import fit_heston
from ..calibrate.indirect import corrected
from ..calibrate.reproduce import day_of, measured, rows_of, simulate, statistics
from ..data.series import AbstractSeries
from .book_task import BookTask
from .book_task import estimate as estimate_book
from .config import ConfigError, apply_override, read_toml, structure
from .events import Replays, read, replay, table_of
from .folder import write_arrays, write_json, write_text
from .impact_task import ImpactTask
from .impact_task import estimate as estimate_impact
from .margin_task import MarginTask
from .margin_task import estimate as estimate_margins
from .posterior import STATISTICS, speak
from .provenance import made_with
from .run import use_precision
from .tables import in_hours, market_table, plain

Report = Callable[[str], None]


class MarketTask(eqx.Module):
    """Laws of returns to fit to a series, and how much is simulated and resampled to judge them."""

    series: AbstractSeries
    laws: tuple[AbstractLaw, ...] = eqx.field(converter=tuple)
    indirect: bool = flag(False)  # corrects the bias of HawkesFilter by indirect inference as well
    heston: bool = flag(False)  # stochastic volatility by simulated moments as well
    choose: str = eqx.field(static=True, converter=str, default="")  # the law to write; empty: by BIC
    months: int = count(200, least=10)  # simulated
    resamples: int = count(200, least=20)  # of months of the history

    def check(self) -> Iterator[tuple[str, str]]:
        names = [type(law).__name__ for law in self.laws]
        if not names:
            yield "laws", 'the list is empty; give at least one, for example laws = ["Merton"]'
        if self.series.assets != 1:
            yield "series", f"{self.series.assets} assets, expected one"
        for law in self.laws:
            if law.assets != 1:
                yield "laws", f"{type(law).__name__} is a law of {law.assets} assets; use [correlations]"
        if self.indirect:
            names += [f"{name}, indirect" for name in names if name == "HawkesFilter"]
        if self.choose and self.choose not in names:
            yield "choose", f"{self.choose!r} is none of the laws {', '.join(names)}"


class CorrelationTask(eqx.Module):
    """Series of several assets over the same times; the first is paired with each of the others."""

    series: tuple[AbstractSeries, ...] = eqx.field(converter=tuple)
    names: tuple[str, ...] = eqx.field(static=True, converter=lambda given: tuple(str(n) for n in given))

    def check(self) -> Iterator[tuple[str, str]]:
        if len(self.series) < 2 or len(self.names) != len(self.series):
            yield (
                "names",
                f"{len(self.names)} name(s) for {len(self.series)} series; give at least two series, each with a name",
            )


class PosteriorTask(eqx.Module):
    """Which event speaks, how well its statistics are known, and what is checked."""

    event: str
    draws: int = count(4_000, least=100)
    news: Real = real([0.0, 1.0], unit="1", least=0.0, most=1.0)  # part of the fall after the onset that was news, even
    errors: dict[str, Any] = eqx.field(
        static=True,
        converter=dict,
        default_factory=lambda: {"log drop": 0.1, "rebound": 0.15, "log liquidated share": 0.25},
    )  # standard errors of the statistics
    truths: int = count(300, least=50)  # of the simulation-based check
    keep: int = count(100, least=1)  # rows of the posterior that are written

    def check(self) -> Iterator[tuple[str, str]]:
        if set(self.errors) != set(STATISTICS):
            yield "errors", f"{sorted(self.errors)}: expected one error for each of {', '.join(STATISTICS)}"
        if np.shape(self.news) != (2,):
            yield "news", f"{np.asarray(self.news).tolist()}: expected [low, high]"


class Calibration(eqx.Module):
    """A calibration config: what the data are, and one table for each part of a scenario that is wanted."""

    source: str = eqx.field(static=True, converter=str)  # where the data come from, for the files that are written
    seed: int = count(0, most=2**32 - 1)
    precision: str = choice("float64", "float64")
    market: MarketTask | None = None
    correlations: CorrelationTask | None = None
    impact: ImpactTask | None = None
    book: BookTask | None = None
    replay: Replays | None = None
    posterior: PosteriorTask | None = None
    margins: MarginTask | None = None

    def check(self) -> Iterator[tuple[str, str]]:
        if all(
            part is None for part in (self.market, self.correlations, self.impact, self.book, self.replay, self.margins)
        ):
            yield "", "nothing to do; give a table [market], [correlations], [impact], [book], [replay] or [margins]"
        if self.posterior is not None:
            known = {event.name: event for event in self.replay.events} if self.replay is not None else {}
            if self.posterior.event not in known:
                yield (
                    "posterior.event",
                    f"{self.posterior.event!r} is none of the events of [replay]: {', '.join(known) or 'none'}",
                )
            elif np.size(share := known[self.posterior.event].liquidated_share) != 2 or np.min(share) <= 0.0:
                yield (
                    "posterior.event",
                    f"{self.posterior.event} has no liquidated_share = [low, high], which a posterior needs; add it",
                )


def load(path: Path, overrides: tuple[str, ...] = ()) -> Calibration:
    """Reads a calibration config."""
    table = read_toml(path)
    for text in overrides:
        apply_override(table, text)
    return structure(table, Calibration)


def execute(wanted: Calibration, folder: Path, report: Report = lambda text: None) -> dict[str, Any]:
    """Fits what a config asks for and writes tables, `calibration.json` and `results.npz` into the folder."""
    began = time.monotonic()
    use_precision(wanted.precision)
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"source": wanted.source, "date": datetime.date.today().isoformat()}
    arrays: dict[str, np.ndarray] = {}
    if wanted.market is not None:
        found["market"], text = _market(wanted.market, wanted, arrays, report)
        if text:
            write_text(folder / "market.toml", text)
    if wanted.correlations is not None:
        found["correlations"] = _correlations(wanted.correlations, report)
    if wanted.impact is not None:
        found["impact"], text = estimate_impact(wanted.impact, wanted.seed, wanted.source, report)
        write_text(folder / "impact.toml", text)
    if wanted.book is not None:
        found["book"], text = estimate_book(wanted.book, wanted.seed, wanted.source)
        write_text(folder / "book.toml", text)
    if wanted.replay is not None:
        crashes = {event.name: read(event, wanted.replay.hours) for event in wanted.replay.events}
        found["replay"] = {
            name: table_of(crash, replay(crash, wanted.replay, wanted.seed, report=report))
            for name, crash in crashes.items()
        }
        for name, crash in crashes.items():
            arrays[f"replay/{name}"] = crash.log_price
        if wanted.posterior is not None:
            found["posterior"], files = speak(wanted.posterior, wanted.replay, crashes, wanted.seed, arrays, report)
            for name, text in files.items():
                write_text(folder / name, text)
    if wanted.margins is not None:
        found["margins"] = estimate_margins(wanted.margins, report)
    found |= {"seed": wanted.seed, "wall_seconds": time.monotonic() - began, **made_with()}
    write_arrays(folder / "results.npz", arrays)
    write_json(folder / "calibration.json", found)
    return found


def _market(
    task: MarketTask, wanted: Calibration, arrays: dict[str, np.ndarray], report: Report
) -> tuple[dict[str, Any], str]:
    data = returns(task.series)
    report(f"{data.seen.sum():,} returns from {data.start} to {data.end}; {(~data.seen).sum()} lost at gaps")
    fits: dict[str, Fit] = {}
    for law in task.laws:
        name = type(law).__name__
        fits[name] = fit(law, data)
        report(f"{name}: log likelihood {fits[name].log_likelihood:.1f}")
        if task.indirect and isinstance(law, HawkesFilter):
            fits[f"{name}, indirect"] = corrected(fits[name], data, seed=wanted.seed, report=report)
    day = day_of(data)
    real = measured(data, day, task.resamples, wanted.seed)
    arrays["market/losses"] = -data.observed
    laws: dict[str, Any] = {}
    for name, one in fits.items():
        laws[name] = _law(one, data)
        arrays[f"market/quantiles/{name}"] = quantile_plot(one, data)
        if one.market is not None:
            rows, crash = simulate(one.market, data.every, task.months, rows_of(data).shape[1], wanted.seed)
            laws[name]["simulated"] = statistics(rows, day)
            if hasattr(one.market, "crash_from"):  # a multiple of the normal level, exceeded 1 % of the time
                laws[name]["crash_from"] = 1.0 / (1.0 - float(np.quantile(crash, 0.99)))
            arrays[f"market/simulated/{name}"] = -rows.ravel()
    able = {name: one for name, one in fits.items() if one.market is not None}
    if task.choose and task.choose not in able:
        raise ConfigError(f"market.choose: {task.choose} is no law that a scenario can run; choose {', '.join(able)}")
    best = task.choose or max(able, key=lambda name: laws[name]["bic"], default="")
    own = [one for name, one in fits.items() if not name.endswith("indirect")]
    contests = [contest(one, two, data)._asdict() for i, one in enumerate(own) for two in own[:i]]
    out = {
        "start": data.start, "end": data.end, "returns": int(data.seen.sum()), "every_hours": data.every * 8760.0,
        "chosen": best, "measured": {name: m._asdict() for name, m in real.items()}, "laws": laws, "contests": contests,
    }  # fmt: skip
    if task.heston:
        moments = fit_heston(data, seed=wanted.seed)
        out["heston"] = plain(moments._asdict())
        report(f"Heston: p-value of its moments {moments.p_value:.2g}")
    if not best:
        return out, ""
    about = f"{data.seen.sum():,} returns every {data.every * 8760.0:g} h, {data.start[:10]} to {data.end[:10]}"
    return out, market_table(able[best], laws[best].get("crash_from", 1.0), wanted.source, about)


def _correlations(task: CorrelationTask, report: Report) -> dict[str, Any]:
    first, *others = (returns(series) for series in task.series)
    out = {}
    for name, other in zip(task.names[1:], others, strict=True):
        data = joined(first, other)
        found, buckets = fit(PairRegimes(), data), by_volatility(data)
        pair = f"{task.names[0]} and {name}"
        report(
            f"{pair}: correlation {found.values['correlation']:.2f} in calm, {found.values['crash_correlation']:.2f} in crash"
        )
        out[pair] = {
            "start": data.start, "end": data.end, "estimates": plain(found.estimates),
            "buckets": [bucket._asdict() for bucket in buckets],
        }  # fmt: skip
    return out


def _law(one: Fit, data: Any) -> dict[str, Any]:
    ratio = np.sqrt(np.diag(one.covariance) / np.diag(one.robust))
    return {
        "log_likelihood": one.log_likelihood,
        "bic": 2.0 * one.log_likelihood - one.point.size * float(np.log(data.seen.sum())),
        "estimates": plain({name: in_hours(e) for name, e in one.estimates.items()}),
        "hessian_over_robust_error": ratio.tolist(),
        "goodness": goodness(one, data)._asdict(),
    }
