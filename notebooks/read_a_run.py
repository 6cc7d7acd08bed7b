# %% [markdown]
# # What a run folder holds
#
# A thousand paths of the main job, and how to read what they left behind.

# %%
import tempfile
from pathlib import Path

import numpy as np

from tailrisk.figures import format_table
from tailrisk.study.folder import read_arrays, read_json
from tailrisk.study.run import execute, finish, load

ROOT = Path(__file__).resolve().parents[1]

# %%
folder = Path(tempfile.mkdtemp()) / "run"
study = load(ROOT / "configs" / "btc_perpetual.toml", ("run.paths=1024", "run.watch=64", "book.accounts=2000"))
summary = execute(study, folder)
finish(folder, study, summary)
print(sorted(file.name for file in folder.iterdir()))
print(format_table(summary))

# %% [markdown]
# `summary.json` has every metric with its standard error, 95 % interval and unit. A number without an interval has a
# note that says why.

# %%
metrics = read_json(folder / "summary.json")["metrics"]
for name in ("expected_bad_debt", "bad_debt_es_99", "amplification", "liquidated_share"):
    m = metrics[name]
    print(f"{name:<20}{m['value']:>14.5g} {m['unit']:<5}{m['ci95']}")

# %% [markdown]
# `results.npz` has one number per path and outcome. The same estimate from the paths themselves:

# %%
paths = read_arrays(folder / "results.npz")
debt = paths["path/bad_debt"].astype(float)
error = debt.std(ddof=1) / np.sqrt(debt.size)
print(f"expected bad debt {debt.mean():,.0f} ± {1.96 * error:,.0f} USD on {debt.size:,} paths")
assert np.isclose(debt.mean(), metrics["expected_bad_debt"]["value"], rtol=1e-6)

# %% [markdown]
# Money is conserved on every path, and a path that broke would be counted.

# %%
residual = np.abs(paths["path/ledger_residual"])
print("largest ledger residual", residual.max(), "of gross notional")
assert residual.max() < 1e-6
assert summary["flags"]["paths_not_finite"] == 0
