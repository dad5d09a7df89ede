"""Dedup of many rows: time and memory at two sizes, whose signatures are generated.

    python -m tests.benchmarks.dedup [--rows 1000000 10000000] [--crops] [--folder FOLDER]

A selection of so many rows is written, in shards of 10,000: a fifth are equal files of others, a fifth near duplicates
of others within 5 bits. What was hashed lies beside it, as the first step of the stage would have left it, so that what
is measured is the search and the decisions: everything that sees more than one shard. Time is the CPU time of all
processes; memory is private memory, of the largest process and of all together.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa

from infra.cluster import connect
from infra.formats.shards import shard_name
from infra.run.context import Context, Output
from pipelines.curate.dedup import Config
from pipelines.curate.dedup.duplicates import drop_duplicates
from pipelines.curate.dedup.keys import keys as keys_of_picture
from pipelines.curate.dedup.rows import signatures_path
from pipelines.curate.dedup.thumbnails import thumbnail

PER_SHARD = 10_000


def generate(selection: Output, signatures: Output, rows: int, crops: bool) -> list[tuple[int, str, int]]:
    """Write a selection and its signatures; number, path and rows of each shard."""
    shards = []
    greys = [np.full((16, 16, 3), level, np.uint8) for level in range(0, 256, 32)]
    rng = np.random.default_rng(0)
    several = [generated_keys(rng) if crops else (np.zeros(1, np.uint64), np.zeros(0, np.uint64)) for _ in range(64)]
    palette = pa.array([thumbnail(grey, (0, 0, 16, 16)) for grey in greys])
    for shard in range(rows // PER_SHARD):
        rng = np.random.default_rng(shard)
        own = np.arange(shard * PER_SHARD, (shard + 1) * PER_SHARD)
        kind = rng.random(PER_SHARD)
        file = np.where(kind < 0.2, rng.integers(0, rows, PER_SHARD), own)  # equal to another row's
        image = np.where((kind >= 0.2) & (kind < 0.4), rng.integers(0, rows, PER_SHARD), file)  # or like it
        # All keys of a near duplicate differ in the same bits, five at most.
        noise = np.zeros(PER_SHARD, np.uint64)
        for _ in range(5):
            noise |= np.uint64(1) << rng.integers(0, 64, PER_SHARD).astype(np.uint64)
        turned = mixed(image) ^ np.where(image != file, noise, 0)
        kinds = (mixed(image + rows) % np.uint64(len(several))).tolist()
        keys, parts = (
            [np.sort(several[kind][n] ^ bits) for kind, bits in zip(kinds, turned, strict=True)] for n in (0, 1)
        )
        path = f"data/kept-{shard_name(shard)}.parquet"
        number = pa.array(own).cast(pa.string())
        columns = {
            "uid": pa.array([f"{value:032x}" for value in own]),
            "key": number,
            "shard": pa.array(np.full(PER_SHARD, shard, np.int32)),
            "url": pa.array([f"http://host{value % 99991}.example/images/{value}.jpg" for value in own]),
            "caption": pa.array([f"a caption of image {value}" for value in file]),
            "original_width": pa.array(rng.integers(64, 4096, PER_SHARD, dtype=np.int32)),
            "original_height": pa.array(rng.integers(64, 4096, PER_SHARD, dtype=np.int32)),
            "sha256": pa.array([f"{value:016x}" * 4 for value in mixed(file + rows).tolist()]),
        }
        selection.write_table(path, pa.table(columns))
        known = palette.take(pa.array((mixed(image + 2 * rows) % np.uint64(len(palette))).astype(np.int64)))
        hashes = np.array([own_keys[0] for own_keys in keys])
        look = pa.array(turned ^ mixed(image + 3 * rows))
        reason = pa.nulls(PER_SHARD, pa.string())
        columns = {
            "uid": columns["uid"],
            "phash": pa.array(hashes),
            "keys": lists(keys),
            "parts": lists(parts),
            "thumbnail": known,
            "look": look,
            "reason": reason,
        }
        table = pa.table(columns)
        signatures.write_table(signatures_path(shard), table)
        shards.append((shard, path, PER_SHARD))
    return shards


def lists(arrays: Sequence[np.ndarray]) -> pa.ListArray:
    ends = np.r_[0, np.cumsum([len(one) for one in arrays])].astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(ends), pa.array(np.concatenate(arrays)))


def generated_keys(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The keys of a picture of soft spots, every other one with a border that is taken off, and of its parts."""
    square = cv2.resize(rng.integers(0, 256, (12, 12), dtype=np.uint8), (64, 64), interpolation=cv2.INTER_CUBIC)
    border = int(rng.integers(1, 10)) if rng.random() < 0.5 else 0
    inner = cv2.resize(square[border : 64 - border, border : 64 - border], (64, 64))
    whole, parts = keys_of_picture(square, inner)
    return np.array(whole, np.uint64), np.array(parts, np.uint64)


def mixed(values: np.ndarray) -> np.ndarray:
    """64 bits for each number that look random (SplitMix64)."""
    z = values.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


class Watch:
    """CPU time and private memory of this process and all below it."""

    def __init__(self) -> None:
        self.total = self.largest = 0
        self._cpu: dict[int, float] = {}
        self._begin: dict[int, float] | None = None
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Watch:
        self._look()
        self._begin = dict(self._cpu)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._look()

    @property
    def cpu_s(self) -> float:
        assert self._begin is not None
        return sum(seconds - self._begin.get(pid, 0.0) for pid, seconds in self._cpu.items())

    def _run(self) -> None:
        while not self._done.wait(0.5):
            self._look()

    def _look(self) -> None:
        private = []
        for pid in family(os.getpid()):
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            except (FileNotFoundError, ProcessLookupError):
                continue
            self._cpu[pid] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
            private.append(sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_")))
        self.total, self.largest = max(self.total, sum(private)), max(self.largest, *private)


def family(root: int) -> list[int]:
    """This process and all that descend from it."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
    found, new = [root], {root}
    while new:
        new = {pid for pid, parent in parents.items() if parent in new}
        found += new
    return found


def timed(rows: int, stage: Callable[[], tuple[int, Mapping[str, Any]]]) -> float:
    """Run ``stage``, which returns the rows that it keeps and its facts; print what it takes, return CPU seconds."""
    started = time.monotonic()
    with Watch() as watch:
        kept, facts = stage()
    took = time.monotonic() - started
    print(
        f"{rows:>12,} {took:>8.1f} {watch.cpu_s:>8.1f} {watch.cpu_s / rows * 1e6:>11.1f} {watch.largest / 1e9:>9.2f}"
        f" {watch.total / 1e9:>8.2f} {kept / rows:>7.3f}  {facts}",
        flush=True,
    )
    return watch.cpu_s


def at_two_sizes(name: str, rows: Sequence[int], folder: Path | None, measure: Callable[[Path, int], float]) -> None:
    """Print what ``measure(folder, rows)`` finds at two sizes, and how its CPU seconds grow."""
    print(f"{'rows':>12} {'seconds':>8} {'CPU s':>8} {'CPU us/row':>11} {'GB, one':>9} {'GB, all':>8} {'kept':>7}")
    times = []
    with connect():
        for count in rows:
            own = Path(tempfile.mkdtemp(dir=folder))
            try:
                times.append(measure(own, count))
            finally:
                shutil.rmtree(own)
    print(f"{name}: {rows[1] / rows[0]:g} times the rows in {times[1] / times[0]:.1f} times the CPU time")


def measure(crops: bool, folder: Path, rows: int) -> float:
    """Print and return the CPU seconds that dedup of so many rows takes."""
    selection, context = Context(folder / "selection"), Context(folder / "dedup")
    shards = generate(selection.output, context.output, rows, crops)
    print(f"{rows:,} rows are written", file=sys.stderr, flush=True)

    def stage() -> tuple[int, Mapping[str, Any]]:
        records, facts = drop_duplicates(Config(crops=crops), selection.store, shards, context)
        return sum(record.funnel.kept for record in records if record.funnel), facts

    return timed(rows, stage)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, nargs=2, default=(1_000_000, 10_000_000))
    parser.add_argument("--crops", action="store_true", help="with the keys that find crops, borders and logos")
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    at_two_sizes("dedup", options.rows, options.folder, partial(measure, options.crops))


if __name__ == "__main__":
    main()
