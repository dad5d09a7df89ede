"""Cues, each asked of several candidate images, and how well the images most like a cue are the right ones."""

from __future__ import annotations

from dataclasses import dataclass
from math import comb

import numpy as np
from numpy.typing import NDArray

from evaluation.embedded import Embedded
from infra.errors import DataError
from infra.formats.testset import read_cues

__all__ = ["Cue", "cues_of", "expected_jaccard", "scores_of"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Cue:
    """A text and its candidates, by number of the distinct captions and of the images; ``right``: a mask of these."""

    name: str
    text: int
    images: NDArray[np.int64]
    right: NDArray[np.bool_]


def cues_of(data: Embedded) -> list[Cue]:
    """The cues of a set of associations, in the order in which they begin.

    Raises DataError for a sample that does not tell its cues, and for a cue that asks nothing or contradicts itself.
    """
    asked: dict[str, list[tuple[int, int, bool]]] = {}
    texts = iter(data.text_of.tolist())
    counts = np.bincount(data.image_of, minlength=len(data.keys)).tolist()
    for image, (key, lines, metadata) in enumerate(zip(data.keys, counts, data.metadata, strict=True)):
        for name, right in read_cues(metadata, lines, f"sample {key!r} of {data.examples.name}"):
            asked.setdefault(name, []).append((next(texts), image, right))
    return [_cue(data, name, *zip(*given, strict=True)) for name, given in asked.items()]


def _cue(data: Embedded, name: str, texts: tuple[int, ...], images: tuple[int, ...], right: tuple[bool, ...]) -> Cue:
    faults = {
        "is asked in several wordings": ("one text", [data.captions[text] for text in dict.fromkeys(texts)], 2),
        "has an image twice": ("images that differ", [data.keys[one] for one in images if images.count(one) > 1], 1),
    }
    for fault, (expected, found, least) in faults.items():
        if len(found) >= least:
            raise _wrong(data, name, fault, expected, ", ".join(map(repr, found[:3])))
    if not 0 < sum(right) < len(right):
        fault = "leaves no choice" if any(right) else "has no right image"
        raise _wrong(data, name, fault, "right images and wrong ones", f"{sum(right)} right of {len(right)}")
    return Cue(name, texts[0], np.array(images), np.array(right))


def _wrong(data: Embedded, name: str, fault: str, expected: str, found: str) -> DataError:
    return DataError(f"cue {name!r} of test set {data.examples.name!r} {fault}", expected=expected, found=found)


def scores_of(data: Embedded, cue: Cue) -> Floats:
    """The cosines of a cue's candidates: (c,). Equal images score equal to the last bit."""
    # Not a product of matrices, which may add up the rows of one in another order than those of another.
    cosines: Floats = np.einsum("cd,d->c", data.images[cue.images], data.texts[cue.text]).astype(np.float64)
    return cosines


def expected_jaccard(scores: Floats, right: NDArray[np.bool_]) -> float:
    """The Jaccard index of the k highest ``scores`` and the k ``right`` ones, (c,) each; levels are drawn at random.

    It is an expectation over the draws: of m that are level at the border, r of them right, some are still to be taken,
    and the right ones among these are hypergeometric.
    """
    taken = int(right.sum())
    border = np.sort(scores)[-taken]
    above, level = scores > border, scores == border
    sure, left = int((above & right).sum()), taken - int(above.sum())
    total, good = int(level.sum()), int((level & right).sum())
    ways = {hits: comb(good, hits) * comb(total - good, left - hits) for hits in range(min(good, left) + 1)}
    return sum(number * (sure + hits) / (2 * taken - sure - hits) for hits, number in ways.items()) / comb(total, left)
