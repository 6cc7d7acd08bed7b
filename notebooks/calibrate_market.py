# %% [markdown]
# # What law do Bitcoin's hours follow?
#
# Two laws are fitted to hourly returns and judged by what they leave unexplained: independent jumps (Merton) and
# volatility that clusters (GARCH with Student innovations). Set `TAILRISK_DATA` to a folder with the hourly history
# of Binance; without it a simulated history stands in, whose law is known.

# %%
import os
from pathlib import Path

import jax
import numpy as np

from tailrisk import calibrate
from tailrisk.calibrate.goodness import quantile_plot
from tailrisk.calibrate.reproduce import measured, rows_of, simulate, statistics
from tailrisk.data.series import PriceFile
from tailrisk.market import Heston

jax.config.update("jax_enable_x64", True)
HOUR = 1.0 / 8760.0

# %%
file = (
    Path(os.environ.get("TAILRISK_DATA", "data")) / "long_history" / "binance_spot_BTCUSDT_1h_2017-08_2026-06.parquet"
)
if file.exists():
    data = calibrate.returns(PriceFile(file, start="2024-06-20T00:00:00", missing="mark"))
else:
    law = Heston(initial_variance=0.3, long_variance=0.3, mean_reversion=60.0, vol_of_variance=5.0)
    data = calibrate.of_moves(simulate(law, HOUR, 1, 17_520, seed=0, substeps=1)[0][0], HOUR)
print(f"{data.seen.sum():,} hourly returns, {data.start} to {data.end}")

# %% [markdown]
# Every number comes with a 95 % interval from standard errors that are robust to dependence within a month.

# %%
fits = {type(law).__name__: calibrate.fit(law, data) for law in (calibrate.Merton(), calibrate.GarchT())}
for name, found in fits.items():
    print(f"\n{name}: log likelihood {found.log_likelihood:.1f}")
    for key, e in found.estimates.items():
        print(f"  {key:<12}{e.value:>12.5g}   {e.low:.5g} to {e.high:.5g}  [{e.unit}]")

# %% [markdown]
# Under the right law the rank of every return is uniform, and nothing clusters. Independent jumps leave all the
# clustering there is; GARCH leaves little.

# %%
for name, found in fits.items():
    good = calibrate.goodness(found, data)
    left = ", ".join(f"{value:+.3f}" for value in good.left_over.values())
    print(
        f"{name:<8} distance {good.kolmogorov:.4f}, clustering left at 1, 6, 24 h: {left} (±{good.independent_error:.3f})"
    )
one = calibrate.contest(fits["GarchT"], fits["Merton"], data)
print(
    f"2 log likelihood ratio of GarchT over Merton: {one.statistic:.0f}, Vuong z = {one.z:.1f}, p = {one.p_value:.1g}"
)
assert one.z > 2.0

# %% [markdown]
# What a run would produce: the fitted jumps simulated in 5-minute steps with the package's own class, beside what
# happened.

# %%
real = measured(data, day=24, draws=50)
market = fits["Merton"].market
assert market is not None
rows, _ = simulate(market, data.every, 50, rows_of(data).shape[1], seed=0)
made = statistics(rows, day=24)
for key in ("interval loss 99.9%", "day loss 99.9%", "loss tail index", "autocorrelation 1"):
    print(f"{key:<22}{real[key].value:>9.4f} ({real[key].low:.4f} to {real[key].high:.4f})   Merton {made[key]:.4f}")
assert np.isfinite(quantile_plot(fits["Merton"], data)).all()
