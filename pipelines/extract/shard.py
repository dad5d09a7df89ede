"""The three steps of an extraction, each on one file or one partition of ids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from infra.errors import DataError
from infra.garbage import few_collections
from infra.rows import counted, row_error
from infra.run.context import ShardOutput
from infra.run.manifest import Funnel, ShardRecord
from infra.schema import Drop, pairs_schema
from infra.store import Store
from pipelines.extract.config import Config
from pipelines.formats.archives import open_archive, read_ranges
from pipelines.formats.warc import OTHER_KIND, Page, Reader
from pipelines.formats.wat import WatPage
from pipelines.html.arrays import Array, strings
from pipelines.html.candidates import Candidates, candidates
from pipelines.html.images import ExtractOptions, Images, images_of_page, images_of_wat
from pipelines.html.page import Html
from pipelines.html.resolve import fast_canonical
from pipelines.tables import uid, uids, without_secrets
from pipelines.web.policy.opt_outs import Policy
from pipelines.web.urls import BadUrlError

__all__ = [
    "DAMAGED",
    "PAGE",
    "SCRATCH",
    "Ids",
    "Pages",
    "Pairs",
    "Row",
    "Rows",
    "as_rows",
    "find_candidates",
    "find_duplicates",
    "page_rows",
    "repeated",
    "wat_rows",
    "write_pairs",
]

SCRATCH = "scratch"  # folder of intermediate files
_BATCH = 8 << 20  # bytes of pages of which the candidates are made together
_TOGETHER = 30  # records


# --- step one: pages to candidates ---


class Row(NamedTuple):
    """The columns of :func:`infra.schema.pairs_schema`, and the drop reason; None for a pair."""

    uid: str
    url: str
    caption: str
    page_url: str
    source: str | None
    language: str | None
    license: str | None
    context: str | None
    opt_out: str | None
    reason: str | None


def as_rows(table: pa.Table) -> list[Row]:
    columns = [column.to_pylist() for column in table.columns]
    return [Row._make(values) for values in zip(*columns, strict=True)]


def _schema() -> pa.Schema:
    return pairs_schema().append(pa.field("reason", pa.string()))


class Found(NamedTuple):
    """The images of a page, and what they have in common; empty if nothing."""

    url: str
    images: Images
    language: str = ""
    license: str = ""
    opt_out: str = ""
    is_cut: bool = False


class Extractor:
    """Extracts pages one by one, and candidates from many pages at once."""

    def __init__(self, config: Config) -> None:
        self._options = ExtractOptions(config.sources, config.max_caption, config.context)
        self._policy, self._obey_opt_out = Policy(config.agent), config.obey_opt_out

    def of_page(self, page: Page) -> Found:
        """Raises BadUrlError if the page's URL is not valid."""
        html = Html.parse(fast_canonical(page.url), page.headers, page.body)
        return self._found(html, images_of_page(html, self._options), html.cut)

    def of_wat(self, page: WatPage) -> Found:
        return self._found(page, images_of_wat(page, self._options))

    def _found(self, page: Html | WatPage, images: Images, is_cut: bool = False) -> Found:
        if not images.urls:
            return Found(page.url, images, is_cut=is_cut)
        opt_out = self._policy.of_page(page.headers, page.metas, page.rsl)
        return Found(page.url, images, page.language, page.license, opt_out, is_cut)

    def candidates(self, pages: Sequence[Found]) -> pa.Table:
        """Return the candidates of pages."""
        found = candidates([page.images for page in pages], self._options)
        page = pa.array(found.page)

        def of_pages(values: list[str]) -> pa.StringArray:
            return strings([value or None for value in values]).take(page)

        opt_outs = of_pages([page.opt_out for page in pages])
        reasons = found.reasons
        if self._obey_opt_out:
            reasons = pc.if_else(opt_outs.is_valid(), Drop.OPT_OUT.value, reasons)
        columns = [
            uids(found.urls, found.texts),
            found.urls,
            found.texts,
            of_pages([page.url for page in pages]),
            found.sources,
            of_pages([page.language for page in pages]),
            self._licenses(pages, found, of_pages([page.license for page in pages])),
            found.contexts,
            opt_outs,
            reasons,
        ]
        return pa.table(columns, schema=_schema())

    @staticmethod
    def _licenses(pages: Sequence[Found], found: Candidates, of_pages: pa.StringArray) -> pa.StringArray:
        """Return the licences of candidates: the image's own, else the page's."""
        own = [page.images.licenses for page in pages]
        if not any(own):
            return of_pages
        urls = zip(found.page.tolist(), found.urls.to_pylist(), strict=True)
        return pc.coalesce(strings([own[page].get(url) for page, url in urls]), of_pages)


def page_rows(page: Page, config: Config) -> tuple[list[Row], bool]:
    """Return the candidates of one page, and whether the page was cut. Raises BadUrlError if its URL is not valid."""
    extractor = Extractor(config)
    found = extractor.of_page(page)
    return as_rows(extractor.candidates([found])), found.is_cut


def wat_rows(page: WatPage, config: Config) -> list[Row]:
    """Return the candidates of a page of a WAT file."""
    extractor = Extractor(config)
    return as_rows(extractor.candidates([extractor.of_wat(page)]))


class Rows:
    """Candidates of an archive; :class:`pipelines.formats.warc.Reader` says how damage is handled."""

    def __init__(self, reader: Reader, config: Config) -> None:
        self._reader, self._extractor = reader, Extractor(config)
        self._passed: Counter[str] = Counter()
        self._errors: list[str] = []
        self._failed: list[Row] = []
        self.pages = self.cut = 0

    def batches(self) -> Iterator[pa.Table]:
        """Yield tables of rows (:class:`Row`), in order, of pages of :data:`_BATCH` bytes together; at least one."""
        with few_collections():
            pages: list[Found] = []
            size = 0
            for stored in self._stored():
                pages += [page for one in stored if (page := self._page(one)) is not None]
                size += sum(map(len, stored))
                if size > _BATCH:
                    yield self._rows(pages)
                    pages, size = [], 0
            yield self._rows(pages)

    def _stored(self) -> Iterator[list[Page | bytes]]:
        """Yield stored pages, some at a time: a loop for each step of the work is a fifth faster than one for all."""
        stored: list[Page | bytes] = []
        for page in self._reader:
            stored.append(page)
            if len(stored) == _TOGETHER:
                yield stored
                stored = []
        yield stored

    def _page(self, stored: Page | bytes) -> Found | None:
        return self._of_wat(stored) if isinstance(stored, bytes) else self._of_page(stored)

    def _of_page(self, page: Page) -> Found | None:
        try:
            return self._extractor.of_page(page)
        except BadUrlError:
            self._passed[Drop.BAD_URL] += 1
        except Exception as error:  # noqa: BLE001 - see infra.rows
            self._fail(page.url, error)
        return None

    def _of_wat(self, record: bytes) -> Found | None:
        page = None
        try:
            page = WatPage.parse(record)
            if page is not None:
                return self._extractor.of_wat(page)
            self._passed[OTHER_KIND] += 1
        except BadUrlError:
            self._passed[Drop.BAD_URL] += 1
        except Exception as error:  # noqa: BLE001 - see infra.rows
            if page is None and isinstance(error, ValueError):  # not JSON
                self._passed[DAMAGED] += 1
            else:
                self._fail(page.url if page else "", error)
        return None

    def _rows(self, pages: list[Found]) -> pa.Table:
        try:
            tables = [self._extractor.candidates(pages)]
            self._count(pages)
        except Exception:  # noqa: BLE001 - of some page, which raises it again
            tables = [self._alone(page) for page in pages]
        if self._failed:
            tables.append(pa.table(list(zip(*self._failed, strict=True)), schema=_schema()))
            self._failed = []
        return pa.concat_tables(tables)

    def _alone(self, page: Found) -> pa.Table:
        try:
            table = self._extractor.candidates([page])
        except Exception as error:  # noqa: BLE001 - see infra.rows
            self._fail(page.url, error)
            return _schema().empty_table()
        self._count([page])
        return table

    def _count(self, pages: list[Found]) -> None:
        self.pages += len(pages)
        self.cut += sum(page.is_cut for page in pages)

    def _fail(self, url: str, error: Exception) -> None:
        """Note a page ended by an unexpected error: one dropped row, with the error as its context.

        Raises ``error`` again if it is not the page's.
        """
        message = row_error(error)
        self._errors.append(message)
        self._passed[Drop.UNFORESEEN] += 1
        url = url.encode("utf-8", "replace").decode()
        self._failed.append(Row(uid(url, message), "", "", url, None, None, None, message, None, Drop.UNFORESEEN))

    @property
    def facts(self) -> dict[str, Any]:
        """``records``: how many there are, by what became of them; ``cut_pages`` of the pages were used in part."""
        records = self._passed + self._reader.passed + Counter({PAGE: self.pages, DAMAGED: self._reader.damaged})
        facts = {"records": dict(sorted(records.items())), "cut_pages": self.cut}
        return facts | counted(self._errors, self.pages + len(self._errors))


PAGE, DAMAGED = "page", "damaged"
"""What may become of a record, besides being passed over for a reason."""


@dataclass(frozen=True)
class Pages:
    """The archive at ``path``; the ids of its pairs are split into ``partitions``."""

    name: str
    path: str
    partitions: int
    config: Config


def find_candidates(shard: Pages, output: ShardOutput) -> ShardRecord:
    """Read an archive's pages and write every candidate to the scratch table, and the ids of its pairs to another file.

    Memory: pages of :data:`_BATCH` bytes, and 20 bytes per pair of the file. Raises DataError if it is not an archive.
    """
    ids: list[tuple[bytes, Array]] = []
    written = 0
    with open_archive(shard.path) as source, output.open(f"{SCRATCH}/{shard.name}.parquet") as sink:
        reader = Reader(source, shard.config.max_page_bytes)
        pages = Rows(reader, shard.config)
        with pq.ParquetWriter(sink, _schema(), compression="lz4") as table:
            for rows in pages.batches():
                table.write_table(rows)
                kept = np.flatnonzero(rows["reason"].is_null())
                uids = "".join(rows["uid"].take(pa.array(kept)).to_pylist())
                ids.append((bytes.fromhex(uids), kept.astype("<u4") + written))
                written += len(rows)
        if not reader.records and not reader.is_archive:
            raise DataError(f"{shard.path} is not a WARC, ARC or WAT file", expected="records, compressed or not")
    with output.open(f"{SCRATCH}/{shard.name}.ids") as sink:
        sink.write(_partitioned([data for data, _ in ids], [numbers for _, numbers in ids], shard.partitions))
    return output.commit(facts=pages.facts)


# --- step two: which candidates are duplicates ---
#
# Ids and row numbers are passed on in binary files: a table of contents (int64 byte offsets of the parts), then the
# parts. An id is 16 bytes, a row number 4.


_ENTRY = np.dtype([("high", ">u8"), ("low", ">u8"), ("row", "<u4")])


def _partitioned(ids: Sequence[bytes], rows: Sequence[Array], partitions: int) -> bytes:
    """Encode ids with their row numbers as a part per partition, in order within each."""
    halves = np.frombuffer(b"".join(ids), dtype=">u8").reshape(-1, 2)
    entries = np.empty(len(halves), dtype=_ENTRY)
    entries["high"], entries["low"], entries["row"] = halves[:, 0], halves[:, 1], np.concatenate(rows)
    partition = (entries["high"] % np.uint64(partitions)).astype(np.int64)
    counts = np.bincount(partition, minlength=partitions)
    return _encode(counts * _ENTRY.itemsize, entries[np.argsort(partition, kind="stable")].tobytes())


def _encode(sizes: Array | list[int], data: bytes) -> bytes:
    """Prepend the table of contents to concatenated parts of these ``sizes``."""
    ends = np.cumsum([8 * (len(sizes) + 1), *sizes])
    return ends.astype("<i8").tobytes() + data


def _parts(store: Store, wanted: Sequence[tuple[str, int]]) -> list[bytes]:
    """Read one part of each file, given as (path, number of the part)."""
    tables = read_ranges(store.url, [(path, 8 * number, 8 * number + 16) for path, number in wanted])
    places = [np.frombuffer(table, dtype="<i8").tolist() for table in tables]
    there = [(path, start, end) for (path, _), (start, end) in zip(wanted, places, strict=True) if end > start]
    parts = iter(read_ranges(store.url, there))
    return [next(parts) if end > start else b"" for start, end in places]


@dataclass(frozen=True)
class Ids:
    """Partition ``number`` of the ids of the files ``names``."""

    number: int
    names: list[str]


def find_duplicates(shard: Ids, output: ShardOutput) -> ShardRecord:
    """Find, for each file, the rows of pairs whose uid occurred before, in this file or an earlier one.

    Memory: some 60 bytes per pair of the partition, about as many as fifty files have.
    """
    files = [(f"{SCRATCH}/{name}.ids", shard.number) for name in shard.names]
    parts = [np.frombuffer(part, dtype=_ENTRY) for part in _parts(output.store, files)]
    again = repeated(np.concatenate(parts))
    borders = np.cumsum([len(part) for part in parts])[:-1]
    found = [part["row"][flags] for part, flags in zip(parts, np.split(again, borders), strict=True)]
    with output.open(f"{SCRATCH}/duplicates-{shard.number:04d}") as sink:
        sink.write(_encode([rows.nbytes for rows in found], b"".join(rows.tobytes() for rows in found)))
    return output.commit()


def repeated(ids: Array) -> Array:
    """Return, for each id, given as two halves, whether it occurred before."""
    order = np.lexsort((ids["low"], ids["high"]))  # stable: of equal ids the first stays first
    ordered = ids[order]
    again = np.zeros(len(ids), dtype=bool)
    same = (ordered["high"][1:] == ordered["high"][:-1]) & (ordered["low"][1:] == ordered["low"][:-1])
    again[order[1:][same]] = True
    return again


# --- step three: candidates to pairs ---


@dataclass(frozen=True)
class Pairs:
    """The scratch table ``name``, the ``number``-th of all; its duplicates are listed by ``partitions``."""

    number: int
    name: str
    partitions: int


def write_pairs(shard: Pairs, output: ShardOutput) -> ShardRecord:
    """Split a scratch table into pairs and dropped candidates."""
    with output.store.open(f"{SCRATCH}/{shard.name}.parquet") as source:
        table = pq.read_table(source)
    again = np.zeros(table.num_rows, dtype=bool)
    files = [(f"{SCRATCH}/duplicates-{partition:04d}", shard.number) for partition in range(shard.partitions)]
    for part in _parts(output.store, files):
        again[np.frombuffer(part, "<u4")] = True
    reason = pc.if_else(pa.array(again), Drop.DUPLICATE_PAIR.value, table["reason"])
    table = table.set_column(table.schema.get_field_index("reason"), "reason", reason)
    kept = table.filter(pc.is_null(reason)).drop_columns("reason").cast(pairs_schema())
    kept = without_secrets(kept, ("page_url", "license"))  # not url: it is what will be fetched
    dropped = without_secrets(table.filter(pc.is_valid(reason)), ("url", "page_url", "license"))
    output.write_table(f"data/pairs-{shard.name}.parquet", kept)
    output.write_table(f"data/dropped-{shard.name}.parquet", dropped)
    counts = Counter(dropped["reason"].to_pylist())
    funnel = Funnel(unit="candidates", entered=table.num_rows, kept=kept.num_rows, dropped=dict(sorted(counts.items())))
    return output.commit(funnel)
