"""The quadrature: reference values, closed forms, limits, refusals."""

import dataclasses

import equinox as eqx
import numpy as np
import pytest
from closed_forms import one_account, small, two_accounts

from tailrisk._fields import InputError
from tailrisk.gradients import Ladder, LadderWalk, WalkLaw, oracle, reference_book
from tailrisk.simulate import simulate

REFERENCE = {
    "many-small-accounts": (
        Ladder(reference_book(400, 0)),
        "4.00279845779e-5",
        {
            "maintenance": "-1.05598734e-3",
            "initial_shift": "-1.08247873e-3",
            "impact": "9.020222e-4",
            "law.drift": "-2.14384e-2",
            "law.deviation": "-5.51450e-4",
            "law.jump_probability": "7.77794e-2",
        },
    ),
    "square-root-impact": (
        Ladder(reference_book(60, 0), impact=0.03, impact_exponent=0.5),
        "4.80387171e-5",
        {"maintenance": "-2.1124810e-3"},
    ),
    "rare": (
        Ladder(
            reference_book(100, 2, gap=0.05, highest_leverage=12.0),
            WalkLaw(jump_probability=2e-5, deviation=0.0045),
        ),
        "2.95574579e-7",
        {"maintenance": "3.172958e-6"},  # selling earlier costs more through impact than it saves
    ),
}
SMALL = Ladder(reference_book(12, 3), steps=6)


def as_printed(text):
    """A number to all the digits it was printed with."""
    mantissa, exponent = text.split("e")
    return pytest.approx(float(text), rel=0, abs=0.51 * 10.0 ** (int(exponent) - len(mantissa.partition(".")[2])))


@pytest.mark.slow
@pytest.mark.parametrize(("ladder", "value", "slopes"), REFERENCE.values(), ids=REFERENCE)
def test_reference_values(ladder, value, slopes):
    got, gradient = oracle.expected_bad_debt_and_gradient(ladder)
    assert got == as_printed(value)
    for name, slope in slopes.items():
        assert gradient.get(name) == as_printed(slope), name


@pytest.mark.slow
def test_reference_value_without_impact():
    ladder = Ladder(reference_book(400, 0), impact=0.0)
    assert oracle.expected_bad_debt(ladder) == as_printed("1.41054137e-5")


@pytest.fixture(scope="module")
def gradient():
    return oracle.expected_bad_debt_and_gradient(SMALL)


def test_reference_values_that_are_quick():
    """The value alone takes seconds."""
    ladder, value, _ = REFERENCE["square-root-impact"]
    assert oracle.expected_bad_debt(ladder) == as_printed(value)


@pytest.mark.parametrize(
    "parameter",
    ["maintenance", "initial_shift", "impact", "impact_exponent", "law.drift", "law.deviation", "law.jump_probability",
     "law.jump_mean", "law.jump_deviation"],
)  # fmt: skip
def test_gradient_is_that_of_the_value(parameter, gradient):
    h = 1e-6 * max(abs(SMALL.get(parameter)), 1e-2)
    span = oracle.default_span(SMALL)
    ends = [oracle.expected_bad_debt(SMALL.replace(parameter, SMALL.get(parameter) + x), span=span) for x in (h, -h)]
    assert gradient[1].get(parameter) == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=1e-5, abs=1e-12)


def test_gradient_per_account(gradient):
    """The common shift is the sum over the accounts of their own."""
    assert gradient[1].book.initial_margin.sum() == pytest.approx(gradient[1].get("initial_shift"), rel=1e-12)
    assert gradient[1].book.initial_margin.shape == (12,)


def test_refinement_changes_nothing(gradient):
    value = gradient[0]
    for options in ({"degree": 8}, {"refine": 2.0}, {"span": 1.5 * oracle.default_span(SMALL)}):
        assert oracle.expected_bad_debt(SMALL, **options) == pytest.approx(value, rel=1e-11), options


def test_agrees_with_simulation(gradient):
    out = simulate(LadderWalk.build(SMALL), paths=400_000, seed=9)
    x = out["weight"] * out["bad_debt"]
    error = x.std() / np.sqrt(x.size)
    assert error < 0.02 * gradient[0]
    assert abs(x.mean() - gradient[0]) < 4 * error


ONE = dict(q=1.0, debt=0.93, m=0.02, sigma=0.05)
TWO = dict(q=(0.6, 0.4), m=0.02, sigma=0.03)


@pytest.mark.parametrize("impact", [0.03, 0.06, 0.01, 0.0])
def test_one_account_one_step(impact):
    """impact = 0.01 and 0: the account is closed before its equity is gone, and the threshold itself costs nothing."""
    wanted = one_account(impact=impact, **ONE)
    ladder = small([np.log(0.93)], [1.0], deviation=0.05, maintenance=0.02, impact=impact)
    value, slopes = oracle.expected_bad_debt_and_gradient(ladder)
    assert value == pytest.approx(wanted["value"], rel=1e-12)
    for name in ("maintenance", "initial_shift", "impact"):
        assert slopes.get(name) == pytest.approx(wanted[name], rel=1e-10, abs=1e-15), name
    if impact == 0.03:
        assert (value, slopes.get("maintenance")) == pytest.approx((4.763274e-3, 4.265549e-2), rel=2e-7)


@pytest.mark.parametrize(("second", "avalanche"), [(0.93, True), (0.9185, True), (0.9165, False)])
def test_two_accounts_one_step(second, avalanche):
    debt = (0.935, second)
    assert (np.log(debt[0]) <= np.log(debt[1]) + 0.03 * 0.6) == avalanche
    ladder = small(np.log(debt), TWO["q"], deviation=0.03, maintenance=0.02, impact=0.03)
    value, slopes = oracle.expected_bad_debt_and_gradient(ladder)
    wanted = two_accounts(debt=debt, impact=0.03, **TWO)
    close = value == pytest.approx(wanted["value"], rel=1e-10)
    assert close == avalanche
    close = slopes.get("maintenance") == pytest.approx(wanted["maintenance"], rel=1e-10)
    assert close == avalanche


def test_orders_splits_and_units(gradient):
    value, book = gradient[0], SMALL.book
    pick = np.random.default_rng(0).permutation(12)

    def with_book(index, share):
        parts = (np.asarray(x)[index] for x in (book.entry, book.initial_margin))
        return eqx.tree_at(lambda tree: tree.book, SMALL, type(book)(*parts, np.asarray(book.quantity)[index] * share))

    assert oracle.expected_bad_debt(with_book(pick, 1.0)) == pytest.approx(value, rel=1e-12)
    halves = with_book(np.repeat(np.arange(12), 2), np.tile([0.3, 0.7], 12))
    assert oracle.expected_bad_debt(halves) == pytest.approx(value, rel=1e-11)
    larger = with_book(np.arange(12), 5.0).replace("impact", SMALL.get("impact") / 5.0)
    assert oracle.expected_bad_debt(larger) == pytest.approx(5.0 * value, rel=1e-12)


def test_without_impact_accounts_are_alone():
    free = SMALL.replace("impact", 0.0)
    alone = [
        oracle.expected_bad_debt(
            dataclasses.replace(
                free, book=type(free.book)(*(np.asarray(x)[i : i + 1] for x in vars(free.book).values()))
            )
        )
        for i in range(3)
    ]
    first = dataclasses.replace(free, book=type(free.book)(*(np.asarray(x)[:3] for x in vars(free.book).values())))
    assert oracle.expected_bad_debt(first) == pytest.approx(sum(alone), rel=1e-11)


def test_no_overshoot_no_loss():
    """Shorter steps and no jumps: an account is sold nearer its threshold, where it still has equity."""
    coarse, fine = (
        oracle.expected_bad_debt(
            small([-0.06], [1.0], deviation=0.04 / np.sqrt(steps), steps=steps, maintenance=1e-6, impact=0.0)
        )
        for steps in (64, 256)
    )
    assert 1.8 < coarse / fine < 2.0  # the overshoot scales with the deviation of a step


@pytest.mark.parametrize(
    ("ladder", "message"),
    [(SMALL.replace("band", 0.04), "no circuit breaker"), (SMALL.replace("maintenance", -0.1), "maintenance")],
    ids=["breaker", "bounds"],
)
def test_refuses(ladder, message):
    with pytest.raises(InputError, match=message):
        oracle.expected_bad_debt(ladder)
