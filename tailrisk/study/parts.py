"""The paths of a run in parts on disk, so that a killed run goes on from what it has.

Numbers of the first paths are kept one by one (`run.rows`), a file for each part of `run.part` paths. Of all others a part leaves
a `Tally`; two neighbors of equal length are one file at once, so the folder holds some summaries for each binary digit of the
number of parts. A file says in its name which paths it holds. Which process makes a part changes no byte of what `gather` gives.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..scenario import VenueSystem
from ..simulate import LANES, simulate
from ..tails.moments import Moments, moments_of
from . import tally as tallies
from .config import ConfigError
from .folder import read_arrays, write_arrays
from .tally import LEDGER_TOLERANCE, Tally


class Part(NamedTuple):
    """Paths `first` to `last` - 1 of a draw of the book."""

    draw: int
    first: int
    last: int

    def rows(self, folder: Path) -> Path:
        """Where numbers of these paths are kept one by one."""
        return folder / "parts" / f"{self.draw:04d}-{self.first:012d}.npz"

    def summary(self, folder: Path) -> Path:
        """Where a summary of these paths is kept."""
        return folder / "parts" / f"tally-{self.draw:04d}-{self.first:012d}-{self.last:012d}.npz"


def kept(run: Any) -> int:
    """Paths of each draw whose numbers are kept one by one: all, or whole parts from the first on."""
    if run.paths * run.books <= run.rows:
        return run.paths
    size = part_size(run)
    return min(run.paths, size * -(-(run.rows // run.books) // size))


def part_size(run: Any) -> int:
    """Paths of a part: whole batches, which are whole blocks."""
    return LANES * -(-run.part // LANES)


def all_parts(run: Any) -> list[Part]:
    """The parts of a run, in order."""
    size = part_size(run)
    return [
        Part(draw, first, min(first + size, run.paths))
        for draw in range(run.books)
        for first in range(0, run.paths, size)
    ]


def on_disk(run: Any, folder: Path) -> tuple[list[Part], list[Part]]:
    """Parts whose rows are there, and what summaries there are, without those that a longer one holds as well."""
    rows = [part for part in all_parts(run) if part.first < kept(run) and part.rows(folder).exists()]
    numbers = [file.stem.split("-")[1:] for file in (folder / "parts").glob("tally-*.npz")]
    found: list[Part] = []
    for part in sorted((Part(*map(int, three)) for three in numbers), key=lambda p: (p.draw, p.first, -p.last)):
        if not found or (part.draw, part.last) > (found[-1].draw, found[-1].last):
            found.append(part)
    return rows, found


def to_do(run: Any, folder: Path) -> list[Part]:
    """Parts that are not on disk."""
    rows, summaries = on_disk(run, folder)
    done, size = set(rows), part_size(run)
    for held in summaries:
        firsts = range(held.first, held.last, size)
        done |= {Part(held.draw, first, min(first + size, held.last)) for first in firsts}
    return [part for part in all_parts(run) if part not in done]


def work(
    run: Any,
    parts: list[Part],
    system_of: Callable[[int], VenueSystem],
    chunk: int,
    folder: Path,
    report: Callable[[Moments], None],
) -> None:
    """Makes the parts and leaves their files; `report` is told the moments of the bad debt of every chunk."""
    last: tuple[int, VenueSystem] | None = None
    stack: list[tuple[Part, Tally]] = []
    for part in parts:

        def progress(result: dict[str, np.ndarray]) -> None:
            report(moments_of(result["bad_debt"]))

        if last is None or last[0] != part.draw:
            last = part.draw, system_of(part.draw)
        size = part.last - part.first
        made = simulate(last[1], paths=size, first=part.first, seed=run.seed, chunk=chunk, progress=progress)
        if part.first < kept(run):
            write_arrays(part.rows(folder), made)
        else:
            summary = tallies.tally(part.first, made, LEDGER_TOLERANCE[run.precision])
            stack = _push(stack, part, summary, folder)


def _push(stack: list[tuple[Part, Tally]], part: Part, summary: Tally, folder: Path) -> list[tuple[Part, Tally]]:
    """The summaries of this process after one more: equal neighbors become one, as in a binary counter."""
    old = []
    while stack:
        left, other = stack[-1]
        if left.draw != part.draw or left.last != part.first or left.last - left.first != part.last - part.first:
            break
        part, summary = Part(part.draw, left.first, part.last), tallies.merge(other, summary)
        old.append(left)
        stack = stack[:-1]
    write_arrays(part.summary(folder), tallies.to_arrays(summary))
    for left in old:
        left.summary(folder).unlink()
    return [*stack, (part, summary)]


def gather(run: Any, folder: Path) -> tuple[list[Tally], dict[str, np.ndarray]]:
    """The summary of each draw of the book, and the rows that are kept, with their `book`."""
    rows, summaries = on_disk(run, folder)
    found: dict[int, Tally] = {}
    columns: list[dict[str, np.ndarray]] = []

    def add(draw: int, one: Tally) -> None:
        found[draw] = tallies.merge(found[draw], one) if draw in found else one

    for part in rows:
        stored = _stored(part.rows(folder), part.last - part.first, columns)
        add(part.draw, tallies.tally(part.first, stored, LEDGER_TOLERANCE[run.precision]))
        columns.append(stored | {"book": np.full(part.last - part.first, part.draw, np.int32)})
    for held in summaries:
        add(held.draw, read_summary(held, folder))
    joined = {name: np.concatenate([part[name] for part in columns]) for name in (columns[0] if columns else {})}
    return [found[draw] for draw in range(run.books)], joined


def already(run: Any, folder: Path) -> Iterator[Moments]:
    """Moments of the bad debt of what an earlier attempt left."""
    rows, summaries = on_disk(run, folder)
    known: list[dict[str, np.ndarray]] = []
    for part in rows:
        stored = _stored(part.rows(folder), part.last - part.first, known)
        known = known or [stored]
        yield moments_of(stored["bad_debt"])
    for held in summaries:
        yield Moments(*(field[0] for field in read_summary(held, folder).moments))


def read_summary(part: Part, folder: Path) -> Tally:
    """A summary of an earlier attempt, if this version of the program has written it."""
    file, size = part.summary(folder), part.last - part.first
    arrays = read_arrays(file, "delete it and resume the run")
    try:
        one = tallies.from_arrays(arrays)
    except KeyError:
        one = None
    if one is None or one.paths != size:
        raise ConfigError(f"{file}: not a part of this run, expected a summary of {size} paths; delete it and resume")
    return one


def _stored(file: Path, size: int, parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """A part of an earlier attempt, if it holds what this version of the program writes."""
    part = read_arrays(file, "delete it and resume the run")
    wanted = parts[0].keys() - {"book"} if parts else part.keys()
    if part.keys() != wanted or "bad_debt" not in part or any(value.shape != (size,) for value in part.values()):
        raise ConfigError(
            f"{file}: not a part of this run, expected {size} paths of each outcome; delete it and resume"
        )
    return part
