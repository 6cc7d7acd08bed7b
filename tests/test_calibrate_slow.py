"""Truths simulated by the package's own laws are found again: self-exciting jumps, hidden regimes, stochastic volatility."""

import numpy as np
import pytest

from tailrisk import calibrate
from tailrisk.calibrate.heston import fit_heston
from tailrisk.calibrate.indirect import indirect
from tailrisk.calibrate.reproduce import simulate
from tailrisk.market import Hawkes, Heston, MertonJumps, RegimeSwitching

HOUR = 1.0 / 8760.0
JUMPS = MertonJumps(rate=1_200.0, mean=-0.002, deviation=0.01, most=16)


@pytest.mark.slow
def test_regimes_are_found_again():
    """The filter of a hidden chain is exact when regimes switch between steps: every number within 4 errors."""
    truth = dict(volatility=0.25, crash_volatility=0.8, enter=150.0, leave=300.0, calm_jumps=0.2)
    moves, _ = simulate(RegimeSwitching(JUMPS, **truth), HOUR, 1, 60_000, seed=1, substeps=1)
    found = calibrate.fit(calibrate.Regimes(), calibrate.of_moves(moves[0], HOUR))
    for key, value in (truth | dict(rate=1_200.0, deviation=0.01)).items():
        estimate = found.estimates[key]
        assert abs(estimate.value - value) < 4.0 * estimate.std_error, key
        assert estimate.std_error < 0.25 * value, key


@pytest.mark.slow
def test_the_hawkes_filter_is_biased_and_indirect_inference_corrects_it():
    """Refits of histories simulated at the corrected point come nearer to the target than the first ones were."""
    memory = np.asarray(3.0 * HOUR)
    jumps = MertonJumps(rate=300.0, mean=0.0, deviation=0.008, most=16)
    moves, _ = simulate(Hawkes(jumps, volatility=0.3, branching=0.8, memory=memory), HOUR, 1, 20_000, seed=2)
    data = calibrate.of_moves(moves[0], HOUR)
    found = calibrate.fit(calibrate.HawkesFilter(most=24), data)
    assert 0.0 < found.estimates["branching"].std_error < 0.1
    assert abs(found.values["volatility"] - 0.3) < 0.1
    one = indirect(found, data, held=(3, 4), histories=2, rounds=1)
    three = indirect(found, data, held=(3, 4), histories=2, rounds=3)
    assert np.abs(three.gap).max() < 0.5 * np.abs(one.gap).max()
    np.testing.assert_array_equal(three.point[[3, 4]], found.point[[3, 4]])


@pytest.mark.slow
def test_stochastic_volatility_is_found_again():
    """Simulated moments of a Heston history: every number within 4 errors, and the moments agree."""
    truth = dict(long_variance=0.3, mean_reversion=60.0, vol_of_variance=5.0, leverage=-0.5)
    moves, _ = simulate(Heston(initial_variance=0.3, **truth), HOUR, 1, 60_000, seed=5, substeps=1)
    found = fit_heston(calibrate.of_moves(moves[0], HOUR), paths=64)
    for key, value in truth.items():
        estimate = found.estimates[key]
        assert abs(estimate.value - value) < 4.0 * estimate.std_error, key
        assert estimate.std_error < 0.5 * abs(value), key
    assert found.p_value > 1e-3
    assert found.market.assets == 1
