"""This worker's part of each batch, decoded ahead of need by threads.

Batch k of B samples holds the positions [k B, (k+1) B) of the sampler; of W workers, worker r loads the r-th of W equal
parts. Every random draw (crop, colour, caption) is keyed by seed and position. So samples, order and crops are the same
for any number of workers and threads, every worker takes equally many steps, and the loader's state is one number:
samples seen.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from infra.errors import DataError
from training.data.augment import DRAWS, Augmentation
from training.data.batched import Batched
from training.data.sampler import Sampler
from training.distributed.world import World
from training.draws import uniform

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from training.config import Config
    from training.data.samples import Samples

__all__ = ["Batch", "Loader", "draws", "on_device"]

CHUNK = 32
"""Samples that a thread loads at a time; fewer where that lets all threads work on the next batch."""

AHEAD = 2
"""Batches loaded ahead of the one in use."""

PARALLEL_DOWNLOADS = 4
"""Shards that a process downloads at once; one stream of an object store gives some 100 MB/s."""


@dataclass(frozen=True)
class Batch:
    """Samples for one step, in the sampler's order."""

    images: Tensor  # uint8 (b, h, w, 3); of samples without_image, anything, and of all of them (0, h, w, 3);
    # of regions float32 (b, rows, columns), as :func:`infra.formats.regions.pack` has them
    texts: Tensor  # int64 (b, context)
    numbers: Tensor  # int64 (b,): of the samples

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, rows: slice) -> Batch:
        return Batch(self.images[rows], self.texts[rows], self.numbers[rows])


def draws(seed: int, start: int, count: int) -> NDArray[np.float64]:
    """Return the random numbers in [0, 1) of positions ``[start, start + count)``: (count, DRAWS)."""
    return uniform((seed, 0), 1, start, count, DRAWS)


class Loader:
    """Loads this worker's part of each batch.

    ``corrupt`` holds the samples met so far that cannot be decoded. Each is replaced, at every position, by the next
    good one of its source: all workers find the same replacement independently, and batches stay whole.
    """

    def __init__(
        self,
        samples: Samples,
        config: Config,
        world: World,
        image_size: tuple[int, int],
        sampler: Sampler | Batched | None = None,
    ) -> None:
        """
        Args:
            image_size: height and width of the pictures that the model takes, in pixels; the objective says how many of
                them an image has side by side.
            sampler: the sample at each position; None: all sources as one, shuffled globally.
        """
        self.samples, self.config, self.image_size = samples, config, image_size
        self.sampler = sampler or Sampler(samples.counts, config.seed)
        self.augment = Augmentation(config.augment)
        self.side_by_side = config.objective.side_by_side()
        self.regions = samples.regions
        self.local_batch = config.batch_size // world.size
        self.offset = world.rank * self.local_batch
        self.corrupt: set[int] = set()
        self.without_image: Callable[[int], bool] = lambda _: False
        """Whether nobody needs a sample's image any more; that may change while batches are loaded."""
        self._lock = threading.Lock()
        self._world = world
        self._buffers = _BufferPool(pinned=world.device.type == "cuda")

    def __reduce__(self) -> tuple[object, ...]:
        # A loader in another process (RayLoader's actors) loads any positions, not one rank's part.
        return Loader, (self.samples, self.config, World(), self.image_size, self.sampler)

    def batches(self, start: int, stop: int) -> Generator[Batch]:
        """Yield this worker's part of each batch from ``start`` to ``stop`` samples seen; close it if not exhausted.

        Raises DataError when too many samples are corrupt, and what :meth:`ShardCache.path` raises for shards that
        cannot be read.
        """
        threads = self.config.loading.threads
        with ExitStack() as stack:
            pool = stack.enter_context(ThreadPoolExecutor(threads, "loader"))
            prefetcher = stack.enter_context(_Prefetcher(self.samples, self.sampler, self._world))
            ahead: deque[tuple[Batch, list[Future[None]]]] = deque()
            stack.callback(lambda: [future.cancel() for _, chunks in ahead for future in chunks])
            for first in range(start, stop, self.config.batch_size):
                prefetcher.prefetch(first, min(stop, first + self.config.batch_size))
                ahead.append(self._start(pool, first + self.offset))
                if len(ahead) > AHEAD:
                    yield self._finished(*ahead.popleft())
            while ahead:
                yield self._finished(*ahead.popleft())

    def load(self, start: int, count: int) -> Batch:
        """Load the samples at positions ``[start, start + count)`` in this thread."""
        batch = self._empty(count)
        self._fill(batch, start)
        return batch

    def _start(self, pool: ThreadPoolExecutor, start: int) -> tuple[Batch, list[Future[None]]]:
        # Small chunks where the batch is small, so that every thread has one.
        batch = self._empty(self.local_batch)
        size = min(CHUNK, max(4, -(-self.local_batch // self.config.loading.threads)))
        chunks = range(0, self.local_batch, size)
        return batch, [pool.submit(self._fill, batch[row : row + size], start + row) for row in chunks]

    def _empty(self, count: int) -> Batch:
        height, width = self.image_size
        shape: tuple[int, ...] = (height, self.side_by_side * width, 3)
        if self.regions is not None:
            shape = (self.regions.rows, self.regions.columns)
        return Batch(
            images=self._buffers.tensor((count, *shape), torch.uint8 if self.regions is None else torch.float32),
            texts=self._buffers.tensor((count, self.samples.index.context), torch.int64),
            numbers=torch.empty(count, dtype=torch.int64),
        )

    def _fill(self, batch: Batch, start: int) -> None:
        """Fill ``batch`` with the samples from position ``start`` on."""
        numbers = self.sampler.numbers(np.arange(start, start + len(batch)))
        random = draws(self.config.seed, start, len(batch))
        images = batch.images.numpy()
        for row, (number, draw) in enumerate(zip(numbers.tolist(), random.tolist(), strict=True)):
            numbers[row], image = self._decode_or_replace(number)
            if image is not None and self.regions is not None:
                images[row] = image
            elif image is not None:
                self._augment(image, draw, images[row])
        batch.numbers.numpy()[:] = numbers
        batch.texts.numpy()[:] = self.samples.index.texts(numbers, random[:, -1])

    def _augment(self, image: NDArray[np.uint8], draw: list[float], out: NDArray[np.uint8]) -> None:
        """Augment each picture of ``image`` in the same way."""
        if (count := self.side_by_side) == 1:
            self.augment(image, draw, out)
            return
        edges = [round(image.shape[1] * number / count) for number in range(count + 1)]
        for number, (left, right) in enumerate(pairwise(edges)):
            width = self.image_size[1]
            alone = np.empty((*self.image_size, 3), np.uint8)
            self.augment(image[:, left:right], draw, alone)
            out[:, number * width : (number + 1) * width] = alone

    def _finished(self, batch: Batch, chunks: list[Future[None]]) -> Batch:
        """Wait until all chunks of ``batch`` are loaded; raises what loading them raised."""
        for chunk in chunks:
            chunk.result()
        if all(map(self.without_image, batch.numbers.tolist())):
            return replace(batch, images=batch.images[:0])  # nothing to copy to a GPU
        return batch

    def _decode_or_replace(self, number: int) -> tuple[int, NDArray[Any] | None]:
        """Return sample ``number`` and its image, if it is needed, or those of the first good sample after it."""
        while True:
            if self.without_image(number):
                return number, None
            try:
                return number, self.samples.image(number)
            except ValueError as error:
                self.add_corrupt({number}, str(error))
            number = self.sampler.replacement(number)

    def add_corrupt(self, numbers: set[int], why: str) -> None:
        """Record samples that cannot be decoded, for the reason ``why``. Raises DataError if there are too many."""
        with self._lock:
            new = numbers - self.corrupt
            self.corrupt = self.corrupt | new  # a new set: because other threads may be iterating over the old one
        if new and len(self.corrupt) > min(self.config.loading.max_corrupt, len(self.samples) - 1):
            raise DataError(
                "too many samples of the shards cannot be decoded",
                expected=f"at most {self.config.loading.max_corrupt} of {len(self.samples)}",
                found=f"{why} at {self.samples.where(min(new))}",
                fix="check the shards, or raise max_corrupt",
            )


def on_device(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """Yield ``batches`` with their images on ``device``.

    To a GPU they are copied on a stream of their own, so that a batch arrives while the one before is trained on. Texts
    stay on the CPU, where packing needs their lengths.
    """
    if device.type != "cuda":
        yield from batches
        return
    copying = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    for batch in batches:
        with torch.cuda.stream(copying):
            images = batch.images.to(device, non_blocking=True)
        working = torch.cuda.current_stream(device)
        working.wait_stream(copying)
        images.record_stream(working)  # keeps its memory until that work is done
        yield replace(batch, images=images)


class _BufferPool:
    """Reuses the memory of batches, because fresh pages cost 50 us a sample, an eighth of all work.

    torch itself reuses pinned memory once the device has copied it. Other memory is reused here when the last
    reference to its tensor is gone.
    """

    def __init__(self, pinned: bool) -> None:
        self._pinned = pinned
        self._free: dict[int, list[NDArray[np.uint8]]] = {}

    def tensor(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        if self._pinned:
            return torch.empty(shape, dtype=dtype, pin_memory=True)
        size = int(np.prod(shape)) * dtype.itemsize
        free = self._free.setdefault(size, [])
        memory = free.pop() if free else np.empty(size, np.uint8)
        lent = memory[:]  # a new object, which lives as long as the tensor's storage
        weakref.finalize(lent, free.append, memory).atexit = False
        return torch.from_numpy(lent).view(dtype).view(shape)


class _Prefetcher:
    """Downloads remote shards before their samples are needed."""

    def __init__(self, samples: Samples, sampler: Sampler | Batched, world: World) -> None:
        self._cache, self._sampler = samples.shard_cache, sampler
        self._own = Fraction(world.rank, world.size), Fraction(world.rank + 1, world.size)
        self._needed = any(self._cache.remote(shard) for shard in range(len(self._cache.shards)))
        if self._needed:
            at_once = sampler.shards(0, 1 + sampler.window_samples, world.node)
            self._cache.check_room(at_once, "allow more disk_cache_gb, or shuffle by window, or by a smaller one")
        self._requested: dict[int, None] = {}
        self._pool = ThreadPoolExecutor(PARALLEL_DOWNLOADS, "fetching")
        self._fetches: deque[Future[Path]] = deque()

    def __enter__(self) -> _Prefetcher:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)  # waits for running downloads, drops queued ones

    def prefetch(self, start: int, stop: int) -> None:
        """Start downloads for positions ``[start, stop)`` and for the window of positions after them."""
        if not self._needed:
            return
        shards = self._sampler.shards(start, stop + self._sampler.window_samples, self._own)
        new = [shard for shard in shards if shard not in self._requested and self._cache.remote(shard)]
        self._requested = dict.fromkeys(shards)
        first = int(self._own[0] * len(new))  # the processes of a node start with different shards
        self._fetches += [self._pool.submit(self._cache.path, shard) for shard in new[first:] + new[:first]]
        while self._fetches and self._fetches[0].done():
            self._fetches.popleft().result()
