"""Truths simulated by the package's own laws are found again: self-exciting jumps, hidden regimes, stochastic volatility."""

import numpy as np
import pytest

from tailrisk import calibrate
from tailrisk.calibrate.heston import fit_heston
from tailrisk.calibrate.indirect import corrected
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
    """The law that drew a history is many errors from the filter's numbers and within 4 of the corrected ones, which say so."""
    truth = dict(rate=342.0, deviation=0.0064, mean=-0.00033, volatility=0.21, branching=0.968, memory=2.58 * HOUR)
    jumps = MertonJumps(rate=truth["rate"], mean=truth["mean"], deviation=truth["deviation"], most=16)
    market = Hawkes(
        jumps, volatility=truth["volatility"], branching=truth["branching"], memory=np.asarray(truth["memory"])
    )
    moves, _ = simulate(market, HOUR, 1, 20_000, seed=2)
    data = calibrate.of_moves(moves[0], HOUR)
    found = calibrate.fit(calibrate.HawkesFilter(most=24), data)
    right = corrected(found, data)
    off = {name: abs(found.values[name] - value) / found.estimates[name].std_error for name, value in truth.items()}
    assert min(off[name] for name in ("rate", "deviation", "memory")) > 4.0
    for name, value in truth.items():
        assert abs(right.values[name] - value) < 4.0 * right.estimates[name].std_error, name
        assert right.estimates[name].std_error < (0.6 if name == "mean" else 0.15) * abs(value), name
        assert "biased" in found.estimates[name].note
        assert not right.estimates[name].note


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
