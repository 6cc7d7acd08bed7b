"""How numbers enter the typed tree.

A number is either *traced* or *structural*. A traced number (`real`, `duration`) may be swept, tuned or differentiated
without recompiling: it enters the tree as a float64 NumPy array and an entry point casts the whole tree to the precision
of the run. A structural number (`count`) shapes the compiled program: sizes, lengths, seeds of a population.

Every field carries its unit and its bounds; `problems` walks a tree and says which values are out of bounds, by dotted key.
"""

import dataclasses
import difflib
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, PyTree

if TYPE_CHECKING:
    AnyArray = Array  # what a law is given in a run
    Real = Any  # what may be written; the converter makes an array of it
else:
    AnyArray = Array | np.ndarray | np.floating
    """JAX or NumPy: what a law takes and gives on the host, where its fields are NumPy until a run casts them."""
    Real = Float[AnyArray, "..."]
    """A traced number (or array of numbers) of a component; its unit is in the field's metadata."""
Number = Float[AnyArray, "..."] | float
"""An argument of a closed form: one number or an array of them, traced or not."""


class InputError(ValueError):
    """Bad input that was looked for: a value, a file, or parts that do not fit together, with what was expected.

    Raised wherever a tree is made from what a person gave; any other `ValueError` is a bug and should look like one.
    """


SECONDS_PER_YEAR = 365.0 * 86400.0
_UNITS = {"ms": 1e-3, "s": 1.0, "sec": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}
_UNITS |= {"y": SECONDS_PER_YEAR, "year": SECONDS_PER_YEAR}
_DURATION = re.compile(r"\s*([0-9]+\.?[0-9]*(?:[eE][+-]?[0-9]+)?|\.[0-9]+|inf)\s*([a-zA-Z]*)\s*")


def to_real(value: Any) -> Any:
    """Makes a traced number: JAX arrays and tracers pass, everything else becomes a float64 NumPy array."""
    if isinstance(value, jax.Array):
        return value
    try:
        array = np.asarray(value)
    except ValueError:
        raise InputError(f"expected a number or an array of numbers, got lists of unequal length: {value!r}") from None
    if array.dtype == object or array.dtype.kind not in "fiu":
        raise InputError(f"expected a number or an array of numbers, got {value!r}")
    return array.astype(np.float64)


def parse_duration(text: str) -> float:
    """Reads "5min", "1d", "90 s", "inf h" as a time in years (365 days)."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise InputError(f'{text!r} is not a duration; write a number and a unit, for example "5min" or "1d"')
    number, unit = match.groups()
    if unit not in _UNITS:
        near = difflib.get_close_matches(unit, list(_UNITS), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise InputError(f"{text!r} has the unit {unit!r}, expected one of {', '.join(_UNITS)}{hint}")
    return float(number) * _UNITS[unit] / SECONDS_PER_YEAR


def to_duration(value: Any) -> Any:
    """Makes a traced time in years from text with a unit, or from a list of such texts.

    A bare number is refused because its unit would be a guess.
    """
    if isinstance(value, str):
        return np.asarray(parse_duration(value), np.float64)
    if isinstance(value, list | tuple):
        times = [to_duration(item) for item in value]
        traced = any(isinstance(time, jax.Array) for time in times)
        return jnp.stack(times) if traced else to_real(times)
    if isinstance(value, bool | int | float):
        raise InputError(f'{value!r} has no unit; write a duration such as "5min" or "1d"')
    return to_real(value)  # already a time in years: a tracer or an array


@dataclasses.dataclass(frozen=True)
class Bounds:
    """Where a value may lie; `above`/`below` exclude the end, `least`/`most` include it, `infinite` allows infinity."""

    above: float | None = None
    least: float | None = None
    below: float | None = None
    most: float | None = None
    infinite: bool = False

    def broken(self, value: np.ndarray) -> str | None:
        """Says what was expected if any entry of `value` breaks a bound or is not a number."""
        if np.isnan(value).any():
            return "a number, not nan"
        checks = (
            (self.above, np.less_equal, ">"),
            (self.least, np.less, ">="),
            (self.below, np.greater_equal, "<"),
            (self.most, np.greater, "<="),
        )
        if not self.infinite and np.isinf(value).any():
            return "a finite number"
        wanted = [f"{sign} {limit:g}" for limit, _, sign in checks if limit is not None]
        failed = any(limit is not None and wrong(value, limit).any() for limit, wrong, _ in checks)
        return "a value " + " and ".join(wanted) if failed else None


def _bounded(bounds: dict[str, Any], unit: str, converter: Any, default: Any) -> Any:
    # Dataclasses refuse arrays as defaults; the converter makes one of what the factory gives.
    given: Any = {} if default is dataclasses.MISSING else {"default_factory": lambda: default}
    return eqx.field(converter=converter, metadata={"unit": unit, "bounds": Bounds(**bounds)}, **given)


def real(default: Any = dataclasses.MISSING, *, unit: str, **bounds: float) -> Any:
    """A traced number or array. `bounds`: above, least, below, most, infinite (limits that may be switched off)."""
    return _bounded(bounds, unit, to_real, default)


def duration(default: Any = dataclasses.MISSING, **bounds: float) -> Any:
    """A traced time, kept in years, written with a unit ("5min", "1d", "inf d"). `bounds` are in years."""
    return _bounded({"infinite": True} | (bounds or {"above": 0.0}), "year", to_duration, default)


def count(default: Any = dataclasses.MISSING, *, least: int = 0, most: int | None = None) -> Any:
    """A structural whole number: it shapes the compiled program."""

    def convert(value: Any) -> int:
        whole = isinstance(value, int | np.integer) or (isinstance(value, float) and value.is_integer())
        if isinstance(value, bool) or not whole:
            raise InputError(f"expected a whole number, got {value!r}")
        value = int(value)
        if value < least or (most is not None and value > most):
            wanted = f"of {least} or more" if most is None else f"from {least} to {most}"
            raise InputError(f"expected a whole number {wanted}, got {value}")
        return value

    given = {} if default is dataclasses.MISSING else {"default": default}
    return eqx.field(converter=convert, static=True, metadata={"unit": "1"}, **given)


def flag(default: bool) -> Any:
    """A structural yes or no."""

    def convert(value: Any) -> bool:
        if not isinstance(value, bool):
            raise InputError(f"expected true or false, got {value!r}")
        return value

    return eqx.field(converter=convert, static=True, default=default, metadata={"unit": "flag"})


def choice(default: Any, *options: str) -> Any:
    """A structural switch between named conventions."""

    def convert(value: Any) -> str:
        if value not in options:
            near = difflib.get_close_matches(str(value), options, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise InputError(f"expected one of {', '.join(options)}, got {value!r}{hint}")
        return value

    return eqx.field(converter=convert, static=True, default=default, metadata={"unit": "name"})


def problems(tree: Any, key: str = "") -> Iterator[str]:
    """Says which values of a tree of components are out of bounds, one line each, by dotted key.

    A component may add a method `check(self) -> Iterator[tuple[str, str]]` of (field, complaint) for what one bound
    cannot say (order of tiers, maintenance below initial margin, a matrix that is no correlation).
    """
    if isinstance(tree, tuple | list):
        for i, item in enumerate(tree):
            yield from problems(item, f"{key}[{i}]")
        return
    if not isinstance(tree, eqx.Module):
        return
    prefix = f"{key}." if key else ""
    clean = True
    for field in dataclasses.fields(tree):
        value = getattr(tree, field.name)
        bounds = field.metadata.get("bounds")
        if bounds is not None and not isinstance(value, Tracer):
            expected = bounds.broken(np.asarray(value))
            if expected is not None:
                clean = False
                shown = np.array2string(np.asarray(value), threshold=6, precision=6)
                yield f"{prefix}{field.name} = {shown} [{field.metadata['unit']}]: expected {expected}"
        else:
            inner = list(problems(value, prefix + field.name))
            clean = clean and not inner
            yield from inner
    check = getattr(tree, "check", None)
    if clean and check is not None:
        for name, complaint in check():
            yield f"{prefix}{name}: {complaint}" if name else f"{key or type(tree).__name__}: {complaint}"


def cast(tree: PyTree, dtype: Any) -> PyTree:
    """Casts every inexact array of a tree to the precision of a run, never weakly typed."""

    def one(leaf: Any) -> Any:
        if isinstance(leaf, np.ndarray | np.generic | jax.Array):
            leaf = jnp.asarray(leaf)
            return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.inexact) else leaf
        return leaf

    return jax.tree.map(one, tree)
