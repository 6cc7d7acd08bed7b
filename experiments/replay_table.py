"""What do books and impact believed before four real crashes make of their shocks, beside what happened?

Worlds are drawn from one belief that was written before any event was played (`configs/beliefs/crashes.toml`): notional,
leverage mix, sizes, prefactor, loss and recovery of depth. Volatility and volume are those of the bars before each event. In the
forecast, news are the real prices up to the worst bar of 5 minutes and stand still after it, so what follows is the cascade; in
the attribution prices are taken as they were, and the impact law says what the fall would have been without forced sales.

Published are the shares of open interest that were liquidated and the share that was deleveraged on 10 October 2025, each with
its source on the card. Measured by us from public bars is everything else that is called realized; all that is simulated is ours.
Nothing was tuned after looking, and what is missed is drawn as it is.
"""

from typing import Any

import equinox as eqx
import numpy as np

from tailrisk._fields import SECONDS_PER_YEAR, Real, count, real
from tailrisk.calibrate.books import BookBelief
from tailrisk.figures import style
from tailrisk.margin import Brackets
from tailrisk.study import events as replays
from tailrisk.study.bars import BarsFile
from tailrisk.study.observed import Claim, curve, exact
from tailrisk.study.published import DataFile, Setting

GPL, NONE = "Binance's bars, in a GPL-3 repository", "Binance's bars, in a repository without a license"
DATA = (
    DataFile("mar2020/binance_spot_BTCUSDT_5m_2020-03-01_12T2110.csv.gz", GPL, "2020-03", "github.com/cryofrost/freqtrade"),
    DataFile("may2021/binance_spot_BTCUSDT_1m_2021-04-20_05-20.csv.gz", GPL, "2021-05", "github.com/tooyipjee/freqtrade"),
    DataFile(
        "aug2024/binance_spot_5m_2024-07-29_08-11.csv.gz", NONE, "2024-08",
        "github.com/Tarasyanich87/Micro-Services_FT_Project_v2.0",
    ),
    DataFile("oct2025/binance_um_perp_5m_2025-10-08_13.csv.gz", NONE, "2025-10", "github.com/Harthor/marketlab"),
    DataFile("oct2025/binance_um_BTCUSDT_markprice_5m_2025-10.csv.gz", NONE, "2025-10", "github.com/aaronwu2017/TheGlory"),
)  # fmt: skip
WORST_HOUR = {"12 March 2020": 0.1821, "19 May 2021": 0.2238, "5 August 2024": 0.0735, "10 October 2025": 0.1137}
BARS = "the same bars by another program, closes 60 minutes apart"
PUBLISHED = {
    ("19 May 2021", "liquidated share"): "open interest of all venues more than halved in the day, closings by choice included",
    ("10 October 2025", "liquidated share"): "Amberdata: BTC perpetuals of all venues -18.6 %, closings by choice included",
    ("10 October 2025", "deleveraged over liquidated"): "public event reconstruction (HyperMultiAssetedADL): all contracts of "
    "Hyperliquid",
}  # fmt: skip
LOOKS = {"12 March 2020": (style.BLUE, "o"), "19 May 2021": (style.ORANGE, "s")}
LOOKS |= {"5 August 2024": (style.GREEN, "^"), "10 October 2025": (style.VERMILION, "D")}
UNITS = {"minutes to recover half": "min"}
PART = "part of the cascade"
LIMIT = "real prices are real prices; an impact of nothing moves nothing (float64)"
MEASURED = "measured by us from the bars"
LEAST = 0.03  # ratio at the left edge of the picture


class Source(eqx.Module):
    """Bars of a file in the folder of data: rows of one symbol, from a time on."""

    file: str = eqx.field(static=True, converter=str)
    symbol: str = eqx.field(static=True, converter=str, default="")
    start: str = eqx.field(static=True, converter=str, default="")

    def under(self, folder):
        """The same with a path."""
        return BarsFile(str(folder / self.file), {"symbol": self.symbol} if self.symbol else {}, start=self.start)


class Crash(eqx.Module):
    """When a crash began, its bars, and what was published of it."""

    name: str = eqx.field(static=True, converter=str)
    start: str = eqx.field(static=True, converter=str)
    bars: Source
    marks: Source | None = None
    liquidated_share: Real = real([], unit="1", least=0.0)
    deleveraged: Real = real([], unit="1", least=0.0)


class Beliefs(eqx.Module):
    """The crashes, and what is believed of all of them."""

    events: tuple[Crash, ...] = eqx.field(converter=tuple)
    book: BookBelief
    margin: Brackets
    belief: replays.Belief
    hours: int = count(least=2)


class Config(eqx.Module):
    """How many worlds are drawn, and from what."""

    replay: Beliefs
    draws: int = count(least=20)


def main(config: Config, setting: Setting):
    """Every statistic simulated (median and 95 % of worlds), realized, and their ratio; the part that the cascade made."""
    told, found = config.replay, {}
    crashes = tuple(
        replays.Event(
            name=one.name, bars=one.bars.under(setting.data), start=one.start, liquidated_share=one.liquidated_share,
            deleveraged=one.deleveraged, marks=None if one.marks is None else one.marks.under(setting.data),
        )
        for one in told.events
    )  # fmt: skip
    wanted = replays.Replays(crashes, told.book, told.margin, told.belief, config.draws, told.hours)
    for event in crashes:
        crash = replays.read(event, told.hours)
        played = replays.replay(crash, wanted, setting.seed, report=setting.report, dtype=setting.dtype)
        known = realized(crash)
        for name in replays.STATISTICS:
            sample, unit = played.forecast[name], UNITS.get(name, "1")
            put(found, f"{name}, simulated", event.name, sample, unit)
            if name in known:
                low, high = known[name]
                middle = np.sqrt(low * high)
                found[f"{name}, realized", event.name] = curve(0.0, middle, unit=unit, low=low, high=high)
                put(found, f"{name}, simulated over realized", event.name, sample / middle, "1")
        for name in ("amplification", PART):
            put(found, name, event.name, played.attribution[name], "1")
        for name, value in limits(crash, played, wanted, setting).items():
            found[f"limit: {name}", event.name] = curve(0.0, value, unit="1")
    return found


def realized(crash: Any):
    """What is known of an event, low and high: measures of its bars, and published numbers."""
    measured = replays.measures_of(crash.log_price) | {"mark above last": crash.gap}
    event = crash.event
    known = {name: (value, value) for name, value in measured.items() if np.isfinite(value) and value > 0.0}
    told = {"liquidated share": event.liquidated_share, "deleveraged over liquidated": event.deleveraged}
    return known | {name: tuple(ends) for name, ends in told.items() if np.size(ends)}


def put(found, panel, name, sample, unit):
    """A median with 95 % of worlds; worlds that have no value are counted in a curve of their own."""
    finite = sample[np.isfinite(sample)]
    low, middle, high = np.quantile(finite, (0.025, 0.5, 0.975)) if finite.size else (np.nan,) * 3
    if finite.size:
        found[panel, name] = curve(0.0, middle, unit=unit, paths=sample.size, low=low, high=high)
    if finite.size < sample.size:
        found[f"{panel}, worlds without one", name] = curve(
            0.0, 1.0 - finite.size / sample.size, unit="1", paths=sample.size
        )


def limits(crash: Any, played: Any, wanted: Any, setting: Setting):
    """Attribution plays the real prices; without impact the cascade makes no part of them, and the forecast is the news."""
    random = np.random.default_rng
    world = replays.draw_world(wanted.belief, wanted.book, random(setting.seed))._replace(prefactor=1e-9)
    news, real_ = (
        replays.play(
            replays.scenario_of(crash, wanted, world, random(setting.seed), observed), 0,
            float(wanted.basis) * SECONDS_PER_YEAR / 60.0, setting.dtype,
        )
        for observed in (False, True)
    )  # fmt: skip
    drop = replays.measures_of(crash.log_price)["drop"]
    return {
        "drop of the attribution less the real one": np.abs(played.attribution["drop"] - drop).max(),
        "part of the cascade without impact": real_[PART],
        "forecast without impact less the news": news["drop"]
        + np.expm1(crash.log_price[: crash.onset].min(initial=0.0)),
    }


def checks(found):
    """What is realized against another program; the limits of attribution and forecast."""
    for name, value in WORST_HOUR.items():
        if ("worst hour, realized", name) in found:
            yield exact(f"{name}: worst hour", value, found["worst hour, realized", name].y[0], 0.002, BARS)
    for (panel, name), one in found.items():
        if panel.startswith("limit: "):
            yield exact(f"{name}: {panel.removeprefix('limit: ')}", 0.0, one.y[0], 1e-5, LIMIT)


def card(found):
    """The table: every statistic of every event, simulated, realized, and the ratio."""
    for name in LOOKS:
        for statistic in replays.STATISTICS:
            real_, ratio = (
                found.get((f"{statistic}, {what}", name)) for what in ("realized", "simulated over realized")
            )
            told, ours = PUBLISHED.get((name, statistic)), f"simulated {words(found, f'{statistic}, simulated', name)}"
            ends = (
                "" if real_ is None else " to ".join(dict.fromkeys(f"{end[0]:.3g}" for end in (real_.low, real_.high)))
            )
            if ends and not told:
                ours += f"; realized {ends}"
            if ratio is not None:
                ours += f"; over realized {words(found, f'{statistic}, simulated over realized', name)}"
            provenance = told or (MEASURED if ends else "not known")
            yield Claim(f"{name}: {statistic} ({UNITS.get(statistic, '1')})", ends if told else "", ours, provenance)
        ours = "; ".join(f"{panel} {words(found, panel, name)}" for panel in ("amplification", PART))
        yield Claim(f"{name}: the real fall taken apart (1)", "", ours, "simulated at the real prices")


def words(found, panel, name):
    """Median, 95 % of worlds, and how many have none."""
    one, none = found.get((panel, name)), found.get((f"{panel}, worlds without one", name))
    text = "never" if one is None else f"{one.y[0]:.3g} ({one.low[0]:.3g} to {one.high[0]:.3g})"
    return text if none is None or one is None else f"{text}, none in {none.y[0]:.0%}"


def draw(found):
    """Left: drop (%), simulated (bars: 95 % of worlds) and realized (crosses). Middle: simulated over realized.

    Open marks: most worlds have no value; arrows: beyond the edge. Right: part of the real fall that the cascade made (%).
    """
    figure, axes = style.new_page(1, 3, height=2.9, width_ratios=[0.8, 1.2, 0.8])
    left, middle, right = axes[0]
    names = [name for name in LOOKS if ("drop, realized", name) in found]
    rows = [name for name in replays.STATISTICS if any((f"{name}, simulated over realized", n) in found for n in names)]
    for i, name in enumerate(names):
        color, marker = LOOKS[name]
        look = {"fmt": marker, "ms": 3.2, "color": color, "elinewidth": 0.9}
        for ax, panel in ((left, "drop, simulated"), (right, PART)):
            ax.errorbar(100.0 * found[panel, name].y, [i], xerr=100.0 * reach(found[panel, name]), **look)
        left.plot(100.0 * found["drop, realized", name].y, [i], "x", ms=5, color=style.BLACK, zorder=3)
        for j, statistic in enumerate(rows):
            panel, place = f"{statistic}, simulated over realized", j + 0.16 * (i - 1.5)
            if (panel, name) not in found:
                continue
            one, none = found[panel, name], found.get((f"{panel}, worlds without one", name))
            if one.y[0] < LEAST:
                middle.plot(LEAST, place, "<", ms=4, color=color)
                continue
            full = none is None or none.y[0] < 0.5
            middle.errorbar(one.y, [place], xerr=reach(one), **look, fillstyle="full" if full else "none")
    left.set(xlabel="Drop (%)", xlim=(0.0, None))
    right.set(xlabel="Part of the fall that\nthe cascade made (%)", xlim=(0.0, 100.0))
    left.set_yticks(range(len(names)), names)
    right.set_yticks(range(len(names)), [])
    middle.axvline(1.0, color=style.GRAY, lw=0.6, zorder=0)
    middle.set(xscale="log", xlim=(0.9 * LEAST, 50.0), xlabel="Simulated over realized (1)")
    middle.set_xticks([0.1, 1.0, 10.0], ["0.1", "1", "10"])
    middle.set_yticks(range(len(rows)), rows)
    for ax in axes[0]:
        ax.invert_yaxis()
    return figure


def reach(one):
    """Lengths of the bars to both ends of an interval."""
    return np.array([one.y - one.low, one.high - one.y])
