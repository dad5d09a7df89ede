"""Draw how accuracy falls with the severity of each corruption."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from evaluation.intervals import wilson
from infra.figures import APART, INK, QUIET, png

__all__ = ["by_severity"]

_COLUMNS = 5


def by_severity(clean: float, severities: Sequence[int], right: Mapping[str, NDArray[Any]]) -> bytes:
    """Draw a panel for each kind as PNG: accuracy by severity, with intervals, below that on clean images.

    ``right``: of each kind, which images are right at each of the severities, (severities, n).
    """
    rows = math.ceil(len(right) / _COLUMNS)
    columns = min(_COLUMNS, len(right))
    size = (1.9 * columns + 0.6, 1.6 * rows + 0.6)
    figure = Figure(figsize=size, dpi=110, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for place, axes in enumerate(panels.flat):
        if place >= len(right):
            axes.set_axis_off()
            continue
        kind, outcomes = list(right.items())[place]
        values = outcomes.mean(axis=1)
        bounds = np.array([wilson(value, outcomes.shape[1]) for value in values.tolist()])
        axes.axhline(clean, color=QUIET, linewidth=0.8, linestyle=":")
        reach = np.abs(bounds - values[:, None]).T
        axes.errorbar(severities, values, reach, fmt="o-", color=APART, markersize=3, linewidth=1.2, elinewidth=2.4)
        axes.set_title(kind.replace("_", " "), fontsize=8.5, color=INK, loc="left", pad=3)
        axes.set_xticks(list(severities))
        axes.tick_params(labelsize=7)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    panels[0][0].set_ylim(bottom=0)
    figure.supxlabel("severity", fontsize=8.5, color=QUIET)
    figure.supylabel("accuracy; dotted: of clean images", fontsize=8.5, color=QUIET)
    return png(figure, bbox_inches="tight", pad_inches=0.15)
