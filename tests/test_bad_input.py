"""Bad input through the command: status 2, lines that name the key and what was expected; bugs are something else."""

import errno

import jax
import numpy as np
import pytest
from command import refused, validate

import tailrisk.study.memory
import tailrisk.study.run


@pytest.fixture(autouse=True)
def as_on_the_command_line():
    """The command runs in JAX's defaults; strictness is for the mathematics."""
    precise = jax.config.jax_enable_x64
    yield
    jax.config.update("jax_enable_x64", precise)


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
    "key below a value": ("price.x=5", "override of price.x: price is [116830.0], not a table"),
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
    "too many paths for the disk": (
        "run={paths=4e9,rows=4e9}",
        "run.rows = 4000000000",
        "GB of disk",
        "lower run.rows",
    ),
    "no paths": ("run.paths=0", "run.paths", "got 0"),
    "nan paths": ("run.paths=nan", "run.paths", "whole number, got nan"),
    "no books": ("run.books=0", "run.books", "got 0"),
    "too many paths for a seed": (
        "run.paths=1e12",
        "run.paths = 1000000000000",
        "2^32 paths per seed",
        "lower run.paths",
    ),
    "no chunk": ("run.chunk=-1", "run.chunk", "got -1"),
    "memory in two numbers": ("run.memory=[1.0,2.0]", "run.memory", "one number of GB"),
    "no memory": ("run.memory=1e-6", "run.memory = 1e-06", "GB of memory", "raise run.memory"),
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
    [(1e4, ["run.rows = 1000000", "lower run.rows"]), (3e4, ["run.chunk = 64", "lower run.chunk"])],
    ids=["rows", "chunk"],
)
def test_memory_is_checked_before_the_start(memory, fragments, monkeypatch):
    for module in (tailrisk.study.run, tailrisk.study.memory):
        monkeypatch.setattr(module, "memory_bytes", lambda: memory)
    refused(validate("run.chunk=64"), "GB of memory", *fragments)


def test_several_complaints_are_one_line_each():
    result = validate("price=[0.0]", "market.volatility=-1", "liquidation.fee=2")
    refused(result, "price = ", "market.volatility = ", "liquidation.fee = ")
    assert len(result.output.splitlines()) == 3


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
