"""Files are known by their bytes, read once, and never mistaken for those that were there before."""

from __future__ import annotations

import hashlib
import os
import time

import pytest

from infra.store import LocalStore, Store, open_store
from infra.store.content import contents


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache/digests.sqlite"


@pytest.fixture
def reads(monkeypatch):
    read = []
    digest = Store.digest
    monkeypatch.setattr(Store, "digest", lambda self, path: (read.append(path), digest(self, path))[1])
    return read


def write(folder, name: str, data: bytes, age_s: float = 10.0):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    then = time.time() - age_s
    os.utime(path, (then, then))
    return path


def test_a_local_file_is_read_once(tmp_path, cache, reads):
    write(tmp_path / "d", "a/b.bin", b"12345")
    store = LocalStore(tmp_path / "d")
    for _ in range(2):
        (found,) = contents(store, ["a/b.bin"], cache).values()
        assert (found.bytes, found.sha256, found.etag) == (5, hashlib.sha256(b"12345").hexdigest(), "")
    assert reads == ["a/b.bin"]


@pytest.mark.parametrize("change", ["size", "time", "inode"])
def test_a_file_that_was_replaced_is_read_again(tmp_path, cache, reads, change):
    path = write(tmp_path / "d", "x", b"one")
    store = LocalStore(tmp_path / "d")
    contents(store, ["x"], cache)
    if change == "size":
        write(tmp_path / "d", "x", b"three")
    elif change == "time":
        write(tmp_path / "d", "x", b"two", age_s=5)
    else:
        facts = path.stat()
        write(tmp_path / "d", "y", b"two").replace(path)
        os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))  # as rsync and tar put times back
    (found,) = contents(store, ["x"], cache).values()
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert len(reads) == 2


def test_a_file_that_just_changed_is_not_remembered(tmp_path, cache, reads):
    write(tmp_path / "d", "x", b"one", age_s=0)
    for _ in range(2):
        contents(LocalStore(tmp_path / "d"), ["x"], cache)
    assert reads == ["x", "x"]


@pytest.mark.parametrize("damage", ["not a database", "a folder"])
def test_without_a_usable_cache_everything_is_read(tmp_path, cache, caplog, damage):
    write(tmp_path / "d", "x", b"one")
    cache.parent.mkdir()
    cache.mkdir() if damage == "a folder" else cache.write_bytes(b"no database " * 100)
    (found,) = contents(LocalStore(tmp_path / "d"), ["x"], cache).values()
    assert found.sha256 == hashlib.sha256(b"one").hexdigest()
    assert "not remembered" in caplog.text


def test_order_is_kept_and_absence_is_an_error(tmp_path, cache):
    for name in ("b", "a"):
        write(tmp_path / "d", name, name.encode())
    assert list(contents(LocalStore(tmp_path / "d"), ["b", "a"], cache)) == ["b", "a"]
    assert contents(LocalStore(tmp_path / "d"), [], cache) == {}
    with pytest.raises(FileNotFoundError):
        contents(LocalStore(tmp_path / "d"), ["c"], cache)


def test_an_object_store_knows_its_files(s3_url, cache, reads):
    store = open_store(s3_url)
    store.write("x", b"one")
    (found,) = contents(store, ["x"], cache).values()
    assert (found.bytes, found.sha256) == (3, "")
    assert found.etag == hashlib.md5(b"one").hexdigest()
    store.write("x", b"two")
    assert contents(store, ["x"], cache)["x"] != found
    assert reads == []
