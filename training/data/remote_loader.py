"""Batches loaded by Ray actors on other nodes, for GPU nodes with too few cores to decode for their GPUs.

An actor loads the samples of any range of positions with the sampler and the code of loader.py, and sends them through
Ray's object store ready to train on. The result does not depend on which actor loads it, so batches equal the local
loader's byte for byte, and an actor that dies is restarted and its call repeated. These are plain actors, not a Ray
Data pipeline, because Ray Data cannot guarantee an order of samples that survives failures or another number of
workers.

The index travels with the samples: one copy a node, in shared memory. Shards must be readable from every node, in an
object store or on a shared file system.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import ray
import torch
from ray.exceptions import RayTaskError

from infra.errors import CliplineError
from training.data.loader import AHEAD, CHUNK, Batch, Loader

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["RayLoader"]

Piece = tuple["NDArray[Any]", "NDArray[np.int64]", "NDArray[np.int64]", set[int]]
"""Images, texts and sample numbers of a range of positions, and the corrupt samples that the actor has met so far."""


class _LoaderActor:
    """The actor: one core that loads samples."""

    def __init__(self, loader: Loader) -> None:
        torch.set_num_threads(1)
        self._loader = loader

    def load(self, start: int, count: int) -> Piece:
        """Load the samples at positions ``[start, start + count)``."""
        batch = self._loader.load(start, count)
        return batch.images.numpy(), batch.texts.numpy(), batch.numbers.numpy(), self._loader.corrupt


class RayLoader(Loader):
    """This worker's part of each batch, loaded by ``loading.remote_loaders`` Ray actors of one core each."""

    def batches(self, start: int, stop: int) -> Generator[Batch]:
        """Yield what :meth:`Loader.batches` does; the actors end when it is exhausted or closed."""
        actor: Any = ray.remote(_LoaderActor)
        options = {"num_cpus": 1, "max_restarts": -1, "max_task_retries": -1, "scheduling_strategy": "SPREAD"}
        loader = ray.put(self)
        actors = [actor.options(**options).remote(loader) for _ in range(self.config.loading.remote_loaders)]
        try:
            yield from self._load_ahead(actors, start, stop)
        finally:
            for each in actors:
                ray.kill(each)

    def _load_ahead(self, actors: list[Any], start: int, stop: int) -> Iterator[Batch]:
        """Deal pieces of each batch to the actors in turn, AHEAD batches ahead of the one that is yielded."""
        turn = itertools.cycle(actors)
        size = max(CHUNK, -(-self.local_batch // len(actors)))
        pieces = [slice(row, min(row + size, self.local_batch)) for row in range(0, self.local_batch, size)]
        ahead: deque[list[tuple[slice, Any]]] = deque()
        for first in range(start, stop, self.config.batch_size):
            begin = first + self.offset
            ahead.append(
                [(rows, next(turn).load.remote(begin + rows.start, rows.stop - rows.start)) for rows in pieces]
            )
            if len(ahead) > AHEAD:
                yield self._assemble(ahead.popleft())
        while ahead:
            yield self._assemble(ahead.popleft())

    def _assemble(self, pieces: list[tuple[slice, Any]]) -> Batch:
        batch = self._empty(self.local_batch)
        for rows, reference in pieces:
            images, texts, numbers, corrupt = _get(reference)
            batch.images.numpy()[rows], batch.texts.numpy()[rows], batch.numbers.numpy()[rows] = images, texts, numbers
            self.add_corrupt(corrupt, "an image that cannot be decoded")
        return batch


def _get(reference: Any) -> Piece:  # noqa: ANN401 - a reference of Ray's
    """Wait for a piece. Raises the actor's CliplineError itself instead of Ray's wrapper."""
    try:
        piece: Piece = ray.get(reference)
    except RayTaskError as error:
        if isinstance(error.cause, CliplineError):
            raise error.cause from None
        raise
    return piece
