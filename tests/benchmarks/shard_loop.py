"""What a shard costs besides its work: the driver's time and memory, and the time to go on behind a million of them.

    python -m tests.benchmarks.shard_loop run       # 10,000 and 100,000 shards that do nothing
    python -m tests.benchmarks.shard_loop resume    # a stage of 1,000,000 committed shards, from start to manifest
    python -m tests.benchmarks.shard_loop adopt     # a folder of 100,000 small files, adopted and read back

The shards commit a record with a file each. Peer of the first: the same number of bare Ray tasks that do nothing, one
each, in the same process. The second writes its ledger itself, since a million commits take an hour on two cores.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from infra.cluster import connect, run_shards
from infra.run.context import Context, ShardOutput
from infra.run.ledger import Ledger
from infra.run.manifest import Artifact, File, Funnel, ShardRecord
from infra.store import LocalStore
from pipelines import adopt

_SMALL, _LARGE, _COMMITTED = 10_000, 100_000, 1_000_000


def nothing(spec: int, output: ShardOutput) -> ShardRecord:
    return output.commit(Funnel("rows", 10, 9, {"small": 1}), {"number": spec})


def private_mb() -> float:
    """Memory of this process that it shares with no other, MB."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Clean", "Private_Dirty"))) / 1024


class Timed:
    def __init__(self, work: Callable[[], Any]) -> None:
        wall, cpu = time.monotonic(), time.process_time()
        self.result = work()
        self.wall, self.cpu = time.monotonic() - wall, time.process_time() - cpu


def run(folder: Path) -> None:
    """Loops over shards that do nothing, and bare tasks."""
    import ray
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with connect(cpus=2):
        bare = ray.remote(num_cpus=1)(lambda: None)
        ray.get([bare.remote() for _ in range(100)])
        peer = Timed(lambda: [ray.get(bare.remote()) for _ in range(2000)])
        print(f"bare Ray tasks:  driver {peer.cpu / 2000 * 1e3:.3f} ms each", flush=True)
        memory: dict[int, float] = {}
        for count in (_SMALL // 10, _SMALL, _LARGE):
            context = Context(folder / str(count), stage="nothing")
            shards = [(f"{number:08d}", number) for number in range(count)]
            before = private_mb()
            timed = Timed(lambda c=context, s=shards: run_shards(c, s, nothing))
            memory[count] = private_mb() - before
            assert len(timed.result) == count
            each = f"driver {timed.cpu / count * 1e3:.3f} ms a shard, {count / timed.wall:,.0f} shards/s"
            print(f"{count:>7,} shards:  {each}, private {before:.0f} + {memory[count]:.0f} MB", flush=True)
        print(f"more memory for {_LARGE:,} than for {_SMALL:,} shards: {memory[_LARGE] - memory[_SMALL]:.0f} MB")


def resume(folder: Path) -> None:
    """Go on with a stage all of whose shards are committed."""
    store = LocalStore(folder)
    names = [f"{number:08d}" for number in range(_COMMITTED)]
    writing = Timed(lambda: _commit(store, names))
    print(f"{_COMMITTED:,} shards committed in {writing.wall:.0f} s", flush=True)
    with connect(cpus=2):
        run_shards(Context(folder / "warm"), [("a", 1)], nothing)
        context = Context(store, stage="nothing")
        shards = [(name, number) for number, name in enumerate(names)]
        before = private_mb()
        loop = Timed(lambda: run_shards(context, shards, nothing))
        finish = Timed(lambda: context.finish(loop.result))
        wall, cpu = loop.wall + finish.wall, loop.cpu + finish.cpu
        print(f"resume: {wall:.1f} s, {cpu:.1f} s of CPU, of which {loop.cpu:.1f} the loop")
        print(f"manifest: {len(finish.result.to_bytes()) / 1e3:,.0f} kB; private {before:.0f} -> {private_mb():.0f} MB")
        records = Timed(lambda: sum(record.facts["number"] for record in loop.result))
        artifact = Artifact(store, finish.result)
        files = Timed(lambda: sum(file.bytes for file in artifact.each_file("data/", ".tar")))
        print(
            f"all records read: {records.cpu:.1f} s of CPU; all files: {files.cpu:.1f} s; private {private_mb():.0f} MB"
        )


def adopted(folder: Path) -> None:
    """Adopt a folder of many files, whose digests are known from a first look."""
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    (folder / "texts").mkdir()
    for number in range(_LARGE):
        (folder / f"texts/{number:06d}.txt").write_bytes(b"%d" % number)
    config = adopt.Config(path=str(folder / "texts"), contents=adopt.Corpus())
    before = private_mb()
    listing = Timed(lambda: len(config.files))
    context = Context(folder / "adopted", location=config.location())
    adopting = Timed(lambda: adopt.run(config, {}, context))
    data = adopting.result.to_bytes()
    print(f"adopt: {_LARGE:,} files in {listing.cpu + adopting.cpu:.1f} s of CPU, {listing.cpu:.1f} to identify them")
    print(f"manifest: {len(data) / 1e3:,.0f} kB; private {before:.0f} -> {private_mb():.0f} MB")
    artifact = Artifact(context.store, adopting.result)
    files = Timed(lambda: sum(1 for _ in artifact.each_file()))
    print(f"all {files.result:,} files read: {files.cpu:.1f} s of CPU")


def _commit(store: LocalStore, names: list[str]) -> None:
    """Write the ledger of shards that are all done."""
    tally = Ledger(store).tally(names)
    for number in tally.left():
        name = names[number]
        files = [
            File(f"data/{name}.{end}", 1_000_000 + number, f"{number:064x}", rows=1000) for end in ("tar", "parquet")
        ]
        funnel = Funnel("images", 1200, 1000, {"timeout": 150, "small": 50})
        tally.add(number, ShardRecord(name, files, funnel, {"number": number}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run", "resume", "adopt"])
    folder = Path(tempfile.mkdtemp(prefix="shard-loop-"))
    try:
        {"run": run, "resume": resume, "adopt": adopted}[parser.parse_args().what](folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
