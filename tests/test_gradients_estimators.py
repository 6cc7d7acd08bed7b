"""Every estimator against a truth: closed forms, quadrature; and what its record says."""

import numpy as np
import pytest
from closed_forms import one_account, small, two_accounts, two_steps_with_breaker

from tailrisk._fields import InputError
from tailrisk.gradients import (
    Ladder,
    LadderWalk,
    TailExcess,
    UncoveredDebt,
    WalkLaw,
    differences,
    measure_valued,
    oracle,
    reference_book,
    score,
    shift,
)
from tailrisk.gradients import record as records
from tailrisk.simulate import simulate

RUN = {"paths": 64 * 2048, "batches": 64, "chunk": 2048}
PILOT = {"pilot_paths": 16_384}
LAW = WalkLaw(deviation=0.015, jump_probability=0.002, sampling_probability=0.02)
LADDER = Ladder(reference_book(12, 3), LAW, steps=6)


def close(found, truth, relative, i=0):
    """Within four standard errors, which are at most `relative` of the truth."""
    error = found.std_error[i]
    assert error < relative * abs(truth), f"standard error {error / abs(truth):.3f} of the truth"
    assert abs(found.estimate[i] - truth) < 4.0 * error, f"z = {(found.estimate[i] - truth) / error:.2f}"


UNBIASED = {
    "shift": lambda ladder, **more: shift.estimate(ladder, **RUN, **PILOT, **more),
    "score": lambda ladder, **more: score.estimate(ladder, **RUN, **PILOT, **more),
    "measure-valued": lambda ladder, **more: measure_valued.estimate(ladder, **RUN, **more),
    "differences": lambda ladder, **more: differences.estimate(ladder, **RUN, step=5e-4, certify=False, **more),
}


@pytest.fixture(scope="module")
def truth():
    return oracle.expected_bad_debt_and_gradient(LADDER)[1]


@pytest.fixture(scope="module")
def found():
    return {name: run(LADDER, seed=6) for name, run in UNBIASED.items()}


@pytest.mark.parametrize("name", UNBIASED)
def test_maintenance_against_quadrature(name, truth, found):
    result = found[name]
    close(result, truth.get("maintenance"), 0.06)
    assert result.accepted.all()
    assert result.paths == 64 * 2048
    assert abs(result.mean_weight - 1.0) < 4.0 * result.mean_weight_error
    assert 0.0 < result.ess < result.paths
    assert result.ci95[0, 0] < result.estimate[0] < result.ci95[0, 1]


def test_fields_agree(truth):
    """Any way to phase in the shift is unbiased, and so is their combination."""
    fields = ((1, 0.02), (3, 0.006), (8, 0.03))
    result = shift.estimate(LADDER, **RUN, **PILOT, fields=fields, seed=5)
    close(result, truth.get("maintenance"), 0.05)
    pair = shift.estimate(LADDER, **RUN, **PILOT, fields=fields[1:2], seed=5)
    close(pair, truth.get("maintenance"), 0.08)


LAW_PARAMETERS = tuple(name for name in score.PARAMETERS if name.startswith("law."))


@pytest.mark.slow
def test_scores_of_the_law_against_quadrature(truth):
    result = score.estimate(LADDER, LAW_PARAMETERS, **RUN, **PILOT, seed=6)
    for i, name in enumerate(LAW_PARAMETERS):
        close(result, truth.get(name), 0.3 if name == "law.deviation" else 0.05, i)


OTHERS = ("initial_shift", "law.jump_probability")


@pytest.mark.slow
def test_differences_in_other_parameters(truth):
    """The same noise at both ends; the jump probability is in the weights."""
    result = differences.estimate(LADDER, OTHERS, **RUN, certify=False, seed=7)
    for i, name in enumerate(OTHERS):
        close(result, truth.get(name), 0.08, i)


def test_bias_of_differences_is_measured(truth):
    """A step that is too long is off by what the certificate says, and by more than its error."""
    step = 0.008
    result = differences.estimate(LADDER, **RUN, step=step, seed=8)
    close(result, truth.get("maintenance") + result.bias[0], 0.03)
    assert abs(result.estimate[0] - truth.get("maintenance")) > 4.0 * result.std_error[0]
    assert result.step[0] == step
    assert "same ladder" in result.bias_source


@pytest.mark.slow
def test_bias_of_a_remote_twin():
    ladder = LADDER.replace("band", 0.05)
    few = {"paths": 4 * 256, "batches": 4, "chunk": 256}
    band, maintenance = (differences.estimate(ladder, (name,), **few) for name in ("band", "maintenance"))
    assert np.isnan(band.bias[0])
    assert np.isfinite(maintenance.bias[0])
    assert "twin" in maintenance.bias_source
    assert not band.accepted.any()  # four batches
    assert "NOT ACCEPTED" in str(band)


ONE = {"q": 1.0, "debt": 0.93, "m": 0.02, "sigma": 0.05, "impact": 0.03}
ONE_LADDER = small([np.log(0.93)], [1.0], deviation=0.05, maintenance=0.02, impact=0.03)


@pytest.mark.parametrize("name", ["shift", "differences"])
def test_one_account_one_step(name):
    close(UNBIASED[name](ONE_LADDER, seed=1), one_account(**ONE)["maintenance"], 0.05)


def test_on_every_path_the_derivative_is_zero_and_wrong():
    """Nothing on a path changes when the maintenance ratio moves a little: differentiating paths says 0."""
    ends = [
        simulate(LadderWalk.build(ONE_LADDER.replace("maintenance", 0.02 + x)), paths=4096) for x in (1e-12, -1e-12)
    ]
    assert np.array_equal(ends[0]["value"], ends[1]["value"])
    assert ends[0]["sold"].max() == 1.0
    assert one_account(**ONE)["maintenance"] > 0.04


@pytest.mark.parametrize("second", [0.93, 0.9185], ids=["deep-inside", "at-the-edge"])
def test_two_accounts_forced_avalanche(second):
    debt, q = (0.935, second), (0.6, 0.4)
    ladder = small(np.log(debt), q, deviation=0.03, maintenance=0.02, impact=0.03)
    wanted = two_accounts(q=q, debt=debt, m=0.02, sigma=0.03, impact=0.03)["maintenance"]
    close(UNBIASED["shift"](ladder, seed=2), wanted, 0.06)


BREAKER = {"q": 1.0, "debt": 0.95, "m": 0.02, "sigma": 0.03, "impact": 0.03, "band": 0.02}


@pytest.fixture(scope="module")
def with_breaker():
    ladder = small([np.log(0.95)], [1.0], deviation=0.03, maintenance=0.02, impact=0.03, steps=2, band=0.02, halt=9)
    return ladder, two_steps_with_breaker(**BREAKER)


def test_breaker_value(with_breaker):
    ladder, wanted = with_breaker
    x = simulate(LadderWalk.build(ladder), paths=300_000, seed=3)["value"]
    error = x.std() / np.sqrt(x.size)
    assert error < 0.01 * wanted["value"]
    assert abs(x.mean() - wanted["value"]) < 4 * error


@pytest.mark.slow
@pytest.mark.parametrize("name", ["score", "measure-valued", "differences"])
def test_breaker_maintenance(name, with_breaker):
    ladder, wanted = with_breaker
    close(UNBIASED[name](ladder, seed=3), wanted["maintenance"], 0.08)


@pytest.mark.slow
def test_breaker_band(with_breaker):
    ladder, wanted = with_breaker
    result = differences.estimate(ladder, ("band",), **RUN, step=1e-3, certify=False, seed=3)
    close(result, wanted["band"], 0.06)


@pytest.mark.parametrize(
    ("functional", "name"),
    [
        (UncoveredDebt(), "shift"),
        pytest.param(TailExcess(value_at_risk=8e-4, level=0.95), "measure-valued", marks=pytest.mark.slow),
    ],
    ids=["uncovered", "excess"],
)
def test_functionals_agree(functional, name):
    """No closed form: an unbiased way and differences, within their errors."""
    one, other = (UNBIASED[which](LADDER, functional=functional, seed=9) for which in (name, "differences"))
    error = np.hypot(one.std_error[0], other.std_error[0])
    assert error < 0.1 * abs(one.estimate[0])
    assert abs(one.estimate[0] - other.estimate[0]) < 4.0 * error


def test_importance_sampling_changes_the_error_alone(truth):
    plain = LADDER.replace("law.sampling_probability", LAW.jump_probability)
    result = UNBIASED["shift"](plain, seed=10)
    close(result, truth.get("maintenance"), 0.15)
    assert result.mean_weight == pytest.approx(1.0, abs=1e-12)
    assert result.ess == pytest.approx(result.paths)


@pytest.mark.parametrize(
    "name", ["shift", *(pytest.param(name, marks=pytest.mark.slow) for name in UNBIASED if name != "shift")]
)
def test_precision(name, found):
    single = UNBIASED[name](LADDER, seed=6, dtype=np.float32)
    assert abs(single.estimate[0] - found[name].estimate[0]) < 0.1 * found[name].std_error[0]


def test_chunks_do_not_matter(found):
    other = shift.estimate(LADDER, **(RUN | {"chunk": 1000}), **PILOT, seed=6)
    np.testing.assert_allclose(other.estimate, found["shift"].estimate, rtol=1e-12)
    np.testing.assert_allclose(other.std_error, found["shift"].std_error, rtol=1e-12)


def batches_of(values, share=0.0, weight=None):
    values = np.asarray(values, float)[:, None]
    weights = np.ones(values.shape[0]) if weight is None else np.asarray(weight)
    return records.Batches(values, weights, 1.0, {}, np.array([share]), 64, 0.0)


NORMAL = np.random.default_rng(0).normal(1.0, 1.0, 64)


@pytest.mark.parametrize(
    ("batches", "accepted"),
    [
        (batches_of(NORMAL), True),
        (batches_of(np.ones(64)), True),
        (batches_of(NORMAL[:59]), False),
        (batches_of(NORMAL, share=0.06), False),
        (batches_of(np.concatenate([NORMAL[:32], 3 * NORMAL[32:]])), False),
        (batches_of(NORMAL, weight=1.0 + 0.001 * (5.0 + NORMAL)), False),
    ],
    ids=["good", "no-variance", "few-batches", "one-path-carries-it", "halves-differ", "weights"],
)
def test_acceptance(batches, accepted):
    bias = records.no_bias(("x",), "none")
    result = records.gradient(batches, ("x",), method="m", reason="r", bias=bias)
    assert result.accepted[0] == accepted
    assert result.estimate[0] == pytest.approx(batches.means.mean())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: shift.estimate(LADDER.replace("band", 0.04)), "different shares of the shift"),
        (lambda: shift.estimate(LADDER, ("initial_shift",)), "do not move all thresholds alike"),
        (lambda: shift.estimate(LADDER, fields=((0, 0.01),)), "whole number of 1 or more"),
        (lambda: measure_valued.estimate(LADDER, paths=100, batches=3), "equal size"),
        (lambda: measure_valued.estimate(LADDER, ("impact",)), "do not move all thresholds alike"),
        (lambda: score.estimate(LADDER, ("band",)), "use differences"),
        (lambda: score.estimate(ONE_LADDER, ("law.jump_probability",)), "has no score"),
        (lambda: differences.estimate(LADDER, ("halt",)), "whole numbers have no derivative"),
        (lambda: differences.estimate(LADDER, ()), "no parameter"),
        (lambda: differences.estimate(LADDER, ("band",)), "no breaker whose band"),
        (lambda: differences.estimate(LADDER, step=0.03), "use a step from 0 to 0.02"),
        (lambda: differences.estimate(LADDER, ("initial_shift",), step=-1.0), "leaves the domain"),
    ],
    ids=["shift-breaker", "shift-parameter", "shift-fields", "batches", "measure-valued", "score", "score-no-jumps",
         "structural", "nothing", "band", "domain", "negative-step"],
)  # fmt: skip
def test_refusals(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_largest_step_is_the_largest():
    """Here what ends the domain is the account nearest its threshold."""
    largest = differences.largest_step(LADDER, "maintenance", 0.5)
    inside, outside = (LADDER.replace("maintenance", LADDER.get("maintenance") + x * largest) for x in (0.999, -1.001))
    inside.checked()
    with pytest.raises(InputError):
        outside.checked()
