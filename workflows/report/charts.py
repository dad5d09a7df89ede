"""The charts of a report: the funnel and the curves, drawn by matplotlib.

Drawn without pyplot (no global state) and without mathtext (names may hold dollar signs); the same input gives the same
bytes. Importing matplotlib takes a second, so this module is imported where something is drawn and not before.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Polygon, Rectangle
from matplotlib.ticker import EngFormatter, FuncFormatter, MaxNLocator

from infra.figures import disable_mathtext
from workflows.report.bars import Bar

__all__ = ["curve", "funnel", "image"]

_KEPT, _BAND, _INK, _SOFT = "#1f6f8b", "#e4eff3", "#1c2329", "#5d6975"
_DROPS = ("#b4470f", "#cf6a24", "#e08f4a", "#ebb27a", "#f2cfa9")
# Lengths of the funnel in points: the whole width, margins left and right, a bar, a line of its legend, the gap below.
_WIDTH, _LEFT, _RIGHT, _BAR, _LINE, _GAP = 760, 128, 118, 26, 17, 22
_BINS = 240  # of a curve: more than its width in pixels shows nothing more


def image(figure: Figure, kind: Literal["png", "svg"]) -> bytes:
    """The figure as a file: PNG at twice its size, or SVG with its texts as text."""
    disable_mathtext(figure)
    metadata = {"Software": None} if kind == "png" else {"Date": None, "Creator": None}
    out = io.BytesIO()
    fonts = ["DejaVu Sans", "sans-serif"]
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "clipline", "font.sans-serif": fonts}):
        figure.savefig(out, format=kind, dpi=200 if kind == "png" else 72, metadata=metadata)
    return out.getvalue()


# --- the funnel -------------------------------------------------------------------------------------------------------


def funnel(rows: Sequence[Bar]) -> Figure:
    """A bar per stage: what it kept, then what it dropped by reason; bands join bars that share a scale."""
    legends = [_legend(bar) for bar in rows]
    height = max(16, sum(_BAR + _LINE * len(legend) + _GAP for legend in legends) - _GAP + 16)
    figure = Figure(figsize=(_WIDTH / 100, height / 100), dpi=100, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(0, _WIDTH)
    axes.set_ylim(height, 0)
    bottom, y = 0.0, 8.0
    for place, (bar, legend) in enumerate(zip(rows, legends, strict=True)):
        if bar.linked:
            _draw_band(axes, rows[place - 1], bar, bottom, y)
        bottom = y + _BAR
        _draw_bar(axes, bar, y)
        _draw_legend(axes, legend, bottom)
        y = bottom + _LINE * len(legend) + _GAP
    return figure


def _draw_bar(axes: Axes, bar: Bar, y: float) -> None:
    """Segments of a stage with its name to the left and what it kept to the right."""
    scale = (_WIDTH - _LEFT - _RIGHT) / bar.full
    x = float(_LEFT)
    for count, colour in [(bar.funnel.kept, _KEPT), *((n, _drop(i)) for i, (_, n) in enumerate(bar.drops))]:
        axes.add_patch(Rectangle((x, y), max(count * scale - 0.6, 0.4), _BAR, facecolor=colour, linewidth=0))
        x += count * scale
    axes.text(_LEFT - 14, y + 7, bar.stage, ha="right", weight="bold", **_style(_INK))
    axes.text(_LEFT - 14, y + 21, f"{bar.funnel.entered:,} {bar.funnel.unit}", ha="right", **_style(_SOFT))
    share = f"{bar.share:.1%}" if bar.funnel.entered else "–"
    axes.text(x + 10, y + 7, f"{bar.funnel.kept:,}", weight="bold", **_style(_INK))
    axes.text(x + 10, y + 21, f"{share} kept", **_style(_SOFT))


def _draw_band(axes: Axes, above: Bar, bar: Bar, top: float, bottom: float) -> None:
    """The band from what the bar above kept to what this one takes."""
    scale = (_WIDTH - _LEFT - _RIGHT) / bar.full
    ends = (_LEFT + above.funnel.kept * scale, _LEFT + bar.funnel.entered * scale)
    corners = [(_LEFT, top + 2), (ends[0], top + 2), (ends[1], bottom), (_LEFT, bottom)]
    axes.add_patch(Polygon(corners, facecolor=_BAND, linewidth=0, zorder=0))


def _draw_legend(axes: Axes, legend: list[list[tuple[int, int, str]]], y: float) -> None:
    for line in legend:
        y += _LINE
        for x, index, text in line:
            axes.add_patch(Rectangle((_LEFT + x, y - 9), 9, 9, facecolor=_drop(index), linewidth=0))
            axes.text(_LEFT + x + 14, y - 4.5, text, **_style(_SOFT))


def _legend(bar: Bar) -> list[list[tuple[int, int, str]]]:
    """Lines of (x, index of the reason, its text) below a bar, wrapped at the width."""
    lines: list[list[tuple[int, int, str]]] = []
    x = _WIDTH
    for index, (reason, count) in enumerate(bar.drops):
        text = f"{reason.replace('_', ' ')} {count:,}"
        width = 26 + round(6.8 * len(text))  # of any usual font; better a gap than an overlap
        if x + width > _WIDTH - _LEFT and (x > 0 or not lines):
            lines.append([])
            x = 0
        lines[-1].append((x, index, text))
        x += width
    return lines


def _drop(index: int) -> str:
    return _DROPS[min(index, len(_DROPS) - 1)]


def _style(colour: str) -> dict[str, Any]:
    return {"color": colour, "fontsize": 7.8 if colour == _INK else 7.2, "va": "center"}


# --- curves -----------------------------------------------------------------------------------------------------------


def curve(points: Sequence[tuple[float, float]], x_label: str) -> Figure:
    """A line through finite points (x, y), at least one; of many, the mean and the range (shaded) of neighbours."""
    figure = Figure(figsize=(3.4, 2.0), dpi=100, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    x, mean, low, high = _binned(points)
    if len(x) < len(points):
        axes.fill_between(x, low, high, color="#b9d8e2", alpha=0.6, linewidth=0)
    axes.plot(x, mean, color=_KEPT, linewidth=1.5, marker="o" if len(x) == 1 else None, markersize=3, clip_on=False)
    axes.set_xlim(left=min(0.0, x[0]))
    if 0 <= min(low) < 0.3 * max(high):
        axes.set_ylim(bottom=0)
    axes.set_xlabel(x_label, fontsize=7.5, color=_SOFT)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.tick_params(labelsize=7.5, labelcolor=_SOFT, length=0)
    axes.grid(axis="y", color="#e2e6e9", linewidth=0.7)
    axes.spines[:].set_visible(False)
    return figure


def _binned(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float], list[float], list[float]]:
    """Last x, mean, lowest and highest y of each bin of neighbours; at most 240 bins."""
    size = -(-len(points) // _BINS)
    bins = [points[start : start + size] for start in range(0, len(points), size)]
    values = [[y for _, y in one] for one in bins]
    return [one[-1][0] for one in bins], [sum(v) / len(v) for v in values], [*map(min, values)], [*map(max, values)]
