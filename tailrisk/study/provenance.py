"""What numbers were made with: commit, versions, device."""

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax


def made_with() -> dict[str, Any]:
    """Commit, versions and device: what numbers were made with."""
    return {
        "commit": commit(),
        "versions": {name: version(name) for name in ("jax", "jaxlib", "equinox", "numpy")}
        | {"tailrisk": package_version()},
        "python": platform.python_version(),
        "device": str(jax.devices()[0].device_kind),
        "platform": jax.devices()[0].platform,
    }


def package_version() -> str:
    return version("tailrisk-jax")


def commit() -> str | None:
    """Commit of the checkout this package runs from, if it runs from one."""
    here = Path(__file__).resolve().parent
    try:
        out = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, timeout=5, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return out.stdout.strip()
