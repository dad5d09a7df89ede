"""Batches made on other nodes: where a GPU node has too few cores to decode for its GPUs, Ray actors elsewhere do it.

An actor makes the samples of any stretch of positions, by the same plan and the same code as loader.py,
and they come through Ray's object store ready to train on. What is made does not depend on who makes it, so batches
equal the local loader's byte for byte, and an actor that dies is started again and asked again. Plain actors, not a
Ray Data pipeline, because Ray Data cannot promise an order of samples that survives a failure or another number of
workers.

The index travels with the samples: one copy a node, in shared memory. Shards have to be where every node can read
them, in an object store or on a shared file system.
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

Piece = tuple["NDArray[np.uint8]", "NDArray[np.int64]", "NDArray[np.int64]", set[int]]


class _Feeder:
    """An actor's side: one core that makes samples."""

    def __init__(self, loader: Loader) -> None:
        torch.set_num_threads(1)
        self._loader = loader

    def load(self, start: int, count: int) -> Piece:
        """The samples at positions ``[start, start + count)``, and which have been found corrupt so far."""
        batch = self._loader.load(start, count)
        return batch.images.numpy(), batch.texts.numpy(), batch.lengths.numpy(), self._loader.corrupt


class RayLoader(Loader):
    """This worker's part of each batch, made by as many actors of one core each as ``loading.remote_loaders`` says."""

    def batches(self, start: int, stop: int) -> Generator[Batch]:
        """As :meth:`training.data.loader.Loader.batches` does; the actors live until it is gone through or closed."""
        actor: Any = ray.remote(_Feeder)
        options = {"num_cpus": 1, "max_restarts": -1, "max_task_retries": -1, "scheduling_strategy": "SPREAD"}
        loader = ray.put(self)
        feeders = [actor.options(**options).remote(loader) for _ in range(self.config.loading.remote_loaders)]
        try:
            yield from self._made_by(feeders, start, stop)
        finally:
            for feeder in feeders:
                ray.kill(feeder)

    def _made_by(self, feeders: list[Any], start: int, stop: int) -> Iterator[Batch]:
        turn = itertools.cycle(feeders)
        size = max(CHUNK, -(-self.share // len(feeders)))
        pieces = [slice(row, min(row + size, self.share)) for row in range(0, self.share, size)]
        ahead: deque[list[tuple[slice, Any]]] = deque()
        for first in range(start, stop, self.config.batch_size):
            begin = first + self.offset
            ahead.append(
                [(rows, next(turn).load.remote(begin + rows.start, rows.stop - rows.start)) for rows in pieces]
            )
            if len(ahead) > AHEAD:
                yield self._together(ahead.popleft())
        while ahead:
            yield self._together(ahead.popleft())

    def _together(self, pieces: list[tuple[slice, Any]]) -> Batch:
        batch = self._empty(self.share)
        for rows, made in pieces:
            images, texts, lengths, corrupt = _result(made)
            batch.images.numpy()[rows], batch.texts.numpy()[rows] = images, texts
            batch.lengths.numpy()[rows] = lengths
            self.count_corrupt(corrupt, "a picture that cannot be decoded")
        return batch


def _result(made: Any) -> Piece:  # noqa: ANN401 - a reference of Ray's
    try:
        piece: Piece = ray.get(made)
    except RayTaskError as error:
        if isinstance(error.cause, CliplineError):
            raise error.cause from None
        raise
    return piece
