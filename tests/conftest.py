"""Tests run in double precision with strict promotion; float32 is tested by asking for it."""

import os
from pathlib import Path

import jax
import pytest
from jaxtyping import install_import_hook

# Annotated types and shapes are checked here and nowhere else; an int will do for a float. The hook must precede the first
# import of the package, and jaxtyping's own pytest option does not reach the workers of pytest-xdist.
install_import_hook("tailrisk", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

ROOT = Path(__file__).resolve().parents[1]


def data_folder() -> Path:
    """Where the market data lies: $TAILRISK_DATA, else ../shared/data beside the checkout."""
    return Path(os.environ.get("TAILRISK_DATA", ROOT.parent / "shared" / "data"))


@pytest.fixture
def market_data():
    """The folder of real market data, or a skip that says how to get it."""
    folder = data_folder()
    if not folder.is_dir():
        pytest.skip(f"market data not found in {folder}; set TAILRISK_DATA to a folder that holds it")
    return folder
