"""A folder of images for each class, as torchvision's ImageFolder reads them.

::

    {name}/{split}/{class}/*.jpg    or, without splits, {name}/{class}/*.jpg, which is the split "test"
    {name}/classnames.txt           optional: a name for each folder, in the order of the labels
    {name}/zeroshot_classification_templates.txt

Labels follow the names of the folders in order, as torchvision's do. Folders that are all numbers are the labels
themselves: in order of their names, 10 would come before 2.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from typing import ClassVar, TypeVar

from infra.errors import DataError
from infra.formats.shards import IMAGE_EXTENSIONS
from infra.formats.testset.evalset import EvalSet, Form, Packed, SetFiles
from infra.formats.testset.texts import CLASSES, read_classes, read_templates, readable
from infra.store import Store

__all__ = ["SHARD", "ImageFolder", "chunks", "is_image", "split_within"]

T = TypeVar("T")

SHARD = 1000
"""Images that one task reads and encodes together."""

_WORDNET = re.compile(r"n\d{8}")


class ImageFolder(Form):
    """A folder for each class, in a folder for each split if there are several."""

    kind: ClassVar[str] = "image_folder"
    precedence: ClassVar[int] = 9  # whatever has images somewhere looks like one
    layout: ClassVar[str] = "{split}/{class}/*.jpg"

    def find(self, paths: Sequence[str], splits: Collection[str]) -> dict[tuple[str, str], list[str]]:
        found: dict[tuple[str, str], list[str]] = {}
        for path in paths:
            if is_image(path) and (key := _place(path, splits)):
                found.setdefault(key, []).append(path)
        # One folder of images is no classification.
        return {key: files for key, files in found.items() if len({_class(path, key) for path in files}) > 1}

    def open(self, files: SetFiles) -> EvalSet:
        images = [path for path in files.paths if is_image(path)]
        inside = f"{files.split}/" if all(path.startswith(f"{files.split}/") for path in images) else ""
        folders = sorted({path.removeprefix(inside).partition("/")[0] for path in images})
        classes, label_of = _labels(files.store, folders)
        labelled = [(path, label_of[path.removeprefix(inside).partition("/")[0]]) for path in images]
        return EvalSet(
            name=files.name,
            split=files.split,
            store=files.store,
            kind="classification",
            classes=classes,
            templates=read_templates(files.store),
            parts=chunks(labelled),
            read=partial(_samples, files.store),
        )


def chunks(entries: Sequence[T]) -> dict[int, Sequence[T]]:
    """The entries of each shard, ``SHARD`` at most."""
    return {start // SHARD: entries[start : start + SHARD] for start in range(0, len(entries), SHARD)}


def is_image(path: str) -> bool:
    """True if a file is named as an image."""
    return path.rpartition(".")[2].lower() in IMAGE_EXTENSIONS


def split_within(folder: str, splits: Collection[str]) -> tuple[str, str]:
    """Name and split of the set that a folder belongs to: by the first folder that is named as a split, else "test"."""
    names = folder.split("/")
    for place, name in enumerate(names):
        if place and name in splits:
            return "/".join(names[:place]).removesuffix("/data"), name
    return folder, "test"


def _place(path: str, splits: Collection[str]) -> tuple[str, str] | None:
    """Name and split of the set that an image belongs to, None if it is in no folder of a class."""
    *folders, _ = path.split("/")
    # The first folder that is named as a split and has a class below; there may be folders within a class.
    for place, folder in enumerate(folders[:-1]):
        if place and folder in splits:
            return "/".join(folders[:place]), folder
    return ("/".join(folders[:-1]), "test") if len(folders) > 1 else None


def _class(path: str, key: tuple[str, str]) -> str:
    name, split = key
    return path.removeprefix(f"{name}/").removeprefix(f"{split}/").partition("/")[0]


def _labels(store: Store, folders: Sequence[str]) -> tuple[tuple[str, ...], dict[str, int]]:
    """The classes, and the label of each folder. Raises DataError where names are missing or do not fit."""
    names = read_classes(store)
    if all(folder.isascii() and folder.isdigit() for folder in folders):
        label_of = {folder: int(folder) for folder in folders}
        if not names or max(label_of.values()) >= len(names):
            raise DataError(
                f"the folders of classes at {store.url} are numbers without names",
                expected=f"a line for each label in {CLASSES}",
                found=f"{len(names)} names, and label {max(label_of.values())}",
            )
        return names, label_of
    if not names and all(_WORDNET.fullmatch(folder) for folder in folders):
        raise DataError(
            f"the folders of classes at {store.url} are WordNet's numbers, which no caption says",
            expected=f"a name for each of {folders[0]}, {folders[1]}, ... in {store.locate(CLASSES)}",
            found="no such file",
        )
    if names and len(names) != len(folders):
        raise DataError(
            f"{store.locate(CLASSES)} does not fit the folders of classes",
            expected=f"{len(folders)} names, for {folders[0]}, {folders[1]}, ...",
            found=f"{len(names)} names",
        )
    return names or tuple(map(readable, folders)), {folder: label for label, folder in enumerate(folders)}


def _samples(store: Store, labelled: Sequence[tuple[str, int]]) -> Iterator[Packed]:
    for path, label in labelled:
        yield Packed(key=path, image=store.read(path), label=label, captions=())
