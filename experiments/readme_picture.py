"""Puts three figures of a run side by side: the picture of the README.

python experiments/readme_picture.py RUN [--out docs/btc_perpetual.png]
"""

import argparse
from pathlib import Path

import numpy as np
from matplotlib.image import imread, imsave

NAMES = ("liquidation_map", "loss_exceedance", "bad_path")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run folder of `tailrisk run`")
    parser.add_argument("--out", type=Path, default=Path("docs/btc_perpetual.png"))
    arguments = parser.parse_args()
    panels = [imread(arguments.run / "figures" / f"{name}.png")[..., :3] for name in NAMES]
    height = max(panel.shape[0] for panel in panels)
    padded = []
    for panel in panels:
        above = (height - panel.shape[0]) // 2
        below = height - panel.shape[0] - above
        padded.append(np.pad(panel, ((above, below), (20, 20), (0, 0)), constant_values=1.0))
    imsave(arguments.out, np.concatenate(padded, axis=1), metadata={"Software": None})


if __name__ == "__main__":
    main()
