"""Files of Bybit, Tardis, Hyperliquid and freqtrade, and which format a file is found to have."""

import gzip
import json

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

from tailrisk.data import (
    Bars,
    Depth,
    Funding,
    Liquidations,
    OpenInterest,
    Trades,
    bybit,
    freqtrade,
    hyperliquid,
    read,
    tardis,
)

pa = pytest.importorskip("pyarrow")
MS = DAY * 1000
CANDLES = [[MS + 60_000 * i, 5.0, 6.0, 4.0, 5.5, 10.0] for i in range(3)]
RATES = {
    "result": {
        "list": [
            {"symbol": "ETHUSDT", "fundingRate": str(r), "fundingRateTimestamp": str(t)}
            for t, r in ((MS + 28_800_000, 2e-4), (MS, 1e-4))
        ]
    }
}
KLINES = {
    "retCode": 0,
    "result": {
        "symbol": "BTCUSDT",
        "list": [[str(MS + 60_000), "5", "6", "4", "5.5", "10", "52"], [str(MS), "4", "6", "3", "5", "9", "44"]],
    },
}
TARDIS = "exchange,symbol,timestamp,local_timestamp,id,side,price,amount"


def dumped(folder, name, value):
    path = folder / name
    raw = (value if isinstance(value, str) else json.dumps(value)).encode()
    path.write_bytes(gzip.compress(raw, mtime=0) if name.endswith(".gz") else raw)
    return path


def test_bybit_archive_klines_are_on_another_clock(tmp_path):
    """The archive writes UTC+3: three in the morning there is midnight."""
    rows = ["2025.10.10 03:00,5,6,4,5.5,10", "2025.10.10 03:01,5,6,4,5.5,10"]
    bars = bybit.read_klines(put(tmp_path, "BTCUSDT_1_2025-10-01_2025-10-31.csv.gz", text("", rows)))
    np.testing.assert_array_equal(bars.time, (MS + np.array([0, 60_000])) * 1000)
    assert (bars.source.symbol, bars.volume[0], bars.close[0]) == ("BTCUSDT", 10.0, 5.5)
    assert np.isnan(bars.quote_volume).all()
    with pytest.raises(ValueError, match="row 2: start = '2025-13-10 03:01', expected a time"):
        bybit.read_klines(put(tmp_path, "x.csv", text("", [rows[0], rows[1].replace(".10.", ".13.", 1)])))


def test_bybit_answers_come_oldest_first(tmp_path):
    """The API answers newest first; entries count from 1."""
    bars = bybit.read_klines(dumped(tmp_path, "k.json", KLINES))
    np.testing.assert_array_equal(bars.close, [5.0, 5.5])
    np.testing.assert_array_equal(bars.quote_volume, [44.0, 52.0])
    np.testing.assert_array_equal(bars.source.row, [2, 1])
    rates = bybit.read_funding(dumped(tmp_path, "f.json", RATES))
    np.testing.assert_array_equal(rates.rate, [1e-4, 2e-4])
    np.testing.assert_array_equal(rates.interval, 8.0)
    assert bybit.read_funding(dumped(tmp_path, "f.json", RATES), 4.0).interval[0] == 4.0
    with pytest.raises(ValueError, match=r"no answer of the API with result\.list: it says 'too many visits'"):
        bybit.read_klines(dumped(tmp_path, "k.json", {"retMsg": "too many visits"}))


def test_bybit_liquidations_of_every_topic(tmp_path):
    """Three shapes of one message; signs of life and repeats are left out; Buy closes a long."""
    lines = [
        {"success": True, "op": "subscribe"},
        {"t": MS, "d": []},
        {"t": MS, "d": [{"updatedTime": MS + 2, "symbol": "A", "side": "Buy", "size": "1.5", "price": "9.5"}]},
        {
            "topic": "liquidation.A",
            "data": {"updatedTime": MS + 1, "symbol": "A", "side": "Sell", "size": "2", "price": "9"},
        },
        {"topic": "allLiquidation.A", "data": [{"T": MS + 3, "s": "A", "S": "Buy", "v": "3", "p": "8"}] * 2},
        {"topic": "allLiquidation.B", "data": [{"T": MS, "s": "B", "S": "Buy", "v": "7", "p": "1"}]},
    ]
    path = dumped(tmp_path, "l.jsonl", "\n".join(json.dumps(line) for line in lines))
    found = bybit.read_liquidations(path, "A")
    np.testing.assert_array_equal(found.amount, [2.0, 1.5, 3.0])
    np.testing.assert_array_equal(found.is_long, [False, True, True])
    np.testing.assert_array_equal(found.source.row, [4, 3, 5])
    assert found.source.repeated == 1
    with pytest.raises(ValueError, match="rows of 2 symbols"):
        bybit.read_liquidations(path)
    with pytest.raises(ValueError, match="row 2: not valid JSON"):
        bybit.read_liquidations(dumped(tmp_path, "l.jsonl", '{"d":[]}\n{"d":[{"upda'))
    with pytest.raises(ValueError, match="holds no rows"):
        bybit.read_liquidations(dumped(tmp_path, "l.jsonl", '{"d":[]}\n'))


def test_tardis_trades(tmp_path):
    """Two trades of one moment stay if their names differ; a trade without a known side is named."""
    rows = [
        f"x,AB,{MS}001,{MS}900,{name},{side},5.0,0.1" for name, side in (("u-1", "buy"), ("u-2", "buy"), ("u-2", "buy"))
    ]
    trades = tardis.read_trades(put(tmp_path, "t.csv.gz", text(TARDIS, rows)))
    assert (len(trades), trades.source.repeated, trades.source.symbol) == (2, 1, "AB")
    assert trades.time[0] == MS * 1000 + 1
    with pytest.raises(ValueError, match=r"t\.csv row 2: side is 'unknown', expected sell or buy"):
        tardis.read_trades(put(tmp_path, "t.csv", text(TARDIS, [rows[0].replace("buy", "unknown")])))


def fill(user, number, side, crossed, **more):
    return [
        user,
        {"coin": "BTC", "px": "100.5", "sz": "2", "side": side, "time": MS + number, "crossed": crossed, "tid": number}
        | more,
    ]


def test_hyperliquid_fills(tmp_path):
    """A trade is two fills and comes once; the aggressive side is told by either of them."""
    forced = {"liquidation": {"liquidatedUser": "0xAB", "markPx": "101", "method": "market"}}
    pairs = [
        *(fill("0xab", 2, "A", True, **forced), fill("0xcd", 2, "B", False, **forced)),
        *(fill("0xcd", 1, "B", False), fill("0xef", 1, "A", True)),
        fill("0xab", 3, "B", True, coin="ETH"),
    ]
    plain = dumped(tmp_path, "fills.jsonl", "\n".join(json.dumps(pair) for pair in pairs))
    blocks = dumped(tmp_path, "blocks.jsonl.gz", "\n".join(json.dumps({"events": [pair]}) for pair in pairs))
    lz4 = tmp_path / "7.lz4"
    with pa.output_stream(str(lz4), compression="lz4") as stream:
        stream.write(plain.read_bytes())
    for path in (plain, blocks, lz4):
        trades = hyperliquid.read_fills(path, "BTC")
        np.testing.assert_array_equal(trades.time, (MS + np.array([1, 2])) * 1000)
        np.testing.assert_array_equal(trades.is_sell, True)
        found = hyperliquid.read_liquidations(path, "BTC")
        assert (len(found), found.is_long[0], found.price[0], found.fill_price[0]) == (1, True, 101.0, 100.5)
    with pytest.raises(ValueError, match=r"no row has coin = 'XRP'"):
        hyperliquid.read_fills(plain, "XRP")
    answer = dumped(tmp_path, "fills.json", [pair[1] for pair in pairs])
    assert len(hyperliquid.read_fills(answer, "ETH")) == 1
    with pytest.raises(ValueError, match="row 1: a liquidation without the account"):
        hyperliquid.read_liquidations(answer, "BTC")


def test_hyperliquid_funding_and_margin(tmp_path):
    rates = [
        {"coin": "ETH", "fundingRate": "-0.0002", "premium": "0", "time": MS + 76 + 3_600_000 * i} for i in range(2)
    ]
    found = hyperliquid.read_funding(dumped(tmp_path, "f.json", rates))
    np.testing.assert_array_equal((found.rate[0], found.interval[0], found.time[0]), (-2e-4, 1.0, MS * 1000 + 76_000))
    table = {
        "marginTiers": [{"lowerBound": "0.0", "maxLeverage": 40}, {"lowerBound": "150000000.0", "maxLeverage": 20}]
    }
    margin = hyperliquid.read_margin_table(dumped(tmp_path, "m.json", table))
    # notional n: 1.25 % up to 150 million, 2.5 % of the rest
    np.testing.assert_allclose(margin.maintenance(np.array([[1e6], [2e8]])), [[12_500.0], [1_875_000.0 + 1_250_000.0]])


@pytest.mark.parametrize(
    "name",
    [
        "BTC_USDT_USDT-1m-futures.json",
        "BTC_USDT_USDT-1m-futures.json.gz",
        "BTC_USDT-1m.feather",
        "BTC_USDT-1m-mark.parquet",
    ],
)
def test_freqtrade_candles(tmp_path, name):
    """Lists in JSON, tables with timestamps in Feather and Parquet; mark prices have no volume."""
    from pyarrow import feather, parquet

    if ".json" in name:
        path = dumped(tmp_path, name, CANDLES)
    else:
        path = tmp_path / name
        columns = dict(zip(freqtrade.NAMES, map(list, zip(*CANDLES, strict=True)), strict=True))
        columns["date"] = pa.array(columns["date"]).cast(pa.timestamp("ms", "UTC"))
        write = feather.write_feather if name.endswith("feather") else parquet.write_table
        write(pa.table(columns), path)
    bars = freqtrade.read_candles(path)
    np.testing.assert_array_equal(bars.time, (MS + 60_000 * np.arange(3)) * 1000)
    np.testing.assert_array_equal(bars.high, 6.0)
    assert bars.source.symbol == ("BTC/USDT:USDT" if "futures" in name else "BTC/USDT")
    np.testing.assert_array_equal(bars.volume, np.nan if "mark" in name else 10.0)
    assert type(read(path)) is Bars


def test_freqtrade_funding(tmp_path):
    """Rates stand in `open`, hourly by name even where they are paid every eight hours."""
    rows = [[MS + 28_800_000 * i, 1e-4, 0, 0, 0, 0] for i in range(3)]
    found = freqtrade.read_funding(dumped(tmp_path, "BTC_USDT_USDT-1h-funding_rate.json", rows))
    np.testing.assert_array_equal(found.rate, 1e-4)
    np.testing.assert_array_equal(found.interval, 8.0)
    with pytest.raises(ValueError, match="one funding rate does not say its interval"):
        freqtrade.read_funding(dumped(tmp_path, "BTC_USDT_USDT-1h-funding_rate.json", rows[:1]))
    with pytest.raises(ValueError, match="not valid JSON"):
        freqtrade.read_candles(dumped(tmp_path, "BTC_USDT-1m.json", "[[1,2"))


FILES = [
    ("a.csv", text(KLINE_HEADER, [kline(0)]), Bars),
    ("a.csv", text("", [kline(0)]), Bars),
    ("a.csv", text(TRADE_HEADER, [f"7,1,2,1,3,{MS},false"]), Trades),
    ("a.csv", f"7,1,2,1,3,{MS}001,False,True\n", Trades),
    ("a.csv", text(DEPTH_HEADER + ",weighted_avg_price", [row + ",1" for row in snapshot(7)]), Depth),
    ("a.csv", text(METRICS_HEADER, ["2025-10-10 00:05:00,A,1,1,1,1,1,1"]), OpenInterest),
    ("a.csv", text(FUNDING_HEADER, [f"{MS},8,0.0001"]), Funding),
    ("a.csv", text(LIQUIDATION_HEADER, [f"{MS},BUY,LIMIT,IOC,7,3,3,FILLED,6,7"]), Liquidations),
    ("a.csv", text(TARDIS, [f"x,AB,{MS}001,{MS}900,1,buy,5.0,0.1"]), Trades),
    ("a.csv", text("", ["2025.10.10 03:00,5,6,4,5.5,10"]), Bars),
    ("a.csv", text("date,open,high,low,close,volume", ["2025-10-10 00:00:00+00:00,5,6,4,5.5,10"]), Bars),
    ("a.json", json.dumps(KLINES), Bars),
    ("a.json", json.dumps(RATES), Funding),
    ("a.json", json.dumps([{"coin": "ETH", "fundingRate": "1e-4", "time": MS}]), Funding),
    ("a.json", json.dumps([fill("0xab", 1, "A", True)[1]]), Trades),
    ("a.jsonl", json.dumps(fill("0xab", 1, "A", True)), Trades),
    ("a.jsonl", json.dumps({"events": [fill("0xab", 1, "A", True)]}), Trades),
    ("a.jsonl", json.dumps({"t": MS, "d": [{"T": MS, "s": "A", "S": "Buy", "v": "3", "p": "8"}]}), Liquidations),
]


@pytest.mark.parametrize(("name", "content", "kind"), FILES)
def test_formats_are_told_apart(tmp_path, name, content, kind):
    assert type(read(put(tmp_path, name, content))) is kind


@pytest.mark.parametrize(
    ("name", "content"), [("a.csv", "a,b\nx,y\n"), ("a.csv", "1,2\n"), ("a.json", "{}"), ("a.jsonl", "{}")]
)
def test_other_formats_are_refused(tmp_path, name, content):
    with pytest.raises(ValueError, match=r"a\.(csv|json|jsonl): not in a format known here"):
        read(put(tmp_path, name, content))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", "", "the file is empty; fetch it again"),
        ("a.jsonl", '{"events": 3}', "row 1: events = 3, expected a list of pairs"),
        ("a.json", '{"marginTiers": []}', "read it with data.hyperliquid.read_margin_table"),
    ],
)
def test_what_cannot_be_read_says_why(tmp_path, name, content, said):
    with pytest.raises(ValueError, match=rf"{name}.*{said}"):
        read(put(tmp_path, name, content))


def test_real_files(market_data):
    """Samples of each venue."""
    fixtures = market_data / "fixtures"
    margin = hyperliquid.read_margin_table(fixtures / "hyperliquid_marginTable_56.json")
    np.testing.assert_allclose(margin.maintenance_rates, [[0.0125, 0.025]])
    stream = bybit.read_liquidations(fixtures / "bybit_liquidation_ws_2024-02-12_sample.jsonl")
    np.testing.assert_array_equal(stream.amount, [1.496, 0.018, 0.020, 0.010])
    assert stream.is_long.all()
    ticks = tardis.read_trades(fixtures / "tardis_trades_gemini_BTCUSD_2025-10-10.sample.csv")
    np.testing.assert_array_equal(ticks.time, [1760054406843000, 1760140799148000])
    kinds = {
        "kline": Bars,
        "agg": Trades,
        "tardis": Trades,
        "metrics": OpenInterest,
        "funding": Funding,
        "liquid": Liquidations,
    }
    for path in fixtures.iterdir():
        if "margin" not in path.name:
            found = next(kind for word, kind in kinds.items() if word in path.name.lower())
            assert type(read(path)) is found, path
