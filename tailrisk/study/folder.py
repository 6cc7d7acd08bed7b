"""A run folder: resolved config, results, summary, figures; `run.json`, written last, means finished."""

import contextlib
import json
import os
import shutil
import tomllib
from collections.abc import Iterator
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
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise ConfigError(
            f"{path}: cannot be written: {error.strerror or error}; free space or choose another --out (a run that was "
            "started goes on with --resume)"
        ) from None


def write_json(path: Path, value: Any) -> None:
    """Writes JSON; numbers that are not finite become null, which JSON can say."""
    text = json.dumps(_jsonable(value), indent=2) + "\n"
    write_atomic(path, lambda file: file.write(text.encode()))


def write_text(path: Path, text: str) -> None:
    """Writes a text whole or not at all."""
    write_atomic(path, lambda file: file.write(text.encode()))


def read_json(path: Path) -> Any:
    """Reads JSON that this package wrote."""
    return json.loads(path.read_text("utf-8"))


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
    write_atomic(path, lambda file: np.savez(file, **dict[str, Any](arrays)))


def read_arrays(path: Path, remedy: str = "run the config again into another folder") -> dict[str, np.ndarray]:
    """Reads a `.npz` of arrays.

    **Raises:** `ConfigError` naming the file and the remedy if it is missing, truncated or something else.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except Exception as error:  # a truncated or foreign file fails in many ways
        raise ConfigError(f"{path}: not a readable result file ({error}); {remedy}") from None


def prepare_folder(folder: Path, resolved: str, resume: bool) -> None:
    """Makes the run folder, or takes up one that was started with the same resolved config.

    **Raises:** `ConfigError` if the folder is in use or cannot be made; then nothing is left behind.
    """
    config = folder / "config.toml"
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder}: is a file; choose another --out")
    if (folder / "run.json").exists():
        raise ConfigError(f"{folder}: holds a finished run, `tailrisk report {folder}` shows it; choose another --out")
    if config.exists():
        if not resume:
            raise ConfigError(f"{folder}: already holds a run; add --resume to go on with it or choose another --out")
        same_config(config, resolved)
        return
    if resume:
        raise ConfigError(f"{folder}: holds no run to go on with (no config.toml); leave out --resume or mend --out")
    if folder.is_dir() and any(folder.iterdir()):
        raise ConfigError(f"{folder}: is not empty and holds no run; choose another --out")
    there = folder
    while not there.exists():
        there = there.parent
    made = folder.relative_to(there).parts
    try:
        (folder / "parts").mkdir(parents=True)
        write_atomic(config, lambda file: file.write(resolved.encode()))
    except (ConfigError, OSError) as error:
        shutil.rmtree(there / made[0] if made else folder / "parts", ignore_errors=True)
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{folder}: cannot be made: {error.strerror or error}; choose another --out") from None


def same_config(config: Path, resolved: str) -> None:
    """Refuses to go on with a run that was started with another config, naming the first key that differs."""
    try:
        old, new = tomllib.loads(config.read_text("utf-8")), tomllib.loads(resolved)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{config}: cannot be read ({error}); start again in another --out") from None
    for key, was, now in differences(old, new):
        raise ConfigError(
            f"{config}: differs from the config given: {key} was {was!r}, now {now!r}; resume with the same config and "
            "overrides, or choose another --out"
        )


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Dotted keys at which two configs differ, with the values of both."""
    for key in sorted(old.keys() | new.keys()):
        was, now = old.get(key), new.get(key)
        if isinstance(was, dict) and isinstance(now, dict):
            yield from differences(was, now, f"{prefix}{key}.")
        elif was != now:
            yield f"{prefix}{key}", was, now


def free_bytes(folder: Path) -> float:
    """Space left on the disk that will hold a folder; infinite where there is no disk to be full."""
    while not folder.exists():
        folder = folder.parent
    usage = shutil.disk_usage(folder)
    return usage.free if usage.total else float("inf")


def fresh_name(folder: Path) -> Path:
    """The folder, or the first of folder-2, folder-3, ... that does not exist yet."""
    candidate, number = folder, 1
    while candidate.exists():
        number += 1
        candidate = folder.with_name(f"{folder.name}-{number}")
    return candidate
