"""An index of the shards: where each image lies, and the tokens of its captions; built once per node, memory-mapped.

When a set of shards is first trained on, each rank reads the headers of its part of the tars and tokenises their
captions. The index is written to the node's cache folder under a digest of shards, caption key and tokenizer, and
mapped into memory, so a restarted run begins at once and the workers of a node share one copy. It takes 16 bytes a
sample, 8 more for each further member that is read, 8 more where samples have several captions and 8 for online
balancing, 2 or 4 bytes a token, and where batches are composed by concepts 8 for each. A node keeps the few indexes
used last.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import shutil
import socket
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from infra.arrays import ranges
from infra.config import digest
from infra.errors import CliplineError, DataError, StorageError
from infra.formats.shards import IMAGE_EXTENSIONS, dotted_name_hint, duplicate, index_tar, split_name
from infra.hashing import hash64
from infra.store import sync
from training.data.tokens import Tokenizer, padded

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from training.distributed.world import World

__all__ = ["PIXELS", "Index", "Members", "captions_of"]

PLACE = np.dtype([("block", "<u4"), ("size", "<u4")])
"""The location of an image in its tar: its block of 512 bytes, and its size in bytes."""

Members = tuple[tuple[str, ...], ...]
"""What is read of a sample: of each group of extensions the first that it has."""

PIXELS: Members = (IMAGE_EXTENSIONS,)
"""An image, in any format."""

LOADS = "times_limit"
"""Column of the stage balance: of each entry of a row, the rows that hold it, over the limit."""

FORMAT = 4
KEPT = 8  # indexes in a node's cache folder
ROUND = 16  # shards that each rank reads between two exchanges


@dataclass(frozen=True)
class _Part:
    """The index of one shard."""

    places: NDArray[np.void]  # of each sample's members, one sample after the other
    captions: NDArray[np.uint32]  # number of captions of each sample
    lengths: NDArray[np.uint32]  # in tokens, of each caption
    tokens: NDArray[np.uint32]
    chances: NDArray[np.float64]  # of each sample to be in an epoch; none if all are
    concepts: list[list[int]]  # of each sample; none if they are not needed
    incomplete: int


def captions_of(members: dict[str, bytes], key: str) -> list[str]:
    """Return the captions of a sample whose ``members`` have these contents, by extension.

    ``key`` is the extension of the member that holds the caption (``txt``). With ``:lines`` after it each line is a
    caption (CLIP_benchmark's form); ``json:FIELD`` is a field of the JSON member, a string or a list of strings.
    Blank captions are none, nor are numbers, objects and null. Raises ValueError if there is no caption, or it is not
    UTF-8.
    """
    extension, _, rest = key.partition(":")
    text = members[extension].decode("utf-8-sig")
    found: object = text
    if extension == "json":
        found = _field(text, rest)
    elif rest == "lines":
        found = [line.strip() for line in text.split("\n")]
    several = found if isinstance(found, list) else [found]
    captions = [caption for caption in several if isinstance(caption, str) and caption.strip()]
    if not captions:
        raise ValueError(f"no caption under {key!r}")
    return captions


def _field(text: str, name: str) -> object:
    """Return a field of a JSON object; None if it is not there. Raises ValueError."""
    try:
        fields = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return fields.get(name) if isinstance(fields, dict) else None


def _members(
    path: Path, read: Collection[str], place: str
) -> tuple[dict[str, dict[str, tuple[int, int]]], dict[str, dict[str, bytes]]]:
    """Return the offset and size of each sample's members in a tar, and the text of those with the extensions ``read``.

    One pass over the tar's headers; nothing else is read.
    """
    samples: dict[str, dict[str, tuple[int, int]]] = {}
    texts: dict[str, dict[str, bytes]] = {}
    with path.open("rb") as tar:
        for name, offset, size in index_tar(tar, place=place):
            if (parts := split_name(name)) is None:
                continue
            members = samples.setdefault(parts[0], {})
            if parts[1] in members:
                raise duplicate(*parts, place=place)
            members[parts[1]] = offset, size
            if parts[1] in read:
                tar.seek(offset)
                texts.setdefault(parts[0], {})[parts[1]] = tar.read(size)
    return samples, texts


def _read_shard(
    path: Path,
    tokenizer: Tokenizer,
    caption_key: str,
    place: str = "",
    balance: float | None = None,
    concepts: str | None = None,
    members: Members = PIXELS,
) -> _Part:
    """Index one shard. Raises DataError, which names the ``place`` of the shard, for a damaged one."""
    place = place or str(path)
    caption_extension = caption_key.partition(":")[0]
    read = {caption_extension} | ({"json"} if balance is not None or concepts is not None else set())
    samples, texts = _members(path, read, place)
    # A sample needs an image, or whatever else is read of it, and a readable caption.
    places: list[tuple[int, int]] = []
    counts: list[int] = []
    captions: list[str] = []
    chances: list[float] = []
    shown: list[list[int]] = []
    for key, found in samples.items():
        needed = [next((found[name] for name in names if name in found), None) for names in members]
        if None in needed or caption_extension not in texts.get(key, {}):
            continue
        try:
            texts_of_sample = captions_of(texts[key], caption_key)
        except ValueError:
            continue
        if balance is not None:
            chances.append(_chance(texts[key].get("json", b"{}"), balance, f"{place}: sample {key!r}"))
        if concepts is not None:
            shown.append(_concepts(texts[key].get("json", b"{}"), concepts))
        places += [(offset // 512, size) for offset, size in filter(None, needed)]
        counts.append(len(texts_of_sample))
        captions += texts_of_sample
    if not places and (hint := dotted_name_hint(extension for found in samples.values() for extension in found)):
        raise DataError(f"{place}: no sample has an image and a caption", fix=hint)
    rows = tokenizer.ragged(captions)
    return _Part(
        places=np.array(places, PLACE),
        captions=np.array(counts, np.uint32),
        lengths=np.array([len(row) for row in rows], np.uint32),
        tokens=np.fromiter((token for row in rows for token in row), np.uint32),
        chances=np.array(chances, np.float64),
        concepts=shown,
        incomplete=len(samples) - len(counts),
    )


def _chance(data: bytes, balance: float, sample: str) -> float:
    """The probability that MetaCLIP's rule gives a sample: 1 - prod(1 - min(1, balance / l)) over its entries' loads l.

    The loads are the field :data:`LOADS` of its JSON; a sample without an entry is rare, and in every epoch. Raises
    DataError.
    """
    try:
        loads = _field(data.decode("utf-8-sig"), LOADS)
    except ValueError:
        loads = None
    if not (isinstance(loads, list) and all(isinstance(load, int | float) and load > 0 for load in loads)):
        raise DataError(
            f"{sample} does not say how often its entries are",
            expected=f"a list of numbers, the field {LOADS} of its JSON",
            found=repr(loads)[:100],
            fix="run balance with drop=false before these shards are written, or leave train.data.balance out",
        )
    lost = math.prod(1 - min(1.0, balance / load) for load in loads)
    return 1 - lost if loads else 1.0


def _concepts(data: bytes, column: str) -> list[int]:
    """The distinct concepts of a sample, as hashes: the field ``column`` of its JSON."""
    try:
        found = _field(data.decode("utf-8-sig"), column)
    except ValueError:
        return []
    texts = found if isinstance(found, list) else [found]
    return sorted({hash64(str(one)) for one in texts if isinstance(one, str | int)})


class Index:
    """Locations and captions of all samples, in the order of shards and of samples within them.

    ``incomplete`` counts samples that were left out because they have no image or no readable caption.
    """

    def __init__(self, folder: Path, tokenizer: Tokenizer, members: int = 1) -> None:
        facts = json.loads((folder / "index.json").read_bytes())
        self.incomplete: int = facts["incomplete"]
        self.counts: list[int] = facts["counts"]  # samples of each shard
        self._starts = np.concatenate([[0], np.cumsum(self.counts, dtype=np.int64)])
        self.context, self._pad = tokenizer.context, tokenizer.pad

        def column(name: str, kind: Any) -> NDArray[Any]:  # noqa: ANN401 - a dtype
            path = folder / name
            return np.asarray(np.memmap(path, kind, "r")) if path.stat().st_size else np.empty(0, kind)

        self._places = column("places", PLACE).reshape(-1, members)
        self._bounds = column("bounds", "<u8")
        self._tokens = column("tokens", facts["tokens"])
        self._first = column("captions", "<u8") if facts["several"] else None
        self.chances: NDArray[np.float64] | None = column("chances", "<f8") if facts["balanced"] else None
        """The probability of each sample to be in an epoch; None if all are."""
        self._concepts, self._concept_ends = column("concepts", "<u8"), column("concept_ends", "<u8")

    def __len__(self) -> int:
        return int(self._starts[-1])

    @classmethod
    def open(
        cls,
        names: Sequence[str],
        fetch: Callable[[int], Path],
        world: World,
        tokenizer: Tokenizer,
        caption_key: str,
        folder: Path,
        places: Sequence[str] = (),
        balance: float | None = None,
        concepts: str | None = None,
        members: Members = PIXELS,
    ) -> Index:
        """Open the index of the shards whose contents ``names`` identify, building it if this node has none.

        ``fetch`` returns a shard as a local file; ``places`` are their names in errors; ``balance``: see
        :class:`training.config.Data`; ``concepts``: the field of JSON that has them; ``members``: what is read of a
        sample. All ranks must call it. Raises on all ranks what failed on any: DataError for a damaged tar,
        StorageError if ``folder`` cannot be written.
        """
        known = [FORMAT, *names, tokenizer.identity, caption_key, balance, concepts, members]
        target = folder / "index" / digest(known)[:32]
        with contextlib.suppress(OSError):  # there is none yet, or it belongs to another user
            os.utime(target)  # marks it as used now
        if not all(world.gather((target / "index.json").exists())):
            nodes = world.gather(f"{socket.gethostname()} {folder.resolve()}")
            writes = nodes.index(nodes[world.rank]) == world.rank
            read = partial(
                _read_shard,
                tokenizer=tokenizer,
                caption_key=caption_key,
                balance=balance,
                concepts=concepts,
                members=members,
            )
            _build(len(names), fetch, places, world, read, tokenizer.dtype, target if writes else None)
        index = cls(target, tokenizer, len(members))
        if concepts is not None and len(index) and not len(index._concepts):
            raise DataError(
                f"no sample has a concept in the field {concepts!r} of its JSON",
                expected="a text, an integer or a list of these, as train.data.batches.column names it",
                fix="run balance with drop=false before these shards are written, or name another field",
            )
        return index

    @property
    def one_caption(self) -> bool:
        """True if every sample has one caption, so that its tokens are the same in every epoch."""
        return self._first is None

    def shard(self, number: int) -> int:
        """Return the number of the shard that holds sample ``number``."""
        return int(np.searchsorted(self._starts, number, side="right")) - 1

    def places(self, number: int) -> list[tuple[int, int]]:
        """Return offset and size in bytes of sample ``number``'s image in its shard, or of each member that is read."""
        return [(block * 512, size) for block, size in self._places[number].tolist()]

    def concepts(self, numbers: NDArray[np.int64]) -> list[list[int]]:
        """Return the concepts of each sample, numbered from 0 on among these samples."""
        starts, ends = (self._concept_ends[numbers + step].astype(np.int64) for step in (0, 1))
        _, found = np.unique(self._concepts[ranges(starts, ends - starts)], return_inverse=True)
        return [own.tolist() for own in np.split(found, np.cumsum(ends - starts)[:-1])]

    def texts(self, numbers: NDArray[np.int64], draws: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return padded tokens (n, context) of one caption of each sample.

        ``draws`` (n,), uniform in [0, 1), choose where a sample has several captions.
        """
        if self._first is None:
            captions = numbers
        else:
            first, end = (self._first[numbers + step].astype(np.int64) for step in (0, 1))
            captions = first + (draws * (end - first)).astype(np.int64)
        begin, end = (self._bounds[captions + step].astype(np.int64) for step in (0, 1))
        return padded(self._tokens, begin, end, self.context, self._pad)


def _build(
    shards: int,
    fetch: Callable[[int], Path],
    places: Sequence[str],
    world: World,
    read: Callable[..., _Part],
    tokens: str,
    target: Path | None,
) -> None:
    """Read all shards, each rank its part; a rank with a ``target`` writes the index there.

    An error is exchanged with the parts read so far and raised on all ranks, so that none waits for one that failed.
    """
    error: CliplineError | None = None
    with ExitStack() as stack:
        writer = None
        try:
            writer = stack.enter_context(_writing(target, tokens)) if target else None
        except StorageError as failure:
            error = failure
        for begin in range(0, shards, ROUND * world.size):
            # Read this rank's shards of the round ...
            own: dict[int, _Part] = {}
            try:
                for number in range(begin + world.rank, min(begin + ROUND * world.size, shards), world.size):
                    place = places[number] if places else ""
                    own[number] = read(fetch(number), place=place)
            except CliplineError as failure:
                error = error or failure
            # ... exchange them, or the error that ended the reading, ...
            found = world.gather((own, error))
            if failures := [failure for _, failure in found if failure is not None]:
                raise failures[0]
            # ... and write all of them, on one rank of each node, in order.
            parts = {number: part for own, _ in found for number, part in own.items()}
            try:
                for number in sorted(parts) if writer else ():
                    writer.add(parts[number])  # type: ignore[union-attr]
            except OSError as failure:
                error = _unwritable(failure, target)
        try:
            if writer and error is None:
                writer.finish()
        except OSError as failure:
            error = _unwritable(failure, target)
        world.raise_if_any_failed(error)


def _unwritable(error: OSError, target: Path | None) -> StorageError:
    return StorageError(
        f"the index of the shards cannot be written to {target}",
        found=str(error),
        fix="make room, or name another cache_folder",
    )


@contextlib.contextmanager
def _writing(target: Path, tokens: str) -> Iterator[_Writer]:
    """Lock ``target`` against the other processes of this node and open a writer for it.

    Leftovers of a killed writer are removed.
    """
    temporary = target.with_name(f".tmp-{target.name}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = target.with_suffix(".lock").open("ab")
    except OSError as error:
        raise _unwritable(error, target) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            temporary.mkdir()
            writer = _Writer(temporary, target, tokens)
        except OSError as error:
            raise _unwritable(error, target) from error
        try:
            with writer.files:
                yield writer
        finally:
            shutil.rmtree(temporary, ignore_errors=True)  # gone already, if all went well


class _Writer:
    """The index's columns, one file each, shard after shard."""

    def __init__(self, temporary: Path, target: Path, tokens: str) -> None:
        self._temporary, self._target, self._tokens = temporary, target, tokens
        self.files = ExitStack()
        self._columns: dict[str, IO[bytes]] = {
            name: self.files.enter_context((temporary / name).open("wb"))
            for name in ("places", "captions", "bounds", "tokens", "chances", "concepts", "concept_ends")
        }
        self._captions = self._length = self._incomplete = self._shown = 0
        self._counts: list[int] = []
        self._several = self._balanced = False
        for name in ("captions", "bounds", "concept_ends"):
            self._columns[name].write(bytes(8))

    def add(self, part: _Part) -> None:
        captions = self._captions + np.cumsum(part.captions, dtype="<u8")
        bounds = self._length + np.cumsum(part.lengths, dtype="<u8")
        columns = {"places": part.places, "captions": captions, "bounds": bounds, "chances": part.chances}
        columns["concepts"] = np.array([concept for own in part.concepts for concept in own], "<u8")
        columns["concept_ends"] = self._shown + np.cumsum([len(own) for own in part.concepts], dtype="<u8")
        for name, column in (columns | {"tokens": part.tokens.astype(self._tokens)}).items():
            self._columns[name].write(column.tobytes())
        self._captions += int(part.captions.sum(dtype=np.int64))
        self._length += len(part.tokens)
        self._shown += len(columns["concepts"])
        self._incomplete += part.incomplete
        self._counts.append(len(part.captions))
        self._balanced |= bool(len(part.chances))
        self._several |= bool((part.captions != 1).any())

    def finish(self) -> None:
        """Publish the index atomically: rename the folder once it is complete."""
        self.files.close()
        facts = {
            "counts": self._counts,
            "incomplete": self._incomplete,
            "several": self._several,
            "balanced": self._balanced,
            "tokens": self._tokens,
        }
        (self._temporary / "index.json").write_text(json.dumps(facts))
        if (self._target / "index.json").exists():
            return  # another run on this node was faster
        shutil.rmtree(self._target, ignore_errors=True)
        for path in self._temporary.iterdir():  # or after a loss of power it may have its name and not its bytes
            sync(path)
        self._temporary.rename(self._target)
        _drop_old(self._target.parent)


def _drop_old(folder: Path) -> None:
    """Remove all but the indexes used last; a run that has a removed one mapped can still read it."""
    used = []
    for index in folder.glob("[0-9a-f]" * 32 + "/index.json"):
        with contextlib.suppress(FileNotFoundError):  # another process removes it, too
            used.append((index.parent.stat().st_mtime_ns, index))
    for _, index in sorted(used)[:-KEPT]:
        index.unlink(missing_ok=True)  # first, because a folder without it is no index
        shutil.rmtree(index.parent, ignore_errors=True)
