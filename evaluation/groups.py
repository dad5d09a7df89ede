"""Groups of images and captions of which a model must tell which belong together, and whether it can."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from math import factorial, perm
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.embedded import Embedded
from infra.errors import DataError

__all__ = ["Group", "chance", "groups_of", "outcomes"]

Outcomes = NDArray[np.float64]

_MOST = 5040  # assignments of captions to images that are tried: of seven to seven


@dataclass(frozen=True)
class Group:
    """k images and c captions by number; caption i of the first k is right for image i, the others are for none."""

    name: str
    category: str
    images: tuple[int, ...]
    captions: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """Number of images and of captions."""
        return len(self.images), len(self.captions)


def groups_of(data: Embedded) -> list[Group]:
    """The groups of a selection set, in the order in which they begin.

    Raises DataError for a group in which nothing can be chosen, or whose samples contradict each other.
    """
    starts = np.searchsorted(data.image_of, np.arange(len(data.keys) + 1)).tolist()
    members: dict[str, list[int]] = {}
    category: dict[str, str] = {}
    for image, (key, text) in enumerate(zip(data.keys, data.metadata, strict=True)):
        fields = json.loads(text) if text else {}
        # An image without a group is one; its name must be no group's.
        name = str(fields["group"]) if "group" in fields else f"image {key}"
        members.setdefault(name, []).append(image)
        own = str(fields.get("category", ""))
        if category.setdefault(name, own) != own:
            raise _wrong(data, name, "is in two categories", "one category", f"{category[name]!r} and {own!r}")
    groups = []
    for name, images in members.items():
        right = [starts[image] for image in images]
        wrong = [caption for image in images for caption in range(starts[image] + 1, starts[image + 1])]
        groups.append(Group(name, category[name], tuple(images), (*right, *wrong)))
    _check(data, groups)
    return groups


def _check(data: Embedded, groups: Sequence[Group]) -> None:
    for group in groups:
        wordings = [int(data.text_of[caption]) for caption in group.captions]
        if len(wordings) < 2:
            raise _wrong(data, group.name, "leaves no choice", "two captions", "one")
        if len(set(wordings)) < len(wordings):
            twice = next(one for one in wordings if wordings.count(one) > 1)
            raise _wrong(data, group.name, "has a caption twice", "captions that differ", repr(data.captions[twice]))
        if perm(len(group.captions), len(group.images)) > _MOST:
            raise _wrong(data, group.name, "is too large", "at most 7 images and captions", str(group.shape))
    if len({len(group.images) > 1 for group in groups}) > 1:
        raise DataError(
            f"some groups of test set {data.examples.name!r} have one image, others several",
            expected="one kind of choice in a set",
            fix="make two sets of it",
        )


def _wrong(data: Embedded, name: str, fault: str, expected: str, found: str) -> DataError:
    return DataError(f"group {name!r} of test set {data.examples.name!r} {fault}", expected=expected, found=found)


def outcomes(data: Embedded, groups: Sequence[Group]) -> dict[str, Outcomes]:
    """Score each group, 0 to 1, by metric; the names but ``group_match`` are CLIP_benchmark's.

    ``text_acc``: each image has its caption above the others (Winoground's text score); ``image_acc``: each right
    caption has its image above the others; ``acc``: both. ``group_match``: of all ways to give each image a caption of
    its own, the right one has the highest sum of scores (Zhu et al., 2025). With one image they are one.
    """
    found = {name: np.empty(len(groups)) for name in ("acc", "text_acc", "image_acc", "group_match")}
    for shape in {group.shape for group in groups}:
        places = [place for place, group in enumerate(groups) if group.shape == shape]
        scores = _scores(data, [groups[place] for place in places])
        images = scores.shape[1]
        text = _share_of_best(scores).prod(axis=1)
        image = _share_of_best(scores[:, :, :images].swapaxes(1, 2)).prod(axis=1)
        for name, values in (
            ("acc", text * image),
            ("text_acc", text),
            ("image_acc", image),
            ("group_match", _matched(scores)),
        ):
            found[name][places] = values
    return {"acc": found["acc"]} if groups[0].shape[0] == 1 else found


def _scores(data: Embedded, groups: Sequence[Group]) -> NDArray[np.float64]:
    """The cosines of all images and captions of groups of one shape: (g, k, c). Equal captions score equal."""
    images = np.array([group.images for group in groups])
    texts = data.text_of[np.array([group.captions for group in groups])]
    first, second = np.broadcast_arrays(images[:, :, None], texts[:, None, :])
    pairs: Outcomes = np.einsum("md,md->m", data.images[first.ravel()], data.texts[second.ravel()]).astype(np.float64)
    return pairs.reshape(first.shape)


def _share_of_best(scores: NDArray[np.float64]) -> Outcomes:
    """The chance that row i of (g, k, c) has its highest score in column i, levels broken at random: (g, k)."""
    own = np.diagonal(scores, axis1=1, axis2=2)
    best = scores.max(axis=2)
    share: Outcomes = (own == best) / (scores == best[:, :, None]).sum(axis=2)
    return share


def _matched(scores: NDArray[np.float64]) -> Outcomes:
    """The chance that the best assignment of captions to images is the right one, levels broken at random: (g,)."""
    _, images, captions = scores.shape
    ways = np.array(list(permutations(range(captions), images)))  # the right one is the first
    sums = np.stack([scores[:, np.arange(images), way].sum(axis=1) for way in ways], axis=1)
    best = sums.max(axis=1)
    share: Outcomes = (sums[:, 0] == best) / (sums == best[:, None]).sum(axis=1)
    return share


def chance(groups: Sequence[Group]) -> dict[str, Any]:
    """The fact what random scores get, if all groups have one shape, with as many captions as images or one image."""
    shapes = {group.shape for group in groups}
    images, captions = next(iter(shapes))
    if len(shapes) > 1 or images not in (1, captions):
        return {}
    if images == 1:
        return {"chance": {"acc": 1 / captions}}
    alone = (1 / images) ** images
    both = factorial(images - 1) / factorial(2 * images - 1)
    return {"chance": {"acc": both, "text_acc": alone, "image_acc": alone, "group_match": 1 / factorial(images)}}
