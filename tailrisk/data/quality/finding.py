"""Findings and the report that holds them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from ..._fields import InputError
from ..tables import AbstractTable


class Finding(NamedTuple):
    """One thing that is wrong, with how often and where first."""

    kind: str
    poisons: bool  # an estimate from this table would be wrong, not just less sharp
    count: int
    where: str  # file and row
    text: str

    def line(self) -> str:
        times = "" if self.count == 1 else f" ({self.count:,} in all)"
        return f"{self.where}: {self.kind}{times}: {self.text}"


class Report(NamedTuple):
    """What a table holds and what is wrong with it."""

    summary: str
    findings: tuple[Finding, ...]

    @property
    def poisons(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.poisons)

    def kinds(self) -> tuple[str, ...]:
        return tuple(finding.kind for finding in self.findings)

    def lines(self) -> list[str]:
        marks = {True: "refused", False: "note"}
        return [self.summary, *(f"{marks[finding.poisons]}: {finding.line()}" for finding in self.findings)]

    def refuse(self) -> None:
        """Raises InputError if the table would poison an estimate, with one line for each reason."""
        if self.poisons:
            raise InputError("\n".join(finding.line() for finding in self.poisons))


def found(
    kind: str,
    table: AbstractTable,
    where: Bool[np.ndarray, " rows"] | Int[np.ndarray, " places"],
    text: str,
    poisons: bool,
) -> Sequence[Finding]:
    """One finding about the rows that are marked, or listed; none if there are none."""
    places = np.flatnonzero(where) if where.dtype == bool else where
    if not places.size:
        return ()
    return (Finding(kind, poisons, int(places.size), table.source.where(int(places[0])), text),)
