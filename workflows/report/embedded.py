"""Images of a report: the funnel, the figures of the artifacts, the curves of a training.

matplotlib, whose import takes a second, is loaded by what draws something.
"""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image

from workflows.report.bars import Bar
from workflows.report.text import label
from workflows.report.view import HISTORY, StageView

__all__ = ["Curve", "EmbeddedImage", "curves", "draw_funnel", "images", "pages", "svg_uri"]

_SHRINK_ABOVE = 150_000  # bytes of a PNG; photographs in PNG would make the page heavy


@dataclass(frozen=True)
class EmbeddedImage:
    """An image that a stage wrote to ``figures/``; sizes in pixels."""

    uri: str
    label: str
    count: int | None  # rows dropped for the reason the image shows
    width: int
    height: int


def images(view: StageView) -> list[EmbeddedImage]:
    """The images among the figures of a stage, without the training curves that the report draws itself."""
    if view.artifact is None or view.manifest is None:
        return []
    drawn = {"training"} if view.artifact.files(HISTORY) else set()
    dropped = view.manifest.funnel.dropped if view.manifest.funnel else {}
    found = []
    for file in view.artifact.files("figures/", ".png"):
        name = Path(file.path).stem
        if name not in drawn:
            data = view.artifact.read(file.path)
            # The first chunk of a PNG holds width and height.
            width, height = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
            reason = max((r for r in dropped if name.endswith(r)), key=len, default=None)
            found.append(EmbeddedImage(_png_uri(data), label(name), dropped[reason] if reason else None, width, height))
    return found


def pages(view: StageView) -> list[tuple[str, str]]:
    """Name and HTML of the pages among the figures of a stage."""
    if view.artifact is None:
        return []
    files = view.artifact.files("figures/", ".html")
    return [(label(Path(file.path).stem), view.artifact.read(file.path).decode()) for file in files]


def _png_uri(png: bytes) -> str:
    """The PNG as a data URI; a large one as WebP where that is smaller."""
    kind, data = "png", png
    if len(png) > _SHRINK_ABOVE:
        buffer = io.BytesIO()
        Image.open(io.BytesIO(png), formats=("PNG",)).convert("RGB").save(buffer, "WEBP", quality=88, method=4)
        if buffer.tell() < len(png):
            kind, data = "webp", buffer.getvalue()
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def svg_uri(svg: bytes) -> str:
    """The drawing as a data URI."""
    return f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"


def draw_funnel(rows: Sequence[Bar], kind: Literal["png", "svg"]) -> bytes:
    """The funnel as a file of that kind."""
    from workflows.report import charts  # loads matplotlib

    return charts.image(charts.funnel(rows), kind)


@dataclass(frozen=True)
class Curve:
    """A series of the training history as a chart, with its last value."""

    name: str
    uri: str
    last: float


def curves(view: StageView) -> list[Curve]:
    """A curve over the step for every name with finite numbers in the training history."""
    if view.artifact is None or not view.artifact.files(HISTORY):
        return []
    lines = [json.loads(line) for line in view.artifact.read(HISTORY).splitlines() if line.strip()]
    step = next((key for key in ("samples", "step") if lines and key in lines[0]), None)
    if step is None:
        return []
    from workflows.report import charts  # loads matplotlib

    names = dict.fromkeys(name for line in lines for name in line if name != step)
    found = []
    for name in names:
        points = [(line[step], line[name]) for line in lines if _is_finite(line.get(name))]
        if points:
            figure = charts.curve(points, "samples seen" if step == "samples" else step)
            found.append(Curve(name, svg_uri(charts.image(figure, "svg")), points[-1][1]))
    return found


def _is_finite(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
