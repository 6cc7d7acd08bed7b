"""The choice of an estimator, and the controls that the tests of every estimator must refuse."""

import numpy as np
import pytest
from test_gradients_branch import LADDER, TRUTH, close

from tailrisk._fields import InputError
from tailrisk.gradients import FundExhausted, Ladder, LadderWalk, TailExcess, auto, controls, reference_book
from tailrisk.gradients import estimate as automatic
from tailrisk.simulate import simulate

MANY = Ladder(reference_book(400, 0))
NAMES = ("maintenance", "initial_shift", "impact")


@pytest.mark.parametrize(
    ("ladder", "parameter", "method", "reason"),
    [
        (LADDER, "maintenance", "shift", "no active breaker"),
        (MANY, "maintenance", "shift", "no active breaker"),
        (LADDER.replace("band", 0.04), "maintenance", "branch", "few large accounts"),
        (MANY.replace("band", 0.04), "maintenance", "differences", "active breaker; many small"),
        (MANY.replace("band", 0.04), "band", "branch", "band of a breaker"),
        (LADDER, "initial_shift", "residual", "no active breaker"),
        (LADDER.replace("band", 0.04), "initial_shift", "branch", "worth 8.76"),
        (MANY, "impact", "branch", "moves thresholds apart"),
        (MANY.replace("band", 0.04), "impact", "differences", "many small accounts"),
        (MANY, "law.drift", "score", "law of the noise"),
        (MANY, "law.deviation", "differences", "too noisy"),
        (MANY, "fee", "differences", "few general parameters"),
    ],
)
def test_choice(ladder, parameter, method, reason):
    chosen, why = auto.choose(ladder, parameter)
    assert chosen == method
    assert reason in why


@pytest.mark.parametrize(
    ("parameter", "message"),
    [
        ("halt", "'halt' is a whole number"),
        ("steps", "'steps' is a whole number"),
        ("book.quantity", "use the quadrature"),
        ("nothing", "expected one of maintenance"),
    ],
)
def test_no_choice(parameter, message):
    with pytest.raises(InputError, match=message):
        auto.choose(LADDER, parameter)


def test_a_functional_that_jumps_has_few_ways():
    for parameter, method in (("maintenance", "differences"), ("law.drift", "score"), ("band", "differences")):
        chosen, reason = auto.choose(LADDER, parameter, FundExhausted())
        assert chosen == method
        assert reason
    assert auto.choose(LADDER, "maintenance", TailExcess(1e-3))[0] == "shift"


def test_equal_accounts_are_worth_their_number():
    book = reference_book(7, 0)
    ladder = Ladder(type(book)(book.entry, book.initial_margin, np.full(7, 3.0)))
    assert auto.effective_accounts(ladder) == pytest.approx(7.0)


def test_each_parameter_has_its_record():
    names = ("initial_shift", "maintenance", "law.drift", "impact")
    found = automatic(LADDER, names, seed=3, paths=64 * 1024)
    assert tuple(found) == names
    assert [found[name].method for name in names] == 4 * ["boundary branching"]
    assert "on the paths of the branches" in found["maintenance"].reason
    for name, relative in zip(names, (0.08, 0.05, 0.08, 0.04), strict=True):
        record = found[name]
        close(record, TRUTH[name], relative)
        assert record.parameters == (name,)
        assert record.reason.startswith(auto.choose(LADDER, name)[1])
        assert record.bias.tolist() == [0.0]


def test_unknown_method():
    with pytest.raises(InputError, match="expected 'auto' or one of shift"):
        automatic(LADDER, method="exact")


def test_rounds_of_all_accounts_are_the_sorted_walk():
    """The controls differ in their derivative alone: enough rounds sell what the searches sell."""
    plain, dense = (
        simulate(system, paths=512, seed=9)
        for system in (LadderWalk.build(LADDER), controls.dense(LADDER, "naive", rounds=12))
    )
    np.testing.assert_allclose(dense["value"], plain["value"], atol=1e-12)
    np.testing.assert_allclose(dense["weight"], plain["weight"], rtol=1e-12)
    np.testing.assert_allclose(dense["slope_initial_shift"], plain["value_initial_shift"], atol=1e-12)
    np.testing.assert_allclose(dense["slope_impact"], plain["value_impact"], atol=1e-12)
    assert (dense["slope_maintenance"] == 0.0).all()
    assert np.count_nonzero(plain["value"]) > 20


CONTROLS = {
    "naive": ("naive", 0.004, ("maintenance", "initial_shift")),
    "sigmoid": ("sigmoid", 0.008, ("maintenance", "impact")),
    "straight-through-narrow": ("straight-through", 0.004, ("maintenance", "initial_shift")),
    "straight-through-wide": ("straight-through", 0.008, ("maintenance", "initial_shift")),
}


@pytest.fixture(scope="module")
def wrong():
    return {
        name: controls.estimate(
            LADDER, NAMES, kind=kind, temperature=temperature, rounds=12, paths=64 * 512, chunk=512, seed=2
        )
        for name, (kind, temperature, _) in CONTROLS.items()
    }


@pytest.mark.parametrize("name", CONTROLS)
def test_controls_are_refused(name, wrong):
    """What accepts the estimators refuses these, at no more paths; their record says how wrong they are."""
    found = wrong[name]
    for parameter in CONTROLS[name][2]:
        i = NAMES.index(parameter)
        assert found.std_error[i] < 0.08 * abs(TRUTH[parameter])
        with pytest.raises(AssertionError, match="z = "):
            close(found, TRUTH[parameter], 0.08, i)
        assert abs(found.bias[i]) > 0.3 * abs(TRUTH[parameter])
        assert found.bias[i] == pytest.approx(found.estimate[i] - TRUTH[parameter], rel=1e-5)
    assert not found.accepted.any()
    assert "measured" in found.bias_source


def test_naive_derivative_in_maintenance_is_zero(wrong):
    assert wrong["naive"].estimate[0] == 0.0
    assert wrong["naive"].std_error[0] == 0.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: controls.estimate(LADDER, kind="exact"), "expected one of naive, sigmoid"),
        (lambda: controls.estimate(LADDER, kind="sigmoid", temperature=0.0), "positive temperature"),
        (lambda: controls.estimate(LADDER.replace("band", 0.04), kind="naive"), "no circuit breaker"),
        (lambda: controls.estimate(LADDER, ("band",), kind="naive"), "use another estimator"),
    ],
    ids=["kind", "temperature", "breaker", "parameter"],
)
def test_control_refusals(call, message):
    with pytest.raises(InputError, match=message):
        call()
