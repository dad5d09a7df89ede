"""Entries: the words and phrases to balance by, given or derived from the captions."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import PurePosixPath
from typing import Any, TypeGuard

import pyarrow as pa
import pyarrow.compute as pc

from infra.errors import DataError
from infra.formats.shards import shard_name
from infra.run.context import ShardOutput
from infra.run.manifest import Artifact, ShardRecord
from infra.store import Store
from pipelines.curate.balance.config import Config
from pipelines.curate.balance.counting import SCRATCH
from pipelines.curate.balance.matching import Entries
from pipelines.curate.captions import ALL, read_texts
from pipelines.curate.words import fold, is_unspaced, tokens

__all__ = ["count_shard", "count_words", "entries_of", "given_entries", "read_entries"]


def given_entries(config: Config, metadata: Artifact | None) -> Entries | None:
    """The user's entries, distinct and sorted, so that equal lists give equal results; None if there are none given.

    From ``config.metadata`` or the artifact ``metadata``. Raises DataError for a list without an entry.
    """
    if metadata is not None:
        given = _read_by_language(metadata) if config.by_language else {ALL: read_entries(metadata)}
    elif config.metadata is not None:
        given = {ALL: list(config.metadata)}
    else:
        return None
    entries = {language: sorted({" ".join(line.split()) for line in lines} - {""}) for language, lines in given.items()}
    if not any(entries.values()):
        raise DataError("the metadata holds no entry", expected="a word or phrase a line", found=repr(given)[:200])
    return entries


def read_entries(metadata: Artifact) -> list[str]:
    """The lines of a text file, or the items of a JSON list such as MetaCLIP's."""
    files = metadata.files("data/")
    if len(files) != 1:
        found = ", ".join(file.path for file in files[:5]) or "no files"
        raise DataError("metadata must be one file", expected="*.txt with an entry a line, or *.json", found=found)
    entries = _read(metadata, files[0].path)
    if not _is_list(entries):
        raise DataError(f"metadata {files[0].path} is not a list of entries", expected='["red", "New York", ...]')
    return entries


def _read_by_language(metadata: Artifact) -> dict[str, list[str]]:
    """The entries of files named by their language, de.txt, or of one JSON object; ALL's of any one other file."""
    files = [file.path for file in metadata.files("data/")]
    if len(files) == 1:
        found = _read(metadata, files[0])
        by_language = found if isinstance(found, dict) else {ALL: found}
    else:
        by_language = {PurePosixPath(path).stem: _read(metadata, path) for path in files}
    if wrong := [language for language, entries in by_language.items() if not _is_list(entries)]:
        raise DataError(
            f"the metadata of {wrong[0] or files[0]!r} is not a list of entries",
            expected='a list a file, de.txt, en.txt, ..., or {"de": ["rot", ...], "en": ["red", "New York", ...]}',
        )
    return by_language


def _read(metadata: Artifact, path: str) -> Any:  # noqa: ANN401 - what a JSON file may hold
    try:
        text = metadata.read(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"metadata {path} is not text", expected="UTF-8", found=str(error)) from error
    if not path.endswith(".json"):
        return text.splitlines()
    try:
        return json.loads(text)
    except ValueError as error:
        raise DataError(f"metadata {path} is not JSON", found=str(error)) from error


def _is_list(entries: Any) -> TypeGuard[list[str]]:  # noqa: ANN401
    return isinstance(entries, list) and all(isinstance(entry, str) for entry in entries)


def count_shard(selection: Store, by_language: bool, spec: tuple[int, str], output: ShardOutput) -> ShardRecord:
    """Write :func:`count_words` of a shard's captions, of each language by itself."""
    shard, path = spec
    found = read_texts(selection, path, by_language)
    of_language: dict[str, dict[int, list[str | None]]] = {}
    for row, text, language in zip(found.rows.tolist(), found.texts, found.languages, strict=True):
        of_language.setdefault(language, {}).setdefault(row, []).append(text)
    tables = [_labelled(count_words(rows.values()), language) for language, rows in sorted(of_language.items())]
    counts = pa.concat_tables([_labelled(count_words([]), ALL), *tables])
    output.write_table(f"{SCRATCH}/words-{shard_name(shard)}.parquet", counts)
    return output.commit()


def _labelled(counts: pa.Table, language: str) -> pa.Table:
    return counts.add_column(0, "language", pa.array([language] * counts.num_rows, pa.string()))


def count_words(rows: Iterable[Iterable[str | None]]) -> pa.Table:
    """Words, and pairs of neighbouring words, of the captions of rows: how often they occur, how many rows hold them.

    Columns ``first`` and ``second``, which is empty for words alone, ``times`` and ``captions``.
    """
    times: Counter[tuple[str, str]] = Counter()
    holding: Counter[tuple[str, str]] = Counter()
    for captions in rows:
        counted: list[tuple[str, str]] = []
        for caption in captions:
            found = [token if _is_word(token) else "" for token in tokens(fold(caption or ""))]
            counted += [(token, "") for token in found if token]
            counted += [(one, other) for one, other in pairwise(found) if one and other]
        times.update(counted)
        holding.update(set(counted))
    columns = {
        "first": pa.array([one for one, _ in times], pa.string()),
        "second": pa.array([other for _, other in times], pa.string()),
        "times": pa.array(times.values(), pa.int64()),
        "captions": pa.array([holding[pair] for pair in times], pa.int64()),
    }
    return pa.table(columns)


def entries_of(counts: pa.Table, min_count: int, min_pmi: float) -> list[str]:
    """Words that at least ``min_count`` captions hold, and pairs of neighbouring words that belong together.

    Pairs count by their pointwise mutual information, log2(p(a b) / (p(a) p(b))). ``counts``: see :func:`count_words`.
    """
    if not counts.num_rows:
        return []
    alone = pc.equal(counts["second"], "")
    total, total_pairs = (pc.sum(counts["times"].filter(which)).as_py() for which in (alone, pc.invert(alone)))
    frequent = counts.filter(pc.greater_equal(counts["captions"], min_count)).to_pylist()
    words = {row["first"]: row["times"] for row in frequent if not row["second"]}
    entries = set(words)
    for row in frequent:
        one, other = row["first"], row["second"]
        if other:
            information = math.log2(row["times"] * total * total / (total_pairs * words[one] * words[other]))
            if information >= min_pmi:
                entries.add(_phrase(one, other))
    return sorted(entries)


def _is_word(token: str) -> bool:
    return any(map(str.isalpha, token))


def _phrase(one: str, other: str) -> str:
    """Two words as they stand in a caption, together where their script puts no space between words."""
    return one + other if is_unspaced(one) and is_unspaced(other) else f"{one} {other}"
