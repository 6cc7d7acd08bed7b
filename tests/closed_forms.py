"""Expected bad debt where one or two accounts and one or two steps leave one-dimensional integrals."""

import numpy as np
from scipy.integrate import quad
from scipy.stats import norm

from tailrisk.gradients import Ladder, LadderBook, WalkLaw


def small(log_debt, quantity, *, deviation, steps=1, **numbers):
    """A ladder without jumps whose accounts owe exp(log_debt) per unit."""
    debt = np.exp(np.asarray(log_debt, float))
    margin = np.full(debt.size, 0.07)
    book = LadderBook(np.log(debt / (1.0 - margin)), margin, np.asarray(quantity, float))
    law = WalkLaw(deviation=deviation, jump_probability=0.0, sampling_probability=0.0)
    return Ladder(book, law, steps=steps, **numbers)


def one_account(q, debt, m, sigma, impact):
    """Value and derivatives in maintenance, initial shift (margin 7 %) and impact."""
    b, k = np.log(debt / (1.0 - m)), impact * q
    z, at = min(b, np.log(debt) + k) / sigma, b / sigma
    forward = np.exp(sigma**2 / 2.0 - k)
    jump = q * max(debt - np.exp(b - k), 0.0) * norm.pdf(at) / sigma
    mass = norm.cdf(z - sigma)
    return {
        "value": q * (debt * norm.cdf(z) - forward * mass),
        "maintenance": jump / (1.0 - m),
        "initial_shift": -(q * debt * norm.cdf(z) + jump) / (1.0 - 0.07),
        "impact": q**2 * forward * mass,
    }


def two_accounts(q, debt, m, sigma, impact):
    """Selling the first account takes the second with it."""
    q, debt = np.asarray(q), np.asarray(debt)
    first, k = np.log(debt[0] / (1.0 - m)), impact * q.sum()
    z = np.minimum(first, np.log(debt) + k) / sigma
    forward = np.exp(sigma**2 / 2.0 - k)
    jump = np.sum(q * np.maximum(debt - np.exp(first - k), 0.0))
    return {
        "value": np.sum(q * (debt * norm.cdf(z) - forward * norm.cdf(z - sigma))),
        "maintenance": jump * norm.pdf(first / sigma) / (sigma * (1.0 - m)),
    }


def two_accounts_apart(q, debt, m, sigma, impact):
    """Derivative in maintenance where the first sale leaves the second account alone: each threshold adds its own jump."""
    breach, fall = np.log(np.asarray(debt) / (1.0 - m)), impact * np.cumsum(q)
    levels = breach + np.append(0.0, fall[:1])

    def loss(level, sold):
        return sum(q[i] * max(debt[i] - np.exp(level - fall[sold - 1]), 0.0) for i in range(sold))

    jumps = [loss(level, k + 1) - loss(level, k) for k, level in enumerate(levels)]
    return np.dot(jumps, norm.pdf(levels, 0.0, sigma)) / (1.0 - m)


def two_steps_with_breaker(q, debt, m, sigma, impact, band):
    """One account, two steps, a breaker that never lets go: value, and derivatives in maintenance and band."""
    k = impact * q

    def loss(x):
        return q * max(debt - np.exp(x - k), 0.0)

    def density(x):
        return norm.pdf(x, 0.0, sigma)

    def interval(low, high, x):
        """Mean of the loss over low < y < high, y normal around x."""
        high = min(high, np.log(debt) + k)
        if high <= low:
            return 0.0
        a, b = (low - x) / sigma, (high - x) / sigma
        mass = norm.cdf(b) - norm.cdf(a)
        return q * (debt * mass - np.exp(x - k + sigma**2 / 2.0) * (norm.cdf(b - sigma) - norm.cdf(a - sigma)))

    def value(m):
        breach = np.log(debt / (1.0 - m))
        later = quad(lambda x: density(x) * interval(x - band, breach, x), breach, breach + band, epsabs=1e-14)[0]
        return interval(-np.inf, breach, 0.0) + later

    breach = np.log(debt / (1.0 - m))
    by_band = density(-band) * quad(lambda x: density(x) * loss(x - band), breach, breach + band, epsabs=1e-14)[0]
    h = 1e-5
    return {"value": value(m), "maintenance": (value(m + h) - value(m - h)) / (2 * h), "band": by_band}


def two_steps_beyond(v, q, debt, m, sigma, impact):
    """One account (margin 7 %), two steps, no breaker: P(L > v) for v above the loss at the threshold.

    And its derivatives in maintenance, initial shift, impact and v.
    """
    breach, k = np.log(debt / (1.0 - m)), impact * q
    c = np.log(debt - v / q) + k  # the level at which the loss is v
    assert c < breach

    def density(x):
        return norm.pdf(x, 0.0, sigma)

    # what two normal steps from above the threshold to c have in common is normal around c / 2
    def later(x):
        return norm.sf(breach, 0.5 * x, sigma / np.sqrt(2.0)) * norm.pdf(x, 0.0, sigma * np.sqrt(2.0))

    by_level = density(c) + later(c)
    by_breach = -density(breach) * norm.cdf((c - breach) / sigma)
    value = norm.cdf(c / sigma) + quad(later, -np.inf, c, epsabs=1e-14)[0]
    by_debt = by_level * debt / (debt - v / q) + by_breach
    return {
        "value": value,
        "maintenance": by_breach / (1.0 - m),
        "initial_shift": -by_debt / (1.0 - 0.07),
        "impact": by_level * q,
        "v": -by_level / (q * debt - v),
    }
