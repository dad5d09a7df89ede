"""What must stay flat: entries, subset, reshard, a filter by a list of ids, vectors that join their rows, at two sizes.

    python -m tests.benchmarks.flat entries|subset|reshard|filter|join [--rows 100000 1000000] [--folder FOLDER]

Time is the CPU time of all processes; memory is private memory, of the largest process and of all together, as
tests/benchmarks/dedup.py tells them. Captions are those of tests/benchmarks/textdedup.py. Tars have tiny images; of a
subset half of the ids are samples', a tenth of these twice, as many others are no sample's. The filter's list has ten
ids for each row, in no order; half of the rows are on it. Vectors are 512 numbers of an image and as many of a caption,
in files of 10,000 rows and in no order.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from infra.cluster import Limits
from infra.formats.shards import TarWriter, shard_name
from infra.formats.vectors import write_arrays
from infra.run.context import Context
from infra.run.manifest import Artifact, Manifest
from pipelines.curate import entries, reshard, subset
from pipelines.curate import filter as filtering
from pipelines.curate.filter.rules import Subset
from pipelines.curate.joining import joined
from pipelines.curate.subset.ids import DTYPE
from pipelines.tables import read_table
from tests.benchmarks.dedup import PER_SHARD, at_two_sizes, mixed, timed
from tests.benchmarks.textdedup import captions

Inputs = Mapping[str, Artifact]

WIDTH = 512  # of a vector


def halves(rows: np.ndarray) -> tuple[list[int], list[int]]:
    """The two halves of the id of each row."""
    return mixed(rows).tolist(), mixed(rows + (1 << 40)).tolist()


def selection(folder: Path, rows: int) -> Inputs:
    context = Context(folder / "selection")
    for shard in range(rows // PER_SHARD):
        high, low = halves(np.arange(shard * PER_SHARD, (shard + 1) * PER_SHARD))
        uid = [f"{one:016x}{other:016x}" for one, other in zip(high, low, strict=True)]
        table = pa.table({"uid": uid, "caption": captions(shard)})
        context.output.write_table(f"data/kept-{shard_name(shard)}.parquet", table)
    return {"selection": finished(context)}


def pairs(folder: Path, rows: int) -> Inputs:
    """Pairs, and a list of ids."""
    chosen = Context(folder / "list")
    write_ids(chosen, ids_of(np.arange(0, 20 * rows, 2)))
    return {"pairs": selection(folder, rows)["selection"], "list_ids": finished(chosen)}


def vectors(folder: Path, rows: int) -> Inputs:
    """A selection, and vectors as others publish them."""
    theirs = Context(folder / "vectors")
    some = np.random.default_rng(0).normal(size=(PER_SHARD, WIDTH)).astype(np.float16)
    for shard in range(rows // PER_SHARD):
        # An odd step, prime to the number of rows, leads past each of them once.
        high, low = halves(np.arange(shard * PER_SHARD, (shard + 1) * PER_SHARD) * 7_368_787 % rows)
        uid = [f"{one:016x}{other:016x}" for one, other in zip(high, low, strict=True)]
        theirs.output.write_table(f"data/{shard:08d}.parquet", pa.table({"uid": uid}))
        write_arrays(theirs.output, f"data/{shard:08d}.npz", {"clip_img": some, "clip_txt": some}, rows=PER_SHARD)
    return {**selection(folder, rows), "embeddings": finished(theirs)}


def join(config: Limits, inputs: Inputs, context: Context) -> Manifest:
    """Bring the vectors to their rows."""
    found = joined(context, config, inputs, "embeddings", None)
    uids = [read_table(found.store, file.path, ["uid"]) for file in found.files("data/", ".parquet")]
    return context.finish(facts={"found": sum(map(len, uids))})


def ids_of(rows: np.ndarray) -> np.ndarray:
    ids = np.zeros(len(rows), DTYPE)
    ids["f0"], ids["f1"] = mixed(rows), mixed(rows + (1 << 40))
    return ids


def write_ids(context: Context, ids: np.ndarray) -> None:
    with context.output.open("data/subset.npy") as sink:
        np.lib.format.write_array(sink, ids)


def finished(context: Context) -> Artifact:
    return Artifact(context.store, context.finish())


def shards(folder: Path, rows: int) -> Inputs:
    """Tars, and a subset of their ids."""
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, "JPEG")
    tars, chosen = Context(folder / "shards"), Context(folder / "subset")
    for shard in range(rows // PER_SHARD):
        high, low = halves(np.arange(shard * PER_SHARD, (shard + 1) * PER_SHARD))
        with (
            tars.output.open(f"data/train/{shard_name(shard)}.tar", rows=PER_SHARD) as sink,
            TarWriter(sink) as tar,
        ):
            for number, (one, other) in enumerate(zip(high, low, strict=True)):
                tar.add(f"{number:09d}.jpg", out.getvalue())
                tar.add(f"{number:09d}.json", json.dumps({"uid": f"{one:016x}{other:016x}"}).encode())
    listed = np.concatenate([np.arange(0, 2 * rows, 2), np.arange(0, rows, 20)])
    write_ids(chosen, np.sort(ids_of(listed)))
    made = {"shards": tars, "subset": chosen}
    return {name: finished(context) for name, context in made.items()}


STAGES: dict[str, tuple[Callable[[Path, int], Inputs], Any, Any]] = {
    "entries": (selection, entries.run, entries.Config()),
    "subset": (selection, subset.run, subset.Config()),
    "filter": (pairs, filtering.run, filtering.Config(rules=(Subset(source="list_ids"),))),
    "reshard": (shards, reshard.run, reshard.Config()),
    "join": (vectors, join, Limits()),
}


def measure(name: str, folder: Path, rows: int) -> float:
    """Print and return the CPU seconds that the stage takes for so many rows."""
    make, run, config = STAGES[name]
    inputs = make(folder, rows)
    print(f"{rows:,} rows are written", file=sys.stderr, flush=True)

    def stage() -> tuple[int, Mapping[str, Any]]:
        manifest = run(config, inputs, Context(folder / name))
        if name == "join":
            assert manifest.facts["found"] == rows
        if name == "reshard":
            assert manifest.facts["train"] == rows // 2 + rows // 20 and manifest.facts["repeated"] == rows // 20
        return manifest.funnel.kept if manifest.funnel else 0, manifest.facts

    return timed(rows, stage)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("stage", choices=list(STAGES))
    parser.add_argument("--rows", type=int, nargs=2, default=(100_000, 1_000_000))
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    at_two_sizes(options.stage, options.rows, options.folder, partial(measure, options.stage))


if __name__ == "__main__":
    main()
