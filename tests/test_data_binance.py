"""Files of Binance's public archive: what is read from rows in its formats, and from real files where they are."""

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
    kline,
    put,
    snapshot,
    text,
)

from tailrisk.data import binance, join

pytest.importorskip("pyarrow")
START = DAY * 1_000_000  # us


@pytest.mark.parametrize("name", ["bars.csv", "bars.csv.gz", "bars.zip"])
@pytest.mark.parametrize("header", [KLINE_HEADER, ""])
@pytest.mark.parametrize("unit", [1_000, 1_000_000])
def test_klines(tmp_path, name, header, unit):
    """With and without header, in ms and us, plain and packed: the same bars."""
    bars = binance.read_klines(put(tmp_path, name, text(header, [kline(i, 100.0 + i, unit) for i in range(5)])))
    np.testing.assert_array_equal(bars.time, START + 60_000_000 * np.arange(5))
    np.testing.assert_array_equal(bars.close, 100.0 + np.arange(5))
    np.testing.assert_array_equal(bars.high - bars.low, 2.0)
    np.testing.assert_array_equal(bars.taker_buy_volume, 0.5)
    np.testing.assert_array_equal(bars.trades, 7.0)
    np.testing.assert_array_equal(bars.source.row, np.arange(5) + (2 if header else 1))
    assert bars.every == 60_000_000


def test_a_column_may_change_its_unit(tmp_path):
    """Spot files went from ms to us at the turn of 2025; a file put together from both reads."""
    rows = [kline(0), kline(1), kline(2, unit=1_000_000)]
    np.testing.assert_array_equal(np.diff(binance.read_klines(put(tmp_path, "b.csv", text("", rows))).time), 60_000_000)


def test_prices_that_nobody_trades_have_no_volume(tmp_path):
    """Mark klines say 0; a minute of trades without any keeps its zero."""
    mark = binance.read_klines(put(tmp_path, "mark.csv", text(KLINE_HEADER, [kline(i, volume=0) for i in range(3)])))
    assert np.isnan(mark.volume).all()
    assert np.isnan(mark.trades).all()
    quiet = binance.read_klines(put(tmp_path, "quiet.csv", text(KLINE_HEADER, [kline(0), kline(1, volume=0)])))
    np.testing.assert_array_equal(quiet.volume, [2.0, 0.0])


def test_repeated_rows_are_dropped_and_counted(tmp_path):
    """Once, wherever they stand; rows that differ in any value stay for the checks to refuse."""
    rows = [kline(0), kline(0), kline(1), kline(1, 101.0), kline(0)]
    bars = binance.read_klines(put(tmp_path, "b.csv", text(KLINE_HEADER, rows)))
    assert bars.source.repeated == 2
    np.testing.assert_array_equal(bars.source.row, [2, 4, 5])


@pytest.mark.parametrize(
    ("header", "rows"),
    [
        ("", ["7,100.5,2.0,1,3,1759536000061015,False,True", "8,100.0,1.0,4,4,1759536000061016,True,True"]),
        (TRADE_HEADER, ["7,100.5,2.0,1,3,1759536000061,false", "8,100.0,1.0,4,4,1759536000061,true"]),
    ],
    ids=["spot", "futures"],
)
def test_agg_trades(tmp_path, header, rows):
    """A maker who buys means an aggressive sell; trades of one moment with different numbers both stay."""
    trades = binance.read_agg_trades(put(tmp_path, "t.csv", text(header, [*rows, rows[1]])))
    np.testing.assert_array_equal(trades.time // 1000, 1759536000061)
    np.testing.assert_array_equal(trades.is_sell, [False, True])
    np.testing.assert_array_equal(trades.amount, [2.0, 1.0])
    assert trades.source.repeated == 1


def test_book_depth(tmp_path):
    """Bands become columns in ascending order; a missing one is nan, a leading space of a time is no other time."""
    rows = [*snapshot(7), *snapshot(37, bands=(-1, 1, 2))]
    rows[1] = " " + rows[1]
    depth = binance.read_book_depth(put(tmp_path, "d.zip", text(DEPTH_HEADER, [*rows, rows[0]])))
    assert depth.bands == (-0.02, -0.01, 0.01, 0.02)
    np.testing.assert_array_equal(depth.time, START + np.array([7, 37]) * 1_000_000)
    np.testing.assert_array_equal(depth.depth, [[20.0, 10.0, 10.0, 20.0], [np.nan, 10.0, 10.0, 20.0]])
    np.testing.assert_allclose(depth.notional[0], [1980.0, 995.0, 1005.0, 2020.0])
    assert depth.source.where(1).endswith("d.zip row 6")
    assert depth.source.repeated == 1
    with pytest.raises(
        ValueError, match=r"d\.csv row 6: a second, different value of band -2 % at 2025-10-10 00:00:07"
    ):
        binance.read_book_depth(put(tmp_path, "d.csv", text(DEPTH_HEADER, [*snapshot(7), snapshot(7, size=9.0)[0]])))


def test_metrics(tmp_path):
    """Empty texts are nan where a ratio may be missing, and errors where it may not."""
    row = '2025-10-10 00:05:00,BTCUSD_PERP,5578700.00,18265.009,"","","",0.00855776'
    found = binance.read_metrics(put(tmp_path, "m.csv", text(METRICS_HEADER, [row, row])))
    assert (len(found), found.source.repeated, found.source.symbol) == (1, 1, "BTCUSD_PERP")
    assert found.time[0] == START + 300 * 1_000_000
    assert (found.open_interest[0], found.value[0], found.taker_ratio[0]) == (5578700.0, 18265.009, 0.00855776)
    assert np.isnan(found.account_ratio[0])
    with pytest.raises(ValueError, match=r"m\.csv row 2: sum_open_interest is an empty cell, expected a finite number"):
        binance.read_metrics(put(tmp_path, "m.csv", text(METRICS_HEADER, [row.replace("5578700.00", '""')])))


def test_funding_rates(tmp_path):
    rows = ["1685577600011,8,0.00010000", "1685606400000,4,-0.00020000"]
    found = binance.read_funding_rate(put(tmp_path, "f.csv", text(FUNDING_HEADER, rows)))
    np.testing.assert_array_equal(found.time, [1685577600011000, 1685606400000000])
    np.testing.assert_array_equal(found.rate, [1e-4, -2e-4])
    np.testing.assert_array_equal(found.interval, [8.0, 4.0])


def test_liquidation_snapshots(tmp_path):
    """A forced sale closes a long; rows come by time, and the archive's exact repeats are dropped."""
    rows = [
        "1687656473356,BUY,LIMIT,IOC,43,30756.6,30631.6,FILLED,1,43",
        "1687656471926,SELL,LIMIT,IOC,7,30741.3,30631.6,FILLED,6,7",
    ]
    found = binance.read_liquidation_snapshot(put(tmp_path, "l.csv", text(LIQUIDATION_HEADER, [rows[0], *rows])))
    np.testing.assert_array_equal(found.is_long, [True, False])
    np.testing.assert_array_equal(found.amount, [7.0, 43.0])
    np.testing.assert_array_equal(found.fill_price, 30631.6)
    np.testing.assert_array_equal(found.source.row, [4, 2])
    assert found.source.repeated == 1


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([kline(0), kline(1).replace("101.0", "x")], r"row 3: high = 'x', expected a number; remove or mend"),
        ([kline(0), "", kline(1).replace("101.0", "inf")], r"row 4: high is 'inf', expected a finite number"),
        ([kline(0), kline(1)[:-1] + "0,1"], r"row 3: 13 values, expected 12; mend the row, or fetch the file again"),
        ([kline(0), kline(1)[:30]], r"row 3: 4 values, expected 12"),
        (
            [kline(0), kline(1).replace(str(DAY * 1000 + 60000), "noon", 1)],
            r"row 3: open_time = 'noon', expected a time",
        ),
        (
            [kline(0), kline(1).replace(str(DAY * 1000 + 60000), "-5", 1)],
            r"row 3: open_time = '-5', expected a time between",
        ),
        ([], "the table has no rows, expected at least 1"),
    ],
)
def test_bad_rows_are_named(tmp_path, rows, message):
    """Blank lines count as rows, so that the row in the error is the line of the file."""
    with pytest.raises(ValueError, match=r"b\.csv.*" + message):
        binance.read_klines(put(tmp_path, "b.csv", text(KLINE_HEADER, rows)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the file or its first line is empty"),
        ("1,2,3\n", "3 columns without a header, expected 12 columns; add a header"),
        ("open_time,opn\n1,2\n", "no column 'open'; did you mean 'opn'"),
        ("open_time,open,open\n1,2,3\n", "two columns 'open'"),
    ],
)
def test_bad_columns_are_named(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        binance.read_klines(put(tmp_path, "b.csv", content))


@pytest.mark.parametrize("name", ["b.zip", "b.csv.gz", "b.parquet", "b.feather", "b.csv"])
def test_broken_files_are_named(tmp_path, name):
    """A file that was cut short while it was fetched, or is no archive at all."""
    whole = put(tmp_path, name, text(KLINE_HEADER, [kline(i) for i in range(50)])).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2] if name != "b.csv" else b"\xff\xfe\0\1,2\n3,4\n")
    with pytest.raises(ValueError, match=name):
        binance.read_klines(tmp_path / name)


def test_missing_files_suggest_a_name(tmp_path):
    put(tmp_path, "bars.csv", text(KLINE_HEADER, [kline(0)]))
    with pytest.raises(ValueError, match=r"no such file; did you mean .*bars\.csv"):
        binance.read_klines(tmp_path / "bar.csv")


def test_days_join_and_rows_keep_their_file(tmp_path):
    """A joined table names the file and row of every entry; other kinds do not join; a part of the time is a table."""
    days = [
        binance.read_klines(put(tmp_path, f"{d}.csv", text("", [kline(1440 * d + i) for i in range(1440)])))
        for d in (0, 1)
    ]
    both = join(days)
    assert len(both) == 2880
    assert both.source.where(1441).endswith("1.csv row 2")
    part = both.between("2025-10-11", "2025-10-11 01:00")
    assert (len(part), part.source.where(0)) == (60, both.source.where(1440))
    with pytest.raises(ValueError, match="no row is between"):
        both.between(end="2025-10-10")
    trades = binance.read_agg_trades(put(tmp_path, "t.csv", text(TRADE_HEADER, ["7,1,2,1,3,1759536000061,false"])))
    with pytest.raises(ValueError, match="different kinds"):
        join([days[0], trades])


def test_real_files(market_data):
    """Original files of the archive, and slices of them."""
    fixtures = market_data / "fixtures"
    mark = binance.read_klines(fixtures / "BTCUSDT-markPriceKlines-5m-2025-10-10.zip")
    assert (len(mark), mark.every, mark.time[0]) == (288, 300_000_000, START)
    assert np.isnan(mark.volume).all()
    assert len(binance.read_klines(fixtures / "BTCUSD_PERP-markPriceKlines-1m-2025-10-10.zip")) == 1440
    spot = binance.read_agg_trades(fixtures / "BTCUSDC-aggTrades-2025-10-04.head200.csv")
    assert (len(spot), spot.time[0], spot.price[0]) == (200, 1759536000061015, 122335.79)
    coin = binance.read_agg_trades(fixtures / "BTCUSD_PERP-aggTrades-2023-06-25.sample.csv")
    np.testing.assert_array_equal(coin.is_sell, [True, False, True])
    depth = binance.read_book_depth(market_data / "oct2025" / "binance_um_BTCUSDT_bookDepth_2025-10-10.csv.gz")
    assert depth.depth.shape == (2879, 10)
    assert np.isfinite(depth.depth).all()
    assert (depth.depth[0, 4], depth.notional[0, 5]) == (1496.75, 239906922.6169)
    forced = binance.read_liquidation_snapshot(fixtures / "BTCUSD_PERP-liquidationSnapshot.sample.csv")
    assert (len(forced), forced.source.repeated) == (6, 3)
    assert len(binance.read_funding_rate(fixtures / "BTCUSD_PERP-fundingRate-2023-06.sample.csv")) == 3
    interest = binance.read_metrics(fixtures / "BTCUSD_PERP-metrics-2023-06-25.sample.csv")
    assert np.isnan(interest.account_ratio).all()
    # Coin-margined: contracts of 100 USD, valued in BTC; the price that this implies is that of the day.
    np.testing.assert_allclose(100.0 * interest.open_interest / interest.value, 30_550, rtol=1e-3)
