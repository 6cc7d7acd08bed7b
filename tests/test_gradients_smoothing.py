"""What smooths is biased and says by how much: sigmoid thresholds with their rate, and blurred parameters."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_forms import one_account, small
from scipy.stats import norm

from tailrisk import gradients
from tailrisk._fields import InputError
from tailrisk._streams import Noise
from tailrisk.gradients import Ladder, controls, differences, oracle, reference_book, smoothed, smoothing_es

SIGMA = 0.05


def ladder(impact=0.03, maintenance=0.02):
    return small([np.log(0.93)], [1.0], deviation=SIGMA, maintenance=maintenance, impact=impact)


def truth(impact=0.03, maintenance=0.02):
    return one_account(q=1.0, debt=0.93, m=maintenance, sigma=SIGMA, impact=impact)


@eqx.filter_jit
def outcomes(system, normals):
    def one(z):
        return system.outcome(system.step(system.init(), Noise(z[None], jnp.ones(1)))[0])

    return jax.tree.map(jnp.mean, jax.vmap(one)(normals))


def exact(case, temperature, points=2**20):
    """Mean bad debt of the smoothed model of one account and one step and its derivatives: equal shares of the normal law."""
    normals = jnp.asarray(norm.ppf((np.arange(points) + 0.5) / points))
    found = outcomes(controls.dense(case, "sigmoid", temperature), normals)
    return {name: float(value) for name, value in found.items()}


HEAT = (0.0005, 0.001, 0.002, 0.004, 0.008)
PRINTED = {  # per cent of the value and of the derivative in maintenance
    0.03: ((1.8, 2.9, 4.0, 4.5, 2.5), (-20, -35, -60, -90, -71)),
    0.06: ((5.1, 8.9, 14.8, 23, 32), (-1.4, -2.9, -6.3, -14, -28)),
}


@pytest.mark.parametrize("impact", PRINTED)
def test_bias_with_impact(impact):
    """Percentages that were measured before, and an order near one where there is feedback."""
    wanted, bias = truth(impact), {"value": [], "maintenance": []}
    for temperature in HEAT:
        found = exact(ladder(impact), temperature)
        bias["value"].append(100.0 * (found["value"] / wanted["value"] - 1.0))
        bias["maintenance"].append(100.0 * (found["slope_maintenance"] / wanted["maintenance"] - 1.0))
    for printed, got in zip(PRINTED[impact], bias.values(), strict=True):
        np.testing.assert_allclose(got, printed, atol=0.51, rtol=0.02)
    if impact == 0.06:
        order = smoothed.order_of(np.array(HEAT), np.array(bias["maintenance"]), np.zeros(5))
        assert 0.9 < order < 1.25


def test_bias_without_impact_is_of_second_order():
    """The threshold is nearly at zero equity, where the loss has a kink that the sigmoid rounds off."""
    case, wanted = ladder(0.0, 1e-6), truth(0.0, 1e-6)
    heat = np.array([0.00025, 0.0005, 0.001])
    bias = np.array([exact(case, t)["slope_initial_shift"] - wanted["initial_shift"] for t in heat])
    assert smoothed.order_of(heat, bias, np.zeros(3)) == pytest.approx(2.0, abs=0.03)
    values = np.array([exact(case, t)["slope_initial_shift"] for t in heat])
    assert smoothed.fit_rate(heat, values, np.ones(3)) == pytest.approx(2.0, abs=0.1)


def test_fit_finds_limit_and_rate():
    heat = np.array([0.001, 0.002, 0.004, 0.008])
    for rate in (0.7, 1.0, 2.0):
        values = 3.0 - 40.0 * heat**rate
        assert smoothed.fit_rate(heat, values, np.ones(4)) == pytest.approx(rate, abs=1e-3)
        assert smoothed.limit_at(heat, values, np.ones(4), rate)[0] == pytest.approx(3.0, rel=1e-9)
    assert np.isnan(smoothed.order_of(heat, np.array([1.0, -1.0, 1.0, 1.0]), np.zeros(4)))


@pytest.fixture(scope="module")
def report():
    return smoothed.estimate(
        ladder(0.06), ("maintenance", "initial_shift"), temperatures=(0.008, 0.016, 0.032), paths=64 * 2048, seed=1
    )


def test_report(report):
    """The bias at each temperature is that of the model, the rate is fitted and labelled, nothing is accepted."""
    assert report.temperatures == (0.032, 0.016, 0.008)
    wanted = truth(0.06)
    for temperature, record in zip(report.temperatures, report.records, strict=True):
        found = exact(ladder(0.06), temperature)
        for i, name in enumerate(report.parameters):
            error = record.std_error[i]
            assert error < 0.05 * abs(wanted[name])
            assert abs(record.bias[i] - (found[f"slope_{name}"] - wanted[name])) < 4.0 * error
        assert not record.accepted.any()
    assert report.rate_is == "fitted"
    assert (report.rate_error > 0.0).all()
    np.testing.assert_allclose(
        report.limit - report.limit_bias, [wanted[name] for name in report.parameters], rtol=1e-9
    )
    assert "NOT ACCEPTED" in str(report)
    assert "order of the bias" in str(report)


def test_an_assumed_rate_is_said(report):
    two = smoothed.estimate(ladder(0.06), temperatures=(0.008, 0.016), rate=2.0, paths=64 * 2048, seed=1)
    assert two.rate_is == "assumed"
    assert "assumed rate 2 +- 0" in str(two)
    ends = [record.estimate[0] for record in report.records[:0:-1]]
    assert two.limit[0] == pytest.approx(ends[0] + (ends[0] - ends[1]) / 3.0, rel=1e-6)


@pytest.mark.slow
def test_blur_of_one_parameter():
    """Three times the bias of a difference of that step, and the estimate is off by it."""
    case, step = ladder(), 0.002
    found = smoothing_es.estimate(case, seed=2, paths=64 * 4 * 512, step=step, directions=4)
    error = found.std_error[0]
    assert error < 0.12 * truth()["maintenance"]
    assert abs(found.estimate[0] - found.bias[0] - truth()["maintenance"]) < 4.0 * error
    other = differences.twin_bias(case, ("maintenance",), np.array([step]))
    assert found.bias[0] / other[0] == pytest.approx(3.0, abs=0.02)


def test_blur_of_two_parameters_is_the_mean_over_directions():
    """The bias that is said is that of the derivative's mean under the blur, by a product rule of five points each."""
    case, steps, names = ladder(), np.array([0.002, 0.003]), ("maintenance", "initial_shift")
    points, weights = np.polynomial.hermite_e.hermegauss(5)
    weights /= weights.sum()
    mean = np.zeros(2)
    for x, wx in zip(points, weights, strict=True):
        for y, wy in zip(points, weights, strict=True):
            numbers = {"m": 0.02 + steps[0] * x, "debt": 0.93 * (1.0 - steps[1] * y / 0.93)}
            there = one_account(q=1.0, sigma=SIGMA, impact=0.03, **numbers)
            scale = 0.93 / (0.93 - steps[1] * y)  # the margin that is left there
            mean += wx * wy * np.array([there["maintenance"], there["initial_shift"] * scale])
    wanted = mean - [truth()[name] for name in names]
    np.testing.assert_allclose(smoothing_es.twin_bias(case, names, steps), wanted, rtol=0.03, atol=2e-5)


@pytest.mark.slow
def test_blur_of_two_parameters():
    found = smoothing_es.estimate(
        ladder(), ("maintenance", "initial_shift"), seed=3, paths=64 * 64 * 64, step=(0.002, 0.003), directions=64
    )
    wanted = np.array([truth()[name] for name in found.parameters])
    assert (found.std_error < 0.12 * np.abs(wanted)).all()
    assert (np.abs(found.estimate - found.bias - wanted) < 4.0 * found.std_error).all()


@pytest.mark.slow
@pytest.mark.parametrize("accounts", [(12, 3)])
def test_rates_of_a_book(accounts):
    """A book with impact in the base model: the bias at each temperature against the quadrature, none of them small."""
    case = Ladder(reference_book(*accounts))
    found = smoothed.estimate(case, temperatures=(0.004, 0.008, 0.016), paths=64 * 1024, seed=4)
    slope = oracle.expected_bad_debt_and_gradient(case)[1].get("maintenance")
    for record in found.records:
        assert record.bias[0] == pytest.approx(record.estimate[0] - slope)
    assert abs(found.records[0].bias[0]) > 5.0 * found.records[0].std_error[0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: smoothed.estimate(ladder(), temperatures=(0.001, 0.002)), "3 or more different"),
        (lambda: smoothed.estimate(ladder(), temperatures=(0.001,), rate=2.0), "2 or more different"),
        (lambda: smoothed.estimate(ladder(), rate=-1.0), "positive number"),
        (lambda: smoothed.estimate(ladder(), ("band",)), "use another estimator"),
        (lambda: smoothed.estimate(ladder().replace("band", 0.1)), "no circuit breaker"),
        (lambda: gradients.estimate(ladder(), method="smoothed"), "must be shown"),
        (lambda: gradients.estimate(ladder(), method="straight-through"), "must be shown"),
        (lambda: smoothing_es.estimate(ladder(), ("halt",)), "whole numbers"),
        (lambda: smoothing_es.estimate(ladder(), ("band",)), "no breaker"),
        (lambda: smoothing_es.estimate(ladder(), step=0.02), "leaves the domain"),
        (lambda: smoothing_es.estimate(ladder(), directions=7), "divides"),
    ],
    ids=["two", "one", "rate", "parameter", "breaker", "method", "heuristic", "whole", "band", "domain", "directions"],
)  # fmt: skip
def test_refusals(call, message):
    with pytest.raises(InputError, match=message):
        call()
