"""The derivative of each path at fixed noise, in forward mode, wherever it is that of the mean.

Whether it is, is decided while tracing: a number that reaches a comparison that decides an event raises (`_hard.py`), and one
that a book or a table is built from on the host cannot be traced at all. What passes loses no event: numbers of a smooth
ladder without a breaker, and of any kernel those that move no threshold, such as the fund.

On a smooth ladder one thing is left to watch. Where forced sales breed more sales than they are, the price of the
continuum jumps through a whole zone, and a converged cascade (`Exact`) hides the jump from its derivative. `Watched` counts
the steps in which a round sold deeper than the round before it. With a fixed number of rounds the derivative is right for
those rounds whatever their branching; only its variance grows, and the diagnostics of the record judge that.

**Source:** L'Ecuyer (1990) on when the derivative and the mean may be exchanged.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from .._hard import HardThresholdGradientError, symbolic_jvp
from .._streams import noise_keys
from ..clearing import AbstractClearing, Exact
from ..leaves import with_parameters
from ..scenario import Scenario, SmoothLadder
from ..simulate import batch, entry_point
from .quantities import AbstractMean, Fixed, with_derived
from .record import Batches, Gradient, gradient, no_bias, reduce_batches
from .sampling import Sampling, outcome_of
from .steps import Number

INDICATORS = ("fund_depleted", "flag_unsettled")  # outcomes that count events, whose own derivative is nan
SEEN_BY_NONE = "no comparison that decides an event sees it"
_STILL = 256.0  # moves below this many units in the last place are rounding


class Watched(AbstractClearing):
    """Another clearing, whose flag `unsettled` tells instead whether a round moved further than the round before."""

    inner: AbstractClearing

    def resolve(self, order: Any, round_: Any) -> tuple[Any, Bool[Array, ""]]:
        def again(carry: Any) -> Any:
            order, last, critical = carry
            new = round_(order)
            moved = jax.lax.stop_gradient(jax.tree.map(lambda a, b: jnp.abs(a - b), new, order))
            still = _STILL * jnp.finfo(jax.tree.leaves(moved)[0].dtype).eps
            deeper = jax.tree.map(lambda now, before: jnp.any((now > before) & (before > still)), moved, last)
            return new, moved, critical | jnp.any(jnp.stack(jax.tree.leaves(deeper)))

        none = jax.tree.map(jnp.zeros_like, jax.lax.stop_gradient(order))
        (order, _, critical), _ = self.inner.resolve((order, none, jnp.asarray(False)), again)
        return order, ~critical


class Reach(NamedTuple):
    """Whether a number has a derivative at fixed noise, and why or why not."""

    passes: bool
    reason: str


def reach(sampling: Sampling, what: Number) -> Reach:
    """Traces the derivative of the outcomes in a number; compiles nothing."""
    if what.leaf.whole:
        return Reach(False, "a whole number")
    along = lambda value: outcomes(sampling, sampling.scenario, {what.key: value}, 1)  # noqa: E731

    def trace(value: Any) -> Any:
        return symbolic_jvp(along, (value,), (value,))[0]

    try:
        jax.eval_shape(trace, jnp.asarray(what.value, sampling.dtype))
    except HardThresholdGradientError as error:
        return Reach(False, str(error).split("(", 1)[1].split(")", 1)[0])
    except (jax.errors.JAXTypeError, TypeError, ValueError) as error:  # host code met a traced number
        if isinstance(error, jax.errors.JAXTypeError) or "JAX" in str(error):
            return Reach(False, "a number that the book or its tables are made from")
        raise
    return Reach(True, SEEN_BY_NONE)


def outcomes(sampling: Sampling, scenario: Scenario, parameters: Any, paths: Any) -> dict[str, Any]:
    """Outcomes of the first paths, or of those with given numbers, to be traced in the parameters."""
    numbers = jnp.arange(paths, dtype=jnp.uint32) if isinstance(paths, int) else paths
    system = with_parameters(scenario, parameters).assemble(sampling.dtype)
    return batch(sampling.tilted(system), noise_keys(sampling.seed, sampling.root), numbers)[0]


def watched(scenario: Scenario) -> Scenario:
    """The scenario with its clearing watched, if it is a smooth ladder."""
    if not isinstance(scenario.positions, SmoothLadder):
        return scenario
    return eqx.tree_at(lambda s: s.positions.clearing, scenario, Watched(scenario.positions.clearing))


class Found(NamedTuple):
    """Records by quantity, and how many paths met a zone where sales breed more sales than they are."""

    records: list[Gradient]
    critical: int


def pathwise(
    sampling: Sampling,
    what: Number,
    quantities: Sequence[AbstractMean],
    fixed: Sequence[Fixed | None],
    reason: str,
) -> Found:
    """The record of every quantity for one number that `reach` lets pass."""
    scenario = watched(sampling.scenario)

    @entry_point
    def slopes(value: Any, numbers: Any) -> Any:
        along = lambda v: outcomes(sampling, scenario, {what.key: v}, numbers)  # noqa: E731
        return jax.jvp(along, (value,), (jnp.ones_like(value),))

    critical = 0

    def blocks() -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
        nonlocal critical
        chunk = min(sampling.chunk, sampling.size)
        for first in range(0, sampling.paths, sampling.size):
            parts = []
            for start in range(first, first + sampling.size, chunk):
                numbers = np.minimum(np.arange(start, start + chunk), first + sampling.size - 1).astype(np.uint32)
                parts.append(jax.tree.map(np.asarray, slopes(jnp.asarray(what.value, sampling.dtype), numbers)))
            values, changes = (
                with_derived(
                    {name: np.concatenate([part[i][name] for part in parts])[: sampling.size] for name in parts[0][i]}
                )
                for i in (0, 1)
            )
            critical += int(np.count_nonzero(values["flag_unsettled"])) if scenario is not sampling.scenario else 0
            rows = [
                values["weight"]
                * quantity.slope(outcome_of(values, quantity.outcome), 0.0 if held is None else held.value)
                * changes[quantity.outcome]
                for quantity, held in zip(quantities, fixed, strict=True)
            ]
            yield np.stack(rows), values | {"tripped": values["halted_time"]}

    found = reduce_batches(blocks(), sampling.size)
    records = [_record(found, n, what, held, reason) for n, held in enumerate(fixed)]
    return Found(records, critical)


def _record(found: Batches, n: int, what: Number, held: Fixed | None, reason: str) -> Gradient:
    batches = found._replace(means=found.means[:, [n]], largest_share=found.largest_share[[n]])
    theorem = "0: outcomes are continuous in it and Lipschitz at fixed noise"
    if held is not None:
        theorem += f"; {held}"
    return gradient(batches, (what.key,), method="pathwise", reason=reason, bias=no_bias((what.key,), theorem))


def converged(scenario: Scenario) -> bool:
    """Whether rounds go on until the cascade has stopped."""
    return isinstance(scenario.positions.clearing, Exact)
