"""A trie of words that all places of many texts walk at once, in numpy.

Aho and Corasick's automaton reads characters; here a step is a word, and one step of every place is a lookup of as many
keys in one table. With half a million entries that takes a fraction of the automaton's time, most of which goes into
cache misses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["BREAK", "Trie"]

BREAK = -2
"""The number that stands between two texts."""

Array = NDArray[Any]


class Trie:
    """Finds sequences of words, numbered in the order given; each must have a word, and none be given twice."""

    def __init__(self, sequences: Sequence[Sequence[str]]) -> None:
        self._ids: dict[str, int] = {}
        children: dict[int, int] = {}
        ends = [-1]  # of each node, the sequence that ends there; node 0 is the root
        width = len({word for sequence in sequences for word in sequence})
        for number, sequence in enumerate(sequences):
            node = 0
            for word in sequence:
                key = node * width + self._ids.setdefault(word, len(self._ids))
                node = children.setdefault(key, len(ends))
                if node == len(ends):
                    ends.append(-1)
            ends[node] = number
        self._width, self._ends = width, np.array(ends)
        self._children = _Table(
            np.fromiter(children, np.int64, len(children)), np.array([*children.values()], np.int64)
        )

    def ids(self, words: Sequence[str]) -> list[int]:
        """The number of each word, -1 for one that no sequence has."""
        known = self._ids.get
        return [known(word, -1) for word in words]

    def find(self, ids: Array) -> tuple[Array, Array]:
        """All places at which a sequence begins in ``ids``, the words of texts with :data:`BREAK` between them.

        Returns the number of the text and the sequence found: (m,) each, in no order.
        """
        ids = np.append(ids, BREAK)
        texts = np.cumsum(ids == BREAK)
        places = np.flatnonzero(ids >= 0)
        nodes = np.zeros(len(places), np.int64)
        found = [(np.zeros(0, np.int64), np.zeros(0, np.int64))]
        while len(places):
            children = self._children.find(nodes * self._width + ids[places])
            places, nodes = places[children >= 0], children[children >= 0]
            sequences = self._ends[nodes]
            found.append((texts[places[sequences >= 0]], sequences[sequences >= 0]))
            places = places + 1
            places, nodes = places[ids[places] >= 0], nodes[ids[places] >= 0]
        rows, which = (np.concatenate(part) for part in zip(*found, strict=True))
        return rows, which


class _Table:
    """A hash table of non-negative int64 keys with open addressing, looked up by arrays."""

    def __init__(self, keys: Array, values: Array) -> None:
        self._bits = max(4, (2 * len(keys)).bit_length())
        self._keys, self._values = (np.full(1 << self._bits, -1, np.int64) for _ in range(2))
        slots = self._slots(keys)
        while len(keys):
            free = self._keys[slots] == -1
            self._keys[slots[free]] = keys[free]  # of several for one slot the last stays
            placed = self._keys[slots] == keys
            self._values[slots[placed]] = values[placed]
            keys, values, slots = keys[~placed], values[~placed], self._next(slots[~placed])

    def find(self, keys: Array) -> Array:
        """The value of each key, -1 for one that is not there."""
        result, slots, left = np.full(len(keys), -1, np.int64), self._slots(keys), np.arange(len(keys))
        while len(left):
            there = self._keys[slots]
            hit = there == keys[left]
            result[left[hit]] = self._values[slots[hit]]
            on = ~hit & (there != -1)
            left, slots = left[on], self._next(slots[on])
        return result

    def _slots(self, keys: Array) -> Array:
        """Fibonacci hashing (Knuth): the high bits of a product with 2^64 over the golden ratio."""
        mixed: Array = (keys.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(64 - self._bits)
        return mixed.astype(np.int64)

    def _next(self, slots: Array) -> Array:
        return (slots + 1) & (len(self._keys) - 1)
