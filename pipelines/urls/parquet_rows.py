"""Rows of Parquet files, by the types that Parquet itself knows.

pyarrow also writes the Arrow schema that a table had, and reading it back is where files fail: a fixed-size list with a
null, an extension type, a dictionary. Nothing of it is needed here.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from infra.errors import DataError
from pipelines.urls.column_types import EXACT
from pipelines.urls.lines import BATCH_ROWS, Batch, Opener, distinct

__all__ = ["ParquetList", "parquet_batches"]


class ParquetList:
    """An open file: the names and types of its columns, and the rows of its row groups."""

    def __init__(self, source: BinaryIO) -> None:
        footer = _without_arrow_schema(source)
        self.file = pq.ParquetFile(source, metadata=footer, arrow_extensions_enabled=False)
        self.groups = [footer.row_group(group).num_rows for group in range(footer.num_row_groups)]
        self.given = self.file.schema_arrow.names
        leaves = [self.file.schema.column(place) for place in range(len(self.file.schema))]
        self.uuids = {leaf.path for leaf in leaves if leaf.logical_type.type == "UUID"}

    @property
    def types(self) -> dict[str, pa.DataType]:
        """Type of each column, UUIDs as text."""
        fields = zip(distinct(self.given), self.file.schema_arrow, strict=True)
        return {name: pa.string() if field.name in self.uuids else field.type for name, field in fields}

    def wide(self) -> set[str]:
        """Return the columns that hold integers beyond a double's precision, by the statistics, or may hold them."""
        footer, found = self.file.metadata, set()
        for place in range(footer.num_columns):
            leaf = self.file.schema.column(place)
            if leaf.physical_type == "INT64" and any(self._is_wide(group, place) for group in range(len(self.groups))):
                found.add(leaf.path.partition(".")[0])
        return {name for name, given in zip(distinct(self.given), self.given, strict=True) if given in found}

    def _is_wide(self, group: int, place: int) -> bool:
        known = self.file.metadata.row_group(group).column(place).statistics
        if known is None or not known.has_min_max:
            return known is None or known.null_count != self.groups[group]
        return any(abs(bound) > EXACT for bound in (known.min_raw, known.max_raw))

    def batches(self, groups: Sequence[int] | None, first: int, columns: Sequence[str] | None) -> Iterator[Batch]:
        """Read ``groups`` (default: all) and ``columns``; the first row has number ``first``."""
        names = dict(zip(distinct(self.given), self.given, strict=True))
        wanted = {names[name] for name in columns or () if name in names}
        given = None if columns is None else [name for name in dict.fromkeys(self.given) if name in wanted]
        chosen = list(range(len(self.groups))) if groups is None else list(groups)
        try:
            for batch in self.file.iter_batches(BATCH_ROWS, row_groups=chosen, columns=given):
                pairs = zip(batch.schema.names, batch.columns, strict=True)
                arrays = [_texts(array) if name in self.uuids else array for name, array in pairs]
                yield Batch(
                    dict(zip(distinct(batch.schema.names), arrays, strict=True)), range(first, first + batch.num_rows)
                )
                first += batch.num_rows
        except (pa.ArrowException, OSError) as error:
            self._find_fault(chosen, self.given if given is None else given)
            raise error from None

    def _find_fault(self, groups: Sequence[int], columns: Sequence[str]) -> None:
        """Raise DataError naming the first column that cannot be read, and its rows."""
        for group in groups:
            for name in columns:
                try:
                    self.file.read_row_group(group, [name])
                except (pa.ArrowException, OSError) as error:
                    first = sum(self.groups[:group]) + 1
                    raise DataError(
                        f"column {name!r} cannot be read in rows {first} to {first + self.groups[group] - 1}",
                        found=str(error)[:300],
                    ) from None


def _without_arrow_schema(source: BinaryIO) -> pq.FileMetaData:
    """Return the footer of a file with its Arrow schema under a name that pyarrow does not look for."""
    end = source.seek(0, 2)
    source.seek(max(0, end - 8))
    tail = source.read(8)
    size = int.from_bytes(tail[:4], "little")
    if tail[4:] != b"PAR1" or size > end:
        source.seek(0)
        return pq.read_metadata(source)  # which says what is wrong
    source.seek(end - 8 - size)
    footer = source.read(size).replace(b"\x0cARROW:schema", b"\x0cARROW:unused")
    return pq.read_metadata(pa.BufferReader(b"PAR1" + footer + tail))


def _texts(uuids: pa.Array) -> pa.Array:
    return pa.array([value and str(uuid.UUID(bytes=value)) for value in uuids.to_pylist()], pa.string())


def parquet_batches(
    opened: Opener, groups: Sequence[int] | None, first: int, columns: Sequence[str] | None
) -> Iterator[Batch]:
    """Read a file in batches."""
    with opened() as source:
        opened_list = ParquetList(source)
        with opened_list.file:
            yield from opened_list.batches(groups, first, columns)
