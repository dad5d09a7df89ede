"""Drawings checked by reading them back: widths against counts, ticks against their definition."""

from __future__ import annotations

import io
import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from PIL import Image

from infra.run.manifest import Funnel
from workflows.report import charts

SVG = "{http://www.w3.org/2000/svg}"
FUNNELS = [
    ("crawl", Funnel(unit="urls", entered=100, kept=80, dropped={"robots": 15, "timeout": 5})),
    ("extract", Funnel(unit="candidates", entered=1000, kept=600, dropped={"no_text": 400, "never": 0})),
    ("filter", Funnel(unit="images", entered=600, kept=450, dropped={f"rule_{n}": 10 for n in range(15)})),
    ("train", Funnel(unit="samples", entered=400, kept=400)),
]


def test_a_scale_lasts_until_something_that_holds_others():
    rows = charts.bars(FUNNELS)
    assert [(bar.full, bar.linked) for bar in rows] == [(100, False), (1000, False), (1000, True), (1000, True)]
    assert rows[0].drops == [("robots", 15), ("timeout", 5)]
    assert rows[1].drops == [("no_text", 400)]


def test_widths_are_the_counts():
    tree = ElementTree.fromstring(charts.funnel_svg(charts.bars(FUNNELS)))
    rects = {r.find(f"{SVG}title").text: float(r.get("width")) for r in tree.iter(f"{SVG}rect") if len(r)}
    assert rects["crawl kept: 80 (80.0%)"] / rects["crawl robots: 15 (15.0%)"] == pytest.approx(80 / 15, rel=0.02)
    assert rects["extract kept: 600 (60.0%)"] == pytest.approx(rects["filter kept: 450 (75.0%)"] * 600 / 450, rel=0.01)
    assert sum("rule" in title for title in rects) == 15
    assert len(list(tree.iter(f"{SVG}polygon"))) == 2


def test_nothing_leaves_the_drawing():
    tree = ElementTree.fromstring(charts.funnel_svg(charts.bars(FUNNELS)))
    width, height = map(float, tree.get("viewBox").split()[2:])
    for element in (*tree.iter(f"{SVG}rect"), *tree.iter(f"{SVG}text")):
        assert 0 <= float(element.get("x")) <= width
        assert 0 <= float(element.get("y")) <= height


def test_names_cannot_break_out():
    nasty = '"><script>alert(1)</script>'
    drawing = charts.funnel_svg(charts.bars([(nasty, Funnel(unit=nasty, entered=2, kept=1, dropped={nasty: 1}))]))
    drawing += charts.curve_svg(nasty, [(0, 1), (1, 2)], nasty)
    assert "<script" not in drawing
    assert "&lt;script&gt;" in drawing


def test_an_empty_or_zero_funnel_is_still_a_drawing():
    for funnels in ([], [("a", Funnel(unit="urls", entered=0, kept=0))]):
        ElementTree.fromstring(charts.funnel_svg(charts.bars(funnels)))
        assert charts.funnel_png(charts.bars(funnels))


def test_the_picture_is_reproducible():
    first, second = (charts.funnel_png(charts.bars(FUNNELS)) for _ in range(2))
    assert first == second
    with Image.open(io.BytesIO(first)) as image:
        assert image.width == 1520


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 240_000), (-3, 7), (1e-5, 5e-4), (99.2, 99.9)])
def test_ticks_are_round_few_and_inside(low, high):
    ticks = charts._ticks(low, high)
    assert 1 <= len(ticks) <= 5
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in ticks)
    steps = {f"{b - a:.0e}"[0] for a, b in pairwise(ticks)}
    assert steps <= {"1", "2", "5"}


def test_a_long_curve_keeps_its_extremes():
    points = [(float(x), 100.0 if x == 5000 else 0.0) for x in range(10_000)]
    drawing = charts.curve_svg("loss", points, "samples")
    assert drawing.count("<circle") <= 240
    assert 'class="range"' in drawing
    band = re.search(r'polygon points="([^"]+)"', drawing).group(1)
    heights = [float(place.split(",")[1]) for place in band.split()]
    assert max(heights) - min(heights) > 100


def test_curves_without_numbers_or_spread():
    assert charts.curve_svg("loss", [], "samples") == ""
    assert charts.curve_svg("loss", [(1, float("nan"))], "samples") == ""
    ElementTree.fromstring(charts.curve_svg("loss", [(5, 0.0)], "samples"))
    ElementTree.fromstring(charts.curve_svg("loss", [(5, 2.0), (6, 2.0)], "samples"))


@pytest.mark.parametrize(
    ("value", "text"), [(12345, "12,345"), (0.73456, "0.735"), (5e-4, "5.0e-04"), (1234.5, "1,234"), (0, "0")]
)
def test_numbers_as_people_write_them(value, text):
    assert charts.number(value) == text
