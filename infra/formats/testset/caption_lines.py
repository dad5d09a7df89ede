"""Read captions from lines of text and their images from a folder, as Flickr8k and Flickr30k are distributed.

::

    {name}/results_20130124.token         NAME.jpg#0<TAB>caption, a line for each caption; also Flickr8k.token.txt
    {name}/results.csv                    image_name| comment_number| comment
    {name}/captions.txt                   image,caption; also captions.csv and captions.tsv
    {name}/flickr30k_test_karpathy.txt    image,caption of one split, as CLIP_benchmark has them
    {name}/flickr_annotations_30k.csv     raw (a list), split, filename: Karpathy's splits, as on the hub
    {name}/{split}.txt                    optional: names of a split's images; also Flickr_8k.testImages.txt
    {name}/**/*.jpg                       the images, wherever below the set's folder

Without a word on splits all is the split "test".
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Collection, Iterator, Sequence
from typing import ClassVar

from pydantic import Field

from infra.errors import DataError
from infra.formats.testset.captions import KARPATHY_SPLITS, captioned_set, in_one_line, only_file, with_images
from infra.formats.testset.evalset import SPLITS, EvalSet, Form, SetFiles
from infra.formats.testset.folders import is_image
from infra.formats.testset.texts import decoded, read_lines

__all__ = ["CaptionLines"]

_NAMES = re.compile(
    r"(?i)(?:.*/)?(?:[\w.-]+\.token(?:\.txt)?|results\.csv|captions\.(?:txt|csv|tsv)"
    r"|\w*karpathy\w*\.(?:txt|csv)|\w*annotations\w*\.csv)"
)
_TOKEN = re.compile(r"(?P<image>[^\t]+?)#\d+\t(?P<caption>.*)")
_IMAGE = ("image", "image_name", "filename", "file_name", "img")
_CAPTION = ("caption", "comment", "raw", "text", "sentence", "captions", "sentences")
_GLUED = re.compile(r"\s*\d+\s+(?P<caption>\S.*)")  # a number and a comment between which the mark is missing

_Row = tuple[str, str, tuple[str, ...]]
"""Image, split ("" if the file does not say), captions."""


class CaptionLines(Form):
    """Images with captions in lines: Flickr's tokens, or a table as text."""

    kind: ClassVar[str] = "caption_lines"
    precedence: ClassVar[int] = 5
    layout: ClassVar[str] = "*.token, results.csv, captions.txt or *_karpathy.txt with images"

    file: str | None = Field(None, description="name of the file with the captions, where several have them")

    def find(self, paths: Sequence[str], splits: Collection[str]) -> dict[tuple[str, str], list[str]]:
        found: dict[tuple[str, str], list[str]] = {}
        for path in paths:
            folder = path.rpartition("/")[0]
            if not folder or not self._has(path):
                continue
            for split in self._splits(path, [one for one in paths if one.rpartition("/")[0] == folder], splits):
                found.setdefault((folder, split), []).append(path)
        return with_images(found, paths)

    def open(self, files: SetFiles) -> EvalSet:
        known = tuple(dict.fromkeys((files.split, *SPLITS)))
        named = [
            path for path in files.paths if self._has(path) and files.split in self._splits(path, files.paths, known)
        ]
        described = only_file(self, files, named)
        place = files.store.locate(described)
        rows = list(_rows(decoded(files.store.read(described), place), place))
        wanted = self._wanted(files, described, rows)
        captions: dict[str, list[str]] = {}
        for image, split, texts in rows:
            if split in ("", files.split) and (wanted is None or _plain(image) in wanted):
                captions.setdefault(image, []).extend(texts)
        if missing := sorted((wanted or set()) - set(map(_plain, captions))):
            raise DataError(
                f"{place} has no caption of {missing[0]!r}", expected="one of each image that its split lists",
                found=f"none of {len(missing)} of {len(wanted or ())}",
            )  # fmt: skip
        return captioned_set(files, [(image, tuple(texts)) for image, texts in captions.items()], place)

    def _has(self, path: str) -> bool:
        """True if a file could have the captions, by its name."""
        return bool(_NAMES.fullmatch(path)) and self.file in (None, path.rpartition("/")[2])

    def _splits(self, path: str, beside: Sequence[str], splits: Collection[str]) -> Collection[str]:
        """The splits whose captions a file could have: by its own name, by lists in the folder, or as Karpathy's."""
        words = re.split(r"[\W_]+", path.rpartition("/")[2].lower())
        if named := [split for split in splits if split in words]:
            return named
        if lists := [split for split in splits if any(_lists(one, split) for one in beside)]:
            return lists
        return KARPATHY_SPLITS if "annotations" in words else ("test",)

    def _wanted(self, files: SetFiles, described: str, rows: Sequence[_Row]) -> set[str] | None:
        """The images of the split by a list in the folder; None if there is none, or if the file is of one split."""
        lists = [path for path in files.paths if path != described and _lists(path, files.split)]
        if not lists or any(split for _, split, _ in rows):
            return None
        return {_plain(line) for path in lists for line in read_lines(files.store, path) if line}


def _lists(path: str, split: str) -> bool:
    """True if a file lists the images of ``split``: test.txt, flickr30k_test.txt, Flickr_8k.testImages.txt."""
    file = path.rpartition("/")[2]
    return bool(re.fullmatch(rf"(?i)(?:[\w.-]*[_.-])?{re.escape(split)}(?:[_.-]?images)?\.txt", file))


def _plain(image: str) -> str:
    """An image's name without its ending, which some lists leave out."""
    name = image.strip().rpartition("/")[2]
    return name.rpartition(".")[0] if is_image(name) else name


def _rows(text: str, place: str) -> Iterator[_Row]:
    """The rows of a file. Raises DataError for a line that is in neither form."""
    lines = text.splitlines()
    first = next((line for line in lines if line.strip()), "")
    if not _TOKEN.fullmatch(first):
        yield from _table(text, first, place)
        return
    for number, line in enumerate(lines, 1):
        if not (match := _TOKEN.fullmatch(line)) and line.strip():
            raise DataError(
                f"line {number} of {place} has no caption", expected="NAME.jpg#0<TAB>caption", found=line[:80]
            )
        if match:
            yield match["image"], "", in_one_line([match["caption"]])


def _table(text: str, first: str, place: str) -> Iterator[_Row]:
    """The rows of a table with a head. Commas in a last column without quotes are part of it."""
    mark = max("\t|,", key=first.count)
    head = [name.strip().lower() for name in first.split(mark)]
    image, caption, split = (_column(head, names) for names in (_IMAGE, _CAPTION, ("split",)))
    if image is None or caption is None:
        raise DataError(
            f"{place} has no columns of images and captions", expected="a head such as image,caption", found=first[:100]
        )
    # Between bars, quotation marks are what the caption says.
    lines = io.StringIO(text)
    table = (
        csv.reader(lines, delimiter=mark, quoting=csv.QUOTE_NONE) if mark == "|" else csv.reader(lines, delimiter=mark)
    )
    for row in table:
        fields = [field.strip() for field in row]
        if not any(fields) or fields == [name.strip() for name in first.split(mark)]:
            continue
        if len(fields) > len(head) and caption == len(head) - 1:
            fields = [*fields[:caption], mark.join(row[caption:]).strip()]
        elif len(fields) == len(head) - 1 and caption == len(head) - 1 and (glued := _GLUED.fullmatch(row[-1])):
            fields = [*fields[:-1], "", glued["caption"].strip()]
        if len(fields) != len(head) or "\n" in fields[caption]:
            raise DataError(
                f"line {table.line_num} of {place} is not a row of its table",
                expected=f"{len(head)} fields, {', '.join(head)}",
                found="a quotation mark that is not closed"
                if "\n" in "".join(row)
                else f"{len(fields)} fields: {row}"[:120],
            )
        yield fields[image], fields[split] if split is not None else "", in_one_line(_listed(fields[caption]))


def _column(head: Sequence[str], names: Sequence[str]) -> int | None:
    return next((head.index(name) for name in names if name in head), None)


def _listed(text: str) -> list[str]:
    """The captions of a field: a JSON list of them, or one."""
    if text.startswith("[") and text.endswith("]"):
        try:
            found = json.loads(text)
        except ValueError:
            return [text]
        if isinstance(found, list) and all(isinstance(one, str) for one in found):
            return found
    return [text]
