"""Matching captions against half a million entries: ours beside Aho and Corasick's automaton, a caption at a time.

Captions and entries are drawn from one vocabulary of made-up words with Zipf's frequencies; both sides do the same work
in turns, are timed by their CPU, and have to find the same.

    python -m tests.benchmarks.balance [ENTRIES [CAPTIONS]]
"""

from __future__ import annotations

import re
import sys
import time

import numpy as np
from ahocorasick_rs import AhoCorasick

from pipelines.curate.balance.matching import Matcher

TOKEN = re.compile(r"\w+|[^\w\s]", re.ASCII)


def made_up(entries: int, captions: int) -> tuple[list[str], list[str]]:
    """Entries, words and pairs of words, and captions of nine words."""
    random = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = sorted({"".join(random.choice(letters, size)) for size in random.integers(2, 10, entries // 3)})
    random.shuffle(words)
    weight = 1 / np.arange(1, len(words) + 1)
    often = random.choice(len(words), (captions, 9), p=weight / weight.sum())
    pairs = random.choice(len(words), (2 * entries, 2), p=weight / weight.sum())
    phrases = list(dict.fromkeys(f"{words[one]} {words[other]}" for one, other in pairs.tolist()))
    return (words[: entries // 5] + phrases)[:entries], [
        " ".join([words[word] for word in row]) for row in often.tolist()
    ]


def main(entries: int = 500_000, captions: int = 60_000) -> None:
    known, texts = made_up(entries, captions)
    ours, theirs = Matcher(known), AhoCorasick([f" {entry} " for entry in known])

    def one_by_one(text: str) -> list[int]:
        spaced = f" {' '.join(TOKEN.findall(text))} "
        return sorted({entry for entry, _, _ in theirs.find_matches_as_indexes(spaced, overlapping=True)})

    spent = {"clipline": 0.0, "ahocorasick_rs": 0.0}
    step = 20_000
    for start in range(0, len(texts), step):
        part = texts[start : start + step]
        began = time.process_time()
        found = ours.match(part)
        between = time.process_time()
        expected = [one_by_one(text) for text in part]
        spent["clipline"] += between - began
        spent["ahocorasick_rs"] += time.process_time() - between
        assert found.to_pylist() == expected
    print(f"{len(known):,} entries, {len(texts):,} captions of {np.mean([len(text) for text in texts]):.0f} characters")
    for name, seconds in spent.items():
        print(f"{name:<16}{len(texts) / seconds:>12,.0f} captions/s of a core")
    print(f"ratio {spent['ahocorasick_rs'] / spent['clipline']:.2f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
