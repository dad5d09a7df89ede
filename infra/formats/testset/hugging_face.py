"""Hugging Face's forms of data sets: Parquet as on the hub, and Arrow files as ``save_to_disk`` writes them.

::

    {name}/[data/]{split}-00000-of-00003.parquet    also {name}/{split}.parquet and {name}/{split}/*.parquet
    {name}/{split}/state.json, data-*.arrow         of a DatasetDict, or without {split}/ of one Dataset

Images are struct<bytes, path> or bytes, labels whole numbers whose names are in the schema (ClassLabel) or in
``classnames.txt``, captions a text or a list of texts. Where a column ``split`` tells each row's split, only rows of
the one asked for count.
"""

from __future__ import annotations

import json
import re
from abc import abstractmethod
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from infra.errors import DataError
from infra.formats.testset.evalset import EvalSet, Form, Packed, SetFiles
from infra.formats.testset.folders import SHARD
from infra.formats.testset.tables import Columns, arrow_errors, find_columns, rows
from infra.formats.testset.texts import read_templates
from infra.store import Store

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["HubParquet", "SavedDataset"]

_SHARDED = re.compile(r"(?P<split>.+?)-\d{5}-of-\d{5}(?:-[0-9a-f]+)?")
_STATE = "state.json"


class _Tables(Form):
    """Base of the forms whose samples are rows of tables."""

    image: str | None = Field(None, description="column of the images, where it is not clear")
    label: str | None = Field(None, description="column of the labels: of several classifications of the same images")
    captions: str | None = Field(None, description="column of the captions")

    @abstractmethod
    def _schema(self, files: SetFiles) -> tuple[str, pa.Schema]:
        """The path of a file with all columns, and its schema."""

    @abstractmethod
    def _shards(self, files: SetFiles) -> list[Any]:
        """What each shard is read from."""

    @abstractmethod
    def _read(self, store: Store, split: str, columns: Columns, part: Any) -> Iterator[Packed]:  # noqa: ANN401
        """The samples of one of :meth:`_shards`."""

    def open(self, files: SetFiles) -> EvalSet:
        path, schema = self._schema(files)
        wanted = {"image": self.image, "label": self.label, "captions": self.captions}
        columns = find_columns(files.store, files.store.locate(path), schema, wanted)
        return EvalSet(
            name=files.name,
            split=files.split,
            store=files.store,
            kind=columns.kind,
            classes=columns.classes,
            templates=read_templates(files.store),
            parts=dict(enumerate(self._shards(files))),
            read=partial(self._read, files.store, files.split, columns),
        )


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

    def _schema(self, files: SetFiles) -> tuple[str, pa.Schema]:
        import pyarrow.parquet as pq

        path = _ending(files, ".parquet")[0]
        with arrow_errors(files.store.locate(path)), files.store.open(path) as source:
            return path, pq.read_schema(source)

    def _shards(self, files: SetFiles) -> list[tuple[str, int, list[int]]]:
        """Row groups of about a thousand rows together: file, number of the first row, the groups."""
        import pyarrow.parquet as pq

        shards: list[tuple[str, int, list[int]]] = []
        for path in _ending(files, ".parquet"):
            with arrow_errors(files.store.locate(path)), files.store.open(path) as source:
                metadata = pq.read_metadata(source)
            first, size, groups = 0, 0, list[int]()
            for group in range(metadata.num_row_groups):
                groups.append(group)
                size += metadata.row_group(group).num_rows
                if size >= SHARD or group + 1 == metadata.num_row_groups:
                    shards.append((path, first, groups))
                    first, size, groups = first + size, 0, []
        return shards

    def _read(self, store: Store, split: str, columns: Columns, part: Any) -> Iterator[Packed]:  # noqa: ANN401
        import pyarrow.parquet as pq

        path, first, groups = part
        with arrow_errors(store.locate(path)), store.open(path) as source, pq.ParquetFile(source) as file:
            batches = partial(file.iter_batches, 64, row_groups=groups, columns=columns.names)
            yield from rows(store, path, columns, split, first, batches)


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

    def _schema(self, files: SetFiles) -> tuple[str, pa.Schema]:
        import pyarrow as pa

        path = self._listed(files)[0]
        with arrow_errors(files.store.locate(path)), files.store.open(path) as source:
            return path, pa.ipc.open_stream(source).schema

    def _shards(self, files: SetFiles) -> list[str]:
        return self._listed(files)

    def _read(self, store: Store, split: str, columns: Columns, part: Any) -> Iterator[Packed]:  # noqa: ANN401
        import pyarrow as pa

        with arrow_errors(store.locate(part)), store.open(part) as source, pa.ipc.open_stream(source) as stream:
            yield from rows(store, part, columns, split, 0, partial(iter, stream))

    def _listed(self, files: SetFiles) -> list[str]:
        """The Arrow files in the order of ``state.json``. Raises DataError if it is of another split, or shuffled."""
        (path,) = _ending(files, _STATE)
        folder, place = path.removesuffix(_STATE), files.store.locate(path)
        try:
            state = json.loads(files.store.read(path))
            listed = [folder + file["filename"] for file in state["_data_files"]]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{place} is not the state of a data set",
                expected="_data_files, as save_to_disk lists them",
                found=repr(error),
            ) from None
        if not listed:
            raise DataError(f"test set {files.name!r} is empty", expected=f"a file in {place}", found="none")
        if state.get("_indices_data_files"):
            raise DataError(
                f"{place} orders its rows by another file",
                found="_indices_data_files",
                fix="flatten_indices, save again",
            )
        if not folder and (split := state.get("_split")) not in (None, files.split):
            raise DataError(
                f"{files.store.url} is another split than asked for",
                expected=files.split,
                found=str(split),
                fix=f"ask for split {split!r}",
            )
        return listed


def _ending(files: SetFiles, ending: str) -> list[str]:
    return [path for path in files.paths if path.endswith(ending)]


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
