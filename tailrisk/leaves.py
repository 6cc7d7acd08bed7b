"""Numbers of a scenario by dotted key: what they are now, and the scenario with others in their place.

A key is that of a config file, `market.jumps.rate` or `breaker.breakers.0.threshold`; a last whole number picks an entry of
a list, counted from 0: `margin.maintenance_rates.2`. `initial_rates` stands for the reciprocal of `max_leverage`: what a
tier asks for when a position is opened.
"""

import dataclasses
import difflib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ._fields import Bounds, InputError

INITIAL, LEVERAGE = "initial_rates", "max_leverage"
Tree = TypeVar("Tree", bound=eqx.Module)


class Leaf(NamedTuple):
    """A number, or a table of numbers, of a scenario: how it is reached, its value there, and what its field says."""

    path: tuple[str | int, ...]  # names of fields and places in tuples
    entry: tuple[int, ...] | None  # place in a table
    reciprocal: bool
    value: Any
    unit: str
    bounds: Bounds
    whole: bool  # a count, which shapes the program and cannot be traced


def find(scenario: eqx.Module, key: str) -> Leaf:
    """Where a dotted key leads.

    **Raises:** `InputError` if it leads to no number, with the nearest name that does.
    """
    here, path, unit, bounds = scenario, [], "1", Bounds()
    names = key.split(".")
    reciprocal = False
    while names and isinstance(here, eqx.Module | tuple):
        name, so_far = names.pop(0), ".".join(map(str, path))
        if isinstance(here, tuple):
            path.append(_place(name, len(here), so_far, key))
            here = here[path[-1]]
            continue
        fields = {field.name: field for field in dataclasses.fields(here)}
        reciprocal = name == INITIAL and LEVERAGE in fields
        name = LEVERAGE if reciprocal else name
        if name not in fields:
            raise InputError(_unknown(key, name, so_far, here))
        path.append(name)
        here = getattr(here, name)
        unit = fields[name].metadata.get("unit", "1")
        bounds = fields[name].metadata.get("bounds", Bounds())
    if isinstance(here, bool | str) or here is None or isinstance(here, eqx.Module | tuple):
        shown = f"a table, {type(here).__name__}" if isinstance(here, eqx.Module | tuple) else repr(here)
        inside = list(_below(here)) if isinstance(here, eqx.Module | tuple) else []
        hint = f"; its numbers are {', '.join(f'{key}.{name}' for name in inside)}" if inside else ""
        raise InputError(f"{key}: is {shown}, expected the key of a number{hint}")
    whole = isinstance(here, int)
    shape = np.shape(here)
    entry = _entry(names, shape, key) if names else None
    return Leaf(tuple(path), entry, reciprocal, here, unit, bounds, whole)


def _place(name: str, size: int, where: str, key: str) -> int:
    if not (name.isdigit() and int(name) < size):
        raise InputError(f"{key}: {where} is a list of {size}, {name!r} is no place in it; count from 0 to {size - 1}")
    return int(name)


def _entry(names: list[str], shape: tuple[int, ...], key: str) -> tuple[int, ...]:
    while len(shape) > len(names) and shape[0] == 1:  # a table of one asset is a row of tiers
        shape = shape[1:]
    if len(names) > len(shape):
        raise InputError(f"{key}: {'.'.join(names)} leads into a number; leave it out")
    return tuple(_place(name, size, "its table", key) for name, size in zip(names, shape, strict=False))


def _unknown(key: str, name: str, where: str, here: Any) -> str:
    known = list(_below(here))
    near = difflib.get_close_matches(name, [one.split(".")[0] for one in known], n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else f"; its numbers are {', '.join(known)}"
    return f"{key}: {where or 'the scenario'} ({type(here).__name__}) has no {name!r}{hint}"


def _below(tree: Any) -> Iterator[str]:
    """Dotted keys of all numbers of a tree, tables whole, counts included."""
    if isinstance(tree, tuple):
        items = [(str(place), item) for place, item in enumerate(tree)]
    else:
        items = [(field.name, getattr(tree, field.name)) for field in dataclasses.fields(tree)]
    for name, item in items:
        if isinstance(item, eqx.Module | tuple):
            yield from (f"{name}.{inner}" for inner in _below(item))
        elif isinstance(item, np.ndarray | np.generic | jax.Array) or (
            isinstance(item, int) and not isinstance(item, bool)
        ):
            yield name


def numbers(scenario: eqx.Module) -> list[str]:
    """The dotted keys of all numbers that may be traced, tables whole; `initial_rates` stands beside `max_leverage`."""
    found = [key for key in _below(scenario) if not find(scenario, key).whole]
    also = [key.removesuffix(LEVERAGE) + INITIAL for key in found if key.split(".")[-1] == LEVERAGE]
    return found + also


def current(scenario: eqx.Module, key: str) -> np.ndarray:
    """Value of a number or table, as its key names it.

    **Raises:** `InputError` if the key leads to no number.
    """
    leaf = find(scenario, key)
    value = np.asarray(leaf.value, float)
    value = value if leaf.entry is None else _row(value, leaf.entry)[leaf.entry]
    return np.asarray(1.0 / value if leaf.reciprocal else value)


def _row(table: Any, entry: tuple[int, ...]) -> Any:
    """The table without leading axes of length one that an entry does not name."""
    while table.ndim > len(entry) and table.shape[0] == 1:
        table = table[0]
    return table


def with_parameters(scenario: Tree, parameters: Mapping[str, Any]) -> Tree:
    """The scenario with named numbers replaced, traced or not; a row of tiers fits a table of one asset.

    **Raises:** `InputError` if a key leads to no number or another count of numbers is given.
    """
    for key, value in parameters.items():
        leaf = find(scenario, key)
        if leaf.whole:
            scenario = _replaced(scenario, leaf.path, value)
            continue
        value = jnp.asarray(value) if isinstance(value, jax.Array) else np.asarray(value, float)
        value = 1.0 / value if leaf.reciprocal else value
        old = leaf.value
        part = old if leaf.entry is None else _row(old, leaf.entry)[leaf.entry]
        if np.size(value) != np.size(part):
            raise InputError(f"{key}: got {np.size(value)} number(s), expected {np.size(part)}")
        value = value.reshape(np.shape(part))
        if leaf.entry is not None:
            row = _row(old, leaf.entry)
            if isinstance(value, jax.Array) or isinstance(row, jax.Array):
                row = jnp.asarray(row)
                row = row.at[leaf.entry].set(jnp.asarray(value).astype(row.dtype))
            else:
                row = row.copy()
                row[leaf.entry] = value
            value = row.reshape(np.shape(old))
        scenario = _replaced(scenario, leaf.path, value)
    return scenario


def _replaced(tree: Any, path: tuple[str | int, ...], value: Any) -> Any:
    if not path:
        return value
    first, rest = path[0], path[1:]
    if isinstance(first, int):
        return tuple(_replaced(item, rest, value) if i == first else item for i, item in enumerate(tree))
    return dataclasses.replace(tree, **{first: _replaced(getattr(tree, first), rest, value)})
