"""Where every sample lies, and the tokens of its captions: made once, kept as files, shared by a node's processes.

The headers of the tars are read and the captions tokenised when a set of shards is first trained on, each rank doing
its part. What comes of it is written to the node's cache folder under a name that says of which shards, captions and
tokenizer it is, and mapped into memory: a run that starts again begins at once, and eight workers of a node hold one
copy. It takes 16 bytes a sample (24 where samples have several captions) and 2 or 4 a token; of the sets that a node
has ever trained on, the few used last keep theirs.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from infra.config import digest
from infra.errors import CliplineError, StorageError
from infra.formats.shards import IMAGE_EXTENSIONS, index_tar, split_name
from training.data.tokens import Tokenizer, padded

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from training.distributed.world import World

__all__ = ["Index", "captions_of"]

PLACE = np.dtype([("block", "<u4"), ("size", "<u4")])
"""Where an image lies in its tar: at which block of 512 bytes, and how many bytes it has."""

FORMAT = 1
KEPT = 8  # indexes in a node's cache folder
ROUND = 16  # shards that each rank reads before all tell one another what they found


@dataclass(frozen=True)
class _Part:
    """What was found in one shard."""

    places: NDArray[np.void]
    captions: NDArray[np.uint32]  # of each sample
    lengths: NDArray[np.uint32]  # in tokens, of each caption
    tokens: NDArray[np.uint32]
    incomplete: int


def captions_of(members: dict[str, bytes], key: str) -> list[str]:
    """The captions of a sample whose members have these contents.

    ``key`` is the extension of the member that holds the caption (``txt``); with ``:lines`` after it each of its lines
    is one (CLIP_benchmark's form); ``json:FIELD`` is a field of the JSON member, a text or a list of texts.
    Raises ValueError if there is none, or it is not UTF-8.
    """
    extension, _, rest = key.partition(":")
    text = members[extension].decode()
    if extension == "json":
        fields = json.loads(text)
        found = fields.get(rest) if isinstance(fields, dict) else None
        captions = [item for item in (found if isinstance(found, list) else [found]) if isinstance(item, str)]
    else:
        captions = [line for line in text.splitlines() if line.strip()] if rest == "lines" else [text]
    if not captions:
        raise ValueError(f"no caption in {key}")
    return captions


def _read_shard(path: Path, tokenizer: Tokenizer, caption_key: str) -> _Part:
    """Raises DataError for a damaged tar."""
    wanted = caption_key.partition(":")[0]
    samples: dict[str, dict[str, tuple[int, int]]] = {}
    texts: dict[str, bytes] = {}
    with path.open("rb") as tar:
        for name, offset, size in index_tar(tar):
            if (parts := split_name(name)) is None:
                continue
            samples.setdefault(parts[0], {})[parts[1]] = offset, size
            if parts[1] == wanted:
                tar.seek(offset)
                texts[parts[0]] = tar.read(size)
    places: list[tuple[int, int]] = []
    counts: list[int] = []
    captions: list[str] = []
    for key, members in samples.items():
        image = next((members[extension] for extension in IMAGE_EXTENSIONS if extension in members), None)
        if image is None or key not in texts:
            continue
        try:
            own = captions_of({wanted: texts[key]}, caption_key)
        except ValueError:
            continue
        places.append((image[0] // 512, image[1]))
        counts.append(len(own))
        captions += own
    rows = tokenizer.ragged(captions)
    return _Part(
        places=np.array(places, PLACE),
        captions=np.array(counts, np.uint32),
        lengths=np.array([len(row) for row in rows], np.uint32),
        tokens=np.fromiter((token for row in rows for token in row), np.uint32),
        incomplete=len(samples) - len(places),
    )


class Index:
    """Places and captions of the samples of all shards, in order of shards and of samples in them.

    ``incomplete`` counts samples that were left out for want of an image or a readable caption.
    """

    def __init__(self, folder: Path, tokenizer: Tokenizer) -> None:
        facts = json.loads((folder / "index.json").read_bytes())
        self.incomplete: int = facts["incomplete"]
        self.counts: list[int] = facts["counts"]  # samples of each shard
        self._starts = np.concatenate([[0], np.cumsum(self.counts, dtype=np.int64)])
        self.context, self._pad = tokenizer.context, tokenizer.pad

        def column(name: str, kind: Any) -> NDArray[Any]:  # noqa: ANN401 - a dtype
            path = folder / name
            return np.asarray(np.memmap(path, kind, "r")) if path.stat().st_size else np.empty(0, kind)

        self._places = column("places", PLACE)
        self._bounds = column("bounds", "<u8")
        self._tokens = column("tokens", facts["tokens"])
        self._first = column("captions", "<u8") if facts["several"] else None

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
    ) -> Index:
        """The index of the shards whose contents ``names`` stand for; ``fetch`` gives a shard as a local file.

        Every rank calls it. Raises on all what failed on one: DataError for a damaged tar, StorageError if ``folder``
        cannot be written.
        """
        known = [FORMAT, *names, tokenizer.identity, caption_key]
        target = folder / "index" / digest(known)[:32]
        with contextlib.suppress(OSError):  # there is none yet, or it is another user's
            os.utime(target)  # used now
        if not all(world.gather((target / "index.json").exists())):
            nodes = world.gather(f"{socket.gethostname()} {folder.resolve()}")
            writes = nodes.index(nodes[world.rank]) == world.rank
            _build(len(names), fetch, world, tokenizer, caption_key, target if writes else None)
        return cls(target, tokenizer)

    def shard(self, number: int) -> int:
        """The shard that holds sample ``number``."""
        return int(np.searchsorted(self._starts, number, side="right")) - 1

    def place(self, number: int) -> tuple[int, int]:
        """Offset and size in bytes of sample ``number``'s image in its shard."""
        block, size = self._places[number].item()
        return block * 512, size

    def texts(
        self, numbers: NDArray[np.int64], draws: NDArray[np.float64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Padded tokens (n, context) of one caption of each sample, and their lengths (n,).

        ``draws`` (n,), uniform in [0, 1), choose among several captions.
        """
        if self._first is None:
            captions = numbers
        else:
            first, end = (self._first[numbers + side].astype(np.int64) for side in (0, 1))
            captions = first + (draws * (end - first)).astype(np.int64)
        begin, end = (self._bounds[captions + side].astype(np.int64) for side in (0, 1))
        return padded(self._tokens, begin, end, self.context, self._pad)


def _build(
    shards: int,
    fetch: Callable[[int], Path],
    world: World,
    tokenizer: Tokenizer,
    caption_key: str,
    target: Path | None,
) -> None:
    """Read all shards, each rank its part, and write the index to ``target`` where this rank is to.

    An error is told to the others at the next exchange, so that nobody waits for a rank that has given up.
    """
    error: CliplineError | None = None
    with ExitStack() as stack:
        writer = None
        try:
            writer = stack.enter_context(_writing(target, tokenizer)) if target else None
        except StorageError as failure:
            error = failure
        for begin in range(0, shards, ROUND * world.size):
            own: dict[int, _Part] = {}
            try:
                for number in range(begin + world.rank, min(begin + ROUND * world.size, shards), world.size):
                    own[number] = _read_shard(fetch(number), tokenizer, caption_key)
            except CliplineError as failure:
                error = error or failure
            found = world.gather((own, error))
            _raise_first(failure for _, failure in found)
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
        _raise_first(world.gather(error))


def _raise_first(errors: Iterator[CliplineError | None] | list[CliplineError | None]) -> None:
    for error in errors:
        if error is not None:
            raise error


def _unwritable(error: OSError, target: Path | None) -> StorageError:
    return StorageError(
        f"the index of the shards cannot be written to {target}",
        found=str(error),
        fix="make room, or name another cache_folder",
    )


@contextlib.contextmanager
def _writing(target: Path, tokenizer: Tokenizer) -> Iterator[_Writer]:
    """A writer of ``target``. Whoever else on this node wants to write it waits; what a killed one left is removed."""
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
            writer = _Writer(temporary, target, tokenizer.dtype)
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
            for name in ("places", "captions", "bounds", "tokens")
        }
        self._captions = self._length = self._incomplete = 0
        self._counts: list[int] = []
        self._several = False
        for name in ("captions", "bounds"):
            self._columns[name].write(bytes(8))

    def add(self, part: _Part) -> None:
        captions = self._captions + np.cumsum(part.captions, dtype="<u8")
        bounds = self._length + np.cumsum(part.lengths, dtype="<u8")
        columns = {"places": part.places, "captions": captions, "bounds": bounds}
        for name, column in (columns | {"tokens": part.tokens.astype(self._tokens)}).items():
            self._columns[name].write(column.tobytes())
        self._captions += int(part.captions.sum(dtype=np.int64))
        self._length += len(part.tokens)
        self._incomplete += part.incomplete
        self._counts.append(len(part.places))
        self._several |= bool((part.captions != 1).any())

    def finish(self) -> None:
        """All or nothing: the folder gets its name when it is whole."""
        self.files.close()
        facts = {
            "counts": self._counts,
            "incomplete": self._incomplete,
            "several": self._several,
            "tokens": self._tokens,
        }
        (self._temporary / "index.json").write_text(json.dumps(facts))
        if (self._target / "index.json").exists():
            return  # another run on this node was quicker
        shutil.rmtree(self._target, ignore_errors=True)
        self._temporary.rename(self._target)
        _drop_old(self._target.parent)


def _drop_old(folder: Path) -> None:
    """All but the indexes used last; a run that has one mapped reads on."""
    used = []
    for index in folder.glob("[0-9a-f]" * 32 + "/index.json"):
        with contextlib.suppress(FileNotFoundError):  # another process drops it, too
            used.append((index.parent.stat().st_mtime_ns, index))
    for _, index in sorted(used)[:-KEPT]:
        index.unlink(missing_ok=True)  # first: without it nobody takes the rest for an index
        shutil.rmtree(index.parent, ignore_errors=True)
