"""The sample at each position of a run: a function of the configuration, the same for any number of workers.

A run counts the samples it sees from 0, and every position of that count has its sample:

* without weights all sources are one set of n samples, and position p is the (p mod n)-th of the shuffle of epoch
  p // n: each epoch sees every sample once;
* with weights positions are assigned to the sources in a fixed cycle in which every stretch, however short, holds each
  source in proportion, and each source goes through epochs of its own.

An epoch's shuffle is *global* (any sample may follow any other) or by *window*: shards in random order, samples
shuffled among a window of neighbouring shards. The second needs few shards at a time, so the rest may stay in an object
store, and a worker needs few of a window's shards: every batch has *lanes*, as many equal parts as a window has shards
(or the next smaller divisor of the batch), and each lane reads its own stretch of the window. Lanes belong to the
sampler, not to the workers: a worker reads the lanes that its part of each batch covers.

Where samples have chances to be in an epoch (online balancing), an epoch is a draw of them (:class:`Drawn`), another
one each time, and is shuffled in the same way.

Every position is computed independently in constant time, so a run can continue from any of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Literal

import numpy as np

from infra.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Sampler", "epoch_order", "interleave", "permute_at"]

LARGEST_PERMUTATION = 1 << 22
"""The most samples whose permutation is stored (32 MB, made in 0.1 s); beyond, places are computed (1 us each)."""

WHOLE_BATCH = Fraction(0), Fraction(1)

MAX_PERIOD = 1 << 20
"""The longest cycle of a mixture: weights are exact up to this denominator, and rounded to it beyond."""


def epoch_order(seed: int, epoch: int, count: int, source: int = 0) -> NDArray[np.int64]:
    """Return the random order in which ``epoch`` goes through ``count`` samples."""
    return np.random.default_rng([seed, epoch, source]).permutation(count)


def permute_at(places: NDArray[np.int64], count: int, key: Sequence[int]) -> NDArray[np.int64]:
    """Evaluate a random permutation of ``range(count)`` at ``places`` only, in memory independent of ``count``.

    A Feistel network permutes the next larger power of four; what falls outside ``range(count)`` is permuted again
    until it does not (Black and Rogaway 2002, https://doi.org/10.1007/3-540-45760-7_9).
    """
    half = np.uint64(max(1, math.ceil(math.log2(max(2, count)) / 2)))
    mask = np.uint64((1 << int(half)) - 1)
    keys = np.random.SeedSequence(list(key)).generate_state(6, np.uint64)

    def once(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
        left, right = x >> half, x & mask
        for secret in keys:
            mixed = (right + secret) * np.uint64(0xBF58476D1CE4E5B9)
            mixed = (mixed ^ (mixed >> np.uint64(31))) * np.uint64(0x94D049BB133111EB)
            left, right = right, left ^ ((mixed ^ (mixed >> np.uint64(29))) & mask)
        return (left << half) | right

    found = once(places.astype(np.uint64))
    while (outside := found >= count).any():
        found[outside] = once(found[outside])
    return found.astype(np.int64)


def interleave(weights: Sequence[float]) -> tuple[NDArray[np.uint16], NDArray[np.int64]]:
    """Build the cycle of a mixture: the source at each place of one period, and that source's number of places before.

    The k-th of a source's c places is due at (k + 1/2) / c of the period, and places are sorted by when they are due.
    So after any number of places each source deviates from its proportion by less than the number of other sources.
    Raises ConfigError for weights that are not finite and positive.
    """
    parts = [Fraction(str(weight)) if math.isfinite(weight) else Fraction(-1) for weight in weights]
    if not parts or min(parts) <= 0:
        raise ConfigError("a mixture's weights must be finite and greater than zero", found=str(list(weights)))
    fractions = [part / sum(parts) for part in parts]
    period = math.lcm(*(fraction.denominator for fraction in fractions))
    counts = _largest_remainder(fractions, min(period, MAX_PERIOD))
    if min(counts) == 0:
        raise ConfigError("a weight is too small", expected=f"at least 1/{MAX_PERIOD} of all", found=str(list(weights)))
    due = np.concatenate([(np.arange(count) + 0.5) / count for count in counts])
    in_order = np.argsort(due, kind="stable")
    sources = np.repeat(np.arange(len(counts), dtype=np.uint16), counts)
    return sources[in_order], np.concatenate([np.arange(count) for count in counts])[in_order]


def _largest_remainder(fractions: Sequence[Fraction], period: int) -> list[int]:
    counts = [math.floor(fraction * period) for fraction in fractions]
    remainders = [fraction * period - count for fraction, count in zip(fractions, counts, strict=True)]
    most = sorted(range(len(fractions)), key=lambda source: (-remainders[source], source))
    for source in most[: period - sum(counts)]:
        counts[source] += 1
    return counts


class Sampler:
    """Maps positions to samples, which are numbered through all shards of all sources, in their order.

    ``shards`` holds for each source the number of samples in each of its shards. With ``shuffle="window"`` a source's
    samples are shuffled among ``window`` shards at a time, in lanes of batches of ``batch`` samples. ``chances``: the
    probability of each sample to be in an epoch.
    """

    def __init__(
        self,
        shards: Sequence[Sequence[int]],
        seed: int,
        *,
        weights: Sequence[float] | None = None,
        shuffle: Literal["global", "window"] = "global",
        window: int = 16,
        batch: int = 1,
        chances: NDArray[np.float64] | None = None,
    ) -> None:
        if weights is not None and len(weights) != len(shards):
            raise ConfigError("every source needs a weight", expected=f"{len(shards)}", found=f"{len(weights)}")
        options = {"shuffle": shuffle, "window": window, "batch": batch, "chances": chances}
        self._made_of = partial(Sampler, shards, seed, weights=weights, **options)  # type: ignore[arg-type]
        groups = shards if weights is not None else [[count for source in shards for count in source]]
        self._cycle, self._before = interleave(weights or [1.0])
        self._per_cycle = np.bincount(self._cycle)
        self._batch, self._lanes = batch, _largest_divisor(batch, min(window, 1 << 16))
        self._sources, shard, sample = list[_Source](), 0, 0
        for number, counts in enumerate(groups):
            windowed = window if shuffle == "window" else None
            lanes = self._lanes, partial(self._lane, np.flatnonzero(self._cycle == number))
            if not sum(counts):
                raise ConfigError("a source of the mixture has no samples", found=f"source {number}")
            each = np.array(counts, np.int64)
            drawn = Everything(each)
            if chances is not None:
                drawn = Drawn(each, chances[sample : sample + sum(counts)], (seed, number))
            self._sources.append(_Source(drawn, seed, number, shard, sample, windowed, lanes))
            shard, sample = shard + len(counts), sample + sum(counts)
        self.window_samples = window * max(max(counts, default=0) for counts in groups) if shuffle == "window" else 0

    def __reduce__(self) -> tuple[object, ...]:
        return self._made_of, ()

    def numbers(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the samples at ``positions`` of the run, same shape."""
        numbers = np.empty(len(positions), np.int64)
        for source, mask, turns in self._split_by_source(positions):
            numbers[mask] = source.samples(turns)
        return numbers

    def shards(self, start: int, stop: int, part: tuple[Fraction, Fraction] = WHOLE_BATCH) -> list[int]:
        """Return the shards that positions ``[start, stop)`` read, in the order in which they are needed.

        ``part`` is the part of each batch that is read, as fractions of the batch: start and end. With the global
        shuffle it is all shards.
        """
        found: dict[int, None] = {}
        lanes = math.floor(part[0] * self._lanes), math.ceil(part[1] * self._lanes)
        for number, source in enumerate(self._sources):
            first, end = (self._count_before(number, position) for position in (start, stop))
            if first < end:
                found |= dict.fromkeys(source.shards(first, end - 1, lanes))
        return list(found)

    @property
    def epoch(self) -> int:
        """The number of samples in an epoch of every source."""
        return sum(source.count for source in self._sources)

    def epochs(self, position: int) -> list[tuple[int, float]]:
        """Of each source of a mixture, or of all as one, the samples of an epoch and the epochs before ``position``."""
        seen = [self._count_before(number, position) for number in range(len(self._sources))]
        return [(source.count, count / source.count) for source, count in zip(self._sources, seen, strict=True)]

    def replacement(self, number: int) -> int:
        """Return the sample that replaces ``number`` if that cannot be read: the next of its source, cyclically."""
        source = next(source for source in reversed(self._sources) if number >= source.first_sample)
        return source.first_sample + (number + 1 - source.first_sample) % source.size

    def _count_before(self, number: int, position: int) -> int:
        """Count the samples of source ``number`` among the run's first ``position``."""
        period, place = divmod(position, len(self._cycle))
        return int(period * self._per_cycle[number] + np.count_nonzero(self._cycle[:place] == number))

    def _lane(self, places: NDArray[np.int64], turns: NDArray[np.int64]) -> NDArray[np.uint16]:
        """Return the lane of each of ``turns`` of the source that has these ``places`` of the cycle."""
        period, turn = np.divmod(turns, len(places))
        positions = period * len(self._cycle) + places[turn]
        return (positions % self._batch * self._lanes // self._batch).astype(np.uint16)

    def _split_by_source(
        self, positions: NDArray[np.int64]
    ) -> list[tuple[_Source, NDArray[np.bool_], NDArray[np.int64]]]:
        """Split ``positions`` by source: the source, the mask of its positions, and its turn (count so far) at each."""
        period, place = np.divmod(positions, len(self._cycle))
        sources = self._cycle[place]
        found = []
        for number, source in enumerate(self._sources):
            mask = sources == number
            found.append((source, mask, period[mask] * self._per_cycle[number] + self._before[place[mask]]))
        return found


def _largest_divisor(number: int, most: int) -> int:
    return next(divisor for divisor in range(min(number, most), 0, -1) if number % divisor == 0)


class Everything:
    """Every epoch has each sample of a source once. ``counts``: samples of each shard."""

    def __init__(self, counts: NDArray[np.int64]) -> None:
        self.shards, self.size = len(counts), int(counts.sum())
        self.count = self.size  # samples in an epoch
        self._counts = counts

    def counts(self, epoch: int) -> NDArray[np.int64]:
        """Return the number of samples that an epoch has of each shard."""
        return self._counts

    def samples(self, epoch: int, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the samples at ``places`` of an epoch before its shuffle, which are in the order of the shards."""
        return places


class Drawn(Everything):
    """An epoch has each sample with its probability ``chances``, and at most once.

    Drawn systematically (Madow 1949): the probabilities lie end to end on a line, and an epoch has the samples on which
    points at equal distance fall, from a random start. So every epoch is equally long, a place is found by bisection,
    and neighbours do not come together, as far as they can.
    """

    def __init__(self, counts: NDArray[np.int64], chances: NDArray[np.float64], key: Sequence[int]) -> None:
        super().__init__(counts)
        self._ends = np.cumsum(chances)
        total = float(self._ends[-1])
        self.count = max(1, math.floor(total * (1 + 1e-12)))
        self._step, self._key = total / self.count, tuple(key)
        self._last = int(np.flatnonzero(chances)[-1])
        self._shard_ends = np.concatenate([[0.0], self._ends])[np.cumsum(counts)]

    def counts(self, epoch: int) -> NDArray[np.int64]:
        start = self._start(epoch)
        ends = np.clip(np.ceil(self._shard_ends / self._step - start), 0, self.count).astype(np.int64)
        # The first place that does not lie before a shard's end, in the very arithmetic of samples().
        for _ in range(2):
            ends -= (ends > 0) & (((ends - 1) + start) * self._step >= self._shard_ends)
            ends += (ends < self.count) & ((ends + start) * self._step < self._shard_ends)
        ends[np.cumsum(self._counts) > self._last] = self.count
        return np.diff(ends, prepend=0)

    def samples(self, epoch: int, places: NDArray[np.int64]) -> NDArray[np.int64]:
        points = (places + self._start(epoch)) * self._step
        found: NDArray[np.int64] = np.minimum(np.searchsorted(self._ends, points, side="right"), self._last)
        return found

    def _start(self, epoch: int) -> float:
        return float(np.random.default_rng([*self._key, epoch, 3]).random())


class _Source:
    """The epochs of one source. ``lanes``: their number, and a function from the source's turns to their lanes."""

    def __init__(
        self,
        drawn: Everything,
        seed: int,
        number: int,
        first_shard: int,
        first_sample: int,
        window: int | None,
        lanes: tuple[int, Callable[[NDArray[np.int64]], NDArray[np.uint16]]],
    ) -> None:
        self._drawn, self.count, self.size = drawn, drawn.count, drawn.size
        self.first_shard, self.first_sample = first_shard, first_sample
        self._seed, self._number, self._window = seed, number, window
        self._lanes, self._lane = lanes
        # A batch may straddle two epochs, and threads work on two or three batches at a time.
        self._order = lru_cache(maxsize=2)(partial(epoch_order, seed, count=self.count, source=number))
        self._counts = lru_cache(maxsize=2)(drawn.counts)
        self._layout = lru_cache(maxsize=2)(self._epoch_layout)
        self._shuffled = lru_cache(maxsize=4)(self._shuffle)
        self._stretches = lru_cache(maxsize=16)(self._stretch)

    def samples(self, turns: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the samples at the source's ``turns``, counted over all epochs."""
        epochs, places = np.divmod(turns, self.count)
        numbers = np.empty_like(turns)
        for epoch in np.unique(epochs).tolist():
            mask = epochs == epoch
            numbers[mask] = self._drawn.samples(epoch, self._epoch(epoch, places[mask]))
        return numbers + self.first_sample

    def shards(self, first: int, last: int, lanes: tuple[int, int]) -> list[int]:
        """Return the shards that a range of lanes reads in all windows that turns ``first`` to ``last`` touch."""
        if self._window is None:
            return [self.first_shard + shard for shard in range(self._drawn.shards)]
        found: list[int] = []
        for epoch in range(first // self.count, last // self.count + 1):
            _, begins = self._layout(epoch)
            low, high = max(0, first - epoch * self.count), min(self.count - 1, last - epoch * self.count)
            one, two = np.searchsorted(begins, [low, high], side="right") - 1
            for window in range(one, two + 1):
                found += self._read_by(epoch, window, lanes)
        return [self.first_shard + shard for shard in found]

    def _read_by(self, epoch: int, window: int, lanes: tuple[int, int]) -> list[int]:
        shards = self._window_shards(epoch, window)
        low, high = (int(self._stretches(epoch, window)[lane]) for lane in lanes)
        one, two = np.searchsorted(np.cumsum(self._counts(epoch)[shards]), [low, high - 1], side="right")
        return shards[one : two + 1].tolist() if low < high else []

    def _epoch(self, epoch: int, places: NDArray[np.int64]) -> NDArray[np.int64]:
        if self._window is None:
            if self.count <= LARGEST_PERMUTATION:
                return self._order(epoch)[places]
            return permute_at(places, self.count, (self._seed, epoch, self._number))
        _, begins = self._layout(epoch)
        windows = np.searchsorted(begins, places, side="right") - 1
        numbers = np.empty_like(places)
        for window in np.unique(windows).tolist():
            mask = windows == window
            numbers[mask] = self._shuffled(epoch, window)[places[mask] - begins[window]]
        return numbers

    def _epoch_layout(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the epoch's order of shards, and the place in the epoch at which each window begins."""
        shards = np.random.default_rng([self._seed, epoch, self._number, 1]).permutation(self._drawn.shards)
        ends = np.cumsum(self._counts(epoch)[shards])
        return shards, np.concatenate([[0], ends[self._window - 1 : -1 : self._window]])  # type: ignore[operator]

    def _window_shards(self, epoch: int, window: int) -> NDArray[np.int64]:
        width = self._window or 1
        return self._layout(epoch)[0][window * width : (window + 1) * width]

    def _lanes_of(self, epoch: int, window: int) -> NDArray[np.uint16]:
        """Return the lane of each place of a window."""
        first = epoch * self.count + int(self._layout(epoch)[1][window])
        return self._lane(np.arange(first, first + int(self._counts(epoch)[self._window_shards(epoch, window)].sum())))

    def _stretch(self, epoch: int, window: int) -> NDArray[np.int64]:
        """Return where in a window's samples each lane's stretch begins, and where the last one ends."""
        return np.concatenate([[0], np.cumsum(np.bincount(self._lanes_of(epoch, window), minlength=self._lanes))])

    def _shuffle(self, epoch: int, window: int) -> NDArray[np.int64]:
        """Return a window's samples in the order they are seen: each lane's stretch shuffled over its places."""
        shards = self._window_shards(epoch, window)
        starts = np.concatenate([[0], np.cumsum(self._counts(epoch))])
        samples = np.concatenate([np.arange(starts[shard], starts[shard + 1]) for shard in shards])
        places = np.random.default_rng([self._seed, epoch, self._number, 2, window]).permutation(len(samples))
        places = places[np.argsort(self._lanes_of(epoch, window)[places], kind="stable")]
        shuffled = np.empty_like(samples)
        shuffled[places] = samples
        return shuffled
