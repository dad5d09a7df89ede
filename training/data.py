"""From tar shards to batches, by a plan that is fixed before the first worker starts.

The plan numbers every sample that will be seen: position ``p`` of the run is sample ``order(epoch)[p % n]``, an
epoch's order being a permutation of all ``n`` samples of all shards. Batch ``k`` is the positions ``[k B, (k+1) B)``;
of W workers, worker ``r`` reads the ``r``-th of W equal parts. So the samples seen, and in which order, are the same
for any number of workers, every worker takes equally many steps, and the state of the loader is one number:
samples seen.

That wants random access: the tars' headers are read once at the start (each worker reads its part and they swap),
then each sample is one read at a known offset. Shards that lie in an object store are copied to each node first.
"""

from __future__ import annotations

import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from infra.errors import DataError
from infra.shards import IMAGE_EXTENSIONS, index_tar, split_name
from training.images import decode, draw_crop, resize

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from infra.storage import Store
    from training.train import Config
    from training.world import World

__all__ = ["Loader", "Samples", "Shards", "order"]

INDEX = np.dtype([("shard", "u4"), ("image", "u8"), ("image_size", "u4"), ("text", "u8"), ("text_size", "u4")])
"""Where a sample lies: its shard, and offset and size in bytes of its image and its caption."""


@dataclass(frozen=True)
class Shards:
    """WebDataset tars of images (jpg, png, webp) with captions (txt), in a store. Their order matters."""

    store: Store
    paths: list[str]


@lru_cache(maxsize=2)  # a batch may straddle two epochs
def order(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    """The order in which ``epoch`` goes through ``count`` samples."""
    return np.random.default_rng([seed, epoch]).permutation(count)


class Samples:
    """Random access to every complete sample of the shards: decoded image and tokens by index."""

    def __init__(
        self,
        shards: Shards,
        world: World,
        *,
        tokenize: Callable[[str], NDArray[np.int64]],
        min_side: int,
        cache_bytes: int = 0,
    ) -> None:
        folder = Path(tempfile.gettempdir(), "clipline-shards")
        self.paths = [shards.store.fetch(path, folder) for path in shards.paths]
        self.index, self.incomplete = _index(shards, self.paths, world)
        self._tokenize, self._min_side = tokenize, min_side
        self._cache: dict[int, tuple[NDArray[np.uint8], NDArray[np.int64]]] = {}
        self._room, self._lock = cache_bytes, threading.Lock()

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, number: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """RGB image (h, w, 3), shortest side at least ``min_side`` if it was, and tokens (context,).

        Raises ValueError if the image cannot be decoded or the caption is not UTF-8.
        """
        if (cached := self._cache.get(number)) is not None:
            return cached
        place = self.index[number]
        with self.paths[place["shard"]].open("rb", buffering=0) as tar:
            tar.seek(int(place["image"]))
            image = decode(tar.read(int(place["image_size"])), self._min_side)
            tar.seek(int(place["text"]))
            tokens = self._tokenize(tar.read(int(place["text_size"])).decode())
        with self._lock:
            if self._room >= image.nbytes + tokens.nbytes:
                self._room -= image.nbytes + tokens.nbytes
                self._cache[number] = image, tokens
        return image, tokens


def _index(shards: Shards, paths: list[Path], world: World) -> tuple[NDArray[np.void], int]:
    """Every sample with an image and a caption, and how many lacked one."""
    if not paths:
        raise DataError("there are no shards to train on", found=shards.store.url)
    own = {number: _index_shard(paths[number]) for number in range(world.rank, len(paths), world.size)}
    parts = {number: part for parts in world.gather(own) for number, part in parts.items()}
    for number, (places, _) in parts.items():
        places["shard"] = number
    index = np.concatenate([parts[number][0] for number in range(len(paths))])
    return index, sum(incomplete for _, incomplete in parts.values())


def _index_shard(path: Path) -> tuple[NDArray[np.void], int]:
    places: list[tuple[int, int, int, int, int]] = []
    samples: dict[str, dict[str, tuple[int, int]]] = {}
    with path.open("rb") as tar:
        for name, offset, size in index_tar(tar):
            if parts := split_name(name):
                samples.setdefault(parts[0], {})[parts[1]] = offset, size
    for members in samples.values():
        image = next((members[extension] for extension in IMAGE_EXTENSIONS if extension in members), None)
        if image and "txt" in members:
            places.append((0, *image, *members["txt"]))
    return np.array(places, INDEX), len(samples) - len(places)


class Loader:
    """This worker's part of each batch, decoded ahead of need by threads.

    ``corrupt`` holds the samples met so far that cannot be used. Each is replaced, wherever the plan names it, by the
    next good one in shard order: every worker finds the same replacement by itself, and batches stay whole.
    """

    def __init__(self, samples: Samples, config: Config, world: World, image_size: tuple[int, int]) -> None:
        self.samples, self.config, self.image_size = samples, config, image_size
        self.share = config.batch_size // world.size
        self.offset = world.rank * self.share
        self.pin = world.device.type == "cuda"
        self.corrupt: set[int] = set()

    def batches(self, start: int, stop: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Images uint8 (b, h, w, 3) and tokens int64 (b, context) of each batch between two counts of samples seen.

        Raises DataError when too many samples are corrupt.
        """
        with ExitStack() as stack:
            pool = stack.enter_context(ThreadPoolExecutor(self.config.loader_threads, "loader"))
            ahead: deque[Future[tuple[Tensor, Tensor]]] = deque()
            stack.callback(lambda: [future.cancel() for future in ahead])
            for batch in range(start, stop, self.config.batch_size):
                positions = np.arange(self.share) + batch + self.offset
                ahead.append(pool.submit(self._load, positions, self._plan(positions)))
                if len(ahead) > self.config.loader_threads + 1:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()

    def _plan(self, positions: NDArray[np.int64]) -> list[int]:
        count = len(self.samples)
        return [int(order(self.config.seed, int(p) // count, count)[int(p) % count]) for p in positions]

    def _load(self, positions: NDArray[np.int64], numbers: list[int]) -> tuple[Tensor, Tensor]:
        images = np.empty((self.share, *self.image_size, 3), np.uint8)
        tokens = []
        for row, (position, number) in enumerate(zip(positions, numbers, strict=True)):
            image, text = self._good(number)
            # A counter-based generator gives each position its own numbers, whoever draws them and in whatever order.
            draw = np.random.Generator(np.random.Philox(key=self.config.seed, counter=[0, int(position), 0, 0]))
            y, x, height, width = draw_crop(draw, image.shape, self.config.crop_scale, self.config.crop_ratio)
            resize(image[y : y + height, x : x + width], images[row])
            tokens.append(text)
        batch = torch.from_numpy(images), torch.from_numpy(np.stack(tokens))
        return (batch[0].pin_memory(), batch[1].pin_memory()) if self.pin else batch

    def _good(self, number: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        while True:
            try:
                return self.samples[number]
            except ValueError as error:
                self.corrupt.add(number)
                if len(self.corrupt) > min(self.config.max_corrupt, len(self.samples) - 1):
                    place = self.samples.index[number]
                    raise DataError(
                        "too many samples of the shards cannot be decoded",
                        expected=f"at most {self.config.max_corrupt} of {len(self.samples)}",
                        found=f"{error} at byte {place['image']} of {self.samples.paths[place['shard']].name}",
                        fix="look at the shards, or raise max_corrupt",
                    ) from error
            number = (number + 1) % len(self.samples)
