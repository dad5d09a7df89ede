"""The ledger of an artifact: which of its shards are done.

The last file of a shard is its sidecar ``ledger/{shard}.json``; a shard with a sidecar is never processed again. The
driver of a loop packs every thousand neighbouring shards into a piece as soon as the last of them is done, and deletes
their sidecars. The name of a piece says which shards it holds, so a loop that goes on knows what is done from the
names of some files: a million shards are a thousand.

A kill between piece and deletion leaves both; they say the same, and the next loop deletes the sidecars.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from infra.errors import DataError
from infra.run.pieces import PIECE, Piece, Records, read_head, read_pieces, write_piece
from infra.run.records import ShardRecord, encode, parse
from infra.store import Store

__all__ = ["Ledger", "Tally"]

_FOLDER = "ledger"
_PIECE_NAME = re.compile(rf"{_FOLDER}/[0-9a-f]{{32}}-(\d+)\.jsonl")


class Ledger:
    """The committed shards of the artifact at ``store``."""

    def __init__(self, store: Store) -> None:
        self.store = store

    @staticmethod
    def path(shard: str) -> str:
        return f"{_FOLDER}/{shard}.json"

    def commit(self, record: ShardRecord) -> None:
        """Write the sidecar. After this the shard is done."""
        self.store.write(self.path(record.shard), encode(record))

    def count(self) -> int:
        """The number of committed shards; no file is read."""
        sidecars, pieces = self.listing()
        return len(sidecars) + sum(pieces.values())

    def each(self) -> Iterator[ShardRecord]:
        """The records of all committed shards; some thousands are in memory at once."""
        sidecars, pieces = self.listing()
        names = sorted(sidecars)
        for start in range(0, len(names), PIECE):
            yield from self.read_sidecars(names[start : start + PIECE])
        yield from read_pieces(self.store, sorted(pieces))

    def read(self, shards: Iterable[str] | None = None) -> dict[str, ShardRecord]:
        """Records of the committed shards among ``shards`` (default: all), by name. Of a loop, :meth:`tally` has them
        without reading all."""
        if shards is None:
            return {record.shard: record for record in self.each()}
        wanted = set(shards)
        found = {record.shard: record for record in self.loose(wanted)}
        if len(found) < len(wanted):
            _, pieces = self.listing()
            packed = read_pieces(self.store, sorted(pieces))
            found |= {record.shard: record for record in packed if record.shard in wanted}
        return found

    def loose(self, shards: Iterable[str]) -> list[ShardRecord]:
        """Records of those among ``shards`` that are committed and in no piece."""
        sidecars, _ = self.listing()
        return self.read_sidecars(sidecars & set(shards))

    def forget(self, *shards: str) -> None:
        """Take shards out, so that they are processed again: their files do not hold what they should."""
        sidecars, pieces = self.listing()
        forgotten = set(shards)
        if forgotten - sidecars:
            for path in sorted(pieces):
                records = list(read_pieces(self.store, [path]))
                left = [record for record in records if record.shard not in forgotten]
                if len(left) < len(records):
                    if left:
                        self.pack(left)
                    self.store.delete(path)
        self.store.delete_all([self.path(shard) for shard in sorted(forgotten & sidecars)])

    def tally(self, shards: Sequence[str]) -> Tally:
        """The account of a loop over ``shards``: which are done, and which are left."""
        return Tally(self, shards)

    # --- for Tally

    def listing(self) -> tuple[set[str], dict[str, int]]:
        """Names of the shards with a sidecar, and the pieces, by path with the number of their shards."""
        sidecars, pieces = set(), {}
        for path in self.store.paths(_FOLDER):
            if match := _PIECE_NAME.fullmatch(path):
                pieces[path] = int(match[1])
            else:
                sidecars.add(path.removeprefix(f"{_FOLDER}/").removesuffix(".json"))
        return sidecars, pieces

    def read_sidecars(self, shards: Iterable[str]) -> list[ShardRecord]:
        paths = [self.path(shard) for shard in sorted(shards)]
        found = zip(paths, self.store.read_all(paths), strict=True)
        return [parse(ShardRecord, data, f"{self.store.url}/{path}") for path, data in found]

    def pack(self, records: Sequence[ShardRecord], *, torn: Sequence[str] = ()) -> Piece:
        """Write ``records`` as a piece, and then delete their sidecars and the ``torn`` pieces that held some."""
        names = [record.shard for record in records]
        piece = write_piece(self.store, piece_path(names), records)
        self.store.delete_all([*(self.path(name) for name in names), *torn])
        return piece


def piece_path(shards: Collection[str]) -> str:
    """The piece of these shards, in this order."""
    digest = hashlib.sha256("\n".join(shards).encode()).hexdigest()
    return f"{_FOLDER}/{digest[:32]}-{len(shards)}.jsonl"


class Tally:
    """The shards of a loop that are done. It holds the records of thousands that are begun, and of no others.

    ``done`` counts them. The loop must be over the same shards in the same order each time: only then are its pieces
    found again, and is its manifest the same.
    """

    def __init__(self, ledger: Ledger, shards: Sequence[str]) -> None:
        self._ledger, self._shards = ledger, shards
        self._held: dict[int, dict[int, ShardRecord]] = {}  # by thousand, then by number of the shard
        self._packed: dict[int, Piece | str] = {}  # by thousand; the path of one written by an earlier loop
        self._torn: dict[int, str] = {}  # by thousand: what forgetting some of its shards has left of its piece
        self.done = 0
        sidecars, pieces = ledger.listing()
        apart = {
            record.shard: (record, path)
            for path in sorted(path for path, count in pieces.items() if count < PIECE)
            for record in read_pieces(ledger.store, [path])
        }
        needless: set[str] = set()  # a piece has what they say
        for thousand, names in self._thousands():
            path = piece_path(names) if len(names) == PIECE else ""
            if path in pieces:
                self._packed[thousand] = path
                self.done += len(names)
                needless |= {ledger.path(name) for name in names if name in sidecars}
                needless |= {apart[name][1] for name in names if name in apart}
            elif sidecars or apart:
                self._take(thousand, names, sidecars, apart)
        ledger.store.delete_all(sorted(needless))

    def _take(
        self, thousand: int, names: Sequence[str], sidecars: set[str], apart: Mapping[str, tuple[ShardRecord, str]]
    ) -> None:
        """Read what there is of a thousand that was not packed."""
        found = {record.shard: record for record in self._ledger.read_sidecars(sidecars.intersection(names))}
        for name in names:
            if name in apart:
                found[name], self._torn[thousand] = apart[name]
        for number, name in enumerate(names, thousand * PIECE):
            if name in found:
                self.add(number, found[name])

    def _thousands(self) -> Iterator[tuple[int, Sequence[str]]]:
        for start in range(0, len(self._shards), PIECE):
            yield start // PIECE, self._shards[start : start + PIECE]

    def left(self) -> Iterator[int]:
        """Numbers of the shards that are not done. While it is gone through, only shards it has named may be added."""
        for thousand, names in self._thousands():
            if thousand not in self._packed:
                held = self._held.get(thousand, {})
                first = thousand * PIECE
                yield from [number for number in range(first, first + len(names)) if number not in held]

    def add(self, number: int, record: ShardRecord) -> None:
        """Take the record of shard ``number``, which its worker has committed; pack the thousand it completes."""
        if record.shard != self._shards[number]:
            raise DataError(f"the record of shard {self._shards[number]} has another name", found=record.shard)
        thousand = number // PIECE
        held = self._held.setdefault(thousand, {})
        held[number] = record
        self.done += 1
        if len(held) == PIECE:
            torn = [self._torn.pop(thousand)] if thousand in self._torn else []
            self._packed[thousand] = self._ledger.pack([held[number] for number in sorted(held)], torn=torn)
            del self._held[thousand]

    def records(self) -> Records:
        """The records of all shards, when all are done."""
        assert self.done == len(self._shards), f"{self.done} of {len(self._shards)} shards are done"
        paths = {thousand: piece for thousand, piece in self._packed.items() if isinstance(piece, str)}
        heads = dict(zip(paths, read_head(self._ledger.store, list(paths.values())), strict=True))
        packed = {thousand: heads.get(thousand, piece) for thousand, piece in self._packed.items()}
        rest = [record for _, held in sorted(self._held.items()) for _, record in sorted(held.items())]
        pieces = [packed[thousand] for thousand in sorted(packed)]
        return Records(self._ledger.store, [piece for piece in pieces if isinstance(piece, Piece)], rest)
