"""Notebooks run from top to bottom; what they claim they assert."""

import os
import subprocess
import sys

import pytest
from conftest import ROOT, data_folder

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_runs(path, tmp_path):
    """In a process and a folder of its own, as a reader would."""
    where = {"TAILRISK_DATA": str(data_folder()), "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, str(path)], cwd=tmp_path, env=os.environ | where, capture_output=True, text=True, timeout=900
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout


def test_notebooks_are_text():
    """Percent cells that begin with a title, and no stored outputs."""
    assert len(NOTEBOOKS) == 5
    assert not list((ROOT / "notebooks").glob("*.ipynb"))
    for path in NOTEBOOKS:
        assert path.read_text("utf-8").startswith("# %% [markdown]\n# # ")
