"""What each account adds to the loss of the system: q_i dE[loss]/dq_i, its size scaled at its own leverage.

An account of size (1 + e) q_i is the same account with its row of the book counted (1 + e) times: its threshold, tier and
leverage stay. What changes is its own loss, and the price at which all who are sold after it are filled. Charged in
proportion it is a Pigouvian buffer, a price on the externality; the sum over all accounts,

    sum_i q_i dE/dq_i = d/de E[loss] with all sizes (1 + e) q,

counts direct losses once and those from linear impact twice, so that buffers sum to more than the expected loss.

On a smooth ladder without a breaker every account's part is exact, from one reverse sweep whose steps are computed again on
the way back. On the ladder of single accounts and on margin groups scaling one account also decides whether others are
sold; reverse mode would keep those events fixed. There each account that is asked for is scaled up and down on common noise,
which holds both parts and has the bias of its step, measured at half of it.

**Source:** Pigou (1920) for the charge; Baydin et al. (2018) for reverse mode.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree
from scipy import stats

from .._fields import InputError
from .._streams import Noise, noise_keys
from ..breaker import NoBreaker
from ..clearing import Exact
from ..positions.base import Book
from ..scenario import Scenario, SmoothLadder
from ..simulate import AbstractSystem, AbstractWrapper, batch, entry_point
from ..tails.proposal import AbstractProposal
from .paired import differences
from .quantities import Expectation
from .record import LEAST_BATCHES
from .sampling import Sampling
from .steps import Step
from .venue import dtype_of

MOST_ACCOUNTS = 64  # of which one call takes differences
STEP = 0.05  # of an account's size
TOTAL = "all accounts"
MOST_BATCH = 0.1  # of the absolute contributions by one batch of a reverse sweep, which sees no single path


class MarginalLoss(NamedTuple):
    """Per account q_i dE/dq_i in the unit of the outcome, with standard error and interval; `total` is that of all sizes.

    `total` is the sum over accounts where all are given, and a difference under uniform scaling otherwise. accepted: as for
    a gradient; of a reverse sweep, 60 batches or more, none with more than a tenth of the absolute contributions.
    """

    account: Int[np.ndarray, " accounts"]  # row of the book
    value: Float[np.ndarray, " accounts"]
    std_error: Float[np.ndarray, " accounts"]
    ci95: Float[np.ndarray, "accounts 2"]
    bias: Float[np.ndarray, " accounts"]
    bias_error: Float[np.ndarray, " accounts"]
    accepted: Bool[np.ndarray, " accounts"]
    total: float
    total_error: float
    method: str
    bias_source: str
    paths: int

    @property
    def buffer(self) -> Float[np.ndarray, " accounts"]:
        """What a Pigouvian rule charges: the marginal loss where it is positive."""
        return np.maximum(self.value, 0.0)


class Checkpointed(AbstractWrapper):
    """A system whose steps are computed again on the way back, so that a reverse sweep keeps one state per step."""

    system: AbstractSystem

    def init(self) -> PyTree:
        return self.system.init()

    def step(self, state: PyTree, noise: Noise) -> tuple[PyTree, PyTree]:
        return eqx.filter_checkpoint(lambda system, state, noise: system.step(state, noise))(self.system, state, noise)

    def outcome(self, state: PyTree) -> dict[str, Float[Array, ""]]:
        return self.system.outcome(state)


def marginal_loss(
    scenario: Scenario,
    accounts: Sequence[int] | None = None,
    *,
    outcome: str = "bad_debt",
    step: float = STEP,
    proposal: AbstractProposal | None = None,
    seed: int = 0,
    paths: int = 64 * 256,
    batches: int = 64,
    chunk: int = 256,
    dtype: Any = None,
) -> MarginalLoss:
    """q_i dE[outcome]/dq_i of accounts of the book, by row; all by default.

    On a smooth ladder without a breaker by reverse mode, else by differences over `step` of their size, for 64 accounts at
    most.

    **Raises:** `InputError` for unknown rows, too many, and a smooth ladder whose clearing is `Exact`.
    """
    sampling = Sampling(scenario, paths, batches, seed, "market", chunk, dtype_of(dtype), proposal)
    scenario.build(sampling.dtype)  # says what is out of bounds
    book = scenario.book.build(np.asarray(scenario.price, float).reshape(-1), scenario.margin, 0)
    rows = _rows(book, accounts)
    if isinstance(scenario.positions, SmoothLadder) and isinstance(scenario.breaker, NoBreaker):
        return _reverse(sampling, book, rows, outcome)
    if (accounts is None and rows.size > MOST_ACCOUNTS) or rows.size > MOST_ACCOUNTS:
        raise InputError(
            f"{rows.size} accounts by differences: expected {MOST_ACCOUNTS} at most; name the rows of the book, or use "
            'positions.kind = "SmoothLadder" without a breaker for all'
        )
    return _by_differences(sampling, book, rows, outcome, step)


def _rows(book: Book, accounts: Sequence[int] | None) -> np.ndarray:
    count = np.asarray(book.weight).size
    rows = np.arange(count) if accounts is None else np.asarray(accounts, int).reshape(-1)
    if rows.size == 0 or rows.min() < 0 or rows.max() >= count:
        raise InputError(f"accounts = {list(rows)}: expected rows of the book, 0 to {count - 1}")
    return rows


def _scaled(book: Book, factor: Any) -> Book:
    return eqx.tree_at(lambda b: b.weight, book, book.weight * factor)


def _reverse(sampling: Sampling, book: Book, rows: np.ndarray, outcome: str) -> MarginalLoss:
    scenario = sampling.scenario
    if isinstance(scenario.positions.clearing, Exact):
        raise InputError(
            'positions.clearing.kind = "Exact" cannot be differentiated in reverse; use "Rounds", with enough of them'
        )
    keys = noise_keys(sampling.seed, sampling.root)

    def mean(factor: Any, numbers: Any) -> Any:
        system = scenario.assemble(sampling.dtype, positions=_scaled(book, factor))
        found, _ = batch(Checkpointed(sampling.tilted(system)), keys, numbers)
        if outcome not in found:
            raise InputError(f"outcome {outcome!r}: expected one of {', '.join(found)}")
        loss = found[outcome]
        return jnp.mean(found["weight"] * loss if "weight" in found else loss)

    slopes = entry_point(jax.grad(mean))
    ones = jnp.ones(np.asarray(book.weight).size, sampling.dtype)

    def of_batches() -> Iterator[np.ndarray]:
        pieces = max(1, sampling.size // sampling.chunk)
        if sampling.size % pieces:
            raise InputError(f"{sampling.size} paths of a batch in chunks of {sampling.chunk}: expected whole chunks")
        for first in range(0, sampling.paths, sampling.size):
            parts = np.arange(first, first + sampling.size, dtype=np.uint32).reshape(pieces, -1)
            yield np.mean([np.asarray(slopes(ones, part), np.float64) for part in parts], axis=0)

    means = np.stack(list(of_batches()))
    chosen, everyone = means[:, rows], means.sum(axis=1)
    error = chosen.std(axis=0, ddof=1) / np.sqrt(sampling.batches)
    size = np.abs(chosen)
    total = size.sum(axis=0)
    share = np.divide(size.max(axis=0), total, out=np.zeros(rows.size), where=total > 0.0)
    reach = float(stats.t.ppf(0.975, sampling.batches - 1)) * error
    value = chosen.mean(axis=0)
    return MarginalLoss(
        account=rows,
        value=value,
        std_error=error,
        ci95=np.stack([value - reach, value + reach], axis=1),
        bias=np.zeros(rows.size),
        bias_error=np.zeros(rows.size),
        accepted=(share < MOST_BATCH) & (sampling.batches >= LEAST_BATCHES),
        total=float(everyone.mean()),
        total_error=float(everyone.std(ddof=1) / np.sqrt(sampling.batches)),
        method="reverse mode",
        bias_source="0: the continuum is Lipschitz in all sizes at fixed noise",
        paths=sampling.paths,
    )


def _by_differences(sampling: Sampling, book: Book, rows: np.ndarray, outcome: str, step: float) -> MarginalLoss:
    if not 0.0 < step < 1.0:
        raise InputError(f"step = {step}: expected a share of an account's size between 0 and 1")
    count = np.asarray(book.weight).size
    chosen = Step(step, False, "a share of the size")

    def scaled(which: Any) -> Any:
        def at(by: float) -> AbstractSystem:
            factor = np.ones(count)
            factor[which] += by
            return sampling.tilted(sampling.scenario.assemble(sampling.dtype, positions=_scaled(book, factor)))

        return at

    def record(key: str, which: Any) -> Any:
        return differences(sampling, key, scaled(which), chosen, [Expectation(outcome)], [None], "hard events")[0]

    records = [record(f"account {row}", row) for row in rows]
    whole = record(TOTAL, slice(None))
    return MarginalLoss(
        account=rows,
        value=np.array([r.estimate[0] for r in records]),
        std_error=np.array([r.std_error[0] for r in records]),
        ci95=np.stack([r.ci95[0] for r in records]),
        bias=np.array([r.bias[0] for r in records]),
        bias_error=np.array([r.bias_error[0] for r in records]),
        accepted=np.array([r.accepted[0] for r in records]),
        total=float(whole.estimate[0]),
        total_error=float(whole.std_error[0]),
        method=whole.method,
        bias_source=whole.bias_source,
        paths=sampling.paths,
    )
