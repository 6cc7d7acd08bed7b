"""Gradients of scenarios: known answers of one account, choices, steps, refusals."""

import numpy as np
import one_account as one
import pytest

import tailrisk as tr
from tailrisk import breaker
from tailrisk._fields import InputError
from tailrisk._streams import noise_keys
from tailrisk.gradients import ExpectedShortfall, ValueAtRisk, steps
from tailrisk.gradients.audit import _row
from tailrisk.gradients.quantities import Expectation
from tailrisk.leaves import with_parameters
from tailrisk.scenario import SmoothLadder

PATHS = 64 * 512
LEVEL = 0.95


def estimate(*parameters, scenario=None, **more):
    given = {"paths": PATHS, "dtype": np.float64, "chunk": 4_096} | more
    return tr.gradients.estimate(one.scenario() if scenario is None else scenario, parameters, **given)


def close(found, truth, relative):
    """Within four standard errors of the truth, bias taken off where it was measured, and they are small enough."""
    (value,), (error,), (bias,) = found.estimate, found.std_error, found.bias
    spread = np.hypot(error, found.bias_error[0])
    assert error < relative * abs(truth), f"standard error {error:.3g} of {truth:.4g}"
    assert abs(value - bias - truth) < 4.0 * spread + 1e-9 * abs(truth), f"z = {(value - bias - truth) / spread:.1f}"
    assert abs(value - truth) < found.bias_bound[0] + 4.0 * error
    assert found.accepted[0]


def test_a_threshold_has_its_derivative():
    """The maintenance ratio of one account, through a hard liquidation."""
    record = estimate("margin.maintenance_rate")["margin.maintenance_rate"]
    close(record, one.in_maintenance(), 0.1)
    assert record.method == "common-random-number differences"
    assert "made from" in record.reason
    assert "balance" in record.reason
    assert record.step[0] > 0.0


@pytest.mark.slow
def test_numbers_of_the_law_and_of_impact_have_theirs():
    found = estimate("market.volatility", "impact.coefficient")
    close(found["market.volatility"], one.slope(1e-4, volatility=one.VOLATILITY)(), 0.03)
    close(found["impact.coefficient"], one.slope(1e-5, coefficient=one.COEFFICIENT)(), 0.03)
    assert "law of the noise" in found["market.volatility"].reason


@pytest.mark.slow
def test_a_wide_step_is_biased_as_its_record_says():
    found = estimate("market.volatility", step=0.5)["market.volatility"]
    truth = one.slope(1e-4, volatility=one.VOLATILITY)()
    close(found, truth, 0.02)
    assert found.step == [0.5]
    assert abs(found.bias[0]) > 5.0 * found.bias_error[0]
    assert abs(found.estimate[0] - truth) > 5.0 * found.std_error[0]


@pytest.mark.slow
def test_tail_of_one_account():
    """Expected shortfall at a value-at-risk held fixed, and value-at-risk as a difference of quantiles."""
    truth, rises = one.value_at_risk(LEVEL)
    beyond = lambda loss: np.maximum(loss - truth, 0.0) / (1.0 - LEVEL)  # noqa: E731
    shortfall = estimate("market.volatility", outcome=ExpectedShortfall("bad_debt", LEVEL), paths=64 * 2_048)[
        "market.volatility"
    ]
    close(shortfall, one.slope(1e-4, volatility=one.VOLATILITY)(beyond), 0.02)
    assert "value-at-risk" in shortfall.bias_source
    quantile = estimate("market.volatility", outcome=ValueAtRisk("bad_debt", LEVEL), paths=64 * 2_048)[
        "market.volatility"
    ]
    close(quantile, rises, 0.02)
    assert "difference of quantiles" in quantile.bias_source


def test_the_fund_of_one_account():
    """What it leaves unpaid has a derivative on every path."""
    unpaid = estimate("waterfall.fund", outcome="uncovered_debt")["waterfall.fund"]
    close(unpaid, -one.fund_runs_out()[0], 0.03)
    assert unpaid.method == "pathwise"
    assert unpaid.bias == [0.0]


@pytest.mark.slow
def test_whether_the_fund_runs_out_has_a_difference():
    empty = estimate("waterfall.fund", outcome="fund_depleted")["waterfall.fund"]
    close(empty, one.fund_runs_out()[1], 0.15)
    assert "counts events" in empty.reason
    assert "bandwidth" in empty.bias_source
    untouched = estimate("waterfall.fund")["waterfall.fund"]
    assert (untouched.method, untouched.estimate[0], untouched.accepted[0]) == ("pathwise", 0.0, True)


@pytest.mark.slow
def test_a_count_and_a_time_in_whole_steps_have_differences_only():
    halting = one.scenario(breaker=breaker.Halt(0.03, "2h"), step="1h")
    for key, step, ends in (
        ("breaker.length", 3600.0 / (365 * 86400), ("1h", "3h")),
        ("positions.clearing.rounds", 1.0, (7, 9)),
    ):
        found = estimate(key, scenario=halting, paths=64 * 512, outcome="halted_time")[key]
        assert found.method == "difference over whole steps"
        assert found.step[0] == pytest.approx(step)
        assert np.isnan(found.bias[0])
        values = [value if isinstance(value, int) else tr.breaker.Halt(0.03, value).length for value in ends]
        below, above = (
            tr.simulate(
                with_parameters(halting, {key: v}).build(np.float64), paths=64 * 512, keys=noise_keys(0, "market")
            )
            for v in values
        )
        expected = (above["halted_time"] - below["halted_time"]).mean() / (2.0 * step)
        assert found.estimate[0] == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_the_step_balances_bias_and_variance():
    """Made-up slopes f' + B h^2 + noise of variance c / h: the best step is found to a factor."""
    rng = np.random.default_rng(3)
    curve, spread, paths = 4.0, 0.02, 10**6
    best = (spread / (4.0 * curve**2 * paths)) ** 0.2
    for scale in (2.0, 8.0):
        sizes = [scale * best / 2.0**k for k in (3, 2, 1, 0)]
        slopes = [1.0 + curve * h**2 + rng.normal(0.0, (spread / h) ** 0.5, paths) for h in sizes]
        assert best / 2.0 < steps._balance(sizes, slopes, paths) < 1.3 * best
    assert steps._balance([1.0, 2.0], [np.zeros(64)] * 2, paths) == np.inf


def smooth(coefficient, clearing):
    """A continuum of a thousand longs around one level, and impact that spreads or runs away."""
    rng = np.random.default_rng(5)
    price, units = one.PRICE, np.full(1_000, 10.0)
    cash = units * price * (1.0 - np.exp(rng.uniform(-0.12, -0.03, 1_000)))
    book = one.GivenBook(units, cash)
    law = tr.impact.Linear(tr.impact.ConstantDepth(1e4), coefficient, memory="inf y")
    return one.scenario(book=book, impact=law, positions=SmoothLadder(cells=512, clearing=clearing), step="12h")


@pytest.mark.slow
def test_a_smooth_ladder_has_the_derivative_of_each_path():
    key = "impact.coefficient"
    gentle = smooth(0.03, tr.Exact())
    found = estimate(key, scenario=gentle, paths=64 * 512)[key]
    other = estimate(key, scenario=gentle, paths=64 * 512, method="differences", step=1e-4)[key]
    assert found.method == "pathwise"
    assert found.accepted[0]
    assert found.std_error[0] < 0.05 * abs(found.estimate[0])
    np.testing.assert_allclose(found.estimate, other.estimate, rtol=1e-3)  # the same paths


@pytest.mark.slow
def test_where_sales_run_away_it_is_refused():
    """Sales of a zone of width 0.09 push the price by 0.15 through it: the converged price jumps."""
    key = "impact.coefficient"
    wild = smooth(0.15, tr.Exact())
    found = estimate(key, scenario=wild, paths=64 * 64, chunk=64)[key]
    assert found.method == "common-random-number differences"
    assert "bred more sales" in found.reason
    with pytest.raises(InputError, match=r"bred more sales than they were on [1-9].*use method='differences"):
        estimate(key, scenario=wild, paths=64 * 64, chunk=64, method="pathwise")


@pytest.mark.slow
def test_an_audit_agrees_and_can_fail():
    names = ("margin.maintenance_rate", "waterfall.fund")
    audit = tr.gradients.audit(
        one.scenario(), names, ("bad_debt", "uncovered_debt"), paths=64 * 2_048, dtype=np.float64, chunk=4_096
    )
    assert [(row.parameter, row.outcome) for row in audit.rows] == [
        (name, outcome) for name in names for outcome in ("bad_debt", "uncovered_debt")
    ]
    assert audit.passed, str(audit)
    first = audit.rows[0]
    assert first.same_sign
    assert first.reference_step == pytest.approx(first.step / 2.0)
    assert first.estimate != first.reference
    assert abs(first.ratio - 1.0) < 0.2
    record = estimate("margin.maintenance_rate", paths=64 * 512)["margin.maintenance_rate"]
    wrong = type(record)(**vars(record) | {"estimate": -record.estimate})
    row = _row("x", Expectation("bad_debt"), wrong, record)
    assert row.same_sign is False
    assert not row.passed
    assert "FAILED" in str(tr.gradients.Audit((row,)))


@pytest.mark.parametrize(
    ("parameters", "more", "said"),
    [
        (("margin.maintenance_rates",), {}, "did you mean 'maintenance_rate'"),
        (("margin",), {}, "expected the key of a number"),
        (("step",), {}, "another grid of time"),
        (("market.volatility",), {"outcome": "baddebt"}, "did you mean 'bad_debt'?"),
        (("market.volatility",), {"method": "shift"}, "expected one of auto, pathwise, differences"),
        (("market.volatility",), {"method": "pathwise"}, "no pathwise derivative of bad_debt"),
        (("margin.maintenance_rate",), {"step": 0.1}, "use a step from 0 to 0.01"),
        (("margin.maintenance_rate",), {"step": -0.1}, "leaves the domain"),
        (("crash_coupling",), {"method": "differences"}, "edge of its domain"),
        (("impact.memory",), {}, "set a finite number first"),
        (("market.volatility",), {"functional": tr.gradients.BadDebt()}, "functional is for a ladder"),
        (("waterfall.fund",), {"outcome": ValueAtRisk("bad_debt", 0.5)}, "an atom without a derivative"),
        (("waterfall.fund",), {"outcome": ExpectedShortfall("bad_debt", 0.9999)}, "20 are needed"),
    ],
)
def test_refusals(parameters, more, said):
    with pytest.raises(InputError) as caught:
        estimate(*parameters, **{"paths": 64 * 64} | more)
    assert said in str(caught.value)


def test_a_ladder_knows_no_outcomes():
    ladder = tr.gradients.Ladder(tr.gradients.reference_book(12, 3))
    with pytest.raises(InputError, match="outcome: for a scenario"):
        tr.gradients.estimate(ladder, ("maintenance",), outcome="bad_debt")
