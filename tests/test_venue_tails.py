"""Rare events of whole venues: which noise of each market does what, and that tilts of it move no mean."""

import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from catalogue import MARKETS, TWO_ASSET_MARKETS, named, scenario
from command import BASE, refused, validate

from tailrisk import gradients, tails
from tailrisk._fields import InputError
from tailrisk.clearing import Rounds
from tailrisk.scenario import SmoothLadder
from tailrisk.simulate import outcomes, simulate
from tailrisk.study.rare import _confirms
from tailrisk.study.run import execute, load
from tailrisk.tails.diagnostics import Diagnosis, Result, clipped, high, unconfirmed, worst
from tailrisk.tails.measures import Estimate
from tailrisk.tails.one_step import OneStep
from tailrisk.tails.sampler import mixture
from tailrisk.tails.tilt import Aim, Law, Shock, Tilt, untilted
from tailrisk.tails.venue import VenueProblem
from tailrisk.waterfall import Waterfall

PATHS = 4_096
REAL = ("block bootstrap", "replay", "block bootstrap, 2 assets")
LAWS = [name for name in MARKETS | TWO_ASSET_MARKETS if name not in REAL]


def problem(market, measure="fall", side="both"):
    """A continuum of longs and shorts, which compiles fastest."""
    parts = {"waterfall": Waterfall(fund=5e5, deleverage="none")}
    names = named(market=market, margin="flat")
    if market not in TWO_ASSET_MARKETS:
        parts["positions"] = SmoothLadder(cells=64, clearing=Rounds(1))
    return VenueProblem(scenario(names, **parts).build(np.float64), measure, side)


def some_tilt(one, strength=0.1):
    """A tilt of every kind of noise there is, in every bin."""
    number = iter(np.linspace(0.5, 1.5, 400))
    start, barrier, stops, onset = (jnp.asarray(x) for x in (0.0, 0.08, False, np.inf))
    plain = untilted(Aim(start, barrier, stops, onset), one)

    def moved(leaf, by):
        return leaf + by * np.array([next(number) for _ in range(leaf.size)]).reshape(leaf.shape)

    shock = Law(
        plain.drift[:, 0] - 0.3,
        plain.factor[:, 0] + 1.0,
        plain.mean[:, 0] - 1.0,
        plain.deviation[:, 0] + 0.5,
        plain.size[:, 0] + 0.5,
    )
    return Tilt(
        plain.aim,
        moved(plain.drift, strength / 3),
        moved(plain.factor, 3 * strength),
        moved(plain.mean, -strength),
        moved(plain.deviation, strength),
        moved(plain.size, strength),
        Shock(jnp.linspace(0.0, 0.1, 5), shock),
    )


@pytest.mark.parametrize(
    "market", [pytest.param(name, marks=() if name == "hawkes" else pytest.mark.slow) for name in LAWS]
)
def test_a_tilt_of_all_noise_moves_no_mean(market):
    """E_q[w] = 1 and E_q[w f] = E_p[f], for the numbers that only some steps use as well."""
    one = problem(market)
    tilted = tails.Tilted(one, mixture(one, (some_tilt(one),), 10, 1))
    under = outcomes(tilted, 3, np.arange(PATHS))[0]
    own = outcomes(tails.Tilted(one, mixture(one, (some_tilt(one),), 10, 0)), 4, np.arange(PATHS))[0]
    # a tenth of the paths is drawn from the law itself, as the weights of the mixture expect
    weight = np.concatenate([under["weight"], own["weight"][: PATHS // 9]])
    error = weight.std() / weight.size**0.5
    assert 0.001 < error < 0.05
    assert abs(weight.mean() - 1.0) < 4.0 * error
    for name in ("score", "bad_debt"):
        y, plain = weight * np.concatenate([under[name], own[name][: PATHS // 9]]), own[name][PATHS // 9 :]
        errors = np.hypot(y.std() / y.size**0.5, plain.std() / plain.size**0.5)
        assert errors < 0.2 * plain.mean()
        assert abs(y.mean() - plain.mean()) < 4.0 * errors


@pytest.mark.slow
def test_outcomes_are_those_of_the_scenario():
    """Path by path the same debt; the fund is used up where it is depleted, and nowhere else."""
    one = problem("hawkes", "fund_use")
    found = simulate(one, paths=512, seed=6)
    plain = simulate(one.system, paths=512, seed=6)
    assert np.array_equal(found["bad_debt"], plain["bad_debt"])
    assert np.array_equal(found["fund_use"] >= 1.0, plain["fund_depleted"] > 0.0)
    assert np.any(found["fund_use"] >= 1.0)
    assert np.array_equal(found["score"], found["fund_use"])
    other = simulate(problem("hawkes", "rise", "rise"), paths=512, seed=6)
    fallen = plain["market_fall"] >= plain["market_rise"]
    assert np.array_equal(other["bad_debt"], np.where(fallen, 0.0, plain["bad_debt"]))
    assert np.array_equal(other["score"], plain["market_rise"])


@pytest.mark.parametrize("market", REAL)
def test_real_returns_cannot_be_tilted(market):
    with pytest.raises(InputError, match=r'market\.kind = ".*": .*cannot be tilted.*use run\.estimator'):
        problem(market)


def test_unknown_measure():
    with pytest.raises(
        InputError, match="measure = 'loss', side = 'both': expected one of fall, rise, bad_debt, fund_use"
    ):
        problem("hawkes", "loss")


@pytest.mark.slow
def test_trial_steps_give_the_probability():
    """The mean of the sum over trial steps is the share of plain paths that run the fund down, with a smaller error."""
    one = problem("hawkes", "fund_use")
    calm = untilted(Aim(*(jnp.asarray(x) for x in (0.0, 1.0, False, np.inf))), one)
    law = Law(calm.drift[:, 0], calm.factor[:, 0], calm.mean[:, 0], calm.deviation[:, 0] + 0.5, calm.size[:, 0] + 0.5)
    found = simulate(OneStep(one, (law,), 0.9), paths=PATHS, seed=7)
    plain, reach = found["score"] >= 0.9, found["reach"]
    assert 0.002 < plain.mean() < 0.2
    assert reach.std() < plain.std()  # little is gained where the event is as likely as here
    assert abs(reach.mean() - plain.mean()) < 4.0 * np.hypot(reach.std(), plain.std()) / PATHS**0.5


@pytest.mark.slow
def test_a_derivative_under_a_tuned_tilt():
    """The same derivatives of expected bad debt as from plain paths, for a number of the venue and one of the market."""
    one = problem("hawkes", "fall")
    parts = {
        "waterfall": Waterfall(fund=5e5, deleverage="none"),
        "positions": SmoothLadder(cells=64, clearing=Rounds(1)),
    }
    world = scenario(named(market="hawkes", margin="flat"), **parts)
    fitted = tails.fit(
        one, tails.Mean("bad_debt"), tails.CrossEntropy(pilot=1_900, rounds=3, settle=1, feedback=False), 1
    )
    keys = ("impact.volatility", "market.volatility")
    run = {"paths": 64 * 64, "batches": 64, "chunk": 256, "method": "differences", "dtype": np.float64}
    plain = gradients.estimate(world, keys, seed=3, **run)
    tilted = gradients.estimate(world, keys, proposal=fitted.proposal(one), seed=4, **run)
    for key in keys:
        a, b = plain[key], tilted[key]
        error = np.hypot(a.std_error[0], b.std_error[0])
        assert error < 0.5 * abs(a.estimate[0])
        assert abs(a.estimate[0] - b.estimate[0]) < 4.0 * error


SMALL = [
    "run.paths=512",
    "run.tail_paths=640",
    "run.pilot=1000",
    "run.watch=8",
    "run.levels=[0.9]",
    "market.jumps.rate=5000",
    "market.jumps.deviation=0.06",
    "waterfall.fund=5e5",
]


@pytest.mark.slow
def test_a_tail_run_resumes_to_the_same_numbers(tmp_path):
    """Laws and parts are taken up; a part that was lost is drawn again; what is refused has no value, and status 3."""
    study = load(BASE, (*SMALL, 'run.estimator="tilt"'))
    first = execute(study, tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    (tmp_path / "b" / "parts" / "tail_90-000000.npz").unlink()
    again = execute(study, tmp_path / "b", resume=True)
    assert again["metrics"] == first["metrics"]
    assert again["tail"] == first["tail"]
    assert {"bad_debt_var_90", "bad_debt_es_90", "fund_depletion_probability"} <= first["metrics"].keys()
    for name in ("tail_90", "exhaustion"):
        assert first["tail"][name]["estimator"] == "tilt"
        assert first["tail"][name]["tuning_paths"] >= 2 * 1000
        assert (tmp_path / "a" / "laws" / f"{name}_tilt.json").exists()
    said = first["tail"]["tail_90"]["diagnostics"]["bad_debt_es_90"]
    assert {"clipped", "ladder"} <= said.keys()  # by the pilots of both sides
    assert "clipped" in first["tail"]["exhaustion"]["diagnostics"]["fund_depletion_probability"]
    for metric in first["metrics"].values():
        refused = str(metric.get("note", "")).startswith("refused")
        assert refused == (metric["value"] is None)


@pytest.mark.slow
def test_auto_leaves_what_plain_paths_do_well(tmp_path):
    """The reason is said; with many plain hits no law is tuned at all."""
    many = ("run.paths=40000", "run.levels=[0.5]", "run.watch=0", "waterfall.fund=0", "market.jumps.rate=20000")
    summary = execute(load(BASE, (*SMALL, *many, 'run.estimator="auto"')), tmp_path / "run")
    for name in ("tail_50", "exhaustion"):
        assert summary["tail"][name]["estimator"] == "monte_carlo"
        assert "plain paths are beyond it" in summary["tail"][name]["why"]
    assert not (tmp_path / "run" / "laws").exists()
    assert summary["metrics"]["fund_depletion_probability"]["value"] > 0.25


@pytest.mark.slow
def test_splitting_counts_the_fund_alone(tmp_path):
    """By trial steps as by plain paths; value-at-risk is left to these."""
    few = ("run.paths=8192", "run.split_paths=8192", "run.watch=0", "waterfall.fund=4e8", 'run.estimator="splitting"')
    summary = execute(load(BASE, (*SMALL, *few)), tmp_path / "run")
    assert summary["tail"]["tail_90"]["estimator"] == "monte_carlo"
    assert "gives no value-at-risk" in summary["tail"]["tail_90"]["why"]
    found = summary["metrics"]["fund_depletion_probability"]
    assert summary["tail"]["exhaustion"]["estimator"] == found["estimator"] == "splitting"
    assert 0.0 < found["std_error"] < 0.1 * found["value"]
    other = summary["tail"]["exhaustion"]["second_estimator"]["fund_depletion_probability"]
    assert other["estimator"] == "monte_carlo"
    assert abs(other["z"]) < 3.5


def test_settings_of_the_tail():
    refused(validate('run.estimator="tilt"', "run.books=2"), "run.estimator: is 'tilt' with 2 books, expected one book")
    refused(validate('run.estimator="splitting"'), "run.split_paths: is 0")
    refused(validate('run.estimator="tilted"'), "run.estimator", "auto")


def test_what_nothing_confirms_is_refused():
    """A narrow interval of one family alone is no number, nor beside one too rough to see what the first may miss."""
    for error, confirms in ((2e-7, True), (5e-7, False), (0.0, False)):
        assert _confirms(Result(Estimate(2e-6, error, 1e-6, 3e-6), Diagnosis(()))) == confirms
    assert not _confirms(Result(Estimate(2e-6, 1e-7, 1e-6, 3e-6), Diagnosis((unconfirmed(),))))
    assert Diagnosis((unconfirmed(),)).refused
    assert "one family may miss a mode" in Diagnosis((unconfirmed(),)).reason


def test_of_several_pilots_the_worst_counts():
    rows = [high("ladder", value, (3.0, 4.0)) for value in (1.0, 9.0, 3.5)]
    assert worst([rows[0], clipped(0.01), rows[2]]) == (rows[2], clipped(0.01))
    assert worst(rows) == (rows[1],)
