"""Save matplotlib figures as PNG: the same bytes for the same figure, and texts from the web taken literally."""

from __future__ import annotations

import io
import warnings
from typing import Any

from matplotlib.figure import Figure
from matplotlib.text import Text

__all__ = ["APART", "INK", "QUIET", "RIGHT", "WRONG", "disable_mathtext", "png"]

INK, QUIET = "#1f2933", "#6b7785"
"""Colours of what is said, and of what stands beside it."""

RIGHT, WRONG, APART = "#1a7f5a", "#b4470f", "#0969da"
"""Colours of right and wrong answers, as the report's pages have them, and of what is separated from a baseline."""


def png(figure: Figure, **options: Any) -> bytes:  # noqa: ANN401 - of Figure.savefig: dpi, bbox_inches, ...
    """Render ``figure`` as PNG, without matplotlib's version in the file and without mathtext (captions hold ``$``)."""
    disable_mathtext(figure)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # A caption in a script the font lacks shows boxes; the figure is still worth having.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(buffer, format="png", metadata={"Software": None}, **options)
    return buffer.getvalue()


def disable_mathtext(figure: Figure) -> None:
    """Take all texts of ``figure`` literally, except the powers of ten that matplotlib writes on logarithmic axes."""
    axes = [axis for one in figure.axes for axis in (one.xaxis, one.yaxis) if axis.get_scale() == "log"]
    powers = {label for axis in axes for label in axis.get_ticklabels(which="both")}
    texts: set[Text] = set(figure.findobj(Text))
    for text in texts - powers:
        text.set_parse_math(False)
