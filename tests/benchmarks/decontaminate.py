"""Decontamination of many rows: time and memory at two sizes, whose signatures are generated.

    python -m tests.benchmarks.decontaminate [--rows 100000 1000000] [--tests 50000] [--folder FOLDER]

The rows are those of tests/benchmarks/dedup.py with the keys of their crops, the test images as many as ImageNet has,
and none of them is a row's. Signatures of dedup and of the test images lie there, as the steps before would have left
them; what is measured is the search. Pictures of near keys that differ are not among these: of real ones each takes
some 2.4 ms more.
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

from infra.cluster import Limits, run_batches
from infra.formats.shards import shard_name
from infra.run.context import Context
from infra.run.manifest import Artifact
from pipelines.curate.decontaminate import Config, index, work
from pipelines.curate.dedup.thumbnails import thumbnail
from tests.benchmarks.dedup import PER_SHARD, at_two_sizes, generate, generated_keys, timed

BATCH = 2  # shards of a task, as the stage has of this size


def write_tests(context: Context, count: int) -> None:
    """Write the index of ``count`` test images."""
    rng = np.random.default_rng(1)
    several = [np.concatenate(generated_keys(rng)) for _ in range(64)]
    turned = rng.integers(0, 2**64, count, dtype=np.uint64)
    keys = [several[number % 64] ^ bits for number, bits in enumerate(turned)]
    blue = np.full((16, 16, 3), (255, 0, 0), np.uint8)  # the rows are grey
    shown = thumbnail(blue, (0, 0, 16, 16))
    names = [f"{number:06d}" for number in range(count)]
    table = pa.table({"key": names, "keys": keys, "thumbnail": pa.array([shown] * count, pa.large_binary())})
    context.output.write_table(f"{index.FOLDER}/test-00000.parquet", table)


def measure(tests: int, folder: Path, rows: int) -> float:
    """Print and return the CPU seconds that the search for so many rows takes."""
    contexts = {name: Context(folder / name) for name in ("images", "selection", "signatures")}
    shards = generate(contexts["selection"].output, contexts["signatures"].output, rows, crops=True)
    inputs = {name: Artifact(context.store, context.finish()) for name, context in contexts.items()}
    context = Context(folder / "decontaminate")
    write_tests(context, tests)
    print(f"{rows:,} rows are written", file=sys.stderr, flush=True)

    def stage() -> tuple[int, Mapping[str, Any]]:
        specs = [(shard_name(shard), (shard, path)) for shard, path, _ in shards]
        look = partial(work.look_through, Config(), inputs, context.store, range(1))
        found = run_batches(context, specs, look, Limits(), size=BATCH)
        hashed = sum(record.facts["hashed"] for record in found)
        return sum(record.funnel.kept for record in found if record.funnel), {"hashed": hashed}

    return timed(rows, stage)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, nargs=2, default=(100_000, 1_000_000))
    parser.add_argument("--tests", type=int, default=50_000, help="test images")
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    assert all(rows % PER_SHARD == 0 for rows in options.rows)
    at_two_sizes("decontaminate", options.rows, options.folder, partial(measure, options.tests))


if __name__ == "__main__":
    main()
