"""PNGs are a function of the figure."""

from matplotlib.figure import Figure
from PIL import Image

from infra.figures import png


def figure():
    drawn = Figure(figsize=(2, 1))
    drawn.subplots().plot([1, 3, 2])
    return drawn


def test_equal_figures_give_equal_bytes_without_a_version(tmp_path):
    first = png(figure(), dpi=50)
    assert first == png(figure(), dpi=50) != png(figure(), dpi=60)
    assert b"Matplotlib" not in first
    (tmp_path / "figure.png").write_bytes(first)
    with Image.open(tmp_path / "figure.png") as image:
        assert image.size == (100, 50)
