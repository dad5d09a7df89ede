"""Figures as PNG bytes: the same figure gives the same bytes, because no version of matplotlib is written into them."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["png"]


def png(figure: Figure, **options: Any) -> bytes:  # noqa: ANN401 - those of Figure.savefig
    """Return ``figure`` encoded as PNG; ``options`` are those of matplotlib's ``savefig``, such as ``dpi``."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None}, **options)
    return buffer.getvalue()
