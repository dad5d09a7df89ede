"""Read SugarCrepe's, Winoground's and WinoGAViL's own files and their folder of images: what fits, and what does not.

::

    {name}/add_att.json, swap_obj.json, ...  SugarCrepe's, a category each:
                                             {"0": {"filename", "caption", "negative_caption"}}
    {name}/examples.jsonl                    Winoground's, a pair a line:
                                             {"id", "image_0", "image_1", "caption_0", "caption_1", "collapsed_tag"}
    {name}/winogavil_dataset.csv             WinoGAViL's, a cue a row:
                                             ID, cue, candidates and associations (both JSON lists of images)
    {name}/**/*.jpg                          the images, wherever below the set's folder

Winoground and WinoGAViL name their images without the ending; ``data/examples.jsonl``, as on the hub, will do. All have
one split.
"""

from __future__ import annotations

import csv
import io
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

__all__ = ["SugarCrepe", "WinoGAViL", "Winoground"]

_SPLIT = "test"
_SUGAR_CREPE = re.compile(r"(?:.*/)?((?:add|replace|swap)_(?:att|obj|rel))\.json")
_WINOGROUND = re.compile(r"(?:.*/)?examples\.jsonl")
_WINOGAVIL = re.compile(r"(?:.*/)?winogavil_dataset\.csv")

_Entry = tuple[str, str, tuple[str, ...], str]
"""Key, name of the image, captions, metadata."""


class _Selections(Form):
    """Folder of images with files of their right and wrong captions."""

    holds: ClassVar[str] = "image_caption_selection"
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
                for name in {file, file.rpartition(".")[0]}:  # some leave the ending out
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
            kind=self.holds,
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


class WinoGAViL(_Selections):
    """A row of a table for each cue, with its candidate images and the right ones among them (Bitton et al., 2022).

    An image has all cues whose candidate it is. The model reads them as DataComp asks: ``A pogonophile``.
    """

    kind: ClassVar[str] = "winogavil"
    holds: ClassVar[str] = "associations"
    layout: ClassVar[str] = "winogavil_dataset.csv with ID, cue, candidates and associations, and images"

    def names(self, path: str) -> str | None:
        return path.rpartition("/")[0] if _WINOGAVIL.fullmatch(path) else None

    def entries(self, path: str, text: str) -> Iterator[_Entry]:
        asked: dict[str, list[tuple[str, str, bool]]] = {}
        for row in csv.DictReader(io.StringIO(text, newline="")):
            candidates, right = json.loads(row["candidates"]), json.loads(row["associations"])
            self._check(row["ID"], row["cue"], candidates, right)
            for image in candidates:
                asked.setdefault(image, []).append((row["ID"], _cue(row["cue"]), image in right))
        for image, cues in asked.items():
            names, texts, rights = zip(*cues, strict=True)
            yield image, image, texts, json.dumps({"cues": names, "right": rights})

    def _check(self, name: str, cue: str, candidates: Sequence[str], right: Sequence[str]) -> None:
        """Raise DataError for a cue that cannot be asked."""
        faults = {
            "has no text": not cue.strip(),
            "has no candidate": not candidates,
            "has a candidate twice": len(set(candidates)) < len(candidates),
            "has a right image that is no candidate": not set(right) <= set(candidates),
        }
        if fault := next((fault for fault, there in faults.items() if there), ""):
            found = f"{cue!r}, candidates {', '.join(candidates)}; right {', '.join(right)}"[:300]
            raise DataError(
                f"cue {name!r} {fault}", expected="a text, candidates, and those that are right", found=found
            )


def _cue(word: str) -> str:
    """A cue with its article, in small letters, as DataComp asks."""
    word = word.strip().lower()
    return f"An {word}" if word[0] in "aeiou" else f"A {word}"


def _samples(store: Store, located: Sequence[_Entry]) -> Iterator[Packed]:
    for key, path, captions, metadata in located:
        yield Packed(key=key, image=store.read(path), label=-1, captions=captions, metadata=metadata)
