"""Every kind of bad data in an otherwise good table: found, named with its row, and refused if an estimate would suffer."""

import numpy as np
import pytest
from archive_rows import (
    DAY,
    DEPTH_HEADER,
    FUNDING_HEADER,
    KLINE_HEADER,
    LIQUIDATION_HEADER,
    METRICS_HEADER,
    TRADE_HEADER,
    clock,
    kline,
    put,
    snapshot,
    text,
)

from tailrisk._fields import InputError
from tailrisk.data import Bars, Funding, binance, join, read_plain
from tailrisk.data.quality import examine, mid_bounds, phantom, reverting, sound

pytest.importorskip("pyarrow")


@pytest.fixture
def klines(tmp_path):
    """Reads rows of klines from a file of the given name."""

    def klines(rows, name="bars.csv"):
        return binance.read_klines(put(tmp_path, name, text(KLINE_HEADER, rows)))

    return klines


def walk(count=60, seed=0):
    return 100.0 * np.exp(0.001 * np.cumsum(np.random.default_rng(seed).standard_normal(count)))


def good(count=60):
    return [kline(i, round(price, 3)) for i, price in enumerate(walk(count))]


def test_a_good_table_has_no_findings(klines):
    report = examine(klines(good()))
    assert report.findings == ()
    assert "Bars, 60 rows, 2025-10-10 00:00:00 to 2025-10-10 00:59:00 UTC" in report.summary
    assert sound(klines(good())).close.size == 60


def replaced(rows, i, row):
    return [*rows[:i], row, *rows[i + 1 :]]


@pytest.mark.parametrize(
    ("rows", "kind", "message"),
    [
        (
            replaced(good(), 7, kline(7, 100.0, spread=-0.5)),
            "bad bar",
            "row 9: bad bar: high = 99.5 is below low = 100.5",
        ),
        (replaced(good(), 7, kline(7, -1.0)), "bad price", "row 9: bad price: open = -1, expected a positive number"),
        (replaced(good(), 7, kline(7, 0.0, spread=0)), "bad price", "row 9: bad price: open = 0"),
        (replaced(good(), 7, kline(7, volume=-2)), "bad volume", "row 9: bad volume: volume = -2"),
        (
            replaced(good(), 7, kline(7, 300.0, volume=1)),
            "spike that reverts",
            "row 9: spike that reverts: 100.187 to 300 and back",
        ),
        (
            [*good()[:7], good()[8], good()[7], *good()[9:]],
            "out of order",
            "row 10: out of order: 2025-10-10 00:07:00 after",
        ),
        (
            [*good()[:8], kline(7, 99.0), *good()[8:]],
            "conflict",
            "row 10: conflict: another value for 2025-10-10 00:07:00",
        ),
        (
            [kline(i, 1.3, volume=0, spread=0) for i in range(9)] + [kline(9)],
            "frozen",
            "90 % of all bars have no volume",
        ),
        ([kline(i + 10**6) for i in range(9)], "future", "row 2: future"),
    ],
)
def test_what_would_poison_an_estimate_is_refused(klines, rows, kind, message):
    """The report names it, and `sound` raises with the file and the row."""
    table = klines(rows)
    assert kind in [finding.kind for finding in examine(table).poisons]
    with pytest.raises(InputError, match=r"bars\.csv") as caught:
        sound(table)
    assert message in str(caught.value)


def test_what_only_blurs_is_noted(klines):
    """Gaps, repeats and spikes of a size that markets make pass, with a note."""
    rows = [*good()[:5], *good()[5:6], *good()[5:6], *good()[9:]]
    report = examine(sound(klines(rows)))
    assert report.kinds() == ("repeated rows", "gap")
    assert "row 9: gap: 4 min after 2025-10-10 00:05:00; 3 rows missing in all" in report.lines()[2]
    prices = walk()
    prices[30] *= 0.8
    assert examine(sound(klines([kline(i, p) for i, p in enumerate(prices)]))).kinds() == ("spike that reverts",)
    traded = replaced(good(), 30, kline(30, 40.0, volume=9))
    assert examine(sound(klines(traded))).kinds() == ("spike that reverts",)


def test_bars_off_their_grid_are_noted(tmp_path):
    """A bar that opens 137 s late is named; a gap of whole bars is none."""
    times = 1_760_054_400 + 300 * np.array([0, 1, 2, 3, 4, 8, 9, 10])
    rows = lambda late: [f"{t + late * (i == 3)},1,1,1,1" for i, t in enumerate(times)]  # noqa: E731
    for late, kinds in ((0, ("gap",)), (137, ("gap", "off the grid"))):
        table = read_plain(put(tmp_path, "bars.csv", text("time,open,high,low,close", rows(late))), Bars)
        assert examine(table).kinds() == kinds
    (finding,) = [one for one in examine(table).findings if one.kind == "off the grid"]
    assert (finding.count, finding.poisons) == (2, False)
    assert finding.line().split(": ")[0].endswith("row 5")
    assert "7.28 min after the bar before, no multiple of 5 min" in finding.line()


def test_spikes_are_told_from_crashes():
    """Moves that stay, and turbulence in which every bar is as large, are no spikes."""
    crash = np.concatenate([walk(40), 0.7 * walk(40, 1)])
    assert not reverting(crash)[0].any()
    wild = 100.0 * np.exp(0.05 * (-1.0) ** np.arange(80))
    assert not reverting(wild)[0].any()
    spiked = walk(80)
    spiked[50] *= 1.1
    np.testing.assert_array_equal(np.flatnonzero(reverting(spiked)[0]), [50])


@pytest.mark.parametrize(
    ("name", "shift", "message"),
    [
        ("BTCUSDT-1m-2025-10-10.csv", 120, "its times seem to be 2 h ahead of UTC"),
        ("BTCUSDT-1m-2025-10-10.zip", -480, "its times seem to be 8 h behind UTC"),
        ("BTCUSDT-1m-2025-09.csv", 0, "lies outside the file's month"),
    ],
)
def test_the_day_of_a_file_tells_its_clock(klines, name, shift, message):
    """Rows outside the day that the name says: a local clock."""
    table = klines([kline(i + shift, every=60) for i in range(0, 1440, 10)], name)
    with pytest.raises(InputError, match="time zone") as caught:
        sound(table)
    assert message in str(caught.value)


def test_a_day_under_its_own_name_passes(klines):
    """Metrics end with the first moment of the next day, which is no other clock."""
    assert not examine(klines([kline(i, every=300) for i in range(289)], "BTCUSDT-5m-2025-10-10.csv")).findings


def test_clocks_that_change_are_suspected(tmp_path):
    """An hour that is missing, or comes twice, on the Sunday when European clocks change."""
    header = "time,open,high,low,close"
    spring = [f"2025-03-30 {h:02d}:00:00,1,1,1,1" for h in (0, 1, 3, 4, 5, 6)]
    report = examine(read_plain(put(tmp_path, "s.csv", text(header, spring)), Bars))
    assert report.kinds() == ("gap", "time zone")
    autumn = [f"2025-10-26 {h:02d}:00:00,{i},{i},{i},{i}" for i, h in enumerate((0, 1, 2, 2, 3, 4), 1)]
    report = examine(read_plain(put(tmp_path, "a.csv", text(header, autumn)), Bars))
    assert report.kinds()[0] == "conflict"
    minutes = [
        f"2025-10-26 {h:02d}:{m:02d}:00,{i},9,0.5,{i}" for i, (h, m) in enumerate([(1, 0), (1, 30), (1, 0), (2, 0)], 1)
    ]
    assert (
        "clocks go back an hour"
        in examine(read_plain(put(tmp_path, "m.csv", text(header, minutes)), Bars)).findings[0].text
    )


def test_funding_off_its_hours_is_suspected(tmp_path):
    """Eight-hourly payments fall on 0, 8 and 16 h; rates in percent are a hundred times too large."""
    rows = [f"{(DAY + 8 * 3600 * i + 7200) * 1000},8,{0.01 * (-1) ** i}" for i in range(9)]
    report = examine(binance.read_funding_rate(put(tmp_path, "f.csv", text(FUNDING_HEADER, rows))))
    assert report.kinds() == ("time zone", "unit")
    assert "payments are 2 h off" in report.findings[0].text
    milliseconds = [f"{(DAY + 8 * 3600 * i) * 1000 + 11},8,0.0001" for i in range(9)]
    assert not examine(binance.read_funding_rate(put(tmp_path, "f.csv", text(FUNDING_HEADER, milliseconds)))).findings


def test_days_that_open_at_another_hour_are_suspected(klines):
    days = [kline(i, 100.0 + i, every=86400) for i in range(-30, -20)]
    assert not examine(klines(days)).findings
    shifted = [kline(24 * i + 6, 100.0 + i, every=3600) for i in range(-30, -20)]
    assert examine(klines(shifted)).kinds() == ("time zone",)


def depth(tmp_path, rows):
    return binance.read_book_depth(put(tmp_path, "depth.csv", text(DEPTH_HEADER, rows)))


def book(count=40):
    return [
        snapshot(30 * i, mid, size) for i, (mid, size) in enumerate(zip(walk(count), 5.0 + walk(count, 1), strict=True))
    ]


def flat(snapshots):
    return [row for rows in snapshots for row in rows]


def test_the_mid_lies_within_its_bounds(tmp_path):
    """Bounds from the averages of shells hold the mid that the book was made around."""
    table = depth(tmp_path, flat(book()))
    least, greatest = mid_bounds(table)
    assert ((least < walk(40)) & (walk(40) < greatest)).all()
    assert (greatest - least < 0.011 * walk(40)).all()
    assert not examine(table).findings


def test_a_phantom_order_is_refused(tmp_path):
    """One bid of a few units that stays above a falling market, which no plain bound on depth would show."""
    snapshots = book()
    for i in range(30, 40):
        mid = walk(40)[i]
        for band in (0, 1):  # the bids
            head, units, worth = snapshot(30 * i, mid, 1.0)[band].rsplit(",", 2)
            snapshots[i][band] = f"{head},{float(units) + 4.0},{float(worth) + 4.0 * 1.02 * mid:.4f}"
    table = depth(tmp_path, flat(snapshots))
    np.testing.assert_array_equal(np.flatnonzero(phantom(table)), np.arange(30, 40))
    with pytest.raises(InputError, match=r"depth\.csv row 122: phantom depth \(10 in all\): no mid price fits"):
        sound(table)
    sound(table.between(end="2025-10-10 00:15:00"))


def test_books_that_stand_still_are_refused(tmp_path):
    """One repeated snapshot is a note, ten minutes of them are not."""
    once = flat([*book()[:20], snapshot(600, walk(40)[19], 5.0 + walk(40, 1)[19]), *book()[21:]])
    assert examine(sound(depth(tmp_path, once))).kinds() == ("stale depth",)
    long = flat([*book()[:10], *[snapshot(300 + 30 * i, walk(40)[9], 5.0 + walk(40, 1)[9]) for i in range(25)]])
    with pytest.raises(
        InputError, match=r"row 42: stale depth \(25 in all\): the book stands still, longest for 12.5 min"
    ):
        sound(depth(tmp_path, long))


def test_depth_that_no_book_has_is_refused(tmp_path):
    """A wider band holds at least as much as a narrower one; what is missing is only noted."""
    wrong = book()
    wrong[3][0] = f"{clock(90)},-2,1.0,99.0"
    with pytest.raises(InputError, match=r"row 14: bad depth: a wider band holds less"):
        sound(depth(tmp_path, flat(wrong)))
    assert examine(sound(depth(tmp_path, flat(book())[1:]))).kinds() == ("missing band",)
    gap = flat([*book()[:10], *book()[20:]])
    assert examine(sound(depth(tmp_path, gap))).kinds() == ("gap",)


def test_open_interest(tmp_path):
    """Zero is a hole of the feed and is refused; a ramp after it is noted."""

    def read(values):
        rows = [f"{clock(300 * i)},BTCUSDT,{v},{100 * v},1,1,1,1" for i, v in enumerate(values)]
        return binance.read_metrics(put(tmp_path, "m.csv", text(METRICS_HEADER, rows)))

    assert not examine(read([100, 101, 99, 102])).findings
    with pytest.raises(InputError, match=r"m\.csv row 3: bad open interest: open_interest = 0"):
        sound(read([100, 0, 99, 102]))
    assert examine(sound(read([100, 30, 60, 102]))).kinds() == ("jump",)


def test_trades_and_liquidations(tmp_path):
    """Rows of trades may stand in any order, which is noted; prices and amounts must be positive."""
    rows = [f"{i},{100 + i},{1 + i},{i},{i},{1000 * (DAY + abs(i - 2))},true" for i in range(1, 5)]
    trades = binance.read_agg_trades(put(tmp_path, "t.csv", text(TRADE_HEADER, rows)))
    assert examine(sound(trades)).kinds() == ("out of order",)
    bad = [*rows, rows[0].replace("1,101,2", "9,101,0")]
    with pytest.raises(InputError, match=r"t\.csv row 6: bad amount: amount = 0"):
        sound(binance.read_agg_trades(put(tmp_path, "t.csv", text(TRADE_HEADER, bad))))
    forced = ["1687656473356,BUY,LIMIT,IOC,43,30756.6,0,FILLED,1,43"]
    with pytest.raises(InputError, match=r"l\.csv row 2: bad price: fill_price = 0"):
        sound(binance.read_liquidation_snapshot(put(tmp_path, "l.csv", text(LIQUIDATION_HEADER, forced))))


def test_joined_files_are_named(klines):
    """A finding in the second of two days names the second file."""
    both = join([klines(good(), "one.csv"), klines([kline(60 + i, p) for i, p in enumerate((100.0, -1.0))], "two.csv")])
    with pytest.raises(InputError, match=r"two\.csv row 3: bad price"):
        sound(both)


def test_real_data(market_data):
    """The book of 10 October 2025 is refused for its phantom bid, and sound before; nothing else real is refused."""
    path = market_data / "oct2025" / "binance_um_BTCUSDT_bookDepth_2025-10-10.csv.gz"
    book = binance.read_book_depth(path)
    with pytest.raises(InputError, match=r"row 18592: phantom depth .*from 2025-10-10 15:30:06 on"):
        sound(book)
    assert not examine(book.between(end="2025-10-10 15:27:31")).findings
    last = book.between("2025-10-10 20:00")
    assert phantom(last).mean() > 0.99  # the bid stays to the end of the day
    for path in (market_data / "fixtures").glob("*Klines*.zip"):
        assert not examine(binance.read_klines(path)).findings
    for path in (market_data / "long_history").glob("*.parquet"):
        symbols = [{"symbol": "XRPUSDT"}] if "XRP" in path.name else [{}]
        assert set(examine(sound(read_plain(path, Bars, where=symbols[0]))).kinds()) <= {"gap", "spike that reverts"}
    rates = read_plain(
        market_data / "long_history" / "hyperliquid_BTC_funding_1h.csv.gz",
        Funding,
        {"rate": "funding_rate_1h", "interval": 1.0},
    )
    assert examine(sound(rates)).kinds() == ("gap",)  # paid every eight hours at first
    event = {"symbol": "BNBUSDT"}
    crash = read_plain(market_data / "oct2025" / "binance_spot_5m_2025-10-08_13.csv.gz", Bars, where=event)
    assert examine(sound(crash)).kinds() == ("spike that reverts",)  # -21 % in five minutes and back: it was traded
