"""The signs that a tool of policy must get right: what margins, delays, checks and halts do to expected bad debt.

Without impact the answer is a theorem: on a martingale, and with deficits at the horizon counted, a rule that closes
earlier on every path has lower or equal expected bad debt, because (p^B - S)^+ is a submartingale (optional sampling).
With impact there is no such law, and both signs must come out. All differences are between runs with the same noise,
with the standard error of the difference.
"""

from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from catalogue import GivenBook

from tailrisk import breaker, impact, liquidation, margin, market, oracle, waterfall
from tailrisk.clearing import Rounds
from tailrisk.scenario import Scenario, SortedLadder
from tailrisk.simulate import simulate

ACCOUNTS, PATHS = 400, 8192
NEVER = ("99.9%", "1h")


@cache
def bad_debt(
    *, rate=0.01, coefficient=0.0, memory="30min", delay=None, check=None, halt=NEVER, volatility=0.6, rounds=8
):
    """Bad debt by path as a share of open interest: a day of 10 min steps with jumps of -5 %, one a day.

    400 equal longs with equity of 8.5 to 30 % of notional; `coefficient` is the log fall if all of them are sold, and
    impact decays with `memory`. `halt` is the fall that trips a halt, once in the day, and how long it lasts.
    """
    mark = oracle.Spot()
    if delay is not None:
        mark = oracle.Lagged(delay, slots=18)
    elif check is not None:
        mark = oracle.Deviation(1e9, check)
    threshold, length = halt
    rule = breaker.Halt(float(threshold.rstrip("%")) / 100.0, length, cooldown="inf d")
    if delay is not None or check is not None:
        rule = breaker.NoBreaker()
    scenario = Scenario(
        market=market.JumpDiffusion(
            market.MertonJumps(rate=365.0, deviation=0.0, mean=float(np.log(0.95))), volatility
        ),
        book=GivenBook(np.full(ACCOUNTS, 1.0 / ACCOUNTS), 100.0 * np.linspace(0.085, 0.30, ACCOUNTS) / ACCOUNTS),
        margin=margin.Flat(rate, 0.08),
        impact=impact.Linear(impact.ConstantDepth(1.0), coefficient, memory=memory),
        price=[100.0],
        horizon="1d",
        step="10min",
        positions=SortedLadder(clearing=Rounds(rounds)),
        liquidation=liquidation.Full(0.0),
        oracle=mark,
        breaker=rule,
        waterfall=waterfall.Waterfall(deleverage="none"),
    )
    return simulate(scenario.build(np.float32), paths=PATHS, chunk=PATHS)["bad_debt"].astype(np.float64) / 100.0


def rise(before, after):
    """Mean change in standard errors, path by path."""
    change = after - before
    return change.mean() / (change.std(ddof=1) / np.sqrt(change.size))


WITHOUT_IMPACT = {
    "lower maintenance margin": [{"rate": rate} for rate in (0.08, 0.03, 0.01, 0.0025)],
    "longer delay of the oracle": [{"delay": delay} for delay in ("0s", "10min", "30min", "3h")],
    "rarer checks": [{"check": period} for period in ("10min", "30min", "2h", "12h")],
    "longer halt": [{}] + [{"halt": ("3%", length)} for length in ("1h", "2h", "4h")],
}


@pytest.mark.parametrize("name", WITHOUT_IMPACT)
def test_without_impact_closing_later_costs_more(name):
    """E[BD] rises at every step of the list: margins down, delay, check period (nested grids) and halts up.

    A volatility of 3, so that the day decides something beyond what the jumps do to every rule alike.
    """
    rows = [bad_debt(volatility=3.0, **row) for row in WITHOUT_IMPACT[name]]
    for before, after in pairwise(rows):
        assert rise(before, after) > 3.0


@pytest.mark.parametrize(("coefficient", "sign"), [(0.1, -1.0), (0.3, -1.0), (0.6, 1.0), (1.0, 1.0)])
def test_with_impact_more_margin_has_either_sign(coefficient, sign):
    """From 0.25 % to 8 % maintenance: weak impact lets margins protect, strong impact makes them feed the cascade.

    Permanent linear impact, one round a step: the venue sells what is in breach, looks at the price again, sells again.
    R = coefficient x density is .4, 1.3, 2.6 and 4.3 at the top of the book. The shape is asserted, not a calibration.
    Near R = 1 the sign also depends on how a cascade is executed: with eight rounds a step, all at one average price,
    who is sold first pays for those sold last, and at .3 higher margins raise bad debt as well.
    """
    rule = {"coefficient": coefficient, "memory": "inf y", "rounds": 1}
    low, high = (bad_debt(rate=rate, **rule) for rate in (0.0025, 0.08))
    assert sign * rise(low, high) > 3.0
    if coefficient == 0.1:
        assert high.mean() < 0.1 * low.mean()
    if coefficient == 1.0:
        assert high.mean() > 1.5 * low.mean()


BREAKERS = {
    "a wide halt while impact decays": (("15%", "1h"), "30min", -1.0),
    "the same halt where nothing recovers": (("15%", "1h"), "inf y", 1.0),
    "a tight halt while impact decays": (("2%", "2h"), "30min", 1.0),
    "a tight halt where nothing recovers": (("2%", "2h"), "inf y", 1.0),
}


@pytest.mark.parametrize("name", BREAKERS)
def test_a_halt_may_lower_or_raise_bad_debt(name):
    """A halt helps if it interrupts a cascade and prices recover meanwhile; otherwise it is a delay like any other.

    Linear impact of 30 % for the whole book. An hour's halt at -15 % cuts bad debt by about 40 % where impact decays in
    half an hour, and more than doubles it where impact is permanent; two hours at -2 % raise it by half.
    """
    halt, memory, sign = BREAKERS[name]
    without = bad_debt(coefficient=0.3, memory=memory)
    change = rise(without, bad_debt(coefficient=0.3, memory=memory, halt=halt))
    assert sign * change > 3.0
