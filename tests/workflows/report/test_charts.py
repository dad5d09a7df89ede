"""Charts checked by reading them back: widths against counts, lines against points, files with other readers."""

from __future__ import annotations

import io
from xml.etree import ElementTree

import pytest
from matplotlib.patches import Polygon, Rectangle
from PIL import Image

from infra.run.manifest import Funnel
from workflows.report import charts
from workflows.report.bars import bars

FUNNELS = [
    ("crawl", Funnel(unit="urls", entered=100, kept=80, dropped={"robots": 15, "timeout": 5})),
    ("extract", Funnel(unit="candidates", entered=1000, kept=600, dropped={"no_text": 400, "never": 0})),
    ("filter", Funnel(unit="images", entered=600, kept=450, dropped={f"rule_{n}": 10 for n in range(15)})),
    ("train", Funnel(unit="samples", entered=400, kept=400)),
]


def drawn(funnels):
    (axes,) = charts.funnel(bars(funnels)).axes
    return axes


def segments(axes):
    """The widths of each bar's segments, from the top bar down; legend squares are smaller than a bar is high."""
    rows: dict[float, list[float]] = {}
    for patch in axes.patches:
        if isinstance(patch, Rectangle) and patch.get_height() > 20:
            rows.setdefault(patch.get_y(), []).append(patch.get_width())
    return [rows[y] for y in sorted(rows)]


def test_a_scale_lasts_until_something_that_holds_others():
    rows = bars(FUNNELS)
    assert [(bar.full, bar.linked) for bar in rows] == [(100, False), (1000, False), (1000, True), (1000, True)]
    assert rows[0].drops == [("robots", 15), ("timeout", 5)]
    assert rows[1].drops == [("no_text", 400)]


def test_widths_are_the_counts():
    axes = drawn(FUNNELS)
    crawl, extract, filtered, train = segments(axes)
    assert crawl[0] / crawl[1] == pytest.approx(80 / 15, rel=0.02)
    assert extract[0] == pytest.approx(filtered[0] * 600 / 450, rel=0.01)
    assert [len(row) for row in (crawl, extract, filtered, train)] == [3, 2, 16, 1]
    assert sum(isinstance(patch, Polygon) for patch in axes.patches) == 2
    texts = [text.get_text() for text in axes.texts]
    assert {"crawl", "100 urls", "80", "80.0% kept", "robots 15", "no text 400"} <= set(texts)


def test_nothing_leaves_the_drawing():
    axes = drawn(FUNNELS)
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    axes.figure.canvas.draw()
    for item in (*axes.patches, *axes.texts):
        box = item.get_window_extent().transformed(axes.transData.inverted())
        assert left <= box.x0 and box.x1 <= right
        assert top <= box.y1 and box.y0 <= bottom


def test_names_cannot_break_out():
    nasty = '$"><script>alert(1)</script>$'
    funnel = charts.funnel(bars([(nasty, Funnel(unit=nasty, entered=2, kept=1, dropped={nasty: 1}))]))
    for figure in (funnel, charts.curve([(0, 1), (1, 2)], nasty)):
        tree = ElementTree.fromstring(charts.image(figure, "svg"))
        assert any(nasty in "".join(element.itertext()) for element in tree.iter())
        assert not [element for element in tree.iter() if element.tag.endswith("script")]


def test_an_empty_or_zero_funnel_is_still_a_drawing():
    for funnels in ([], [("a", Funnel(unit="urls", entered=0, kept=0))]):
        figure = charts.funnel(bars(funnels))
        ElementTree.fromstring(charts.image(figure, "svg"))
        assert charts.image(figure, "png")


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_files_are_reproducible(kind):
    first, second = (charts.image(charts.funnel(bars(FUNNELS)), kind) for _ in range(2))
    assert first == second
    curve = [(float(x), 1 / (x + 1)) for x in range(1000)]
    assert charts.image(charts.curve(curve, "step"), kind) == charts.image(charts.curve(curve, "step"), kind)


def test_the_png_is_sharp_enough_for_a_page():
    with Image.open(io.BytesIO(charts.image(charts.funnel(bars(FUNNELS)), "png"))) as image:
        assert image.width == 1520


def test_a_long_curve_keeps_its_extremes():
    (axes,) = charts.curve([(float(x), 100.0 if x == 5000 else 0.0) for x in range(10_000)], "samples").axes
    (line,), (band,) = axes.lines, axes.collections
    assert 100 < len(line.get_xdata()) <= 240
    assert max(line.get_ydata()) < 100
    heights = band.get_paths()[0].vertices[:, 1]
    assert (min(heights), max(heights)) == (0, 100)


def test_a_short_curve_has_its_points_and_no_band():
    (axes,) = charts.curve([(1, 3.0), (2, 2.5), (4, 2.0)], "samples").axes
    (line,) = axes.lines
    assert (list(line.get_xdata()), list(line.get_ydata())) == ([1, 2, 4], [3.0, 2.5, 2.0])
    assert not axes.collections


def test_curves_without_spread():
    for points in ([(5, 0.0)], [(5, 2.0), (6, 2.0)]):
        ElementTree.fromstring(charts.image(charts.curve(points, "samples"), "svg"))
