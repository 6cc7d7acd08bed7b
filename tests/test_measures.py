"""Estimates and intervals against laws whose mean, quantile and expected shortfall are known in closed form."""

import numpy as np
import pytest
from scipy import stats

from tailrisk.tails import measures

REPEATS = 400
PATHS = 4000
LEVEL = 0.98


class Law:
    """Zero with probability 1 - hit, otherwise the law of `quantile(u)`, u the probability of more."""

    def __init__(self, hit, quantile, mean, shortfall):
        self.hit, self.quantile, self.mean_hit, self.shortfall_hit = hit, quantile, mean, shortfall

    def draw(self, rng, *shape):
        u = rng.random(shape)
        return np.where(u < self.hit, self.quantile(np.minimum(u / self.hit, 1.0)), 0.0)

    @property
    def mean(self):
        return self.hit * self.mean_hit

    def value_at_risk(self, level):
        share = (1 - level) / self.hit
        return float(self.quantile(share)) if share < 1 else 0.0

    def expected_shortfall(self, level):
        share = (1 - level) / self.hit
        return self.shortfall_hit(share) if share < 1 else self.mean / (1 - level)


def lomax(index):
    return (
        lambda u: u ** (-1 / index) - 1,
        1 / (index - 1),
        lambda a: index / (index - 1) * a ** (-1 / index) - 1,
    )


LAWS = {
    "exponential": Law(1.0, lambda u: -np.log(u), 1.0, lambda a: 1 - np.log(a)),
    "lognormal": Law(
        1.0,
        lambda u: np.exp(stats.norm.isf(u)),
        np.exp(0.5),
        lambda a: np.exp(0.5) * stats.norm.cdf(1 - stats.norm.isf(a)) / a,
    ),
    "zero-inflated-pareto": Law(0.05, *lomax(4.0)),
    "zero-inflated-pareto-heavy": Law(0.05, *lomax(2.5)),
    "atom-at-quantile": Law(0.012, *lomax(4.0)),  # P(x > 0) < 1 - level: value-at-risk 0
}


@pytest.fixture(scope="module")
def samples():
    """400 repeats of 4000 paths of every law, drawn once."""
    rng = np.random.default_rng(20260)
    return {name: law.draw(rng, REPEATS, PATHS) for name, law in LAWS.items()}


def covered(estimates, truth):
    """Share of intervals that hold the truth, with the standard error a share of 0.95 would have."""
    inside = [e.low <= truth <= e.high for e in estimates]
    return np.mean(inside), np.sqrt(0.95 * 0.05 / len(inside))


def assert_honest(estimates, truth, least=0.92, most=0.985):
    """Interval coverage, unbiasedness within the error of the repeats, and the printed standard error right to 10 %."""
    share, error = covered(estimates, truth)
    assert error < 0.012
    assert least - 2 * error < share < most + 2 * error
    values = np.array([e.value for e in estimates])
    deviation = values.std(ddof=1)
    assert (
        abs(values.mean() - truth) < 4 * deviation / np.sqrt(len(values)) + 0.02 * truth
    )  # order-statistic bias < 2 %
    printed = np.sqrt(np.mean([e.std_error**2 for e in estimates]))
    # the deviation of 400 repeats is itself known to 3.5 % (normal) and worse for heavy tails
    kurtosis = stats.kurtosis(values)
    assert printed == pytest.approx(deviation, rel=0.1 + 2 * np.sqrt((kurtosis + 2) / (4 * len(values))))


@pytest.mark.parametrize("name", LAWS)
def test_mean_is_covered(name, samples):
    law = LAWS[name]
    estimates = [measures.mean(x) for x in samples[name]]
    assert all(np.isfinite(e.low) or e.note for e in estimates)
    usable = [e for e in estimates if np.isfinite(e.low)]
    assert len(usable) > 0.97 * REPEATS
    assert_honest(usable, law.mean)


@pytest.mark.parametrize("name", LAWS)
def test_shortfall_is_covered(name, samples):
    law = LAWS[name]
    usable = [e for e in (measures.expected_shortfall(x, LEVEL) for x in samples[name]) if np.isfinite(e.low)]
    assert len(usable) > 0.95 * REPEATS
    assert_honest(usable, law.expected_shortfall(LEVEL), most=0.99)  # spans two intervals


@pytest.mark.parametrize("name", [name for name in LAWS if name != "atom-at-quantile"])
def test_quantile_is_covered(name, samples):
    law = LAWS[name]
    assert_honest([measures.quantile(x, LEVEL) for x in samples[name]], law.value_at_risk(LEVEL), least=0.94)


def test_the_quantile_below_the_atom_is_zero(samples):
    estimates = [measures.quantile(x, LEVEL) for x in samples["atom-at-quantile"]]
    assert all(e.value == e.low == 0.0 for e in estimates)
    assert all(e.note.startswith("at the atom 0") for e in estimates)
    near = measures.quantile(np.concatenate([np.zeros(9900), np.arange(1.0, 101.0)]), 0.99)
    assert near.low == 0.0 < near.high
    assert near.note.startswith("near the atom 0")


@pytest.mark.parametrize("p", [0.002, 0.05, 0.5])
def test_probabilities_are_covered_at_least_as_asked(p):
    rng = np.random.default_rng(3)
    counts = rng.binomial(PATHS, p, REPEATS)
    estimates = [measures.probability(count, paths=PATHS) for count in counts]
    share, error = covered(estimates, p)
    assert share > 0.95 - 2 * error
    printed = np.sqrt(np.mean([e.std_error**2 for e in estimates if np.isfinite(e.std_error)]))
    assert printed == pytest.approx(np.std(counts / PATHS), rel=0.1)


def test_probability_known_interval():
    """8 of 250 (the Kupiec example): limits solve the two binomial equations."""
    estimate = measures.probability(8, paths=250)
    assert stats.binom.sf(7, 250, estimate.low) == pytest.approx(0.025, rel=1e-9)
    assert stats.binom.cdf(8, 250, estimate.high) == pytest.approx(0.025, rel=1e-9)
    hits = np.zeros(250, bool)
    hits[:8] = True
    assert measures.probability(hits) == estimate


def test_no_hits_give_a_bound_only():
    estimate = measures.probability(np.zeros(10_000, bool))
    assert (estimate.value, estimate.low) == (0.0, 0.0)
    assert estimate.high == pytest.approx(1 - 0.025 ** (1 / 10_000))
    assert np.isnan(estimate.std_error)
    assert "0.0003" in estimate.note  # 3/N, one-sided


@pytest.mark.parametrize("name", ["exponential", "zero-inflated-pareto"])
def test_ratio_is_covered(name, samples):
    """The ratio of a loss to its own hit rate plus noise: E[x | hit] where the denominator is an indicator."""
    law = LAWS[name]
    estimates = [measures.ratio_of_means(x, x > 0.0) for x in samples[name]]
    assert_honest(estimates, law.mean_hit)


def test_ratio_needs_a_denominator_and_knows_proportion():
    rng = np.random.default_rng(5)
    x = rng.exponential(size=500)
    refused = measures.ratio_of_means(x, rng.standard_normal(500))
    assert np.isnan(refused.value)
    assert "denominator" in refused.note
    exact = measures.ratio_of_means(3.0 * x, x)
    assert (exact.low, exact.value, exact.high) == pytest.approx((3.0, 3.0, 3.0), rel=1e-12)


T3 = stats.t(3)


@pytest.mark.parametrize(
    ("scale", "law", "above", "expected"),
    [
        pytest.param(0.04, stats.norm, stats.norm.pdf, (0.0930539, 0.1066086), id="TAIL-03-normal"),
        pytest.param(
            0.04 / np.sqrt(3.0), T3, lambda v: T3.pdf(v) * (3 + v**2) / 2, (0.1048630, 0.1617293), id="TAIL-03-t3"
        ),
    ],
)
def test_shortfall_of_a_stratified_sample(scale, law, above, expected):
    """With the means of n equally likely strata, the shortfall is exact and the quantile right to half a stratum.

    `above(v)` is the integral of x beyond v.
    """
    n = 100_000
    edges = law.isf(np.arange(1, n) / n)
    x = scale * n * np.diff(np.concatenate([[0.0], above(edges), [0.0]]))
    value, shortfall = measures.quantile(x, 0.99), measures.expected_shortfall(x, 0.99)
    assert value.value == pytest.approx(expected[0], abs=scale * 0.5 / n / law.pdf(law.isf(0.01)) * 1.1)
    assert shortfall.value == pytest.approx(expected[1], abs=1e-7)  # last printed digit
    assert value.low < expected[0] < value.high
    assert shortfall.low < expected[1] < shortfall.high


def test_small_samples_are_refused_with_a_reason():
    few = np.zeros(1000)
    few[:7] = 1.0
    one = np.ones(100)
    one[0] = 1000.0
    cases = {
        "only 7 of 1,000": [
            measures.mean(few),
            measures.expected_shortfall(few, 0.9),
            measures.ratio_of_means(few, few + 1),
        ],
        "one path carries 91%": [measures.mean(one)],
        "zero in all": [measures.mean(np.zeros(100))],
        "the same in all": [measures.mean(np.full(100, 2.5))],
        "are needed": [measures.quantile(np.arange(100.0), 0.999)],
        "not finite": [measures.mean([1.0, np.nan]), measures.quantile([np.inf, 1.0], 0.5)],
    }
    for reason, estimates in cases.items():
        for estimate in estimates:
            assert reason in estimate.note
            assert np.isnan([estimate.std_error, estimate.low, estimate.high]).all()


def test_axioms_of_expected_shortfall():
    """Monotone, cash-invariant, homogeneous, convex, above the quantile, and the mean as the level goes to zero."""
    rng = np.random.default_rng(7)
    x, y = rng.exponential(size=1000), rng.lognormal(size=1000)

    def shortfall(losses, level=0.95):
        return measures.expected_shortfall(losses, level).value

    assert shortfall(x + y) <= shortfall(x) + shortfall(y)
    assert shortfall(np.maximum(x, y)) >= shortfall(x)
    assert shortfall(x + 3.0) == pytest.approx(shortfall(x) + 3.0, rel=1e-12)
    assert shortfall(3.0 * x) == pytest.approx(3.0 * shortfall(x), rel=1e-12)
    assert shortfall(x) >= measures.quantile(x, 0.95).value
    assert shortfall(x, 1e-9) == pytest.approx(x.mean(), rel=1e-6)
    assert shortfall(x, 0.95) == pytest.approx(np.sort(x)[-50:].mean(), rel=1e-12)  # 50 whole values


def test_estimates_do_not_depend_on_precision_or_order():
    x = np.random.default_rng(9).exponential(size=2000).astype(np.float32)
    assert measures.mean(x) == pytest.approx(measures.mean(x.astype(float)))
    assert measures.quantile(x, 0.99) == measures.quantile(x[::-1], 0.99)


def test_wrong_arguments_name_themselves():
    for call in (lambda: measures.mean([1.0, 2.0], 95), lambda: measures.quantile([1.0, 2.0], 99)):
        with pytest.raises(ValueError, match="expected a number between 0 and 1"):
            call()
    with pytest.raises(ValueError, match="one Boolean per path"):
        measures.probability(np.ones(3))
    with pytest.raises(ValueError, match="same paths"):
        measures.ratio_of_means([1.0], [1.0, 2.0])
