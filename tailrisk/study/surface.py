"""Cost and risk over a grid of two numbers around a policy, such as the trigger and the length of a halt.

A breaker that is never tried elsewhere than where a search left it proves nothing: the grid shows what it does. Every cell is
on the noise of the policy, so differences from it are paired.
"""

import copy
import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import equinox as eqx
import numpy as np

from .._fields import InputError, count
from ..leaves import with_parameters
from ..policy import Policy, Problem, Stream
from ..policy.problem import WEIGHT, outcomes
from .config import ConfigError, apply_override
from .run import from_table
from .venue import LANES, HardVenue, Held

ROOT = "policy/surface"


class Surface(eqx.Module):
    """Two dotted keys of the scenario and the values of each, as in a config."""

    rows: str = ""
    columns: str = ""
    row_values: tuple[Any, ...] = eqx.field(converter=tuple, default=())
    column_values: tuple[Any, ...] = eqx.field(converter=tuple, default=())
    paths: int = count(4_096, least=1_024)

    def check(self) -> Iterator[tuple[str, str]]:
        if bool(self.rows) != bool(self.row_values) or bool(self.columns) != bool(self.column_values):
            yield "rows", "give a key and its values for both rows and columns, or none of them"
        elif bool(self.rows) != bool(self.columns):
            yield "columns", "give two keys, or none"


class Cell(NamedTuple):
    """One place of the grid: cost, and every constrained quantity less that of the policy, with paired standard errors."""

    row: Any
    column: Any
    cost: float
    cost_error: float
    apart: tuple[float, ...]
    apart_error: tuple[float, ...]


def scan(
    table: dict[str, Any], problem: Problem, policy: Policy, wanted: Any, report: Callable[[str], None]
) -> tuple[Cell, ...]:
    """All cells of `wanted.surface`; the cost is that above the policy's."""
    grid, began = wanted.surface, time.monotonic()
    if not grid.rows:
        return ()
    stream = Stream(ROOT, wanted.seed, grid.paths, max(LANES, grid.paths))
    others = {name: value for name, value in policy.parameters.items() if name not in (grid.rows, grid.columns)}

    def seen(scenario: Any, parameters: Any) -> tuple[np.ndarray, np.ndarray]:
        there = dataclasses.replace(problem, hard=HardVenue(Held(scenario)))
        drawn = outcomes(there, parameters, stream)
        cost = sum((float(p) * drawn[n] for n, p in problem.cost.items()), np.zeros_like(drawn[WEIGHT]))
        pairs = zip(problem.constraints, policy.levels, strict=True)
        return cost, np.array([c.exact(drawn[c.outcome], drawn[WEIGHT], float(t)) for c, t in pairs])

    here = seen(with_parameters(from_table(table).scenario, policy.parameters), {})
    root, cells = np.sqrt(grid.paths), []
    for row in grid.row_values:
        for column in grid.column_values:
            cost, carried = seen(with_parameters(cell_of(table, grid, row, column), others), {})
            cost, carried = cost - here[0], carried - here[1]
            cells.append(
                Cell(
                    row,
                    column,
                    float(cost.mean()),
                    float(cost.std(ddof=1)) / root,
                    tuple(carried.mean(axis=1).tolist()),
                    tuple((carried.std(axis=1, ddof=1) / root).tolist()),
                )
            )
    report(f"surface: {len(cells)} cells of {grid.paths:,} paths, {time.monotonic() - began:.0f} s")
    return tuple(cells)


def cell_of(table: dict[str, Any], grid: Surface, row: Any, column: Any) -> Any:
    """The scenario of the config with the two values of a cell.

    **Raises:** `ConfigError` naming the cell whose values do not make a scenario.
    """
    table = copy.deepcopy(table)
    try:
        for key, value in ((grid.rows, row), (grid.columns, column)):
            apply_override(table, f'{key}="{value}"' if isinstance(value, str) else f"{key}={value!r}")
        return from_table(table).scenario
    except InputError as error:
        raise ConfigError(f"tune.surface: {grid.rows} = {row}, {grid.columns} = {column}: {error}") from None


def as_json(cells: tuple[Cell, ...], grid: Surface, names: list[str]) -> dict[str, Any] | None:
    """The grid in plain numbers."""
    if not cells:
        return None
    return {
        "rows": grid.rows,
        "columns": grid.columns,
        "paths": grid.paths,
        "cells": [
            {"row": cell.row, "column": cell.column, "cost": cell.cost, "cost_error": cell.cost_error}
            | {
                name: {"apart": apart, "std_error": error}
                for name, apart, error in zip(names, cell.apart, cell.apart_error, strict=True)
            }
            for cell in cells
        ],
    }
