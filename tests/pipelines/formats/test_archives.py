"""Archive files: path expansion, block reads, retries on network failures."""

import contextlib
import gzip
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import fsspec
import pytest

from infra.errors import DataError, TransientError
from infra.run.context import Context, ShardOutput
from pipelines.extract.config import Config
from pipelines.extract.shard import Pages, find_candidates
from pipelines.formats import archives
from pipelines.formats.archives import listed, open_archive, read_ranges

pytestmark = [pytest.mark.long, pytest.mark.alone]  # waits for a silent server

DATA = bytes(range(256)) * 200


@contextlib.contextmanager
def server(answers, ranges=True, data=DATA):
    """Serves ``data``; a GET takes the next of ``answers``: a status, or how much of the body is sent (None: all)
    before the connection is closed, or, if that is negative, falls silent."""
    asked = []
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self):
            self.answer(head=True)

        def do_GET(self):
            self.answer(head=False)

        def answer(self, head):
            wanted = self.headers.get("Range") if ranges else None
            first, last = wanted.removeprefix("bytes=").split("-") if wanted else (0, len(data) - 1)
            body = data[int(first) : int(last) + 1]
            step = None if head else (answers.pop(0) if answers else None)
            if not head:
                asked.append(wanted)
            failed = isinstance(step, int) and step >= 400
            self.send_response(step if failed else 206 if wanted else 200)
            self.send_header("Content-Length", "0" if failed else str(len(body)))
            if wanted:
                self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
            self.end_headers()
            if not head and not failed:
                self.wfile.write(body if step is None else body[: abs(step)])
                if step is not None and step < 0:
                    over.wait()
                self.close_connection = step is not None

        def log_message(self, *_):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{http.server_port}/x.warc.gz", asked
    finally:
        over.set()
        http.shutdown()
        http.server_close()
        thread.join()


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(archives, "backoff", lambda attempt: 0.0)
    monkeypatch.setattr(archives, "_BLOCK", 10_000)


@pytest.mark.parametrize("answers", [[], [503], [None, 500, 100], [None, None, 0, 429, 502], [None] * 5 + [7, 7]])
def test_a_broken_read_is_resumed(answers):
    with server(answers) as (url, asked), open_archive(url) as file:
        pieces = iter(lambda: file.read(777), b"")
        assert b"".join(pieces) == DATA
        file.seek(len(DATA) - 5)
        assert (file.read(), file.read(10), file.tell()) == (DATA[-5:], b"", len(DATA))
        file.seek(4)
        assert file.read(6) == DATA[4:10]
        assert all(asked)


@pytest.mark.parametrize("ranges", [True, False])
def test_a_silent_server_is_retried(monkeypatch, ranges):
    monkeypatch.setattr(archives, "_TIMEOUT_S", 1.0)
    with server([None, -100, -1], ranges=ranges) as (url, asked), open_archive(url) as file:
        assert file.read() == DATA
        assert len(asked) > 3


def test_a_server_without_ranges_is_copied_first():
    with server([], ranges=False) as (url, _), open_archive(url) as file:
        assert file.read() == DATA


def test_a_lasting_failure_is_reported():
    with server([500] * 50) as (url, _), pytest.raises(TransientError, match="unreachable"), open_archive(url) as file:
        file.read()
    with server([None] + [404] * 50) as (url, _), pytest.raises(DataError), open_archive(url) as file:
        while file.read(1000):
            pass


def test_lists_prefixes_and_memory(tmp_path):
    for name in ("b.warc.gz", "a.warc.gz"):
        (tmp_path / name).write_bytes(b"x" + name.encode())
    memory = fsspec.filesystem("memory")
    paths = b"\xef\xbb\xbfcrawl/1.wat.gz\r\n\n  crawl/2.wat.gz\ncrawl/1.wat.gz\ns3://b/3.wat.gz\n/4.wat.gz"
    memory.pipe_file("/archives/wat.paths.gz", gzip.compress(paths))
    memory.pipe_file("/archives/crawl/2.wat.gz", DATA)
    names = listed(paths, "memory://archives/")
    assert names == [*(f"memory://archives/crawl/{n}.wat.gz" for n in (1, 2)), "s3://b/3.wat.gz", "/4.wat.gz"]
    assert listed(gzip.compress(paths), "memory://archives") == names
    for wrong in (b"<html>Please sign in", gzip.compress(paths)[:20], b"\xff\xfe", DATA):
        with pytest.raises(DataError, match="not a list of archives"):
            listed(wrong)
    with open_archive(names[1]) as file:
        assert file.read() == DATA
    parts = [("crawl/2.wat.gz", 3, 9), ("crawl/2.wat.gz", 0, 2), ("wat.paths.gz", 0, 2)]
    assert read_ranges("memory://archives", parts) == [DATA[3:9], DATA[:2], b"\x1f\x8b"]
    assert read_ranges(str(tmp_path), [("a.warc.gz", 1, 4), ("b.warc.gz", 0, 2)]) == [b"a.w", b"xb"]
    assert read_ranges("memory://archives", []) == []
    with pytest.raises(DataError, match="not found"):
        read_ranges("memory://archives", [*parts, ("gone", 0, 1)])


def test_what_is_no_archive_is_reported(tmp_path):
    page = tmp_path / "x.warc.gz"
    page.write_bytes(b"<html>Please sign in")
    with pytest.raises(DataError, match="not a WARC, ARC or WAT file"):
        find_candidates(Pages("00000", str(page), 1, Config()), ShardOutput(Context(tmp_path / "out").store, "c"))
