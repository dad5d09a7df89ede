"""Draw and measure text in any script: each character by the first font that has it.

DejaVu Sans ships with matplotlib and has Latin, Greek, Cyrillic, Arabic and more. Chinese, Japanese, Korean and the
scripts of South and Southeast Asia come from Google's Noto fonts (OFL), as the justmytype packages bring them. A
character that none has is written as its number, ``U+1F600``, which can be looked up.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from functools import cache
from itertools import groupby
from pathlib import Path

import regex
from fontTools.ttLib import TTFont
from PIL import ImageDraw, ImageFont

__all__ = ["clusters", "draw_text", "text_length"]

_REGULAR = 400  # of the weights in a font file, of which the thinnest is the default
_DEJAVU = ("matplotlib", "mpl-data/fonts/ttf/DejaVuSans.ttf")
_SMALL = (
    *(("justmytype_intl_sea", name) for name in ("Thai", "Lao", "Khmer", "Myanmar")),
    *(("justmytype_intl_south_asia", name) for name in ("Devanagari", "Bengali", "Tamil", "Telugu")),
)
_CJK = tuple(("justmytype_intl_cjk", name) for name in ("SC", "TC", "KR", "JP"))
_KANA = regex.compile(r"[\p{Hiragana}\p{Katakana}]")
_HANGUL = regex.compile(r"\p{Hangul}")


def draw_text(pen: ImageDraw.ImageDraw, place: tuple[float, float], text: str, ink: str, size: int) -> None:
    """Draw one line of text from its upper left corner on."""
    left, top = place
    baseline = top + _font(_path(*_DEJAVU), size).getmetrics()[0]
    for path, run in _runs(text):
        font = _font(path, size)
        pen.text((left, baseline), run, ink, font, anchor="ls")
        left += font.getlength(run)


def text_length(text: str, size: int) -> float:
    """Width of a line in pixels."""
    return sum(_font(path, size).getlength(run) for path, run in _runs(text))


def clusters(text: str) -> list[str]:
    """Split ``text`` into grapheme clusters: letters with their marks."""
    found: list[str] = regex.findall(r"\X", text)
    return found


def _runs(text: str) -> Iterator[tuple[Path, str]]:
    """Pieces of ``text``, each with the font that has all of it."""
    if text.isascii():
        yield _path(*_DEJAVU), text
        return
    order = (_DEJAVU, *_SMALL, *_cjk(text))
    known = [(_of(cluster, order), cluster) for cluster in clusters(text)]
    for path, group in groupby(known, key=lambda item: item[0]):
        run = "".join(cluster for _, cluster in group)
        yield (path, run) if path else (_path(*_DEJAVU), "".join(f"U+{ord(char):04X}" for char in run))


def _cjk(text: str) -> tuple[tuple[str, str], ...]:
    """The fonts of East Asia, that of the text's language first: each draws Han characters in its own way."""
    first = "JP" if _KANA.search(text) else "KR" if _HANGUL.search(text) else "SC"
    return tuple(sorted(_CJK, key=lambda font: font[1] != first))


def _of(cluster: str, order: tuple[tuple[str, str], ...]) -> Path | None:
    """The first font that has all characters of ``cluster``."""
    for package, name in order:
        path = _path(package, name)
        if path and all(ord(char) in _covered(path) or _is_unseen(char) for char in cluster):
            return path
    return None


def _is_unseen(char: str) -> bool:
    """True for joiners, selectors and marks of direction."""
    return char in "\u200b\u200c\u200d\u200e\u200f\ufe0e\ufe0f\u2060\ufeff"


@cache
def _path(package: str, name: str) -> Path:
    """The file of a font in an installed package."""
    spec = importlib.util.find_spec(package)
    assert spec and spec.origin, f"{package} is a dependency"
    folder = Path(spec.origin).parent
    if package == "matplotlib":
        return folder / name
    return next((folder / f"fonts/ofl/notosans{name.lower()}").glob("*.ttf"))


@cache
def _covered(path: Path) -> frozenset[int]:
    with TTFont(path, lazy=True) as font:
        return frozenset(font.getBestCmap())


@cache
def _font(path: Path, size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.truetype(str(path), size)
    if "[" in path.name:  # NotoSansThai[wdth,wght].ttf: a file with many weights
        axes = font.get_variation_axes()  # weight goes to 900, width to 100
        font.set_variation_by_axes([_REGULAR if (axis["maximum"] or 0) > _REGULAR else 100 for axis in axes])
    return font
