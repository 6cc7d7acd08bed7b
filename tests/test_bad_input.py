"""Bad input through the command: status 2, lines that name the key or file and what was expected, nothing left."""

import errno
import os

import jax
import numpy as np
import pytest
from click.testing import CliRunner
from conftest import ROOT

import tailrisk.study.run
from tailrisk.cli import main

BASE = ROOT / "tests" / "small.toml"


@pytest.fixture(autouse=True)
def as_on_the_command_line():
    """The command runs in JAX's defaults; strictness is for the mathematics."""
    precise = jax.config.jax_enable_x64
    yield
    jax.config.update("jax_enable_x64", precise)


def invoke(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


def validate(*overrides, config=BASE):
    return invoke("validate", config, *overrides)


def refused(result, *fragments):
    """Status 2 and one or a few lines of plain text that hold all the fragments."""
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    lines = result.output.splitlines()
    assert lines
    assert all(line.startswith("error: ") for line in lines)
    assert len(lines) <= 7
    assert "Traceback" not in result.output
    for fragment in fragments:
        assert fragment in result.output, result.output


BRACKETS = 'margin={kind="Brackets",floors=%s,maintenance_rates=%s,max_leverage=%s}'
TWO = ("price=[1.0,2.0]", 'market={kind="GeometricBrownian",volatility=[0.4,0.5]}')

VALUES = {
    # sizes and numbers
    "negative size": ("book.notional=-5", "book.notional = -5", "[USD]", "expected a value > 0"),
    "nan size": ("book.notional=nan", "book.notional = nan", "not nan"),
    "infinite size": ("book.notional=inf", "book.notional = inf", "a finite number"),
    "list of sizes": ("book.notional=[1.0,2.0]", "book.notional: [1.0, 2.0]", "expected one number"),
    "infinite drift": ("market.drift=-inf", "market.drift = -inf", "a finite number"),
    "no accounts": ("book.accounts=0", "book.accounts", "whole number of 1 or more, got 0"),
    "negative accounts": ("book.accounts=-5", "book.accounts", "got -5"),
    "half an account": ("book.accounts=50.5", "book.accounts", "whole number, got 50.5"),
    "infinite accounts": ("book.accounts=inf", "book.accounts", "whole number, got inf"),
    "accounts of a wrong type": ("book.accounts=many", "book.accounts", "'many'"),
    "zero price": ("price=[0.0]", "price = [0.]", "[USD/unit]", "> 0"),
    "no price": ("price=[]", "price: 0 price(s)", "starting price"),
    "text for a price": ("price=abc", "price", "expected a number", "'abc'"),
    "zero depth": ("impact.depth.volume=0", "impact.depth.volume = 0", "[units]", "> 0"),
    "zero threshold": ('breaker={kind="Halt",threshold=0.0}', "breaker.threshold = 0", "> 0"),
    "zero band": ('breaker={kind="PriceBand",width=0.0}', "breaker.width = 0", "> 0 and < 1"),
    "negative fee": ("liquidation.fee=-1", "liquidation.fee = -1", ">= 0"),
    "table for a number": ("market.volatility={a=1}", "market.volatility", "expected a number"),
    "weights": ("book.leverages=[1.0,2.0]", "book.weights: 5 weight(s) for 2 leverage(s)"),
    "zero weights": ("book.weights=[0,0,0,0,0]", "book.weights", "all weights are zero"),
    "notional that float32 cannot hold": ("book.notional=1e39", "gross notional", "1e+39", "float32"),
    # times
    "zero horizon": ("horizon=0h", "horizon = 0", "> 0"),
    "infinite horizon": ("horizon=inf d", "horizon = inf", "a finite number"),
    "infinite step": ("step=inf d", "step = inf", "a finite number"),
    "wrong unit": ("horizon=5 mim", "horizon: '5 mim'", "did you mean 'min'"),
    "no unit": ("horizon=5", "horizon: 5 has no unit", '"5min"'),
    "no time": ("horizon=soon", "horizon: 'soon' is not a duration"),
    "two dots": ("horizon=1.2.3min", "horizon: '1.2.3min' is not a duration"),
    "negative time": ("horizon=-5min", "horizon: '-5min' is not a duration"),
    "several horizons": ('horizon=["1h","2h"]', "horizon: a list of 2 times, expected one"),
    "step that does not divide": ("step=7min", "step: the horizon is 8.57143 steps long", "whole number"),
    "step beyond the horizon": ("step=7h", "step: the horizon is 0.142857 steps long"),
    "too many steps": ("step=0.1ms", "step: the horizon is 3.6e+07 steps long", "16,777,215"),
    "one of several times": (
        'impact={kind="Transient",weights=[1,2],memories=["1min",5],depth={kind="ConstantDepth",volume=1e4}}',
        "impact.memories: 5 has no unit",
    ),
    # names
    "unknown key": ("book.acounts=5", "book.acounts: unknown key; did you mean 'accounts'?"),
    "unknown table": ("bok.accounts=5", "bok: unknown key; did you mean 'book'?"),
    "unknown key of run": ("run.path=5", "run.path: unknown key; did you mean 'paths'?"),
    "deep unknown key": ("impact.depth.volum=5", "impact.depth.volum: unknown key; did you mean 'volume'?"),
    "deep unknown table": ("impact.depht.a.b=5", "impact.depht: unknown key; did you mean 'depth'?"),
    "unknown kind": ("market.kind=JumpDiffuson", "market: kind = 'JumpDiffuson'; did you mean 'JumpDiffusion'?"),
    "number for a kind": ("market.kind=5", "market: kind = 5; known: ", "Hawkes"),
    "number for a component": ("market=5", "market: expected a table with a kind", "Hawkes", "got 5"),
    "number for run": ("run=5", "run: expected a table of paths, books", "got 5"),
    "number for a backstop": ("waterfall.backstop=5", "waterfall.backstop: expected a table of capital", "got 5"),
    "number for a list of rules": ('breaker={kind="AllOf",breakers=5}', "breaker.breakers: expected a list"),
    "key in a list of rules": ('breaker={kind="AllOf",breakers=[{kind="Halt",treshold=1.0}]}', "breakers[0].treshold"),
    "no rules": ('breaker={kind="AllOf",breakers=[]}', "breaker: breakers is ()", "one breaker at least"),
    "missing key": ('market={kind="GeometricBrownian"}', "market.volatility: missing; give it a value"),
    "missing keys of a kind": ("market=JumpDiffusion", "market.volatility: missing", "market.jumps: missing"),
    "unknown option": ("run.precision=float16", "run.precision: expected one of float32, float64, got 'float16'"),
    "switch": ("observed=yes", "observed: expected true or false, got 'yes'"),
    "no override": ("run.paths", "override 'run.paths': expected key=value, for example run.paths=10000"),
    "empty part of a key": ("run..paths=5", "override 'run..paths=5': expected key=value"),
    "key below a value": ("price.x=5", "override 'price.x=5': price is [116830.0], not a table"),
    # margin tables
    "unsorted tiers": (
        BRACKETS % ("[0.0,500.0,100.0]", "[0.004,0.005,0.006]", "[100.0,50.0,20.0]"),
        "margin.floors: tier 2 starts at 100 after 500; sort tiers",
    ),
    "tiers of unequal length": (
        BRACKETS % ("[0.0,500.0]", "[0.004,0.005,0.006]", "[100.0,50.0,20.0]"),
        "maintenance_rates is a table of shape (1, 3), but floors has (1, 2)",
    ),
    "maintenance above initial": (
        'margin={kind="Flat",maintenance_rate=0.2,initial_rate=0.1}',
        "margin.maintenance_rate: 0.2 is above the initial rate 0.1",
    ),
    "maintenance above initial in a tier": (
        BRACKETS % ("[0.0,500.0]", "[0.004,0.05]", "[100.0,50.0]"),
        "margin.maintenance_rates: tier 1 has maintenance rate 0.05 above its initial rate 1/50 = 0.02",
    ),
    "unsorted levels": (
        'breaker={kind="MarketWide",levels=[0.2,0.1],lengths=["15min","inf d"]}',
        "breaker.levels: [0.2 0.1] are not increasing",
    ),
    # parts that do not fit together
    "price for two": ("price=[1.0,2.0]", "price: 2 price(s)", '"JumpDiffusion" has 1'),
    "ladder with slices": ("liquidation.kind=Slice", '"SortedLadder" closes accounts in full', '"Slice"', '"Accounts"'),
    "ladder with moving margin": (
        'margin={kind="VolatilityScaled",base={kind="Flat",maintenance_rate=0.05,initial_rate=0.1}}',
        '"SortedLadder" needs margins that do not move',
        '"VolatilityScaled"',
    ),
    "ladder with jumping margin": (
        "margin.style=whole",
        'Brackets with style = "whole" is not convex',
        'use style = "bracket"',
    ),
    "depth for others": ("impact.depth.volume=[1.0,2.0,3.0]", "1 asset(s)", "impact.depth.volume of shape (3,)"),
    "margin for others": (
        'margin={kind="Flat",maintenance_rate=[0.05,0.05,0.05],initial_rate=0.1}',
        "margin.maintenance_rate of shape (3,)",
    ),
    "breaker for others": ('breaker={kind="Halt",threshold=[0.1,0.2]}', "breaker.threshold of shape (2,)"),
    "fee for others": ("liquidation.fee=[0.1,0.2]", "liquidation.fee of shape (2,)"),
    # the run
    "too many paths for the disk": ("run.paths=1e12", "run.paths = 1000000000000", "GB of disk", "lower run.paths"),
    "no paths": ("run.paths=0", "run.paths", "got 0"),
    "nan paths": ("run.paths=nan", "run.paths", "whole number, got nan"),
    "no books": ("run.books=0", "run.books", "got 0"),
    "no chunk": ("run.chunk=0", "run.chunk", "got 0"),
    "negative seed": ("run.seed=-1", "run.seed", "from 0 to 18446744073709551615, got -1"),
    "huge seed": ("run.seed=1e30", "run.seed", "from 0 to 18446744073709551615"),
    "level of 1": ("run.levels=[1.0]", "run.levels = [1.]", "> 0 and < 1"),
    "no levels": ("run.levels=[]", "run.levels: []", "such as [0.99]"),
    "several confidences": ("run.confidence=[0.9,0.8]", "run.confidence", "one number"),
}


@pytest.mark.parametrize("name", VALUES)
def test_values(name):
    override, *fragments = VALUES[name]
    refused(validate(override), *fragments)


@pytest.mark.parametrize(
    ("overrides", "fragments"),
    [
        ((*TWO, 'book={kind="CrossMixture",notional=1e9}'), ['"Accounts"', "one asset, the book has 2"]),
        ((*TWO, "positions.kind=Accounts"), ['book.kind = "LeverageMixture" has positions in 1 asset(s), price has 2']),
        (("positions.kind=Accounts", "liquidation.kind=Schedule"), ['"Schedule" hands groups', "waterfall.backstop"]),
        (("positions.kind=Accounts", "positions.call=5"), ["positions.call: expected a table of call_level"]),
    ],
    ids=[
        "ladder with two assets",
        "mixture with two assets",
        "schedule without backstop",
        "call",
    ],
)
def test_combinations(overrides, fragments):
    refused(validate(*overrides), *fragments)


@pytest.mark.parametrize(
    ("memory", "fragments"),
    [(1e4, ["run.paths = 64", "lower run.paths"]), (3e4, ["run.chunk = 64", "lower run.chunk"])],
    ids=["paths", "chunk"],
)
def test_memory_is_checked_before_the_start(memory, fragments, monkeypatch):
    monkeypatch.setattr(tailrisk.study.run, "memory_bytes", lambda: memory)
    refused(validate("run.chunk=64"), "GB of memory", *fragments)


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


def put(folder, name, content):
    path = folder / (name if "." in name else "table.csv")
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


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


def test_several_complaints_are_one_line_each():
    result = validate("price=[0.0]", "market.volatility=-1", "liquidation.fee=2")
    refused(result, "price = ", "market.volatility = ", "liquidation.fee = ")
    assert len(result.output.splitlines()) == 3


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
    refused(invoke(*RUN, "run.paths=1e12", "--out", tmp_path / "a" / "b"), "GB of disk")
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


def test_bugs_keep_their_traceback(monkeypatch):
    """A ValueError that nobody raised on purpose is not called bad input, when building as little as when tracing."""

    def broken(*_, **__):
        np.ones(2) + np.ones(3)

    with monkeypatch.context() as patch:
        patch.setattr(tailrisk.study.run, "_one_path", broken)
        result = validate()
    assert isinstance(result.exception, ValueError)
    assert result.exit_code == 1
    with monkeypatch.context() as patch:
        patch.setattr("tailrisk.book.LeverageMixture.build", broken)
        result = validate()
    assert isinstance(result.exception, ValueError)
    assert result.exit_code == 1


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (MemoryError(), 2, "out of memory; lower run.chunk"),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes"), 2, "out of memory; lower run.chunk"),
        (PermissionError(errno.EACCES, "Permission denied", "x.toml"), 2, "x.toml: Permission denied; check the path"),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "No space left on device"),
        (KeyboardInterrupt(), 130, "stopped"),
        (RuntimeError("a bug"), 1, ""),
    ],
    ids=["memory", "device memory", "permission", "disk", "ctrl-c", "bug"],
)
def test_what_a_machine_refuses(error, status, words, monkeypatch):
    def refuse(*_):
        raise error

    monkeypatch.setattr(tailrisk.study.run, "load", refuse)
    result = validate()
    assert result.exit_code == status
    assert words in result.output


def test_interrupted_run_says_how_to_go_on(started, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(tailrisk.study.run, "execute", stop)
    result = invoke(*RUN, "--out", started)
    assert result.exit_code == 130
    words = " ".join(str(word) for word in RUN)
    assert f"stopped; go on with: tailrisk {words} --out {started} --resume" in result.output
