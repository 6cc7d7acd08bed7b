"""TOML and the typed tree: what is written is read back, includes and overrides, messages."""

import tomllib
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import ROOT

from tailrisk.study.config import ConfigError, apply_override, dump, merge, read_toml, structure
from tailrisk.study.run import Run, from_table, load, resolved

CONFIGS = sorted((ROOT / "configs").glob("*.toml"))
VENUES = sorted((ROOT / "configs" / "venues").glob("*.toml"))
BASE = ROOT / "tests" / "small.toml"


def equal(first, second):
    """The same tree to the last bit, structure included."""
    a, b = jax.tree.flatten(first), jax.tree.flatten(second)
    return a[1] == b[1] and all(np.array_equal(x, y) for x, y in zip(a[0], b[0], strict=True))


def study(*overrides, base=BASE):
    table = read_toml(base)
    for text in overrides:
        apply_override(table, text)
    return from_table(table)


def refused(call, *args):
    with pytest.raises(ConfigError) as error:
        call(*args)
    return str(error.value)


def read_back(text):
    return from_table(tomllib.loads(text))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_config_survives_a_round_trip(path):
    """The resolved text of a run folder builds the same study, and itself again."""
    table = read_toml(path)
    if table["market"]["kind"] == "Replay":  # checks read the prices, which not everybody has
        table["market"]["series"] = {"kind": "PriceArray", "prices": [1.0, 2.0, 3.0], "every": table["step"]}
    first = from_table(table)
    text = resolved(first)
    assert equal(read_back(text), first)
    assert resolved(read_back(text)) == text


@pytest.mark.parametrize("path", VENUES, ids=lambda p: p.stem)
def test_every_venue_survives_a_round_trip_inside_a_scenario(path, tmp_path):
    """A venue table is an include: a config that names another one gets its margin and nothing else changes."""
    config = tmp_path / "config.toml"
    text = BASE.read_text()
    venue = next(line for line in text.splitlines() if line.startswith("include"))
    text = text.replace(venue, f"include = '{path}'")
    if path.stem == "brokered_futures":  # brings its own positions
        text = text.replace('[positions]\nkind = "SortedLadder"\n', "")
    config.write_text(text)
    first = load(config)
    assert equal(read_back(resolved(first)), first)
    assert type(first.scenario.margin).__name__ == read_toml(path)["margin"]["kind"]
    plain = study()
    for name in ("market", "impact", "waterfall", "price", "horizon", "step"):
        assert equal(getattr(first.scenario, name), getattr(plain.scenario, name))


DEPTH = 'depth={kind="ConstantDepth",volume=1e4}'
PARTS = {
    "transient": 'impact={kind="Transient",weights=[1,2],memories=["90s","inf d"],' + DEPTH + "}",
    "square root": 'impact={kind="SquareRoot",memory=["1min","1h"],share=[0.3,0.7],' + DEPTH + "}",
    "market wide": 'breaker={kind="MarketWide",levels=[0.1,0.2],lengths=["15min","inf d"]}',
    "all of": 'breaker={kind="AllOf",breakers=[{kind="Halt",threshold=0.1},{kind="Throttle",volume=inf}]}',
    "oracle": 'oracle={kind="Lagged",delay="10min"}',
    "volatility": 'margin={kind="VolatilityScaled",base={kind="Flat",maintenance_rate=0.05,initial_rate=0.1}}',
    "backstop": 'waterfall={fund=1e6,backstop={capital=1e6,interval="30s"}}',
    "call": 'positions={kind="Accounts",call={grace="4h"}}',
    "equal sizes": 'book.sizes="EqualSizes"',
    "prices": 'market={kind="Replay",series={kind="PriceArray",prices=[1.0,2.0],every="5min"}}',
    "odd times": "horizon=1.7e5 s",
}


@pytest.mark.parametrize("name", PARTS)
def test_parts_survive_a_round_trip(name):
    first = study(PARTS[name], *(["step=1.7e3 s"] if name == "odd times" else []))
    assert equal(read_back(resolved(first)), first)


def test_dump_names_the_kind():
    assert dump(Run()).splitlines()[0] == 'kind = "Run"'


def write(folder, **texts):
    for name, text in texts.items():
        (folder / f"{name}.toml").write_text(text)
    return folder / f"{next(iter(texts))}.toml"


def test_include_is_completed_and_overridden(tmp_path):
    """Table by table; a table of another kind replaces the whole table."""
    path = write(
        tmp_path,
        top='include = "base.toml"\nb = 5\n[t]\nx = 9\n[k]\nkind = "New"\n[s]\nkind = "Same"\nq = 1\n[d]\np = 3\n',
        base='a = 1\nb = 2\n[t]\nx = 1\ny = 2\n[k]\nkind = "Old"\nz = 1\n[s]\nkind = "Same"\np = 1\n[d]\nkind = "D"\n',
    )
    assert read_toml(path) == {
        "a": 1,
        "b": 5,
        "t": {"x": 9, "y": 2},
        "k": {"kind": "New"},
        "s": {"kind": "Same", "p": 1, "q": 1},
        "d": {"kind": "D", "p": 3},
    }


def test_merge_leaves_its_arguments_alone():
    base, over = {"t": {"x": 1}}, {"t": {"y": 2}}
    assert merge(base, over) == {"t": {"x": 1, "y": 2}}
    assert (base, over) == ({"t": {"x": 1}}, {"t": {"y": 2}})


def test_files_are_relative_to_the_file_that_names_them(tmp_path, monkeypatch):
    """In the config, in its include, and for an override in the working folder."""
    (tmp_path / "sub" / "deep").mkdir(parents=True)
    (tmp_path / "sub" / "top.toml").write_text('include = "deep/base.toml"\n[book]\npath = "own.csv"\n')
    (tmp_path / "sub" / "deep" / "base.toml").write_text('[market]\npath = "prices.csv"\n')
    monkeypatch.chdir(tmp_path)
    table = read_toml(Path("sub/top.toml"))
    assert table == {"book": {"path": "sub/own.csv"}, "market": {"path": "sub/deep/prices.csv"}}
    apply_override(table, "book.path=mine.csv")
    assert table["book"]["path"] == "mine.csv"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("run.paths=64", {"run": {"paths": 64}}),
        ("a.b=1e3", {"a": {"b": 1000.0}}),
        ("a.b=[1, 2]", {"a": {"b": [1, 2]}}),
        ('a.b={x = "y"}', {"a": {"b": {"x": "y"}}}),
        ("a.b=true", {"a": {"b": True}}),
        ("a.b=5min", {"a": {"b": "5min"}}),
        ("a.b= plain text ", {"a": {"b": "plain text"}}),
        ('a.b="quoted"', {"a": {"b": "quoted"}}),
        ("a.b=x=y", {"a": {"b": "x=y"}}),
        (" a . b = 1", {"a": {"b": 1}}),
        ("horizon=1h", {"horizon": "1h"}),
    ],
)
def test_overrides(text, expected):
    table = {}
    apply_override(table, text)
    assert table == expected


def test_override_of_a_kind_drops_the_keys_of_the_old_one():
    table = {"market": {"kind": "Old", "x": 1}}
    apply_override(table, "market.kind=Old")
    assert table == {"market": {"kind": "Old", "x": 1}}
    apply_override(table, "market.kind=New")
    assert table == {"market": {"kind": "New"}}


def test_later_overrides_win():
    assert study("run.seed=1", "run.seed=2").run.seed == 2


@pytest.mark.parametrize("text", ["run.paths", "=5", "run..paths=5", ".paths=5", "run.=5", ""])
def test_what_is_no_override(text):
    assert "expected key=value, for example run.paths=10000" in refused(apply_override, {}, text)


def test_override_below_a_value():
    assert "price is [1.0], not a table" in refused(apply_override, {"price": [1.0]}, "price.x=5")


def test_a_table_without_a_kind_completes_the_default():
    """The default's kind and, where they are not given, its values; inside an override, a file and another table."""
    assert study("positions.clearing.rounds=4").scenario.positions.clearing.rounds == 4
    assert study("book.sizes.tail_index=1.5").scenario.book.sizes.tail_index == 1.5
    accounts = study("positions={kind='Accounts', clearing={}}").scenario.positions
    assert type(accounts.clearing).__name__ == "Rounds"
    assert accounts.clearing.rounds == 2  # the default of Accounts, not that of Rounds
    assert study("liquidation={fee=0.02}").scenario.liquidation.fee == 0.02
    text = refused(study, "positions.clearing.round=4")
    assert text == "positions.clearing.round: unknown key; did you mean 'rounds'?"
    assert "oracle.delay: unknown key; Spot has no keys" in refused(study, "oracle.delay=5min")


def test_all_complaints_at_once():
    text = refused(study, "book.acounts=5", "run.path=5", "horizon=5 mim", "market.kind=JumpDiffuson")
    assert sorted(line.split(":")[0] for line in text.splitlines()) == ["book.acounts", "horizon", "market", "run.path"]


def test_bugs_are_no_bad_input():
    """Only what conversion says about a value is a complaint; anything else keeps its type and traceback."""

    class Broken(Run):
        def __check_init__(self):
            raise AttributeError("a slip of the pen")

    with pytest.raises(AttributeError, match="slip"):
        structure({}, Broken)
