"""Measure how often the patch most like a phrase lies on what the phrase names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from evaluation.embedded import Embedded
from evaluation.tasks.task import Scores
from infra.encoder import PatchEncoder
from infra.errors import DataError
from infra.measures import Mean

if TYPE_CHECKING:
    from PIL.Image import Image

    from evaluation.tasks.localisation import Localisation

__all__ = ["measure"]

Floats = NDArray[np.float64]


def measure(task: Localisation, data: Embedded) -> Scores:
    """All metrics of a set of phrases with boxes. Raises DataError if an image has another number of boxes."""
    boxes, sizes = _boxes(data), []

    def shown() -> Iterator[Image]:
        for image in data.pictures():
            sizes.append(image.size)
            yield image

    every = data.texts[data.text_of].mean(axis=0)
    own = np.split(data.text_of, np.searchsorted(data.image_of, np.arange(1, len(data.keys))))
    hits: dict[str, list[Floats]] = {"pointing_acc": [], "centre_acc": [], "blind_acc": []}
    encoder = cast(PatchEncoder, data.encoder())
    for number, patches in enumerate(encoder.encode_patches(shown(), task.patches)):
        rows, columns, width = patches.shape
        centres = _centres(rows, columns) * sizes[number]
        inside = _inside(centres, boxes[number])
        hits["pointing_acc"].append(_best(patches.reshape(-1, width) @ data.texts[own[number]].T, inside))
        hits["blind_acc"].append(_best((patches.reshape(-1, width) @ every)[:, None], inside))
        hits["centre_acc"].append(_inside(np.array([sizes[number]]) / 2, boxes[number])[0].astype(np.float64))
    counts = np.array([len(phrases) for phrases in own], np.float64)
    metrics = {name: Mean(np.array([one.sum() for one in found]), counts) for name, found in hits.items()}
    table: dict[str, Sequence[str] | Floats] = {
        "key": [data.keys[image] for image in data.image_of],
        "phrase": [data.captions[text] for text in data.text_of],
        "right": np.concatenate(hits["pointing_acc"]),
    }
    return Scores(metrics=metrics, tables={"phrases": table}, facts={"phrases": len(data.text_of)})


def _centres(rows: int, columns: int) -> Floats:
    """The centres (rows * columns, 2) of patches as shares of an image's width and height."""
    across, down = np.meshgrid((np.arange(columns) + 0.5) / columns, (np.arange(rows) + 0.5) / rows)
    return np.stack([across.ravel(), down.ravel()], axis=1)


def _inside(points: Floats, boxes: Floats) -> NDArray[np.bool_]:
    """Mask (points, boxes) of the points that lie in boxes of left, top, width and height."""
    start, end = boxes[None, :, :2], boxes[None, :, :2] + boxes[None, :, 2:]
    return np.asarray(((points[:, None] >= start) & (points[:, None] <= end)).all(axis=2))


def _best(scores: NDArray[Any], inside: NDArray[np.bool_]) -> Floats:
    """Share of the patches with the greatest of ``scores`` (patches, boxes or 1) that lie in each box."""
    best = scores == scores.max(axis=0)
    shares: Floats = (best & inside).sum(axis=0) / np.broadcast_to(best, inside.shape).sum(axis=0)
    return shares


def _boxes(data: Embedded) -> list[Floats]:
    """The boxes (phrases, 4) of each image."""
    found = []
    for key, own, given in zip(data.keys, data.captions_of_images(), data.column("boxes"), strict=True):
        try:
            boxes = np.array(given, np.float64)
        except (TypeError, ValueError):
            boxes = np.empty(0)
        if boxes.shape != (len(own), 4) or not np.isfinite(boxes).all() or (boxes[:, 2:] <= 0).any():
            raise DataError(
                f"sample {key!r} of {data.examples.name} has not a box for each phrase",
                expected=f"{len(own)} of [left, top, width, height] in its json, in pixels",
                found=str(given)[:200],
            )
        found.append(boxes)
    return found
