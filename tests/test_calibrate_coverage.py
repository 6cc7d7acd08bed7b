"""Whether the 95 % intervals of fitted laws hold what they say, over histories drawn by the laws themselves (slow).

`pytest -m slow -n 0 -s tests/test_calibrate_coverage.py` fits 200 histories of each law (100 of the slowest) and
prints a table; with TAILRISK_REPEATS=50 in the environment it is a quick one, with wider bands.
"""

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from scipy import stats

from tailrisk import calibrate
from tailrisk._fields import InputError
from tailrisk.calibrate.correlation import PairRegimes
from tailrisk.calibrate.heston import fit_heston
from tailrisk.calibrate.indirect import corrected
from tailrisk.calibrate.reproduce import news
from tailrisk.market import Hawkes, Heston, JumpDiffusion, KouJumps, MertonJumps, RegimeSwitching
from tailrisk.simulate import outcomes

pytestmark = pytest.mark.slow

REPEATS = int(os.environ.get("TAILRISK_REPEATS", "200"))
HOUR = 1.0 / 8760.0
_TOGETHER = 64  # histories


class Case(NamedTuple):
    """What draws histories of so many hours, what fits one (and its number), and the truths.

    `errors` bounds the mean standard error of each number, over the truth where that is not 0, so that wide intervals fail.
    """

    draw: Callable[[int, int], np.ndarray]
    fit: Callable[[calibrate.Returns, int], dict[str, Any]]
    hours: int
    truth: dict[str, float]
    errors: dict[str, float]
    repeats: int = REPEATS
    refused: float = 0.0  # share of histories that a fit may refuse
    known: dict[str, float] = {}  # noqa: RUF012  # coverage out of the band, as measured; see the docstring of the law


def drawn(market, substeps=1, before=0, seed=2_026, dtype=np.float64):
    """Histories of the first asset, or of all if there are several, each hour in `substeps`."""

    def draw(hours, repeats):
        system = news(market, HOUR / substeps, (before + hours) * substeps, dtype)
        parts = []
        for first in range(0, repeats, _TOGETHER):
            number = np.arange(first, min(first + _TOGETHER, repeats))
            _, (moves, _) = outcomes(system, seed, number, lanes=_TOGETHER, record=True)
            parts.append(
                np.asarray(moves, float).reshape(number.size, before + hours, substeps, -1).sum(axis=2)[:, before:]
            )
        return np.squeeze(np.concatenate(parts), axis=-1) if market.assets == 1 else np.concatenate(parts)

    return draw


def student_garch(truth, seed):
    """GARCH(1,1) with Student innovations, which has no market; started at the long run."""
    degrees, base = truth["degrees"], truth["volatility"] ** 2 * HOUR
    fresh = base * (1.0 - truth["reaction"] - truth["persistence"])

    def draw(hours, repeats):
        rng = np.random.default_rng(seed)
        shocks = rng.standard_t(degrees, (repeats, hours)) * np.sqrt((degrees - 2.0) / degrees)
        variance, out = np.full(repeats, base), np.empty((repeats, hours))
        for i in range(hours):
            out[:, i] = np.sqrt(variance) * shocks[:, i]
            variance = fresh + truth["reaction"] * out[:, i] ** 2 + truth["persistence"] * variance
        return out

    return draw


def likely(law):
    """Maximum likelihood."""
    return lambda data, number: calibrate.fit(law, data).estimates


def jumps(t, most):
    return MertonJumps(rate=t["rate"], mean=t["mean"], deviation=t["deviation"], most=most)


def only(t, *names):
    return {name: t[name] for name in names}


MERTON = dict(volatility=0.3, rate=2_600.0, deviation=0.012, mean=-0.002, drift=0.0)
KOU = dict(volatility=0.3, rate=3_000.0, up=0.4, up_mean=0.01, down_mean=0.014, drift=0.0)
GARCH = dict(volatility=0.5, reaction=0.1, persistence=0.85, degrees=4.5, mean=0.0)
LONG_GARCH = dict(volatility=0.5, reaction=0.09, persistence=0.9, degrees=4.0, mean=0.0)  # shocks last 100 hours
REGIMES = dict(
    volatility=0.25, crash_volatility=0.8, enter=150.0, leave=300.0, rate=1_200.0, calm_jumps=0.2, deviation=0.01, mean=-0.002,
    drift=0.0,
)  # fmt: skip
PAIR = dict(
    volatility_1=0.4, volatility_2=0.6, crash_volatility_1=1.2, crash_volatility_2=1.8, correlation=0.5,
    crash_correlation=0.9, correlation_rise=0.4, enter=170.0, leave=440.0,
)  # fmt: skip
HAWKES = dict(  # configs/markets
    volatility=0.21, rate=342.0, deviation=0.0064, mean=-0.00033, drift=0.0, branching=0.968, memory=2.58 * HOUR
)
HESTON = dict(long_variance=0.3, mean_reversion=60.0, vol_of_variance=5.0, leverage=-0.5)


def hawkes(data, number):
    """The filter, and then the numbers of the law under which it would end there."""
    return corrected(calibrate.fit(calibrate.HawkesFilter(most=24), data), data, seed=number).estimates


CASES = {
    "Merton": Case(
        drawn(JumpDiffusion(jumps(MERTON, 8), volatility=MERTON["volatility"]), seed=11, dtype=np.float32),
        likely(calibrate.Merton()), 8_000, MERTON,
        dict(volatility=0.02, rate=0.06, deviation=0.04, mean=0.2, drift=0.9),
    ),
    "Kou": Case(
        drawn(JumpDiffusion(KouJumps(**only(KOU, "rate", "up", "up_mean", "down_mean"), most=8), volatility=KOU["volatility"])),
        likely(calibrate.Kou()), 8_000, KOU,
        dict(volatility=0.02, rate=0.06, up=0.08, up_mean=0.08, down_mean=0.06, drift=1.2),
    ),
    "GarchT": Case(
        student_garch(GARCH, 11), likely(calibrate.GarchT()), 8_000, GARCH,
        dict(volatility=0.07, reaction=0.12, persistence=0.02, degrees=0.07, mean=1e-4),
    ),
    "GarchT with a long memory": Case(
        student_garch(LONG_GARCH, 2_026), likely(calibrate.GarchT()), 8_000, LONG_GARCH,
        dict(volatility=0.25, reaction=0.1, persistence=0.01, degrees=0.06, mean=1e-4),
        known=dict(volatility=0.86),
    ),
    "Regimes": Case(
        drawn(RegimeSwitching(
            jumps(REGIMES, 16), **only(REGIMES, "volatility", "crash_volatility", "enter", "leave", "calm_jumps")
        ), seed=11, dtype=np.float32),
        likely(calibrate.Regimes()), 20_000, REGIMES,
        dict(volatility=0.02, crash_volatility=0.04, enter=0.15, leave=0.15, rate=0.4, calm_jumps=0.4, deviation=0.1,
             mean=0.4, drift=0.4),
    ),
    "PairRegimes": Case(
        drawn(RegimeSwitching(
            MertonJumps(rate=0.0, deviation=0.01, most=1),
            volatility=[PAIR["volatility_1"], PAIR["volatility_2"]],
            crash_volatility=[PAIR["crash_volatility_1"], PAIR["crash_volatility_2"]],
            **only(PAIR, "correlation", "crash_correlation", "enter", "leave"),
        ), seed=11),
        likely(PairRegimes()), 8_000, PAIR,
        dict.fromkeys(PAIR, 0.05) | dict(enter=0.15, leave=0.15),
    ),
    "Heston": Case(
        drawn(Heston(initial_variance=HESTON["long_variance"], **HESTON), before=500),
        lambda data, number: fit_heston(data, seed=number).estimates, 20_000, HESTON,
        dict(long_variance=0.15, mean_reversion=0.4, vol_of_variance=0.15, leverage=0.4),
    ),
    "Hawkes": Case(
        drawn(Hawkes(
            jumps(HAWKES, 16), **only(HAWKES, "volatility", "branching"), memory=np.asarray(HAWKES["memory"])
        ), substeps=12),
        hawkes, 8_000, HAWKES,
        dict(volatility=0.03, rate=0.2, deviation=0.1, mean=1.0, drift=0.6, branching=0.02, memory=0.15),
        REPEATS // 2, refused=0.05, known=dict(branching=0.88),
    ),
}  # fmt: skip


class Row(NamedTuple):
    """Shares of histories whose interval covers the truth, is all above and all below it; the mean error over the truth (the
    mean error itself where that is 0), the mean error over the spread of the estimates, and their bias over that spread."""

    covered: float
    above: float
    below: float
    error: float
    honest: float
    bias: float


def estimates(case):
    """Value, error and interval of every number in every history; one that is refused has none and is counted apart."""
    found, refused = [], 0
    for number, moves in enumerate(case.draw(case.hours, case.repeats)):
        try:
            found.append(case.fit(calibrate.Returns(moves, np.ones(len(moves), bool), HOUR, "", ""), number))
        except InputError as error:
            refused += 1
            print(f"\nhistory {number}: {error}")
    assert refused <= case.refused * case.repeats
    return {name: np.array([one[name][:4] for one in found]).T for name in case.truth}


def coverage(case):
    """Rows by the name of a number."""
    rows = {}
    for name, (value, error, low, high) in estimates(case).items():
        truth = case.truth[name]
        above, below = float(np.mean(low > truth)), float(np.mean(high < truth))
        spread, mean = float(np.std(value, ddof=1)), float(np.mean(error))
        bias = float(np.mean(value) - truth) / spread
        rows[name] = Row(1.0 - above - below, above, below, mean / (abs(truth) or 1.0), mean / spread, bias)
    return rows


@pytest.mark.parametrize("name", CASES)
def test_intervals_cover(name):
    """Every number of a law: coverage, errors that are small, and errors that are the spread of the estimates."""
    case = CASES[name]
    rows, repeats = coverage(case), case.repeats
    print(f"\n{name}, {repeats} histories of {case.hours:,} hours")
    for key, row in rows.items():
        print(f"{key:20s}", *(f"{title} {value:6.3f}" for title, value in row._asdict().items()))
    assert set(rows) == set(case.errors)
    low, high = (0.90, 0.99) if repeats >= 200 else stats.binom.ppf((5e-4, 1.0 - 5e-4), repeats, 0.95) / repeats
    spread = 4.0 / np.sqrt(2.0 * repeats)  # four errors of a standard deviation
    for key, row in rows.items():
        middle = case.known.get(key)
        ends = (low, high) if middle is None else stats.binom.ppf((5e-4, 1.0 - 5e-4), repeats, middle) / repeats
        assert ends[0] <= row.covered <= ends[1], (key, row)
        assert row.error < case.errors[key], (key, row)
        assert key in case.known or 1.0 - spread < row.honest < 1.0 + spread, (key, row)
