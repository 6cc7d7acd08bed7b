"""The reference model of the gradients: isolated longs in one asset, sold in full below hard thresholds.

Prices are relative to the start, quantities sum to any total (one, in `reference_book`), money is in units of the
initial notional. The exogenous log price u walks, u_t = u_(t-1) + r_t from 0; what has been sold by force, C, moves the
price for good: log P = u - coefficient C^exponent. Account i owes d_i = exp(entry_i) (1 - initial_margin_i - shift) per
unit and is sold, once and in full, when P (1 - maintenance) < d_i.
"""

from collections.abc import Iterator
from functools import reduce
from typing import Any

import equinox as eqx
import numpy as np

from .._fields import InputError, Real, count, problems, real


class WalkLaw(eqx.Module):
    """Steps r = drift + J jump_mean + sqrt(deviation^2 + J jump_deviation^2) Z with J Bernoulli and Z standard normal.

    Paths are drawn with `sampling_probability` in place of `jump_probability` and Z around `sampling_tilt` in place of 0, and
    carry the likelihood ratio as a weight: exp(-tilt Z + tilt^2 / 2) for a normal.

    **Source:** Merton (1976) for the mixture, with at most one jump per step.
    """

    drift: Real = real(0.0, unit="1/step")
    deviation: Real = real(0.006, unit="1/sqrt(step)", above=0.0)
    jump_probability: Real = real(5e-4, unit="1/step", least=0.0, below=1.0)
    jump_mean: Real = real(-0.03, unit="1")
    jump_deviation: Real = real(0.03, unit="1", least=0.0)
    sampling_probability: Real = real(0.02, unit="1/step", least=0.0, below=1.0)
    sampling_tilt: Real = real(0.0, unit="1")

    def check(self) -> Iterator[tuple[str, str]]:
        """Jumps that can happen must be sampled."""
        if self.jump_probability > 0.0 and self.sampling_probability == 0.0:
            yield (
                "sampling_probability",
                f"= 0 never draws the jumps of jump_probability = {self.jump_probability:g}; use a positive one",
            )


class LadderBook(eqx.Module):
    """Isolated longs: log entry price, initial margin as a share of the entry notional, units held."""

    entry: Real = real(unit="1")
    initial_margin: Real = real(unit="1", above=0.0, below=1.0)
    quantity: Real = real(unit="1", above=0.0)

    def check(self) -> Iterator[tuple[str, str]]:
        """One number per account in each array."""
        shapes = {np.shape(self.entry), np.shape(self.initial_margin), np.shape(self.quantity)}
        if len(shapes) > 1 or np.ndim(self.entry) != 1 or np.size(self.entry) == 0:
            yield (
                "entry",
                f"has shapes {shapes} with initial_margin and quantity; expected one number per account in each",
            )


def reference_book(
    accounts: int,
    seed: int,
    *,
    lowest_leverage: float = 3.0,
    highest_leverage: float = 20.0,
    gap: float = 0.03,
    maintenance: float = 0.025,
) -> LadderBook:
    """A random book with log-uniform (stratified) leverage, lognormal sizes, and nobody within `gap` of a liquidation.

    Drawn with NumPy's PCG64, so that a seed means the same book everywhere.
    """
    rng = np.random.default_rng(seed)
    places = (np.arange(accounts) + 0.5) / accounts
    low, high = np.log(lowest_leverage), np.log(highest_leverage)
    margin = np.exp(-(low + (high - low) * rng.permutation(places)))
    entry = rng.normal(0.0, 0.015, accounts)
    breach = entry + np.log1p(-margin) - np.log1p(-maintenance)
    further = rng.exponential(0.01, accounts)
    entry = np.where(breach > -gap, entry - (breach + gap) - further, entry)
    size = rng.lognormal(0.0, 0.8, accounts)
    return LadderBook(entry=entry, initial_margin=margin, quantity=size / size.sum())


class Ladder(eqx.Module):
    """Walk, book and rules: what a gradient is taken of, with every number a parameter.

    The circuit breaker stops sales as soon as log P is more than `band` below the largest of the last `window` log
    prices at the ends of steps (the start is not among them), and for the next `halt` steps.
    """

    book: LadderBook
    law: WalkLaw = eqx.field(default_factory=WalkLaw)
    maintenance: Real = real(0.025, unit="1", above=0.0, below=1.0)
    initial_shift: Real = real(0.0, unit="1")
    impact: Real = real(0.05, unit="log price/unit^exponent", least=0.0)
    impact_exponent: Real = real(1.0, unit="1", above=0.0)
    band: Real = real(np.inf, unit="log price", above=0.0, infinite=True)
    fee: Real = real(0.2, unit="1", least=0.0, most=1.0)
    fund: Real = real(0.001, unit="initial notional", least=0.0)
    steps: int = count(50, least=1)
    window: int = count(5, least=1)
    halt: int = count(3)

    @property
    def has_breaker(self) -> bool:
        """Whether the band is finite."""
        return bool(np.isfinite(self.band))

    def check(self) -> Iterator[tuple[str, str]]:
        """Every account starts with more than its maintenance margin, at its entry price and at the first price."""
        margin = np.asarray(self.book.initial_margin) + self.initial_shift
        if margin.min() <= self.maintenance or margin.max() >= 1.0:
            yield (
                "initial_shift",
                f"makes initial margins of {margin.min():.6g} to {margin.max():.6g}; "
                f"expected more than maintenance = {self.maintenance:.6g} and less than 1",
            )
            return
        highest = float((np.asarray(self.book.entry) + np.log1p(-margin)).max() - np.log1p(-self.maintenance))
        if highest >= 0.0:
            yield (
                "maintenance",
                f"= {self.maintenance:.6g} puts an account in breach at the start (its threshold is {highest:.3g} "
                "above the first log price); expected all thresholds below 0",
            )

    def checked(self) -> "Ladder":
        """Itself, or an `InputError` that says which values are out of bounds."""
        found = list(problems(self))
        if found:
            raise InputError("; ".join(found))
        return self

    def get(self, parameter: str) -> float:
        """The value of a single number by its dotted name."""
        value = reduce(getattr, parameter.split("."), self)
        return float(np.asarray(value))

    def replace(self, parameter: str, value: Any) -> "Ladder":
        """The same ladder with another value of one number, by its dotted name, such as "law.drift"."""
        return eqx.tree_at(
            lambda tree: reduce(getattr, parameter.split("."), tree), self, np.asarray(value, np.float64)
        )


def sorted_accounts(ladder: Ladder) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log debt per unit, log entry price and quantity of the accounts, the first to be sold first (host, float64).

    With one maintenance ratio the order of liquidation prices is that of the debts.
    """
    entry, quantity = np.asarray(ladder.book.entry), np.asarray(ladder.book.quantity)
    debt = entry + np.log1p(-(np.asarray(ladder.book.initial_margin) + ladder.initial_shift))
    order = np.argsort(-debt, kind="stable")
    return debt[order], entry[order], quantity[order]
