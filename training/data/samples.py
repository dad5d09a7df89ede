"""Random access to the samples of a training set, as decoded image and tokens.

Shards are WebDataset tars in a folder or an object store. An index built beforehand holds the location of each image
and the tokens of each caption (:mod:`training.data.index`), so a sample is one read at a known offset and one decoding.
:mod:`training.data.sampler` chooses the sample at each position, :mod:`training.data.loader` makes batches.
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
from infra.formats.regions import pack, read_regions
from infra.store.content import contents
from training.data.decode import decode
from training.data.index import PIXELS, Index
from training.data.shard_cache import Shard, ShardCache

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from infra.formats.region_shape import RegionShape
    from infra.store import Store
    from training.data.tokens import Tokenizer
    from training.distributed.world import World

__all__ = ["Samples", "Shards", "cache_folder"]


@dataclass(frozen=True)
class Shards:
    """WebDataset tars of images (jpg, png, webp) or regions with captions, in a store; their order matters.

    ``digests`` are their sha256, where that is known: what is fetched is checked, and what is kept of the shards
    (copies, index) is found again wherever they lie. ``contents``: their sha256 or ETags, which identify the data.
    """

    store: Store
    paths: list[str]
    digests: tuple[str, ...] = ()
    contents: tuple[str, ...] = ()

    @classmethod
    def at(cls, store: Store, paths: list[str]) -> Shards:
        """Find shards without a manifest; they are identified by content."""
        found = list(contents(store, paths).values())
        digests = tuple(content.sha256 for content in found)
        return cls(store, paths, digests if all(digests) else (), tuple(c.sha256 or c.etag for c in found))

    def each(self) -> list[Shard]:
        """Return the shards one by one, with digest."""
        digests = self.digests or [""] * len(self.paths)
        return [Shard(self.store, path, digest) for path, digest in zip(self.paths, digests, strict=True)]


def cache_folder() -> Path:
    """Return a node's default folder for copies of shards and their indexes."""
    return Path(tempfile.gettempdir(), f"clipline-{os.getuid()}")


class Samples:
    """Every complete sample of ``shards``: of one set, or of the sources of a mixture, concatenated.

    All ranks must construct it at the same time. Raises DataError for damaged shards or none at all, StorageError if
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
        balance: float | None = None,
        concepts: str | None = None,
        regions: RegionShape | None = None,
        folder: Path | None = None,
        disk_bytes: int | None = None,
    ) -> None:
        """
        Args:
            min_side: width and height of a decoded image stay at least so many pixels.
            cache_bytes: memory for decoded images; the first that fit are kept.
            caption_key: where captions are, see :func:`training.data.index.captions_of`.
            balance: online balancing, see :class:`training.config.Data`.
            concepts: the field of the samples' JSON that has their concepts, if these are needed.
            regions: what is read of an image, if that are regions and not pixels.
            folder: the node's folder for copies of remote shards and the index; None: :func:`cache_folder`.
            disk_bytes: the most that copies of remote shards may take; None: as many as the disk holds.
        """
        sources = [shards] if isinstance(shards, Shards) else list(shards)
        every = [shard for source in sources for shard in source.each()]
        if not every:
            raise DataError("there are no shards to train on", found=", ".join(source.store.url for source in sources))
        folder = folder or cache_folder()
        error: CliplineError | None = None
        try:
            self.shard_cache = ShardCache(every, folder, disk_bytes)
        except CliplineError as failure:  # perhaps on this node only: raise it on all ranks, so that none waits
            error = failure
        world.raise_if_any_failed(error)
        places = [shard.store.locate(shard.path) for shard in every]
        names, fetch = self.shard_cache.names, self.shard_cache.path
        members = tuple((name,) for name in regions.members) if regions else PIXELS
        self.index = Index.open(names, fetch, world, tokenize, caption_key, folder, places, balance, concepts, members)
        self._shards_of = [len(source.paths) for source in sources]
        self._min_side, self.regions = min_side, regions
        self._cache: dict[int, NDArray[Any]] = {}
        self._room, self._lock = cache_bytes, threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_cache", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _cache={}, _lock=threading.Lock())

    def __len__(self) -> int:
        return len(self.index)

    @property
    def incomplete(self) -> int:
        """Number of samples left out because they have no image or no readable caption."""
        return self.index.incomplete

    @cached_property
    def counts(self) -> list[list[int]]:
        """The number of samples in each shard, by source."""
        counts = iter(self.index.counts)
        return [[next(counts) for _ in range(shards)] for shards in self._shards_of]

    @property
    def chances(self) -> NDArray[np.float64] | None:
        """The probability of each sample to be in an epoch; None if all are."""
        return self.index.chances

    def image(self, number: int) -> NDArray[Any]:
        """Return sample ``number``'s image, RGB (h, w, 3), downscaled by its decoder to no less than ``min_side``.

        Or the table of its regions, as :func:`infra.formats.regions.pack` makes it. Raises ValueError if it cannot be
        decoded.
        """
        if (cached := self._cache.get(number)) is not None:
            return cached
        image = self._decode(self._read(number))
        if self._room >= image.nbytes:
            with self._lock:
                if self._room >= image.nbytes and number not in self._cache:
                    self._room -= image.nbytes
                    self._cache[number] = image
        return image

    def _decode(self, contents: Sequence[bytes]) -> NDArray[Any]:
        """Decode what the index has of a sample."""
        if self.regions is None:
            return decode(contents[0], self._min_side)
        return pack(read_regions(dict(zip(self.regions.members, contents, strict=True))), self.regions)

    def where(self, number: int) -> str:
        """Describe the location of sample ``number``, for an error message."""
        offset, _ = self.index.places(number)[0]
        return f"byte {offset} of {self.shard_cache.shards[self.index.shard(number)].path}"

    def _read(self, number: int) -> list[bytes]:
        shard = self.index.shard(number)
        while True:
            try:
                handle = os.open(self.shard_cache.path(shard), os.O_RDONLY)
            except FileNotFoundError:
                if self.shard_cache.remote(shard):
                    continue  # another process removed the copy between the two calls
                raise DataError("a shard does not exist any more", found=self.where(number)) from None
            try:
                return [os.pread(handle, size, offset) for offset, size in self.index.places(number)]
            finally:
                os.close(handle)
