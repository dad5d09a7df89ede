"""Pictures that can be told apart, and a model small enough for a test."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

__all__ = ["MODEL", "draw", "encode"]

COLOURS = {"red": (208, 32, 36), "green": (24, 148, 52), "blue": (24, 76, 214), "yellow": (250, 212, 0)}
SHAPES = ("disc", "box", "bar")

MODEL: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 16, "layers": 1, "head_width": 8},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


def draw(number: int, side: int = 24) -> tuple[np.ndarray, str]:
    """A picture (side, side, 3) and its caption."""
    rng = np.random.default_rng(number)
    colour, shape = list(COLOURS)[number % 4], SHAPES[number // 4 % 3]
    image = np.full((side, side, 3), 160, np.uint8) + rng.integers(0, 30, (side, side, 3), np.uint8)
    centre, size = rng.integers(side // 3, 2 * side // 3, 2).tolist(), side // 4
    match shape:
        case "disc":
            cv2.circle(image, centre, size, COLOURS[colour], -1)
        case "box":
            cv2.rectangle(image, [c - size for c in centre], [c + size for c in centre], COLOURS[colour], -1)
        case "bar":
            cv2.rectangle(image, (0, centre[1] - 2), (side, centre[1] + 2), COLOURS[colour], -1)
    return image, f"a {colour} {shape}"


def encode(image: np.ndarray, extension: str = "png") -> bytes:
    return cv2.imencode(f".{extension}", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()
