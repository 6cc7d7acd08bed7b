"""Bars of a file, as a config names them."""

from pathlib import Path
from typing import Any

import equinox as eqx

from ..data.plain import read_plain
from ..data.quality import sound
from ..data.tables import Bars


class BarsFile(eqx.Module):
    """Rows of a table of bars: which file, which rows of it (`where`), its columns if they have other names, and when."""

    path: str = eqx.field(static=True, converter=str)
    where: dict[str, Any] = eqx.field(static=True, converter=dict, default_factory=dict)
    columns: dict[str, Any] = eqx.field(static=True, converter=dict, default_factory=dict)
    start: str = eqx.field(static=True, converter=str, default="")  # first bar, ISO, UTC; empty: from the beginning
    end: str = eqx.field(static=True, converter=str, default="")  # first bar not read; empty: to the end

    def read(self) -> Bars:
        """The bars, if an estimate may be made from them.

        **Raises:** `InputError` naming file and row of what would poison one.
        """
        return sound(read_plain(Path(self.path), Bars, self.columns, self.where).between(self.start, self.end))
