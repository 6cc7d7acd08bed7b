# %% [markdown]
# # How much of 10 October 2025 did forced sales make?
#
# Worlds are drawn from what was believed before the event (`configs/calibrate/events.toml`). In each, news stop
# before the worst bar and the cascade is played (forecast), and the real prices are taken apart (attribution).
# Nothing is tuned. Needs the bars of the event: set `TAILRISK_DATA`.

# %%
import dataclasses
import os
from pathlib import Path

import numpy as np

from tailrisk.study import calibrate
from tailrisk.study.events import measures_of, read, replay

ROOT = Path(__file__).resolve().parents[1]
folder = Path(os.environ.get("TAILRISK_DATA", ROOT.parent / "shared" / "data"))
DRAWS = 40

# %%
wanted = calibrate.load(ROOT / "configs" / "calibrate" / "events.toml").replay
assert wanted is not None
wanted = dataclasses.replace(wanted, draws=DRAWS)
event = next(one for one in wanted.events if one.name == "10 October 2025")
path = folder / "oct2025" / Path(event.bars.path).name
bars, marks = (dataclasses.replace(b, path=str(path.parent / Path(b.path).name)) for b in (event.bars, event.marks))
event = dataclasses.replace(event, bars=bars, marks=marks)
if path.exists():
    crash = read(event, wanted.hours)
    facts = measures_of(crash.log_price)
    print(f"before: volatility {crash.volatility:.3f} per root of a day, {crash.volume:,.0f} BTC a day")
    print(f"news until the onset, {5 * crash.onset} minutes: {-np.expm1(crash.log_price[: crash.onset].min()):.1%}")
    print({name: round(value, 3) for name, value in facts.items()})
    print(f"mark over last price at the end of a bar, at most: {crash.gap:.2%}")

    # %%
    played = replay(crash, wanted, seed=0)

    def spread(sample):
        return np.round(np.nanquantile(sample, [0.05, 0.5, 0.95]), 4)

    print("forecast, 5, 50 and 95 % of worlds")
    for name in ("drop", "rebound", "liquidated share", "mark above last"):
        print(f"  {name:<22}{spread(played.forecast[name])}")
    print("attribution")
    for name in ("liquidated share", "amplification", "part of the cascade"):
        print(f"  {name:<22}{spread(played.attribution[name])}")

    # %% [markdown]
    # The cascade that these books can make stops well before the real low: part of the fall after the onset was news,
    # or liquidity went further than believed. The share that the attribution closes by force is near the 18.6 % by
    # which open interest fell.

    # %%
    assert np.median(played.forecast["drop"]) < facts["drop"]
    assert 0.0 < np.median(played.forecast["mark above last"]) < crash.gap
    assert 0.05 < np.median(played.attribution["liquidated share"]) < 0.4
else:
    print(f"no bars at {path}; set TAILRISK_DATA to run this notebook")
