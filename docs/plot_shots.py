"""Draw the README's picture: `python docs/plot_shots.py OUT.png RUN [RUN ...]`, a panel a run folder.

Average score over a suite's tasks by shots, one line a method, mean and standard deviation over seeds. Needs matplotlib
(`pip install -e '.[plot]'`).
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

import matplotlib
from tables import averages, read

from compt_fast.config.flags import read_config

matplotlib.use("Agg")
from matplotlib import pyplot

# Okabe and Ito's colours, told apart by colour-blind readers too; markers tell them apart in grey.
STYLES = {"pt": ("#0072B2", "o"), "mst": ("#E69F00", "s"), "spp": ("#D55E00", "^"), "scp": ("#009E73", "D")}


def draw(axes: matplotlib.axes.Axes, folder: Path) -> None:
    """One panel from the finished runs of a run folder."""
    found, primary = read([folder])
    groups = {key: list(averages(seeds, primary).values()) for key, seeds in found.items()}
    for method, (colour, marker) in STYLES.items():
        shots = sorted(k for name, k in groups if name == method)
        means = [statistics.fmean(groups[method, k]) for k in shots]
        spreads = [statistics.stdev(groups[method, k]) if len(groups[method, k]) > 1 else 0.0 for k in shots]
        axes.errorbar(shots, means, spreads, label=method, color=colour, marker=marker, capsize=3)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted({k for _, k in groups}), [str(k) for k in sorted({k for _, k in groups})])
    axes.set_xlabel("shots a task")
    axes.set_title(f"suite {read_config(folder / 'config.json')['suite']}")
    axes.grid(alpha=0.3)


def main(out: str, *folders: str) -> None:
    """Draw the panels side by side and write `out`."""
    figure, panels = pyplot.subplots(1, len(folders), figsize=(4.2 * len(folders), 3.4), sharey=True, squeeze=False)
    for axes, folder in zip(panels[0], folders, strict=True):
        draw(axes, Path(folder))
    panels[0][0].set_ylabel("average primary score, %")
    panels[0][-1].legend(title="mean ± sd over seeds", loc="best")
    figure.tight_layout()
    figure.savefig(out, dpi=150)


if __name__ == "__main__":
    main(*sys.argv[1:])
