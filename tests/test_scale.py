"""The scaling report says what was measured."""

import json

import numpy as np
import pytest
from conftest import ROOT

from tailrisk.bench import scale, scale_report

FOLDER = ROOT / "docs" / "scaling"


def test_exponents_of_a_power_law():
    """cost = 3 n^1.5 with 1 % noise: the exponent within four of its errors, which are small; exact without noise."""
    n = np.repeat([10.0, 100.0, 1000.0], 5)
    exact = scale.fit(n, 3.0 * n**1.5)
    assert (exact["exponent"], exact["factor"]) == pytest.approx((1.5, 3.0))
    noisy = scale.fit(n, 3.0 * n**1.5 * np.exp(0.01 * np.random.default_rng(1).standard_normal(15)))
    assert noisy["std_error"] < 0.003
    assert abs(noisy["exponent"] - 1.5) < 4.0 * noisy["std_error"]
    assert scale.fit([1.0, 2.0, 4.0], [1.0, 3.0, 4.0])["std_error"] > 0.1  # what is no power law is in the error


def test_whole_runs_cost_a_start_and_then_so_much_a_path():
    """10 s and 2 microseconds a path, with 1 % noise."""
    sizes, rng = [10**5, 10**6, 10**7], np.random.default_rng(2)
    seconds = [[(10.0 + 2e-6 * n) * (1.0 + 0.01 * rng.standard_normal()) for _ in range(4)] for n in sizes]
    found = scale.whole_runs(sizes, seconds, [[10**9] * 4] * 3)
    assert found["time"]["std_error"] < 2e-8
    assert abs(found["time"]["per_path"] - 2e-6) < 4.0 * found["time"]["std_error"]
    assert found["time"]["fixed"] == pytest.approx(10.0, rel=0.05)
    assert found["memory"]["exponent"] == pytest.approx(0.0, abs=1e-12)


def test_calls_are_timed_in_turn():
    seen = []
    spent = scale.timed({size: lambda turn, size=size: seen.append((turn, size)) for size in (1, 2)}, 2)
    assert seen == [(0, 1), (0, 2), (1, 1), (1, 2), (2, 1), (2, 2)]
    assert [len(times) for times in spent.values()] == [2, 2]


def test_the_page_is_that_of_the_numbers():
    """`docs/scaling/scaling.md` from `scale.json`; the projection is the time of a path times 1e12."""
    found = json.loads((FOLDER / "scale.json").read_text())
    assert (FOLDER / "scaling.md").read_text() == scale_report.report(found)
    each = np.mean(found["sweeps"]["ladder"]["seconds"][-1])
    assert found["sweeps"]["ladder"]["size"][-1] == 20_000
    assert scale_report.projection(found)["core_hours"] == pytest.approx(each * 1e12 / 3600.0)
    assert scale_report.draw(found).axes[0].get_xscale() == "log"
