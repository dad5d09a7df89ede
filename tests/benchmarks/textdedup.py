"""Textdedup of many captions: time and memory at two sizes, beside datasketch.

    python -m venv PEER && PEER/bin/pip install datasketch==2.0.0
    DATASKETCH_PYTHON=PEER/bin/python python -m tests.benchmarks.textdedup [--rows 100000 1000000] [--folder FOLDER]

Captions of 4 to 16 words, drawn as often as words are (by rank, Zipf); a fifth are others' again, a fifth others with a
word changed. Time and memory are those of all processes, as tests/benchmarks/dedup.py tells them; the whole stage is
measured, with reading and writing. The peer does the same to the smaller set in one process's memory: MinHashLSH with
as many bands of as many numbers, and each pair compared by its shingles. It runs once beside each set.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

PER_SHARD, VOCABULARY = 10_000, 50_000


@lru_cache(2)
def written(shard: int) -> list[str]:
    """The captions that are written in a shard, copies left out."""
    rng = np.random.default_rng([0, shard])
    sizes = rng.integers(4, 17, PER_SHARD)
    words = (rng.zipf(1.2, int(sizes.sum())) - 1) % VOCABULARY
    return [" ".join(f"w{word}" for word in part) for part in np.split(words, np.cumsum(sizes)[:-1])]


def captions(shard: int) -> list[str]:
    """The captions of a shard; copies are of those written in the shard before."""
    rng = np.random.default_rng([1, shard])
    kinds, chosen = rng.random(PER_SHARD), rng.integers(0, PER_SHARD, PER_SHARD)
    own, others = list(written(shard)), written(max(shard - 1, 0))
    for place in np.flatnonzero(kinds < 0.4).tolist():
        copy = others[chosen[place]].split()
        if kinds[place] >= 0.2:
            copy[int(chosen[place]) % len(copy)] = f"w{rng.integers(VOCABULARY)}"
        own[place] = " ".join(copy)
    return own


def generate(folder: Path, rows: int) -> Mapping[str, Any]:
    """Write a selection, and the shards of images that it points to, which hold none."""
    import pyarrow as pa

    from infra.formats.shards import shard_name
    from infra.run.context import Context
    from infra.run.manifest import Artifact

    contexts = {name: Context(folder / name) for name in ("images", "selection")}
    for shard in range(rows // PER_SHARD):
        number = range(shard * PER_SHARD, (shard + 1) * PER_SHARD)
        columns = {
            "uid": pa.array([f"{row:032x}" for row in number]),
            "key": pa.array([f"{row:09d}" for row in number]),
            "shard": pa.array(np.full(PER_SHARD, shard, np.int32)),
            "caption": pa.array(captions(shard)),
            **dict.fromkeys(("original_width", "original_height"), pa.array(np.full(PER_SHARD, 256, np.int32))),
        }
        name = shard_name(shard)
        contexts["selection"].output.write_table(f"data/kept-{name}.parquet", pa.table(columns))
        contexts["images"].output.write(f"data/{name}.tar", bytes(10240))
        contexts["images"].output.write_table(f"data/{name}.parquet", pa.table(columns).slice(0, 0))
    return {name: Artifact(context.store, context.finish()) for name, context in contexts.items()}


def measure(theirs: list[float], smaller: int, folder: Path, rows: int) -> float:
    """Print and return the CPU seconds that textdedup of so many rows takes; time the peer on the smaller set."""
    from infra.run.context import Context
    from pipelines.curate import textdedup
    from tests.benchmarks.dedup import timed

    inputs = generate(folder, rows)
    print(f"{rows:,} rows are written", file=sys.stderr, flush=True)

    def stage() -> tuple[int, Mapping[str, Any]]:
        manifest = textdedup.run(textdedup.Config(), inputs, Context(folder / "textdedup"))
        return manifest.funnel.kept if manifest.funnel else 0, manifest.facts

    seconds = timed(rows, stage)
    if python := os.environ.get("DATASKETCH_PYTHON"):
        command = [python, __file__, "--peer", str(smaller)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        took, pairs = json.loads(done.stdout.splitlines()[-1])
        theirs.append(took / smaller)
        print(f"datasketch: {smaller:,} rows, {took:.1f} CPU s, {took / smaller * 1e6:.1f} us a row, {pairs:,} pairs")
    return seconds / rows


def peer(rows: int) -> None:
    """Print the CPU seconds that datasketch takes, and the pairs it finds, in its own environment."""
    from datasketch import MinHash, MinHashLSH

    texts = list(dict.fromkeys(text for shard in range(rows // PER_SHARD) for text in captions(shard)))
    started, pairs = time.process_time(), 0
    index = MinHashLSH(num_perm=68, params=(17, 4))
    known: list[set[bytes]] = []
    blank = MinHash(num_perm=68)
    for number, text in enumerate(texts):
        words = text.split()
        shingles = {" ".join(pair).encode() for pair in pairwise(words)}
        signature = blank.copy()
        signature.update_batch(list(shingles))
        for other in index.query(signature):
            pairs += len(shingles & known[other]) >= 0.7 * len(shingles | known[other])
        index.insert(number, signature, check_duplication=False)
        known.append(shingles)
    print(json.dumps([time.process_time() - started, pairs]))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, nargs=2, default=(100_000, 1_000_000))
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--peer", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peer:
        peer(options.peer)
        return
    from tests.benchmarks.dedup import at_two_sizes

    theirs: list[float] = []
    ours: list[float] = []

    def both(folder: Path, rows: int) -> float:
        ours.append(measure(theirs, options.rows[0], folder, rows))
        return ours[-1] * rows

    at_two_sizes("textdedup", options.rows, options.folder, both)
    if theirs:
        print(f"{mean(theirs) / ours[-1]:.1f} x datasketch, a row of ours at {options.rows[1]:,}")


if __name__ == "__main__":
    main()
