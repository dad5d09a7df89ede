"""Read SugarCrepe's and Winoground's own files and their folder of images: right captions, and near wrong ones.

::

    {name}/add_att.json, swap_obj.json, ...  SugarCrepe's, a category each:
                                             {"0": {"filename", "caption", "negative_caption"}}
    {name}/examples.jsonl                    Winoground's, a pair a line:
                                             {"id", "image_0", "image_1", "caption_0", "caption_1", "collapsed_tag"}
    {name}/**/*.jpg                          the images, wherever below the set's folder

Winoground names its images without the ending; ``data/examples.jsonl``, as on the hub, will do. Both have one split.
"""

from __future__ import annotations

import json
import re
from abc import abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

from infra.errors import DataError
from infra.formats.testset.captions import with_images
from infra.formats.testset.evalset import EvalSet, Form, Packed, SetFiles
from infra.formats.testset.folders import chunks, is_image
from infra.formats.testset.texts import decoded
from infra.store import Store

__all__ = ["SugarCrepe", "Winoground"]

_KIND = "image_caption_selection"
_SPLIT = "test"
_SUGAR_CREPE = re.compile(r"(?:.*/)?((?:add|replace|swap)_(?:att|obj|rel))\.json")
_WINOGROUND = re.compile(r"(?:.*/)?examples\.jsonl")

_Entry = tuple[str, str, tuple[str, ...], str]
"""Key, name of the image, captions, metadata."""


class _Selections(Form):
    """Folder of images with files of their right and wrong captions."""

    precedence: ClassVar[int] = 4

    @abstractmethod
    def names(self, path: str) -> str | None:
        """The set that ``path`` describes, None if it is another file."""

    @abstractmethod
    def entries(self, path: str, text: str) -> Iterator[_Entry]:
        """The images that a file's text names, with their captions. Raises ValueError, KeyError or TypeError."""

    def find(self, paths: Sequence[str], splits: Collection[str]) -> Mapping[tuple[str, str], Sequence[str]]:
        found: dict[tuple[str, str], list[str]] = {}
        for path in paths:
            if (name := self.names(path)) is not None:
                found.setdefault((name, _SPLIT), []).append(path)
        return with_images(found, paths)

    def open(self, files: SetFiles) -> EvalSet:
        images: dict[str, list[str]] = {}
        for path in files.paths:
            if is_image(path):
                file = path.rpartition("/")[2]
                for name in {file, file.rpartition(".")[0]}:  # Winoground leaves the ending out
                    images.setdefault(name, []).append(path)
        located: list[_Entry] = []
        for path in files.paths:
            if self.names(path) is not None:
                located += self._located(files.store, path, images)
        if not located:
            raise DataError(f"test set {files.name!r} is empty", expected="an image at least")
        return EvalSet(
            name=files.name,
            split=files.split,
            store=files.store,
            kind=_KIND,
            classes=(),
            templates=(),
            parts=chunks(located),
            read=partial(_samples, files.store),
        )

    def _located(self, store: Store, path: str, images: Mapping[str, Sequence[str]]) -> Iterator[_Entry]:
        place = store.locate(path)
        text = decoded(store.read(path), place)
        try:
            entries = list(self.entries(path, text))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            found = repr(error)[:200]
            raise DataError(f"{place} is not in {self.kind}'s form", expected=self.layout, found=found) from error
        for key, image, captions, metadata in entries:
            there = images.get(image.rpartition("/")[2], [])
            if len(there) != 1:
                found = ", ".join(there[:3]) or "no such file"
                raise DataError(f"image {image!r} of {place} is not there once", expected="one file", found=found)
            if not all(captions):
                raise DataError(f"sample {key!r} of {place} has a blank caption", expected="words in each")
            yield key, there[0], captions, metadata


class SugarCrepe(_Selections):
    """A file for each category, in it the image's caption and a wrong one (Hsieh et al., 2023)."""

    kind: ClassVar[str] = "sugar_crepe"
    layout: ClassVar[str] = "add_att.json and its like, with filename, caption and negative_caption, and images"

    def names(self, path: str) -> str | None:
        return path.rpartition("/")[0] if _SUGAR_CREPE.fullmatch(path) else None

    def entries(self, path: str, text: str) -> Iterator[_Entry]:
        match = _SUGAR_CREPE.fullmatch(path)
        assert match is not None
        for key, one in json.loads(text).items():
            captions = one["caption"].strip(), one["negative_caption"].strip()
            yield f"{match[1]}/{key}", one["filename"], captions, json.dumps({"category": match[1]})


class Winoground(_Selections):
    """Two images and two captions of the same words in each line (Thrush et al., 2022); the category is its tag."""

    kind: ClassVar[str] = "winoground"
    layout: ClassVar[str] = "examples.jsonl with image_0, image_1, caption_0 and caption_1, and images"

    def names(self, path: str) -> str | None:
        return path.rpartition("/")[0].removesuffix("/data") if _WINOGROUND.fullmatch(path) else None

    def entries(self, path: str, text: str) -> Iterator[_Entry]:
        for line in text.splitlines():
            if line.strip():
                yield from self._of(json.loads(line))

    def _of(self, one: Mapping[str, Any]) -> Iterator[_Entry]:
        metadata = json.dumps({"group": str(one["id"]), "category": one.get("collapsed_tag", "")})
        for side in (0, 1):
            yield f"{one['id']}/{side}", one[f"image_{side}"], (one[f"caption_{side}"].strip(),), metadata


def _samples(store: Store, located: Sequence[_Entry]) -> Iterator[Packed]:
    for key, path, captions, metadata in located:
        yield Packed(key=key, image=store.read(path), label=-1, captions=captions, metadata=metadata)
