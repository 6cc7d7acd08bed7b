"""Several processes, on one machine or on many, that make the paths of one run into a folder that all of them see.

Every process makes a share of the parts; the one with number 0 prepares the folder and draws the conclusions. Paths are functions
of their number and summaries merge in one order, so the bytes are those of one process.
"""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from . import parts
from .config import ConfigError
from .parts import Part

POLL = 0.5  # seconds between two looks at the folder
PATIENCE = 3_600  # seconds that a process waits at the end for the conclusions of process 0


def start(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Joins the other processes; what is None is found out by JAX on a cluster that it knows (Slurm, Open MPI, Kubernetes, TPU).

    **Raises:** `ConfigError` if it cannot be found out, or the others do not come.
    """
    try:
        jax.distributed.initialize(coordinator, processes, process, shutdown_timeout_seconds=PATIENCE)
    except (ValueError, RuntimeError) as error:
        raise ConfigError(
            f"the processes do not find each other ({str(error).splitlines()[0]}); give --coordinator HOST:PORT of process 0, "
            "--processes and --process to each of them"
        ) from None


@contextlib.contextmanager
def together() -> Iterator[None]:
    """What every process must be through, without an error, before any goes on."""
    failed: BaseException | None = None
    try:
        yield
    except Exception as error:
        failed = error
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        fine = multihost_utils.process_allgather(np.asarray(failed is None))
        if failed is None and not fine.all():
            which = ", ".join(str(i) for i in np.flatnonzero(~np.asarray(fine)))
            raise ConfigError(f"process {which} cannot go on; see what it said")
    if failed is not None:
        raise failed


def share(missing: list[Part]) -> list[Part]:
    """The parts of this process: neighbors, so that their summaries join."""
    here, count = jax.process_index(), jax.process_count()
    return missing[len(missing) * here // count : len(missing) * (here + 1) // count]


@contextlib.contextmanager
def noted(folder: Path) -> Iterator[None]:
    """Leaves a note for the others if the work inside ends with an error; a process that is killed is missed by JAX itself."""
    if jax.process_count() == 1:
        yield
        return
    note = folder / "parts" / f"stopped-{jax.process_index()}"
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            note.touch()
        raise


def clear(folder: Path) -> None:
    """Takes away the notes of an earlier attempt."""
    for note in (folder / "parts").glob("stopped-*"):
        note.unlink(missing_ok=True)


def wait(run: Any, folder: Path) -> None:
    """Until all parts of all processes are there. No collective of JAX waits longer than half an hour.

    **Raises:** `ConfigError` naming a process that has stopped.
    """
    while not (folder / "run.json").exists() and parts.to_do(run, folder):
        for note in (folder / "parts").glob("stopped-*"):
            which = note.name.removeprefix("stopped-")
            raise ConfigError(f"{folder}: process {which} has stopped; see what it said and go on with --resume")
        time.sleep(POLL)
