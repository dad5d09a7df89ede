"""Read captions from JSON files and their images from a folder, in the three common layouts.

::

    {name}/dataset_coco.json                 Karpathy's splits: {"images": [{"filename", "split", "sentences"}]}
    {name}/annotations/captions_val2017.json COCO's own: {"images": [{"id", "file_name"}], "annotations": [...]}
    {name}/coco_karpathy_test.json           ALBEF's and BLIP's lists: [{"image", "caption": [...]}]
    {name}/**/*.jpg                          the images, wherever below the set's folder

Karpathy's file tells the split of each image; of the others the name does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from typing import Any, ClassVar

from pydantic import Field

from infra.errors import DataError
from infra.formats.testset.evalset import EvalSet, Form, Packed, SetFiles
from infra.formats.testset.folders import chunks, is_image
from infra.formats.testset.texts import read_kind
from infra.store import Store

__all__ = ["KARPATHY_SPLITS", "CaptionsJson", "captioned_set", "in_one_line", "only_file", "with_images"]

_NAMES = re.compile(
    r"(?i)(?:.*/)?(?:dataset_(?P<set>\w+)|captions_(?P<own>[a-z]+)\d*|\w*karpathy_(?P<list>[a-z]+)\d*)\.json"
)
_NO_CAPTIONS = ("info", "infos", "dict")  # dataset_info.json and others are Hugging Face's
KARPATHY_SPLITS = ("test", "val", "train", "restval")


class CaptionsJson(Form):
    """Images with captions in a JSON file: COCO's, Karpathy's, or ALBEF's."""

    kind: ClassVar[str] = "captions_json"
    precedence: ClassVar[int] = 4
    file: str | None = Field(None, description="name of the JSON file, where several have captions of a split")

    layout: ClassVar[str] = "dataset_*.json, captions_{split}*.json or *_karpathy_{split}.json with images"

    def find(self, paths: Sequence[str], splits: Collection[str]) -> dict[tuple[str, str], list[str]]:
        found: dict[tuple[str, str], list[str]] = {}
        for path in paths:
            for split in self._splits(path):
                name = path.rpartition("/")[0].removesuffix("/annotations")
                found.setdefault((name, split), []).append(path)
        return with_images(found, paths)

    def open(self, files: SetFiles) -> EvalSet:
        described = only_file(self, files, [path for path in files.paths if files.split in self._splits(path)])
        place = files.store.locate(described)
        try:
            entries = list(_entries(json.loads(files.store.read(described)), files.split))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{place} is not in a form of captions that is known",
                expected="COCO's images and annotations, Karpathy's images and sentences, or a list",
                found=repr(error)[:200],
            ) from error
        return captioned_set(files, entries, place)

    def _splits(self, path: str) -> tuple[str, ...]:
        """The splits whose captions a file could have, by its name."""
        match, file = _NAMES.fullmatch(path), path.rpartition("/")[2]
        if match is None or match["set"] in _NO_CAPTIONS or self.file not in (None, file):
            return ()
        told = match["own"] or match["list"]
        return (told.lower(),) if told else KARPATHY_SPLITS


def _entries(content: Any, split: str) -> Iterator[tuple[str, tuple[str, ...]]]:  # noqa: ANN401 - JSON
    """File name and captions of each image of the split."""
    if isinstance(content, list):
        for one in content:
            yield one["image"], in_one_line([one["caption"]] if isinstance(one["caption"], str) else one["caption"])
    elif "annotations" in content:
        captions: dict[Any, list[str]] = {}
        for one in content["annotations"]:
            captions.setdefault(one["image_id"], []).append(one["caption"])
        for image in content["images"]:
            yield image["file_name"], in_one_line(captions.get(image["id"], ()))
    else:
        for image in content["images"]:
            if image["split"] == split:
                name = "/".join(filter(None, (image.get("filepath"), image["filename"])))
                yield name, in_one_line([sentence["raw"] for sentence in image["sentences"]])


# --- what every form of captions in files has, with images beside them ------------------------------------------------


def with_images(found: dict[tuple[str, str], list[str]], paths: Sequence[str]) -> dict[tuple[str, str], list[str]]:
    """The files of each set and split ``found``, with the images below the set; what has none is left out."""
    images = [path for path in paths if is_image(path)]
    for (name, _), files in found.items():
        files += [path for path in images if path.startswith(f"{name}/" if name else "")]
    return {key: files for key, files in found.items() if is_image(files[-1])}


def only_file(form: Form, files: SetFiles, described: Sequence[str]) -> str:
    """The one file with captions of the split among ``described``. Raises DataError for several."""
    first, *others = described
    if others:
        raise DataError(
            f"several files have captions of split {files.split!r} of {files.name}",
            expected="one of them",
            found=", ".join(described),
            fix=f'adopt\'s contents.forms=[{{"kind": "{form.kind}", "file": "{first.rpartition("/")[2]}"}}]',
        )
    return first


def captioned_set(files: SetFiles, entries: Sequence[tuple[str, tuple[str, ...]]], place: str) -> EvalSet:
    """The set of the images that the file at ``place`` names, with their captions. Raises DataError for none."""
    if not entries:
        raise DataError(f"{place} has no image of split {files.split!r}", expected="an image at least")
    return EvalSet(
        name=files.name,
        split=files.split,
        store=files.store,
        kind=read_kind(files.store, "retrieval"),
        classes=(),
        templates=(),
        parts=chunks(_located([path for path in files.paths if is_image(path)], entries, place)),
        read=partial(_packed, files.store),
    )


def in_one_line(captions: Sequence[str]) -> tuple[str, ...]:
    """The captions with single spaces between their words; blank ones are left out."""
    return tuple(stripped for caption in captions if (stripped := " ".join(caption.split())))


def _located(
    images: Sequence[str], entries: Sequence[tuple[str, tuple[str, ...]]], place: str
) -> list[tuple[str, tuple[str, ...]]]:
    """Each image's path with its captions. Raises DataError unless one file's path ends like its name."""
    by_name: dict[str, list[str]] = {}
    for path in images:
        by_name.setdefault(path.rpartition("/")[2], []).append(path)
    located, wrong = [], list[tuple[str, str, str]]()
    for name, captions in entries:
        there = by_name.get(name.rpartition("/")[2], [])
        fitting = [path for path in there if f"/{path}".endswith(f"/{name}")] or there
        if len(fitting) != 1 or not captions:
            problem = "has no caption" if fitting and not captions else "is not there once"
            wrong.append((name, problem, ", ".join(fitting[:3]) or "no such file"))
        else:
            located.append((fitting[0], captions))
    if wrong:
        name, problem, found = wrong[0]
        raise DataError(
            f"image {name!r} of {place} {problem}",
            expected="one file and a caption at least for each image",
            found=f"{found}; in all {len(wrong):,} of {len(entries):,} images",
        )
    if len({path for path, _ in located}) != len(located):
        raise DataError(f"{place} names an image twice", expected="all captions of an image together")
    return located


def _packed(store: Store, entries: Sequence[tuple[str, tuple[str, ...]]]) -> Iterator[Packed]:
    """The samples of images at these paths, with their captions."""
    for path, captions in entries:
        yield Packed(key=path, image=store.read(path), label=-1, captions=captions)
