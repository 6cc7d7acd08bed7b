"""Selling one account at a time, in plain NumPy: what the sorted clearing must equal on every path."""

import numpy as np


def sequential(ladder, levels, *, rise=0.0):
    """Bad debt, fund income and accounts sold of one path of exogenous log prices; `rise` lifts all thresholds."""
    book = ladder.book
    debt = np.exp(book.entry) * (1.0 - book.initial_margin - ladder.initial_shift)
    breach = np.log(debt) - np.log(1.0 - ladder.maintenance) + rise
    order = sorted(range(debt.size), key=lambda i: -debt[i])
    sold, volume, prices, halt, bad_debt, income = 0, 0.0, [], 0, 0.0, 0.0
    for level in levels:
        new = []
        if halt > 0:
            halt -= 1
        else:
            highest = max(prices[-ladder.window :], default=-np.inf)
            while True:
                price = level - ladder.impact * volume**ladder.impact_exponent
                if price < highest - ladder.band:
                    halt = ladder.halt
                    break
                if sold == debt.size or not price < breach[order[sold]]:
                    break
                new.append(order[sold])
                volume += book.quantity[order[sold]]
                sold += 1
        log_price = level - ladder.impact * volume**ladder.impact_exponent
        for i in new:
            gap = book.quantity[i] * (debt[i] - np.exp(log_price))
            bad_debt += max(gap, 0.0)
            income += ladder.fee * max(-gap, 0.0)
        prices.append(log_price)
    return bad_debt, income, sold


def rounds(thresholds, volumes, impact, level, start, times):
    """Accounts sold after so many rounds of simultaneous sales at the price of the round before."""
    sold = start
    for _ in range(times):
        price = level - impact * volumes[sold]
        sold = max(sold, int(np.sum(thresholds > price)))
    return sold
