"""Images with known content: one coloured shape on a muted background, and the words people use for it.

A scene is six attributes and a seed. The attributes are what captions talk about and what a model can learn; the seed
moves everything a caption would not mention (tilt, exact place, shade, the clouds behind). Thirty of the thirty-six
pairs of colour and shape are :data:`SEEN` on the embedded site, six are kept for testing whether a model composes.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, cast

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "BACKGROUNDS",
    "COLOURS",
    "COMBINATIONS",
    "POSITIONS",
    "SEEN",
    "SHAPES",
    "SIZES",
    "TEXTURES",
    "UNSEEN",
    "Scene",
    "captions",
    "compose",
    "full_captions",
    "label",
    "name",
    "render",
]

SHAPES = ("circle", "square", "triangle", "star", "cross", "heart")
COLOURS = ("red", "yellow", "green", "blue", "purple", "black")
SIZES = ("small", "medium", "large")
TEXTURES = ("plain", "striped", "dotted", "checked")
POSITIONS = (
    *("top left", "top", "top right"),
    *("left", "centre", "right"),
    *("bottom left", "bottom", "bottom right"),
)
BACKGROUNDS = ("cream", "grey", "sage", "slate", "rose")

COMBINATIONS = tuple((shape, colour) for shape in SHAPES for colour in COLOURS)
# A diagonal: every shape and every colour is missing from exactly one pair, so each part of an unseen pair is known.
UNSEEN = tuple((shape, COLOURS[(index + 2) % len(COLOURS)]) for index, shape in enumerate(SHAPES))
SEEN = tuple(pair for pair in COMBINATIONS if pair not in UNSEEN)


@dataclass(frozen=True)
class Scene:
    """One image to be; the fields take their values from the tuples above."""

    shape: str
    colour: str
    size: str
    texture: str
    position: str
    background: str
    seed: int


def compose(seed: int, combinations: tuple[tuple[str, str], ...] = SEEN) -> Scene:
    """The scene number ``seed``: attributes drawn evenly, shape and colour from ``combinations``."""
    draw = random.Random(seed)
    shape, colour = draw.choice(combinations)
    size, texture = draw.choice(SIZES), draw.choice(TEXTURES)
    return Scene(shape, colour, size, texture, draw.choice(POSITIONS), draw.choice(BACKGROUNDS), seed)


def name(shape: str, colour: str) -> str:
    """The class name of a shape and a colour: "red circle"."""
    return f"{colour} {shape}"


def label(scene: Scene) -> str:
    """The name of the scene's class."""
    return name(scene.shape, scene.colour)


# --- words ------------------------------------------------------------------------------------------------------------

_SIZE_WORDS = {
    "small": ("small", "little", "tiny"),
    "medium": ("medium", "medium-sized", "mid-sized"),
    "large": ("large", "big", "huge"),
}
_TEXTURE_WORDS = {
    "plain": ("plain", "solid", "plain"),
    "striped": ("striped", "stripy", "striped"),
    "dotted": ("dotted", "spotted", "dotted"),
    "checked": ("checked", "chequered", "checked"),
}
_TEXTURE_NOTES = {
    "plain": "in one flat tone",
    "striped": "with stripes",
    "dotted": "with dots",
    "checked": "with checks",
}
_POSITION_WORDS = {
    "top left": ("in the top left corner", "at the upper left"),
    "top": ("at the top", "near the top edge"),
    "top right": ("in the top right corner", "at the upper right"),
    "left": ("on the left", "on the left side"),
    "centre": ("in the centre", "in the middle"),
    "right": ("on the right", "on the right side"),
    "bottom left": ("in the bottom left corner", "at the lower left"),
    "bottom": ("at the bottom", "near the bottom edge"),
    "bottom right": ("in the bottom right corner", "at the lower right"),
}

# a: size, t: texture, n: a note on the texture, c: colour, s: shape, p: position, b: background
_WORDINGS = (
    "a {c} {s} on a {b} background",
    "A {a} {t} {c} {s} {p} of the picture",
    "a picture of a {a} {c} {s}",
    "{A} {c} {s} {n}, drawn on {b} paper",
    "this is a {t} {c} {s}",
    "The {s} is {c} and {t}, and it sits {p}.",
    "a {a} {c} {s} {p}",
    "there is a {c} {s} {p} of this {b} card",
    "a drawing of one {t} {c} {s} in front of a {b} wall",
    "My new print shows a {c} {s} {n}",
    "a {a} {s}, painted {c}, {n}",
    "Poster with a {t} {c} {s} {p}",
)
_FULL_WORDINGS = (
    "a {a} {t} {c} {s} {p} of a {b} background",
    "A {b} picture with a {a} {c} {s} {n} {p}",
    "the {s} {p} is {a}, {c} and {t}, on a {b} background",
    "{P} of this {b} card there is a {a} {t} {c} {s}",
    "a drawing of a {a} {c} {s} {n}, {p}, on {b} paper",
)


def captions(scene: Scene) -> list[str]:
    """Twelve captions of the scene; all name colour and shape, most one to three more attributes."""
    return [_say(scene, wording, turn) for turn, wording in enumerate(_WORDINGS)]


def full_captions(scene: Scene) -> list[str]:
    """Five captions that each name all six attributes, so that they distinguish the image from most others."""
    return [_say(scene, wording, turn) for turn, wording in enumerate(_FULL_WORDINGS)]


def _say(scene: Scene, wording: str, turn: int) -> str:
    size, texture, position = (
        words[(scene.seed + turn) % len(words)]
        for words in (_SIZE_WORDS[scene.size], _TEXTURE_WORDS[scene.texture], _POSITION_WORDS[scene.position])
    )
    return wording.format(
        a=size,
        A=size.capitalize(),
        t=texture,
        n=_TEXTURE_NOTES[scene.texture],
        c=scene.colour,
        s=scene.shape,
        p=position,
        P=position.capitalize(),
        b=scene.background,
    )


# --- image ------------------------------------------------------------------------------------------------------------

_PAINT = {  # the colour itself, and the tone its stripes, dots and checks alternate with
    "red": ((208, 32, 36), (255, 200, 192)),
    "yellow": ((250, 212, 0), (150, 112, 0)),
    "green": ((24, 148, 52), (190, 236, 180)),
    "blue": ((24, 76, 214), (184, 212, 255)),
    "purple": ((136, 32, 168), (226, 186, 246)),
    "black": ((16, 16, 18), (214, 214, 214)),
}
_TINT = {  # all of low saturation, so that no background is mistaken for a colour above
    "cream": (228, 212, 170),
    "grey": (172, 172, 172),
    "sage": (148, 188, 138),
    "slate": (112, 134, 162),
    "rose": (220, 178, 176),
}
_RADIUS = {"small": 0.21, "medium": 0.28, "large": 0.35}  # of the side
_MARGIN = 0.05  # of the side, kept free around the shape
_CLOUDS = 7  # cells a side of the coarse grid a background is blown up from


def render(scene: Scene, side: int) -> NDArray[np.uint8]:
    """The image as RGB, shape (side, side, 3). The same scene at another side is the same image, resized."""
    import cv2
    import numpy as np

    draw = np.random.default_rng(scene.seed)
    tilt, shade, *shift = draw.uniform(-1, 1, 4)
    image = cast("NDArray[np.uint8]", cv2.resize(_backdrop(scene, draw), (side, side), interpolation=cv2.INTER_CUBIC))

    radius = _RADIUS[scene.size] * side
    room = 0.5 * side - radius - _MARGIN * side
    row, column = divmod(POSITIONS.index(scene.position), 3)
    # Less half a pixel, since a pixel's index is that of its centre.
    x, y = (
        0.5 * side - 0.5 + room * (0.85 * (place - 1) + 0.13 * by)
        for place, by in zip((column, row), shift, strict=True)
    )

    angle = np.float32(np.radians(14.0 * tilt))
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]], np.float32)
    corners = _outline(scene.shape) @ turn * radius + (x, y)
    x0, y0 = np.maximum(np.floor(corners.min(axis=0)).astype(int) - 1, 0)
    x1, y1 = np.minimum(np.ceil(corners.max(axis=0)).astype(int) + 2, side)

    mask = np.zeros((y1 - y0, x1 - x0), np.uint8)
    fixed = np.round((corners - (x0, y0)) * 16).astype(np.int32)  # 4 fractional bits
    cv2.fillPoly(mask, [fixed], 255, lineType=cv2.LINE_AA, shift=4)

    own, other = (np.clip(np.array(tone, np.float32) + 10 * shade, 0, 255) for tone in _PAINT[scene.colour])
    amount = _pattern(scene.texture, x0 - x, y0 - y, mask.shape, turn, radius)[..., None]
    # A rim of the colour itself keeps the outline whole where a pattern's light parts would melt into the background.
    rim = np.zeros_like(mask)
    cv2.polylines(rim, [fixed], True, 255, max(1, round(0.14 * radius)), lineType=cv2.LINE_AA, shift=4)
    amount *= 1 - (rim.astype(np.float32) / 255)[..., None]
    paint = own + (other - own) * amount
    alpha = (mask.astype(np.float32) / 255)[..., None]
    patch = image[y0:y1, x0:x1]
    patch[:] = np.round(patch + (paint - patch) * alpha).astype(np.uint8)
    return image


def _backdrop(scene: Scene, draw: np.random.Generator) -> NDArray[np.uint8]:
    """Tint, slope and clouds on a coarse grid, RGB. Their contrast keeps images of like scenes apart for a hash."""
    import numpy as np

    across, down = draw.uniform(-26, 26, 2)
    steps = np.linspace(-1, 1, _CLOUDS)
    light = across * steps[None, :] + down * steps[:, None] + draw.uniform(-34, 34, (_CLOUDS, _CLOUDS))
    backdrop: NDArray[np.uint8] = np.clip(np.array(_TINT[scene.background]) + light[..., None], 60, 250).astype(
        np.uint8
    )
    return backdrop


def _pattern(
    texture: str, left: float, top: float, shape: tuple[int, ...], turn: NDArray[np.float32], radius: float
) -> NDArray[np.float32]:
    """Share of the second tone in each pixel of the patch, 0 to 1, with soft edges; the pattern tilts along."""
    import numpy as np

    if texture == "plain":
        return np.zeros(shape, np.float32)
    across = (np.arange(shape[1], dtype=np.float32) + np.float32(left))[None, :]
    down = (np.arange(shape[0], dtype=np.float32) + np.float32(top))[:, None]
    period = {"striped": 0.52, "dotted": 0.60, "checked": 0.86}[texture] * radius
    wave = np.float32(2 * np.pi / period)
    u, v = (across * turn[0, axis] + down * turn[1, axis] for axis in (0, 1))
    # In both directions a step of the wave over its threshold is softened to about one pixel.
    steep = np.float32(period / 6)
    match cast(Literal["striped", "dotted", "checked"], texture):
        case "striped":
            height = np.sin((u + v) * wave * np.float32(0.7071))
        case "dotted":
            height = (np.cos(u * wave) + np.cos(v * wave)) / 2 - np.float32(0.28)
        case "checked":
            height = np.sin(u * wave) * np.sin(v * wave)
    amount: NDArray[np.float32] = np.clip(height * steep + np.float32(0.5), 0, 1)
    return amount


@lru_cache
def _outline(shape: str) -> NDArray[np.float32]:
    """The shape as a polygon (n, 2) of radius about 1 around the origin, y down; areas are roughly equal."""
    import numpy as np

    around = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    match cast(Literal["circle", "square", "triangle", "star", "cross", "heart"], shape):
        case "circle":
            points = 0.95 * np.stack([np.cos(around), np.sin(around)], axis=1)
        case "square":
            points = 0.86 * np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])
        case "triangle":
            points = np.array([(0, -1), (0.97, 0.77), (-0.97, 0.77)])
        case "star":
            spikes = np.arange(10) * np.pi / 5
            reach = np.where(np.arange(10) % 2 == 0, 1.06, 0.45)
            points = np.stack([np.sin(spikes) * reach, -np.cos(spikes) * reach], axis=1)
        case "cross":
            arm, end = 0.34, 1.0
            quarter = np.array([(arm, -end), (arm, -arm), (end, -arm)])
            points = np.concatenate(
                [quarter @ np.array([[c, s], [-s, c]]) for c, s in ((1, 0), (0, 1), (-1, 0), (0, -1))]
            )
        case "heart":
            across = 16 * np.sin(around) ** 3
            up = 13 * np.cos(around) - 5 * np.cos(2 * around) - 2 * np.cos(3 * around) - np.cos(4 * around)
            points = np.stack([across, -up - 2.5], axis=1) / 16.5
    return points.astype(np.float32)
