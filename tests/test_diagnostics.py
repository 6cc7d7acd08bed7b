"""Checks that refuse: each on a sample that must pass and on one that must not."""

import math

import numpy as np
import pytest
from scipy import stats

from tailrisk.tails import accumulator, diagnostics, streamed, weighted
from tailrisk.tails.measures import Estimate
from tailrisk.tails.plan import Integrand, Plan
from tailrisk.tails.tail_index import kept, khat

PATHS = 20_000


def largest_of(contributions):
    return np.sort(np.abs(contributions))[::-1][:4097]


@pytest.mark.parametrize("shape", [0.2, 0.5, 0.8])
def test_khat_finds_the_index_of_a_pareto_law(shape):
    """Contributions u^-shape have a generalized Pareto tail; 50 samples, the mean within 3 standard errors and 0.04."""
    rng = np.random.default_rng(1)
    found = np.array([khat(largest_of(rng.random(PATHS) ** -shape), PATHS) for _ in range(50)])
    error = found.std(ddof=1) / np.sqrt(found.size)
    assert error < 0.02
    pulled = (kept(PATHS) * shape + 5) / (kept(PATHS) + 10)  # towards 1/2
    assert found.mean() == pytest.approx(pulled, abs=3 * error + 0.015)


def test_khat_of_light_tails_is_small_and_of_few_excesses_unknown():
    rng = np.random.default_rng(2)
    assert khat(largest_of(rng.exponential(size=PATHS)), PATHS) < 0.25
    assert math.isnan(khat(np.arange(1.0, 20.0)[::-1], PATHS))
    assert khat(np.ones(4097), PATHS) == -math.inf  # events of one weight have no tail
    few_above = np.concatenate([np.linspace(9.0, 2.0, 10), np.ones(4087)])
    assert math.isnan(khat(few_above, PATHS))
    assert math.isnan(khat(np.zeros(4097), PATHS))


def lognormal_run(shift, seed=3, paths=PATHS):
    """P(z > 4) under a normal tilt; a tilt beyond the event leaves a heavy tail of weights in it."""
    z = shift + np.random.default_rng(seed).standard_normal(paths)
    return z, 0.5 * shift**2 - shift * z


def test_a_good_tilt_passes_in_arrays_and_in_a_stream():
    """Both ways to the diagnosis give the same rows."""
    z, lw = lognormal_run(4.2, paths=16_384)
    y = np.exp(lw) * (z >= 4.0)
    diagnosis = diagnostics.diagnose_paths(y, np.exp(lw))
    acc = accumulator.summarize(Plan((Integrand("above", 4.0, 1e-4),), top=512), z, lw)
    streaming = diagnostics.diagnose(acc, 1)
    for one, two in zip(diagnosis.rows, streaming.rows, strict=True):
        assert one[:2] == (two.name, pytest.approx(two.value, rel=1e-6))
        assert one.verdict == two.verdict
    verdicts = {row.name: row.verdict for row in diagnosis.rows if row.name != "mean_weight"}
    assert set(verdicts.values()) == {"ok"}
    estimate = streamed.probability(acc, 1)
    assert abs(estimate.value - stats.norm.sf(4.0)) < 4 * estimate.std_error
    assert estimate.std_error < 0.02 * estimate.value


def test_a_tilt_beyond_the_event_is_refused_for_its_tail():
    """Weights exp(-8 z) on z > 2 under normal(8): the estimate would be far too low, with a small standard error."""
    z, lw = lognormal_run(8.0)
    y = np.exp(lw) * (z > 2.0)
    diagnosis = diagnostics.diagnose_paths(y, np.exp(lw))
    assert diagnosis.refused
    refusing = {row.name for row in diagnosis.rows if row.verdict == "refuse"}
    assert {"effective_hits", "tail_index", "weight_share", "mean_weight"} <= refusing
    assert "try" in diagnosis.reason


def test_a_refused_result_keeps_its_value_to_itself():
    z, lw = lognormal_run(8.0)
    estimate = Estimate(1e-3, 1e-5, 9e-4, 1.1e-3)
    refused = diagnostics.Result(estimate, diagnostics.diagnose_paths(np.exp(lw) * (z > 2.0), np.exp(lw)), 0.03)
    for read in (lambda: refused.value, lambda: refused.std_error, lambda: refused.interval):
        with pytest.raises(diagnostics.RefusedEstimateError, match="effective_hits"):
            read()
    assert (refused.upper_bound, refused.refused) == (0.03, True)
    unknown = diagnostics.Result(weighted.probability(np.zeros(99, bool), np.full(99, 0.5)), diagnostics.Diagnosis(()))
    assert unknown.refused
    assert "effective hits" in unknown.reason


def test_an_accepted_result_shows_its_gain():
    """Relative variance per path v: a gain of (1 - p)/p / v over plain paths."""
    p, paths = 1e-4, 10_000
    result = diagnostics.Result(Estimate(p, 0.02 * p, 9.6e-5, 1.04e-4), diagnostics.Diagnosis(()), paths=paths)
    assert (result.value, result.interval, result.reason) == (p, (9.6e-5, 1.04e-4), "")
    assert result.relative_variance() == pytest.approx(4.0)
    assert result.gain_over_plain(cost=2.0) == pytest.approx((1 - p) / p / 8.0)


def test_each_measure_of_a_tail_is_checked_on_its_own():
    """Lomax losses of index 1.1: their quantile is fine, their shortfall has no variance and is refused."""
    x = np.random.default_rng(7).pareto(1.1, PATHS)
    w = np.full(PATHS, 1.0)
    w[::2], w[1::2] = 0.9, 1.1  # not plain paths, so the tail index is asked
    quantile, shortfall = diagnostics.diagnose_tail(x, w, float(np.quantile(x, 0.95)))
    assert not quantile.refused
    assert shortfall.refused
    assert {row.name: row.verdict for row in shortfall.rows}["tail_index"] != "ok"


def test_plain_paths_need_no_tail_index():
    y = (np.random.default_rng(4).random(PATHS) < 0.05).astype(float)
    names = [row.name for row in diagnostics.diagnose_paths(y, np.ones(PATHS)).rows]
    assert names == ["not_finite", "effective_hits", "weight_share", "batches"]
    acc = accumulator.summarize(Plan((Integrand("mean"),)), y)
    assert [row.name for row in diagnostics.diagnose(acc, 1).rows] == names


def test_numbers_that_are_none_are_refused():
    y = np.ones(PATHS)
    y[3] = np.nan
    assert diagnostics.diagnose_paths(y, np.ones(PATHS)).reason.startswith("not_finite = 1")
    x = np.where(np.isnan(y), np.inf, y)
    assert diagnostics.diagnose(accumulator.summarize(Plan((Integrand("mean"),)), x), 1).refused


def test_dependent_batches_are_refused_and_independent_ones_are_not():
    """P-values are uniform for skewed contributions: 5 % below 0.05 within 3 standard errors of 300 runs."""
    rng = np.random.default_rng(5)
    values = []
    for _ in range(300):
        y = np.where(rng.random(6_400) < 0.05, rng.exponential(size=6_400), 0.0)
        values.append(next(r.value for r in diagnostics.diagnose_paths(y, np.ones(y.size)).rows if r.name == "batches"))
    share = np.mean(np.array(values) < 0.05)
    assert share == pytest.approx(0.05, abs=3 * np.sqrt(0.05 * 0.95 / 300))
    y = rng.exponential(size=6_400).reshape(-1, 64) * np.linspace(0.7, 1.3, 64)
    assert diagnostics.diagnose_paths(y.reshape(-1), np.ones(y.size)).reason.startswith("batches")


def test_rows_against_other_evidence():
    """Second estimator, pilot ladder, nominal share, replicates, extrapolation, clipping: one that passes, one that fails."""
    a, b = Estimate(1.0, 0.1, 0.8, 1.2), Estimate(1.2, 0.1, 1.0, 1.4)
    far = Estimate(1.6, 0.1, 1.4, 1.8)
    cases = [
        (diagnostics.second_estimator(a, b), "ok", 0.2 / math.hypot(0.1, 0.1)),
        (diagnostics.second_estimator(a, far), "refuse", 0.6 / math.hypot(0.1, 0.1)),
        (diagnostics.ladder_agreement([(a, b), (a, far)]), "refuse", 0.6 / math.hypot(0.1, 0.1)),
        (diagnostics.nominal_share(20, 1000, 0.018), "ok", stats.binomtest(20, 1000, 0.018).pvalue),
        (diagnostics.nominal_share(40, 1000, 0.018), "refuse", stats.binomtest(40, 1000, 0.018).pvalue),
        (diagnostics.replicates([1.0, 1.2, 0.8], [0.1, 0.1, 0.1]), "warn", 2.0),
        (diagnostics.extreme_value(0.2, 1.0), "warn", 5.0),
        (diagnostics.clipped(0.01), "ok", 0.01),
        (diagnostics.clipped(0.2), "warn", 0.2),
    ]
    for row, verdict, value in cases:
        assert (row.name, row.verdict) == (row.name, verdict)
        assert row.value == pytest.approx(value, rel=1e-12)
    strict = diagnostics.Thresholds(second_estimator=(0.5, 1.0))
    assert diagnostics.second_estimator(a, b, strict).verdict == "refuse"
    assert diagnostics.second_estimator(a, b, strict).remedy


def test_the_gate_of_certificates():
    rng = np.random.default_rng(6)
    gate = diagnostics.tail_gate()
    assert gate(largest_of(rng.exponential(size=PATHS)), PATHS) == ""
    assert gate(np.ones(400), PATHS) == ""
    assert "tail index" in gate(largest_of(rng.random(PATHS) ** -0.9), PATHS)
