"""Pictures of validation: the same images at every step, and what the model answers; MLflow has a slider for them.

Drawn with Pillow, in some 20 ms: matplotlib would take a second of a core beside the training.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps

from infra import metrics
from infra.ranking import top_k

__all__ = ["Pictures"]

_MOST = 256  # images of a test set that are kept, small, to be shown
_SIDE, _GAP = 112, 8  # of an image, pixels
_TITLE, _LINE, _TEXT = 28, 15, 230  # height of the title and of a line, width of a caption
_COLUMNS, _ROWS = 6, 2  # of the errors
_QUERIES, _ANSWERS = 6, 5
_RIGHT, _WRONG, _INK, _QUIET = "#1a7f5a", "#c2410c", "#1f2933", "#6b7785"

Floats = NDArray[np.float32]


class Pictures:
    """The first images of the test set ``name``. ``words``: its classes, or the wordings of its captions."""

    def __init__(self, name: str, words: Sequence[str] = ()) -> None:
        self.name, self.words = name, list(words)
        self._images: list[Image.Image] = []
        font = str(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf"))
        self._font, self._bold = ImageFont.truetype(font, 11), ImageFont.truetype(font, 14)

    def add(self, image: Image.Image) -> None:
        """Keep the next image of the set, if it is one of the first."""
        if len(self._images) < _MOST:
            self._images.append(ImageOps.contain(image.convert("RGB"), (_SIDE, _SIDE)))

    def errors(self, images: Floats, classifier: Floats, labels: Sequence[int], scale: float) -> bytes:
        """Draw the images that are classified wrong, the surest first, then right ones, as PNG.

        ``images`` (n, d) and ``classifier`` (classes, d) have unit rows.
        """
        count = len(self._images)
        found = metrics.classify(images[:count], classifier, labels[:count], scale)
        confidence, right = np.asarray(found.confidence), found.rank == 0
        shown = np.lexsort((-confidence, right))[: _COLUMNS * _ROWS].tolist()
        title = f"{self.name}: {int((~right).sum())} of {count} images wrong, the surest first"
        height = _SIDE + 2 * _LINE + _GAP
        canvas = _Canvas(_COLUMNS * (_SIDE + _GAP) + _GAP, _ROWS * height, title, self._bold)
        for place, number in enumerate(shown):
            x, y = _GAP + place % _COLUMNS * (_SIDE + _GAP), _TITLE + place // _COLUMNS * height
            colour = _RIGHT if right[number] else _WRONG
            canvas.image(x, y, self._images[number], colour)
            canvas.text(x, y + _SIDE + 2, _short(self.words[labels[number]], 17), self._font, _INK)
            answer = f"{confidence[number]:.0%} {self.words[found.predicted[number]]}"
            canvas.text(x, y + _SIDE + 2 + _LINE, _short(answer, 17), self._font, colour)
        return canvas.png()

    def retrieval(self, images: Floats, texts: Floats, wordings: Sequence[int], owners: Sequence[int]) -> bytes:
        """Draw some captions with the images they find among those kept, best first, as PNG.

        ``texts`` (wordings, d); caption i is ``texts[wordings[i]]`` and belongs to image ``owners[i]``.
        """
        count = len(self._images)
        captions = np.flatnonzero(np.asarray(owners) < count)
        asked = captions[np.linspace(0, len(captions) - 1, min(_QUERIES, len(captions))).astype(int)].tolist()
        scores = texts[np.array([wordings[caption] for caption in asked], int)] @ images[:count].T
        best = top_k(scores, min(_ANSWERS, count))
        title = f"{self.name}: what captions find among {count} images"
        height = _SIDE + _LINE + _GAP
        canvas = _Canvas(_TEXT + _ANSWERS * (_SIDE + _GAP) + _GAP, len(asked) * height, title, self._bold)
        for row, caption in enumerate(asked):
            y = _TITLE + row * height
            lines = textwrap.wrap(self.words[wordings[caption]], 32, max_lines=6, placeholder=" …")
            for line, text in enumerate(lines):
                canvas.text(_GAP, y + _GAP + line * _LINE, text, self._font, _INK)
            for column, number in enumerate(best[row].tolist()):
                own = number == owners[caption]
                x, colour = _TEXT + column * (_SIDE + _GAP), _RIGHT if own else _QUIET
                canvas.image(x, y, self._images[number], _RIGHT if own else None)
                canvas.text(x, y + _SIDE + 2, f"{scores[row, number]:.2f}", self._font, colour)
        return canvas.png()


class _Canvas:
    """A white page below a title."""

    def __init__(self, width: int, height: int, title: str, font: ImageFont.FreeTypeFont) -> None:
        self._page = Image.new("RGB", (width, height + _TITLE), "white")
        self._draw = ImageDraw.Draw(self._page)
        self.text(_GAP, 5, title, font, _INK)

    def text(self, x: int, y: int, text: str, font: ImageFont.FreeTypeFont, colour: str) -> None:
        self._draw.text((x, y), text, colour, font)

    def image(self, x: int, y: int, image: Image.Image, frame: str | None) -> None:
        """Put ``image`` in the middle of a square at (x, y)."""
        self._page.paste(image, (x + (_SIDE - image.width) // 2, y + (_SIDE - image.height) // 2))
        if frame:
            self._draw.rectangle((x - 2, y - 2, x + _SIDE + 1, y + _SIDE + 1), outline=frame, width=2)

    def png(self) -> bytes:
        out = io.BytesIO()
        self._page.save(out, "PNG")
        return out.getvalue()


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
