# %% [markdown]
# # How far does a forced sale move the price, and who may have to sell?
#
# Impact is measured on the signed flow of several markets before a crash; the book is what published facts leave
# open. Set `TAILRISK_DATA` for the markets of 10 October 2025; without it simulated markets with a known prefactor
# stand in.

# %%
import os
from pathlib import Path

import numpy as np

from tailrisk.calibrate.books import BookBelief, open_interest
from tailrisk.calibrate.impact import flow_impact, pool
from tailrisk.data.tables import Bars, Source
from tailrisk.study.bars import BarsFile

# %%
file = Path(os.environ.get("TAILRISK_DATA", "data")) / "oct2025" / "trades_1m_bars_2025-10-10_all.csv.gz"
names = ["DOGE-USD", "LINK-USD", "XLM-USD", "ADA-USD", "DOT-USD"]


def simulated(seed: int) -> Bars:
    """Two days of 15-minute bars whose returns are the root of their signed flow, prefactor 1, and noise."""
    rng, n = np.random.default_rng(seed), 192
    share = 0.01 * rng.standard_normal(n)
    move = 0.03 * np.sign(share) * np.sqrt(np.abs(share)) + 0.002 * rng.standard_normal(n)
    close, nothing = 100.0 * np.exp(np.cumsum(move)), np.full(n, np.nan)
    opening = np.concatenate([[100.0], close[:-1]])
    time = 1_700_000_100_000_000 + 900_000_000 * np.arange(n)
    source = Source(np.zeros(n, np.int64), np.arange(n), ("simulated",))
    volume = np.full(n, 1.0 / 96.0)
    sides = (np.maximum(opening, close), np.minimum(opening, close))
    return Bars(time, opening, *sides, close, volume, nothing, 0.5 * (volume + share), nothing, source)


def market(number: int) -> Bars:
    """Minutes of one market of 10 October 2025 up to the news of 20:50 UTC, or a simulated one."""
    if not file.exists():
        return simulated(number)
    where = {"exchange": "coinbase", "symbol": names[number]}
    columns = {"taker_sell_volume": "sell_volume"}
    return BarsFile(path=str(file), where=where, columns=columns, end="2025-10-10T20:50:00").read()


# %% [markdown]
# `r = Y sigma sign(Q) sqrt(|Q| / V)` over quarters of an hour, in each market's own volatility and volume. Flow
# follows the price as well as moving it, so Y bounds what flow does from above.

# %%
found = {name: flow_impact(market(i)) for i, name in enumerate(names)}
for name, one in found.items():
    p, e = one.prefactor, one.exponent
    print(
        f"{name:<10} Y {p.value:.2f} ({p.low:.2f} to {p.high:.2f}), exponent {e.value:.2f} ({e.low:.2f} to {e.high:.2f})"
    )
together = pool([one.prefactor for one in found.values()])
low, high = together.predicted
print(f"mean {together.mean.value:.2f} ± {1.96 * together.mean.std_error:.2f}; another market {low:.2f} to {high:.2f}")
assert 0.3 < together.mean.value < 2.0

# %% [markdown]
# Open interest of BTC perpetuals fell by about 50,000 BTC, 18.6 %, so it was 268,800 BTC before. Who held it at which
# leverage nobody published: a belief stays a distribution over books.

# %%
units, error = open_interest((50_000.0, 500.0), (0.186, 0.0005))
print(f"open interest {units:,.0f} ± {1.96 * error:,.0f} BTC")
belief = BookBelief(turnover=0.7)
books = [belief.draw(np.random.default_rng(i), 17e9) for i in range(500)]
notional = np.array([float(book.notional) for book in books])
high_leverage = np.array([np.asarray(book.weights)[-2:].sum() for book in books])
for label, x, scale in (("notional (1e9 USD)", notional, 1e-9), ("share at 20x and 50x", high_leverage, 1.0)):
    print(f"{label:<22}", np.round(scale * np.quantile(x, [0.05, 0.5, 0.95]), 3))
