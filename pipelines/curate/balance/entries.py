"""Entries: the words and phrases to balance by, given or derived from the captions."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

from infra.errors import DataError
from infra.run.manifest import Artifact
from infra.store import Store
from pipelines.curate.balance.config import Config
from pipelines.curate.words import fold, is_unspaced, tokens
from pipelines.tables import read_table

__all__ = ["entries_of", "list_entries", "read_entries"]


def list_entries(
    config: Config, metadata: Artifact | None, store: Store, shards: Sequence[tuple[int, str]]
) -> list[str]:
    """The entries, distinct and sorted, so that equal lists give equal results. Raises DataError if there are none.

    From ``config.metadata`` or the artifact ``metadata``; else from the captions of the selection in ``store``.
    """
    given = read_entries(metadata) if metadata else config.metadata
    if given is None:
        captions = (text for _, path in shards for text in read_table(store, path, ["caption"])["caption"].to_pylist())
        return entries_of(captions, config.min_count, config.min_pmi)
    entries = sorted({" ".join(line.split()) for line in given} - {""})
    if not entries:
        raise DataError("the metadata holds no entry", expected="a word or phrase a line", found=repr(given)[:200])
    return entries


def read_entries(metadata: Artifact) -> list[str]:
    """The lines of a text file, or the items of a JSON list such as MetaCLIP's."""
    files = metadata.files("data/")
    if len(files) != 1:
        found = ", ".join(file.path for file in files[:5]) or "no files"
        raise DataError("metadata must be one file", expected="*.txt with an entry a line, or *.json", found=found)
    text = metadata.read(files[0].path).decode("utf-8")
    if not files[0].path.endswith(".json"):
        return text.splitlines()
    try:
        entries = json.loads(text)
    except ValueError as error:
        raise DataError(f"metadata {files[0].path} is not JSON", found=str(error)) from error
    if not (isinstance(entries, list) and all(isinstance(entry, str) for entry in entries)):
        raise DataError(f"metadata {files[0].path} is not a list of entries", expected='["red", "New York", ...]')
    return entries


def entries_of(captions: Iterable[str | None], min_count: int, min_pmi: float) -> list[str]:
    """Words that at least ``min_count`` captions hold, and pairs of neighbouring words that belong together.

    Pairs count by their pointwise mutual information, log2(p(a b) / (p(a) p(b))), over the captions' words.
    """
    words: Counter[str] = Counter()
    pairs: Counter[tuple[str, str]] = Counter()
    holding: Counter[str | tuple[str, str]] = Counter()  # captions; the other two count occurrences
    for caption in captions:
        found = tokens(fold(caption or ""))
        single = [token for token in found if _is_word(token)]
        double = [pair for pair in pairwise(found) if all(map(_is_word, pair))]
        words.update(single)
        pairs.update(double)
        holding.update({*single, *double})
    total, total_pairs = words.total(), pairs.total()

    def information(pair: tuple[str, str]) -> float:
        return math.log2(pairs[pair] * total * total / (total_pairs * words[pair[0]] * words[pair[1]]))

    frequent = [word for word in words if holding[word] >= min_count]
    phrases = [_phrase(*pair) for pair in pairs if holding[pair] >= min_count and information(pair) >= min_pmi]
    return sorted({*frequent, *phrases})


def _is_word(token: str) -> bool:
    return any(map(str.isalpha, token))


def _phrase(one: str, other: str) -> str:
    """Two words as they stand in a caption, together where their script puts no space between words."""
    return one + other if is_unspaced(one) and is_unspaced(other) else f"{one} {other}"
