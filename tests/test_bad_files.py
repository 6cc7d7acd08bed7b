"""Files and folders that cannot be used: status 2, lines that name them and the remedy, nothing half-written."""

import errno
import os

import numpy as np
import pytest
from command import BASE, invoke, put, refused, validate

import tailrisk.study.run

HEADER = "account,quantity,entry,collateral\n"
ROW = "a,1,116830,2e4\n"
POSITIONS = {
    "empty file": ("", "the file is empty", "account, quantity, entry, collateral"),
    "no rows": (HEADER, "the table has no rows, expected at least 1"),
    "missing column": (
        "account,quantity,entry,colateral\n" + ROW,
        "no column 'collateral'",
        "did you mean 'colateral'",
    ),
    "two columns of a name": (HEADER.strip() + ",entry\na,1,1,1,2\n", "two columns 'entry'"),
    "nan": (HEADER + ROW + "b,nan,1,1\n", "row 3: quantity = nan", "finite number"),
    "infinite": (HEADER + "a,inf,1,1\n", "row 2: quantity = inf"),
    "no size": (HEADER + "a,0,1,1\n", "row 2: quantity = 0.0", "other than 0"),
    "negative entry": (HEADER + "a,1,-1,1\n", "row 2: entry = -1.0", "> 0"),
    "negative collateral": (HEADER + "a,1,1,-1\n", "row 2: collateral = -1.0", "USD >= 0"),
    "text": (HEADER + "a,much,1,1\n", "row 2: quantity = 'much', expected a number"),
    "short row": (HEADER + "a,1,1\n", "row 2: 3 values, expected 4"),
    "long row": (HEADER + "a,1,1,1,1\n", "row 2: 5 values, expected 4"),
    "unknown asset": (HEADER.strip() + ",asset\na,1,1,1,3\n", "row 2: asset = 3.0, expected 0"),
    "half an asset": (HEADER.strip() + ",asset\na,1,1,1,0.5\n", "row 2: asset = 0.5"),
    "unknown mode": (
        HEADER.strip() + ",mode\na,1,1,1,crosss\n",
        'row 2: mode = crosss, expected "isolated" or "cross"',
    ),
    "nothing left": (HEADER.strip() + ",mode\na,1,1,1,cross\na,-1,1,1,cross\n", "offset each other"),
    "too large": (HEADER + "a,1e300,116830,1\n", "gross notional", "float32"),
    "binary": (bytes(range(256)), "cannot be read as a table", "expected .csv"),
    "binary.csv.gz": (bytes(range(256)), "cannot be read as a table", "expected .csv"),
    "binary.parquet": (b"\0\1\2" * 100, "not a valid Parquet file"),
}


def prices(*values, step=300_000):
    return "open_time,close\n" + "".join(f"{1_600_000_000_000 + i * step},{v}\n" for i, v in enumerate(values))


SERIES = {
    "negative price": (prices(1, -2, 3), "row 3: price -2 of close", "positive"),
    "zero price": (prices(1, 2, 0), "row 4: price 0 of close"),
    "nan price": (prices(1, "nan", 3), "row 3: price nan of close"),
    "text": (prices(1, "x", 3), "row 3: close = 'x', expected a number"),
    "missing column": ("open_time,Close\n1,2\n2,3\n", "no column 'close'; did you mean 'Close'?"),
    "other spacing": (prices(1, 2, 3, step=60_000), "60 s apart but the step of the run is 300 s"),
    "one row": (prices(1), "only 1 row"),
    "no rows": ("open_time,close\n", "the table has no rows, expected at least 2"),
    "empty file": ("", "the file is empty"),
    "unsorted": ("open_time,close\n2,1\n1,1\n3,1\n", "row 3: time", "sort the file"),
    "binary": (bytes(range(256)), "cannot be read as a table", "expected .csv"),
    "binary.csv.gz": (bytes(range(256)), "cannot be read as a table"),
    "binary.parquet": (b"\0\1\2" * 100, "not a valid Parquet file"),
}


@pytest.mark.parametrize("name", POSITIONS)
def test_position_tables(name, tmp_path):
    content, *fragments = POSITIONS[name]
    path = put(tmp_path, name, content)
    whole = [str(path)] if "gross" not in fragments[0] else []
    refused(validate(f'book={{kind="PositionTable",path="{path}"}}'), *whole, *fragments)


@pytest.mark.parametrize("name", SERIES)
def test_price_files(name, tmp_path):
    content, *fragments = SERIES[name]
    path = put(tmp_path, name, content)
    refused(
        validate(f'market={{kind="Replay",series={{kind="PriceFile",path="{path}"}}}}'), "market.series: ", *fragments
    )


@pytest.mark.parametrize("kind", ["book", "series"])
def test_unreadable_files(kind, tmp_path):
    """A file that is missing (with the nearest name) and a folder."""
    put(tmp_path, "prices.csv", prices(1, 2))
    for path, words in (
        (tmp_path / "price.csv", f"did you mean {tmp_path / 'prices.csv'}?"),
        (tmp_path, "is a folder"),
    ):
        table = (
            f'book={{kind="PositionTable",path="{path}"}}'
            if kind == "book"
            else f'market={{kind="Replay",series={{kind="PriceFile",path="{path}"}}}}'
        )
        refused(validate(table), f"{path}: ", words)


@pytest.mark.parametrize(
    ("more", "fragments"),
    [
        ("columns=5", ["market.series.columns: expected a name or a list of names, got 5"]),
        ('every="5 mim"', ["market.series: every:", "did you mean 'min'"]),
        ('start="yesterday"', ["market.series: start: 'yesterday' is no ISO time"]),
        ('starts="2020-01-01"', ["market.series.starts: unknown key; did you mean 'start'?"]),
    ],
)
def test_options_of_a_price_file(more, fragments, tmp_path):
    path = put(tmp_path, "prices.csv", prices(1, 2))
    refused(validate(f'market={{kind="Replay",series={{kind="PriceFile",path="{path}",{more}}}}}'), *fragments)


def test_prices_in_the_config():
    series = 'market={kind="Replay",series={%s,every="5min"}}'
    refused(validate(series % 'kind="PriceArray",prices=[1.0,-2.0]'), "market.series.prices = [ 1. -2.]", "> 0")
    refused(validate(series % 'kind="PriceArray",prices=[1.0]'), "prices has shape (1,)", "at least 2 times")
    returns = 'kind="LogReturns",log_return=[1.0],mean_square=[1.0]'
    refused(validate(series % returns), "log_return has shape (1,)", '"PriceArray"')


def test_config_files(tmp_path):
    """Missing, a folder, binary, not TOML, empty; and the same of an include."""
    put(tmp_path, "good.toml", "a = 1\n")
    cases = {
        "god.toml": (None, f"no such config file; did you mean {tmp_path / 'good.toml'}?"),
        "": (None, "is a folder, expected a TOML file"),
        "binary.toml": (bytes(range(256)), "not valid TOML"),
        "open.toml": ("a = \n", "not valid TOML: Invalid value (at line 1, column 5)"),
        "missing.toml": ('include = "god.toml"\n', f"missing.toml); did you mean {tmp_path / 'good.toml'}?"),
        "nested.toml": ('include = "missing.toml"\n', "may not include 'god.toml' itself"),
        "number.toml": ("include = 5\n", "include = 5: expected one file name"),
        "empty.toml": ("", "market: missing; give it a value"),
    }
    for name, (content, words) in cases.items():
        if content is not None:
            put(tmp_path, name, content)
        refused(invoke("validate", tmp_path / name), words)
    refused(invoke("run", tmp_path / "god.toml", "--out", tmp_path / "run"), "no such config file")
    assert not (tmp_path / "run").exists()


RUN = ("run", BASE)


def test_folders_that_cannot_be_used(tmp_path):
    """A file in the way, below a file, a place that takes no folder, a folder of something else; nothing is left."""
    file = put(tmp_path, "file", "x").rename(tmp_path / "file")
    refused(invoke(*RUN, "--out", file), f"{file}: is a file; choose another --out")
    refused(invoke(*RUN, "--out", file / "run"), "cannot be made: Not a directory; choose another --out")
    if os.path.isdir("/proc"):
        refused(invoke(*RUN, "--out", "/proc/none/run"), "/proc/none/run: cannot be made", "choose another --out")
    (tmp_path / "full").mkdir()
    put(tmp_path / "full", "notes.txt", "mine")
    refused(invoke(*RUN, "--out", tmp_path / "full"), "is not empty and holds no run; choose another --out")
    refused(invoke(*RUN, "--out", tmp_path / "none", "--resume"), "holds no run to go on with")
    refused(invoke(*RUN, "book.accounts=0", "--out", tmp_path / "a" / "b"), "book.accounts")
    refused(invoke(*RUN, "run.paths=4e9", "run.rows=4e9", "--out", tmp_path / "a" / "b"), "GB of disk")
    assert {path.name for path in tmp_path.rglob("*")} == {"file", "full", "notes.txt"}


@pytest.fixture
def started(tmp_path):
    """A run folder as a killed run leaves it before its first part."""
    from tailrisk.study.folder import prepare_folder
    from tailrisk.study.run import load, resolved

    folder = tmp_path / "run"
    prepare_folder(folder, resolved(load(BASE)), resume=False)
    return folder


def test_resume(started):
    """Without --resume, with another config, with a part that is none, after the end."""
    refused(invoke(*RUN, "--out", started), "already holds a run; add --resume")
    other = invoke(*RUN, "run.seed=7", "--out", started, "--resume")
    refused(other, "config.toml: differs from the config given: run.seed was 1, now 7")
    more = invoke(*RUN, "waterfall.backstop={capital=1e6}", "--out", started, "--resume")
    refused(more, "differs", "waterfall.backstop was None")
    part = put(started / "parts", "0000-000000000000.npz", b"PK\3\4 cut off")
    refused(invoke(*RUN, "--out", started, "--resume"), f"{part}: not a readable result file", "delete it and resume")
    with open(part, "wb") as file:
        np.savez(file, bad_debt=np.zeros(3))
    refused(invoke(*RUN, "--out", started, "--resume"), f"{part}: not a part of this run, expected 64 paths")
    part.unlink()
    summary = started / "parts" / "tally-0000-000000000000-000000000064.npz"
    with open(summary, "wb") as file:
        np.savez(file, paths=np.asarray(64))
    refused(
        invoke(*RUN, "--out", started, "--resume"), f"{summary}: not a part of this run, expected a summary of 64 paths"
    )
    put(started, "config.toml", b"\xff")
    refused(invoke(*RUN, "--out", started, "--resume"), "config.toml: cannot be read")
    put(started, "run.json", "{}")
    for words in ((), ("--resume",)):
        refused(invoke(*RUN, "--out", started, *words), "holds a finished run, `tailrisk report")


def test_full_disk(tmp_path, monkeypatch):
    """At the start nothing is left behind; a file is there whole or not at all."""

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    result = invoke(*RUN, "--out", tmp_path / "a" / "run")
    refused(result, "config.toml: cannot be written: No space left on device; free space or choose another --out")
    assert not list(tmp_path.iterdir())


def test_report_of_what_is_no_run(started, tmp_path):
    for folder in (tmp_path, tmp_path / "none", put(tmp_path, "file.txt", "x")):
        refused(invoke("report", folder), f"{folder}: holds no finished run", "the folder that `tailrisk run` wrote")
    refused(invoke("report", started), "this run is not finished", "--resume")
    put(started, "run.json", "{}")
    for text in ("{", "[]", "{}", '{"metrics": 5}'):
        put(started, "summary.json", text)
        with open(started / "results.npz", "wb") as file:
            np.savez(file, a=np.zeros(1))
        refused(invoke("report", started), "summary.json: not ")
    put(started, "results.npz", b"PK\3\4 cut off")
    put(started, "summary.json", '{"metrics": {}}')
    refused(invoke("report", started), "results.npz: not a readable result file", "into another folder")


def test_interrupted_run_says_how_to_go_on(started, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(tailrisk.study.run, "execute", stop)
    result = invoke(*RUN, "--out", started)
    assert result.exit_code == 130
    words = " ".join(str(word) for word in RUN)
    assert f"stopped; go on with: tailrisk {words} --out {started} --resume" in result.output
