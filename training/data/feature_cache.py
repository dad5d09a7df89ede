"""Cache of a network's features by sample, shared by all training processes of a machine.

A file of rows that the processes map into memory, so the operating system may write out what it needs room for, and a
byte for each row that says whether it is there. A row is written once, before its byte; every process that writes it
writes the same. The files have no names once all have opened them: nothing is left behind, however the run ends.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from training.distributed.world import World

__all__ = ["FeatureCache"]

log = logging.getLogger(__name__)

ROWS, THERE = "rows", "there"


class FeatureCache:
    """Rows of one shape by sample number, of the first so many samples as there is room for."""

    def __init__(self, folder: Path, rows: int, shape: torch.Size, dtype: torch.dtype) -> None:
        """Open the files that :meth:`reserve` made in ``folder``."""
        self.rows, self.shape, self.dtype = rows, shape, dtype
        size = rows * math.prod(shape)
        self._rows = torch.from_file(str(folder / ROWS), shared=True, size=size, dtype=dtype).view(rows, *shape)
        self._there = torch.from_file(str(folder / THERE), shared=True, size=rows, dtype=torch.uint8)
        self._bytes = self._there.numpy()

    @classmethod
    def open(cls, below: Path, most_bytes: int, samples: int, example: Tensor, world: World) -> FeatureCache | None:
        """Open the cache of this machine's processes for rows like ``example``; all ranks must call it at once.

        At most ``most_bytes`` are taken on the disk of ``below``, at once; None if they are not to be had.
        """
        each = example.nbytes + 1
        rows = min(samples, most_bytes // each)
        local = int(os.environ.get("LOCAL_RANK", 0))
        folder = cls.reserve(below, rows, each) if local == 0 and rows else None
        folder = world.gather(folder)[world.rank - local]
        cache = cls(folder, rows, example.shape, example.dtype) if folder is not None else None
        world.gather(None)  # all have opened it
        if local == 0 and folder is not None:
            shutil.rmtree(folder)
        return cache

    @staticmethod
    def reserve(below: Path, rows: int, each: int) -> Path | None:
        """Make the files, all zeros, in a new folder; None, with a warning, where the disk has no room for them."""
        below.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="features-", dir=below))
        try:
            # Reserved now: a mapped page that the disk has no room for would kill the process.
            for name, size in ((ROWS, rows * (each - 1)), (THERE, rows)):
                with (folder / name).open("wb") as file:
                    os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            shutil.rmtree(folder)
            log.warning("no room at %s to keep features: %s", below, error)
            return None
        return folder

    def has(self, number: int) -> bool:
        """Return whether sample ``number`` has its row here."""
        return number < self.rows and bool(self._bytes[number])

    def known(self, numbers: Tensor) -> Tensor:
        """Return which samples ``numbers`` (n,) have their row here, bool (n,)."""
        inside = numbers < self.rows
        return inside & self._there[numbers.where(inside, 0)].bool()

    def __getitem__(self, numbers: Tensor) -> Tensor:
        """The rows of samples that are here."""
        return self._rows[numbers]

    def filled(self, numbers: Tensor, step: int, compute: Callable[[Tensor], Tensor]) -> Tensor:
        """The rows of samples ``numbers`` (n,), of which those that are not here are computed and kept.

        ``compute`` gives the rows (m, ...) of at most ``step`` samples by their places in ``numbers`` (m,).
        """
        known = self.known(numbers)
        rows = torch.empty(len(numbers), *self.shape, dtype=self.dtype)
        rows[known] = self[numbers[known]]
        missing = (~known).nonzero()[:, 0]
        for first in range(0, len(missing), step):
            places = missing[first : first + step]
            rows[places] = compute(places)
            self.add(numbers[places], rows[places])
        return rows

    def add(self, numbers: Tensor, rows: Tensor) -> None:
        """Keep the ``rows`` (n, ...) of samples ``numbers`` (n,), as far as there is room."""
        inside = numbers < self.rows
        numbers = numbers[inside]
        self._rows[numbers] = rows[inside]
        self._there[numbers] = 1
