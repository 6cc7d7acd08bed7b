"""Stages of long work, each kept when it is done, so that work which was stopped goes on where it was."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from .config import ConfigError
from .folder import read_json, write_atomic, write_json
from .provenance import made_with

_KNOWN = ("tailrisk", "numpy", "jax", "jaxlib", "equinox")  # packages whose types a result is made of

Result = TypeVar("Result")


class Stages:
    """Results in a folder, one file a stage; without a folder nothing is kept.

    **Raises:** `ConfigError` when the folder was begun by other code or on another device, whose results may differ.
    """

    def __init__(self, folder: Path | None = None):
        self.folder = folder
        if folder is None:
            return
        file, here = folder / "made.json", made_with()
        if not file.exists():
            write_json(file, here)
            return
        for name, was in read_json(file).items():
            if was != here.get(name):
                raise ConfigError(
                    f"{folder.parent}: was begun with {name} {was}, this is {here.get(name)}; go on with the same, or choose "
                    "another --out"
                )

    def __call__(self, name: str, work: Callable[[], Result]) -> Result:
        """The result of a stage: kept from before, or made and kept now."""
        if self.folder is None:
            return work()
        file = self.folder / f"{name}.pickle"
        if file.exists():
            return _read(file)
        result = work()
        write_atomic(file, lambda out: pickle.dump(result, out))
        return result


class _Reader(pickle.Unpickler):
    """Makes nothing but what results are made of, so that a file from elsewhere cannot run other code."""

    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] not in _KNOWN:
            raise pickle.UnpicklingError(f"{module}.{name} is no part of a result")
        return super().find_class(module, name)


def _read(file: Path) -> Any:
    try:
        with open(file, "rb") as stored:
            return _Reader(stored).load()
    except Exception as error:  # a truncated or foreign file fails in many ways
        raise ConfigError(f"{file}: not a readable result ({error}); delete it and resume") from None
