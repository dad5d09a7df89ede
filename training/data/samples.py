"""The samples of a training set: any of them, at any time, as decoded image and tokens.

Shards are WebDataset tars in a folder or an object store. An index made beforehand knows where each image lies and
has the tokens of each caption (:mod:`training.data.index`), so a sample is one read at a known offset and one decoding.
Which sample is read when is :mod:`training.data.sampler`'s to say, batches are :mod:`training.data.loader`'s.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.errors import CliplineError, DataError
from infra.store.content import contents
from training.data.decode import decode
from training.data.index import Index
from training.data.shard_cache import Copies, Shard

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from infra.store import Store
    from training.data.tokens import Tokenizer
    from training.distributed.world import World

__all__ = ["Samples", "Shards", "cache_folder"]


@dataclass(frozen=True)
class Shards:
    """WebDataset tars of images (jpg, png, webp) with captions, in a store. Their order matters.

    ``digests`` are their sha256, where that is known: what is fetched is checked, and what is kept of the shards
    (copies, index) is found again wherever they lie. ``contents``: their sha256 or ETags, which identify the data.
    """

    store: Store
    paths: list[str]
    digests: tuple[str, ...] = ()
    contents: tuple[str, ...] = ()

    @classmethod
    def at(cls, store: Store, paths: list[str]) -> Shards:
        """Shards nobody has a manifest of, identified by content."""
        found = list(contents(store, paths).values())
        digests = tuple(content.sha256 for content in found)
        return cls(store, paths, digests if all(digests) else (), tuple(c.sha256 or c.etag for c in found))

    def each(self) -> list[Shard]:
        digests = self.digests or [""] * len(self.paths)
        return [Shard(self.store, path, digest) for path, digest in zip(self.paths, digests, strict=True)]


def cache_folder() -> Path:
    """Where a node keeps copies of shards and their index, unless it is told otherwise."""
    return Path(tempfile.gettempdir(), f"clipline-{os.getuid()}")


class Samples:
    """Random access to every complete sample of ``shards``: one set, or the sources of a mixture one after another.

    Every rank makes one at the same time. Raises DataError for damaged shards or none at all, StorageError if
    ``folder`` cannot be written.
    """

    def __init__(
        self,
        shards: Shards | Sequence[Shards],
        world: World,
        *,
        tokenize: Tokenizer,
        min_side: int,
        cache_bytes: int = 0,
        caption_key: str = "txt",
        folder: Path | None = None,
        disk_bytes: int | None = None,
    ) -> None:
        """
        Args:
            min_side: no side of a decoded image is made shorter than so many pixels.
            cache_bytes: of decoded images that are kept in memory, first come first kept.
            caption_key: where captions are, see :func:`training.data.index.captions_of`.
            folder: the node's folder for copies of remote shards and the index; none: :func:`cache_folder`.
            disk_bytes: the most that copies of remote shards may take; none: as many as the disk holds.
        """
        sources = [shards] if isinstance(shards, Shards) else list(shards)
        every = [shard for source in sources for shard in source.each()]
        if not every:
            raise DataError("there are no shards to train on", found=", ".join(source.store.url for source in sources))
        folder = folder or cache_folder()
        error: CliplineError | None = None
        try:
            self.copies = Copies(every, folder, disk_bytes)
        except CliplineError as failure:  # on this node, maybe: nobody may wait for this rank at the next exchange
            error = failure
        world.settle(error)
        self.index = Index.open(self.copies.names, self.copies.path, world, tokenize, caption_key, folder)
        self._shards_of = [len(source.paths) for source in sources]
        self._min_side = min_side
        self._cache: dict[int, NDArray[np.uint8]] = {}
        self._room, self._lock = cache_bytes, threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_cache", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _cache={}, _lock=threading.Lock())

    def __len__(self) -> int:
        return len(self.index)

    @property
    def incomplete(self) -> int:
        """Samples left out for want of an image or a readable caption."""
        return self.index.incomplete

    @cached_property
    def counts(self) -> list[list[int]]:
        """Of each source the number of samples in each of its shards."""
        counts = iter(self.index.counts)
        return [[next(counts) for _ in range(shards)] for shards in self._shards_of]

    def image(self, number: int) -> NDArray[np.uint8]:
        """RGB (h, w, 3), shortest side at least ``min_side`` if it was. Raises ValueError if it cannot be decoded."""
        if (cached := self._cache.get(number)) is not None:
            return cached
        image = decode(self._read(number), self._min_side)
        if self._room >= image.nbytes:
            with self._lock:
                if self._room >= image.nbytes and number not in self._cache:
                    self._room -= image.nbytes
                    self._cache[number] = image
        return image

    def where(self, number: int) -> str:
        """Where sample ``number`` lies, for an error message."""
        offset, _ = self.index.place(number)
        return f"byte {offset} of {self.copies.shards[self.index.shard(number)].path}"

    def _read(self, number: int) -> bytes:
        shard, (offset, size) = self.index.shard(number), self.index.place(number)
        while True:
            try:
                handle = os.open(self.copies.path(shard), os.O_RDONLY)
            except FileNotFoundError:
                if self.copies.remote(shard):
                    continue  # another process made room with it between the two calls
                raise DataError("a shard is not there any more", found=self.where(number)) from None
            try:
                return os.pread(handle, size, offset)
            finally:
                os.close(handle)
