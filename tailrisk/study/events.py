"""Real crashes under books and impact calibrated before them: what the model makes of the shock, beside what happened.

Two questions, one draw of unknown numbers after the other. *Forecast*: news are the observed prices up to the last bar before
the largest fall of one bar, and then stand still (or go on in part, see `Belief.news`), so what follows is the cascade.
*Attribution*: prices are taken as they were, and the impact law says what the fall would have been without forced sales.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import equinox as eqx
import numpy as np
from jaxtyping import Float

from .._fields import SECONDS_PER_YEAR, InputError, Real, count, duration, parse_duration, real
from ..calibrate.books import BookBelief
from ..calibrate.impact import activity
from ..data import iso, microseconds
from ..data.series import PriceArray
from ..data.tables import Bars
from ..impact import EvaporatingDepth, SquareRoot
from ..liquidation import Full
from ..margin import Brackets
from ..market import Replay
from ..scenario import Scenario, SortedLadder
from ..simulate import outcomes
from ..waterfall import Waterfall
from .bars import BarsFile
from .config import ConfigError

HOUR = 12  # bars
STATISTICS = (
    "drop",
    "worst hour",
    "minutes to recover half",
    "rebound",
    "liquidated share",
    "deleveraged over liquidated",
    "mark above last",
)
_POINTS = 30  # of the average basis


class Event(eqx.Module):
    """A crash: a table of bars, when it begins, and what was published about it."""

    name: str
    bars: BarsFile
    start: str = eqx.field(static=True, converter=str)  # ISO, UTC
    liquidated_share: Real = real([], unit="1", least=0.0)  # [low, high] of open interest; empty: not known
    deleveraged: Real = real([], unit="1", least=0.0)  # [low, high] notional deleveraged over notional liquidated
    marks: BarsFile | None = None  # bars of the mark price of the same contract, if there are any
    source: str = eqx.field(static=True, converter=str, default="")  # of the published numbers

    def check(self) -> Iterator[tuple[str, str]]:
        try:
            microseconds(self.start, "start")
        except InputError as error:
            yield "start", str(error).removeprefix("start: ")


class Belief(eqx.Module):
    """What was believed of impact and depth before the event, as independent laws."""

    prefactor: Real = real(1.0, unit="1", above=0.0)
    prefactor_deviation: Real = real(0.15, unit="1", least=0.0)
    crash_loss: Real = real([0.0, 0.95], unit="1", least=0.0, below=1.0)  # even between
    sensitivity: Real = real([0.1, 1.0], unit="1", above=0.0)  # log-even between
    floor: Real = real([0.02, 0.3], unit="1", above=0.0, most=1.0)  # log-even between
    recovery: Real = real([0.5, 24.0], unit="hour", above=0.0)  # log-even between
    memory: Real = real([0.25, 4.0], unit="hour", above=0.0)  # of impact, log-even between
    news: Real = real(
        [0.0, 0.0], unit="1", least=0.0, most=1.0
    )  # part of what came after the onset that was news, even

    def check(self) -> Iterator[tuple[str, str]]:
        for name in ("crash_loss", "sensitivity", "floor", "recovery", "memory", "news"):
            value = np.asarray(getattr(self, name))
            if value.shape != (2,):
                yield name, f"{value.tolist()}: expected [low, high]"


class Replays(eqx.Module):
    """Events, what is believed, the margins in force, and how many worlds are drawn."""

    events: tuple[Event, ...] = eqx.field(converter=tuple)
    book: BookBelief
    margin: Brackets
    belief: Belief = Belief()
    draws: int = count(200, least=20)
    hours: int = count(12, least=2)
    fee: Real = real(0.0125, unit="1", least=0.0)
    fund: Real = real(0.005, unit="1", least=0.0)  # insurance fund over gross notional
    basis: Real = duration("2.5min", above=0.0, most=1.0 / 365.0)  # over which the basis in the mark is averaged

    def check(self) -> Iterator[tuple[str, str]]:
        if not self.events:
            yield "events", "the list is empty; give at least one event"


class Crash(NamedTuple):
    """An event that has been read: log prices of 5-minute bars from its start, and the market before it."""

    event: Event
    price: float
    log_price: Float[np.ndarray, " bars"]
    onset: int  # the bar with the largest fall
    volatility: float  # per root of a day, before
    volume: float  # units per day, before
    gap: float  # largest mark over last price, less 1; nan where marks are not known


def read(event: Event, hours: int) -> Crash:
    """Reads an event and measures the market before it.

    **Raises:** `ConfigError` if bars are missing in the event, or none came before it.
    """
    bars = event.bars.read()
    calm = activity(bars.between(end=event.start))
    price = _closes(bars, event.bars.path, event, hours)
    log_price = np.log(price[1:] / price[0])
    onset = int(np.argmin(np.diff(log_price, prepend=0.0)))
    gap = np.nan
    if event.marks is not None:
        gap = float(np.max(_closes(event.marks.read(), event.marks.path, event, hours) / price)) - 1.0
    return Crash(event, float(price[0]), log_price, onset, calm.volatility, calm.volume, gap)


def _closes(bars: Bars, path: str, event: Event, hours: int) -> Float[np.ndarray, " bars"]:
    """Prices at the start of an event and every 5 minutes after it, each of a bar that closes just then."""
    start, span = microseconds(event.start, "start"), int(5 * 60e6)
    times = start + span * np.arange(-1, hours * HOUR + 1)
    place = np.searchsorted(bars.time + bars.every, times + span, side="right") - 1  # the last bar that has closed
    late = (times + span) - (bars.time[place] + bars.every)
    if late.max() > 0 or place[0] < 0:
        raise ConfigError(f"{path}: bars are missing at {iso(times[int(np.argmax(late))])}, in {event.name}")
    return bars.close[place]


def mark_above_last(
    log_price: Float[np.ndarray, " bars"], log_news: Float[np.ndarray, " bars"], average: float
) -> float:
    """Largest mark over last price at the end of a 5-minute bar, less 1: mark = median(index, index + mean basis, last).

    `average`: minutes over which the basis, last less index in logs, is averaged; it is 0 before the first bar.
    """
    basis = np.concatenate([[0.0], log_price - log_news])
    ends = 5.0 * np.arange(1, basis.size)
    seen = ends[:, None] - average * np.arange(_POINTS) / _POINTS
    mean = np.interp(seen, 5.0 * np.arange(basis.size), basis).mean(axis=1)
    mark = np.median([np.zeros(mean.size), mean, basis[1:]], axis=0)  # over the index
    return float(np.expm1(np.max(mark - basis[1:])))


def measures_of(log_price: Float[np.ndarray, " bars"]) -> dict[str, float]:
    """Drop, worst fall in an hour, and minutes from the low until half the drop is made good (nan if it is not), and the
    part of the drop that is made good an hour after the low, in logs."""
    path = np.concatenate([[0.0], log_price])
    low = int(np.argmin(path))
    longer = np.concatenate([np.zeros(HOUR), path])  # the market stood still before
    hour = longer[HOUR:] - longer[:-HOUR]
    back = np.flatnonzero(path[low:] >= 0.5 * path[low])
    return {
        "drop": float(-np.expm1(path[low])),
        "worst hour": float(-np.expm1(hour.min())),
        "minutes to recover half": float(5 * back[0]) if back.size and low else np.nan,
        "rebound": float((path[min(low + HOUR, path.size - 1)] - path[low]) / -path[low]) if low else 0.0,
    }


class World(NamedTuple):
    """One draw of what is not known."""

    prefactor: float
    tilt: float
    crash_loss: float
    sensitivity: float
    floor: float
    recovery: float
    memory: float
    news: float


def draw_world(belief: Belief, book: BookBelief, rng: np.random.Generator) -> World:
    """A draw from the belief."""

    def log_even(ends: Any) -> float:
        low, high = np.log(np.asarray(ends, float))
        return float(np.exp(low + (high - low) * rng.random()))

    prefactor = float(max(float(belief.prefactor) + float(belief.prefactor_deviation) * rng.standard_normal(), 0.05))

    def even(ends: Any) -> float:
        low, high = np.asarray(ends, float)
        return float(low + (high - low) * rng.random())

    return World(
        prefactor=prefactor,
        tilt=float(book.tilt_deviation) * float(rng.standard_normal()),
        crash_loss=even(belief.crash_loss),
        sensitivity=log_even(belief.sensitivity),
        floor=log_even(belief.floor),
        recovery=log_even(belief.recovery),
        memory=log_even(belief.memory),
        news=even(belief.news),
    )


def scenario_of(crash: Crash, wanted: Replays, world: World, rng: np.random.Generator, observed: bool) -> Scenario:
    """The venue of one world: its book, its depth, and the shock: news go on after the onset by the part that the world says."""
    path = crash.log_price
    if not observed:
        standing = path[crash.onset - 1] if crash.onset else 0.0
        path = np.where(np.arange(path.size) < crash.onset, path, standing + world.news * (path - standing))
    book = wanted.book.draw(rng, crash.volume * crash.price, world.tilt)
    reference = crash.volatility * np.sqrt(365.0)
    hour = 3600.0 / SECONDS_PER_YEAR
    depth = EvaporatingDepth(
        volume=crash.volume,
        sensitivity=world.sensitivity,
        floor=world.floor,
        reference=reference,
        crash_loss=world.crash_loss,
        recovery=np.asarray(world.recovery * hour),
    )
    every: Any = np.asarray(parse_duration("5min"))
    return Scenario(
        market=Replay(PriceArray(np.exp(np.concatenate([[0.0], path])), every)),
        book=book,
        margin=wanted.margin,
        impact=SquareRoot(depth, world.prefactor, crash.volatility, memory=np.asarray(world.memory * hour)),
        price=np.array([crash.price]),
        horizon=np.asarray(every * path.size),
        step=every,
        positions=SortedLadder(),
        liquidation=Full(fee=wanted.fee),
        waterfall=Waterfall(fund=float(wanted.fund) * float(book.notional), deleverage="adl_then_socialize"),
        observed=observed,
    )


def play(scenario: Scenario, seed: int, basis: float, dtype: Any = np.float32) -> dict[str, float]:
    """What one world makes of the shock; the mark averages its basis over `basis` minutes."""
    system = scenario.build(dtype, seed)
    found, flow = outcomes(system, 0, np.arange(1), lanes=1, record=True)
    log_price, log_news = (np.asarray(x, float)[0, :, 0] for x in (flow.log_price, flow.log_news))
    out = measures_of(log_price)
    out["mark above last"] = mark_above_last(log_price, log_news, basis)
    gross = float(np.asarray(scenario.book.notional))  # pyright: ignore[reportAttributeAccessIssue]
    out["liquidated share"] = float(found["liquidated_share"][0])
    liquidated = out["liquidated share"] * gross
    out["deleveraged over liquidated"] = float(found["adl_notional"][0]) / liquidated if liquidated > 0.0 else 0.0
    market, news = float(found["market_fall"][0]), float(found["news_fall"][0])
    out["amplification"] = market / news if news > 0.0 else np.nan
    out["part of the cascade"] = 1.0 - news / market if market > 0.0 else 0.0
    return out


class Played(NamedTuple):
    """Worlds and what each gave, as columns over draws: forecast and attribution."""

    worlds: Float[np.ndarray, "draws numbers"]
    forecast: dict[str, Float[np.ndarray, " draws"]]
    attribution: dict[str, Float[np.ndarray, " draws"]]


def replay(
    crash: Crash, wanted: Replays, seed: int, attribute: bool = True, report: Callable[[str], None] = lambda text: None,
    dtype: Any = np.float32,
) -> Played:  # fmt: skip
    """Draws worlds and plays the event in each."""
    rows: dict[bool, list[dict[str, float]]] = {False: [], True: []}
    worlds = []
    for number in range(wanted.draws):
        world = draw_world(wanted.belief, wanted.book, np.random.default_rng([seed, number]))
        worlds.append(world)
        for observed in (False, True) if attribute else (False,):
            scenario = scenario_of(crash, wanted, world, np.random.default_rng([seed, number, 1]), observed)
            rows[observed].append(play(scenario, number, float(wanted.basis) * SECONDS_PER_YEAR / 60.0, dtype))
    report(f"{crash.event.name}: {wanted.draws} worlds")
    columns = [{name: np.array([row[name] for row in found]) for name in (found or [{}])[0]} for found in rows.values()]
    return Played(np.array(worlds), *columns)


def table_of(crash: Crash, played: Played) -> dict[str, Any]:
    """Simulated beside realized: medians with 90 % intervals over worlds, and ratios."""
    real = measures_of(crash.log_price) | ({"mark above last": crash.gap} if np.isfinite(crash.gap) else {})
    published = {
        "liquidated share": np.asarray(crash.event.liquidated_share, float),
        "deleveraged over liquidated": np.asarray(crash.event.deleveraged, float),
        "mark above last": np.array([]),
    }
    rows = {}
    for name in STATISTICS:
        sample = played.forecast[name]
        known = [real[name]] * 2 if name in real else published[name].tolist()
        row: dict[str, Any] = {"simulated": _spread(sample), "realized": known or None}
        if known and np.isfinite(known[0]) and known[0] > 0.0:
            row["ratio"] = _spread(sample / np.sqrt(known[0] * known[-1]))
        rows[name] = row
    news = crash.log_price[: crash.onset].min(initial=0.0)
    out = {
        "price": crash.price, "volatility_per_day": crash.volatility, "volume_per_day": crash.volume,
        "onset_minutes": 5 * crash.onset, "news_before_onset": float(-np.expm1(news)), "forecast": rows,
        "source": crash.event.source,
    }  # fmt: skip
    if played.attribution:
        names = ("amplification", "part of the cascade", "liquidated share", "mark above last")
        out["attribution"] = {name: _spread(played.attribution[name]) for name in names}
    return out


def _spread(sample: np.ndarray) -> dict[str, float]:
    finite = sample[np.isfinite(sample)]
    if finite.size == 0:
        return {"median": np.nan, "low": np.nan, "high": np.nan, "missing": 1.0}
    low, mid, high = np.quantile(finite, (0.05, 0.5, 0.95))
    return {
        "median": float(mid),
        "low": float(low),
        "high": float(high),
        "missing": float(1.0 - finite.size / sample.size),
    }
