# %% [markdown]
# # The cheapest margins that keep bad debt small
#
# A small stressed market whose margins, halt and fund are tuned under a limit on expected bad debt, and a certificate
# on fresh paths.

# %%
import tempfile
from pathlib import Path

from tailrisk.figures import format_policy
from tailrisk.study import policy_file, tune
from tailrisk.study.folder import read_json

ROOT = Path(__file__).resolve().parents[1]
SMALL = ("tune.paths=1024", "tune.evaluations=20", "tune.audit_paths=0")

# %% [markdown]
# What is decided, what it costs and what must hold stand in the table `[tune]` of the config.

# %%
table, study, wanted = tune.load(ROOT / "tests" / "tune.toml", SMALL)
outcome = tune.execute(table, wanted, print)

# %%
with tempfile.TemporaryDirectory() as folder:
    out = Path(folder) / "policy"
    policy_file.write(out, study, outcome)
    found = read_json(out / "policy.json")
    print((out / "policy.toml").read_text()[:300])
print(format_policy(found))
print("certified:", outcome.certified)

# %% [markdown]
# A policy is called tuned only if its search converged and every limit holds on paths that no search has seen: the
# flag above is what decides the exit status of `tailrisk tune`.
