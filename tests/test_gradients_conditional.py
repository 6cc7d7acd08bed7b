"""Conditional Monte Carlo along the first step: exact with one check date, the truth with more, whatever is drawn."""

import numpy as np
import pytest
from closed_forms import one_account, small, two_accounts
from test_gradients_branch import LADDER, NAMES, TRUTH, close

from tailrisk._fields import InputError
from tailrisk.gradients import (
    Ladder,
    LadderWalk,
    TailExcess,
    UncoveredDebt,
    branch,
    conditional,
    oracle,
    reference_book,
)
from tailrisk.simulate import simulate

ONE = {"q": 1.0, "debt": 0.93, "m": 0.02, "sigma": 0.05, "impact": 0.03}
ONE_LADDER = small([np.log(0.93)], [1.0], deviation=0.05, maintenance=0.02, impact=0.03)
TWO = {"q": (0.6, 0.4), "debt": (0.935, 0.93), "m": 0.02, "sigma": 0.03, "impact": 0.03}


def test_one_check_date_is_exact():
    found, truth = conditional.estimate(ONE_LADDER, NAMES), one_account(**ONE)
    np.testing.assert_allclose(found.estimate, [truth[name] for name in NAMES], rtol=1e-10)
    assert (found.std_error < 1e-12 * np.abs(found.estimate)).all()
    assert found.accepted.all()
    ladder = small(np.log(TWO["debt"]), TWO["q"], deviation=0.03, maintenance=0.02, impact=0.03)
    found = conditional.estimate(ladder)
    np.testing.assert_allclose(found.estimate, two_accounts(**TWO)["maintenance"], rtol=1e-10)


def test_against_quadrature():
    found = conditional.estimate(LADDER, NAMES, seed=3, paths=64 * 4096)
    for i, (name, relative) in enumerate(zip(NAMES, (0.015, 0.03, 0.01), strict=True)):
        close(found, TRUTH[name], relative, i)
    assert found.accepted.all()
    assert abs(found.mean_weight - 1.0) < 4.0 * found.mean_weight_error


def test_choice_is_another_draw_of_the_same_noise():
    """The uniform that chooses comes after the walk's own numbers, which stay as they are."""
    walk = LadderWalk.build(LADDER)
    plain, line = (simulate(system, paths=256, seed=9) for system in (walk, conditional.Line.build(walk)))
    for name in ("weight", "value_initial_shift", "jumped"):
        np.testing.assert_array_equal(plain[name], line[name])
    assert 0.0 < line["step"].mean() < LADDER.steps - 1.0


@pytest.mark.slow
def test_precision():
    """On the same noise; the threshold that is met is a number of either precision, and so is the one below it."""
    double, single = (
        conditional.estimate(LADDER, NAMES, seed=3, paths=64 * 1024, dtype=dtype) for dtype in (np.float64, np.float32)
    )
    assert (np.abs(double.estimate - single.estimate) < 0.1 * double.std_error).all()


@pytest.mark.slow
@pytest.mark.parametrize("functional", [UncoveredDebt(), TailExcess(1e-3, 0.95)], ids=["uncovered", "tail"])
def test_agrees_with_branches(functional):
    found, other = (
        method.estimate(LADDER, NAMES, seed=seed, paths=64 * 8192, functional=functional)
        for method, seed in ((conditional, 4), (branch, 5))
    )
    error = np.hypot(found.std_error, other.std_error)
    assert (error < 0.06 * np.abs(found.estimate)).all()
    assert (np.abs(found.estimate - other.estimate) < 4.0 * error).all()


@pytest.mark.slow
@pytest.mark.parametrize("accounts", [(400, 0), (12, 3)], ids=["many", "few"])
def test_long_run_against_quadrature(accounts):
    ladder = Ladder(reference_book(*accounts))
    found, truth = (
        conditional.estimate(ladder, NAMES, seed=6, paths=64 * 4096),
        oracle.expected_bad_debt_and_gradient(ladder)[1],
    )
    for i, name in enumerate(NAMES):
        close(found, truth.get(name), 0.25, i)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: conditional.estimate(LADDER.replace("band", 0.04)), "trips of a breaker"),
        (lambda: conditional.estimate(LADDER, ("law.drift",)), "move no margin threshold"),
        (lambda: conditional.estimate(LADDER, paths=100, batches=3), "equal size"),
    ],
    ids=["breaker", "law", "batches"],
)  # fmt: skip
def test_refusals(call, message):
    with pytest.raises(InputError, match=message):
        call()
