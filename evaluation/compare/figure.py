"""Draw a comparison: a panel per task and metric, an interval per variant, zero as the baseline."""

from __future__ import annotations

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from evaluation.compare.comparison import Comparison
from infra.figures import png

__all__ = ["draw"]

_APART, _NOT, _INK = "#0969da", "#8c959f", "#1f2933"


def draw(comparison: Comparison) -> bytes:
    """The differences as PNG; separated ones blue, others grey."""
    panels: dict[tuple[str, str], list[int]] = {}
    for index, row in enumerate(comparison.rows):
        panels.setdefault((row.task, row.metric), []).append(index)
    most = max((len(rows) for rows in panels.values()), default=1)
    figure = Figure(
        figsize=(7.5, 0.6 + max(1, len(panels)) * (0.55 + 0.24 * most)),
        dpi=110,
        facecolor="white",
        layout="constrained",
    )
    FigureCanvasAgg(figure)
    axes = figure.subplots(max(1, len(panels)), 1, squeeze=False)[:, 0]
    for axis, ((task, metric), rows) in zip(axes, panels.items(), strict=False):
        for place, index in enumerate(rows):
            row = comparison.rows[index]
            colour = _APART if row.separated else _NOT
            axis.plot([row.difference.low, row.difference.high], [place, place], color=colour, linewidth=2)
            axis.plot(row.difference.value, place, "o", color=colour, markersize=5)
        axis.axvline(0, color=_INK, linewidth=0.8)
        axis.set_yticks(range(len(rows)), [comparison.rows[index].variant for index in rows], fontsize=8)
        axis.set_ylim(len(rows) - 0.5, -0.5)
        axis.tick_params(axis="x", labelsize=7)
        baseline = comparison.rows[rows[0]].baseline
        axis.set_title(f"{task}: {metric}, {comparison.baseline} {baseline:.3f}", fontsize=8, loc="left", color=_INK)
        for side in ("top", "right", "left"):
            axis.spines[side].set_visible(False)
    figure.suptitle(comparison.verdict, fontsize=9, color=_INK)
    return png(figure, dpi=110)
