"""One leveraged long, one step: every derivative of its bad debt in closed form or by one integral.

With x ~ N(-s^2/2, s^2), s = v sqrt(dt), a long of q units with debt d per unit (prices in p0 = 1) is closed below
b = log d - log(1 - m), at the average price e^{x - k} of its own sale. Its bad debt is q (d - e^{x-k})+ for x < b.
"""

from itertools import pairwise

import jax.numpy as jnp
import numpy as np
from catalogue import GivenBook
from scipy import integrate, stats

from tailrisk import breaker, impact, margin, market, waterfall
from tailrisk._fields import SECONDS_PER_YEAR
from tailrisk.scenario import Scenario, SortedLadder

PRICE, UNITS, DEBT, MAINTENANCE, VOLATILITY, FUND = 100.0, 1e4, 0.93, 0.02, 0.95, 2e4
COEFFICIENT, DEPTH = 0.08, 1e4
STEP = 86400.0 / SECONDS_PER_YEAR  # a day
WIDTH = VOLATILITY * STEP**0.5


def scenario(**parts):
    """The account on a sorted ladder, with linear permanent impact."""
    default = {
        "market": market.GeometricBrownian(VOLATILITY),
        "book": GivenBook(np.array([UNITS]), np.array([UNITS * PRICE * (1.0 - DEBT)])),
        "margin": margin.Flat(MAINTENANCE, 0.03),
        "impact": impact.Linear(impact.ConstantDepth(DEPTH), COEFFICIENT, memory="inf y"),
        "price": [PRICE],
        "horizon": "1d",
        "step": "1d",
        "positions": SortedLadder(),
        "breaker": breaker.NoBreaker(),
        "waterfall": waterfall.Waterfall(fund=FUND, deleverage="none"),
    }
    return Scenario(**default | parts)


def fall(coefficient=COEFFICIENT):
    """k: log of the price over the average price of the sale."""
    law = impact.Linear(impact.ConstantDepth(DEPTH), coefficient, memory="inf y")
    return -float(law.fill(law.init(1, np.float64), jnp.asarray([UNITS]))[0])


def debt(x, maintenance=MAINTENANCE, coefficient=COEFFICIENT):
    """Bad debt (USD) at the log price x before the sale."""
    b = np.log(DEBT) - np.log(1.0 - maintenance)
    return UNITS * PRICE * np.maximum(DEBT - np.exp(x - fall(coefficient)), 0.0) * (x < b)


def mean(of=lambda loss: loss, volatility=VOLATILITY, maintenance=MAINTENANCE, coefficient=COEFFICIENT):
    """E of a function of the bad debt that is zero without debt, by quadrature between its kinks."""
    s, b = volatility * STEP**0.5, np.log(DEBT) - np.log(1.0 - maintenance)
    law = stats.norm(-0.5 * s * s, s)
    grid = np.linspace(-8.0 * s, b - 1e-12, 65)
    value = lambda x: of(debt(x, maintenance, coefficient)) * law.pdf(x)  # noqa: E731
    return sum(integrate.quad(value, low, high, epsabs=1e-9)[0] for low, high in pairwise(grid))


def slope(step, **of):
    """Derivative of `mean` in one number by its own small difference."""
    ((name, value),) = of.items()
    return lambda f=lambda loss: loss: (
        (mean(f, **{name: value + step}) - mean(f, **{name: value - step})) / (2.0 * step)
    )


def in_maintenance():
    """dE/dm = J phi(z_b) / (s (1 - m)), J the debt at the threshold."""
    b = np.log(DEBT) - np.log(1.0 - MAINTENANCE)
    return debt(b - 1e-13) * stats.norm(-0.5 * WIDTH**2, WIDTH).pdf(b) / (1.0 - MAINTENANCE)


def level_of(loss):
    """The log price at which the bad debt is `loss`."""
    return np.log(DEBT - loss / (UNITS * PRICE)) + fall()


def fund_runs_out():
    """P(bad debt > fund) and its derivative in the fund, minus the density of bad debt there."""
    x = level_of(FUND)
    law = stats.norm(-0.5 * WIDTH**2, WIDTH)
    return law.cdf(x), -law.pdf(x) / (UNITS * PRICE * (DEBT - FUND / (UNITS * PRICE)))


def value_at_risk(level):
    """VaR of bad debt and its derivative in volatility: debt falls with x, whose quantile is known."""
    z = stats.norm.ppf(1.0 - level)
    x = -0.5 * WIDTH**2 + WIDTH * z
    rises = -UNITS * PRICE * np.exp(x - fall()) * (z - WIDTH) * STEP**0.5
    return float(debt(x)), rises
