"""Read Parquet and Arrow files as shards of a test set."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from infra.errors import DataError
from infra.formats.testset.evalset import Broken, EvalSet, Packed, SetFiles
from infra.formats.testset.folders import SHARD
from infra.formats.testset.tables import Columns, arrow_errors, find_columns, rows
from infra.formats.testset.texts import read_templates
from infra.store import Store

__all__ = ["STATE", "ArrowFiles", "ParquetFiles", "TableFiles", "open_tables", "read_rows"]

STATE = "state.json"


class TableFiles(Protocol):
    """A kind of files of tables."""

    def schema(self, files: SetFiles) -> tuple[str, pa.Schema]:
        """The path of a file with all columns, and its schema."""

    def shards(self, files: SetFiles) -> list[Any]:
        """The source of each shard."""

    def read(self, store: Store, split: str, columns: Columns, part: Any) -> Iterator[Packed | Broken]:  # noqa: ANN401
        """The samples of one of :meth:`shards`."""


def open_tables(files: SetFiles, kind: TableFiles, wanted: Mapping[str, str | None]) -> EvalSet:
    """Open the set in ``files``. ``wanted``: names of its columns image, label and captions, where given."""
    path, schema = kind.schema(files)
    columns = find_columns(files.store, files.store.locate(path), schema, wanted)
    return EvalSet(
        name=files.name,
        split=files.split,
        store=files.store,
        kind=columns.kind,
        classes=columns.classes,
        templates=read_templates(files.store),
        parts=dict(enumerate(kind.shards(files))),
        read=partial(kind.read, files.store, files.split, columns),
    )


class ParquetFiles:
    """Parquet: some row groups are a shard."""

    def schema(self, files: SetFiles) -> tuple[str, pa.Schema]:
        path = _ending(files, ".parquet")[0]
        with arrow_errors(files.store.locate(path)), files.store.open(path) as source:
            return path, pq.read_schema(source)

    def shards(self, files: SetFiles) -> list[tuple[str, int, list[int]]]:
        """Row groups of about a thousand rows together: file, number of the first row, the groups."""
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

    def read(self, store: Store, split: str, columns: Columns, part: Any) -> Iterator[Packed | Broken]:  # noqa: ANN401
        path, first, groups = part
        with arrow_errors(store.locate(path)), store.open(path) as source, pq.ParquetFile(source) as file:
            batches = partial(file.iter_batches, 64, row_groups=groups, columns=columns.names)
            yield from rows(store, path, columns, split, first, batches)


class ArrowFiles:
    """Arrow streams: a file is a shard."""

    def schema(self, files: SetFiles) -> tuple[str, pa.Schema]:
        path = _listed(files)[0]
        with arrow_errors(files.store.locate(path)), files.store.open(path) as source:
            return path, pa.ipc.open_stream(source).schema

    def shards(self, files: SetFiles) -> list[str]:
        return _listed(files)

    def read(self, store: Store, split: str, columns: Columns, part: Any) -> Iterator[Packed | Broken]:  # noqa: ANN401
        with arrow_errors(store.locate(part)), store.open(part) as source, pa.ipc.open_stream(source) as stream:
            yield from rows(store, part, columns, split, 0, partial(iter, stream))


def read_rows(store: Store, path: str) -> Iterator[dict[str, Any]]:
    """The rows of a small Parquet file. Raises DataError, naming the file."""
    with arrow_errors(store.locate(path)), store.open(path) as source:
        yield from pq.read_table(source).to_pylist()


def _listed(files: SetFiles) -> list[str]:
    """The Arrow files in the order of ``state.json``. Raises DataError if it is of another split, or shuffled."""
    (path,) = _ending(files, STATE)
    folder, place = path.removesuffix(STATE), files.store.locate(path)
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
