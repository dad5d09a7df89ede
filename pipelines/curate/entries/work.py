"""The steps of counting entries over the exchange: count, add up, choose."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from zlib import crc32

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from infra.exchange import UP, Exchange, Task, parts_of
from infra.run.context import Context, Output
from infra.run.manifest import Artifact
from infra.run.pieces import Records
from pipelines.curate.balance.entries import read_lists
from pipelines.curate.captions import ALL
from pipelines.curate.entries.config import Config
from pipelines.curate.entries.corpus import Lot, texts_of
from pipelines.curate.entries.words import COUNTS, KEYS, WordCounter, chosen, summed
from pipelines.tables import read_table

__all__ = ["ENTRIES", "count_entries", "with_phrases"]

ENTRIES = "data/entries.json"
COUNTED = "data/entries.parquet"

_SMALL = 2_000  # texts that need no cluster
_TEXTS = 200_000  # whose words and pairs are a part, some millions of them


def count_entries(
    config: Config, lots: Sequence[Lot], total: int, context: Context, path: str = COUNTED
) -> tuple[pa.Table, Records]:
    """Count the words of ``lots``, of ``total`` texts, and choose the entries.

    Returns a table of ``language``, ``entry``, ``times``, ``texts`` and ``pmi``, in order, and records of the work. The
    table is at ``path``, which is a file of the artifact if it is below ``data/``.
    """
    exchange = Exchange(context, config.limits, here=total <= _SMALL)
    parts = parts_of(total, _TEXTS)
    counted = exchange.step("texts", lots, partial(_count, config, parts), sends={"words": parts})
    added = exchange.step(
        "words", range(parts), partial(_add, config.min_count), receives=["words"], sends={"frequent": 1}
    )
    totals: dict[str, Counter[str]] = {"words": Counter(), "pairs": Counter()}
    for record in added:
        for kind, counts in totals.items():
            counts.update(record.facts[kind])
    plain = {kind: dict(counts) for kind, counts in totals.items()}
    choice = exchange.step("entries", [plain], partial(_choose, config.min_pmi, path), receives=["frequent"])
    exchange.close()
    return read_table(context.store, path), counted.plus(choice)


def _count(config: Config, parts: int, task: Task) -> None:
    """Stream ``words``: the words and pairs of a lot's texts (:data:`COUNTS`), each to its part."""
    counter = WordCounter()
    for language, captions in texts_of(config, task):
        counter.add(language, captions)
    counts = counter.table()
    task.send("words", counts, _hashes(counts) % parts)


def _hashes(counts: pa.Table) -> NDArray[np.int64]:
    keys = pc.binary_join_element_wise(*(counts[name] for name in KEYS), "\n").to_pylist()
    return np.fromiter((crc32(key.encode()) for key in keys), np.int64, len(keys))


def _add(min_count: int, task: Task) -> None:
    """Stream ``frequent``: the words and pairs of a part that enough texts hold. Facts: occurrences of all, of each
    language."""
    counts = summed(task.receive("words"))
    alone = pc.equal(counts["second"], "")
    for kind, own in (("words", counts.filter(alone)), ("pairs", counts.filter(pc.invert(alone)))):
        sums = own.group_by("language").aggregate([("times", "sum")]).to_pydict()
        task.facts[kind] = dict(sorted(zip(sums["language"], sums["times_sum"], strict=True)))
    frequent = counts.filter(pc.greater_equal(counts["texts"], min_count))
    task.send("frequent", frequent, np.zeros(frequent.num_rows, np.int64))


def _choose(min_pmi: float, path: str, task: Task) -> None:
    """Write the entries of each language. ``spec``: occurrences of its words and pairs."""
    counts = task.receive("frequent", [(name, UP) for name in KEYS])
    tables = []
    for language in sorted(task.spec["words"]):
        own = counts.filter(pc.equal(counts["language"], language))
        found = chosen(own, task.spec["words"][language], task.spec["pairs"].get(language, 0), min_pmi)
        tables.append(found.add_column(0, "language", pa.array([language] * found.num_rows, pa.string())))
    empty = chosen(COUNTS.empty_table(), 0, 0, 0.0)
    nothing = empty.add_column(0, "language", pa.array([], pa.string()))
    output = task.output if path.startswith("data/") else Output(task.output.store)
    output.write_table(path, pa.concat_tables([nothing, *tables]))


def with_phrases(counted: pa.Table, lists: Sequence[Artifact], by_language: bool) -> Mapping[str, Sequence[str]]:
    """The entries of each language, distinct and in order, with those of ``lists``.

    A list that is of no language is of all that were counted.
    """
    entries: dict[str, set[str]] = {}
    for language, entry in zip(counted["language"].to_pylist(), counted["entry"].to_pylist(), strict=True):
        entries.setdefault(language, set()).add(entry)
    for artifact in lists:
        for language, phrases in read_lists(artifact, by_language).items():
            of = [*entries] if by_language and language == ALL and entries else [language]
            for one in of:
                entries.setdefault(one, set()).update(" ".join(phrase.split()) for phrase in phrases)
    return {language: sorted(found - {""}) for language, found in sorted(entries.items())}
