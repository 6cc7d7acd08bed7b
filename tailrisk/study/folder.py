"""A run folder explains itself: resolved config, results, summary, figures; `run.json`, written last, means finished."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from .config import ConfigError


def write_atomic(path: Path, write: Any) -> None:
    """Writes a file whole or not at all: to a temporary name in the same folder, flushed, then renamed.

    **Raises:** `ConfigError` naming the folder when it cannot be written or is full.
    """
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ConfigError(f"{path}: cannot be written: {error.strerror}; free space or choose another --out") from None


def write_json(path: Path, value: Any) -> None:
    """Writes JSON with sorted keys; numbers that are not finite become null, which JSON can say."""
    text = json.dumps(_jsonable(value), indent=2, sort_keys=True) + "\n"
    write_atomic(path, lambda file: file.write(text.encode()))


def _jsonable(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_jsonable(item) for item in value]
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes a compressed-free `.npz` whole or not at all."""
    write_atomic(path, lambda file: np.savez(file, **arrays))


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Reads a `.npz` of arrays."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except Exception as error:  # a truncated or foreign file fails in many ways
        raise ConfigError(f"{path}: not a readable result file ({error}); delete it and resume the run") from None


def prepare_folder(folder: Path, resolved: str, resume: bool) -> None:
    """Makes the run folder, or takes up one that was started with the same resolved config."""
    config = folder / "config.toml"
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder}: is a file; choose another --out")
    if config.exists():
        if not resume:
            raise ConfigError(f"{folder}: already holds a run; add --resume to go on with it or choose another --out")
        if config.read_text("utf-8") != resolved:
            raise ConfigError(f"{config}: differs from the config given; resume with the same config and overrides")
        return
    if folder.is_dir() and any(folder.iterdir()):
        raise ConfigError(f"{folder}: is not empty and holds no run; choose another --out")
    try:
        (folder / "parts").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be made: {error.strerror}; choose another --out") from None
    write_atomic(config, lambda file: file.write(resolved.encode()))


def free_bytes(folder: Path) -> int:
    """Space left on the disk that will hold a folder."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def fresh_name(folder: Path) -> Path:
    """The folder, or the first of folder-2, folder-3, ... that does not exist yet."""
    candidate, number = folder, 1
    while candidate.exists():
        number += 1
        candidate = folder.with_name(f"{folder.name}-{number}")
    return candidate
