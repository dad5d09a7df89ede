"""SemDeDup of many rows: time and memory at two sizes, whose vectors are generated.

    python -m tests.benchmarks.semdedup [--rows 100000 1000000] [--width 512] [--folder FOLDER]

Vectors lie about centres, one for every 500 rows, and a fifth of them are near copies of others. Time and memory are
those of all processes, as tests/benchmarks/dedup.py tells them; the whole stage is measured, galleries included.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from infra.formats.shards import shard_name
from infra.formats.vectors import write_vectors
from infra.run.context import Context
from infra.run.manifest import Artifact
from pipelines.curate import semdedup
from tests.benchmarks.dedup import PER_SHARD, at_two_sizes, timed

EMPTY_TAR = bytes(10240)


def generate(folder: Path, rows: int, width: int) -> dict[str, Artifact]:
    """Write a selection, its embeddings, and the shards of images that it points to, which hold none."""
    contexts = {name: Context(folder / name) for name in ("images", "selection", "embeddings")}
    centres = np.random.default_rng(0).normal(size=(max(rows // 500, 1), width)).astype(np.float32)
    for shard in range(rows // PER_SHARD):
        rng, name = np.random.default_rng([1, shard]), shard_name(shard)
        number = range(shard * PER_SHARD, (shard + 1) * PER_SHARD)
        own = centres[rng.integers(len(centres), size=PER_SHARD)]
        vectors = own + rng.normal(size=own.shape).astype(np.float32)
        copies = rng.choice(PER_SHARD, PER_SHARD // 5, replace=False)
        noise = rng.normal(size=(len(copies), width)) * rng.uniform(0, 0.4, size=(len(copies), 1))
        vectors[copies] = vectors[rng.integers(PER_SHARD, size=len(copies))] + noise
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)

        uid = pa.array([f"{row:032x}" for row in number])
        key = pa.array([f"{row:09d}" for row in number])
        columns = {"uid": uid, "key": key, "shard": pa.array(np.full(PER_SHARD, shard, np.int32)), "caption": key}
        sides = dict.fromkeys(("original_width", "original_height"), pa.array(np.full(PER_SHARD, 256, np.int32)))
        contexts["selection"].output.write_table(f"data/kept-{name}.parquet", pa.table({**columns, **sides}))
        captions = pa.array(np.zeros(PER_SHARD, np.int32))
        known = pa.table({"uid": uid, "captions": captions})
        write_vectors(contexts["embeddings"].output, name, known, vectors, vectors[:0], "clip")
        contexts["images"].output.write(f"data/{name}.tar", EMPTY_TAR)
        contexts["images"].output.write_table(f"data/{name}.parquet", pa.table(columns).slice(0, 0))
    return {name: Artifact(context.store, context.finish()) for name, context in contexts.items()}


def measure(width: int, folder: Path, rows: int) -> float:
    """Print and return the CPU seconds that semdedup of so many rows takes."""
    inputs = generate(folder, rows, width)
    print(f"{rows:,} rows are written", file=sys.stderr, flush=True)

    def stage() -> tuple[int, Mapping[str, Any]]:
        manifest = semdedup.run(semdedup.Config(epsilon=0.2), inputs, Context(folder / "semdedup"))
        return manifest.funnel.kept if manifest.funnel else 0, manifest.facts

    return timed(rows, stage)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, nargs=2, default=(100_000, 1_000_000))
    parser.add_argument("--width", type=int, default=512, help="of the vectors")
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    at_two_sizes("semdedup", options.rows, options.folder, partial(measure, options.width))


if __name__ == "__main__":
    main()
