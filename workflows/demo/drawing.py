"""Pixels of the embedded web's scenes: the same scene is the same image in every process and at every size."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from workflows.demo.compositions import Composition
from workflows.demo.scenes import POSITIONS, Scene

__all__ = ["boxes", "render", "render_composition"]

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
    draw = np.random.default_rng(scene.seed)
    tilt, shade, *shift = draw.uniform(-1, 1, 4)
    image = _backdrop(scene.background, draw, side)

    radius = _RADIUS[scene.size] * side
    room = 0.5 * side - radius - _MARGIN * side
    row, column = divmod(POSITIONS.index(scene.position), 3)
    # Less half a pixel, since a pixel's index is that of its centre.
    x, y = (
        0.5 * side - 0.5 + room * (0.85 * (place - 1) + 0.13 * by)
        for place, by in zip((column, row), shift, strict=True)
    )
    _paint(image, scene.shape, scene.colour, scene.texture, (x, y), radius, tilt, shade)
    return image


def render_composition(composition: Composition, side: int) -> NDArray[np.uint8]:
    """The image of several plain shapes as RGB, (side, side, 3)."""
    draw = np.random.default_rng(composition.seed)
    image = _backdrop(composition.background, draw, side)
    for item in composition.items:
        tilt, shade = draw.uniform(-1, 1, 2)
        place = item.place[0] * side - 0.5, item.place[1] * side - 0.5
        _paint(image, item.shape, item.colour, "plain", place, item.radius * side, tilt, shade)
    return image


def render_side_by_side(compositions: Sequence[Composition], side: int) -> NDArray[np.uint8]:
    """Several such images as one, from left to right: (side, side * compositions, 3)."""
    return np.concatenate([render_composition(one, side) for one in compositions], axis=1)


def boxes(composition: Composition, side: int) -> list[tuple[float, float, float, float]]:
    """The box of each item of the image that :func:`render_composition` makes: left, top, width, height in pixels."""
    draw = np.random.default_rng(composition.seed)
    _backdrop(composition.background, draw, side)  # for what it draws
    found = []
    for item in composition.items:
        tilt, _ = draw.uniform(-1, 1, 2)
        corners = (_outline(item.shape) @ _turn(tilt) * item.radius + item.place) * side
        (left, top), (right, bottom) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
        found.append((left, top, right - left, bottom - top))
    return found


def _paint(
    image: NDArray[np.uint8],
    shape: str,
    colour: str,
    texture: str,
    place: tuple[float, float],
    radius: float,
    tilt: float,
    shade: float,
) -> None:
    """Draw a shape into ``image``; its centre and radius in pixels, tilt and shade from -1 to 1."""
    side, (x, y) = len(image), place
    turn = _turn(tilt)
    corners = _outline(shape) @ turn * radius + (x, y)
    x0, y0 = np.maximum(np.floor(corners.min(axis=0)).astype(int) - 1, 0)
    x1, y1 = np.minimum(np.ceil(corners.max(axis=0)).astype(int) + 2, side)

    mask = np.zeros((y1 - y0, x1 - x0), np.uint8)
    fixed = np.round((corners - (x0, y0)) * 16).astype(np.int32)  # 4 fractional bits
    cv2.fillPoly(mask, [fixed], 255, lineType=cv2.LINE_AA, shift=4)

    own, other = (np.clip(np.array(tone, np.float32) + 10 * shade, 0, 255) for tone in _PAINT[colour])
    amount = _pattern(texture, x0 - x, y0 - y, mask.shape, turn, radius)[..., None]
    # A rim of the colour itself keeps the outline whole where a pattern's light parts would melt into the background.
    rim = np.zeros_like(mask)
    cv2.polylines(rim, [fixed], True, 255, max(1, round(0.14 * radius)), lineType=cv2.LINE_AA, shift=4)
    amount *= 1 - (rim.astype(np.float32) / 255)[..., None]
    paint = own + (other - own) * amount
    alpha = (mask.astype(np.float32) / 255)[..., None]
    patch = image[y0:y1, x0:x1]
    patch[:] = np.round(patch + (paint - patch) * alpha).astype(np.uint8)


def _turn(tilt: float) -> NDArray[np.float32]:
    """The matrix (2, 2) that turns points by a tilt from -1 to 1."""
    angle = np.float32(np.radians(14.0 * tilt))
    return np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]], np.float32)


def _backdrop(background: str, draw: np.random.Generator, side: int) -> NDArray[np.uint8]:
    """Tint, slope and clouds of a coarse grid, RGB. Their contrast keeps images of like scenes apart for a hash."""
    across, down = draw.uniform(-26, 26, 2)
    steps = np.linspace(-1, 1, _CLOUDS)
    light = across * steps[None, :] + down * steps[:, None] + draw.uniform(-34, 34, (_CLOUDS, _CLOUDS))
    coarse = np.clip(np.array(_TINT[background]) + light[..., None], 60, 250).astype(np.uint8)
    return cast("NDArray[np.uint8]", cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC))


def _pattern(
    texture: str, left: float, top: float, shape: tuple[int, ...], turn: NDArray[np.float32], radius: float
) -> NDArray[np.float32]:
    """Share of the second tone in each pixel of the patch, 0 to 1, with soft edges; the pattern tilts along."""
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
