"""Weighted estimates and their intervals on laws whose probability, mean, quantile and shortfall are closed forms."""

import numpy as np
import pytest
from scipy import stats

from tailrisk.tails import measures, weighted

SHIFT = 3.0


def tilted(paths, seed, share=0.1, shift=SHIFT):
    """x = exp(z), z normal under the law of interest; drawn from normal(shift) and, for a share of paths, from it itself.

    Every path has the balance weight, so no weight exceeds 1/share.
    """
    rng = np.random.default_rng(seed)
    nominal = np.arange(paths) < share * paths
    rng.shuffle(nominal)
    z = rng.standard_normal(paths) + np.where(nominal, 0.0, shift)
    ratio = np.exp(0.5 * shift**2 - shift * z)
    return np.exp(z), 1.0 / (share + (1.0 - share) / ratio), nominal


def lognormal_tail(level):
    v = stats.norm.isf(1 - level)
    return np.exp(v), np.exp(0.5) * stats.norm.cdf(1 - v) / (1 - level)


def within(estimate, truth, most=0.05):
    """Within four standard errors, which are a small part of the truth."""
    assert estimate.std_error < most * truth
    assert estimate.value == pytest.approx(truth, abs=4 * estimate.std_error)
    assert estimate.low < estimate.value < estimate.high


def test_known_answers_under_a_tilt():
    """P(x > e^4) = 3.2e-5, E[(x - 20)+], and both tail measures at three levels from one run."""
    x, w, nominal = tilted(40_000, 1)
    within(weighted.probability(x > np.exp(4.0), w, nominal=nominal), stats.norm.sf(4.0))
    k = np.log(20.0)
    within(weighted.mean(np.maximum(x - 20.0, 0.0), w), np.exp(0.5) * stats.norm.cdf(1 - k) - 20.0 * stats.norm.sf(k))
    for tail in weighted.tails(x, w, [0.99, 0.999, 0.9999]):
        v, shortfall = lognormal_tail(tail.level)
        within(tail.quantile, v)
        within(tail.shortfall, shortfall)
        assert tail.shortfall.value > tail.quantile.value
    a = np.exp(4.0)
    conditional = np.exp(0.5) * stats.norm.cdf(1 - 4.0) / stats.norm.sf(4.0)
    within(weighted.ratio(np.where(x > a, x, 0.0), x > a, w), conditional)


@pytest.mark.parametrize(
    ("law", "expected"),
    [
        pytest.param(stats.norm, (3.090232, 3.367090), id="normal"),
        pytest.param(stats.t(4), (7.173182, 9.686219), id="student-4"),
    ],
)
def test_reference_risk_measures(law, expected):
    """99.9 % measures of the specification, by strata that are thinner in the tail and weighted back."""
    n = 200_000
    grid = np.linspace(0.0, 1.0, n + 1) ** 3  # probability of more, up to 1
    x = law.isf(0.5 * (grid[1:] + grid[:-1]))
    tail = weighted.tails(x, np.diff(grid) * n, [0.999])[0]
    assert (tail.quantile.value, tail.shortfall.value) == pytest.approx(expected, abs=2e-4)  # half a stratum
    v = law.isf(0.001)
    closed = law.pdf(v) / 0.001 * (1.0 if law is stats.norm else (4.0 + v**2) / 3.0)
    assert (v, closed) == pytest.approx(expected, abs=1e-6)  # the last printed digit


def test_weights_of_one_are_plain_paths():
    rng = np.random.default_rng(2)
    x = rng.exponential(size=5000)
    ones = np.ones(x.size)
    assert weighted.probability(x > 3.0, ones) == measures.probability(x > 3.0)
    assert weighted.quantile(x, ones, 0.97).value == measures.quantile(x, 0.97).value
    assert weighted.expected_shortfall(x, ones, 0.97).value == pytest.approx(
        measures.expected_shortfall(x, 0.97).value, rel=1e-12
    )


def test_few_effective_hits_give_a_bound_only():
    """From the nominal share alone: 3/n without a hit, the exact binomial limit otherwise."""
    x, w, nominal = tilted(2_000, 3, shift=1.0)
    none = weighted.probability(x > 1e6, w, nominal=nominal)
    assert np.isnan([none.value, none.std_error]).all()
    assert none.high == pytest.approx(3.0 / 200, rel=0.01)
    some = np.zeros(2_000, bool)
    some[np.flatnonzero(nominal)[:2]] = True
    bound = weighted.probability(some, w, nominal=nominal)
    assert stats.binom.cdf(2, 200, bound.high) == pytest.approx(0.05, rel=1e-9)
    assert "effective hits" in bound.note
    assert weighted.probability(some, w).high == 1.0  # nothing is known
    deep = weighted.tails(x, w, [0.9, 1 - 1e-7])
    assert np.isfinite(deep[0].quantile.low)
    assert np.isnan(deep[1].quantile.value)
    assert np.isnan(weighted.mean(some, w).value)
    assert np.isnan(weighted.ratio(some, x, w).value)


def test_the_atom_and_what_is_near_it():
    """P(x > 0) below, close to, and above 1 - level."""
    rng = np.random.default_rng(4)
    loss = rng.exponential(size=40_000)
    for share, note in ((0.005, "atom"), (0.0101, "near_atom"), (0.05, "")):
        x = np.where(rng.random(40_000) < share, loss, 0.0)
        tail = weighted.tails(x, np.ones(x.size), [0.99])[0]
        assert tail.quantile.note == tail.shortfall.note == note
        if note == "atom":
            assert tail.quantile[:4] == (0.0, 0.0, 0.0, 0.0)
            assert tail.shortfall.value == pytest.approx(x.mean() / 0.01, rel=1e-12)
        elif note == "near_atom":
            assert tail.quantile.low == 0.0 < tail.quantile.high


def test_exhaustion_needs_more_than_the_fund():
    w = np.full(1000, 1.0)
    loss = np.repeat([0.0, 5.0, 6.0], [500, 300, 200])
    assert weighted.exhaustion(loss, w, 5.0).value == 0.2
    assert weighted.exhaustion(loss, w, 0.0).value == 0.5  # paths without a loss do not exhaust an empty fund


def test_skewed_means_use_the_bootstrap():
    """A tilt far from the mean leaves few heavy weights; its interval leans to the right."""
    rng = np.random.default_rng(5)
    x = rng.pareto(2.2, 3000)
    estimate = weighted.mean(x, np.full(3000, 0.5))
    assert estimate.note == "bootstrap-t"
    assert estimate.high - estimate.value > estimate.value - estimate.low
    assert weighted.mean(rng.random(3000), np.full(3000, 0.5)).note == ""


def test_bad_weights_are_refused():
    x = np.arange(300.0)
    for w, reason in ((np.full(300, -1.0), "negative"), (np.full(300, np.nan), "not finite")):
        for estimate in (weighted.mean(x, w), weighted.quantile(x, w, 0.5), weighted.probability(x > 1, w)):
            assert np.isnan(estimate.value)
            assert reason in estimate.note
    with pytest.raises(ValueError, match="one Boolean per path"):
        weighted.probability(x, np.ones(300))


def coverage(repeats, paths, seed):
    """Shares of runs whose 95 % interval holds the truth, and of misses on each side, by case."""
    truths = {"P": stats.norm.sf(4.0), "E": np.exp(0.5) * stats.norm.cdf(1 - 3.0) - np.exp(3.0) * stats.norm.sf(3.0)}
    levels = [0.99, 0.999, 0.9999]
    for level in levels:
        truths[f"VaR {level}"], truths[f"ES {level}"] = lognormal_tail(level)
    low, high = dict.fromkeys(truths, 0), dict.fromkeys(truths, 0)
    for i in range(repeats):
        x, w, _ = tilted(paths, [seed, i])
        found = {"P": weighted.probability(x > np.exp(4.0), w), "E": weighted.mean(np.maximum(x - np.exp(3.0), 0.0), w)}
        for tail in weighted.tails(x, w, levels):
            found[f"VaR {tail.level}"], found[f"ES {tail.level}"] = tail.quantile, tail.shortfall
        for name, estimate in found.items():
            low[name] += estimate.high < truths[name]
            high[name] += estimate.low > truths[name]
    return {name: (1 - (low[name] + high[name]) / repeats, low[name], high[name]) for name in truths}


def test_intervals_are_covered():
    """The fast version: 200 repeats, each case in [0.90, 0.985]; shortfalls report the larger of two intervals."""
    for name, (share, _, _) in coverage(200, 5_000, 10).items():
        assert 0.90 <= share <= (0.995 if name.startswith("ES") else 0.985), name


@pytest.mark.slow
def test_intervals_are_covered_in_full():
    """1000 repeats: each case in [0.93, 0.97], their mean in [0.94, 0.96], misses balanced within 3 : 1.

    The larger of two intervals that each cover 0.95 covers more: shortfalls up to 0.99.
    """
    table = coverage(1000, 5_000, 11)
    for name, (share, low, high) in table.items():
        print(f"{name:12s} {share:.3f}  below {low}, above {high}")
    for name, (share, low, high) in table.items():
        assert 0.93 <= share <= (0.99 if name.startswith("ES") else 0.97), name
        assert max(low, high) <= 3 * max(min(low, high), 5), name
    assert 0.94 <= np.mean([share for name, (share, _, _) in table.items() if not name.startswith("ES")]) <= 0.96
