"""Entries: which words and phrases a set of captions is to be balanced by, from texts in any language.

MetaCLIP's metadata (Xu et al. 2023) are the words of Wikipedia above a count, pairs of words that belong together,
titles, and WordNet's names. Here words are counted in any texts: a corpus that was adopted, or the captions themselves.
Lists of titles and names are added as they are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from infra.run.context import Context
from infra.run.manifest import Artifact, Manifest
from pipelines.curate.entries.config import Config

__all__ = ["run"]


def run(config: Config, inputs: Mapping[str, Artifact], context: Context) -> Manifest:
    """Texts -> ``data/entries.json``: a list, or an object of lists by language. ``data/entries.parquet``: the counts.

    The driver holds the entries, no texts.
    """
    from pipelines.curate.entries import corpus, work

    config.check_inputs(inputs)
    lots, total = corpus.lots_of(config, inputs)
    counted, records = work.count_entries(config, lots, total, context)
    entries = work.with_phrases(counted, config.given("phrases", inputs), config.by_language)
    found = entries if config.by_language else next(iter(entries.values()), [])
    context.output.write(work.ENTRIES, json.dumps(found, ensure_ascii=False, indent=0).encode())
    facts = {
        "entries": sum(map(len, entries.values())),
        "words": counted["pmi"].null_count,
        "pairs": counted.num_rows - counted["pmi"].null_count,
        "of_captions": "selection" in inputs,
    }
    if config.by_language:
        facts["by_language"] = {language: len(own) for language, own in sorted(entries.items())}
    return context.finish(records, facts=facts)
