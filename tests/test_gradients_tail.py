"""Value-at-risk, expected shortfall and exhaustion of the fund: closed forms, what smoothing costs, what is refused."""

import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import small, two_steps_beyond
from scipy.integrate import quad
from scipy.optimize import brentq

from tailrisk import gradients
from tailrisk._fields import InputError
from tailrisk.gradients import BadDebt, Exceedance, FundExhausted, TailExcess, Totals, tail

ONE = {"q": 1.0, "debt": 0.95, "m": 0.02, "sigma": 0.03, "impact": 0.03}
LADDER = small([np.log(0.95)], [1.0], deviation=0.03, maintenance=0.02, impact=0.03, steps=2, fund=0.04)
NAMES = ("maintenance", "initial_shift", "impact")
RUN = {"paths": 64 * 1024, "batches": 64, "pilot_paths": 2**16}
LEVEL = 0.9


def beyond(name, v):
    return two_steps_beyond(v, **ONE)[name]


def smoothed(name, at, width):
    """What the kernel makes of a derivative of P(L > v)."""
    return quad(lambda y: 0.75 * (1.0 - y * y) * beyond(name, at + width * y), -1.0, 1.0)[0]


def within(found, truth, error, relative):
    assert error < relative * abs(truth), f"standard error {error / abs(truth):.3f} of the truth"
    assert abs(found - truth) < 4.0 * error, f"z = {(found - truth) / error:.2f}"


def test_closed_form_is_consistent():
    """Its derivatives are those of its value."""
    h = 1e-6
    assert beyond("v", 0.05) == pytest.approx(
        (beyond("value", 0.05 + h) - beyond("value", 0.05 - h)) / (2 * h), rel=1e-6
    )
    for name, key in (("maintenance", "m"), ("impact", "impact")):
        ends = [two_steps_beyond(0.05, **(ONE | {key: ONE[key] + x}))["value"] for x in (h, -h)]
        assert beyond(name, 0.05) == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=1e-6)
    ends = [two_steps_beyond(0.05, **(ONE | {"debt": ONE["debt"] - x * ONE["debt"] / 0.93}))["value"] for x in (h, -h)]
    assert beyond("initial_shift", 0.05) == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=1e-6)


def test_kernel_is_a_local_linear_fit():
    """The slope of (X - q)+ over a fine grid of q around the threshold, by least squares."""
    functional, width = Exceedance(0.05, 0.02), 0.02
    grid = np.linspace(-width, width, 20_001)
    zero = jnp.zeros(())
    for loss in (0.02, 0.031, 0.045, 0.05, 0.062, 0.069, 0.08):
        slope = -np.dot(grid, np.maximum(loss - 0.05 - grid, 0.0)) / np.dot(grid, grid)
        assert float(functional(Totals(jnp.asarray(loss), zero, zero, zero, zero))) == pytest.approx(slope, abs=2e-4)


def test_net_loss():
    totals = Totals(*(jnp.asarray(x) for x in (0.08, 0.01, 0.05, 1.0, 0.0)))
    assert float(Exceedance(0.02, 0.001, net=True)(totals)) == pytest.approx(0.5)
    assert float(FundExhausted()(totals)) == 1.0
    assert float(FundExhausted()(totals._replace(bad_debt=jnp.asarray(0.06)))) == 0.0


BRANCHES = pytest.mark.slow  # what the default takes branches for


@pytest.mark.parametrize("name", ["maintenance", *(pytest.param(name, marks=BRANCHES) for name in NAMES[1:])])
def test_exhaustion(name):
    """One account pays into the fund or loses, so the fund is exhausted where the loss is larger."""
    exhausted = gradients.exhaustion(LADDER, (name,), seed=1, **RUN)
    found, wide = exhausted.gradient[name], exhausted.wider[name]
    width = float(found.step[0])
    for one, w in ((found, width), (wide, 2.0 * width)):
        within(one.estimate[0], smoothed(name, 0.04, w), one.std_error[0], 0.09)
    assert found.accepted.all()
    bias = smoothed(name, 0.04, width) - beyond(name, 0.04)
    assert abs(found.bias[0] - bias) < 3.0 * (found.std_error[0] + wide.std_error[0]) / 3.0 + 0.2 * abs(bias)
    assert "O(width^2)" in found.bias_source
    assert "at twice the width" in str(exhausted)


@pytest.mark.parametrize("name", ["maintenance", pytest.param("initial_shift", marks=BRANCHES)])
def test_value_at_risk(name):
    found = gradients.value_at_risk(LADDER, (name,), level=LEVEL, seed=2, **RUN)
    q = brentq(lambda v: beyond("value", v) - (1.0 - LEVEL), 0.011, 0.3)
    within(found.quantile.value, q, found.quantile.std_error, 0.02)
    assert found.quantile.low < q < found.quantile.high
    within(found.quantile.density, -beyond("v", q), found.quantile.density_error, 0.05)
    at = found.quantile.value
    one = found.gradient[name]
    width = float(one.step[0])
    truth = smoothed(name, at, width) / -smoothed("v", at, width)
    within(one.estimate[0], truth, one.std_error[0], 0.1)
    # what the error of the quantile does is of the size that is said
    slope = (beyond(name, q + 1e-4) / beyond("v", q + 1e-4) - beyond(name, q - 1e-4) / beyond("v", q - 1e-4)) / -2e-4
    assert 0.3 < found.from_quantile[name] / abs(slope * found.quantile.std_error) < 3.0


def test_expected_shortfall():
    found = gradients.expected_shortfall(LADDER, NAMES[:1], level=LEVEL, seed=3, **RUN)
    at = found.quantile.value
    truth = quad(lambda v: beyond("maintenance", v), at, 0.9)[0] / (1.0 - LEVEL)
    one = found.gradient["maintenance"]
    within(one.estimate[0], truth, one.std_error[0], 0.09)
    assert one.bias[0] == 0.0
    wanted = abs(beyond("maintenance", at)) / (1.0 - LEVEL) * found.quantile.std_error
    assert found.from_quantile["maintenance"] == pytest.approx(wanted, rel=0.2)


def test_an_atom_has_no_quantile():
    """Below the probability of no loss the value-at-risk is 0, and the expected shortfall the mean over the tail."""
    with pytest.raises(InputError, match=r"atom.*use expected_shortfall"):
        gradients.value_at_risk(LADDER, level=0.3, **RUN)
    found = gradients.expected_shortfall(LADDER, level=0.3, seed=4, **RUN)
    mean = gradients.estimate(LADDER, seed=4, paths=RUN["paths"], batches=64, functional=BadDebt())
    assert found.quantile.value == 0.0
    assert found.from_quantile == {"maintenance": 0.0}
    assert found.gradient["maintenance"].estimate[0] == pytest.approx(mean["maintenance"].estimate[0] / 0.7, rel=1e-12)


def test_quantiles_of_a_weighted_sample():
    """Half of the mass is drawn from a law that is too heavy, and weighted back."""
    rng = np.random.default_rng(0)
    scale = np.where(rng.random(200_000) < 0.5, 1.0, 3.0)
    loss = rng.exponential(scale)
    weight = np.exp(-loss) / (0.5 * np.exp(-loss) + 0.5 * np.exp(-loss / 3.0) / 3.0)
    sample = tail.Sample.of(loss, weight)
    for share in (0.3, 0.01, 1e-3):
        assert sample.at(share) == pytest.approx(-np.log(share), rel=0.01)
    value, error = sample.beyond(2.0)
    within(value, np.exp(-2.0), error, 0.01)


LAW_LADDER = LADDER.replace("law.jump_probability", 0.05).replace("law.sampling_probability", 0.1)


@pytest.mark.slow
def test_score_needs_no_smoothing():
    """Two ways to the derivative of P(exhausted) in the drift, one of them exact."""
    found = gradients.exhaustion(LAW_LADDER, ("law.drift",), seed=5, **RUN).gradient["law.drift"]
    other = gradients.differences.estimate(
        LAW_LADDER,
        ("law.drift",),
        functional=FundExhausted(),
        step=1e-3,
        seed=5,
        paths=64 * 1024,
        batches=64,
        certify=False,
    )
    assert found.bias[0] == 0.0
    error = np.hypot(found.std_error[0], other.std_error[0])
    assert error < 0.1 * abs(found.estimate[0])
    assert abs(found.estimate[0] - other.estimate[0]) < 4.0 * error


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gradients.value_at_risk(LADDER, level=1.0), "between 0 and 1"),
        (lambda: gradients.value_at_risk(LADDER, level=LEVEL, width=0.5, **RUN), "less than the quantile"),
        (lambda: gradients.exhaustion(LADDER.replace("fund", 0.0)), "just at exhaustion"),
        (lambda: gradients.exhaustion(LADDER.replace("fund", 0.9), **RUN), "cannot be told from 0"),
        (lambda: gradients.exhaustion(LADDER, width=0.5, **RUN), "less than fund"),
        (lambda: gradients.shift.estimate(LADDER, functional=FundExhausted()), "jumps at fixed events"),
        (lambda: gradients.branch.estimate(LADDER, functional=FundExhausted()), "jumps at fixed events"),
        (lambda: gradients.measure_valued.estimate(LADDER, functional=FundExhausted()), "jumps at fixed events"),
        (lambda: gradients.score.estimate(LADDER, functional=FundExhausted()), "jumps at fixed events"),
        (lambda: gradients.conditional.estimate(LADDER, functional=FundExhausted()), "jumps at fixed events"),
    ],
    ids=["level", "width", "no-fund", "rare", "wide", "shift", "branch", "measure-valued", "score", "conditional"],
)  # fmt: skip
def test_refusals(call, message):
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.slow
def test_printed_tail_excess():
    """400 accounts, level 99 %, q = 8e-4: the derivative in maintenance that several estimators were printed with."""
    ladder = gradients.Ladder(gradients.reference_book(400, 0))
    found = gradients.shift.estimate(ladder, functional=TailExcess(8e-4, 0.99), seed=6, paths=64 * 16_384)
    error = np.hypot(found.std_error[0], 0.20e-2)
    assert error < 0.06 * 6.57e-2
    assert abs(found.estimate[0] + 6.57e-2) < 3.0 * error
