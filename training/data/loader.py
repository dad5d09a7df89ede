"""Batches: this worker's share of each, decoded ahead of need by threads.

Batch k of B samples is the positions [k B, (k+1) B) of the plan; of W workers, worker r takes the r-th of W equal
parts. Every random draw (crop, colour, caption) is keyed by seed and position. So what is seen, in which order and in
which crop is the same for any number of workers and threads, every worker takes equally many steps, and the state of
the loader is one number: samples seen.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from infra.errors import DataError
from training.data.augment import DRAWS, Augmentation
from training.data.sampler import Plan
from training.distributed.world import World

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from training.config import Config
    from training.data.samples import Samples

__all__ = ["Batch", "Loader", "draws", "on_device"]

CHUNK = 32
"""Samples that a thread makes at a time, or fewer so that all threads work on the batch that is wanted first."""

AHEAD = 2
"""Batches made before they are asked for, beside the one that is worked with."""


PARALLEL = 4
"""Downloads at once in a process; one stream of an object store gives some 100 MB/s."""


@dataclass(frozen=True)
class Batch:
    """Samples for one step, in the order of the plan.

    ``lengths`` is how many tokens of each text come before its padding. For CLIP's tokenizer the last of them is the
    end-of-text token, so a causal tower needs no more (nor as many, where a caption holds ``<end_of_text>`` itself).
    """

    images: Tensor  # uint8 (b, h, w, 3)
    texts: Tensor  # int64 (b, context)
    lengths: Tensor  # int64 (b,)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: slice) -> Batch:
        return Batch(self.images[rows], self.texts[rows], self.lengths[rows])


def draws(seed: int, start: int, count: int) -> NDArray[np.float64]:
    """The random numbers in [0, 1) of positions ``[start, start + count)``: (count, DRAWS).

    All positions' numbers lie one after another in the stream of one counter-based generator (Philox; Salmon et al.
    2011), which can be entered anywhere: four to a count.
    """
    generator = np.random.Philox(key=seed, counter=[start * DRAWS // 4, 1, 0, 0])
    return np.random.Generator(generator).random((count, DRAWS))


class Loader:
    """This worker's part of each batch.

    ``corrupt`` holds the samples met so far that cannot be used. Each is replaced, wherever the plan names it, by the
    next good one of its source: every worker finds the same replacement by itself, and batches stay whole.
    """

    def __init__(
        self,
        samples: Samples,
        config: Config,
        world: World,
        image_size: tuple[int, int],
        plan: Plan | None = None,
    ) -> None:
        """``plan``: which sample at which position; none: all sources as one, shuffled globally."""
        self.samples, self.config, self.image_size = samples, config, image_size
        self.plan = plan or Plan(samples.counts, config.seed)
        self.augment = Augmentation(config.augment)
        self.share = config.batch_size // world.size
        self.offset = world.rank * self.share
        self.corrupt: set[int] = set()
        self._lock = threading.Lock()
        self._world = world
        self._room = _Room(pinned=world.device.type == "cuda")

    def __reduce__(self) -> tuple[object, ...]:
        # What goes to another process makes any samples, and is nobody's share.
        return Loader, (self.samples, self.config, World(), self.image_size, self.plan)

    def batches(self, start: int, stop: int) -> Generator[Batch]:
        """This worker's share of each batch between two counts of samples seen. To be closed if not gone through.

        Raises DataError when too many samples are corrupt, and what :class:`Copies` raises for shards
        that cannot be had.
        """
        threads = self.config.loading.threads
        with ExitStack() as stack:
            pool = stack.enter_context(ThreadPoolExecutor(threads, "loader"))
            fetching = stack.enter_context(_Fetching(self.samples, self.plan, self._world))
            ahead: deque[tuple[Batch, list[Future[None]]]] = deque()
            stack.callback(lambda: [future.cancel() for _, chunks in ahead for future in chunks])
            for first in range(start, stop, self.config.batch_size):
                fetching.announce(first, min(stop, first + self.config.batch_size))
                ahead.append(self._begin(pool, first + self.offset))
                if len(ahead) > AHEAD:
                    yield _finished(*ahead.popleft())
            while ahead:
                yield _finished(*ahead.popleft())

    def load(self, start: int, count: int) -> Batch:
        """The samples at positions ``[start, start + count)``, in this thread."""
        batch = self._empty(count)
        self._fill(batch, start)
        return batch

    def _begin(self, pool: ThreadPoolExecutor, start: int) -> tuple[Batch, list[Future[None]]]:
        batch = self._empty(self.share)
        size = min(CHUNK, max(4, -(-self.share // self.config.loading.threads)))
        chunks = range(0, self.share, size)
        return batch, [pool.submit(self._fill, batch[row : row + size], start + row) for row in chunks]

    def _empty(self, count: int) -> Batch:
        return Batch(
            images=self._room.tensor((count, *self.image_size, 3), torch.uint8),
            texts=self._room.tensor((count, self.samples.index.context), torch.int64),
            lengths=self._room.tensor((count,), torch.int64),
        )

    def _fill(self, batch: Batch, start: int) -> None:
        """Write the samples from position ``start`` on."""
        numbers = self.plan.numbers(np.arange(start, start + len(batch)))
        random = draws(self.config.seed, start, len(batch))
        images = batch.images.numpy()
        for row, (number, own) in enumerate(zip(numbers.tolist(), random.tolist(), strict=True)):
            numbers[row], image = self._good(number)
            self.augment(image, own, images[row])
        tokens, lengths = self.samples.index.texts(numbers, random[:, -1])
        batch.texts.numpy()[:] = tokens
        batch.lengths.numpy()[:] = lengths

    def _good(self, number: int) -> tuple[int, NDArray[np.uint8]]:
        while True:
            try:
                return number, self.samples.image(number)
            except ValueError as error:
                self.count_corrupt({number}, str(error))
            number = self.plan.replacement(number)

    def count_corrupt(self, numbers: set[int], why: str) -> None:
        """These cannot be used. Raises DataError if that makes too many."""
        with self._lock:
            new = numbers - self.corrupt
            self.corrupt = self.corrupt | new  # a new set: others may be going through the old one
        if new and len(self.corrupt) > min(self.config.loading.max_corrupt, len(self.samples) - 1):
            raise DataError(
                "too many samples of the shards cannot be decoded",
                expected=f"at most {self.config.loading.max_corrupt} of {len(self.samples)}",
                found=f"{why} at {self.samples.where(min(new))}",
                fix="look at the shards, or raise max_corrupt",
            )


def on_device(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """``batches`` with their images on ``device``. A GPU has them copied beside its work: the CPU is ahead of it, so a
    batch arrives while the one before is worked on. Texts stay: where captions are packed, their lengths are needed
    here."""
    if device.type != "cuda":
        yield from batches
        return
    copying = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    for batch in batches:
        with torch.cuda.stream(copying):
            images = batch.images.to(device, non_blocking=True)
        working = torch.cuda.current_stream(device)
        working.wait_stream(copying)
        images.record_stream(working)  # its memory is not given away before that work is done
        yield replace(batch, images=images)


def _finished(batch: Batch, chunks: list[Future[None]]) -> Batch:
    for chunk in chunks:
        chunk.result()
    return batch


class _Room:
    """Memory for batches. Fresh pages cost 50 us a sample, an eighth of all work, so memory is used again.

    What is pinned torch keeps and gives out again once the device has copied it. The rest is kept here, and given out
    again when nobody holds the tensor any more.
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
        lent = memory[:]  # an object of its own, that lives as long as the tensor's storage
        weakref.finalize(lent, free.append, memory).atexit = False
        return torch.from_numpy(lent).view(dtype).view(shape)


class _Fetching:
    """Has remote shards fetched before the samples in them are needed."""

    def __init__(self, samples: Samples, plan: Plan, world: World) -> None:
        self._copies, self._plan = samples.copies, plan
        self._own = Fraction(world.rank, world.size), Fraction(world.rank + 1, world.size)
        self._needed = any(self._copies.remote(shard) for shard in range(len(self._copies.shards)))
        if self._needed:
            at_once = plan.shards(0, 1 + plan.window_samples, world.node)
            self._copies.check_room(at_once, "allow more disk_cache_gb, or shuffle by window, or by a smaller one")
        self._announced: dict[int, None] = {}
        self._pool = ThreadPoolExecutor(PARALLEL, "fetching")
        self._fetches: deque[Future[Path]] = deque()

    def __enter__(self) -> _Fetching:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)  # who is stopped waits for the few that are under way, not for all

    def announce(self, start: int, stop: int) -> None:
        """Positions that will be read next; their shards, and those of as many positions again, are fetched."""
        if not self._needed:
            return
        shards = self._plan.shards(start, stop + self._plan.window_samples, self._own)
        new = [shard for shard in shards if shard not in self._announced and self._copies.remote(shard)]
        self._announced = dict.fromkeys(shards)
        first = int(self._own[0] * len(new))  # the processes of a node begin at different ones
        self._fetches += [self._pool.submit(self._copies.path, shard) for shard in new[first:] + new[:first]]
        while self._fetches and self._fetches[0].done():
            self._fetches.popleft().result()
