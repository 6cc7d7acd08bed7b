"""A scenario as a model to tune, and the command that tunes it."""

import json
from functools import cache
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from click.testing import CliRunner

from tailrisk._streams import noise_keys
from tailrisk.book import ToppedUp
from tailrisk.cli import main
from tailrisk.leaves import current, with_parameters
from tailrisk.positions.sorted import thresholds
from tailrisk.simulate import entry_point, simulate
from tailrisk.study.tune import combinations, load
from tailrisk.study.venue import OUTCOMES, HardVenue, Held, SmoothVenue

CONFIG = Path(__file__).with_name("tune.toml")
KEYS = noise_keys(0, "test")
MAINTENANCE, INITIAL, FUND = "margin.maintenance_rates", "margin.initial_rates", "waterfall.fund"


@cache
def scenario():
    return load(CONFIG)[1].scenario


def moved(free):
    """Two maintenance rates, two initial rates and a fund, each times one plus a free number."""
    return {
        MAINTENANCE: current(scenario(), MAINTENANCE).reshape(-1) * (1.0 + free[:2]),
        INITIAL: current(scenario(), INITIAL).reshape(-1) * (1.0 + free[2:4]),
        FUND: 5.0 * (1.0 + free[4]),  # small enough to be used up,
    }


def test_smooth_twin_has_the_derivatives_of_its_differences():
    """Every outcome in every parameter, on common paths; steps small against cells, large against rounding."""
    model = SmoothVenue.of(scenario(), cells=512)

    @entry_point
    def means(free):
        found = model.sample(moved(free), KEYS, jnp.uint32(0), 256)
        return jnp.stack([found[name].mean() for name in OUTCOMES])

    @entry_point
    def slopes(free):
        found = jax.jacfwd(lambda u: model.sample(moved(u), KEYS, jnp.uint32(0), 256))(free)
        return jnp.stack([found[name].mean(axis=0) for name in OUTCOMES])

    step = 1e-5
    exact = np.asarray(slopes(jnp.zeros(5)))
    basis = jnp.eye(5)
    apart = np.stack([np.asarray(means(step * e) - means(-step * e)) / (2.0 * step) for e in basis], axis=1)
    scale = np.abs(apart).max(axis=1, keepdims=True)
    assert (np.abs(exact - apart) <= 2e-3 * scale + 1e-12).all(), (exact, apart)
    named = dict(zip(OUTCOMES, exact, strict=True))
    assert named["posted_margin"][2:4].max() > 0.0  # who has too little posts more
    assert np.abs(named["bad_debt"][:4]).max() > 0.0
    assert named["bad_debt"][4] == 0.0  # a fund pays bad debt, it does not prevent any
    assert named["uncovered_debt"][4] < 0.0


def test_deciding_model_is_the_scenario_itself():
    values = {name: current(scenario(), name).reshape(-1) for name in (MAINTENANCE, INITIAL)}
    found = HardVenue(Held(scenario())).sample(values, KEYS, 0, 1024)
    system = scenario().build(np.float32)
    plain = simulate(system, paths=1024, chunk=1024, keys=KEYS)
    gross = float(system.cascade.positions.gross())
    assert (plain["bad_debt"] > 0.0).any()
    np.testing.assert_allclose(found["bad_debt"], plain["bad_debt"] / gross, rtol=1e-6)
    np.testing.assert_allclose(found["halted_share"].mean(), plain["halted_time"].mean() * 365 * 24, rtol=1e-5)
    unpaid = (plain["bad_debt"] - plain["fund_paid"]) / gross
    np.testing.assert_allclose(found["uncovered_debt"], unpaid, atol=1e-9)
    assert set(found) == set(OUTCOMES)


def test_topped_up_accounts_keep_their_distance():
    book, price = scenario().book, np.array([100.0])
    base = book.book.build(price, book.reference, 0)
    same = book.build(price, book.reference, 0)
    strict = with_parameters(scenario(), {MAINTENANCE: np.array([0.05, 0.08]), INITIAL: np.array([0.1, 0.15])}).margin
    more = book.build(price, strict, 0)
    assert (same.cash >= base.cash).all()
    assert (more.cash >= same.cash).all()
    assert more.cash.sum() > 1.05 * same.cash.sum()
    level = thresholds(more, price, *(np.asarray(line, float) for line in strict.lines()))
    assert level.max() <= np.log1p(-0.01) + 1e-12
    np.testing.assert_array_equal(more.quantity, base.quantity)
    near = eqx.tree_at(lambda m: m.maintenance_rates, strict, strict.maintenance_rates * (1.0 + 1e-9))
    np.testing.assert_allclose(book.build(price, near, 0).cash, more.cash, rtol=1e-6)  # continuous in the margin
    assert isinstance(book, ToppedUp)


def test_every_combination_of_choices_is_tried():
    found = combinations({"a": [1, 2], "b": ["x", "y", "z"]})
    assert len(found) == 6
    assert found[1] == {"a": 1, "b": "y"}


def invoke(*words):
    return CliRunner().invoke(main, ["tune", str(CONFIG), *words])


@pytest.fixture
def keep_precision():
    precise = jax.config.jax_enable_x64
    yield
    jax.config.update("jax_enable_x64", precise)


def test_a_policy_is_found_certified_and_can_be_run(tmp_path, keep_precision):
    out = tmp_path / "policy"
    result = invoke("--out", str(out))
    assert result.exit_code == 0, result.output
    found = json.loads((out / "policy.json").read_text())
    (line,) = found["fresh"].values()
    assert found["status"] == "certified"
    assert line["upper_bound"] <= line["limit"]
    assert found["incumbent"][line["name"]]["estimate"] > line["limit"]  # there was something to do
    assert found["choice"] == {"breaker.breakers.0.length": "20min"}  # the config itself says 10min
    assert 'length = "1200 s"' in (out / "policy.toml").read_text()
    grid = np.array(found["parameters"][MAINTENANCE]) / 0.0005
    np.testing.assert_allclose(grid, np.round(grid), atol=1e-6)
    assert {file.name for file in (out / "figures").iterdir()} == {"certificate.pdf", "certificate.png"}
    run = CliRunner().invoke(main, ["run", str(out / "policy.toml"), "--out", str(tmp_path / "run")])
    assert run.exit_code == 0, run.output
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    share = summary["metrics"]["expected_bad_debt_share"]
    assert abs(share["value"] - line["estimate"]) < 5.0 * np.hypot(share["std_error"], line["std_error"])


def test_a_limit_out_of_reach_is_said_so(tmp_path, keep_precision):
    limits = 'tune.constraints=[{kind="Mean",outcome="forced_volume",limit=1e-6}]'
    words = ("tune.smooth_paths=0", "tune.evaluations=2", "tune.choices={}", limits)
    result = invoke(*words, "--out", str(tmp_path / "policy"))
    assert result.exit_code == 1, result.output
    assert "NOT CERTIFIED" in result.output
    assert (tmp_path / "policy" / "policy.toml").read_text().startswith("# NOT CERTIFIED")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ('tune.constraints=[{kind="Mean",outcome="bad_dept",limit=1e-3}]', "'bad_dept' is no outcome"),
        ("tune.cost={posted=1.0}", "'posted' is no outcome"),
        ("tune.cost={posted_margin=-1.0}", "tune.cost: posted_margin = -1: expected a price > 0"),
        ("tune.cost={bad_debt=1.0}", "tune.cost: prices losses alone"),
        ("tune.cost={}", "tune.cost: is empty"),
        ("tune.constraints=[]", "tune.constraints: is empty"),
        ("tune.variables=[]", "tune.variables: is empty"),
        (
            f'tune.variables=[{{kind="Above",name="{INITIAL}",base="{MAINTENANCE}",start=[0.1,0.2],upper=0.5}}]',
            f"tune.variables.{INITIAL}: base = '{MAINTENANCE}': expected a variable listed before it",
        ),
        ('tune.choices={"waterfall.fund"=["much"]}', "tune.choices: {'waterfall.fund': 'much'}: waterfall.fund"),
        (
            'tune.variables=[{kind="Scale",name="margin.maintenance_rate",start=0.1}]',
            "did you mean 'maintenance_rates'",
        ),
        ('tune.variables=[{kind="Scale",name="waterfall.fund",start=[1.0,2.0]}]', "waterfall.fund holds 1 number(s)"),
        ('tune.variables=[{kind="Rate",name="waterfall.fund",start=5.0,lower=6.0,upper=7.0}]', "does not lie between"),
        ('tune.choices={"breaker.breakers.0.length"="5min"}', "expected a list"),
        ("tune.path=100", "tune.path: unknown key"),
        ("tune.choices={'breaker.breakers.7.length'=['5min']}", "no place in a list"),
    ],
)
def test_bad_input(override, said, tmp_path, keep_precision):
    result = invoke(override, "--out", str(tmp_path / "policy"))
    assert result.exit_code == 2, result.output
    assert said in result.output
    assert not (tmp_path / "policy").exists()


def test_validate_checks_the_table_tune_too():
    words = ["validate", str(CONFIG)]
    assert "[tune] is valid" in CliRunner().invoke(main, words).output
    wrong = CliRunner().invoke(main, [*words, "tune.seeds=1"])
    assert wrong.exit_code == 2
    assert "tune.seeds: unknown key; did you mean 'seed'" in wrong.output


def test_a_config_without_a_table_tune(tmp_path, keep_precision):
    result = CliRunner().invoke(main, ["tune", str(CONFIG.with_name("small.toml"))])
    assert result.exit_code == 2
    assert "no table [tune]" in result.output
