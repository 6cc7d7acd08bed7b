"""Published figures: an experiment found by its name, its config, and the manifest that says how its numbers were made.

An experiment is one flat file NAME.py with a `Config`, `main(config, setting) -> curves`, `checks(curves)` and
`draw(curves)`, beside a config NAME.toml whose table [smoke] holds the numbers of a quick run. A replication also has
`card(curves)`: what was published beside what we find.
"""

import difflib
import functools
import hashlib
import importlib.util
import inspect
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import jax
import numpy as np

from .config import CONVERTER, ConfigError, dump, merge, read_toml, structure
from .observed import Claim, Curves, Row, status
from .provenance import commit, made_with

CONFIGS = Path("configs") / "figures"  # beside the folder of experiments
PRECISIONS = {"f32": np.dtype("float32"), "f64": np.dtype("float64")}
DRAWS = ("matplotlib", "pillow")  # what the bytes of a picture depend on
_REMEDY = "run it from a clone of the project, or give --experiments"


class NoDataFile(ConfigError):
    """A data file of an experiment is not there."""


class DataFile(NamedTuple):
    """A file that an experiment reads, under the folder of --data."""

    path: str
    licence: str
    date: str
    source: str


class Setting(NamedTuple):
    """How an experiment is run, whatever its config: seed, precision, folder of data, and whom to tell how it goes."""

    seed: int = 0
    dtype: Any = PRECISIONS["f64"]
    data: Path = Path("data")
    report: Callable[[str], None] = lambda text: None

    def need_double(self, why: str) -> None:
        """**Raises:** `ConfigError` unless the run is in double precision."""
        if np.dtype(self.dtype).itemsize < 8:
            raise ConfigError(f"--precision f32: {why}, expected double precision; use --precision f64")


class Experiment(NamedTuple):
    """A figure's name, its module, and its config file."""

    name: str
    module: ModuleType
    file: Path

    @property
    def question(self) -> str:
        """The first line of the docstring."""
        return (self.module.__doc__ or "").strip().partition("\n")[0]

    @property
    def story(self) -> list[str]:
        """What the docstrings say of the model, and of what is drawn: a line for each paragraph."""
        model = inspect.getdoc(self.module) or ""
        drawn = inspect.getdoc(self.module.draw) or ""
        return [" ".join(part.split()) for part in [*model.split("\n\n")[1:], *drawn.split("\n\n")]]

    @property
    def data(self) -> tuple[DataFile, ...]:
        """Files that are needed."""
        return tuple(getattr(self.module, "DATA", ()))

    def card(self, curves: Curves) -> list[Claim]:
        """What was published beside what we find, if this is a replication."""
        return list(self.module.card(curves)) if hasattr(self.module, "card") else []

    def cost(self, smoke: bool) -> str:
        """What the config says a run takes."""
        return str(read_toml(self.file).get("cost", {}).get("smoke" if smoke else "full", "not said"))

    def config(self, smoke: bool, **more: Any) -> Any:
        """The numbers of a run; `more` goes on top."""
        table = read_toml(self.file)
        table.pop("cost", None)
        quick = table.pop("smoke", {})
        return structure(merge(table, quick) | more if smoke else table | more, self.module.Config)


def names(folder: Path) -> list[str]:
    """Names of the figures of a folder of experiments.

    **Raises:** `ConfigError` if the folder holds no figures.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no folder of experiments here; {_REMEDY}")
    found = sorted(file.stem for file in (folder.parent / CONFIGS).glob("*.toml"))
    if not found:
        raise ConfigError(f"{folder.parent / CONFIGS}: no configs of figures here; {_REMEDY}")
    return [stem.replace("_", "-") for stem in found]


def find(name: str, folder: Path) -> Experiment:
    """The experiment of a figure.

    **Raises:** `ConfigError` naming the figures there are, or the file that is missing.
    """
    known = names(folder)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        raise ConfigError(
            f"{name}: no such figure" + (f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(known)}")
        )
    stem = name.replace("-", "_")
    file = folder / f"{stem}.py"
    if not file.is_file():
        raise ConfigError(f"{file}: the experiment of {name} is missing; {_REMEDY}")
    spec = importlib.util.spec_from_file_location(f"experiments.{stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return Experiment(name, module, folder.parent / CONFIGS / f"{stem}.toml")


def data_records(experiment: Experiment, folder: Path) -> list[dict[str, str]]:
    """Names, hashes, licences and dates of the data files of an experiment.

    **Raises:** `NoDataFile` for a file that is missing, with where to get it.
    """
    records = []
    for needed in experiment.data:
        file = folder / needed.path
        if not file.is_file():
            raise NoDataFile(f"{file}: {experiment.name} needs this file; get it from {needed.source} and give --data")
        records.append(needed._asdict() | {"sha256": hashlib.sha256(file.read_bytes()).hexdigest()})
    return records


def choose_device(device: str | None, precision: str) -> None:
    """Sets JAX up for a figure: double precision where asked for, and the first device of a kind.

    **Raises:** `ConfigError` if there is no such device.
    """
    if precision == "f64":
        jax.config.update("jax_enable_x64", True)
    if device is not None:
        try:
            jax.config.update("jax_default_device", jax.devices(device)[0])
        except RuntimeError:
            raise ConfigError(
                f"--device {device}: this machine has none; it has {', '.join({d.platform for d in jax.devices()})}"
            ) from None


def manifest(
    experiment: Experiment,
    config: Any,
    setting: Setting,
    *,
    command: str,
    smoke: bool,
    seconds: float,
    curves: Curves,
    data: list[dict[str, str]],
) -> dict[str, Any]:
    """Everything that says how the numbers of a figure were made."""
    return {
        "figure": experiment.name,
        "question": experiment.question,
        "command": command,
        "mode": "smoke" if smoke else "full",
        **made_with(),
        "clean": _is_clean(),
        "precision": setting.dtype.name,
        "seed": setting.seed,
        "config": CONVERTER.unstructure(config),
        "config_sha256": digest(config),
        "wall_seconds": round(seconds, 1),
        "paths": paths_of(curves),
        "data": data,
    }


def digest(config: Any) -> str:
    """Hash of a config as it would be written."""
    return hashlib.sha256(dump(config).encode()).hexdigest()


def paths_of(curves: Curves) -> dict[str, int]:
    """Most paths behind a point of each curve that is sampled."""
    return {"/".join(key): int(found.paths.max()) for key, found in curves.items() if found.paths.max(initial=0)}


def judgement(experiment: Experiment, curves: Curves, rows: list[Row]) -> dict[str, Any]:
    """Everything that says whether a figure is what it should be, and what judged and drew it."""
    worst = [row.deviation for row in rows if np.isfinite(row.deviation)]
    return {
        "status": status(rows),
        "max_deviation": max(worst, default=0.0) if len(worst) == len(rows) else None,
        "card": [claim._asdict() for claim in experiment.card(curves)],
        "drawn": {"commit": commit(), "clean": _is_clean(), **{name: version(name) for name in DRAWS}},
        "reference": [
            {
                "id": row.id,
                "expected": row.expected,
                "obtained": row.obtained,
                "tolerance": row.tolerance,
                "deviation/tolerance": row.deviation,
                "pass": row.passed,
                "provenance": row.provenance,
            }
            | ({"refused": row.refused} if row.refused else {})
            for row in rows
        ],
    }


@functools.cache
def _is_clean() -> bool | None:
    """Whether the checkout this package runs from held nothing that is not committed, if it runs from one.

    As it was when first asked: what a figure writes into the checkout later is not what it was made with.
    """
    try:
        out = subprocess.run(
            ["git", "status", "--porcelain"],
            cwd=Path(__file__).resolve().parent,
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return not out.stdout.strip()
