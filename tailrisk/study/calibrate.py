"""From a config of data to tables of a scenario: what `tailrisk calibrate` does, and the folder that it writes."""

import datetime
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import equinox as eqx
import numpy as np

from .._fields import choice, count
from ..calibrate import AbstractLaw, Fit, contest, fit, goodness, returns
from ..calibrate.goodness import quantile_plot
from ..calibrate.reproduce import day_of, measured, rows_of, simulate, statistics
from ..data.series import AbstractSeries
from .config import ConfigError, apply_override, read_toml, structure
from .folder import write_arrays, write_json, write_text
from .run import made_with, use_precision
from .tables import market_table

Report = Callable[[str], None]


class MarketTask(eqx.Module):
    """Laws of returns to fit to a series, and how much is simulated and resampled to judge them."""

    series: AbstractSeries
    laws: tuple[AbstractLaw, ...] = eqx.field(converter=tuple)
    choose: str = eqx.field(static=True, converter=str, default="")  # the law to write; empty: by BIC
    months: int = count(200, least=10)  # simulated
    resamples: int = count(200, least=20)  # of months of the history

    def check(self) -> Iterator[tuple[str, str]]:
        names = [type(law).__name__ for law in self.laws]
        if not names:
            yield "laws", 'the list is empty; give at least one, for example laws = ["Merton"]'
        if self.series.assets != 1:
            yield "series", f"{self.series.assets} assets, expected one"
        if self.choose and self.choose not in names:
            yield "choose", f"{self.choose!r} is none of the laws {', '.join(names)}"


class Calibration(eqx.Module):
    """A calibration config: what the data are, and one table for each part of a scenario that is wanted."""

    source: str = eqx.field(static=True, converter=str)  # where the data come from, for the files that are written
    seed: int = count(0, most=2**32 - 1)
    precision: str = choice("float64", "float64")
    market: MarketTask | None = None

    def check(self) -> Iterator[tuple[str, str]]:
        if self.market is None:
            yield "", "nothing to do; give a table [market]"


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
            laws[name]["crash_from"] = 1.0 / (1.0 - float(np.quantile(crash, 0.99)))
            arrays[f"market/simulated/{name}"] = -rows.ravel()
    able = {name: one for name, one in fits.items() if one.market is not None}
    if task.choose and task.choose not in able:
        raise ConfigError(f"market.choose: {task.choose} is no law that a scenario can run; choose {', '.join(able)}")
    best = task.choose or max(able, key=lambda name: laws[name]["bic"], default="")
    contests = [
        contest(one, two, data)._asdict() for i, one in enumerate(fits.values()) for two in [*fits.values()][:i]
    ]
    out = {
        "start": data.start, "end": data.end, "returns": int(data.seen.sum()), "every_hours": data.every * 8760.0,
        "chosen": best, "measured": {name: m._asdict() for name, m in real.items()}, "laws": laws, "contests": contests,
    }  # fmt: skip
    if not best:
        return out, ""
    about = f"{data.seen.sum():,} returns every {data.every * 8760.0:g} h, {data.start[:10]} to {data.end[:10]}"
    return out, market_table(able[best], laws[best]["crash_from"], wanted.source, about)


def _law(one: Fit, data: Any) -> dict[str, Any]:
    plain = np.sqrt(np.diag(one.covariance) / np.diag(one.robust))
    return {
        "log_likelihood": one.log_likelihood,
        "bic": 2.0 * one.log_likelihood - one.point.size * float(np.log(data.seen.sum())),
        "estimates": {
            name: {"value": e.value, "std_error": e.std_error, "ci95": [e.low, e.high], "unit": e.unit}
            for name, e in one.estimates.items()
        },
        "hessian_over_robust_error": plain.tolist(),
        "goodness": goodness(one, data)._asdict(),
    }
