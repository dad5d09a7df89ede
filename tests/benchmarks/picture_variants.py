"""Copies of pictures as the web makes them, and pictures that differ in their words only: made inputs of
:mod:`tests.benchmarks.near_duplicates`, and of tests of dedup."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFont, ImageOps

__all__ = ["SCENES", "VARIANTS", "jpeg", "same_but_words", "stored"]

Picture = Image.Image
Random = np.random.Generator

WORDS = """
time year people way day man thing woman life child world school state family student group country problem hand part
place case week company system program question work number night point home water room mother area money story fact
month lot right study book eye job word business issue side kind head house service friend father power hour game line
end member law car city name team minute idea body back parent face level office door health art war history party
result change morning reason research girl guy moment air teacher force education
""".split()  # noqa: SIM905 - as a list it would fill a page


# --- files ------------------------------------------------------------------------------------------------------------


def jpeg(picture: Picture, quality: int = 85, form: str = "JPEG") -> bytes:
    """The picture as a file."""
    out = io.BytesIO()
    picture.save(out, form, quality=quality)
    return out.getvalue()


def stored(data: bytes, side: int = 256) -> bytes:
    """The file as a download stores it: the shorter side at most ``side`` pixels, as JPEG."""
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    scale = side / min(picture.size)
    if scale >= 1:
        return jpeg(picture, 95)
    return jpeg(picture.resize([max(1, round(length * scale)) for length in picture.size], Image.Resampling.BOX), 95)


# --- copies -----------------------------------------------------------------------------------------------------------


def _scaled(scale: float) -> Callable[[Picture, Random], Picture]:
    return lambda picture, rng: picture.resize(
        [max(8, round(side * scale)) for side in picture.size], Image.Resampling.LANCZOS
    )


def _enhanced(kind: type, factor: float) -> Callable[[Picture, Random], Picture]:
    return lambda picture, rng: kind(picture).enhance(factor)


def _cropped(left: float, top: float, right: float, bottom: float) -> Callable[[Picture, Random], Picture]:
    """Without these shares of its sides."""
    return lambda picture, rng: picture.crop(
        (
            round(left * picture.width),
            round(top * picture.height),
            round((1 - right) * picture.width),
            round((1 - bottom) * picture.height),
        )
    )


def _one_side_cropped(picture: Picture, rng: Random) -> Picture:
    shares = [0.0] * 4
    shares[rng.integers(4)] = 0.05
    return _cropped(*shares)(picture, rng)


def _bordered(share: float, colour: str) -> Callable[[Picture, Random], Picture]:
    return lambda picture, rng: ImageOps.expand(picture, max(1, round(share * min(picture.size))), colour)


def _with_logo(picture: Picture, rng: Random) -> Picture:
    """A site's mark in a corner: a disc and a short name, a sixth of the width."""
    picture = picture.copy()
    width = picture.width // 6
    mark = Image.new("RGBA", (width, width // 3), (0, 0, 0, 0))
    pen = ImageDraw.Draw(mark)
    colour = tuple(int(level) for level in rng.integers(0, 256, 3))
    pen.ellipse((0, 0, width // 3 - 1, width // 3 - 1), fill=(*colour, 220))
    pen.text(
        (width // 3 + 2, width // 20),
        "".join(rng.choice(list("ABCDEFGHIKLMNOPRST"), 4)),
        fill=(255, 255, 255, 220),
        font=font(max(6, width // 4)),
        stroke_width=1,
        stroke_fill=(0, 0, 0, 220),
    )
    corner, margin = int(rng.integers(4)), width // 8
    left = margin if corner % 2 else picture.width - mark.width - margin
    top = margin if corner < 2 else picture.height - mark.height - margin
    picture.paste(mark, (left, top), mark)
    return picture


def _with_bar(picture: Picture, rng: Random) -> Picture:
    """A strip below with the name of a site, as boards of pictures add it."""
    height = max(8, picture.height // 14)
    page = Image.new("RGB", (picture.width, picture.height + height), "black")
    page.paste(picture)
    ImageDraw.Draw(page).text((4, picture.height + 1), f"{rng.choice(WORDS)}.example", "white", font(height * 3 // 4))
    return page


def _squared(picture: Picture, rng: Random) -> Picture:
    return ImageOps.fit(picture, (min(picture.size),) * 2)


def _rotated(picture: Picture, rng: Random) -> Picture:
    return picture.rotate(2, Image.Resampling.BICUBIC, fillcolor=picture.getpixel((0, 0)))


VARIANTS: dict[str, tuple[str, Callable[[Picture, Random], Picture | bytes]]] = {
    "JPEG, quality 75": ("recompressed", lambda picture, rng: jpeg(picture, 75)),
    "JPEG, quality 50": ("recompressed", lambda picture, rng: jpeg(picture, 50)),
    "JPEG, quality 30": ("recompressed", lambda picture, rng: jpeg(picture, 30)),
    "WebP, quality 60": ("recompressed", lambda picture, rng: jpeg(picture, 60, "WEBP")),
    "64 colours": ("recompressed", lambda picture, rng: picture.quantize(64).convert("RGB")),
    "scaled to 1/2": ("scaled", _scaled(0.5)),
    "scaled to 1/4": ("scaled", _scaled(0.25)),
    "scaled to 3/2": ("scaled", _scaled(1.5)),
    "grey": ("grey", lambda picture, rng: picture.convert("L").convert("RGB")),
    "darker": ("tone", _enhanced(ImageEnhance.Brightness, 0.8)),
    "brighter": ("tone", _enhanced(ImageEnhance.Brightness, 1.2)),
    "less contrast": ("tone", _enhanced(ImageEnhance.Contrast, 0.8)),
    "more contrast": ("tone", _enhanced(ImageEnhance.Contrast, 1.2)),
    "less colour": ("tone", _enhanced(ImageEnhance.Color, 0.5)),
    "more colour": ("tone", _enhanced(ImageEnhance.Color, 1.5)),
    "crop 2% of each side": ("crop", _cropped(0.02, 0.02, 0.02, 0.02)),
    "crop 5% of each side": ("crop", _cropped(0.05, 0.05, 0.05, 0.05)),
    "crop 5% of one side": ("crop", _one_side_cropped),
    "crop 10% of each side": ("more", _cropped(0.1, 0.1, 0.1, 0.1)),
    "square from the middle": ("more", _squared),
    "logo in a corner": ("logo", _with_logo),
    "bar below": ("bar", _with_bar),
    "white border 5%": ("border", _bordered(0.05, "white")),
    "black border 10%": ("border", _bordered(0.1, "black")),
    "mirrored": ("mirror", lambda picture, rng: ImageOps.mirror(picture)),
    "rotated by 2 degrees": ("more", _rotated),
}
"""By name: the kind, and the change of a picture, which may choose its own file format."""


# --- pictures that differ in their words only -------------------------------------------------------------------------


@lru_cache(64)
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _words(rng: Random, count: int) -> str:
    return " ".join(rng.choice(WORDS, count)).capitalize()


def _meme(photo: Picture, rng: Random) -> Picture:
    """White words with a black rim over the top and the bottom of a photo."""
    picture = photo.resize((480, round(480 * photo.height / photo.width)))
    pen = ImageDraw.Draw(picture)
    for anchor, height in (("mt", 12), ("mb", picture.height - 12)):
        text = _words(rng, 3).upper()
        pen.text((240, height), text, "white", font(36), anchor, stroke_width=2, stroke_fill="black")
    return picture


def _caption(photo: Picture, rng: Random) -> Picture:
    """One line of words below the middle of a photo, as a quotation has it."""
    picture = photo.resize((480, round(480 * photo.height / photo.width)))
    place = (240, picture.height * 2 // 3)
    ImageDraw.Draw(picture).text(place, _words(rng, 4), "white", font(26), "mm", stroke_width=1, stroke_fill="black")
    return picture


def _slide(photo: Picture, rng: Random) -> Picture:
    """A slide of a template: a coloured head with the title, bullets, a small picture at a corner."""
    page = Image.new("RGB", (640, 480), "white")
    pen = ImageDraw.Draw(page)
    pen.rectangle((0, 0, 640, 70), "#204a87")
    pen.text((24, 20), _words(rng, 4), "white", font(30))
    for line in range(4):
        pen.text((40, 110 + 60 * line), "- " + _words(rng, 5), "black", font(22))
    page.paste(photo.resize((80, 80)), (544, 384))
    return page


def _words_on_white(photo: Picture, rng: Random) -> Picture:
    """A few words on a white page."""
    page = Image.new("RGB", (640, 480), "white")
    ImageDraw.Draw(page).text((60, 220), _words(rng, 5), "black", font(30))
    return page


def _dialog(photo: Picture, rng: Random) -> Picture:
    """A message of one program: the same frame, icon and buttons, another sentence."""
    page = Image.new("RGB", (420, 180), "#ececec")
    pen = ImageDraw.Draw(page)
    pen.rectangle((0, 0, 420, 28), "#3465a4")
    pen.text((10, 6), "Program", "white", font(15))
    page.paste(photo.resize((48, 48)), (20, 50))
    pen.text((86, 58), _words(rng, 6), "black", font(15))
    for left, name in ((220, "Cancel"), (320, "OK")):
        pen.rounded_rectangle((left, 135, left + 84, 163), 5, "#ffffff", "#888888")
        pen.text((left + 42, 149), name, "black", font(15), "mm")
    return page


def _shirt(photo: Picture, rng: Random) -> Picture:
    """A shirt of a shop with a word printed on it."""
    page = Image.new("RGB", (400, 400), "white")
    pen = ImageDraw.Draw(page)
    outline = [
        (120, 60),
        (160, 50),
        (200, 75),
        (240, 50),
        (280, 60),
        (370, 130),
        (330, 180),
        (290, 150),
        (290, 350),
        (110, 350),
        (110, 150),
        (70, 180),
        (30, 130),
    ]
    pen.polygon(outline, "#2e3436")
    pen.text((200, 190), str(rng.choice(WORDS)).upper(), "white", font(40), "mm")
    return page


SCENES: dict[str, Callable[[Picture, Random], Picture]] = {
    "memes": _meme,
    "quotations": _caption,
    "slides": _slide,
    "words on white": _words_on_white,
    "dialogs": _dialog,
    "shirts": _shirt,
}


def same_but_words(photos: list[Picture], each: int, seed: int = 0) -> Iterator[tuple[str, int, bytes]]:
    """(kind, group, stored file): for each photo and kind ``each`` pictures that differ in their words only."""
    for kind, draw in SCENES.items():
        for group, photo in enumerate(photos):
            rng = np.random.default_rng([seed, group, *kind.encode()])
            for _ in range(each):
                yield kind, group, stored(jpeg(draw(photo, rng), 90))
