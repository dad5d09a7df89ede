"""Render the results of a search as one self-contained HTML page, without scripts."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from infra.errors import DataError
from infra.formats.testset import decode_image
from workflows.run.look.errors import Errors
from workflows.run.look.search import Searched

__all__ = ["render"]

_SIDE = 256  # pixels of a thumbnail at most


def render(found: Searched, errors: Sequence[Errors] = ()) -> str:
    """The page, with the worst ``errors`` of evaluations below what was found.

    All text in it is escaped, since captions come from strangers.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    query = _thumbnail(Path(found.query).read_bytes()) if Path(found.query).is_file() else ""
    images = [(one, _thumbnail(one.image)) for one in found.images]
    worst = [(of, [(one, _thumbnail(one.image)) for one in of.worst]) for of in errors]
    return environment.get_template("search.html.j2").render(found=found, query=query, images=images, errors=worst)


def _thumbnail(data: bytes | None) -> str:
    """An image as a data URI; empty if it is gone or cannot be decoded."""
    if data is None:
        return ""
    try:
        image = decode_image(data, "")
    except DataError:
        return ""
    image.thumbnail((_SIDE, _SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=85)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
