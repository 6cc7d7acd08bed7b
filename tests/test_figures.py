"""Figures and table of a run, from a small market whose losses are known functions of the price."""

import matplotlib
import numpy as np
import pytest
from scipy import stats

from tailrisk import figures
from tailrisk.figures import distributions, style

PATHS, STEPS, GROSS, FUND, SPOT = 3000, 24, 1e8, 1e5, 50_000.0
NAMES = ("price_fan", "loss_exceedance", "who_pays", "liquidation_map", "cascade_sizes", "bad_path")


def market(paths=PATHS, steps=STEPS):
    """Random walks; falls beyond 3 % force sales of 10 per unit of fall, beyond 6 % they leave bad debt."""
    news = np.cumsum(0.008 * np.random.default_rng(11).standard_normal((paths, steps)), axis=1)
    running = np.maximum(-np.minimum.accumulate(news, axis=1), 0.0)
    sold = GROSS * np.clip(10.0 * (running - 0.03), 0.0, 0.5)
    price = news - 1e-10 * sold
    debt = 0.2 * GROSS * np.maximum(running - 0.06, 0.0) ** 2
    fund = np.minimum(debt, FUND)
    steps_of = lambda total: np.diff(total, axis=1, prepend=0.0)  # noqa: E731
    final = debt[:, -1]
    bad = np.flatnonzero(final)
    per_path = {
        "bad_debt": final,
        "forced_notional": sold[:, -1],
        "peak_notional": steps_of(sold).max(axis=1),
        "news_fall": running[:, -1],
        "fund_paid": fund[:, -1],
        "backstop_paid": np.zeros(paths),
        "adl_pnl": 0.5 * (final - fund[:, -1]),
        "socialized_loss": 0.3 * (final - fund[:, -1]),
        "residual_loss": 0.2 * (final - fund[:, -1]),
    }
    results = {f"path/{name}": value for name, value in per_path.items()}
    levels = np.array([0.01, 0.25, 0.5, 0.75, 0.99])
    results |= {
        "time": np.arange(1.0, steps + 1),
        "price": np.array([SPOT]),
        "gross": np.asarray(GROSS),
        "fan/levels": levels,
        "fan/price": SPOT * np.exp(np.quantile(price, levels, axis=0)),
        "worst/path": np.argsort(-final)[:3],
        "worst/log_price": price[np.argsort(-final)[:3]],
    }
    if bad.size:
        one = bad[np.argsort(final[bad])[bad.size // 2]]
        results |= {
            "bad/path": np.asarray(one),
            "bad/log_price": price[one],
            "bad/log_news": news[one],
            "bad/log_mark": price[one],
            "bad/notional": steps_of(sold)[one],
            "bad/deficit": steps_of(debt)[one],
            "bad/fund": FUND - fund[one],
            "bad/halted": np.arange(steps) % 12 == 5,
        }
    grid = np.linspace(-0.5, 0.5, 101)
    for side, there in (("long", (grid < -0.03) & (grid > -0.08)), ("short", (grid > 0.05) & (grid < 0.2))):
        results[f"map/{side}"] = 10.0 * GROSS * there
        results[f"map/branching_{side}"] = 0.7 * there
    results["map/log_price"] = grid
    return results


def metric(value, low, high, unit, **more):
    return {"value": value, "std_error": 0.0, "ci95": [low, high], "unit": unit, **more}


SUMMARY = {
    "metrics": {
        "expected_bad_debt": metric(123_456.0, 120_000.0, 127_000.0, "USD"),
        "bad_debt_probability": metric(0.0421, 0.04, 0.0443, "1"),
        "fund_depletion_probability": metric(2.1e-5, 1.1e-5, 3.7e-5, "1"),
        "bad_debt_var_99": metric(20_000.0, 15_000.0, 26_000.0, "USD"),
        "bad_debt_es_99": metric(41_000.0, None, None, "USD", note="only 19 of 3,000 paths carry it, 25 are needed"),
        "amplification": metric(1.23456, 1.23, 1.24, "1"),
        "margin_cost": metric(0.125, 0.125, 0.125, "1"),
        "time_halted": metric(0.0, float("nan"), float("nan"), "min"),
    },
    "flags": {"unsettled_steps": 0, "paths_unsettled": 2},
    "ledger_residual": 1.5e-13,
    "paths": PATHS,
    "steps": STEPS,
    "seed": 0,
    "gross_notional": GROSS,
}


@pytest.fixture(scope="module")
def results():
    return market()


@pytest.fixture(scope="module")
def drawn(results, tmp_path_factory):
    return figures.draw_all(results, SUMMARY, tmp_path_factory.mktemp("figures"))


@pytest.mark.parametrize("name", NAMES)
def test_each_figure_is_written_twice_over(name, drawn):
    files = {file.name: file for file in drawn.files}
    assert drawn.notes == []
    assert len(files) == 2 * len(NAMES)
    assert files[f"{name}.pdf"].read_bytes().startswith(b"%PDF")
    assert files[f"{name}.png"].read_bytes().startswith(b"\x89PNG")


def test_redrawing_gives_the_same_bytes_whatever_the_settings(results, drawn, tmp_path):
    """No dates, no program names, and no leak of the caller's style into the figure or back."""
    with matplotlib.rc_context({"font.size": 20.0, "lines.linewidth": 9.0}):
        again = figures.draw_all(results, SUMMARY, tmp_path)
        assert matplotlib.rcParams["font.size"] == 20.0
    for first, second in zip(drawn.files, again.files, strict=True):
        assert first.read_bytes() == second.read_bytes(), first.name
        assert b"Matplotlib" not in first.read_bytes()


@pytest.mark.parametrize(
    "draw",
    [
        figures.draw_fan,
        figures.draw_exceedance,
        figures.draw_who_pays,
        figures.draw_liquidation_map,
        figures.draw_cascade_sizes,
        figures.draw_bad_path,
    ],
)
def test_axes_have_labels_and_units(draw, results):
    figure = draw(results, SUMMARY)
    assert figure.get_size_inches()[0] == style.COLUMN
    for axes in figure.axes:
        label = axes.get_ylabel()
        assert "(" in label or "number" in label, label
    assert "(" in figure.axes[-1].get_xlabel()


@pytest.mark.parametrize(
    ("draw", "group", "reason"),
    [
        (figures.draw_fan, "fan/", "no paths were watched"),
        (figures.draw_bad_path, "bad/", "no watched path had bad debt"),
        (figures.draw_liquidation_map, "map/", "no fixed liquidation prices"),
        (figures.draw_cascade_sizes, "path/peak", "path/peak_notional"),
        (figures.draw_who_pays, "path/news_fall", "path/news_fall"),
        (figures.draw_exceedance, "path/bad_debt", "path/bad_debt"),
    ],
)
def test_missing_results_are_named(draw, group, reason, results):
    left = {name: value for name, value in results.items() if not name.startswith(group)}
    with pytest.raises(figures.MissingData, match=reason):
        draw(left, SUMMARY)


def test_a_calm_run_draws_what_there_is(tmp_path):
    """Without a loss or a forced order, no interval and no summary: three figures less, three sentences more."""
    calm = {name: value for name, value in market(50).items() if not name.startswith("bad/")}
    calm |= {name: np.zeros_like(value) for name, value in calm.items() if name.startswith("path/")}
    files, notes = figures.draw_all(calm, {}, tmp_path)
    assert {file.stem for file in files} == {"price_fan", "liquidation_map"}
    assert len(notes) == 4
    assert all(note and note[-1] != "." for note in notes)


def test_exceedance_is_exact():
    """The curve of n exponential losses: j of n at the j-th largest, between its binomial limits, near exp(-x)."""
    sample = np.random.default_rng(4).exponential(size=2000)
    x, share, low, high = distributions.exceedance(np.concatenate([sample, np.zeros(2000)]))
    assert share == pytest.approx([np.count_nonzero(sample >= value) / 4000 for value in x])
    count = round(4000 * share[10])
    assert stats.binom.sf(count - 1, 4000, low[10]) == pytest.approx(0.025)
    assert stats.binom.cdf(count, 4000, high[10]) == pytest.approx(0.025)
    truth = 0.5 * np.exp(-x)
    assert np.mean((low <= truth) & (truth <= high)) > 0.8  # pointwise 95 %, points of one sample move together
    assert len(x) <= distributions.POINTS


def test_payers_add_up_to_the_whole(results):
    shares = figures.draw_who_pays(results, SUMMARY).axes[0]
    heights = {}
    for bar in shares.patches:
        heights.setdefault(round(bar.get_x(), 6), []).append(bar.get_height())
    assert len(heights) > 2
    assert [sum(stack) for stack in heights.values()] == pytest.approx([1.0] * len(heights))


def test_a_payer_unknown_to_the_results_is_shown(results):
    """What fund, backstop, winners and users leave of the bad debt is the venue's capital, not a gap."""
    less = results | {"path/residual_loss": np.zeros(PATHS)}
    figure = figures.draw_who_pays(less, SUMMARY)
    assert "venue capital" in [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1_234_567.0, "1.23M"),
        (999_999.0, "1M"),
        (-4200.0, "-4.2k"),
        (0.0, "0"),
        (12.34, "12.3"),
        (0.05, "0.05"),
        (3.2e-7, "3.20e-07"),
        (8.1e12, "8.1T"),
        (float("nan"), "n/a"),
    ],
)
def test_short_numbers(value, text):
    assert style.short_number(value) == text


def test_table():
    """Money with suffixes, shares in percent or basis points, digits as the interval allows, reasons below."""
    assert figures.format_table(SUMMARY).splitlines() == [
        "3,000 paths, 24 steps, 100M USD gross notional, seed 0",
        "metric                      value  95 % interval   unit",
        "----------------------------------------------------------",
        "expected_bad_debt            123k  120k to 127k    USD",
        "bad_debt_probability         4.21  4.00 to 4.43    %",
        "fund_depletion_probability  0.210  0.110 to 0.370  bp",
        "bad_debt_var_99             20.0k  15.0k to 26.0k  USD",
        "bad_debt_es_99              41.0k  -               USD (1)",
        "amplification               1.235  1.230 to 1.240",
        "margin_cost                  12.5  exact           %",
        "time_halted                     0  -               min",
        "(1) only 19 of 3,000 paths carry it, 25 are needed",
        "flag paths_unsettled: 2",
        "largest ledger residual: 1.5e-13 of gross notional",
    ]
