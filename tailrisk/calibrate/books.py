"""What is believed about positions that nobody can see, as a distribution over books."""

from collections.abc import Iterator

import equinox as eqx
import numpy as np

from .._fields import Real, count, real
from ..book import LeverageMixture, ParetoSizes


class BookBelief(eqx.Module):
    """Draws of `LeverageMixture`: gross notional over daily traded value, leverage mix, longs and sizes.

    Notional is lognormal, the mix Dirichlet around `weights` tilted by leverage^tilt with a normal tilt, the share of longs and
    the tail index normal and cut to where they make sense. Brackets of the venue bind when the book is built.
    """

    turnover: Real = real(unit="day", above=0.0)  # gross notional over traded value per day
    turnover_deviation: Real = real(0.4, unit="1", least=0.0)  # of its log
    leverages: Real = real([3.0, 5.0, 10.0, 20.0, 50.0], unit="1", above=0.0)
    weights: Real = real([0.30, 0.30, 0.25, 0.10, 0.05], unit="1", above=0.0)
    concentration: Real = real(30.0, unit="1", above=0.0)  # of the Dirichlet law: larger is surer
    tilt_deviation: Real = real(0.4, unit="1", least=0.0)
    long_share: Real = real(0.6, unit="1", above=0.0, below=1.0)
    long_deviation: Real = real(0.07, unit="1", least=0.0)
    tail_index: Real = real(0.8, unit="1", above=0.0)
    tail_deviation: Real = real(0.05, unit="1", least=0.0)
    largest: Real = real(0.02, unit="1", above=0.0, most=1.0)
    entry_deviation: Real = real(0.03, unit="1", least=0.0)
    gap: Real = real(0.01, unit="1", above=0.0, below=0.5)
    accounts: int = count(2_000, least=10)

    def check(self) -> Iterator[tuple[str, str]]:
        if np.shape(self.weights) != np.shape(self.leverages) or np.ndim(self.weights) != 1:
            yield (
                "weights",
                f"{np.size(self.weights)} weight(s) for {np.size(self.leverages)} leverage(s); give one for each",
            )

    def draw(self, rng: np.random.Generator, traded: float, tilt: float | None = None) -> LeverageMixture:
        """A book for a market that trades `traded` USD a day; a given tilt is kept."""
        tilt = float(self.tilt_deviation) * rng.standard_normal() if tilt is None else tilt
        leverages = np.asarray(self.leverages, float)
        center = tilted(np.asarray(self.weights, float), leverages, tilt)
        weights = rng.dirichlet(float(self.concentration) * center)
        notional = traded * float(self.turnover) * float(np.exp(float(self.turnover_deviation) * rng.standard_normal()))
        longs = float(np.clip(float(self.long_share) + float(self.long_deviation) * rng.standard_normal(), 0.05, 0.95))
        index = float(max(float(self.tail_index) + float(self.tail_deviation) * rng.standard_normal(), 0.3))
        return LeverageMixture(
            notional=notional,
            accounts=self.accounts,
            leverages=leverages,
            weights=weights,
            long_share=longs,
            sizes=ParetoSizes(tail_index=index, largest=self.largest),
            entry_deviation=self.entry_deviation,
            gap=self.gap,
        )


def tilted(weights: np.ndarray, leverages: np.ndarray, tilt: float) -> np.ndarray:
    """Shares of notional in proportion to weight * leverage^tilt."""
    raw = weights * leverages**tilt
    return raw / raw.sum()


def open_interest(fall: tuple[float, float], share: tuple[float, float]) -> tuple[float, float]:
    """Open interest before an event from how much it fell, in units and as a share, each (value, half its rounding).

    Returns the value and its standard error, roundings even.
    """
    value = fall[0] / share[0]
    relative = np.hypot(fall[1] / fall[0], share[1] / share[0]) / np.sqrt(3.0)
    return value, float(value * relative)
