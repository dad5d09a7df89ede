"""Figures are saved the same each time, whatever their texts hold."""

from __future__ import annotations

import io

from matplotlib.figure import Figure
from PIL import Image

from infra.figures import png


def drawn(title: str) -> Figure:
    figure = Figure(figsize=(3, 2))
    figure.subplots().set_title(title)
    return figure


def test_the_same_figure_gives_the_same_bytes_without_the_software_that_drew_it():
    first, again = png(drawn("a title")), png(drawn("a title"))
    assert first == again
    assert "Software" not in Image.open(io.BytesIO(first)).info


def test_texts_are_taken_literally_in_any_script():
    for text in ("$10 and $20", r"$\frac{1}{", "一つの赤い円"):
        assert Image.open(io.BytesIO(png(drawn(text), dpi=50))).size == (150, 100)
    assert png(drawn("$x$")) != png(drawn("x"))


def test_logarithmic_axes_keep_their_powers_of_ten():
    def figure():
        figure = Figure(figsize=(3, 2))
        axes = figure.subplots()
        axes.loglog([1, 10, 1000], [1, 100, 1000])
        axes.set(xlabel="rank", ylabel="captions")
        return figure

    plain = io.BytesIO()
    figure().savefig(plain, format="png", metadata={"Software": None})
    assert png(figure()) == plain.getvalue()
