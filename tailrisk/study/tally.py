"""What a run knows of its paths whatever their number: a summary of constant size that merges in any order to the same bits.

Moments come from blocks of path numbers (`tails.blocks`), losses are counted in bins of 0.1 % (`tails.binned`), everything else
is a whole number or a largest one.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from ..tails import binned, blocks
from ..tails.binned import Bins
from ..tails.measures import SECTIONS
from ..tails.moments import Moments

MEANS = (
    "bad_debt", "liquidated_share", "forced_notional", "halted_time", "fees", "fund_paid", "backstop_paid", "adl_notional",
    "adl_pnl", "adl_contracts", "socialized_loss", "residual_loss", "market_fall", "news_fall",
)  # fmt: skip
COLUMNS = (*MEANS, "falls_added", "falls_apart")  # of market_fall and news_fall, for the error of their ratio
COUNTED = ("bad_debt", "forced_notional", "peak_notional")
WORST = 256
LEDGER_TOLERANCE = {"float32": 1e-6, "float64": 1e-12}


class Tally(NamedTuple):
    """Of paths of one draw of the book.

    `nodes`, `positive` and `broken` are of `COLUMNS`: moments, whether no value is below zero, values that are not finite
    (and count as zero). `counts` are paths by what is said of them, `residual` is the largest ledger residual, `worst` the
    largest bad debts and `worst_path` the numbers of their paths.
    """

    paths: int
    nodes: blocks.Nodes
    positive: np.ndarray
    broken: np.ndarray
    counts: dict[str, int]
    residual: float
    bins: dict[str, Bins]
    worst: Float[np.ndarray, " worst"]
    worst_path: Int[np.ndarray, " worst"]

    @property
    def moments(self) -> Moments:
        """Moments of the columns over all paths."""
        return blocks.total(self.nodes)


def tally(first: int, outcome: dict[str, np.ndarray], tolerance: float) -> Tally:
    """The summary of the paths from number `first`, a multiple of the block, on.

    `tolerance` is the ledger residual from which the ledger of a path is open.
    """
    assert first % blocks.BLOCK == 0
    columns = np.stack([outcome[name] for name in MEANS]).astype(float)
    market, news = columns[MEANS.index("market_fall")], columns[MEANS.index("news_fall")]
    columns = np.concatenate([columns, [market + news, market - news]])
    finite = np.isfinite(columns)
    columns = np.where(finite, columns, 0.0)
    debt = columns[0]
    residual, unsettled = np.abs(outcome["ledger_residual"].astype(float)), outcome["flag_unsettled"].astype(float)
    counts = {
        "bad": np.count_nonzero(debt > 0.0),
        "depleted": np.count_nonzero(outcome["fund_depleted"] > 0.0),
        "unsettled_steps": int(unsettled.sum()),
        "unsettled": np.count_nonzero(unsettled > 0.0),
        "not_finite": np.count_nonzero(outcome["flag_broken"] > 0.0),
        "ledger_open": np.count_nonzero(~(residual <= tolerance)),  # nan is open too
    }
    number = first + np.arange(debt.size)
    none = np.zeros(debt.size, int)
    place = {"bad_debt": number // blocks.BLOCK % SECTIONS}
    order = _largest(debt, number)
    return Tally(
        debt.size,
        blocks.forest(blocks.block_moments(columns), first // blocks.BLOCK),
        columns.min(axis=1) >= 0.0,
        np.count_nonzero(~finite, axis=1),
        {name: int(value) for name, value in counts.items()},
        float(residual.max()),
        {name: binned.count(outcome[name], place.get(name, none)) for name in COUNTED},
        debt[order],
        number[order],
    )


def _largest(debt: np.ndarray, number: np.ndarray) -> np.ndarray:
    """Places of the largest losses, largest first, of equal ones that with the smallest number."""
    some = np.arange(debt.size)
    if debt.size > WORST:
        floor = np.partition(debt, debt.size - WORST)[debt.size - WORST]
        above, at = np.flatnonzero(debt > floor), np.flatnonzero(debt == floor)
        some = np.concatenate([above, at[np.argsort(number[at], kind="stable")[: WORST - above.size]]])
    return some[np.lexsort((number[some], -debt[some]))][:WORST]


def merge(a: Tally, b: Tally) -> Tally:
    """The summary of both sets of paths of one draw."""
    worst, path = np.concatenate([a.worst, b.worst]), np.concatenate([a.worst_path, b.worst_path])
    order = _largest(worst, path)
    return Tally(
        a.paths + b.paths,
        blocks.join(a.nodes, b.nodes),
        a.positive & b.positive,
        a.broken + b.broken,
        {name: a.counts[name] + b.counts[name] for name in a.counts},
        float(np.maximum(a.residual, b.residual)),  # nan stays
        {name: binned.merge(a.bins[name], b.bins[name]) for name in a.bins},
        worst[order],
        path[order],
    )


def section_sizes(paths: int) -> np.ndarray:
    """Paths of each section of one draw."""
    size = np.clip(paths - blocks.BLOCK * np.arange(-(-paths // blocks.BLOCK)), 0, blocks.BLOCK)
    return np.bincount(np.arange(size.size) % SECTIONS, size, SECTIONS).astype(int)


def to_arrays(one: Tally) -> dict[str, np.ndarray]:
    """A summary as plain arrays for a file."""
    places = sorted(one.nodes)
    return {
        "paths": np.asarray(one.paths),
        "places": np.array(places),
        **{f"moments/{name}": np.stack([getattr(one.nodes[p], name) for p in places]) for name in Moments._fields},
        "positive": one.positive,
        "broken": one.broken,
        **{f"counts/{name}": np.asarray(value) for name, value in one.counts.items()},
        "residual": np.asarray(one.residual),
        **{f"bins/{name}/{key}": field for name, b in one.bins.items() for key, field in b._asdict().items()},
        "worst": one.worst,
        "worst_path": one.worst_path,
    }


def from_arrays(a: dict[str, Any]) -> Tally:
    """A summary from the arrays of a file.

    **Raises:** `KeyError` if the file is of something else.
    """
    moments = [a[f"moments/{name}"] for name in Moments._fields]
    nodes = {(int(h), int(i)): Moments(*(field[k] for field in moments)) for k, (h, i) in enumerate(a["places"])}
    counts = {key.removeprefix("counts/"): int(value) for key, value in a.items() if key.startswith("counts/")}
    bins = {name: Bins(*(a[f"bins/{name}/{key}"] for key in Bins._fields)) for name in COUNTED}
    return Tally(
        int(a["paths"]),
        nodes,
        a["positive"],
        a["broken"],
        counts,
        float(a["residual"]),
        bins,
        a["worst"],
        a["worst_path"],
    )
