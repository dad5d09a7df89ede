"""Shard of many rows: time and memory at two sizes, whose images are tiny and generated.

    python -m tests.benchmarks.shard [--rows 1000000 10000000] [--folder FOLDER]

A selection of so many rows, and the tars of its images, are written in shards of 10,000, and sharded again with a
holdout of a twentieth. The images are of some bytes only: what is measured is all that grows with the number of rows.
Time is the CPU time of all processes; memory is private memory, of the largest process and of all together.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from infra.cluster import connect
from infra.formats.shards import TarWriter, shard_name
from infra.run.context import Context
from infra.run.manifest import Artifact
from pipelines.curate.shard import Config, run
from tests.benchmarks.dedup import Watch, mixed

PER_SHARD = 10_000


def generate(folder: Path, rows: int) -> dict[str, Artifact]:
    """Write tars and a selection of their images."""
    images, selection = Context(folder / "images"), Context(folder / "selection")
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, "JPEG")
    for shard in range(rows // PER_SHARD):
        own = np.arange(shard * PER_SHARD, (shard + 1) * PER_SHARD)
        keys = [f"{value:09d}" for value in own.tolist()]
        with images.output.open(f"data/{shard_name(shard)}.tar", rows=PER_SHARD) as sink, TarWriter(sink) as tar:
            for key in keys:
                tar.add(f"{key}.jpg", out.getvalue())
        images.output.write_table(f"data/{shard_name(shard)}.parquet", pa.table({"key": keys}))
        uids = zip(mixed(own).tolist(), mixed(own + rows).tolist(), strict=True)
        columns = {
            "uid": [f"{high:016x}{low:016x}" for high, low in uids],
            "key": keys,
            "shard": np.full(PER_SHARD, shard, np.int32),
            "url": [f"http://host{value % 99991}.example/images/{value}.jpg" for value in own.tolist()],
            "caption": [f"a caption of image {value}" for value in own.tolist()],
            "original_width": np.full(PER_SHARD, 640, np.int32),
            "original_height": np.full(PER_SHARD, 480, np.int32),
            "sha256": [f"{value:016x}" * 4 for value in mixed(own + 2 * rows).tolist()],
        }
        selection.output.write_table(f"data/kept-{shard_name(shard)}.parquet", pa.table(columns))
    contexts = {"images": images, "selection": selection}
    return {name: Artifact(context.store, context.finish()) for name, context in contexts.items()}


def measure(folder: Path, rows: int) -> tuple[float, float]:
    """Print and return the CPU seconds that sharding so many rows takes, and the GB of the largest process."""
    inputs = generate(folder, rows)
    print(f"{rows:,} rows are written", file=sys.stderr, flush=True)
    context = Context(folder / "shards")
    started = time.monotonic()
    with Watch() as watch:
        manifest = run(Config(), inputs, context)
    took = time.monotonic() - started
    sizes = json.loads(context.store.read("data/train/sizes.json"))
    assert set(list(sizes.values())[:-1]) == {1000}
    assert manifest.facts["train"] + manifest.facts["holdout_captions"] == rows
    print(
        f"{rows:>12,} {took:>8.1f} {watch.cpu_s:>8.1f} {watch.cpu_s / rows * 1e6:>11.1f} {watch.largest / 1e9:>9.2f}"
        f" {watch.total / 1e9:>8.2f}  {manifest.facts}",
        flush=True,
    )
    return watch.cpu_s, watch.largest / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, nargs=2, default=(1_000_000, 10_000_000))
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    print(f"{'rows':>12} {'seconds':>8} {'CPU s':>8} {'CPU us/row':>11} {'GB, one':>9} {'GB, all':>8}")
    found = []
    with connect():
        for rows in options.rows:
            folder = Path(tempfile.mkdtemp(dir=options.folder))
            try:
                found.append(measure(folder, rows))
            finally:
                shutil.rmtree(folder)
    (small, large), ((before, _), (after, memory)) = options.rows, found
    print(
        f"shard: {large / small:g} times the rows in {after / before:.1f} times the CPU time, {memory:.2f} GB a process"
    )


if __name__ == "__main__":
    main()
