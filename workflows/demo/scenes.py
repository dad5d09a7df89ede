"""Images with known content: one coloured shape on a muted background, and the words people use for it.

A scene is six attributes and a seed. The attributes are what captions talk about and what a model can learn; the seed
moves everything a caption would not mention (tilt, exact place, shade, the clouds behind). Thirty of the thirty-six
pairs of colour and shape are :data:`SEEN` on the embedded site, six are kept for testing whether a model composes.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

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
    "WORDINGS",
    "WORDS",
    "Scene",
    "captions",
    "compose",
    "full_captions",
    "label",
    "name",
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
WORDINGS = (*_WORDINGS, *_FULL_WORDINGS)
"""Every form of a caption."""
WORDS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "a": _SIZE_WORDS,
    "t": _TEXTURE_WORDS,
    "n": {texture: (note,) for texture, note in _TEXTURE_NOTES.items()},
    "p": _POSITION_WORDS,
}
"""By the places of a form, the words of each value where these are not the value itself."""


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
