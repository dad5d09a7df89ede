"""Records by the thousand: so many neighbouring shards are one file, and one line of the manifest.

A ledger and a manifest that named each of a million shards would be a million files and a gigabyte of JSON. A *piece*
is a file of JSON lines: first a :class:`Piece`, which says what the rest comes to, then the records. A finished stage
is summed up from first lines; who needs the records has one piece after the other in memory.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any, TypeVar, overload

import msgspec

from infra.run.records import File, Funnel, ShardRecord, add_up, encode, unreadable
from infra.store import Store

__all__ = ["PIECE", "UNFORESEEN", "Piece", "Records", "files_of", "read_head", "read_pieces", "write_piece"]

PIECE = 1000
"""Records of a piece."""

UNFORESEEN = "unforeseen"
"""Fact of a shard and of a manifest: rows that ended with an error nobody foresaw, by message."""

_FOLDER = "pieces"  # of those that are written for a manifest alone
_AHEAD = 8  # pieces read at once, some megabytes
_HEAD = 1 << 14  # bytes that nearly every first line fits in
_T = TypeVar("_T")


class Piece(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Totals of the records of the file ``path``. ``digest``: sha256 of their files, which decides the content."""

    path: str
    digest: str
    shards: int
    files: int
    bytes: int
    rows: int
    funnels: list[Funnel] = []  # one for each unit
    unforeseen: dict[str, int] = {}


class _Files(msgspec.Struct, gc=False):
    """Of a record only its files: the rest is passed over."""

    files: list[File] = []


class _Path(msgspec.Struct, gc=False):
    path: str


class _Paths(msgspec.Struct, gc=False):
    """Of a record only the paths of its files."""

    files: list[_Path] = []


def write_piece(store: Store, path: str, records: Sequence[ShardRecord]) -> Piece:
    files = [file for record in records for file in record.files]
    unforeseen: Counter[str] = Counter()
    for record in records:
        unforeseen.update(record.facts.get(UNFORESEEN, {}))
    piece = Piece(
        path=path,
        digest=digest_of(files),
        shards=len(records),
        files=len(files),
        bytes=sum(file.bytes for file in files),
        rows=sum(file.rows or 0 for file in files),
        funnels=add_up(record.funnel for record in records if record.funnel),
        unforeseen=dict(sorted(unforeseen.items())),
    )
    store.write(path, b"\n".join([encode(piece), *map(encode, records), b""]))
    return piece


def digest_of(files: Iterable[File]) -> str:
    """Digest of files with their contents, in this order."""
    sha256 = hashlib.sha256()
    for file in files:
        sha256.update(encode(file) + b"\n")
    return sha256.hexdigest()


def read_head(store: Store, paths: Sequence[str]) -> list[Piece]:
    """The first lines of pieces. Raises DataError for a file that is none."""
    starts = store.read_ranges([(path, 0, _HEAD) for path in paths])
    whole = {path: store.read(path) for path, data in zip(paths, starts, strict=True) if b"\n" not in data}
    lines = [whole.get(path, data).partition(b"\n")[0] for path, data in zip(paths, starts, strict=True)]
    return [_decoded(Piece, line, store, path) for path, line in zip(paths, lines, strict=True)]


def read_pieces(store: Store, paths: Sequence[str]) -> Iterator[ShardRecord]:
    """The records of pieces. Raises DataError for a file that is none."""
    return chain.from_iterable(_lines(store, paths, ShardRecord))


def files_of(store: Store, paths: Sequence[str]) -> Iterator[File]:
    """The files that the records of pieces name. Raises DataError for a file that is no piece."""
    return (file for lines in _lines(store, paths, _Files) for record in lines for file in record.files)


def _lines(store: Store, paths: Sequence[str], kind: type[_T]) -> Iterator[list[_T]]:
    """The records of each piece as ``kind``; some pieces are read at once."""
    decoder = msgspec.json.Decoder(kind)
    for start in range(0, len(paths), _AHEAD):
        some = paths[start : start + _AHEAD]
        for path, data in zip(some, store.read_all(some), strict=True):
            head = _decoded(Piece, data.partition(b"\n")[0], store, path)
            try:
                lines = decoder.decode_lines(data[data.find(b"\n") + 1 :])
            except ValueError as error:
                raise unreadable(Piece, f"{store.url}/{path}", error) from None
            if len(lines) != head.shards:
                cut = ValueError(f"{len(lines)} records of {head.shards}")
                raise unreadable(Piece, f"{store.url}/{path}", cut)
            yield lines


def _decoded(kind: type[_T], data: bytes, store: Store, path: str) -> _T:
    try:
        return msgspec.json.decode(data, type=kind)
    except ValueError as error:
        raise unreadable(kind, f"{store.url}/{path}", error) from None


class Records(Sequence[ShardRecord]):
    """The records of a loop's shards, in their order. Those in ``pieces`` are read each time they are gone through."""

    def __init__(self, store: Store, pieces: Sequence[Piece] = (), rest: Sequence[ShardRecord] = ()) -> None:
        self._store, self.pieces, self.rest = store, list(pieces), list(rest)

    def __len__(self) -> int:
        return sum(piece.shards for piece in self.pieces) + len(self.rest)

    def __iter__(self) -> Iterator[ShardRecord]:
        yield from read_pieces(self._store, [piece.path for piece in self.pieces])
        yield from self.rest

    @overload
    def __getitem__(self, index: int) -> ShardRecord: ...

    @overload
    def __getitem__(self, index: slice) -> list[ShardRecord]: ...

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step < 0:
                return list(self)[index]
            return list(islice(iter(self), start, stop, step))
        place = range(len(self))[index]
        return next(islice(iter(self), place, None))

    def plus(self, other: Records | Sequence[ShardRecord]) -> Records:
        """Those of two loops of one stage: first all pieces, then what is in none."""
        if not isinstance(other, Records):
            other = Records(self._store, rest=other)
        return Records(self._store, [*self.pieces, *other.pieces], [*self.rest, *other.rest])

    def packed(self) -> Records:
        """The same with every full thousand of those that are in no piece in one, which is written for that."""
        full = len(self.rest) // PIECE * PIECE
        starts = range(0, full, PIECE)
        before = sum(piece.path.startswith(f"{_FOLDER}/") for piece in self.pieces)
        paths = [f"{_FOLDER}/{before + number:06d}.jsonl" for number in range(len(starts))]
        new = [
            write_piece(self._store, path, self.rest[start : start + PIECE])
            for path, start in zip(paths, starts, strict=True)
        ]
        return Records(self._store, [*self.pieces, *new], self.rest[full:])

    def paths(self) -> Iterator[list[str]]:
        """The paths of the files of all shards, a list for each piece."""
        for lines in _lines(self._store, [piece.path for piece in self.pieces], _Paths):
            yield [file.path for record in lines for file in record.files]
        yield [file.path for record in self.rest for file in record.files]

    def total(self) -> Funnel | None:
        """The sum of the shards' funnels, None if they have none. Raises DataError if they are of several units."""
        parts = add_up(
            chain(
                (funnel for piece in self.pieces for funnel in piece.funnels),
                (record.funnel for record in self.rest if record.funnel is not None),
            )
        )
        return sum(parts[1:], parts[0]) if parts else None

    def funnel(self, unit: str) -> Funnel:
        """:meth:`total`, or of no shards nothing of ``unit``."""
        return self.total() or Funnel(unit, 0, 0)

    def unforeseen(self) -> Counter[str]:
        """Rows that ended with an unforeseen error, by message."""
        errors: Counter[str] = Counter()
        for piece in self.pieces:
            errors.update(piece.unforeseen)
        for record in self.rest:
            errors.update(record.facts.get(UNFORESEEN, {}))
        return errors
