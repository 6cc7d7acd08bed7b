"""What `tailrisk tune` says about a policy beside its certificate: front, worlds it was not tuned for, rival rules, report."""

import dataclasses
import json

import equinox as eqx
import jax
import numpy as np
import pytest
from click.testing import CliRunner
from policy_problems import SIGMA, Margin, margin_problem
from scipy import stats
from test_tune import CONFIG, invoke

from tailrisk.breaker import NoBreaker
from tailrisk.cli import main
from tailrisk.figures import format_policy
from tailrisk.margin import Brackets, VolatilityScaled
from tailrisk.policy import AbstractSampledModel, Mean, Policy, Probability, Problem, Shortfall, Stream
from tailrisk.study.baselines import Baselines, rules
from tailrisk.study.config import read_toml
from tailrisk.study.halting import weigh
from tailrisk.study.replay import relive
from tailrisk.study.robustness import Posterior, Robustness, _draws, worst_case
from tailrisk.study.tune import load

DEMO = CONFIG.parent.parent / "configs" / "tune_demo.toml"
QUICK = (
    "tune.audit_paths=0",
    "tune.paths=1024",
    "tune.evaluations=25",
    "tune.certificate_paths=65536",
    "tune.choices={}",
)
WORLD = '{name="half depth",change={impact={depth={volume=1e5}}}}'
SURFACE = (
    'tune.surface={rows="breaker.breakers.0.threshold",columns="breaker.breakers.0.length",'
    'row_values=[0.03,0.9],column_values=["10min","20min"],paths=1024}'
)
CRASH = (
    'tune.replay={name="a made-up hour",books=3,change={observed=true,market={kind="Replay",series={kind="PriceArray",'
    'every="5min",prices=[100,99,97,94,90,85,83,86,88,90,91,92,93]}}}}'
)
MEAN = "mean bad_debt"


@pytest.fixture(scope="module")
def keep_precision():
    precise = jax.config.jax_enable_x64
    yield
    jax.config.update("jax_enable_x64", precise)


@pytest.fixture(scope="module")
def found(tmp_path_factory, keep_precision):
    """A small policy with a front of three targets, four draws, one other world and the rules that a ladder can hold."""
    out = tmp_path_factory.mktemp("tune") / "policy"
    result = invoke(
        *QUICK,
        "tune.starts=2",
        "tune.frontier.factors=[0.5,1,2]",
        "tune.robustness.draws=4",
        'tune.robustness.deviations={"market.volatility"=0.5}',
        f"tune.robustness.worlds=[{WORLD}]",
        "tune.robustness.paths=1024",
        "tune.baselines.paths=1024",
        SURFACE,
        CRASH,
        "--out",
        str(out),
    )
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception  # no bug
    return json.loads((out / "policy.json").read_text()), out, result.output


def test_report_is_the_page_of_the_file(found):
    policy, out, output = found
    text = (out / "report.md").read_text()
    assert text.strip() == format_policy(policy).strip()
    assert text.strip() in output
    for part in (
        "Constraints",
        "What a limit costs",
        "Optimality",
        "Derivatives",
        "Front",
        "Robustness",
        "Margin rules",
    ):
        assert part in text
    assert {file.stem for file in (out / "figures").iterdir()} == {"certificate", "front"}
    assert policy["made"]["seed"] == 3


def test_words_are_earned(found):
    """Certified is what stays below its limit on fresh paths, bound included; tuned is what is certified and converged."""
    policy, _, output = found
    below = [line["upper_bound"] <= line["limit"] and not line["note"] for line in policy["fresh"].values()]
    assert all(line["estimate"] < line["upper_bound"] for line in policy["fresh"].values())
    assert (policy["status"] == "certified") == all(below)
    assert policy["tuned_policy"] == (policy["search"] == "converged" and all(below))
    assert ("# Tuned policy" in output) == policy["tuned_policy"]


def test_two_starts_meet_in_cost(found):
    """What lies between them is a flat valley: the numbers may differ, the cost may not, beyond what 25 evaluations leave."""
    policy, *_ = found
    first, second = policy["searches"]
    assert (first["start"], second["start"]) == (0, 1)
    assert max(first["violation"], second["violation"]) <= 0.0
    assert second["cost"] == pytest.approx(first["cost"], rel=0.02)


def test_cost_is_the_sum_of_its_parts(found):
    policy, *_ = found
    for part in ("policy", "incumbent"):
        split = policy["cost_split"][part]
        assert set(split) == set(policy["prices"])
        assert min(split.values()) >= 0.0
    assert sum(policy["cost_split"]["incumbent"].values()) == pytest.approx(policy["cost"]["incumbent"], rel=1e-9)
    assert sum(policy["cost_split"]["policy"].values()) == pytest.approx(policy["cost"]["fresh"], rel=0.02)


def test_a_front_says_where_a_neighbor_is_better(found):
    """Each search is local; with the middle dearer by 0.001 than the stricter point, that one is the better policy for both."""
    policy = json.loads(json.dumps(found[0]))
    assert "NOT THE CHEAPEST" not in format_policy(policy)
    strict, middle, loose = policy["front"]
    middle["cost"] = policy["cost"]["tuning"] = strict["cost"] + 1e-3
    loose["cost"] = strict["cost"] - 1e-3
    said = [line for line in format_policy(policy).splitlines() if line.startswith("NOT THE CHEAPEST")]
    assert len(said) == 1
    assert "x 0.5 conservative meets the limit of x 1 moderate too, for 10 basis" in said[0]


def test_front_is_cheaper_where_more_bad_debt_is_allowed(found):
    policy, *_ = found
    front = policy["front"]
    assert [point["limit"] for point in front] == pytest.approx([2.5e-5, 5e-5, 1e-4])
    costs = [point["cost_before_rounding"] for point in front]
    assert costs[0] > costs[1] > costs[2]
    assert front[1]["cost_before_rounding"] == policy["cost"]["before_rounding"]
    middle = front[1]
    falls = [(costs[i] - costs[i + 1]) / (front[i + 1]["limit"] - front[i]["limit"]) for i in (0, 1)]
    assert falls[0] > middle["slope"] > falls[1] > 0.0  # a price of bad debt that falls with it
    assert middle["price"] == policy["shadow_prices"][MEAN]["price"]
    assert policy["shadow_prices"][MEAN]["along_front"] == middle["slope"]
    assert front[0]["slope"] is None
    for point in front:
        assert (point["certificate"] == "certified") == (point["upper_bound"] <= point["limit"])
        assert 0.0 < point["fresh"] < point["upper_bound"] < 1.5 * point["limit"]


def test_worlds_with_less_depth_have_more_bad_debt(found):
    policy, *_ = found
    panel = policy["robustness"]
    assert panel["draws"] == 4
    drawn = _draws({}, load(CONFIG)[1].scenario, Robustness(draws=4, deviations={"market.volatility": 0.5}), 3)
    stormy = np.mean([float(world.market.volatility) > 4.0 for world in drawn])
    assert stormy == 0.25
    assert panel["base"][MEAN]["holds"]
    share = panel["share_of_draws"][MEAN]
    assert share["holds"] == 1.0 - stormy
    assert share["worst_decile"] > 1.0 > panel["base"][MEAN]["estimate"] / 5e-5
    half = panel["worlds"]["half depth"][MEAN]
    assert half["estimate"] > panel["base"][MEAN]["estimate"]
    assert half["holds"] == (half["estimate"] <= 5e-5)


def test_impact_and_recovery_are_switched_off(found):
    policy, _, output = found
    worlds = {name: row[MEAN]["estimate"] for name, row in policy["robustness"]["worlds"].items()}
    base = policy["robustness"]["base"][MEAN]["estimate"]
    assert worlds["impact off"] < base < worlds["recovery off"]
    breaker = policy["robustness"]["breaker"]
    assert [row["world"] for row in breaker] == ["as tuned", "impact off", "recovery off"]
    assert [row["distance"] for row in breaker[1]["trigger"]["by_distance"]] == pytest.approx(
        -np.log1p(-policy["parameters"]["breaker.breakers.0.threshold"]) * np.array([0.75, 0.5, 0.25, 0.1]), rel=1e-5
    )
    assert "P(hit) from within" in output


def hits(level, distances, cells=500):
    """P(the walk of the config without impact is at or below each level at the end of a step), by quadrature; hits first."""
    scenario = load(CONFIG)[1].scenario
    step = float(scenario.market.volatility) * float(scenario.step) ** 0.5
    found = []
    for barrier in (level, *(level + distance for distance in distances)):
        grid = barrier + (np.arange(cells) + 0.5) * (8.0 * step * scenario.steps**0.5 / cells)
        kernel = stats.norm.pdf(grid[:, None], grid[None, :] - 0.5 * step**2, step) * (grid[1] - grid[0])
        alive = stats.norm.pdf(grid, -0.5 * step**2, step) * (grid[1] - grid[0])
        for _ in range(scenario.steps - 1):
            alive = kernel @ alive
        found.append(1.0 - alive.sum())
    return np.array(found)


def test_breaker_is_weighed_against_none(keep_precision):
    """Halts at a fall of 3 %: some are false alarms; without impact none gains on a price without trend."""
    scenario, said = load(CONFIG)[1].scenario, []
    policy = Policy({"breaker.breakers.0.threshold": np.asarray(0.03)}, np.zeros(1))
    tuned, off, never = weigh(scenario, policy, Stream("policy/robustness", 3, 4_096, 1_024), said.append)
    assert (tuned.world, off.world, never.world) == ("as tuned", "impact off", "recovery off")
    for row in (tuned, off, never):
        assert 0.01 < row.false_halts.value < row.halts.value < 1.0
        assert row.false_halts.std_error < 0.003
        assert row.forced.value < 0.0  # who is halted is not closed
    assert off.bad_debt.value >= -3.0 * off.bad_debt.std_error
    assert off.bad_debt.value > 3.0 * off.bad_debt.std_error  # closing later loses more
    for row in (tuned, off, never):
        assert row.late_bad_debt.std_error < 0.1 * row.late_bad_debt.value
        assert row.late_bad_debt.value > row.bad_debt.value  # what a halt adds is owed by whom it holds back
        assert 0.0 < row.fund_paid.value + row.adl_profit.value <= row.bad_debt.value * (1.0 + 1e-6)  # path by path
        assert (
            0.0 < row.trigger.gap.value < row.trigger.overshoot.value
        )  # the price of a walk does not come back by itself
        assert row.trigger.reopened.value < row.halts.value
    walk = hits(np.log(0.97), off.trigger.distances)
    for one, known in zip((*off.trigger.within, *off.trigger.hit), (*walk[1:], *(walk[0] / walk[1:])), strict=True):
        assert one.std_error < 0.01
        assert abs(one.value - known) < 4.0 * one.std_error
    assert tuned.halts.value > off.halts.value  # forced sales draw the price to the trigger
    assert f"{tuned.halts.value:.1%} of paths are halted" in said[0]
    still = eqx.tree_at(lambda s: s.breaker, scenario, NoBreaker())
    assert weigh(still, Policy({}, np.zeros(1)), Stream("", 0, 1_024), said.append) == ()


def test_a_book_relives_an_event(found):
    """All draws of the book see one path, a fall by 17 % that closes whom the margins in force leave thin."""
    policy, _, output = found
    replay = policy["replay"]
    assert (replay["event"], replay["missing"], replay["books"]) == ("a made-up hour", None, 3)
    ours, theirs = replay["rows"]["policy"], replay["rows"]["incumbent"]
    assert ours["liquidated_share"]["value"] > 0.0
    assert ours["posted_margin"]["value"] > theirs["posted_margin"]["value"]
    assert ours["bad_debt"]["value"] < theirs["bad_debt"]["value"]
    assert "Replay of a made-up hour" in output


def test_an_event_without_its_file_is_skipped_and_said(keep_precision):
    words = (CRASH, "tune.replay.change.market.series={kind='PriceFile',path='nowhere/october.csv'}")
    table, _, wanted = load(CONFIG, words)
    said: list[str] = []
    lived = relive(table, margin_problem(1.0), Policy({}, np.zeros(1)), wanted, said.append)
    assert said == ["replay: skipped, no file nowhere/october.csv"]
    assert lived is not None
    assert (lived.missing, lived.rows) == ("nowhere/october.csv", {})


def test_worst_reweighting_has_its_closed_form():
    """Normal losses: the worst mean under twice the probability is E[L | L > 0], the worst 99 % shortfall that of 99.5 %."""
    problem = Problem(
        Margin(),
        margin_problem(1.0).variables,
        {"margin": 1.0},
        (Mean("loss", 1.0), Shortfall("loss", 1.0, 0.99), Probability("excess", 0.5, 0.0)),
    )
    problem = dataclasses.replace(problem, model=Losses())
    policy, stream = Policy({"margin": np.asarray(SIGMA)}, np.zeros(3)), Stream("test", 3, 400_000)
    found = worst_case(problem, policy, stream, 2.0)
    tail = stats.norm.isf(0.005)
    known = np.array([SIGMA * np.sqrt(2.0 / np.pi), SIGMA * stats.norm.pdf(tail) / 0.005, 2.0 * stats.norm.sf(1.0)])
    assert (np.abs(found.value - known) <= 4.0 * found.std_error).all()
    assert (found.std_error <= 0.01 * known).all()


class Losses(AbstractSampledModel):
    """The loss itself beside what lies beyond the margin."""

    def sample(self, parameters, keys, first, paths):
        out = Margin().sample(parameters, keys, first, paths)
        return out | {"loss": out["excess"] + parameters["margin"]}


def test_rules_meet_the_policy_at_its_cost_and_at_its_risk(found):
    policy, *_ = found
    rows = policy["baselines"]["rules"]
    ours = rows[0]
    assert [row["rule"] for row in rows] == ["tuned policy"] + 3 * ["brackets in force"] + 2 * ["one ratio"]
    assert [row["equal"] for row in rows[2:]] == 2 * ["cost", "risk"]
    for row in rows[2:]:
        assert "note" not in row, row
        key = "cost" if row["equal"] == "cost" else MEAN
        assert row[key] == pytest.approx(ours[key], rel=0.02)
        low, high = row["apart95"]
        assert low + high == pytest.approx(2.0 * row["apart"], abs=1e-12)
        assert 0.0 < low < row["apart"]  # the policy is better, and by more than the error
        other = MEAN if row["equal"] == "cost" else "cost"
        assert row["apart"] == pytest.approx(row[other] - ours[other], abs=1e-7)


def test_surface_is_flat_where_no_halt_is_triggered(found):
    policy, *_ = found
    cells = {(cell["row"], cell["column"]): cell for cell in policy["surface"]["cells"]}
    assert set(cells) == {(t, length) for t in (0.03, 0.9) for length in ("10min", "20min")}
    never = [cells[0.9, length] for length in ("10min", "20min")]
    assert never[0][MEAN] == never[1][MEAN]
    assert never[0]["cost"] == never[1]["cost"]
    tight = cells[0.03, "20min"][MEAN]
    assert abs(tight["apart"]) > 3.0 * tight["std_error"]


def test_draws_follow_their_standard_errors(keep_precision):
    scenario = load(CONFIG)[1].scenario
    panel = Robustness(draws=100, deviations={"market.volatility": 0.5})
    drawn = np.array([float(world.market.volatility) for world in _draws({}, scenario, panel, 7)])
    assert abs(drawn.mean() - 4.0) <= 4.0 * 0.5 / np.sqrt(100)
    assert 0.5 * (1 - 4 / np.sqrt(200)) <= drawn.std(ddof=1) <= 0.5 * (1 + 4 / np.sqrt(200))
    again = [float(world.market.volatility) for world in _draws({}, scenario, panel, 7)]
    np.testing.assert_array_equal(drawn, again)
    wide = Robustness(draws=50, deviations={"waterfall.fund": 5e3})  # half of all draws are negative
    assert min(float(world.waterfall.fund) for world in _draws({}, scenario, wide, 7)) >= 0.0


def test_draws_of_a_posterior_stay_together(tmp_path, keep_precision):
    """Each draw is a row of the file, numbers that depend on each other and all; deviations of others go on top."""
    table, study = read_toml(CONFIG), load(CONFIG)[1]
    rows = [(0.5, [0.1, 0.2, 0.3, 0.4]), (2.0, [0.7, 0.1, 0.1, 0.1])]
    weights = [",".join(map(str, row)) for _, row in rows]
    lines = [f"impact.prefactor={k} book.weights=[{w}]" for (k, _), w in zip(rows, weights, strict=True)]
    (tmp_path / "overrides.txt").write_text("\n".join(lines) + "\n")
    table["book"]["book"]["leverages"] = [3.0, 5.0, 10.0, 20.0]
    panel = Robustness(
        draws=2, deviations={"market.volatility": 0.5}, posterior=Posterior(tmp_path / "overrides.txt", "book.book")
    )
    worlds = list(_draws(table, study.scenario, panel, 7))
    for (prefactor, weight), world in zip(rows, worlds, strict=True):
        assert float(world.impact.prefactor) == prefactor
        np.testing.assert_allclose(world.book.book.weights, weight, rtol=1e-6)
    assert len({float(world.market.volatility) for world in worlds} | {4.0}) == 3


@pytest.mark.parametrize(
    ("text", "draws", "said"),
    [
        ("impact.prefactor=1", 2, "holds 1; lower it, or calibrate with posterior.keep"),
        ("impact.depth.floor=0.1", 1, "row 1: impact.depth.floor: unknown key"),
        ("book.weights=[1]", 1, '`book` says where the mixture of leverages stands, now "book"'),
        ("prefactor", 1, "expected key=value"),
        (None, 1, "cannot be read"),
    ],
)
def test_a_posterior_that_is_none(text, draws, said, tmp_path, keep_precision):
    file = tmp_path / "overrides.txt"
    if text is not None:
        file.write_text(text)
    result = invoke(
        *QUICK, f"tune.robustness={{draws={draws},posterior={{path={str(file)!r}}}}}", "--out", tmp_path / "out"
    )
    assert result.exit_code == 2, result.output
    assert said in result.output


def test_rules_scale_with_their_number():
    base = Brackets(floors=[0.0, 1e5], maintenance_rates=[0.01, 0.02], max_leverage=[50.0, 20.0])
    made = dict(rules(base, Baselines(volatility=0.6, stressed=1.2)))
    assert list(made) == [
        "brackets in force",
        "one ratio",
        "EWMA volatility",
        "EWMA, 25 % buffer",
        "EWMA, 25 % stress weight",
        "EWMA, look-back floor",
    ]
    table = made["brackets in force"](2.0)
    np.testing.assert_allclose(table.maintenance_rates, [[0.02, 0.04]])
    np.testing.assert_allclose(table.max_leverage, [[25.0, 10.0]])
    np.testing.assert_allclose(made["brackets in force"](100.0).max_leverage, [[1.0, 1.0]])
    np.testing.assert_allclose(made["one ratio"](1.5).maintenance_rates, [[0.015, 0.015]])
    levels = []
    for name in list(made)[2:]:
        margin = made[name](1.0)
        assert isinstance(margin, VolatilityScaled)
        state = margin.init(np.float64, 1)
        levels.append(float(margin.level(state)[0]))  # at the volatility the table was made for
    np.testing.assert_allclose(levels, [1.0, 1.25, np.sqrt(0.75 + 0.25 * 4.0), 1.0], rtol=1e-6)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("tune.robustness.draws=3", "no number has a standard error"),
        ('tune.robustness={draws=1,deviations={"market.sigma"=1.0}}', "market.sigma"),
        ("tune.frontier={constraint=4,factors=[0.5]}", "there are 1; count from 0"),
        ("tune.frontier.factors=[-1.0]", "tune.frontier.factors"),
        (
            'tune.surface={rows="margin.nothing",columns="breaker",row_values=[1],column_values=[1]}',
            "tune.surface: margin.nothing",
        ),
        ('tune.replay.change={market={kind="Replya"}}', "tune.replay.change: market: kind"),
        ('tune.surface.rows="breaker.breakers.0.threshold"', "a key and its values"),
        ("tune.frontiers=1", "did you mean 'frontier'"),
    ],
)
def test_bad_input(override, said, tmp_path, keep_precision):
    result = invoke(*QUICK, override, "--out", str(tmp_path / "policy"))
    assert result.exit_code == 2, result.output
    assert said in result.output


def test_a_supercritical_market_is_infeasible(tmp_path, keep_precision):
    """With a hundredth of the depth every forced sale sets off the next; no margin of these bounds keeps bad debt down."""
    out = tmp_path / "policy"
    result = invoke(
        *QUICK,
        "tune.evaluations=8",
        "impact.depth.volume=200",
        'tune.constraints=[{kind="Mean",outcome="bad_debt",limit=1e-6}]',
        "--out",
        str(out),
    )
    assert result.exit_code == 1, result.output
    policy = json.loads((out / "policy.json").read_text())
    assert policy["search"] == "infeasible"
    assert policy["status"] in ("not_certified", "refused")
    assert not policy["tuned_policy"]
    assert "INFEASIBLE" in result.output
    assert policy["fresh"][MEAN]["estimate"] > 1e-6


ONE = 'tune.variables=[{kind="Rate",name="breaker.breakers.0.threshold",start=0.1,lower=0.02,upper=0.3,grid=0.005}]'


def stop(*_):
    raise KeyboardInterrupt


@pytest.mark.parametrize("front", ["[]", pytest.param("[1,2]", marks=pytest.mark.slow)])
def test_a_stopped_search_goes_on_to_the_same_bytes(front, tmp_path, monkeypatch, keep_precision):
    """Stopped before its front and again after it: what was done is not done again, and what comes out is the same."""
    words = (*QUICK, ONE, "tune.evaluations=6", f"tune.frontier={{factors={front},evaluations=4}}", SURFACE)
    whole, parts = (tmp_path / name for name in ("whole", "parts"))
    with monkeypatch.context() as patched:
        patched.setattr("tailrisk.study.tune.trace", stop)
        result = invoke(*words, "--out", str(parts))
    assert result.exit_code == 130, result.output
    assert f"--out {parts} --resume" in result.output
    for given, said in ((("tune.seed=4",), "tune.seed was 3, now 4"), ((), "already holds a run")):
        refused = invoke(*words, *given, "--out", str(parts), *(["--resume"] if given else []))
        assert (refused.exit_code, said in refused.output) == (2, True), refused.output
    made = parts / "parts" / "made.json"
    told = made.read_text()
    made.write_text(json.dumps(json.loads(told) | {"commit": "another"}))
    refused = invoke(*words, "--out", str(parts), "--resume")
    assert (refused.exit_code, "was begun with commit another" in refused.output) == (2, True), refused.output
    made.write_text(told)
    with monkeypatch.context() as patched:
        for done in ("_refined", "derivatives", "_split", "refine", "tune"):
            patched.setattr(f"tailrisk.study.tune.{done}", None)
        patched.setattr("tailrisk.study.tune.scan", stop)
        result = invoke(*words, "--out", str(parts), "--resume")
    assert result.exit_code == 130, result.output
    assert (parts / "parts" / "front-1.pickle").exists() == (front != "[]")
    results = [invoke(*words, "--out", str(whole)), invoke(*words, "--out", str(parts), "--resume")]
    assert len({result.exit_code for result in results}) == 1
    assert (parts / "policy.toml").read_bytes() == (whole / "policy.toml").read_bytes()
    found = [json.loads((folder / "policy.json").read_text()) for folder in (whole, parts)]
    for one in found:
        del one["made"]["seconds"], one["made"]["processor_seconds"]
    assert found[0] == found[1]
    assert not (parts / "parts").exists()
    refused = invoke(*words, "--out", str(parts), "--resume")
    assert (refused.exit_code, "holds a policy that is done" in refused.output) == (2, True)


def test_validate_knows_the_new_tables(keep_precision):
    words = ["validate", str(CONFIG), "tune.frontier.factors=[0.5,2]", f"tune.robustness.worlds=[{WORLD}]"]
    assert "[tune] is valid" in CliRunner().invoke(main, words).output


@pytest.mark.slow
def test_the_demonstration_is_tuned_and_certified(tmp_path, keep_precision):
    """One asset, three numbers; fewer paths than the config has, and no front."""
    out = tmp_path / "policy"
    words = (
        "tune.paths=50000",  # the error of the price is 10 % of it on 20,000
        "tune.smooth_paths=0",
        "tune.audit_paths=0",
        "tune.gradient_paths=0",
        "tune.certificate_paths=131072",
        "tune.frontier.factors=[]",
        "tune.robustness.draws=0",
        "tune.robustness.worlds=[]",
        "tune.baselines.paths=0",
    )
    result = CliRunner().invoke(main, ["tune", str(DEMO), *words, "--out", str(out)])
    policy = json.loads((out / "policy.json").read_text())
    assert result.exit_code == 0, result.output
    assert policy["tuned_policy"]
    assert len(policy["parameters"]) == 3
    price = policy["shadow_prices"][MEAN]
    assert price["binding"]
    assert 0.0 < price["std_error"] < 0.1 * price["price"]
