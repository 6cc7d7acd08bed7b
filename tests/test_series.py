"""Price files: what is read, and every way in which a file can be wrong."""

import builtins
import gzip

import numpy as np
import pytest

from tailrisk._fields import SECONDS_PER_YEAR
from tailrisk.data.series import LogReturns, PriceArray, PriceFile, log_returns

HEADER = "symbol,open_time,open,close"
START = 1_600_000_000_000  # ms


def lines(count=6, symbol="BTCUSDT", step=300_000, price=100.0):
    return [f"{symbol},{START + i * step},{price + i},{price + i + 0.5}" for i in range(count)]


@pytest.fixture
def write(tmp_path):
    """Writes the lines of a CSV file and returns its path."""

    def write(rows, header=HEADER, name="prices.csv"):
        path = tmp_path / name
        text = "\n".join([header, *rows]) + "\n"
        if name.endswith(".gz"):
            path.write_bytes(gzip.compress(text.encode()))
        else:
            path.write_text(text)
        return path

    return write


@pytest.mark.parametrize("name", ["prices.csv", "prices.csv.gz"])
def test_reads_one_asset(write, name):
    """Times in seconds, prices as they are written; returns in double precision with their spacing."""
    series = PriceFile(write(lines(), name=name))
    times, prices = series.load()
    np.testing.assert_array_equal(times, START / 1e3 + 300.0 * np.arange(6))
    np.testing.assert_array_equal(prices[:, 0], 100.5 + np.arange(6))
    returns = log_returns(series)
    np.testing.assert_allclose(float(returns.every) * SECONDS_PER_YEAR, 300.0)
    np.testing.assert_allclose(np.asarray(returns.log_return)[:, 0], np.diff(np.log(100.5 + np.arange(6))))
    assert log_returns(returns) is returns
    np.testing.assert_allclose(returns.load()[1][:, 0] * 100.5, prices[:, 0])


def test_several_assets(write):
    """Assets are columns of a wide table, or symbols of a long one, in the order asked for."""
    wide = PriceFile(write(lines()), columns=("close", "open"))
    np.testing.assert_array_equal(wide.load()[1][0], [100.5, 100.0])
    rows = [row for pair in zip(lines(), lines(symbol="ETHUSDT", price=10.0), strict=True) for row in pair]
    long = PriceFile(write(rows), symbols=("ETHUSDT", "BTCUSDT"))
    assert wide.assets == long.assets == 2
    np.testing.assert_array_equal(long.load()[1][0], [10.5, 100.5])


def test_range_and_spacing(write):
    """`start` is kept, `end` is not; `every` thins from the first time kept."""
    path = write(lines(12))
    series = PriceFile(path, start="2020-09-13T12:31:40", end="2020-09-13T13:16:40", every="15min")
    times, prices = series.load()
    np.testing.assert_array_equal(times, START / 1e3 + np.array([300.0, 1200.0, 2100.0]))
    np.testing.assert_array_equal(prices[:, 0], [101.5, 104.5, 107.5])


def test_trading_days_are_evenly_spaced(write):
    """With "skip" the rows are the grid, from the first time to the last: no price is made up and none is lost."""
    rows = [f"x,{START + day * 86_400_000},1,{100 + day}" for day in (0, 1, 4, 5, 6, 8)]
    times, prices = PriceFile(write(rows), missing="skip").load()
    np.testing.assert_array_equal(prices[:, 0], [100, 101, 104, 105, 106, 108])
    np.testing.assert_allclose(times, START / 1e3 + 86_400.0 * 8.0 / 5.0 * np.arange(6))
    back = [rows[1], rows[0], *rows[2:]]
    with pytest.raises(ValueError, match=r"row 3: time .* does not follow"):
        PriceFile(write(back), missing="skip").load()


def test_a_file_of_a_package(write, tmp_path, monkeypatch):
    """`package:NAME/FILE` is found without importing the package; a package that is not there is named."""
    (tmp_path / "shipper" / "data").mkdir(parents=True)
    (tmp_path / "shipper" / "__init__.py").write_text("raise RuntimeError('imported')\n")
    write(lines(), name="shipper/data/prices.csv")
    monkeypatch.syspath_prepend(tmp_path)
    assert PriceFile("package:shipper/data/prices.csv").load()[1][0, 0] == 100.5
    with pytest.raises(ValueError, match=r"no such file; did you mean .*prices.csv"):
        PriceFile("package:shipper/data/price.csv").load()
    for path in ("package:nowhere_to_be_found/prices.csv", "package:", "package:../x.csv"):
        with pytest.raises(ValueError, match=r"no package .* is installed; pip install"):
            PriceFile(path).load()


def test_time_units(write):
    """Milliseconds, microseconds, seconds and ISO text give the same times."""
    expected = PriceFile(write(lines())).load()[0]
    for unit, scale in (("us", 1000), ("s", 1e-3)):
        rows = [f"x,{int((START + i * 300_000) * scale)},1,2" for i in range(6)]
        np.testing.assert_allclose(PriceFile(write(rows), time_unit=unit).load()[0], expected)
    rows = [f"x,2020-09-13T12:{26 + 5 * i}:40.0000000Z,1,2" for i in range(6)]
    np.testing.assert_allclose(PriceFile(write(rows), time_unit="iso").load()[0], expected)


def test_gaps(write):
    """A gap is refused by default, or the last price is held."""
    rows = [row for i, row in enumerate(lines(8)) if i not in (3, 4)]
    with pytest.raises(ValueError, match=r"row 5: 2 row\(s\) missing after 2020-09-13 12:36:40 \(1 gap"):
        PriceFile(write(rows)).load()
    _, prices = PriceFile(write(rows), missing="hold").load()
    np.testing.assert_array_equal(prices[:, 0], [100.5, 101.5, 102.5, 102.5, 102.5, 105.5, 106.5, 107.5])


def swap(rows, i, text):
    return [*rows[:i], text, *rows[i + 1 :]]


@pytest.mark.parametrize(
    ("rows", "arguments", "message"),
    [
        (lines(), dict(columns="clse"), "no column 'clse'; did you mean 'close'?"),
        (lines(), dict(time_column="when"), "no column 'when'; the file has symbol, open_time, open, close"),
        (lines(), dict(symbols="BTCUSD"), "no row has symbol = 'BTCUSD'; did you mean 'BTCUSDT'?"),
        (
            lines(),
            dict(start="2021-01-01"),
            "no row is between start = '2021-01-01' and end = 'any'; the file has 2020-09-13",
        ),
        (lines(), dict(time_unit="s"), "row 2: open_time = 1600000000000 in s lies beyond the year 5000"),
        (lines(), dict(every="7min"), "every = '7min' is 420 s, expected a multiple of the file's spacing, 300 s"),
        (lines(), dict(every="1h"), "every = '1h' leaves one row"),
        (lines(1), {}, "only 1 row is left, expected at least 2"),
        ([], {}, "the table has no rows"),
        (swap(lines(), 2, "x,1600000600000,1,-5"), {}, "row 4: price -5 of close, expected a positive number"),
        (swap(lines(), 2, "x,1600000600000,1,nan"), {}, "row 4: price nan of close, expected a positive number"),
        (swap(lines(), 2, "x,1600000600000,1,many"), {}, "row 4: close = 'many', expected a number"),
        (swap(lines(), 2, "x,1600000600000,1,"), {}, "row 4: close = '', expected a number"),
        (swap(lines(), 2, "x,2020-09-13,1,1"), {}, "row 4: open_time = '2020-09-13', expected a number"),
        (swap(lines(), 2, "x,1600000600000,1"), {}, "row 4: 3 values, expected 4 as in the header"),
        (
            swap(lines(), 2, "x,1600000000000,1,1"),
            {},
            "row 4: time 2020-09-13 12:26:40 does not follow 2020-09-13 12:31:40",
        ),
        (swap(lines(), 2, "x,1600000300000,1,1"), {}, "remove the duplicate, or choose rows with symbols"),
        (swap(lines(), 2, "x,1600000650000,1,1"), {}, "row 4: 350 s after the row before, expected 300 s"),
        (lines(), dict(time_unit="iso"), "row 2: '1600000000000' is no ISO time"),
        (
            lines() + lines(5, symbol="ETHUSDT"),
            dict(symbols=("BTCUSDT", "ETHUSDT")),
            "ETHUSDT covers 2020-09-13 12:26:40 to 2020-09-13 12:46:40 (5 times) but BTCUSDT",
        ),
    ],
    ids=lambda value: str(value)[-40:] if isinstance(value, str) else "",
)
def test_bad_files(write, rows, arguments, message):
    """Each error names the file, the row where there is one, what was found and what was expected."""
    path = write(rows)
    with pytest.raises(ValueError, match=r"prices\.csv") as caught:
        PriceFile(path, **arguments).load()
    assert message in str(caught.value)


def test_files_that_cannot_be_read(write, tmp_path):
    """A missing file suggests the nearest name; a broken archive is named."""
    write(lines())
    with pytest.raises(ValueError, match=r"no such file; did you mean .*prices.csv"):
        PriceFile(tmp_path / "price.csv").load()
    with pytest.raises(ValueError, match="no such file, check the path"):
        PriceFile(tmp_path / "nowhere" / "x.csv").load()
    for name in ("broken.csv.gz", "broken.csv", "broken.parquet"):
        (tmp_path / name).write_bytes(b"\xff\xfe\x00not a table")
        with pytest.raises(ValueError, match=name):
            PriceFile(tmp_path / name).load()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(columns=()), "columns is empty"),
        (dict(columns=("open", "close"), symbols=("A",)), "expected one column of prices"),
        (dict(symbols=("A", "A")), "must not repeat"),
        (dict(start="yesterday"), "start: 'yesterday' is no ISO time"),
        (dict(every="5 parsecs"), "has the unit 'parsecs'"),
        (dict(missing="drop"), "expected one of refuse, hold"),
        (dict(time_unit="msec"), "expected one of ms, us, s, iso"),
    ],
)
def test_bad_arguments(arguments, message):
    """Arguments that contradict each other are errors of the constructor, before any file is opened."""
    with pytest.raises(ValueError, match=message):
        PriceFile("prices.csv", **arguments)


def test_price_arrays():
    """Prices given directly obey the same rules."""
    series = PriceArray([1.0, 2.0, 4.0], "1h")
    times, prices = series.load()
    np.testing.assert_allclose(times, [0.0, 3600.0, 7200.0])
    assert prices.shape == (3, 1)
    assert PriceArray(np.ones((3, 4)), "1h").assets == 4
    with pytest.raises(ValueError, match="prices row 1: price -2 of asset 0"):
        PriceArray([1.0, -2.0], "1h").load()
    with pytest.raises(ValueError, match="at least 2 times"):
        PriceArray(np.ones((1, 2)), "1h")
    assert isinstance(log_returns(series), LogReturns)


def test_parquet(tmp_path):
    """Parquet files read as CSV files do, also with real timestamps; rows count from 1."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "prices.parquet"
    times = np.arange(4) * 3600_000 + START
    parquet.write_table(pyarrow.table({"open_time": times, "close": [1.0, 2.0, 3.0, 4.0]}), path)
    np.testing.assert_array_equal(PriceFile(path).load()[1][:, 0], [1.0, 2.0, 3.0, 4.0])
    np.testing.assert_allclose(PriceFile(path).load()[0], times / 1e3)
    stamps = pyarrow.array(times.astype("datetime64[ms]"))
    parquet.write_table(pyarrow.table({"open_time": stamps, "close": [1.0, 2.0, -3.0, 4.0]}), path)
    with pytest.raises(ValueError, match="row 3: price -3"):
        PriceFile(path).load()
    with pytest.raises(ValueError, match="no column 'opn'"):
        PriceFile(path, columns="opn").load()


def test_parquet_needs_an_extra(tmp_path, monkeypatch):
    """Without pyarrow the error names the extra to install."""
    path = tmp_path / "prices.parquet"
    path.write_bytes(b"PAR1")
    real_import = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ValueError, match=r"tailrisk-jax\[data\]"):
        PriceFile(path).load()


def test_real_history(market_data):
    """The long hourly history has gaps: refused, held when asked; an event file with many symbols reads."""
    pytest.importorskip("pyarrow")
    (path,) = (market_data / "long_history").glob("binance_spot_BTCUSDT_1h_*.parquet")
    with pytest.raises(ValueError, match="28 gap"):
        PriceFile(path).load()
    times, _ = PriceFile(path, missing="hold").load()
    assert np.ptp(np.diff(times)) == 0
    event = PriceFile(
        market_data / "oct2025" / "binance_spot_5m_2025-10-08_13.csv.gz", symbols=("ADAUSDT",), start="2025-10-10"
    )
    assert event.load()[0][1] - event.load()[0][0] == 300
