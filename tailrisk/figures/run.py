"""All figures of a run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from . import style
from .distributions import draw_cascade_sizes, draw_exceedance
from .liquidations import draw_liquidation_map
from .payers import draw_who_pays
from .prices import draw_bad_path, draw_fan

_FIGURES = {
    "price_fan": draw_fan,
    "loss_exceedance": draw_exceedance,
    "who_pays": draw_who_pays,
    "liquidation_map": draw_liquidation_map,
    "cascade_sizes": draw_cascade_sizes,
    "bad_path": draw_bad_path,
}


class Drawn(NamedTuple):
    """Files that were written, and a sentence for every figure that was not."""

    files: list[Path]
    notes: list[str]


def draw_all(results: Mapping[str, np.ndarray], summary: Mapping[str, Any], folder: Path) -> Drawn:
    """Draws every figure the results allow into a folder, as PDF and PNG."""
    drawn = Drawn([], [])
    for name, draw in _FIGURES.items():
        try:
            figure = draw(results, summary)
        except style.MissingData as missing:
            drawn.notes.append(str(missing.args[0]))
        else:
            drawn.files.extend(style.save(figure, Path(folder), name))
    if "bins/bad_debt/value" in results and "path/bad_debt" in results:
        kept, paths = results["path/bad_debt"].size, int(results["paths"])
        drawn.notes.append(f"who pays: from {kept:,} of {paths:,} paths, whose numbers are kept one by one (run.rows)")
    return drawn
