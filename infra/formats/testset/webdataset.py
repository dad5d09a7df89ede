"""CLIP_benchmark's WebDataset layout.

::

    {name}/dataset_type.txt                        one of KINDS; "classification" if it is absent
    {name}/classnames.txt                          a class per line, in label order
    {name}/zeroshot_classification_templates.txt   a prompt per line, with {c} for the class
    {name}/{split}/nshards.txt, {i}.tar            image + cls (a number), or image + txt (a caption per line); + json

A sample of a ``multilabel`` set has ``npy`` for ``cls``, with a 0 or 1 for each class. What an optional ``json`` says
of a sample (its group, the languages of its captions) is for tasks to read, and so are the whole numbers of its
``npy``, in which DataComp keeps WILDS's metadata: they are the field ``npy``. Beside the image, or in its place, a
detector's regions may stand (:mod:`infra.formats.regions`).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from typing import Any, ClassVar

from infra.errors import DataError
from infra.formats.region_shape import BOXES, CLASSES, REGIONS
from infra.formats.shards import IMAGE_EXTENSIONS, dotted_name_hint, read_samples
from infra.formats.testset.evalset import Broken, EvalSet, Form, Packed, SetFiles
from infra.formats.testset.texts import decoded, read_classes, read_kind, read_templates
from infra.store import Store

__all__ = ["WebDataset"]


class WebDataset(Form):
    """A folder for each split, with numbered tars and their number in nshards.txt."""

    kind: ClassVar[str] = "webdataset"
    precedence: ClassVar[int] = 1
    layout: ClassVar[str] = "{split}/nshards.txt beside {split}/*.tar"

    def find(self, paths: Sequence[str], splits: Collection[str]) -> dict[tuple[str, str], list[str]]:
        found: dict[tuple[str, str], list[str]] = {_place(path): [] for path in paths if path.endswith("/nshards.txt")}
        for path in paths:
            if (key := _place(path)) in found:
                found[key].append(path)
        return found

    def open(self, files: SetFiles) -> EvalSet:
        store, name = files.store, files.name
        kind, classes = read_kind(store, "classification"), read_classes(store)
        shards = _shards(store, files.split)
        return EvalSet(
            name=name,
            split=files.split,
            store=store,
            kind=kind,
            classes=classes,
            templates=read_templates(store),
            parts={shard: f"{files.split}/{shard}.tar" for shard in range(shards)},
            read=partial(_samples, name, store, shards, kind, len(classes)),
        )


def _place(path: str) -> tuple[str, str]:
    """Name and split of the set that a file directly in a split's folder belongs to."""
    name, _, split = path.rpartition("/")[0].rpartition("/")
    return name, split


def _samples(name: str, store: Store, shards: int, kind: str, classes: int, path: str) -> Iterator[Packed | Broken]:
    try:
        source = store.open(path)
    except FileNotFoundError:
        raise DataError(f"{store.locate(path)} is missing", expected=f"{shards} shards, as in nshards.txt") from None
    with source:
        for raw in read_samples(source, place=store.locate(path)):
            yield _sample(raw, name, kind, classes)


def _sample(raw: dict[str, Any], name: str, kind: str, classes: int) -> Packed | Broken:
    """The sample of a tar's members; of the first of its parts that is not as it must be, what is wrong."""
    from infra.formats.testset.arrays import classes_shown, whole_numbers  # loads numpy

    key, array, labelled = raw["__key__"], raw.get("npy"), kind in ("classification", "multilabel")
    problem = "no image"
    try:
        regions = {part: bytes(raw[part]) for part in (REGIONS, BOXES, CLASSES) if part in raw and REGIONS in raw}
        image = _image_bytes(raw) if not regions or any(one in raw for one in IMAGE_EXTENSIONS) else b""
        problem = "no valid label" if labelled else "no caption"
        label = _label(raw, name, classes) if kind == "classification" else -1
        labels = classes_shown(array or b"", key, classes) if kind == "multilabel" else ()
        captions = () if labelled else _captions(raw)
        problem = "bad metadata"
        numbers = whole_numbers(array, key) if array and kind == "classification" else None
        return Packed(key, image, label, captions, _metadata(raw, numbers), labels, regions)
    except DataError as error:
        return Broken(problem, error)


def _shards(store: Store, split: str) -> int:
    """The number of shards, as the set says. Raises DataError if it says none, or there is one more."""
    path = f"{split}/nshards.txt"
    text = decoded(store.read(path), store.locate(path)).strip()
    if not (text.isascii() and text.isdigit()):
        raise DataError(f"{store.locate(path)} is no number of shards", expected="0 or more", found=repr(text[:40]))
    if store.exists(more := f"{split}/{int(text)}.tar"):
        raise DataError(f"there are more shards than {store.locate(path)} says", expected=text, found=more)
    return int(text)


def _label(raw: dict[str, Any], name: str, classes: int) -> int:
    text = raw.get("cls", b"").strip()
    if not text.isdigit() or int(text) >= classes:
        raise DataError(
            f"sample {raw['__key__']!r} of {name} has no valid label",
            expected=f"cls holding 0 to {classes - 1}",
            found=repr(text[:40]),
        )
    return int(text)


def _image_bytes(raw: dict[str, Any]) -> bytes:
    for extension in IMAGE_EXTENSIONS:
        if extension in raw:
            return bytes(raw[extension])
    raise DataError(
        f"sample {raw['__key__']!r} has no image",
        expected=", ".join(IMAGE_EXTENSIONS),
        found=", ".join(list(raw)[1:6]),
        fix=dotted_name_hint(raw),
    )


def _captions(raw: dict[str, Any]) -> tuple[str, ...]:
    text = decoded(raw.get("txt", b""), f"the caption of sample {raw['__key__']!r}")
    captions = tuple(stripped for line in text.split("\n") if (stripped := line.strip()))
    if not captions:
        raise DataError(f"sample {raw['__key__']!r} has no caption", expected="txt with a caption per line")
    return captions


def _metadata(raw: dict[str, Any], numbers: list[Any] | None) -> str:
    """The text of a sample's ``json``, with ``numbers`` as its field ``npy``, or "" if there is neither.

    Raises DataError unless it is an object.
    """
    if "json" not in raw:
        return "" if numbers is None else json.dumps({"npy": numbers})
    text = decoded(raw["json"], f"the metadata of sample {raw['__key__']!r}")
    try:
        fields = json.loads(text)
    except ValueError as error:
        fields, found = None, str(error)
    else:
        found = type(fields).__name__
    if not isinstance(fields, dict):
        raise DataError(f"the metadata of sample {raw['__key__']!r} is no JSON object", found=found)
    return text if numbers is None else json.dumps({"npy": numbers} | fields, ensure_ascii=False)
