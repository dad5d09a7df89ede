"""The sample at each position of a run whose batches are composed by a rule (:mod:`training.data.batching`).

The positions of the sampler beneath are cut into blocks, of as many batches as the rule looks at together. What it
makes of a block depends on the block alone, so any position is found by itself as before: a stopped run goes on with
the same batches, on any number of ranks. Every rank composes whole batches, and loads its part of each.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from infra.errors import ConfigError
from training.data.batching import BatchRule
from training.data.sampler import WHOLE_BATCH, Sampler

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Batched"]

_BLOCKS = 3  # that are kept: threads work on two or three batches at a time


class Batched:
    """Maps positions to samples as :class:`~training.data.sampler.Sampler` does, batches composed by ``rule``.

    ``concepts`` returns the concepts of each of some samples, as numbers.
    """

    def __init__(
        self,
        sampler: Sampler,
        rule: BatchRule,
        batch: int,
        concepts: Callable[[NDArray[np.int64]], Sequence[list[int]]],
    ) -> None:
        self._sampler, self._rule, self._batch, self._concepts = sampler, rule, batch, concepts
        self._entering, self._seen = rule.batches * batch, rule.kept * batch  # samples of a block
        self._blocks: OrderedDict[int, NDArray[np.int64]] = OrderedDict()
        self._lock = threading.Lock()
        self.window_samples = -(-sampler.window_samples * rule.kept // rule.batches)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_blocks", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _blocks=OrderedDict(), _lock=threading.Lock())

    def numbers(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the samples at ``positions`` of the run, same shape."""
        numbers = np.empty(len(positions), np.int64)
        blocks, places = np.divmod(positions, self._seen)
        for block in np.unique(blocks).tolist():
            mask = blocks == block
            numbers[mask] = self._block(block)[places[mask]]
        return numbers

    def _block(self, block: int) -> NDArray[np.int64]:
        with self._lock:  # so that of several threads one composes the batches
            if block not in self._blocks:
                self._blocks[block] = self._composed(block)
                if len(self._blocks) > _BLOCKS:
                    self._blocks.popitem(last=False)
            return self._blocks[block]

    def _composed(self, block: int) -> NDArray[np.int64]:
        """Return the samples of a block in the order in which they are seen. Raises ConfigError for a wrong rule."""
        candidates = self._sampler.numbers(np.arange(block * self._entering, (block + 1) * self._entering))
        places = np.array(self._rule.arrange(self._concepts(candidates), self._batch), np.int64)
        right = len(places) == self._seen == len(np.unique(places))
        if not right or places.min() < 0 or places.max() >= self._entering:
            raise ConfigError(
                f"the batch rule {self._rule.kind!r} gave no batches",
                expected=f"{self._seen} different places below {self._entering}",
                found=f"{len(places)}, {len(np.unique(places))} of them different",
            )
        return candidates[places]

    def shards(self, start: int, stop: int, part: tuple[Fraction, Fraction] = WHOLE_BATCH) -> list[int]:
        """Return the shards that positions ``[start, stop)`` read; any ``part`` of a batch may need all of them."""
        first, end = start // self._seen, -(-stop // self._seen)
        return self._sampler.shards(first * self._entering, end * self._entering)

    @property
    def epoch(self) -> int:
        """The number of samples that are seen while the sampler beneath goes through an epoch of every source."""
        return max(1, self._sampler.epoch * self._rule.kept // self._rule.batches)

    def epochs(self, position: int) -> list[tuple[int, float]]:
        """Return the samples of an epoch of each source, and the epochs that the first ``position`` are taken from."""
        return self._sampler.epochs(position + self.passed_over(position))

    def passed_over(self, position: int) -> int:
        """Return the number of samples that were looked at and not seen before ``position``."""
        return position * (self._rule.batches - self._rule.kept) // self._rule.kept

    def replacement(self, number: int) -> int:
        """Return the sample that replaces ``number`` if that cannot be read: the next of its source, cyclically."""
        return self._sampler.replacement(number)
