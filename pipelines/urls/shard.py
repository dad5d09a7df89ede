"""The two readings of a URL list: ``survey`` finds the columns of a file, ``write_pairs`` converts its rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import pyarrow as pa
import pyarrow.parquet as pq

from infra.errors import DataError
from infra.run.context import ShardOutput
from infra.run.manifest import Funnel, ShardRecord
from pipelines.urls.column_types import Found, merged, of_texts, of_values, plain
from pipelines.urls.config import Config
from pipelines.urls.files import ListFile
from pipelines.urls.formats import Batch, find_dialect, read_batches, translated_errors
from pipelines.urls.pairs import pairs_of
from pipelines.urls.parquet_rows import ParquetList
from pipelines.urls.plan import Columns, Plan, dialect_of, write_schema
from pipelines.urls.separated import Dialect

__all__ = ["Part", "parts", "survey", "write_pairs"]

FILE_ROWS = 200_000  # per output file; some 100 MB in memory
FILE_BYTES = 256 << 20  # in memory, whichever comes first
GROUP_ROWS = 10_000  # per row group, the least that a reader of a few rows reads
PART_ROWS = 1_000_000  # of a Parquet file, per task


# --- first reading: the types of the columns --------------------------------------------------------------------------


def survey(config: Config, file: ListFile, output: ShardOutput) -> ShardRecord:
    """Find the columns of a file and their types.

    Facts: ``schema``, ``twice`` (names of several columns), ``dialect`` of csv and tsv, ``groups`` (rows per row group
    of a Parquet file), ``rows`` with ``malformed`` ones, and ``counts`` of lines that are no rows. Of txt only the
    first rows are looked at.
    """
    dialect, names, groups, rows, malformed, counts = None, [], [], 0, 0, Counter[str]()
    types: dict[str, Found] = {}
    if file.format == "parquet":
        with translated_errors(file.url, "parquet"), file.open() as source:
            listed = ParquetList(source)
            groups, rows, names, wide = listed.groups, sum(listed.groups), listed.given, listed.wide()
            types = {name: Found(plain(type), name in wide) for name, type in listed.types.items()}
    else:
        dialect = find_dialect(file.open, file.format, file.url, config.quoting)
        names = list(dialect.columns) if dialect else []
        type_of = of_texts if dialect else of_values
        some = 1 if file.format.startswith("txt") else None  # its one column needs no reading
        for batch in islice(read_batches(file.open, file.format, file.url, dialect=dialect), some):
            rows += len(batch.numbers) + len(batch.bad)
            malformed += len(batch.bad)
            counts += batch.counts
            for name, values in batch.columns.items():
                types[name] = merged(types.get(name, Found()), type_of(values))
        if malformed and malformed == rows:
            raise DataError(f"{file.url} has no row that can be read", found=f"{rows} malformed ones")
    return output.commit(
        facts={
            "schema": write_schema(types),
            "twice": [name for name, count in Counter(names).items() if count > 1],
            "dialect": dialect,
            "groups": groups,
            "rows": rows,
            "malformed": malformed,
            "counts": dict(counts),
        }
    )


# --- second reading: the rows -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """A task: a file, or row ``groups`` of a Parquet file, whose first row has number ``first``."""

    name: str
    file: ListFile
    columns: Columns
    dialect: Dialect | None = None
    groups: tuple[int, ...] | None = None
    first: int = 1


def parts(number: int, file: ListFile, record: ShardRecord, columns: Columns) -> Iterator[Part]:
    """Split file ``number`` into tasks: one, or one per million rows of Parquet."""
    if file.format != "parquet":
        yield Part(f"{number:05d}", file, columns, dialect_of(record))
        return
    groups: list[int] = []
    first, held = 1, 0
    for group, rows in enumerate(record.facts["groups"]):
        if groups and held + rows > PART_ROWS:
            yield Part(f"{number:05d}-{groups[0]:05d}", file, columns, None, tuple(groups), first)
            groups, first, held = [], first + held, 0
        groups.append(group)
        held += rows
    if groups:
        yield Part(f"{number:05d}-{groups[0]:05d}", file, columns, None, tuple(groups), first)


def write_pairs(plan: Plan, part: Part, output: ShardOutput) -> ShardRecord:
    """Convert the rows of a part to pairs, and write those that are none with a reason."""
    counts = Counter[str]()
    rows = 0
    pairs = _Writer(output, f"data/{part.name}")
    dropped = _Writer(output, f"data/dropped-{part.name}")
    for batch in _batches(plan, part):
        kept, rest = pairs_of(batch, plan, part.columns, part.file.name)
        rows += len(batch.numbers) + len(batch.bad)
        counts.update(rest["reason"].to_pylist())
        pairs.add(kept)
        dropped.add(rest)
    pairs.close()
    dropped.close()
    funnel = Funnel(
        unit="rows", entered=pairs.rows + dropped.rows, kept=pairs.rows, dropped=dict(sorted(counts.items()))
    )
    return output.commit(funnel, {"rows": rows})


def _batches(plan: Plan, part: Part) -> Iterator[Batch]:
    wanted = [part.columns.url, *filter(None, [part.columns.caption]), *plan.others.values()]
    return read_batches(
        part.file.open,
        part.file.format,
        part.file.url,
        dialect=part.dialect,
        groups=part.groups,
        first=part.first,
        columns=wanted,
    )


class _Writer:
    """Writes rows to files of :data:`FILE_ROWS` rows; writes none if there are no rows."""

    def __init__(self, output: ShardOutput, prefix: str) -> None:
        self._output, self._prefix = output, prefix
        self._tables: list[pa.Table] = []
        self._waiting = self._bytes = self._files = self.rows = 0

    def add(self, table: pa.Table) -> None:
        if table.num_rows:
            self._tables.append(table)
            self._waiting += table.num_rows
            self._bytes += table.nbytes
            self.rows += table.num_rows
        if self._waiting >= FILE_ROWS or self._bytes >= FILE_BYTES:
            self.close()

    def close(self) -> None:
        """Write the buffered rows."""
        if self._tables:
            table = pa.concat_tables(self._tables)
            with self._output.open(f"{self._prefix}-{self._files:04d}.parquet", rows=table.num_rows) as sink:
                pq.write_table(table, sink, compression="zstd", row_group_size=GROUP_ROWS)
            self._tables, self._waiting, self._bytes, self._files = [], 0, 0, self._files + 1
