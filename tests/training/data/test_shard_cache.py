"""The node's disk: index and copies of remote shards, shared, limited, and safe from whatever dies."""

import errno
import json
import multiprocessing
import os
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from infra.errors import ConfigError, DataError, StorageError
from infra.store import LocalStore, ObjectStore
from training.data import shard_cache
from training.data.samples import Samples, Shards
from training.data.shard_cache import Shard, ShardCache
from training.data.tokens import Tokenizer
from training.distributed.world import World


def tokenize(texts):
    return np.stack([np.frombuffer(text.encode().ljust(16, b"\0")[:16], np.uint8).astype(np.int64) for text in texts])


def local(folder):
    store = LocalStore(folder)
    return Shards(store, [path for path in store.paths() if path.endswith(".tar")])


def open_samples(shards, cache, world=None, **options):
    options = {"tokenize": Tokenizer(tokenize), "min_side": 16} | options
    return Samples(shards, world or World(), folder=cache, **options)


class Bucket(LocalStore):
    """A store whose files are not for reading in place, and which counts what is fetched."""

    fetched: list[str]  # class-wide: a store is copied between processes

    def open(self, path):
        with (self.path("log")).open("a") as log:
            log.write(f"{path}\n")
        return super().open(path)

    def log(self):
        return self.path("log").read_text().split() if self.path("log").exists() else []


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """Twelve files of 1,000 bytes as remote shards."""
    store = Bucket(tmp_path / "bucket")
    for number in range(12):
        store.write(f"{number:05d}.tar", bytes([number]) * 1000)
    monkeypatch.setattr(Shard, "local", None)
    return store


def fetch(cache, numbers):
    """Have these here, several at a time, as a loader does."""
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(cache.path, numbers))


def shards_of(store, digests=()):
    return Shards(store, [f"{number:05d}.tar" for number in range(12)], digests).each()


# --- copies -----------------------------------------------------------------------------------------------------------


def test_each_is_fetched_once_and_whole(bucket, tmp_path):
    cache = ShardCache(shards_of(bucket), tmp_path / "disk")
    fetch(cache, [3, 5, 3])
    assert cache.path(3).read_bytes() == bytes([3]) * 1000
    fetch(ShardCache(shards_of(bucket), tmp_path / "disk"), [3, 5])
    assert sorted(bucket.log()) == ["00003.tar", "00005.tar"]


def test_one_replaced_in_the_store_is_another(bucket, tmp_path):
    ShardCache(shards_of(bucket), tmp_path / "disk").path(3)
    bucket.write("00003.tar", b"new")
    assert ShardCache(shards_of(bucket), tmp_path / "disk").path(3).read_bytes() == b"new"


def test_the_limit_holds_and_the_longest_unused_go(bucket, tmp_path):
    cache = ShardCache(shards_of(bucket), tmp_path / "disk", limit=3500)
    somebodys = tmp_path / "disk/shards/cc12m/00000.data"
    somebodys.parent.mkdir(parents=True)
    somebodys.write_bytes(bytes(10_000))
    os.utime(somebodys, (0, 0))
    for number in (0, 1, 2, 0, 3):
        cache.path(number)
        stamp = time.time_ns() + number  # not all disks tell moments apart
        os.utime(cache._targets[number], ns=(stamp, stamp))
    kept = {path.name for path in (tmp_path / "disk").rglob("*.tar")}
    assert len(kept) == 3
    assert {"00000.tar", "00003.tar"} <= kept
    assert somebodys.exists()
    assert cache.path(1).read_bytes() == bytes([1]) * 1000


def test_what_is_read_may_be_removed_meanwhile(bucket, tmp_path):
    cache = ShardCache(shards_of(bucket), tmp_path / "disk", limit=1500)
    with cache.path(0).open("rb") as reading:
        cache.path(1)
        assert not cache._targets[0].exists()
        assert reading.read() == bytes(1000)


def test_what_cannot_all_be_there_is_refused(bucket, tmp_path):
    cache = ShardCache(shards_of(bucket), tmp_path / "disk", limit=3500)
    cache.check_room([0, 1, 2], "")
    with pytest.raises(ConfigError, match="larger than"):
        ShardCache(shards_of(bucket), tmp_path / "small", limit=999).path(0)
    with pytest.raises(ConfigError, match="do not fit"):
        cache.check_room([0, 1, 2, 3], "")


def test_a_full_disk_is_an_error_that_says_so(bucket, tmp_path, monkeypatch):
    def full(shard, to):
        to.write_bytes(b"a part")
        raise OSError(errno.ENOSPC, "No space left on device")

    cache = ShardCache(shards_of(bucket), tmp_path / "disk")
    monkeypatch.setattr(shard_cache, "_copy", full)
    with pytest.raises(StorageError, match="cannot be copied") as error:
        cache.path(0)
    assert "make room" in error.value.fix
    assert not [path for path in (tmp_path / "disk").rglob("*") if path.is_file() and path.suffix != ".lock"]


@pytest.mark.parametrize("digests", [("0" * 64,) * 12, ()])
def test_what_arrives_cut_or_changed_is_not_used(bucket, tmp_path, monkeypatch, digests):
    cache = ShardCache(shards_of(bucket, digests), tmp_path / "disk")
    if not digests:
        copy = shard_cache._copy
        monkeypatch.setattr(shard_cache, "_copy", lambda shard, to: (copy(shard, to)[0] - 1, ""))
    with pytest.raises(DataError, match="did not arrive"):
        cache.path(0)
    assert not list((tmp_path / "disk").rglob("*.tar"))


def test_a_shard_that_is_not_there_is_named(bucket, tmp_path):
    cache = ShardCache(shards_of(bucket), tmp_path / "disk")
    bucket.delete("00004.tar")
    with pytest.raises(DataError, match="not there") as error:
        cache.path(4)
    assert "00004.tar" in error.value.found
    with pytest.raises(DataError, match="not there"):
        ShardCache(shards_of(bucket), tmp_path / "disk")


def fetch_all(store, folder, begin):
    Shard.local = None
    cache = ShardCache(shards_of(store), folder)
    fetch(cache, [*range(begin, 12), *range(begin)])


def die_fetching(store, folder):
    def copy(shard, to):
        to.write_bytes(b"half of it")
        os.kill(os.getpid(), signal.SIGKILL)

    shard_cache._copy = copy
    fetch_all(store, folder, 0)


def test_the_limit_holds_while_many_are_fetched_at_once(bucket, tmp_path):
    """What a killed process had reserved is given to others."""
    cache = ShardCache(shards_of(bucket), tmp_path / "disk", limit=2500)
    abandoned = cache._targets[11].with_name(".tmp-0")
    abandoned.parent.mkdir(parents=True)
    abandoned.write_bytes(bytes(1000))
    fetch(cache, range(11))
    assert sum(path.stat().st_size for path in (tmp_path / "disk/shards").glob("*/*")) == 2000
    assert not abandoned.exists()


def test_processes_share_and_the_dead_leave_nothing(bucket, tmp_path):
    context = multiprocessing.get_context("forkserver")
    disk = tmp_path / "disk"
    victim = context.Process(target=die_fetching, args=(bucket, disk))
    victim.start()
    victim.join()
    assert victim.exitcode == -signal.SIGKILL
    assert list(disk.rglob(".tmp-*"))
    workers = [context.Process(target=fetch_all, args=(bucket, disk, begin)) for begin in (0, 6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert sorted(bucket.log()) == [f"{number:05d}.tar" for number in range(12)]
    for number in range(12):
        assert ShardCache(shards_of(bucket), disk).path(number).read_bytes() == bytes([number]) * 1000
    assert not list(disk.rglob(".tmp-*"))


def test_shards_in_an_object_store(make_shards, tmp_path):
    """fsspec's memory file system: an index, then samples, with room for one shard only."""
    make_shards(tmp_path)
    plain = local(tmp_path)
    store = ObjectStore("memory://test-data-copies")
    for path in plain.paths:
        store.put(path, tmp_path / path)
    expected = open_samples(plain, tmp_path / "one")
    largest = max(plain.store.size(path) for path in plain.paths)
    found = open_samples(Shards(store, plain.paths), tmp_path / "two", disk_bytes=largest + 100)
    for number in (0, 39, 20, 1, 38):
        assert (found.image(number) == expected.image(number)).all()
    assert sum(path.stat().st_size for path in (tmp_path / "two").rglob("*.tar")) <= largest + 100
    store.delete("")


# --- the index --------------------------------------------------------------------------------------------------------


def test_an_index_is_made_once(shards, tmp_path, monkeypatch):
    first = open_samples(local(shards), tmp_path)
    monkeypatch.setattr("training.data.index._read_shard", None)  # would fail if anything were read again
    second = open_samples(local(shards), tmp_path)
    numbers = np.arange(40)
    assert (first.index.texts(numbers, np.zeros(40)) == second.index.texts(numbers, np.zeros(40))).all()
    assert [first.index.places(number) for number in range(40)] == [second.index.places(number) for number in range(40)]
    assert (first.counts, first.incomplete) == (second.counts, second.incomplete) == ([[14, 13, 13]], 0)
    size = {path.name: path.stat().st_size for path in next((tmp_path / "index").glob("*/places")).parent.iterdir()}
    assert size["places"] == 40 * 8
    assert size["bounds"] == 41 * 8


@pytest.mark.parametrize("change", ["content", "tokenizer", "caption_key", "digest"])
def test_what_it_was_made_of_is_its_name(make_shards, tmp_path, change):
    folder = make_shards(tmp_path / "shards")
    shards, options = local(folder), {}
    open_samples(shards, tmp_path)
    match change:
        case "content":
            path = folder / shards.paths[0]
            path.write_bytes(path.read_bytes())
            os.utime(path, ns=(1, 1))
        case "tokenizer":
            options["tokenize"] = Tokenizer(lambda texts: tokenize(texts)[:, :15])
        case "caption_key":
            options["caption_key"] = "txt:lines"
        case "digest":
            shards = Shards(shards.store, shards.paths, tuple("abc"))
    open_samples(shards, tmp_path, **options)
    assert len(list((tmp_path / "index").glob("*/index.json"))) == 2


def test_the_indexes_used_last_are_kept(shards, tmp_path, monkeypatch):
    monkeypatch.setattr("training.data.index.KEPT", 2)

    def use(moment, key):
        samples = open_samples(local(shards), tmp_path, caption_key=key)
        there = {path.parent for path in (tmp_path / "index").glob("*/index.json")}
        used = max(there, key=lambda folder: folder.stat().st_mtime_ns)
        os.utime(used, (moment, moment))  # long ago, and one after the other: not all disks tell moments apart
        return samples, used, there

    _, first, _ = use(1, "txt")
    mapped, second, _ = use(2, "txt:lines")
    assert use(3, "txt")[1] == first
    _, third, there = use(4, "json:number")
    assert there == {first, third} != {first, second}
    assert len(mapped) == 40
    assert mapped.index.texts(np.arange(40), np.zeros(40)).any(axis=1).all()


def test_shards_known_by_their_content_may_lie_elsewhere(make_shards, tmp_path, monkeypatch):
    for name in ("here", "there"):
        make_shards(tmp_path / name)
        shards = local(tmp_path / name)
        known = Shards(shards.store, shards.paths, tuple(shards.store.digest(path) for path in shards.paths))
        open_samples(known, tmp_path)
        monkeypatch.setattr("training.data.index._read_shard", None)


def several(tmp_path, texts):
    import io

    from small_data import draw, encode

    from infra.formats.shards import TarWriter

    sink = io.BytesIO()
    with TarWriter(sink) as tar:
        for number, text in enumerate(texts):
            tar.add(f"{number}.png", encode(draw(number)[0]))
            tar.add(f"{number}.txt", text)
            tar.add(f"{number}.json", json.dumps({"captions": text.decode(errors="replace").split("\n")}).encode())
    Path(tmp_path, "0.tar").write_bytes(sink.getvalue())
    return local(tmp_path)


def test_one_of_several_captions_is_drawn(tmp_path):
    shards = several(tmp_path, [b"a\nb\nc", b"only", b"\xff", b"x\n\ny"])
    for key, last in (("txt:lines", "xy"), ("json:captions", "xy")):  # a blank caption is none
        samples = open_samples(shards, tmp_path, caption_key=key)
        expected = 3 if key == "txt:lines" else 4
        assert (len(samples), samples.incomplete) == (expected, 4 - expected)
        draws = np.linspace(0, 0.999, 1000)
        for number, captions in ((0, "abc"), (1, ["only"]), (expected - 1, last)):
            texts = samples.index.texts(np.full(1000, number), draws)
            found, counts = np.unique(["".join(map(chr, row[row > 0])) for row in texts], return_counts=True)
            assert found.tolist() == sorted(captions)
            assert counts.min() >= 1000 // len(captions) - 1
    assert len(open_samples(shards, tmp_path)) == 3


def build(folder, cache):
    """On one node, and as if every rank were on a node of its own."""
    import torch

    world, found = World.join(torch.device("cpu")), []
    for own in (cache, cache / str(world.rank)):
        samples = open_samples(local(folder), own, world)
        texts = samples.index.texts(np.arange(len(samples)), np.zeros(len(samples)))
        found.append(([samples.index.places(number) for number in range(len(samples))], texts.tolist(), samples.counts))
    return found


def build_all(folder, damaged, cache):
    """The good ones, damaged ones, and ones of which a rank's node lacks one."""
    import torch

    found = [build(folder, cache)]
    try:
        build(damaged, cache / "damaged")
    except DataError as error:
        found.append(error.message.rpartition("/")[2])  # the tar's name and what is wrong with it
    world, shards = World.join(torch.device("cpu")), local(folder)
    try:
        open_samples(Shards(shards.store, [*shards.paths, "lost"] if world.rank else shards.paths), cache, world)
    except DataError as error:
        found.append(error.message)
    return found


def test_ranks_make_it_together_and_fail_together(ranks, shards, make_shards, tmp_path):
    damaged = make_shards(tmp_path / "shards")
    path = damaged / "data/train/00001.tar"
    path.write_bytes(path.read_bytes()[:3000])  # rank 1 reads it
    expected = [build(shards, tmp_path / "alone"), "00001.tar: a tar ends in the middle", "a shard is not there"]
    assert ranks(2, build_all, shards, damaged, tmp_path / "two") == [expected] * 2
    assert len(list((tmp_path / "two").rglob("index.json"))) == 3


def test_a_folder_that_cannot_be_written_is_named(shards, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="cannot be written"):
        open_samples(local(shards), tmp_path / "file")


def test_killed_while_it_is_made(shards, tmp_path):
    first = open_samples(local(shards), tmp_path)
    name = next(path for path in (tmp_path / "index").iterdir() if path.is_dir()).name
    shutil.rmtree(tmp_path / "index" / name)
    (tmp_path / f"index/.tmp-{name}").mkdir()
    (tmp_path / f"index/.tmp-{name}/places").write_bytes(b"half")
    assert len(open_samples(local(shards), tmp_path)) == len(first) == 40
    assert sorted(path.name for path in (tmp_path / "index").iterdir()) == [name, f"{name}.lock"]
