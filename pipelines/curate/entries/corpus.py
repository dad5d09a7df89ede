"""Read texts lot by lot: captions of a selection, columns of Parquet, lines of text and JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from infra.errors import DataError
from infra.exchange import Task
from infra.run.manifest import Artifact, Funnel
from infra.schema import Drop
from infra.store import Store
from pipelines.curate.captions import ALL, UNKNOWN, read_texts
from pipelines.curate.entries.config import Config
from pipelines.curate.filter.texts import language
from pipelines.layout import counted_shards

__all__ = ["Lines", "Lot", "lines_of", "lots_of", "lots_of_selection", "texts_of"]

_ROWS = 20_000  # of a lot
_BYTES = 16 << 20  # of lines
_AT_ONCE = 1_000  # texts whose language is told together
_SPOKEN = 1_000  # characters of a text that tell its language
_LINE = 1 << 16  # bytes that are read on for the end of a line


class Captions(NamedTuple):
    """Tables of a selection."""

    store: Store
    paths: Sequence[str]


class Groups(NamedTuple):
    """Row groups of a Parquet file."""

    store: Store
    path: str
    groups: Sequence[int]


class Lines(NamedTuple):
    """The lines of a file that begin within some of its bytes."""

    store: Store
    path: str
    start: int
    stop: int


Lot = Captions | Groups | Lines


def lots_of(config: Config, inputs: Mapping[str, Artifact]) -> tuple[Sequence[Lot], int]:
    """All that is to be counted, in lots, at least one; and the number of texts, about."""
    lots: list[Lot] = []
    total = 0
    if selection := inputs.get("selection"):
        own, total = lots_of_selection(selection)
        lots += own
    for corpus in config.given("corpus", inputs):
        for file in corpus.files("data/"):
            if file.path.endswith(".parquet"):
                total += file.rows or 0
                lots += _row_groups(corpus.store, file.path)
            else:
                total += file.bytes // 100
                starts = range(0, file.bytes, _BYTES)
                lots += [Lines(corpus.store, file.path, start, min(start + _BYTES, file.bytes)) for start in starts]
    return lots or [Lines(next(iter(inputs.values())).store, "", 0, 0)], total


def lots_of_selection(selection: Artifact) -> tuple[Sequence[Lot], int]:
    """The captions of a selection in lots, and the number of its rows."""
    shards = counted_shards({"selection": selection})
    lots: list[list[str]] = []
    room = 0
    for _, path, rows in shards:
        if room <= 0:
            lots.append([])
            room = _ROWS
        lots[-1].append(path)
        room -= rows
    return [Captions(selection.store, lot) for lot in lots], sum(rows for _, _, rows in shards)


def _row_groups(store: Store, path: str) -> Iterator[Groups]:
    with store.open(path) as source:
        metadata = pq.read_metadata(source)
    groups: list[int] = []
    rows = 0
    for number in range(metadata.num_row_groups):
        groups.append(number)
        rows += metadata.row_group(number).num_rows
        if rows >= _ROWS:
            yield Groups(store, path, groups)
            groups, rows = [], 0
    if groups:
        yield Groups(store, path, groups)


def texts_of(config: Config, task: Task) -> Iterator[tuple[str, Iterable[str | None]]]:
    """The texts of a task's lot, all captions of a row together, with their language.

    The task's funnel counts them, and those that are none.
    """
    lot: Lot = task.spec
    if isinstance(lot, Captions):
        yield from _of_captions(lot, config.by_language, task)
        return
    found = _of_groups(lot, config.column) if isinstance(lot, Groups) else _of_lines(lot, config.column)
    entered = bad = 0
    while several := list(islice(found, _AT_ONCE)):
        entered += len(several)
        texts = [text for text in several if text]
        bad += len(several) - len(texts)
        for text, own in zip(texts, _languages(texts) if config.by_language else [ALL] * len(texts), strict=True):
            yield own, [text]
    dropped = {str(Drop.NO_TEXT): bad} if bad else {}
    task.funnel = Funnel(unit="texts", entered=entered, kept=entered - bad, dropped=dropped)


def _languages(texts: Sequence[str]) -> list[str]:
    told = language(pa.chunked_array([pa.array([text[:_SPOKEN] for text in texts], pa.string())]))
    return [one or UNKNOWN for one in told.to_pylist()]


def _of_captions(lot: Captions, by_language: bool, task: Task) -> Iterator[tuple[str, Iterable[str | None]]]:
    entered = 0
    for path in lot.paths:
        found = read_texts(lot.store, path, by_language)
        of_row: dict[tuple[int, str], list[str | None]] = {}
        for row, own, text in zip(found.rows.tolist(), found.languages, found.texts, strict=True):
            of_row.setdefault((row, own), []).append(text)
        entered += len(of_row)
        yield from ((own, texts) for (_, own), texts in of_row.items())
    task.funnel = Funnel(unit="texts", entered=entered, kept=entered)


def _of_groups(lot: Groups, column: str) -> Iterator[str | None]:
    with lot.store.open(lot.path) as source, pq.ParquetFile(source) as file:
        if column not in (names := file.schema_arrow.names):
            raise DataError(
                f"{lot.store.locate(lot.path)} has no column {column!r}",
                expected="a column of texts, as the field `column` names it",
                found=", ".join(names),
            )
        for batch in file.iter_batches(_AT_ONCE, row_groups=lot.groups, columns=[column]):
            yield from batch.column(0).cast(pa.string()).to_pylist()


def _of_lines(lot: Lines, column: str) -> Iterator[str | None]:
    """Each line, or the field ``column`` of each line of JSON; None for what is not UTF-8 or has no such text."""
    is_json = lot.path.endswith(".jsonl")
    for line in lines_of(lot):
        try:
            text = line.decode("utf-8")
            yield _field(text, column) if is_json else text
        except ValueError:
            yield None


def _field(text: str, name: str) -> str | None:
    try:
        fields = json.loads(text)
    except RecursionError:
        return None
    found = fields.get(name) if isinstance(fields, dict) else None
    return found if isinstance(found, str) else None


def lines_of(lot: Lines) -> Iterator[bytes]:
    """The lines that begin in the lot's bytes and are not blank."""
    if lot.start == lot.stop:
        return
    before = max(0, lot.start - 1)
    (data,) = lot.store.read_ranges([(lot.path, before, lot.stop)])
    if lot.start:  # what begins before belongs to another lot
        _, end, data = data.partition(b"\n")
        if not end:
            return
    size, stop = lot.store.size(lot.path), lot.stop
    rest = [data]
    while stop < size and not rest[-1].endswith(b"\n") and data:
        (more,) = lot.store.read_ranges([(lot.path, stop, min(size, stop + _LINE))])
        line, end, _ = more.partition(b"\n")
        rest.append(line + end)
        stop += len(more)
    yield from (line for line in b"".join(rest).splitlines() if line.strip())
