"""Downloads from a server in this process: real bytes, and every way in which they may come wrong. No network."""

import hashlib
import http.server
import socket
import threading

import pytest
from archive_rows import DEPTH_HEADER, KLINE_HEADER, kline, put, snapshot, text
from command import invoke, refused

from tailrisk._fields import InputError
from tailrisk.data import archive, binance
from tailrisk.data.download import MissingError, UnreachableError, fetch_file

PATH = "data/futures/um/daily/bookDepth/BTCUSDT/BTCUSDT-bookDepth-2025-10-{:02d}.zip"
BODY = bytes(range(256)) * 4000


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves what the server holds; `faults` says what goes wrong with the next requests for a path."""

    def do_GET(self):
        held, faults = self.server.held, self.server.faults.setdefault(self.path, [])
        start = int(self.headers.get("Range", "bytes=0-")[6:-1])
        self.server.requests.append((self.path, start))
        body = held.get(self.path)
        fault = faults.pop(0) if faults else ""
        if body is None:
            return self.send_error(404)
        if isinstance(fault, int):
            return self.send_error(fault)
        if fault == "no ranges":
            start = 0
        if start and start >= len(body):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        cut = start + int(fault[4:]) if fault.startswith("cut") else len(body)
        self.wfile.write(body[start:cut])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    """A server with a book of two days; checksums as the archive writes them."""
    monkeypatch.setenv("no_proxy", "*")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.held, server.faults, server.requests = {}, {}, []
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def hold(server, path, body, digest=None):
    server.held["/" + path] = body
    line = f"{digest or hashlib.sha256(body).hexdigest()}  {path.rsplit('/', 1)[1]}\n"
    server.held[f"/{path}.CHECKSUM"] = line.encode()


def get(server, folder, path="a/b.zip"):
    return fetch_file(f"{server.url}/{path}", folder / path, timeout=5.0, pause=0.0)


def left(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_a_file_is_fetched_once_and_checked(server, tmp_path):
    """The second time it is there, and no request is made; damage on the disk is noticed and mended."""
    hold(server, "a/b.zip", BODY)
    assert get(server, tmp_path)
    assert (tmp_path / "a" / "b.zip").read_bytes() == BODY
    assert left(tmp_path) == ["b.zip", "b.zip.CHECKSUM"]
    asked = len(server.requests)
    assert not get(server, tmp_path)
    assert len(server.requests) == asked
    (tmp_path / "a" / "b.zip").write_bytes(BODY[:-1] + b"x")
    assert get(server, tmp_path)
    assert (tmp_path / "a" / "b.zip").read_bytes() == BODY


@pytest.mark.parametrize("second", ["", "no ranges"], ids=["continued", "begun again"])
def test_an_interrupted_download_goes_on(server, tmp_path, second):
    """The connection breaks after 300,000 bytes: the rest is asked for, whether or not the server knows ranges."""
    hold(server, "a/b.zip", BODY)
    server.faults["/a/b.zip"] = ["cut 300000", second]
    assert get(server, tmp_path)
    assert (tmp_path / "a" / "b.zip").read_bytes() == BODY
    assert [start for path, start in server.requests if path == "/a/b.zip"] == [0, 300_000]
    assert left(tmp_path) == ["b.zip", "b.zip.CHECKSUM"]


def test_what_has_come_is_kept_for_the_next_run(server, tmp_path):
    """A server that keeps breaking off is given up; the next run takes up where it stopped."""
    hold(server, "a/b.zip", BODY)
    server.faults["/a/b.zip"] = ["cut 1000"] * 4
    with pytest.raises(UnreachableError, match=r"1,020,000 bytes are missing.*kept and continued"):
        get(server, tmp_path)
    assert left(tmp_path) == ["b.zip.part"]
    assert get(server, tmp_path)
    assert server.requests[-1] == ("/a/b.zip", 4000)
    assert (tmp_path / "a" / "b.zip").read_bytes() == BODY


@pytest.mark.parametrize("old", [BODY[1:5000], BODY + b"more"], ids=["other bytes", "too long"])
def test_a_part_of_another_file_is_thrown_away(server, tmp_path, old):
    """The archive has published the day anew since: the old part does not fit, and the file is fetched whole."""
    hold(server, "a/b.zip", BODY)
    put(tmp_path, "b.zip.part", "").write_bytes(old)
    assert fetch_file(f"{server.url}/a/b.zip", tmp_path / "b.zip", pause=0.0)
    assert (tmp_path / "b.zip").read_bytes() == BODY


def test_a_wrong_checksum_keeps_nothing(server, tmp_path):
    hold(server, "a/b.zip", BODY, digest="0" * 64)
    with pytest.raises(InputError, match=r"b\.zip: SHA-256 is [0-9a-f]{12}\.\.\., but .*CHECKSUM says 000000000000"):
        get(server, tmp_path)
    assert left(tmp_path) == []
    server.held["/a/b.zip.CHECKSUM"] = b"<html>sign in</html>"
    with pytest.raises(InputError, match="expected a SHA-256; is this a mirror"):
        get(server, tmp_path)


def test_errors_of_the_server(server, tmp_path):
    """A busy server is asked again; a missing file and a refusal are not."""
    hold(server, "a/b.zip", BODY)
    server.faults["/a/b.zip"] = [503, 429]
    assert get(server, tmp_path)
    with pytest.raises(MissingError, match="the archive has no such file"):
        get(server, tmp_path, "a/c.zip")
    hold(server, "a/d.zip", BODY)
    server.faults["/a/d.zip"] = [451]
    with pytest.raises(InputError, match="the server says 451"):
        get(server, tmp_path, "a/d.zip")
    assert left(tmp_path) == ["b.zip", "b.zip.CHECKSUM"]


def test_offline(tmp_path):
    """Nobody listens: one clear line, nothing left behind."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(
        UnreachableError, match=rf"cannot be had from 127\.0\.0\.1:{port} now .*check the network or --base-url"
    ):
        archive.fetch([PATH.format(d) for d in range(10, 14)], tmp_path, f"http://127.0.0.1:{port}", pause=0.0)
    assert left(tmp_path) == []


def test_many_at_once_fetch_a_file_once(server, tmp_path):
    """Eight that want the same file: one fetches it, the others wait and find it."""
    hold(server, "a/b.zip", BODY)
    fetched = []
    threads = [threading.Thread(target=lambda: fetched.append(get(server, tmp_path))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(fetched) == [False] * 7 + [True]
    assert len([path for path, _ in server.requests if path == "/a/b.zip"]) == 1
    assert left(tmp_path) == ["b.zip", "b.zip.CHECKSUM"]


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        (("klines", "BTCUSDT"), "data/futures/um/daily/klines/BTCUSDT/1m/BTCUSDT-1m-2025-10-10.zip"),
        (("klines", "BTCUSDC", "spot"), "data/spot/daily/klines/BTCUSDC/1m/BTCUSDC-1m-2025-10-10.zip"),
        (("bookDepth", "BTCUSDT"), PATH.format(10)),
        (
            ("metrics", "BTCUSD_PERP", "cm"),
            "data/futures/cm/daily/metrics/BTCUSD_PERP/BTCUSD_PERP-metrics-2025-10-10.zip",
        ),
    ],
)
def test_names_in_the_archive(arguments, path):
    """The layout of data.binance.vision."""
    kind, symbol, *market = arguments
    assert archive.paths(kind, symbol, "2025-10-10", "2025-10-10", *market) == [path]


def test_days_and_months():
    """Both ends belong to it; funding comes by the month."""
    assert len(archive.paths("metrics", "A", "2024-02-27", "2024-03-01")) == 4
    months = archive.paths("fundingRate", "A", "2024-02-27", "2024-03-01")
    assert [path[-11:] for path in months] == ["2024-02.zip", "2024-03.zip"]


@pytest.mark.parametrize(
    ("words", "fragment"),
    [
        (("bookDepth", "../x", "--start", "2025-10-10"), "symbol = '../x', expected letters, digits and _ only"),
        (("bookDepth", "A", "--start", "2025-10-32"), "start = '2025-10-32' is no day"),
        (("bookDepth", "A", "--start", "2025-10-10", "--end", "2025-10-09"), "end = 2025-10-09 is before start"),
        (("bookDepth", "A", "--start", "2025-10-10", "--market", "spot"), "spot has no 'bookDepth'"),
        (
            ("bookDepth", "A", "--start", "2025-10-10", "--base-url", "ftp://x"),
            "expected one that begins with https://",
        ),
    ],
)
def test_bad_requests(words, fragment):
    refused(invoke("data", "fetch", *words), fragment)


def test_the_command_fetches_and_checks(server, tmp_path):
    """Two days by the command, then a check of what came; a day that is not there fails at the end, and names it."""
    for day in (10, 11):
        raw = put(
            tmp_path, "book.zip", text(DEPTH_HEADER, [row for i in range(9) for row in snapshot(30 * i, 100.0 + i)])
        )
        hold(server, PATH.format(day), raw.read_bytes().replace(b"2025-10-10", f"2025-10-{day}".encode()))
    fetch = (
        "data",
        "fetch",
        "bookDepth",
        "BTCUSDT",
        "--start",
        "2025-10-10",
        "--base-url",
        server.url,
        "--to",
        tmp_path / "c",
    )
    result = invoke(*fetch, "--end", "2025-10-11")
    assert result.exit_code == 0, result.output
    file = tmp_path / "c" / PATH.format(10)
    assert str(file) in result.stdout.splitlines()
    assert len(binance.read_book_depth(file)) == 9
    result = invoke("data", "check", file)
    assert (result.exit_code, "Depth, 9 rows" in result.output, "sound" in result.output) == (0, True, True)
    result = invoke(*fetch, "--end", "2025-10-12")
    assert result.exit_code == 2
    assert "BTCUSDT-bookDepth-2025-10-11.zip: already there" in result.output
    assert "error: " + server.url in result.output
    assert "1 of 3 files are not in the archive (BTCUSDT-bookDepth-2025-10-12.zip)" in result.output


def test_the_check_command_refuses(tmp_path):
    """Status 2 and the row of what would poison an estimate, for each file; notes do not fail."""
    good = put(tmp_path, "good.csv", text(KLINE_HEADER, [kline(0), kline(0), kline(1)]))
    bad = put(tmp_path, "bad.csv", text(KLINE_HEADER, [kline(0), kline(1, -1.0)]))
    result = invoke("data", "check", good)
    assert result.exit_code == 0
    assert "note: " in result.output
    result = invoke("data", "check", good, bad, tmp_path / "none.csv")
    assert result.exit_code == 2
    assert f"error: {bad} row 3: bad price: open = -1" in result.output
    assert "none.csv: no such file" in result.output
    table = put(tmp_path, "rates.csv", text("date,symbol,fee", ["2025-10-10,A,1e-4", "2025-10-11,B,2e-4"]))
    words = ("--kind", "funding", "--column", "rate=fee", "--column", "interval=24", "--where", "symbol=B")
    assert "B Funding, 1 rows" in invoke("data", "check", table, *words).output
    refused(invoke("data", "check", table, "--column", "rate"), "'rate': expected NAME=VALUE")
    refused(invoke("data", "check", table), "not in a format known here")


def test_the_cache_is_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert archive.cache() == tmp_path / "tailrisk" / "data"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr("sys.platform", "darwin")
    assert archive.cache().parts[-4:] == ("Library", "Caches", "tailrisk", "data")
