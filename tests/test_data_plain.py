"""Tables of one's own by a map of columns, and bars made of trades."""

import ast
import builtins
from pathlib import Path

import numpy as np
import pytest
from archive_rows import DAY, TRADE_HEADER, put, text

import tailrisk
from tailrisk.data import Bars, Depth, Funding, Liquidations, Trades, bars_of, binance, read_plain

pytest.importorskip("pyarrow")
BARS = "symbol,open_time_s,open,high,low,close,volume,sells"


def bar(i, symbol="A", close=100.0):
    return f"{symbol},{DAY + 60 * i},{close},{close + 1},{close - 1},{close},8,3"


def test_a_long_table_by_columns_and_symbol(tmp_path):
    """Named columns, columns of their own name, and volumes given as sales; what is not there is nan."""
    path = put(tmp_path, "b.csv.gz", text(BARS, [bar(0), bar(0, "B", 7.0), bar(1), bar(1, "B", 8.0)]))
    columns = {"time": "open_time_s", "taker_sell_volume": "sells"}
    bars = read_plain(path, Bars, columns, {"symbol": "B"})
    np.testing.assert_array_equal(bars.close, [7.0, 8.0])
    np.testing.assert_array_equal(bars.time, [DAY * 10**6, (DAY + 60) * 10**6])
    np.testing.assert_array_equal(bars.taker_buy_volume, 5.0)
    np.testing.assert_array_equal(bars.source.row, [3, 5])
    assert bars.source.symbol == "B"
    assert np.isnan(bars.trades).all()
    with pytest.raises(ValueError, match=r"rows of 2 symbols \(A, B, ...\), expected those of one"):
        read_plain(path, Bars, columns)
    with pytest.raises(ValueError, match=r"no row has symbol = 'C'"):
        read_plain(path, Bars, columns, {"symbol": "C"})
    with pytest.raises(ValueError, match=r"Bars has no field 'clos'; did you mean 'close'"):
        read_plain(path, Bars, {"clos": "open"}, {"symbol": "B"})
    with pytest.raises(ValueError, match=r"no column 'open_time'; did you mean 'open_time_s'"):
        read_plain(path, Bars, {"time": "open_time"}, {"symbol": "B"})
    with pytest.raises(ValueError, match="Depth has bands"):
        read_plain(path, Depth)


@pytest.mark.parametrize(
    "stamp",
    [
        "2025-10-10 00:00:00",
        "2025-10-10T00:00:00Z",
        "2025-10-10 02:00:00+02:00",
        "2025-10-10T00:00:00.0000000Z",
        "2025-10-10",
        DAY,
        f"{DAY}.0",
        DAY * 1000,
        DAY * 10**6,
        DAY * 10**9,
    ],
)
def test_ways_to_write_a_time(tmp_path, stamp):
    """Text is UTC unless it names a zone; the unit of a number is told by its size."""
    path = put(tmp_path, "f.csv", text("date,rate", [f"{stamp},1e-4"]))
    found = read_plain(path, Funding, {"interval": 8.0})
    assert found.time[0] == DAY * 10**6
    np.testing.assert_array_equal(found.interval, 8.0)


def test_fractions_of_a_second(tmp_path):
    """Seconds with decimals are exact to the microsecond."""
    path = put(
        tmp_path, "t.csv", text("timestamp,price,amount,is_sell", ["1784851200.0547,1,1,Sell", "1784851200.1,1,1,Buy"])
    )
    trades = read_plain(path, Trades)
    np.testing.assert_array_equal(trades.time, [1784851200054700, 1784851200100000])
    np.testing.assert_array_equal(trades.is_sell, [True, False])


def test_times_of_two_kinds_are_an_error(tmp_path):
    """The first row says how times are written; the first one that differs is named."""
    rows = ["2025-10-10 00:00:00,1", "2025-10-10 01:00:00,1", "2025-10-10 02:00:00Z,1", "2025-10-10 03:00:00,1"]
    with pytest.raises(
        ValueError, match=r"f\.csv row 4: date = '2025-10-10 02:00:00Z', expected a time like that of the"
    ):
        read_plain(put(tmp_path, "f.csv", text("date,rate", rows)), Funding, {"interval": 8.0})


def test_sides(tmp_path):
    """A side that is neither is an error; words and truth values both do."""
    header = "time,is_long,amount,price"
    found = read_plain(put(tmp_path, "l.csv", text(header, [f"{DAY},True,1,9", f"{DAY + 1},False,1,9"])), Liquidations)
    np.testing.assert_array_equal(found.is_long, [True, False])
    with pytest.raises(ValueError, match=r"l\.csv row 2: is_long is 'long', expected sell or buy"):
        read_plain(put(tmp_path, "l.csv", text(header, [f"{DAY},long,1,9"])), Liquidations)


@pytest.mark.parametrize("name", ["b.parquet", "b.feather"])
def test_tables_of_arrow(tmp_path, name):
    """Real timestamps with a zone, categories and whole numbers read as they are meant; rows count from 1."""
    import pyarrow as pa
    from pyarrow import feather, parquet

    times = pa.array(np.array([DAY, DAY + 60], "datetime64[s]")).cast(pa.timestamp("ms", "UTC"))
    table = pa.table(
        {
            "date": times,
            "symbol": pa.array(["A", "B"]).dictionary_encode(),
            **{field: [100, 101] for field in ("open", "high", "low", "close")},
        }
    )
    (parquet.write_table if name.endswith("parquet") else feather.write_feather)(table, tmp_path / name)
    bars = read_plain(tmp_path / name, Bars, where={"symbol": "B"})
    np.testing.assert_array_equal(bars.time, (DAY + 60) * 10**6)
    assert (bars.close[0], bars.source.row[0]) == (101.0, 2)


def test_archives_need_an_extra(tmp_path, monkeypatch):
    """Without pyarrow the error names the extra to install; importing the package does not need it."""
    real_import = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    path = put(tmp_path, "b.csv", text(BARS, [bar(0)]))
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ValueError, match=r"b\.csv: .*install tailrisk-jax\[data\]"):
        read_plain(path, Bars)


def test_the_package_imports_without_arrow():
    """Arrow is imported inside functions alone."""
    for file in Path(tailrisk.__file__).parent.rglob("*.py"):
        for node in ast.parse(file.read_text("utf-8")).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.startswith("pyarrow") for name in names), file


def test_bars_of_trades(tmp_path):
    """Open and close are the first and last trade by time, volumes add up, and a minute without trades has no bar."""
    seconds = [0, 10, 59, 130, 125]
    prices, amounts, maker_buys = [5.0, 7.0, 6.0, 9.0, 8.0], [1.0, 2.0, 3.0, 4.0, 5.0], [False, True, True, False, True]
    rows = [
        f"{i},{p},{a},{i},{i},{(DAY + s) * 1000},{str(m).lower()}"
        for i, (s, p, a, m) in enumerate(zip(seconds, prices, amounts, maker_buys, strict=True))
    ]
    bars = bars_of(binance.read_agg_trades(put(tmp_path, "t.csv", text(TRADE_HEADER, rows))), "1min")
    np.testing.assert_array_equal(bars.time, (DAY + np.array([0, 120])) * 10**6)
    np.testing.assert_array_equal([bars.open, bars.high, bars.low, bars.close], [[5, 8], [7, 9], [5, 8], [6, 9]])
    np.testing.assert_array_equal([bars.volume, bars.taker_buy_volume, bars.trades], [[6, 9], [1, 4], [3, 2]])
    np.testing.assert_array_equal(bars.quote_volume, [37.0, 76.0])
    np.testing.assert_array_equal(bars.source.row, [2, 6])


def test_real_slices(market_data):
    """Bars and rates of the event slices and of the long history."""
    event, history = market_data / "oct2025", market_data / "long_history"
    which = {"exchange": "coinbase", "symbol": "AAVE-USD"}
    minutes = read_plain(
        event / "trades_1m_bars_2025-10-10_all.csv.gz", Bars, {"taker_sell_volume": "sell_volume"}, which
    )
    assert (minutes.every, minutes.source.symbol) == (60_000_000, "AAVE-USD")
    assert (minutes.taker_buy_volume > -1e-9).all()
    hours = read_plain(next(history.glob("binance_spot_BTCUSDT_1h_*.parquet")), Bars)
    assert len(hours) == 77374
    solana = read_plain(next(history.glob("*SOL_XRP_BNB_1h_*.parquet")), Bars, where={"symbol": "SOLUSDT"})
    assert solana.source.symbol == "SOLUSDT"
    rates = read_plain(
        history / "hyperliquid_BTC_funding_1h.csv.gz", Funding, {"rate": "funding_rate_1h", "interval": 1.0}
    )
    assert (len(rates), rates.rate[0]) == (18778, -0.0006133368)
