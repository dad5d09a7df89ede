"""The report's drawings as inline SVG, coloured by the page's CSS variables so that they follow light and dark.

Every text goes through Markup.format, which escapes it; nothing here trusts a name, a reason or a unit. The funnel is
drawn a second time by matplotlib, for places that show only pictures (MLflow, a README).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from infra.figures import png
from infra.run.manifest import Funnel

__all__ = ["Bar", "bars", "curve_svg", "funnel_png", "funnel_svg", "interval_svg", "number"]

_KEPT = "#1f6f8b"
_DROPS = ("#b4470f", "#cf6a24", "#e08f4a", "#ebb27a", "#f2cfa9")
_HOLDERS = ("urls", "pages")  # units that contain the things counted after them
_WIDTH, _LEFT, _RIGHT, _BAR, _LINE, _GAP = 760, 128, 118, 26, 17, 22


def number(value: float) -> str:
    """A number as people write it: 12,345; 0.734; 5e-04."""
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 0.01 else f"{value:.1e}"


# --- the funnel -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bar:
    """One stage of the funnel. ``full`` is the count that fills the width; ``linked``: it takes what the bar above
    kept, so both are on one scale."""

    stage: str
    funnel: Funnel
    full: int
    linked: bool

    @property
    def drops(self) -> list[tuple[str, int]]:
        """Reasons that dropped something, the largest first."""
        return sorted(((r, n) for r, n in self.funnel.dropped.items() if n), key=lambda item: (-item[1], item[0]))

    @property
    def share(self) -> float:
        return self.funnel.kept / self.funnel.entered if self.funnel.entered else 1.0


def bars(funnels: Iterable[tuple[str, Funnel]]) -> list[Bar]:
    """The funnel's stages on their scales.

    400 pages may hold 9,000 pairs, so what holds others has a scale of its own. From pairs to images to samples it is
    one thing under several names: a stage that takes what the one above kept, or a part of it, stays on its scale.
    """
    found: list[Bar] = []
    for stage, funnel in funnels:
        above = found[-1] if found else None
        if above and above.funnel.unit not in _HOLDERS and funnel.entered <= above.funnel.kept:
            found.append(Bar(stage, funnel, above.full, linked=True))
        else:
            found.append(Bar(stage, funnel, max(1, funnel.entered), linked=False))
    return found


def _drop_style(place: int) -> str:
    place = min(place, len(_DROPS) - 1)
    return f"var(--drop-{place}, {_DROPS[place]})"


def _legend(bar: Bar) -> list[list[tuple[int, int, str, int]]]:
    """Lines of (x, place, reason in words, count) below a bar, broken where the width ends."""
    lines: list[list[tuple[int, int, str, int]]] = []
    x = _WIDTH
    for place, (reason, count) in enumerate(bar.drops):
        reason = reason.replace("_", " ")
        width = 14 + round(6.8 * len(f"{reason} {count:,}")) + 12  # system fonts vary; better a gap than an overlap
        if x + width > _WIDTH - _LEFT and (x > 0 or not lines):
            lines.append([])
            x = 0
        lines[-1].append((x, place, reason, count))
        x += width
    return lines


def funnel_svg(rows: Sequence[Bar]) -> Markup:
    """A bar per stage: kept, then what was dropped by reason; bands join bars that are on one scale."""
    parts: list[Markup] = []
    room = _WIDTH - _LEFT - _RIGHT
    y = 8
    for place, bar in enumerate(rows):
        scale = room / bar.full
        if bar.linked:
            above = rows[place - 1]
            top = y - _GAP - _LINE * len(_legend(above)) + 2
            points = (
                f"{_LEFT},{top} {_LEFT + above.funnel.kept * scale:.1f},{top} "
                f"{_LEFT + bar.funnel.entered * scale:.1f},{y} {_LEFT},{y}"
            )
            parts.insert(0, Markup('<polygon points="{}" fill="var(--band, #e4eff3)"/>').format(points))
        parts.append(
            Markup(
                '<text x="{}" y="{}" text-anchor="end" font-weight="600" fill="currentColor">{}</text>'
                '<text x="{}" y="{}" text-anchor="end" class="soft">{} {}</text>'
            ).format(
                *(_LEFT - 14, y + 12, bar.stage),
                *(_LEFT - 14, y + 27, f"{bar.funnel.entered:,}", bar.funnel.unit),
            )
        )
        x = float(_LEFT)
        segments = [("kept", bar.funnel.kept, f"var(--kept, {_KEPT})")]
        segments += [(reason, count, _drop_style(index)) for index, (reason, count) in enumerate(bar.drops)]
        for name, count, fill in segments:
            width = count * scale
            parts.append(
                Markup(
                    '<rect x="{}" y="{}" width="{}" height="{}" fill="{}"><title>{} {}: {} ({})</title></rect>'
                ).format(
                    f"{x:.1f}",
                    y,
                    f"{max(width - 0.6, 0.4):.1f}",
                    _BAR,
                    fill,
                    *(bar.stage, name, f"{count:,}", _percent(count, bar.funnel.entered)),
                )
            )
            x += width
        parts.append(
            Markup(
                '<text x="{}" y="{}" font-weight="600" fill="currentColor">{}</text>'
                '<text x="{}" y="{}" class="soft">{} kept</text>'
            ).format(
                *(f"{x + 10:.1f}", y + 12, f"{bar.funnel.kept:,}"),
                *(f"{x + 10:.1f}", y + 26, _percent(bar.funnel.kept, bar.funnel.entered)),
            )
        )
        y += _BAR
        for line in _legend(bar):
            y += _LINE
            for dx, index, reason, count in line:
                parts.append(
                    Markup(
                        '<rect x="{}" y="{}" width="9" height="9" rx="2" fill="{}"/>'
                        '<text x="{}" y="{}" class="soft">{} <tspan fill="currentColor">{}</tspan></text>'
                    ).format(_LEFT + dx, y - 9, _drop_style(index), _LEFT + dx + 14, y, reason, f"{count:,}")
                )
        y += _GAP
    # Presentation attributes rather than the page's style sheet, so that the drawing also stands alone.
    return Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {} {}" role="img" class="funnel" font-size="12"'
        ' font-family="system-ui, sans-serif"><title>What each stage kept and dropped</title>'
        "<style>.funnel .soft {{ fill: var(--soft, #5d6975); }}</style>{}</svg>"
    ).format(_WIDTH, max(y - _GAP + 10, 1), Markup("").join(parts))


def _percent(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "–"


def funnel_png(rows: Sequence[Bar]) -> bytes:
    """The same picture as PNG on white, the same bytes for the same funnel."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Polygon, Rectangle

    height = max(16, sum(_BAR + _LINE * len(_legend(bar)) + _GAP for bar in rows) - _GAP + 16)
    figure = Figure(figsize=(_WIDTH / 100, height / 100), dpi=200, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(0, _WIDTH)
    axes.set_ylim(height, 0)

    def write(x: float, y: float, text: str, *, right: bool = False, bold: bool = False, soft: bool = False) -> None:
        axes.text(
            *(x, y, text),
            fontsize=7.2 if soft else 7.8,
            ha="right" if right else "left",
            va="center",
            weight="bold" if bold else "normal",
            color="#5d6975" if soft else "#1c2329",
            parse_math=False,
        )

    room, y = _WIDTH - _LEFT - _RIGHT, 8.0
    for place, bar in enumerate(rows):
        scale = room / bar.full
        if bar.linked:
            above = rows[place - 1]
            top = y - _GAP - _LINE * len(_legend(above)) + 2
            ends = (_LEFT + above.funnel.kept * scale, _LEFT + bar.funnel.entered * scale)
            band = [(_LEFT, top), (ends[0], top), (ends[1], y), (_LEFT, y)]
            axes.add_patch(Polygon(band, facecolor="#e4eff3", linewidth=0, zorder=0))
        write(_LEFT - 14, y + 7, bar.stage, right=True, bold=True)
        write(_LEFT - 14, y + 21, f"{bar.funnel.entered:,} {bar.funnel.unit}", right=True, soft=True)
        x = float(_LEFT)
        counts = [(bar.funnel.kept, _KEPT)]
        counts += [(count, _DROPS[min(index, 4)]) for index, (_, count) in enumerate(bar.drops)]
        for count, colour in counts:
            axes.add_patch(Rectangle((x, y), max(count * scale - 0.6, 0.4), _BAR, facecolor=colour, linewidth=0))
            x += count * scale
        write(x + 10, y + 7, f"{bar.funnel.kept:,}", bold=True)
        write(x + 10, y + 21, f"{_percent(bar.funnel.kept, bar.funnel.entered)} kept", soft=True)
        y += _BAR
        for line in _legend(bar):
            y += _LINE
            for dx, index, reason, count in line:
                colour = _DROPS[min(index, 4)]
                axes.add_patch(Rectangle((_LEFT + dx, y - 9), 9, 9, facecolor=colour, linewidth=0))
                write(_LEFT + dx + 14, y - 4.5, f"{reason} {count:,}", soft=True)
        y += _GAP
    return png(figure)


# --- curves and intervals ---------------------------------------------------------------------------------------------

_POINTS = 240  # more than the width in pixels shows nothing more


def _ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten) from ``low`` to ``high``."""
    step = 10 ** math.floor(math.log10((high - low) / count))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= count)
    first = math.ceil(low / step - 1e-9)
    return [place * step for place in range(first, math.floor(high / step + 1e-9) + 1)]


def _tick(value: float) -> str:
    if value and (abs(value) >= 1e4 or abs(value) < 1e-3):
        for size, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
            if abs(value) >= size:
                return f"{value / size:g}{name}"
        return f"{value:.0e}".replace("e-0", "e-")
    return f"{value:g}"


def _binned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float, float, float]]:
    """(x, mean, lowest, highest) of at most 240 bins of neighbours."""
    size = -(-len(points) // _POINTS)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [
        (group[-1][0], sum(y for _, y in group) / len(group), min(y for _, y in group), max(y for _, y in group))
        for group in groups
    ]


def curve_svg(name: str, points: Sequence[tuple[float, float]], x_label: str) -> Markup:
    """One curve with axes; hovering a point shows its numbers. Long curves show mean and range of neighbours."""
    points = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    if not points:
        return Markup("")
    binned = _binned(points)
    width, height, left, right, top, bottom = 340, 200, 46, 10, 12, 38
    x_low, x_high = min(0.0, binned[0][0]), max(x for x, *_ in binned)
    y_low, y_high = min(low for *_, low, _ in binned), max(high for *_, high in binned)
    x_high = x_high if x_high > x_low else x_low + 1
    margin = 0.06 * (y_high - y_low) or 0.06 * abs(y_high) or 1.0
    y_low, y_high = (0.0 if 0 <= y_low < 0.3 * y_high else y_low - margin), y_high + margin

    def at(x: float, y: float) -> tuple[str, str]:
        across = left + (x - x_low) / (x_high - x_low) * (width - left - right)
        down = height - bottom - (y - y_low) / (y_high - y_low) * (height - top - bottom)
        return f"{across:.1f}", f"{down:.1f}"

    parts: list[Markup] = []
    for tick in _ticks(y_low, y_high):
        _, down = at(x_low, tick)
        parts.append(
            Markup(
                '<line x1="{0}" x2="{1}" y1="{2}" y2="{2}" class="grid"/>'
                '<text x="{3}" y="{2}" dy="3.5" text-anchor="end">{4}</text>'
            ).format(left, width - right, down, left - 7, _tick(tick))
        )
    for tick in _ticks(x_low, x_high):
        across, _ = at(tick, y_low)
        parts.append(
            Markup('<text x="{}" y="{}" text-anchor="middle">{}</text>').format(
                across, height - bottom + 15, _tick(tick)
            )
        )
    parts.append(
        Markup('<text x="{}" y="{}" text-anchor="middle">{}</text>').format(
            (left + width - right) / 2, height - 5, x_label
        )
    )
    if len(binned) < len(points):
        over = [at(x, highest) for x, _, _, highest in binned]
        under = [at(x, lowest) for x, _, lowest, _ in reversed(binned)]
        outline = " ".join(",".join(place) for place in over + under)
        parts.append(Markup('<polygon points="{}" class="range"/>').format(outline))
    line = " ".join(",".join(at(x, y)) for x, y, *_ in binned)
    parts.append(Markup('<polyline points="{}" class="line"/>').format(line))
    for x, y, *_ in binned:
        across, down = at(x, y)
        parts.append(
            Markup('<circle cx="{}" cy="{}" r="5" class="point"><title>{} {}: {} {}</title></circle>').format(
                across, down, number(x), x_label, name, number(y)
            )
        )
    return Markup('<svg viewBox="0 0 {} {}" role="img" class="curve"><title>{}</title>{}</svg>').format(
        width, height, name, Markup("").join(parts)
    )


def interval_svg(value: float, low: float | None, high: float | None) -> Markup:
    """A share between 0 and 1 as a dot on a line, with its interval as a bar."""
    parts = [Markup('<line x1="4" x2="256" y1="9" y2="9" class="track"/>')]
    if low is not None and high is not None:
        parts.append(
            Markup('<rect x="{}" y="4" width="{}" height="10" rx="2" class="interval"/>').format(
                f"{4 + 252 * low:.1f}", f"{max(252 * (high - low), 1):.1f}"
            )
        )
    parts.append(Markup('<circle cx="{}" cy="9" r="3" class="dot"/>').format(f"{4 + 252 * value:.1f}"))
    return Markup('<svg viewBox="0 0 260 18" class="estimate" aria-hidden="true">{}</svg>').format(
        Markup("").join(parts)
    )
