"""Many small accounts become the smooth ladder, and how fast."""

import numpy as np
import pytest
from catalogue import GivenBook

from tailrisk import impact, liquidation, margin, market, waterfall
from tailrisk.clearing import Exact, Rounds
from tailrisk.scenario import Scenario, SmoothLadder, SortedLadder
from tailrisk.simulate import simulate


def run(accounts, kernel, paths):
    """Bad debt of equal longs on the quantiles of equity 6 to 30 % of notional (uniform), share of open interest."""
    share = (np.arange(accounts) + 0.5) / accounts
    scenario = Scenario(
        market=market.GeometricBrownian(1.5),
        book=GivenBook(np.full(accounts, 1.0 / accounts), 100.0 * (0.06 + 0.24 * share) / accounts),
        margin=margin.Flat(0.01, 0.05),
        impact=impact.Linear(impact.ConstantDepth(1.0), 0.1, memory="inf y"),
        price=[100.0],
        horizon="1d",
        step="1h",
        positions=kernel,
        liquidation=liquidation.Full(0.0),
        waterfall=waterfall.Waterfall(deleverage="none"),
    )
    return simulate(scenario.build(np.float64), paths=paths, chunk=4096)["bad_debt"] / 100.0


@pytest.mark.slow
def test_accounts_approach_the_smooth_ladder_like_one_over_their_number():
    """|E[BD_N] - E[BD_smooth]| for N = 50, 100, 200, 400 accounts on the quantiles of its law: exponent about -1."""
    paths = 2**14
    smooth = run(200_000, SmoothLadder(cells=2**15, clearing=Rounds(40)), paths)
    numbers, gaps = np.array([50, 100, 200, 400]), []
    for accounts in numbers:
        change = run(int(accounts), SortedLadder(clearing=Exact()), paths) - smooth
        gap, error = abs(change.mean()), change.std(ddof=1) / np.sqrt(paths)
        assert error < 0.1 * gap
        gaps.append(gap)
    exponent = np.polyfit(np.log(numbers), np.log(gaps), 1)[0]
    assert -1.4 < exponent < -0.6, f"{exponent:.2f}: {gaps}"
