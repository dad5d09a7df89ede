"""One contract for every store, on disk and on a real S3 server."""

from __future__ import annotations

import gc
import gzip
import hashlib
import io
import itertools
import os
import pickle
import socket
import subprocess
import sys
import tarfile
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import CredentialsError, StorageError, TransientError, UsageError
from infra.store import LocalStore, ObjectStore, open_store, unreachable


class Fence:
    """Refuses whoever asks from when the file ``shut`` is there."""

    def __init__(self, shut) -> None:
        self.shut = shut

    def __call__(self) -> None:
        if self.shut.exists():
            raise StorageError("shut")


def written_slowly(store, shut) -> None:
    with store.publish("sub/new") as out:
        out.write(b"1")
        shut.touch()  # between the first byte and the file


CHANGES = {
    "write": lambda store, shut: store.write("old", b"other"),
    "a publication that had begun": written_slowly,
    "create": lambda store, shut: store.create("new", b""),
    "append": lambda store, shut: store.append("lines", b"2\n"),
    "delete": lambda store, shut: store.delete("old"),
    "delete all": lambda store, shut: store.delete_all(["old"]),
}


class Contract:
    """What every store promises; the subclasses say which store."""

    @pytest.fixture
    def store(self):
        raise NotImplementedError

    # --- fences

    @pytest.mark.parametrize("change", CHANGES)
    def test_a_fence_is_asked_before_each_change_here_and_in_every_copy(self, store, tmp_path_factory, change):
        shut = tmp_path_factory.mktemp("fence") / "shut"
        store.write("below/old", b"old")
        store.append("below/lines", b"1\n")
        before = {path: store.read(path) for path in store.paths()}
        fenced = pickle.loads(pickle.dumps(store.fenced(Fence(shut)))).child("below")
        fenced.write("old", b"old")
        if change != "a publication that had begun":
            shut.touch()
        with pytest.raises(StorageError, match="shut"):
            CHANGES[change](fenced, shut)
        assert {path: store.read(path) for path in store.paths()} == before
        assert fenced.read("old") == b"old"
        store.child("below").delete("old")  # the store that was copied has none

    # --- reading and writing

    def test_other_content_has_another_change_token(self, store):
        with pytest.raises(FileNotFoundError):
            store.change_token("file")
        store.write("file", b"one")
        first = store.change_token("file")
        assert store.change_token("file") == first
        store.write("file", b"two")
        assert store.change_token("file") != first

    def test_what_is_written_is_read(self, store):
        store.write("a/b/file.bin", b"\x00\xff" * 1000)
        assert store.read("a/b/file.bin") == b"\x00\xff" * 1000
        assert store.size("a/b/file.bin") == 2000
        assert store.exists("a/b/file.bin")
        assert store.digest("a/b/file.bin") == hashlib.sha256(b"\x00\xff" * 1000).hexdigest()
        with store.open("a/b/file.bin") as file:
            assert (file.read(3), file.read(1)) == (b"\x00\xff\x00", b"\xff")

    def test_writing_again_replaces(self, store):
        for data in (b"first, and longer", b"second", b""):
            store.write("file", data)
            assert store.read("file") == data
        assert store.paths() == ["file"]

    def test_many_are_read_in_the_order_asked(self, store):
        for n in range(5):
            store.write(f"f{n}", b"%d" % n)
        assert store.read_all([f"f{n}" for n in (3, 0, 4, 3)]) == [b"3", b"0", b"4", b"3"]
        assert store.read_all([]) == []
        with pytest.raises(FileNotFoundError):
            store.read_all(["f0", "nothing"])

    @pytest.mark.parametrize("verb", ["read", "open", "size", "digest"])
    def test_what_is_not_there_is_not_found(self, store, verb):
        store.write("folder/file", b"")
        for path in ("nothing", "folder/nothing", "nothing/file"):
            assert not store.exists(path)
            with pytest.raises(FileNotFoundError):
                getattr(store, verb)(path)

    @pytest.mark.parametrize("path", ["../x", "a/../../x", "/etc/passwd", "a/.."])
    @pytest.mark.parametrize("verb", ["read", "exists", "size", "delete", "paths", "folders", "child", "open"])
    def test_a_path_that_leaves_is_refused(self, store, verb, path):
        with pytest.raises(StorageError, match="leaves its store"):
            getattr(store, verb)(path)

    def test_writing_to_a_path_that_leaves_is_refused(self, store):
        for attempt in (
            lambda: store.write("../x", b""),
            lambda: store.create("../x", b""),
            lambda: store.append("../x", b""),
        ):
            with pytest.raises(StorageError, match="leaves its store"):
                attempt()

    # --- listing

    def test_paths_lists_files_below_a_folder(self, store):
        for path in ("data/b", "data/a", "data/sub/c", "database", "top"):
            store.write(path, b"")
        assert store.paths() == ["data/a", "data/b", "data/sub/c", "database", "top"]
        assert store.paths("data") == store.paths("data/") == ["data/a", "data/b", "data/sub/c"]
        assert store.paths("data/sub") == ["data/sub/c"]
        assert store.paths("dat") == store.paths("nothing") == store.paths("top") == []

    def test_folders_lists_the_folders_directly_below(self, store):
        assert store.folders() == []
        for path in ("runs/b/x", "runs/a/deep/deeper/x", "runs/file", "other/x"):
            store.write(path, b"")
        assert store.folders() == ["other", "runs"]
        assert store.folders("runs") == ["a", "b"]
        assert store.folders("runs/a") == ["deep"]
        assert store.folders("runs/b") == store.folders("nothing") == store.folders("runs/file") == []

    def test_a_child_is_the_folder_below(self, store):
        store.child("a").child("b").write("c", b"1")
        assert store.read("a/b/c") == b"1"
        assert store.child("a").paths() == ["b/c"]
        assert store.child("").paths() == ["a/b/c"]
        assert store.child("a/b").url == f"{store.url}/a/b"

    def test_what_another_process_wrote_is_seen(self, store):
        """A listing remembered from before would make a plan lie and a lease be taken twice."""
        other = pickle.loads(pickle.dumps(store))
        store.write("lease/1", b"")
        assert (store.paths("lease"), store.folders(), store.exists("lease/2")) == (["lease/1"], ["lease"], False)
        code = "import sys; from infra.store import open_store; open_store(sys.argv[1]).write('lease/2', b'')"
        subprocess.run([sys.executable, "-c", code, store.url], check=True)
        for seen in (store, other):
            assert seen.paths("lease") == ["lease/1", "lease/2"]
            assert seen.exists("lease/2")
            assert seen.size("lease/2") == 0

    # --- deleting

    def test_delete_removes_a_file_or_a_folder_and_nothing_else(self, store):
        for path in ("data/a", "data/sub/b", "database", "x"):
            store.write(path, b"")
        store.delete("data")
        assert store.paths() == ["database", "x"]
        store.delete("x")
        store.delete("x")
        store.delete("never/was")
        assert store.paths() == ["database"]

    # --- all or nothing

    @pytest.mark.parametrize("existing", [None, b"as it was"])
    def test_a_crash_while_publishing_leaves_everything_as_it_was(self, store, existing):
        if existing is not None:
            store.write("file", existing)
        before = store.paths()
        for crash in (RuntimeError, KeyboardInterrupt, SystemExit):
            with pytest.raises(crash), store.publish("file") as out:
                out.write(b"half" * 100_000)
                raise crash
        assert store.paths() == before
        assert (store.read("file") if store.exists("file") else None) == existing

    def test_a_file_appears_only_when_it_is_whole(self, store):
        with store.publish("file") as out:
            out.write(b"half")
            out.flush()
            assert not store.exists("file")
            assert store.paths() == []
            out.write(b"whole")
        assert store.read("file") == b"halfwhole"

    def test_concurrent_publishers_leave_one_whole_file(self, store):
        contents = [bytes([n]) * 100_000 for n in range(8)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda data: store.write("file", data), contents))
        assert store.read("file") in contents
        assert store.paths() == ["file"]

    # --- create

    def test_create_is_refused_if_it_exists(self, store):
        assert store.create("a/file", b"first")
        assert not store.create("a/file", b"second")
        assert store.read("a/file") == b"first"
        store.delete("a/file")
        assert store.create("a/file", b"third")
        store.write("written", b"")
        assert not store.create("written", b"x")
        assert store.paths() == ["a/file", "written"]

    def test_of_many_threads_one_creates(self, store):
        gate = threading.Barrier(8)

        def race(n):
            gate.wait()
            return [store.create(f"claims/{k}", b"%d" % n) for k in range(10)]

        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(race, range(8)))
        for k, claims in enumerate(zip(*won, strict=True)):
            assert sum(claims) == 1
            assert store.read(f"claims/{k}") == b"%d" % claims.index(True)

    def test_of_many_processes_one_creates(self, store):
        code = """
import sys
from infra.store import open_store
store, me = open_store(sys.argv[1]), sys.argv[2]
sys.stdin.readline()
print(*[k for k in range(30) if store.create(f"claims/{k}", me.encode())])
"""
        racers = [
            subprocess.Popen(
                [sys.executable, "-c", code, store.url, str(n)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for n in range(3)
        ]
        for racer in racers:
            racer.stdin.write("go\n")
            racer.stdin.flush()
        won = [racer.communicate()[0].split() for racer in racers]
        assert all(racer.returncode == 0 for racer in racers)
        assert sorted(int(k) for claims in won for k in claims) == list(range(30))
        for n, claims in enumerate(won):
            assert all(store.read(f"claims/{k}") == b"%d" % n for k in claims)

    # --- append

    def test_what_is_appended_is_read_from_where_the_reader_was(self, store):
        assert store.read_appended("log") == (b"", 0)
        assert store.read_appended("log", 7) == (b"", 7)
        store.append("log", b"one\ntwo\n")
        data, position = store.read_appended("log")
        assert data == b"one\ntwo\n"
        assert store.read_appended("log", position) == (b"", position)
        store.append("log", b"three\n")
        assert store.read_appended("log", position)[0] == b"three\n"
        assert store.read_appended("log")[0] == b"one\ntwo\nthree\n"

    def test_two_that_append_lose_nothing(self, store):
        other = pickle.loads(pickle.dumps(store))
        for n in range(6):
            (store, other)[n % 2].append("log", b"%d\n" % n)
        assert store.read_appended("log")[0] == b"0\n1\n2\n3\n4\n5\n"
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda n: (store, other)[n % 2].append("log", b"%d\n" % n), range(6, 30)))
        assert sorted(map(int, store.read_appended("log")[0].split())) == list(range(30))

    # --- local copies

    def test_fetch_gives_a_local_file(self, store, tmp_path):
        for path in ("a/file.tar", "b/file.tar"):
            store.write(path, path.encode())
        first, second = (store.fetch(path, tmp_path / "cache") for path in ("a/file.tar", "b/file.tar"))
        assert (first.read_bytes(), second.read_bytes()) == (b"a/file.tar", b"b/file.tar")
        assert first.name == "file.tar"
        assert store.fetch("a/file.tar", tmp_path / "cache") == first
        with pytest.raises(FileNotFoundError):
            store.fetch("nothing", tmp_path / "cache")

    def test_fetch_never_gives_an_older_version(self, store, tmp_path):
        store.write("file", b"old")
        store.fetch("file", tmp_path / "cache")
        store.write("file", b"new")
        assert store.fetch("file", tmp_path / "cache").read_bytes() == b"new"

    def test_put_publishes_a_local_file(self, store, tmp_path):
        (tmp_path / "source").write_bytes(b"x" * 3_000_000)
        store.put("copy", tmp_path / "source")
        assert store.digest("copy") == hashlib.sha256(b"x" * 3_000_000).hexdigest()

    # --- a publication is a file for whoever can write to one

    def test_a_publication_knows_what_passed_through_it(self, store):
        with store.publish("file") as out:
            assert out.write(b"bytes") == 5
            assert out.write(bytearray(b"array")) == 5
            assert out.write(np.arange(6, dtype="<f4").reshape(2, 3)) == 24
            assert out.write(np.empty((0, 3))) == 0
            assert out.write(pa.py_buffer(b"arrow")) == 5
            assert out.tell() == out.size == 39
            assert out.writable()
            assert not out.readable()
            assert not out.seekable()
        assert (store.size("file"), store.digest("file")) == (out.size, out.sha256)

    def test_a_publication_serves_every_writer(self, store):
        table = pa.table({"a": list(range(1000)), "b": ["x"] * 1000})
        with store.publish("table.parquet") as out:
            pq.write_table(table, out, compression="zstd")
        with store.publish("archive.tar") as out, tarfile.open(fileobj=out, mode="w|") as tar:
            info = tarfile.TarInfo("a.txt")
            info.size = 5
            tar.addfile(info, io.BytesIO(b"hello"))
        with store.publish("text.gz") as out, gzip.GzipFile(fileobj=out, mode="wb") as zipped:
            zipped.write(b"hello")
        with store.publish("lines.txt") as out, io.TextIOWrapper(io.BufferedWriter(out), "utf-8") as text:
            text.write("grüße\n")
        with store.publish("archive.zip") as out, zipfile.ZipFile(out, "w") as archive:
            archive.writestr("a.txt", "hello")
        assert pq.read_table(pa.BufferReader(store.read("table.parquet"))).equals(table)
        with tarfile.open(fileobj=io.BytesIO(store.read("archive.tar"))) as tar:
            assert tar.extractfile("a.txt").read() == b"hello"
        assert gzip.decompress(store.read("text.gz")) == b"hello"
        assert store.read("lines.txt").decode() == "grüße\n"
        assert zipfile.ZipFile(io.BytesIO(store.read("archive.zip"))).read("a.txt") == b"hello"

    def test_a_publication_is_closed_with_its_block(self, store):
        with store.publish("file") as out:
            out.write(b"in time")
        with pytest.raises(ValueError, match="closed"):
            out.write(b"late")
        assert store.read("file") == b"in time"
        del out
        gc.collect()  # must not complain that its file is closed: warnings are errors here

    def test_a_store_pickles(self, store):
        store.write("file", b"1")
        copy = pickle.loads(pickle.dumps(store))
        assert (copy.url, copy.read("file"), repr(copy)) == (store.url, b"1", repr(store))


class TestLocalStore(Contract):
    @pytest.fixture
    def store(self, tmp_path):
        return LocalStore(tmp_path / "root")

    def test_a_process_killed_while_publishing_leaves_nothing_that_is_listed(self, store):
        code = """
import os, sys
from infra.store import open_store
with open_store(sys.argv[1]).publish("data/file") as out:
    out.write(b"half")
    out.flush()
    os.kill(os.getpid(), 9)
"""
        assert subprocess.run([sys.executable, "-c", code, store.url]).returncode == -9
        assert (store.paths(), store.exists("data/file")) == ([], False)
        store.write("data/file", b"whole")
        assert store.paths() == ["data/file"]

    def test_a_torn_last_line_is_not_read_yet(self, store):
        store.append("log", b"one\ntw")
        data, position = store.read_appended("log")
        assert (data, position) == (b"one\n", 4)
        store.append("log", b"o\n")
        assert store.read_appended("log", position) == (b"two\n", 8)

    def test_a_folder_given_relative_stays_where_it_was(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        store = LocalStore("root")
        store.write("file", b"1")
        monkeypatch.chdir("/")
        assert store.read("file") == b"1"

    def test_looking_creates_nothing(self, store):
        assert (store.paths(), store.folders(), store.exists("x")) == ([], [], False)
        store.read_appended("log")
        store.delete("x")
        assert not store.root.exists()

    def test_reading_and_writing_sync_the_file_before_its_name(self, store, monkeypatch):
        """The order that makes a rename safe: bytes to disk, then the name, then the folder."""
        store.write("before", b"0")  # a new root's own name is synced, too
        done = []
        fsync, replace = os.fsync, type(store.root).replace
        monkeypatch.setattr(os, "fsync", lambda handle: (done.append("fsync"), fsync(handle))[1])
        monkeypatch.setattr(
            type(store.root), "replace", lambda self, target: (done.append("rename"), replace(self, target))[1]
        )
        store.write("file", b"1")
        assert done == ["fsync", "rename", "fsync"]


class TestObjectStore(Contract):
    @pytest.fixture
    def store(self, s3_url):
        return ObjectStore(s3_url)

    def test_an_outage_is_an_outage_and_not_an_absence(self, store, monkeypatch, tmp_path):
        import s3fs

        with socket.create_server(("127.0.0.1", 0)) as server:  # a port where, once closed, nobody listens
            port = server.getsockname()[1]
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
        s3fs.S3FileSystem.clear_instance_cache()
        try:
            away = ObjectStore(store.url)
            for attempt in (
                lambda: away.read("file"),
                lambda: away.read_all(["file"]),
                lambda: away.open("file"),
                lambda: away.write("file", b""),
                lambda: away.create("file", b""),
                lambda: away.append("log", b""),
                lambda: away.exists("file"),
                lambda: away.size("file"),
                lambda: away.paths(),
                lambda: away.folders(),
                lambda: away.delete("file"),
                lambda: away.fetch("file", tmp_path),
            ):
                with pytest.raises(TransientError, match="does not answer"):
                    attempt()
        finally:
            s3fs.S3FileSystem.clear_instance_cache()

    def test_a_bucket_that_is_not_there_is_no_empty_folder(self, s3_server):
        store = ObjectStore("s3://no-such-bucket/root")
        for attempt in (
            lambda: store.paths(),
            lambda: store.sizes(),
            lambda: store.folders("runs"),
            lambda: store.write("file", b""),
            lambda: store.create("file", b""),
        ):
            with pytest.raises(StorageError, match="there is no bucket 'no-such-bucket'"):
                attempt()

    def test_who_may_not_is_told_so(self, store, monkeypatch):
        from botocore.exceptions import ClientError
        from s3fs.errors import translate_boto_error

        async def forbid(*args, **kwargs):
            answer = {"Error": {"Code": "InvalidAccessKeyId", "Message": "The key does not exist in our records."}}
            raise translate_boto_error(ClientError(answer, "ListObjectsV2"))

        monkeypatch.setattr(store._fs, "_call_s3", forbid)
        for attempt in (lambda: store.exists("file"), lambda: store.read("file"), lambda: store.write("file", b"")):
            with pytest.raises(CredentialsError, match="refuses access") as caught:
                attempt()
            assert "does not exist in our records" in caught.value.found

    @pytest.mark.long
    @pytest.mark.parametrize(("share", "tries"), [(2, "3"), (1, "1")], ids=["every second request", "every request"])
    def test_a_bucket_that_asks_for_fewer_requests_is_asked_again_or_taken_for_away(
        self, s3_url, monkeypatch, tmp_path, request, share, tries
    ):
        """S3 says so with 503 and SlowDown, for which a HEAD has no room."""
        import s3fs
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication as Server

        serve, numbers = Server.__call__, itertools.count()

        def busy(self, environ, start_response):
            if next(numbers) % share:
                return serve(self, environ, start_response)
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start_response("503 Slow Down", [("Content-Type", "application/xml")])
            message = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
            return [] if environ["REQUEST_METHOD"] == "HEAD" else [message]

        monkeypatch.setenv("AWS_MAX_ATTEMPTS", tries)  # by default, botocore's 5
        s3fs.S3FileSystem.clear_instance_cache()
        request.addfinalizer(s3fs.S3FileSystem.clear_instance_cache)
        store = ObjectStore(s3_url)
        store.write("there", b"1")
        monkeypatch.setattr(Server, "__call__", busy)
        monkeypatch.setattr(s3fs.S3FileSystem, "retries", 2)
        for attempt, answer in {
            lambda: store.read("there"): b"1",
            lambda: store.read_all(["there"]): [b"1"],
            lambda: store.exists("there"): True,
            lambda: store.exists("nothing"): False,
            lambda: store.size("there"): 1,
            lambda: store.folders(): [],
            lambda: store.paths(): ["there"],
            lambda: store.write("new", b"2"): None,
            lambda: store.create("there", b"2"): False,
            lambda: store.fetch("there", tmp_path).read_bytes(): b"1",
            lambda: store.delete("nothing"): None,
        }.items():
            if share == 1:
                with pytest.raises(TransientError, match="does not answer"):
                    attempt()
            else:
                assert attempt() == answer

    def test_an_outage_in_the_middle_of_a_file_is_known_as_one(self, store, monkeypatch):
        store.write("file", b"1")
        with store.open("file") as file:
            monkeypatch.setattr(store._fs, "_call_s3", _refuse)
            with pytest.raises(Exception, match="Could not connect") as caught:
                file.read()
        assert unreachable(caught.value)

    def test_a_server_that_refuses_in_other_words_still_creates_once(self, store, monkeypatch):
        """MinIO of before 2025 leaves out the element by which s3fs tells a refusal from a bad request."""
        store.write("there", b"1")

        def refuse(*args, **kwargs):
            raise OSError(22, "At least one of the pre-conditions you specified did not hold")

        monkeypatch.setattr(store._fs, "pipe_file", refuse)
        assert not store.create("there", b"2")
        with pytest.raises(OSError, match="pre-conditions"):
            store.create("not there", b"2")

    def test_a_store_survives_a_fork(self, store):
        code = """
import os, sys
from infra.store import open_store
store = open_store(sys.argv[1])
store.write("file", b"1")
child = os.fork()
if child == 0:
    os._exit(0 if store.read("file") == b"1" and store.create("of-child", b"") else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert store.paths() == ["file", "of-child"]
"""
        subprocess.run([sys.executable, "-c", code, store.url], check=True, timeout=60)

    def test_folders_does_not_list_what_is_in_them(self, store, monkeypatch):
        store.write("runs/a/deep/file", b"")
        monkeypatch.setattr(store._fs, "find", lambda *args, **kwargs: pytest.fail("listed everything"))
        assert store.folders("runs") == ["a"]


async def _refuse(*args, **kwargs):
    from botocore.exceptions import EndpointConnectionError

    raise EndpointConnectionError(endpoint_url="http://127.0.0.1:1")


# --- opening


def test_open_store_knows_folders_from_urls(tmp_path):
    assert isinstance(open_store(tmp_path), LocalStore)
    assert open_store(f"file://{tmp_path}").url == str(tmp_path)
    assert isinstance(open_store("memory://x"), ObjectStore)
    assert open_store("memory://x/").url == "memory://x"


def test_an_address_with_one_slash_is_no_folder():
    with pytest.raises(UsageError, match="s3:/bucket/clip"):
        open_store("s3:/bucket/clip")


def test_an_unknown_protocol_is_a_storage_error():
    with pytest.raises(StorageError, match="no store can be opened at gopher://x"):
        open_store("gopher://x")


@given(st.text(st.sampled_from("ab./\\~ é"), min_size=1, max_size=12))
def test_no_path_leaves_a_local_store(path):
    store = LocalStore("/root/of/store")
    try:
        place = store.path(path)
    except StorageError:
        assert path.startswith("/") or ".." in path.split("/")
    else:
        assert os.path.normpath(place).startswith("/root/of/store")
