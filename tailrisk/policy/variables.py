"""Decision variables whose bounds and orders hold by construction, so that a tuner may move freely.

Every variable maps free numbers to its value; all zeros is its start, and a unit step of one free number changes the
value there by about 10 %. Rounding to the grid on which a venue quotes goes in the direction that is named, the safe
one, and keeps bounds and orders.
"""

import abc
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._fields import InputError, Real, choice, real

STEP = 0.1  # relative change of a value by a unit step of a free number, at the start
_EDGE = 1e-9  # share of the room between two bounds that counts as a bound
_SLACK = 1e-9  # parts of a grid step that are rounding errors, not distance

Values = dict[str, Any]
"""Named values of the variables: scalars, or one number per tier or weight."""


def _steepness(start: Real, lower: Real, upper: Real) -> tuple[Any, Any]:
    """Logit of the start between its bounds, and how much a unit step adds to it."""
    share = (start - lower) / (upper - lower)
    return jnp.log(share) - jnp.log1p(-share), STEP * start / ((upper - lower) * share * (1.0 - share))


def _between(free: Any, start: Real, start_lower: Real, lower: Any, upper: Real) -> Any:
    """lower + (upper - lower) sigmoid(logit of the start + steepness free)."""
    center, steepness = _steepness(start, start_lower, upper)
    return lower + (upper - lower) * jax.nn.sigmoid(center + steepness * free)


def _undo(value: Any, start: Real, start_lower: Real, lower: Any, upper: Real) -> Any:
    """The free number at which `_between` gives `value`; halfway where there is no room."""
    center, steepness = _steepness(start, start_lower, upper)
    room, above = np.broadcast_arrays(np.asarray(upper - lower, float), np.asarray(value) - lower)
    full = room <= _EDGE * np.abs(upper)  # as above a tier that is at the upper bound
    share = np.where(
        full, np.where(np.abs(above) <= _EDGE * np.abs(upper), 0.5, np.nan), above / np.where(full, 1.0, room)
    )
    inside = (share >= -_EDGE) & (share <= 1.0 + _EDGE)
    share = np.where(inside, np.clip(share, _EDGE, 1.0 - _EDGE), np.nan)  # a search that ran to a bound may start there
    return (np.log(share) - np.log1p(-share) - np.asarray(center)) / np.asarray(steepness)


def _on_grid(value: Any, grid: Real, rounding: str) -> Any:
    """The next multiple of `grid` up or down; a grid of 0 leaves the value."""
    value, grid = np.asarray(value, float), float(grid)
    if grid == 0.0:
        return value
    whole = np.ceil(value / grid - _SLACK) if rounding == "up" else np.floor(value / grid + _SLACK)
    return np.round(whole * grid, 12)


def _off_grid(grid: Real, **bounds: Real) -> Iterator[tuple[str, str]]:
    for name, bound in bounds.items():
        if not np.isclose(float(bound), float(_on_grid(bound, grid, "up")), rtol=1e-9, atol=0.0):
            yield name, f"{float(bound):g} is not a multiple of grid = {float(grid):g}; rounding could leave the bounds"


class Row(NamedTuple):
    """A bound or an order that a policy must keep: slack = sum of coefficient x entry + constant >= 0."""

    label: str  # what it says when the slack is zero
    terms: tuple[tuple[str, int, float], ...]  # (variable, entry, coefficient)
    slack: float


def _bound(name: str, entry: int, value: float, bound: float, sign: float, many: bool) -> Row:
    place = f"{name}[{entry}]" if many else name
    end = "lower" if sign > 0.0 else "upper"
    return Row(f"{place} at its {end} bound {bound:g}", ((name, entry, sign),), sign * (value - bound))


def _order(name: str, entry: int, other: str, place: int, slack: float) -> Row:
    """An entry that may not lie below another one."""
    mark = f"[{entry}]", f"[{place}]"
    return Row(f"{name}{mark[0]} at {other}{mark[1]}", ((name, entry, 1.0), (other, place, -1.0)), slack)


class AbstractVariable(eqx.Module):
    """One named decision: how free numbers make its value and where that value may be rounded to."""

    name: eqx.AbstractVar[str]
    start: eqx.AbstractVar[Real]

    @property
    @abc.abstractmethod
    def size(self) -> int:
        """How many free numbers it has (structural)."""

    @abc.abstractmethod
    def value(self, free: Float[Array, " size"], known: Mapping[str, Any], starts: Mapping[str, Any]) -> Any:
        """The value; `known` are the values of the variables before it and `starts` their starts."""

    @abc.abstractmethod
    def free(self, value: Any, known: Mapping[str, Any], starts: Mapping[str, Any]) -> np.ndarray:
        """The free numbers that give a value; not finite if it is out of bounds."""

    @abc.abstractmethod
    def rounded(self, value: Any, known: Mapping[str, Any]) -> np.ndarray:
        """The value on its grid in the safe direction; `known` are rounded values of the variables before it."""

    def rows(self, known: Mapping[str, Any]) -> Iterator[Row]:
        """Bounds and orders of the value in `known`, on the host; none unless a variable says otherwise."""
        del known
        yield from ()


class Rate(AbstractVariable):
    """A number between two bounds: lower + (upper - lower) sigmoid(u). Bounds lie on the grid, so rounding keeps them."""

    name: str
    start: Real = real(unit="unit of the variable")
    lower: Real = real(unit="unit of the variable")
    upper: Real = real(unit="unit of the variable")
    grid: Real = real(0.0, unit="unit of the variable", least=0.0)
    rounding: str = choice("up", "up", "down")

    @property
    def size(self) -> int:
        return 1

    def check(self):
        if not self.lower < self.start < self.upper:
            yield "start", f"{self.start:g} does not lie between lower = {self.lower:g} and upper = {self.upper:g}"
        yield from _off_grid(self.grid, lower=self.lower, upper=self.upper)

    def value(self, free, known, starts):
        return _between(free[0], self.start, self.lower, self.lower, self.upper)

    def free(self, value, known, starts):
        return _undo(value, self.start, self.lower, self.lower, self.upper).reshape(1)

    def rounded(self, value, known):
        return np.clip(_on_grid(value, self.grid, self.rounding), self.lower, self.upper)

    def rows(self, known):
        value = float(known[self.name])
        yield _bound(self.name, 0, value, float(self.lower), 1.0, many=False)
        yield _bound(self.name, 0, value, float(self.upper), -1.0, many=False)


class Scale(AbstractVariable):
    """A positive number without an upper bound, such as a fund size or a half-life: start exp(u/10)."""

    name: str
    start: Real = real(unit="unit of the variable", above=0.0)
    grid: Real = real(0.0, unit="unit of the variable", least=0.0)
    rounding: str = choice("up", "up", "down")

    @property
    def size(self) -> int:
        return 1

    def value(self, free, known, starts):
        return self.start * jnp.exp(STEP * free[0])

    def free(self, value, known, starts):
        return np.reshape(np.log(np.asarray(value) / self.start) / STEP, 1)

    def rounded(self, value, known):
        return np.maximum(_on_grid(value, self.grid, self.rounding), self.grid)


class Tiers(AbstractVariable):
    """Rates that never fall from tier to tier and stay in bounds: each takes a share of the room above the one before.

    r_0 = lower + (upper - lower) sigmoid(u_0), r_k = r_(k-1) + (upper - r_(k-1)) sigmoid(u_k).
    """

    name: str
    start: Real = real(unit="unit of the variable")
    lower: Real = real(unit="unit of the variable")
    upper: Real = real(unit="unit of the variable")
    grid: Real = real(0.0, unit="unit of the variable", least=0.0)
    rounding: str = choice("up", "up", "down")

    @property
    def size(self) -> int:
        return self.start.shape[0]

    def check(self):
        if np.ndim(self.start) != 1 or np.any(np.diff([float(self.lower), *self.start, float(self.upper)]) <= 0.0):
            yield "start", f"{self.start} does not rise strictly from lower = {self.lower:g} to upper = {self.upper:g}"
        yield from _off_grid(self.grid, lower=self.lower, upper=self.upper)

    def value(self, free, known, starts):
        tiers, below, start_below = [], self.lower, self.lower
        for k in range(self.size):
            below = _between(free[k], self.start[k], start_below, below, self.upper)
            start_below = self.start[k]
            tiers.append(below)
        return jnp.stack(tiers)

    def free(self, value, known, starts):
        value = np.asarray(value, float)
        below, start_below = np.append(self.lower, value[:-1]), np.append(self.lower, self.start[:-1])
        return _undo(value, self.start, start_below, below, self.upper)

    def rounded(self, value, known):
        return np.clip(_on_grid(value, self.grid, self.rounding), self.lower, self.upper)

    def rows(self, known):
        value = np.asarray(known[self.name], float)
        yield _bound(self.name, 0, value[0], float(self.lower), 1.0, many=True)
        for k in range(1, self.size):
            yield _order(self.name, k, self.name, k - 1, value[k] - value[k - 1])
        yield _bound(self.name, self.size - 1, value[-1], float(self.upper), -1.0, many=True)


class Above(AbstractVariable):
    """A rate above another variable: x = base + (upper - base) sigmoid(u).

    Above tiers there are as many, each above its own base and never below the one before:
    x_k = l_k + (upper - l_k) sigmoid(u_k), l_k = max(base_k, x_(k-1)).
    """

    name: str
    base: str
    start: Real = real(unit="unit of the variable")
    upper: Real = real(unit="unit of the variable")
    grid: Real = real(0.0, unit="unit of the variable", least=0.0)
    rounding: str = choice("up", "up", "down")

    @property
    def size(self) -> int:
        return max(self.start.size, 1)

    def check(self):
        yield from _off_grid(self.grid, upper=self.upper)

    def value(self, free, known, starts):
        base, start, start_base = (x.reshape(-1) for x in (known[self.base], self.start, starts[self.base]))
        tiers = []
        for k in range(self.size):
            low, start_low = base[k], start_base[k]
            if k:
                low, start_low = jnp.maximum(low, tiers[-1]), jnp.maximum(start_low, start[k - 1])
            tiers.append(_between(free[k], start[k], start_low, low, self.upper))
        return jnp.stack(tiers).reshape(known[self.base].shape)

    def free(self, value, known, starts):
        value, base, start, start_base = (
            np.asarray(x, float).reshape(-1) for x in (value, known[self.base], self.start, starts[self.base])
        )
        low, start_low = (
            np.maximum(x, np.append(-np.inf, before[:-1])) for x, before in ((base, value), (start_base, start))
        )
        return _undo(value, start, start_low, low, self.upper)

    def rounded(self, value, known):
        # The base may have been rounded up past this value, on a grid of its own.
        least = _on_grid(known[self.base], self.grid, "up")
        return np.clip(_on_grid(value, self.grid, self.rounding), least, self.upper)

    def rows(self, known):
        value, base = (np.asarray(known[name], float).reshape(-1) for name in (self.name, self.base))
        for k in range(self.size):
            yield _order(self.name, k, self.base, k, value[k] - base[k])
            if k:
                yield _order(self.name, k, self.name, k - 1, value[k] - value[k - 1])
        yield _bound(self.name, self.size - 1, value[-1], float(self.upper), -1.0, many=self.size > 1)


class Weights(AbstractVariable):
    """Positive weights that sum to one, softmax of the logarithms of the start plus u; they are not rounded."""

    name: str
    start: Real = real(unit="1", above=0.0, below=1.0)

    @property
    def size(self) -> int:
        return self.start.shape[0] - 1

    def check(self):
        if np.ndim(self.start) != 1 or abs(np.sum(self.start) - 1.0) > 1e-9:
            yield "start", f"{self.start} is not a list of weights that sum to one"

    def value(self, free, known, starts):
        # A logit moves its weight by w (1 - w) per unit.
        moved = jnp.log(self.start[:-1]) + STEP * free / (1.0 - self.start[:-1])
        return jax.nn.softmax(jnp.append(moved, jnp.log(self.start[-1])))

    def free(self, value, known, starts):
        value = np.asarray(value, float)
        moved = np.log(value[:-1] / value[-1]) - np.log(self.start[:-1] / self.start[-1])
        return moved * (1.0 - self.start[:-1]) / STEP

    def rounded(self, value, known):
        return np.asarray(value, float)

    def rows(self, known):
        terms = tuple((self.name, k, 1.0) for k in range(self.size + 1))
        for sign in (1.0, -1.0):
            yield Row(f"{self.name} sum to one", tuple((name, k, sign * c) for name, k, c in terms), 0.0)


class Relative(AbstractVariable):
    """Numbers near a known policy, without bounds: start (1 + u/10), entry by entry; for derivatives, not for a search."""

    name: str
    start: Real = real(unit="unit of the variable")

    @property
    def size(self) -> int:
        return max(np.size(self.start), 1)

    def value(self, free, known, starts):
        return self.start * (1.0 + STEP * free.reshape(np.shape(self.start)))

    def free(self, value, known, starts):
        return np.reshape((np.asarray(value) / self.start - 1.0) / STEP, -1)

    def rounded(self, value, known):
        return np.asarray(value, float)


def sizes(variables: tuple[AbstractVariable, ...]) -> int:
    """How many free numbers all variables have together."""
    return sum(variable.size for variable in variables)


def values(variables: tuple[AbstractVariable, ...], free: Float[Array, " free"]) -> Values:
    """Values by name of all variables, traced."""
    known, starts, first = {}, {}, 0
    for variable in variables:
        known[variable.name] = variable.value(free[first : first + variable.size], known, starts)
        starts[variable.name] = variable.start
        first += variable.size
    return known


def free_numbers(variables: tuple[AbstractVariable, ...], given: Mapping[str, Any]) -> Float[np.ndarray, " free"]:
    """Free numbers that give the named values; the inverse of `values`, on the host.

    **Raises:** `InputError` if a name is missing or a value is out of its bounds or order.
    """
    known, starts, parts = {}, {}, []
    for variable in variables:
        if variable.name not in given:
            raise InputError(f"no value for {variable.name!r}: expected one of {', '.join(v.name for v in variables)}")
        known[variable.name] = np.asarray(given[variable.name], float)
        with np.errstate(invalid="ignore", divide="ignore"):
            part = variable.free(known[variable.name], known, starts)
        if not np.all(np.isfinite(part)):
            raise InputError(
                f"{variable.name} = {given[variable.name]}: expected values inside the bounds and in order"
            )
        starts[variable.name] = variable.start
        parts.append(part)
    return np.concatenate(parts)


def rounded(variables: tuple[AbstractVariable, ...], given: Mapping[str, Any]) -> dict[str, Any]:
    """All values on their grids, each in its safe direction, in order again."""
    known: dict[str, Any] = {}
    for variable in variables:
        known[variable.name] = variable.rounded(given[variable.name], known)
    return known


def rows(variables: tuple[AbstractVariable, ...], known: Mapping[str, Any]) -> list[Row]:
    """All bounds and orders of named values, on the host."""
    return [row for variable in variables for row in variable.rows(known)]
