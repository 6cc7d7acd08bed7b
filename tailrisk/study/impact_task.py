"""Impact and depth from bars, trades by side and resting orders: what `[impact]` of a calibration does."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import equinox as eqx
import numpy as np

from ..calibrate.evaporation import Evaporation, evaporation
from ..calibrate.impact import BookImpact, activity, book_impact, flow_impact, pool
from ..data.binance import read_book_depth
from ..data.quality import sound
from ..impact import EvaporatingDepth, SquareRoot
from ..tails.measures import Estimate
from .bars import BarsFile
from .config import CONVERTER, ConfigError
from .tables import annotated, plain

Report = Callable[[str], None]
CONSTANTS = ("sensitivity", "floor", "recovery")


class Flow(eqx.Module):
    """One table of bars with aggressive volume, in which several markets stand."""

    bars: BarsFile
    markets: tuple[dict[str, Any], ...] = eqx.field(static=True, converter=lambda given: tuple(dict(m) for m in given))
    window: str = eqx.field(static=True, converter=str, default="15min")


class Episode(eqx.Module):
    """An event in which depth went and came back; the bars begin well before it."""

    name: str
    bars: BarsFile
    start: str = eqx.field(static=True, converter=str)
    end: str = eqx.field(static=True, converter=str)


class RestingOrders(eqx.Module):
    """Snapshots of resting orders by bands (Binance's archive of bookDepth)."""

    path: str = eqx.field(static=True, converter=str)
    start: str = eqx.field(static=True, converter=str, default="")
    end: str = eqx.field(static=True, converter=str, default="")


class ImpactTask(eqx.Module):
    """What to estimate impact and depth from; `normal` are bars of the market itself before the event."""

    normal: BarsFile
    flow: Flow
    episodes: tuple[Episode, ...] = eqx.field(converter=tuple)
    depth: RestingOrders | None = None

    def check(self) -> Iterator[tuple[str, str]]:
        if len(self.flow.markets) < 3:
            yield "flow.markets", f"{len(self.flow.markets)} market(s), expected at least 3 to say how much they differ"
        if len(self.episodes) < 3:
            yield "episodes", f"{len(self.episodes)} episode(s), expected at least 3 to say how much they differ"


def estimate(task: ImpactTask, seed: int, source: str, report: Report) -> tuple[dict[str, Any], str]:
    """Everything that the task asks for, and the table `[impact]`."""
    normal = activity(task.normal.read())
    flows = {}
    for market in task.flow.markets:
        name = " ".join(str(value) for value in market.values())
        bars = dataclasses.replace(task.flow.bars, where=market)
        flows[name] = flow_impact(bars.read(), task.flow.window, seed=seed)
    prefactor = pool([found.prefactor for found in flows.values()])
    exponent = pool([found.exponent for found in flows.values()])
    report(f"prefactor {prefactor.mean.value:.2f} over {len(flows)} markets, they differ by {prefactor.between:.2f}")
    episodes: dict[str, Evaporation] = {}
    for one in task.episodes:
        episodes[one.name] = evaporation(one.bars.read(), one.start, one.end, seed=seed)
        report(f"{one.name}: effective depth fell to {episodes[one.name].lowest:.1%} in its worst hour")
    constants = {name: _pooled([getattr(e, name) for e in episodes.values()]) for name in CONSTANTS}
    out: dict[str, Any] = {
        "normal": normal._asdict(),
        "flow": {name: {"prefactor": f.prefactor, "exponent": f.exponent, "explained": f.explained} for name, f in flows.items()},
        "prefactor": prefactor._asdict(), "exponent": exponent._asdict(),
        "episodes": {
            name: {key: getattr(e, key) for key in ("reference", "lowest", *CONSTANTS)} for name, e in episodes.items()
        },
        "constants": constants,
    }  # fmt: skip
    if task.depth is not None:
        resting = sound(read_book_depth(Path(task.depth.path)).between(task.depth.start, task.depth.end))
        book: BookImpact = book_impact(resting, normal, seed=seed)
        bands = {f"{band:+.0%}": found for band, found in zip(book.bands, book.prefactor, strict=True)}
        out["resting"] = {"prefactor": bands, "exponent": book.exponent, "snapshots": len(resting)}
    return plain(out), _table(normal, prefactor, constants, source)


def _pooled(found: list[Estimate]) -> Estimate:
    """The geometric mean over events and where the number of another event lies with 95 %."""
    logs = [Estimate(float(np.log(e.value)), e.std_error / e.value, 0.0, 0.0) for e in found]
    both = pool(logs)
    value = float(np.exp(both.mean.value))
    spread = float(np.hypot(both.between, both.mean.std_error)) * value
    low, high = (float(np.exp(end)) for end in both.predicted)
    return Estimate(value, spread, low, high, found[0].unit, "geometric mean over events, interval for another event")


def _table(normal: Any, prefactor: Any, constants: dict[str, Estimate], source: str) -> str:
    if not np.isfinite(prefactor.mean.value):
        raise ConfigError("impact: no prefactor was found")
    depth = EvaporatingDepth(
        volume=normal.volume,
        sensitivity=constants["sensitivity"].value,
        floor=min(constants["floor"].value, 1.0),
        reference=normal.volatility * np.sqrt(365.0),
        recovery=f"{constants['recovery'].value:.6g}min",
    )
    law = SquareRoot(depth, prefactor.mean.value, normal.volatility)
    low, high = prefactor.predicted
    known = constants | {"prefactor": prefactor.mean._replace(low=low, high=high)}
    recovery = known["recovery"]
    year = 365.0 * 1440.0
    known["floor"] = known["floor"]._replace(high=min(known["floor"].high, 1.0))
    known["recovery"] = recovery._replace(low=recovery.low / year, high=recovery.high / year, unit="year")
    head = (
        f"# Impact and depth from {source}. Made by `tailrisk calibrate`.\n"
        f"# volume and volatility are of {normal.days:g} days before the event. Intervals are where the number of another\n"
        "# market (prefactor) or another event (depth) lies with 95 %. memory and crash_loss are assumptions [A]."
    )
    return annotated({"impact": CONVERTER.unstructure(law)}, known, head)
