"""What a run keeps of its paths when they are too many to keep one by one, against the paths themselves."""

import functools
import itertools

import numpy as np
import pytest

from tailrisk.study import tally as tallies
from tailrisk.study.tally import COLUMNS, COUNTED, MEANS, section_sizes
from tailrisk.tails import binned, blocks, measures, summed
from tailrisk.tails.measures import SECTIONS
from tailrisk.tails.moments import Moments, moments_of, scaled

PATHS = 64 * 300 + 17  # the last block is short
OTHERS = ("peak_notional", "fund_depleted", "ledger_residual", "flag_unsettled", "flag_broken")
BIN = 2.0**-10  # width of a bin over its lower edge, at most


def outcomes(paths=PATHS, seed=3):
    """Columns of a run: heavy losses with an atom, falls that hang together, one column that is zero everywhere."""
    rng = np.random.default_rng(seed)
    out = {name: rng.exponential(size=paths).astype(np.float32) for name in (*MEANS, *OTHERS)}
    out["bad_debt"] = np.where(rng.random(paths) < 0.3, 1e5 * rng.pareto(2.5, paths), 0.0).astype(np.float32)
    out["news_fall"] = np.abs(0.02 * rng.standard_normal(paths)).astype(np.float32)
    out["market_fall"] = (out["news_fall"] * (1.0 + 0.3 * rng.random(paths))).astype(np.float32)
    out["adl_pnl"] = np.zeros(paths, np.float32)
    out["ledger_residual"] = (1e-7 * rng.standard_normal(paths)).astype(np.float32)
    out["flag_broken"] = np.zeros(paths, np.float32)
    out["flag_unsettled"] = np.floor(out["flag_unsettled"])
    return out


ALL = outcomes()


def cut(edges, order=None):
    """Summaries of the parts between the edges, joined in an order."""
    parts = [tallies.tally(a, {name: v[a:b] for name, v in ALL.items()}, 2e-7) for a, b in itertools.pairwise(edges)]
    return functools.reduce(tallies.merge, [parts[i] for i in (order or range(len(parts)))])


@pytest.fixture(scope="module")
def whole():
    return cut([0, PATHS])


def test_parts_in_any_order_have_the_bits_of_the_whole(whole, tmp_path):
    """Cut at uneven places between blocks, joined in a random order, one through a file: every number is the same."""
    rng = np.random.default_rng(5)
    edges = [0, *sorted(64 * rng.choice(np.arange(1, 300), 11, replace=False)), PATHS]
    again = cut([int(edge) for edge in edges], [int(i) for i in rng.permutation(len(edges) - 1)])
    np.savez(tmp_path / "part.npz", **tallies.to_arrays(again))
    with np.load(tmp_path / "part.npz") as file:
        again = tallies.from_arrays(dict(file))
    assert set(again.nodes) == set(whole.nodes)
    one, two = tallies.to_arrays(whole), tallies.to_arrays(again)
    assert one.keys() == two.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], two[name], err_msg=name)
    assert whole.moments.mean.tobytes() == again.moments.mean.tobytes()
    assert max(height for height, _ in whole.nodes) == 8  # 256 blocks are one node
    assert len(whole.nodes) < 10


def test_means_are_those_of_the_paths(whole):
    """Value, standard error, interval and note of every column, zero columns and scales included."""
    for place, name in enumerate(MEANS):
        moments = Moments(*(field[place] for field in whole.moments))
        unit = 1e-3 if name == "bad_debt" else 1.0
        found = summed.mean(scaled(moments, unit), bool(whole.positive[place]))
        wanted = measures.mean(ALL[name].astype(float) * unit)
        assert found.note == wanted.note
        np.testing.assert_allclose(found[:4], wanted[:4], rtol=1e-10, err_msg=name)
    adl = Moments(*(field[MEANS.index("adl_pnl")] for field in whole.moments))
    assert "zero in all" in summed.mean(adl, True).note


def test_moments_of_blocks_are_those_of_numpy():
    y = np.random.default_rng(6).normal(1e3, 1.0, (2, 1000))
    found, wanted = blocks.total(blocks.forest(blocks.block_moments(y), 0)), moments_of(y.T)
    for name in Moments._fields:
        rounding = 1e-9 if name in ("m3",) else 0.0  # of a third moment near zero
        np.testing.assert_allclose(getattr(found, name), getattr(wanted, name), rtol=1e-11, atol=rounding)


def test_a_ratio_from_moments_is_that_of_the_paths(whole):
    """The error is that of x - R y, a tenth of that of x, found from moments of the sum and the difference."""
    at = {name: Moments(*(field[i] for field in whole.moments)) for i, name in enumerate(COLUMNS)}
    names = ("market_fall", "news_fall", "falls_added", "falls_apart")
    found = summed.ratio_of_means(*(at[name] for name in names))
    wanted = measures.ratio_of_means(ALL["market_fall"], ALL["news_fall"])
    np.testing.assert_allclose(found[:4], wanted[:4], rtol=1e-7)
    assert found.std_error < 0.3 * float(at["market_fall"].std_error) / float(at["news_fall"].mean)
    nothing = summed.ratio_of_means(at["market_fall"], at["adl_pnl"], at["falls_added"], at["falls_apart"])
    assert "not far enough from zero" in nothing.note


@pytest.mark.parametrize("level", [0.5, 0.9, 0.99, 0.998])
def test_quantiles_and_shortfalls_within_a_bin(whole, level):
    """Value-at-risk within 2^-10, its interval no narrower and two bins wider at most; the shortfall within 1e-5."""
    debt, bins = ALL["bad_debt"].astype(float), whole.bins["bad_debt"]
    found, wanted = binned.quantile(bins, PATHS, level), measures.quantile(debt, level)
    assert found.value == pytest.approx(wanted.value, rel=BIN)
    assert found.std_error == pytest.approx(wanted.std_error, rel=0.02)
    assert wanted.low * (1.0 - BIN) <= found.low <= wanted.low
    assert wanted.high <= found.high <= wanted.high * (1.0 + BIN)
    assert found.note == (binned.NOTE if level > 0.7 else wanted.note)
    found = binned.shortfall(bins, PATHS, level, section_sizes(PATHS))
    wanted = measures.expected_shortfall(debt, level)
    assert found[:2] == pytest.approx(wanted[:2], rel=1e-3)
    assert found.value == pytest.approx(wanted.value, rel=1e-5)
    assert abs(found.low - wanted.low) + abs(found.high - wanted.high) < 2.0 * wanted.std_error  # other sections
    assert found.low < wanted.value - 1.5 * wanted.std_error
    assert found.high > wanted.value + 1.5 * wanted.std_error


def test_sections_are_a_tenth_each(whole):
    sizes = section_sizes(PATHS)
    assert sizes.size == SECTIONS
    assert sizes.sum() == PATHS
    assert np.ptp(sizes) <= 64
    section = np.arange(PATHS) // 64 % SECTIONS
    for i in range(SECTIONS):
        mine = ALL["bad_debt"][section == i]
        assert binned.ladder(whole.bins["bad_debt"], i).count.sum() == np.count_nonzero(mine)
        assert mine.size == sizes[i]


@pytest.mark.parametrize("name", COUNTED)
def test_bins_keep_counts_and_sums(whole, name):
    """All values are there, and their sum is exact although nobody added it up."""
    rungs, x = binned.ladder(whole.bins[name]), ALL[name].astype(float)
    assert rungs.above[-1] == np.count_nonzero(x)
    assert rungs.mean @ rungs.count == pytest.approx(x.sum(), rel=1e-12)
    assert np.all((rungs.high - rungs.low) <= BIN * rungs.low)
    assert np.all((rungs.low <= rungs.mean) & (rungs.mean <= rungs.high))


def test_what_few_losses_say(whole):
    """No loss, fewer than carry a shortfall, and more than float32 holds."""
    none = binned.quantile(binned.empty(), 1000, 0.9)
    assert none[:4] == (0.0, 0.0, 0.0, 0.0)
    assert none.note == measures.quantile(np.zeros(1000), 0.9).note
    sizes = section_sizes(1000)
    few = binned.count(np.array([1.0, 2.0]), np.array([0, 3]))
    assert "only 2 of 1,000 paths carry it" in binned.shortfall(few, 1000, 0.9, sizes).note
    assert binned.shortfall(few, 1000, 0.9, sizes).value == pytest.approx(3.0 / 1000 / 0.1)
    assert "too few" in binned.quantile(few, 20, 0.999).note
    assert binned.count(np.array([1e300, np.inf, np.nan, -1.0]), np.zeros(4, int)).key.size == 0
    same = binned.merge(whole.bins["bad_debt"], binned.empty())
    assert all(np.array_equal(a, b) for a, b in zip(same, whole.bins["bad_debt"], strict=True))


def test_the_worst_and_what_is_counted(whole):
    """Numbers of the largest losses, the first of equal ones; flags; a loss that is no number is named, not added."""
    order = np.argsort(-ALL["bad_debt"], kind="stable")[: tallies.WORST]
    np.testing.assert_array_equal(whole.worst_path, order)
    np.testing.assert_array_equal(whole.worst, ALL["bad_debt"][order])
    tied = ALL | {"bad_debt": np.minimum(ALL["bad_debt"], np.float32(5e4))}
    assert np.count_nonzero(tied["bad_debt"] == 5e4) > tallies.WORST
    order = np.argsort(-tied["bad_debt"], kind="stable")[: tallies.WORST]
    np.testing.assert_array_equal(tallies.tally(0, tied, 2e-7).worst_path, order)
    assert whole.counts["ledger_open"] == np.count_nonzero(np.abs(ALL["ledger_residual"]) > 2e-7) > 0
    assert whole.counts["bad"] == np.count_nonzero(ALL["bad_debt"])
    assert whole.residual == np.abs(ALL["ledger_residual"]).max()
    broken = {name: value[:128].copy() for name, value in ALL.items()}
    broken["bad_debt"][5] = broken["ledger_residual"][6] = np.nan
    found = tallies.tally(0, broken, 2e-7)
    assert found.broken[0] == 1
    assert np.isnan(found.residual)
    assert np.isnan(tallies.merge(tallies.tally(128, ALL, 2e-7), found).residual)
    assert np.isfinite(found.moments.mean).all()
