"""Draw models between a standard and a shifted test set, with the line that is expected of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy.special import expit, logit

from evaluation.robustness.lines import Expectation
from infra.figures import APART, INK, QUIET, png

__all__ = ["draw"]

_TICKS = (0.001, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999)


def draw(rows: Sequence[Mapping[str, Any]], lines: Mapping[str, Expectation]) -> bytes:
    """A panel for each shift as PNG: logits of accuracies with intervals, the line; dotted where both are equal."""
    figure = Figure(figsize=(4.4 * len(lines), 4.2), dpi=110, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (name, line) in zip(figure.subplots(1, len(lines), squeeze=False)[0], lines.items(), strict=True):
        _panel(axes, [row for row in rows if row["shift"] == name], line)
        axes.set_title(name, fontsize=9.5, color=INK, loc="left")
        axes.set_xlabel("accuracy on the standard set", fontsize=8.5, color=INK)
    figure.axes[0].set_ylabel("accuracy on the shifted set", fontsize=8.5, color=INK)
    return png(figure, bbox_inches="tight", pad_inches=0.15)


def _panel(axes: Axes, rows: Sequence[Mapping[str, Any]], line: Expectation) -> None:
    """One shift: a point for each model, blue if it is apart from the line."""
    for row in rows:
        apart = row["effective_robustness_low"] > 0 or row["effective_robustness_high"] < 0
        colour = APART if apart else QUIET
        x, y = (logit(np.clip([row[f"{one}{end}"] for end in ("_low", "", "_high")], 1e-3, 1 - 1e-3))
                for one in ("standard", "shifted"))  # fmt: skip
        axes.errorbar(
            x[1], y[1], [[y[1] - y[0]], [y[2] - y[1]]], [[x[1] - x[0]], [x[2] - x[1]]], fmt="o", color=colour,
            markersize=4, elinewidth=1,
        )  # fmt: skip
        axes.annotate(row["model"], (x[1], y[1]), xytext=(5, -9), textcoords="offset points", fontsize=7, color=colour)
    low, high = axes.get_xlim()
    place = np.linspace(low, high, 2)
    axes.plot(place, line.slope * place + line.intercept, color=INK, linewidth=1)
    axes.plot(place, place, color=QUIET, linewidth=0.8, linestyle=":")
    axes.set_xlim(low, high)
    for axis, (start, end) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        ticks = [tick for tick in _TICKS if expit(start) <= tick <= expit(end)]
        if len(ticks) < 2:  # models that are close to one another
            ticks = sorted({round(float(tick), 3) for tick in expit(np.linspace(start, end, 7)[1:-1])} - {0.0, 1.0})
        axis.set_ticks(logit(ticks), [f"{tick:.3g}" for tick in ticks], fontsize=7)
        axis.minorticks_off()
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
