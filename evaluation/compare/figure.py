"""Draw a comparison: a panel per task and primary metric, an interval per variant, zero as the baseline."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from evaluation.compare.result import Comparison, Row
from infra.figures import APART, INK, QUIET, png

__all__ = ["draw"]


def draw(comparison: Comparison) -> bytes:
    """The differences as PNG; separated ones blue, others grey. Two panels side by side if there are many."""
    panels: dict[tuple[str, str], list[Row]] = {}
    for row in comparison.primary:
        panels.setdefault((row.task, row.metric), []).append(row)
    count, most = max(1, len(panels)), max((len(rows) for rows in panels.values()), default=1)
    columns = 1 if count < 4 else 2
    lines = -(-count // columns)
    figure = Figure(
        figsize=(6.8 * columns, 0.7 + lines * (0.6 + 0.24 * most)),
        dpi=110,
        facecolor="white",
        layout="constrained",
    )
    FigureCanvasAgg(figure)
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for axis, rows in zip(axes, panels.values(), strict=False):
        _panel(axis, rows)
        # Of several values where variants share other models with the baseline.
        less = " or ".join(dict.fromkeys(f"{row.baseline:.3f}" for row in rows))
        axis.set_title(
            f"{rows[0].title}, less {comparison.baseline}'s {less}",
            fontsize=8.5,
            loc="left",
            color=INK,
        )
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    figure.suptitle("\n".join(wrap(comparison.verdict, 52 * columns + 45)), fontsize=9.5, color=INK)
    return png(figure, dpi=110)


def _panel(axis: Axes, rows: Sequence[Row]) -> None:
    """A variant a line, with its difference at the end of the line."""
    for place, row in enumerate(rows):
        colour = APART if row.separated else QUIET
        axis.plot([row.difference.low, row.difference.high], [place, place], color=colour, linewidth=2)
        axis.plot(row.difference.value, place, "o", color=colour, markersize=5)
        axis.annotate(
            f"{row.difference.value:+.3f}",
            (1, place),
            xycoords=("axes fraction", "data"),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=7.5,
            color=colour,
        )
    axis.axvline(0, color=INK, linewidth=0.8)
    axis.set_yticks(range(len(rows)), [row.variant for row in rows], fontsize=8)
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.tick_params(axis="x", labelsize=7)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
