"""Margin rules on a history: what `[margins]` of a calibration does."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import equinox as eqx
import numpy as np

from .._fields import InputError, Real, count, real
from ..calibrate import returns, thinned
from ..calibrate.margins import Settings, as_it_stands, backtest
from ..data.series import AbstractSeries
from ..margin import AbstractMargin
from .config import ConfigError, read_toml, structure
from .tables import plain


class GivenMargin(eqx.Module):
    """Margins that are judged as they stand: the table `[margin]` of a config, such as a `policy.toml` of `tailrisk tune`."""

    name: str
    path: str = eqx.field(static=True, converter=str)
    notional: Real = real(1e5, unit="USD", above=0.0)  # of the position that is margined

    def read(self) -> AbstractMargin:
        """The schedule.

        **Raises:** `ConfigError` if the file has none.
        """
        table = read_toml(Path(self.path)).get("margin")
        if table is None:
            raise ConfigError(f"{self.path}: no table [margin]; give a policy.toml, a scenario or a table of margins")
        return structure(table, AbstractMargin, "margin")


class MarginTask(eqx.Module):
    """A history on which margin rules are judged, and the part of it that they are fitted to; times are in periods."""

    series: AbstractSeries
    every: int = count(24, least=1)  # intervals of the series in a period, which is what a margin must last
    train: int = count(1_200, least=500)
    half_life: Real = real(20.0, unit="periods", above=0.0)
    call: int = count(5, least=1)  # in which the largest call is raised
    block: int = count(30, least=1)  # that stay together when periods are resampled
    most_call: Real = real(0.6, unit="1", above=0.0)  # largest call of the tuned rule over that of the plain one
    histories: int = count(20_000, least=1_000)  # simulated for the laws of the tests
    policies: tuple[GivenMargin, ...] = eqx.field(converter=tuple, default=())

    def check(self) -> Iterator[tuple[str, str]]:
        if self.series.assets != 1:
            yield "series", f"{self.series.assets} assets, expected one"
        names = [one.name for one in self.policies]
        if len(set(names)) != len(names):
            yield "policies", f"two have the same name: {', '.join(names)}"


def estimate(task: MarginTask, report: Callable[[str], None]) -> dict[str, Any]:
    """Every rule on the history after the first `train` periods."""
    data = thinned(returns(task.series), task.every)
    moves = data.observed
    given: dict[str, np.ndarray] = {}
    for one in task.policies:
        schedule = one.read()
        try:
            margins = as_it_stands(schedule, moves, data.every, float(one.notional))
        except InputError as error:
            raise ConfigError(f"{one.path}: {error}") from None
        given |= {f"{one.name}, {kind}": margin for kind, margin in margins.items()}
    settings = Settings(task.train, float(task.half_life), float(task.most_call), task.call, task.block, task.histories)
    judged = backtest(moves, settings, given, report)
    return {
        "start": data.start, "end": data.end, "periods": moves.size, "train": task.train, "call": task.call,
        "period_days": 365.0 * data.every, "block": task.block,
        "rules": {name: plain(one._asdict()) for name, one in judged.items()},
    }  # fmt: skip
