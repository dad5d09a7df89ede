"""Hugging Face's forms of data sets: Parquet as on the hub, and Arrow files as ``save_to_disk`` writes them.

::

    {name}/[data/]{split}-00000-of-00003.parquet    also {name}/{split}.parquet and {name}/{split}/*.parquet
    {name}/{split}/state.json, data-*.arrow         of a DatasetDict, or without {split}/ of one Dataset

Images are struct<bytes, path> or bytes, labels whole numbers whose names are in the schema (ClassLabel) or in
``classnames.txt``, captions a text or a list of texts. Where a column ``split`` tells each row's split, only rows of
the one asked for count.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import ClassVar

from pydantic import Field

from infra.formats.testset.evalset import EvalSet, Form, SetFiles

__all__ = ["HubParquet", "SavedDataset"]

_SHARDED = re.compile(r"(?P<split>.+?)-\d{5}-of-\d{5}(?:-[0-9a-f]+)?")
_STATE = "state.json"


class _Tables(Form):
    """Base of the forms whose samples are rows of tables."""

    image: str | None = Field(None, description="column of the images, where it is not clear")
    label: str | None = Field(None, description="column of the labels: of several classifications of the same images")
    captions: str | None = Field(None, description="column of the captions")

    def _columns(self) -> dict[str, str | None]:
        return {"image": self.image, "label": self.label, "captions": self.captions}


class HubParquet(_Tables):
    """Parquet files with encoded images, as ``push_to_hub`` writes them."""

    kind: ClassVar[str] = "hub_parquet"
    precedence: ClassVar[int] = 3
    layout: ClassVar[str] = "{split}-00000-of-00001.parquet"

    def find(self, paths: Sequence[str], splits: Collection[str]) -> dict[tuple[str, str], list[str]]:
        found: dict[tuple[str, str], list[str]] = {}
        for path in paths:
            if path.endswith(".parquet") and (key := _place(path, splits)):
                found.setdefault(key, []).append(path)
        return found

    def open(self, files: SetFiles) -> EvalSet:
        from infra.formats.testset.arrow_files import ParquetFiles, open_tables  # loads pyarrow

        return open_tables(files, ParquetFiles(), self._columns())


class SavedDataset(_Tables):
    """Arrow files as ``Dataset.save_to_disk`` and ``DatasetDict.save_to_disk`` write them."""

    kind: ClassVar[str] = "saved_dataset"
    precedence: ClassVar[int] = 2
    layout: ClassVar[str] = "{split}/state.json beside {split}/*.arrow"

    def find(self, paths: Sequence[str], splits: Collection[str]) -> dict[tuple[str, str], list[str]]:
        folders = {path.removesuffix(f"/{_STATE}") for path in paths if path.endswith(f"/{_STATE}")}
        together = {path.rpartition("/")[0] for path in paths if path.endswith("/dataset_dict.json")}
        found: dict[tuple[str, str], list[str]] = {}
        for path in paths:
            folder = path.rpartition("/")[0]
            if folder not in folders:
                continue
            above, _, last = folder.rpartition("/")
            # One that was saved alone is the split that is asked for; its own word is checked when it is opened.
            key = (above, last) if above in together or last in splits else (folder, next(iter(splits)))
            found.setdefault(key, []).append(path)
        return found

    def open(self, files: SetFiles) -> EvalSet:
        from infra.formats.testset.arrow_files import ArrowFiles, open_tables  # loads pyarrow

        return open_tables(files, ArrowFiles(), self._columns())


def _place(path: str, splits: Collection[str]) -> tuple[str, str] | None:
    """Name and split of the set that a Parquet file belongs to; None if it does not look like a part of one."""
    folder, _, file = path.rpartition("/")
    stem = file.removesuffix(".parquet")
    above, _, last = folder.rpartition("/")
    if match := _SHARDED.fullmatch(stem):
        split = match["split"]
    elif stem in splits:
        split = stem
    elif last in splits:
        return above.removesuffix("/data"), last
    else:
        return None
    return folder.removesuffix("/data"), split
