"""The proof of the estimators: every one, in every parameter it takes, against the truth at full power. Slow.

A cell is an estimator, a parameter and a case. In each the estimate lies within four standard errors of the quadrature, and
all of them together look standard normal. The same test refuses what is known to be wrong. With a breaker, and for the tail,
there is no quadrature: there estimators that have nothing in common agree.
"""

import functools
from functools import partial

import numpy as np
import pytest

from tailrisk.gradients import (
    BadDebt,
    Ladder,
    LadderWalk,
    TailExcess,
    WalkLaw,
    branch,
    conditional,
    controls,
    differences,
    measure_valued,
    oracle,
    reference_book,
    residual,
    score,
    shift,
)
from tailrisk.gradients import record as records

pytestmark = pytest.mark.slow

MANY, FEW = Ladder(reference_book(400, 0)), Ladder(reference_book(12, 3))
CASES = {
    "many": MANY,
    "few": FEW,
    "square-root": Ladder(reference_book(60, 0), impact=0.03, impact_exponent=0.5),
    "rare": Ladder(
        reference_book(100, 2, gap=0.05, highest_leverage=12.0),
        WalkLaw(deviation=0.0045, jump_probability=2e-5, sampling_probability=0.02),
    ),
}
THRESHOLDS = ("maintenance", "initial_shift", "impact")
LAW = ("law.drift", "law.jump_probability", "law.jump_mean")
LIMIT = 4.0


def size(batches, each=16_384):
    return {"paths": batches * each, "batches": batches}


# Estimator, parameters, run, most that the standard error may be of the truth in the first and in the other parameters.
EVERYWHERE = {
    "shift": (shift.estimate, ("maintenance",), size(128), (0.012,)),
    "nine-fields": (partial(shift.estimate, fields=shift.NINE_FIELDS), ("maintenance",), size(128), (0.012,)),
    "score": (score.estimate, ("maintenance", *LAW), size(128), (0.025, 0.02, 0.01, 0.02)),
    "measure-valued": (measure_valued.estimate, ("maintenance",), size(128), (0.03,)),
    "differences": (differences.estimate, THRESHOLDS, size(320), (0.015, 0.02, 0.015)),
    "branch": (branch.estimate, (*THRESHOLDS, "law.drift"), size(192), (0.01, 0.015, 0.02, 0.025)),
    "residual": (residual.estimate, ("initial_shift", "impact"), size(128), (0.03, 0.03)),
    "conditional": (conditional.estimate, THRESHOLDS, size(64, 4096), (0.25, 0.3, 0.25)),
}
RUNS = {(case, name): EVERYWHERE[name] for case in ("many", "few") for name in EVERYWHERE}
for _case, _names in {"square-root": ("shift", "measure-valued", "branch"), "rare": ("shift", "branch")}.items():
    RUNS |= {(_case, _name): (EVERYWHERE[_name][0], ("maintenance",), size(192), (0.06,)) for _name in _names}
LABELS = [f"{case}-{name}" for case, name in RUNS]


@pytest.fixture(scope="module")
def truths():
    return {case: oracle.expected_bad_debt_and_gradient(ladder)[1] for case, ladder in CASES.items()}


@functools.cache
def result_of(case, name):
    """Each run on paths of its own."""
    method, parameters, run, _ = RUNS[case, name]
    return method(CASES[case], parameters, seed=100 + list(RUNS).index((case, name)), **run)


def scores(result, truth):
    """Distances in standard errors of the estimates from truth and known bias."""
    wanted = np.array([truth.get(name) for name in result.parameters])
    return (result.estimate - wanted - result.bias) / result.std_error, result.std_error / np.abs(wanted)


@pytest.mark.parametrize("key", RUNS, ids=LABELS)
def test_cell(key, truths):
    result, (_, parameters, _, most) = result_of(*key), RUNS[key]
    for name, z, error, its_most in zip(parameters, *scores(result, truths[key[0]]), most, strict=True):
        print(f"{key[0]:12} {key[1]:15} {name:22} z = {z:+.2f}   standard error {100 * error:.2f} % of the truth")
        assert error < its_most
        assert abs(z) < LIMIT
    assert result.accepted.all()


def test_all_cells_look_standard_normal(truths):
    z = np.concatenate([scores(result_of(*key), truths[key[0]])[0] for key in RUNS])
    print(f"{z.size} cells, root mean square {np.sqrt(np.mean(z**2)):.3f}, mean {z.mean():+.3f}")
    assert z.size >= 30
    assert 0.7 < np.sqrt(np.mean(z**2)) < 1.3


@pytest.mark.parametrize(
    ("method", "ladder", "batches"),
    [(shift.estimate, FEW, 1024), (branch.estimate, MANY, 1152)],
    ids=["shift-few", "branch-many"],
)
def test_power(method, ladder, batches):
    """Three in a thousand can be seen."""
    result = method(ladder, ("maintenance",), seed=30, **size(batches))
    truth = oracle.expected_bad_debt_and_gradient(ladder)[1].get("maintenance")
    z = (result.estimate[0] - truth) / result.std_error[0]
    print(f"{result.method}: z = {z:+.2f}, standard error {100 * result.std_error[0] / abs(truth):.3f} % of the truth")
    assert result.std_error[0] < 0.003 * abs(truth)
    assert abs(z) < LIMIT
    assert result.accepted.all()


WRONG = {
    "naive": ("naive", 0.004, ("maintenance", "initial_shift")),
    "straight-through": ("straight-through", 0.008, ("maintenance", "initial_shift")),
    "sigmoid": ("sigmoid", 0.008, ("maintenance", "initial_shift")),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("case", ["many", "few"])
def test_what_is_wrong_is_refused(case, name, truths):
    kind, temperature, parameters = WRONG[name]
    paths = 64 * (256 if case == "many" else 4096)
    found = controls.estimate(
        CASES[case], parameters, kind=kind, temperature=temperature, paths=paths, batches=64, chunk=256, seed=31
    )
    truth = np.array([truths[case].get(parameter) for parameter in parameters])
    z = np.abs(found.estimate - truth) / np.maximum(found.std_error, 1e-300)
    for parameter, its_z, ratio in zip(parameters, z, found.estimate / truth - 1.0, strict=True):
        print(f"{case:5} {name:17} {parameter:14} |z| = {min(its_z, 9999):.1f}, {100 * ratio:+.0f} %")
    assert (z > LIMIT).any()
    assert not found.accepted.any()


@pytest.mark.parametrize("ladder", [MANY, FEW], ids=["many", "few"])
def test_halving_the_step_changes_what_the_quadrature_says(ladder):
    """On common paths."""
    steps, names = np.array([0.004, 0.002]), ("maintenance", "maintenance")
    ends = [
        tuple(LadderWalk.build(ladder.replace("maintenance", 0.025 + x), BadDebt()) for x in (h, -h)) for h in steps
    ]

    def change(outcome):
        return (outcome["gap_0"] / (2 * steps[0]) - outcome["gap_1"] / (2 * steps[1]))[None, :]

    run = records.run_batches(
        differences.Differences(LadderWalk.build(ladder), tuple(ends)), change, seed=32, chunk=16_384, **size(128)
    )
    result = records.gradient(run, names[:1], method="", reason="", bias=records.no_bias(names[:1], ""))
    bias = differences.twin_bias(ladder, names, steps)
    assert abs(result.estimate[0] - (bias[0] - bias[1])) < 3.0 * result.std_error[0]
    assert result.std_error[0] < 0.2 * abs(bias[0] - bias[1])


@pytest.mark.parametrize("name", ["shift", "branch", "differences"])
def test_sampling_more_jumps_changes_the_error_alone(name):
    """The mean weight is one, and with and without it the derivative is the same."""
    method = EVERYWHERE[name][0]
    plain = FEW.replace("law.sampling_probability", FEW.get("law.jump_probability"))
    on, off = (method(ladder, ("maintenance",), seed=33, **size(128)) for ladder in (FEW, plain))
    error = np.hypot(on.std_error[0], off.std_error[0])
    print(
        f"{name}: apart by {(on.estimate[0] - off.estimate[0]) / error:+.2f}, errors {on.std_error} and {off.std_error}"
    )
    assert abs(on.mean_weight - 1.0) < LIMIT * on.mean_weight_error
    assert off.mean_weight == pytest.approx(1.0, abs=1e-12)
    assert on.std_error[0] < off.std_error[0] < 0.08 * abs(on.estimate[0])
    assert abs(on.estimate[0] - off.estimate[0]) < 3.0 * error


def pairwise(results, parameter, most):
    """All pairs within three combined standard errors, each error below `most` of the first estimate."""
    found = {name: (r.estimate[r.parameters.index(parameter)], r.std_error[r.parameters.index(parameter)])
             for name, r in results.items() if parameter in r.parameters}  # fmt: skip
    names = list(found)
    for name in names:
        value, error = found[name]
        print(f"{parameter:14} {name:15} {value:+.5g} ± {error:.2g} ({100 * error / abs(value):.1f} %)")
    for i, one in enumerate(names):
        assert found[one][1] < most * abs(found[names[0]][0])
        for other in names[i + 1 :]:
            apart = abs(found[one][0] - found[other][0])
            assert apart < 3.0 * np.hypot(found[one][1], found[other][1]), f"{parameter}: {one} and {other}"


@pytest.mark.parametrize("ladder", [MANY, FEW], ids=["many", "few"])
def test_with_a_breaker_they_agree(ladder):
    ladder, names = ladder.replace("band", 0.04), ("maintenance", "initial_shift", "band")
    results = {
        "branch": branch.estimate(ladder, (*names, "impact"), seed=34, **size(192)),
        "differences": differences.estimate(ladder, names, seed=35, certify=False, **size(192)),
        "measure-valued": measure_valued.estimate(ladder, ("maintenance",), seed=36, **size(192)),
        "score": score.estimate(ladder, ("maintenance",), seed=37, **size(192)),
    }
    for name in names:
        pairwise(results, name, 0.06)


def test_of_the_tail_they_agree():
    functional = TailExcess(value_at_risk=8e-4, level=0.99)
    more = {"functional": functional} | size(128)
    results = {
        "shift": shift.estimate(MANY, seed=38, **more),
        "branch": branch.estimate(MANY, seed=39, **more),
        "measure-valued": measure_valued.estimate(MANY, seed=40, **more),
        "differences": differences.estimate(MANY, seed=41, certify=False, **more),
    }
    pairwise(results, "maintenance", 0.03)
    assert abs(results["branch"].estimate[0] + 6.68e-2) < 3.0 * np.hypot(results["branch"].std_error[0], 1.6e-3)
