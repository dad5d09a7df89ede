"""Read a folder of images with tables that describe them, as ``imagefolder`` of Hugging Face's ``datasets`` does.

::

    {name}/{split}/metadata.csv, .jsonl or .parquet    file_name, and a caption or a label of each image
    {name}/{split}/**/*.jpg                            where file_name says, from the table's own folder on
    {name}/metadata.csv                                without splits, which is the split "test"

Labels are whole numbers, or names: then the classes are ``classnames.txt``, or the names in order. All other columns
are the samples' metadata, so that ``language`` or ``group`` mean what they do elsewhere.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

from pydantic import Field

from infra.errors import DataError
from infra.formats.testset.evalset import Broken, EvalSet, Form, Packed, SetFiles
from infra.formats.testset.folders import chunks, is_image, split_within
from infra.formats.testset.texts import (
    CAPTIONS,
    CLASSES,
    LABELS,
    decoded,
    read_classes,
    read_kind,
    read_templates,
    readable,
)
from infra.store import Store

__all__ = ["MetadataFolder"]

_METADATA = re.compile(r"(?:.*/)?metadata\.(?P<ending>csv|jsonl|parquet)")
_FILE = "file_name"

_Row = Mapping[str, Any]
_Entry = tuple[str, int, tuple[str, ...], str]
"""Path, label, captions, metadata."""


class MetadataFolder(Form):
    """A table of captions or labels in the images' folder."""

    kind: ClassVar[str] = "metadata_folder"
    precedence: ClassVar[int] = 2  # before Parquet, which metadata.parquet is not alone
    layout: ClassVar[str] = "{split}/metadata.csv, metadata.jsonl or metadata.parquet with images"

    label: str | None = Field(None, description="column of the labels, where it is not clear")
    captions: str | None = Field(None, description="column of the captions")

    def find(self, paths: Sequence[str], splits: Collection[str]) -> dict[tuple[str, str], list[str]]:
        found: dict[tuple[str, str], list[str]] = {}
        for path in sorted(paths):
            if _METADATA.fullmatch(path) and "/" in path:
                key = split_within(path.rpartition("/")[0], splits)
                # A table further below belongs to the set above it.
                above = next((one for one in found if one[1] == key[1] and f"{key[0]}/".startswith(f"{one[0]}/")), key)
                found.setdefault(above, []).append(path)
        for files in found.values():
            inside = {file.rpartition("/")[0] for file in files}
            files += [path for path in paths if is_image(path) and any(path.startswith(f"{one}/") for one in inside)]
        return {key: files for key, files in found.items() if is_image(files[-1])}

    def open(self, files: SetFiles) -> EvalSet:
        tables = [path for path in files.paths if _METADATA.fullmatch(path)]
        rows = [(path, number, row) for path in tables for number, row in enumerate(_rows(files.store, path), 1)]
        if not rows:
            raise DataError(f"{files.store.locate(tables[0])} has no rows", expected="an image at least")
        names = list(dict.fromkeys(name for _, _, row in rows for name in row))
        label, captions = self._columns(names, files.store.locate(tables[0]))
        kind = read_kind(
            files.store, "retrieval" if captions and (label is None or self.captions) else "classification"
        )
        labelled = kind == "classification"
        if (label if labelled else captions) is None:
            raise DataError(
                f"{files.store.locate(tables[0])} does not fit its dataset_type.txt", expected=f"a column for {kind}",
                found=", ".join(names),
            )  # fmt: skip
        classes = _classes(files.store, [row.get(label) for _, _, row in rows]) if labelled and label else ()
        there = {path for path in files.paths if is_image(path)}
        entries = [
            _entry(files.store, path, number, row, there, label if labelled else None, captions, classes)
            for path, number, row in rows
        ]
        return EvalSet(
            name=files.name,
            split=files.split,
            store=files.store,
            kind=kind,
            classes=classes,
            templates=read_templates(files.store),
            parts=chunks(entries),
            read=partial(_samples, files.store),
        )

    def _columns(self, names: Sequence[str], place: str) -> tuple[str | None, str | None]:
        """The columns of labels and captions. Raises DataError for none, or several that could be one of them."""
        if _FILE not in names:
            raise DataError(f"{place} does not name the images", expected=_FILE, found=", ".join(names))
        found: list[str | None] = []
        for part, told, known in (("label", self.label, LABELS), ("captions", self.captions, CAPTIONS)):
            likely = [told] if told else [name for name in names if name.lower() in known]
            if len(likely) > 1 or (told and told not in names):
                raise DataError(
                    f"{place} has no column {told!r}"
                    if told
                    else f"{place} has several columns that could be the {part}",
                    found=", ".join(names if told else filter(None, likely)),
                    fix="" if told else f'adopt\'s contents.forms=[{{"kind": "{self.kind}", "{part}": "{likely[0]}"}}]',
                )
            found.append(likely[0] if likely else None)
        if found == [None, None]:
            raise DataError(f"{place} has no captions and no labels", expected="text or label", found=", ".join(names))
        return found[0], found[1]


def _rows(store: Store, path: str) -> Iterator[_Row]:
    """The rows of a table by column. Raises DataError for what is no table."""
    place = store.locate(path)
    if path.endswith(".parquet"):
        from infra.formats.testset.arrow_files import read_rows  # loads pyarrow

        yield from read_rows(store, path)
        return
    text = decoded(store.read(path), place)
    if path.endswith(".csv"):
        for number, fields in enumerate(csv.DictReader(io.StringIO(text)), 1):
            if None in fields or None in fields.values():
                raise DataError(f"row {number} of {place} has other fields than its head", found=str(fields)[:120])
            yield fields
        return
    for number, line in enumerate(text.splitlines(), 1):
        try:
            row = json.loads(line) if line.strip() else None
        except ValueError as error:
            raise DataError(f"line {number} of {place} is not JSON", found=str(error)) from None
        if isinstance(row, dict):
            yield row
        elif row is not None:
            raise DataError(f"line {number} of {place} is no object", found=line[:80])


def _classes(store: Store, labels: Sequence[Any]) -> tuple[str, ...]:
    """The names of the classes. Raises DataError for numbers without names, or names that the set's own lack."""
    given = read_classes(store)
    if all(_is_number(label) for label in labels):
        if not given:
            raise DataError(
                f"the labels at {store.url} are numbers without names", expected=f"a line for each in {CLASSES}",
                found="no such file",
            )  # fmt: skip
        return given
    return given or tuple(readable(name) for name in sorted({str(label) for label in labels if label is not None}))


def _is_number(label: Any) -> bool:  # noqa: ANN401 - JSON
    return isinstance(label, int) or (isinstance(label, str) and label.strip().isdigit())


def _entry(
    store: Store, table: str, number: int, row: _Row, there: Collection[str], label: str | None,
    captions: str | None, classes: Sequence[str],
) -> _Entry | Broken:  # fmt: skip
    """The sample of a row; what is wrong with it, if anything is."""
    place = f"row {number} of {store.locate(table)}"
    path = "/".join(filter(None, (table.rpartition("/")[0], str(row.get(_FILE) or "").removeprefix("./"))))
    if path not in there:
        return Broken("no image", DataError(f"{place} has no image", expected="a file", found=str(row.get(_FILE))))
    rest = {name: value for name, value in row.items() if name not in (_FILE, label, captions)}
    metadata = json.dumps(rest, ensure_ascii=False, default=str) if rest else ""
    if label is None:
        given = row.get(captions or "")
        texts = tuple(text.strip() for text in ([given] if isinstance(given, str) else given or ()) if text.strip())
        if not texts:
            return Broken("no caption", DataError(f"{place} has no caption", expected=f"a text in {captions}"))
        return path, -1, texts, metadata
    value = row.get(label)
    if _is_number(value):
        chosen = int(str(value))
    else:
        chosen = classes.index(name) if (name := readable(str(value))) in classes else -1
    if not 0 <= chosen < len(classes):
        error = DataError(f"{place} has no valid label", expected=f"one of {len(classes)} classes", found=str(value))
        return Broken("no valid label", error)
    return path, chosen, (), metadata


def _samples(store: Store, entries: Sequence[_Entry | Broken]) -> Iterator[Packed | Broken]:
    for one in entries:
        if isinstance(one, Broken):
            yield one
        else:
            path, label, captions, metadata = one
            yield Packed(key=path, image=store.read(path), label=label, captions=captions, metadata=metadata)
