"""Requests that a run's journal in a bucket costs: a batch each six seconds, followed each second.

    python -m tests.benchmarks.journal                 ten minutes against an S3 server, then a week by the count
    python -m tests.benchmarks.journal --hours 24

Beside ours stands the journal as one object for each batch, all listed at each look, which nothing ever merges. The
clock is simulated. A server counts the requests of ten minutes, and the same ten minutes without a server have to come
to the same sum, or the benchmark ends: so the week needs no server.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import uuid
from collections import Counter
from types import SimpleNamespace

from infra.events import Progress
from infra.store.remote import ObjectStore
from workflows.run import journal as journals
from workflows.run.journal import Journal

EVERY_S, LISTED = 6, 1000
EVENT = Progress(time=1.0, stage="download", done=1)


class Clock:
    now = 0.0

    def monotonic(self):
        return self.now


class Counting(ObjectStore):
    """A store in memory that counts what a bucket would be asked."""

    def __init__(self, url):
        super().__init__(url)
        self.asked = Counter()

    def create(self, path, data):
        self.asked["PUT"] += 1
        return super().create(path, data)

    def paths(self, prefix=""):
        found = super().paths(prefix)
        self.asked["LIST"] += -(-len(found) // LISTED) or 2  # s3fs asks again, whether what is empty is an object
        return found

    def read_all(self, paths):
        self.asked["GET"] += len(paths)
        return super().read_all(paths)

    def delete_all(self, paths):
        self.asked["DELETE"] += 1
        return super().delete_all(paths)


class PerBatch(Journal):
    """The peer: an object for each append, read by listing all of them."""

    class Store:
        def __init__(self, store):
            self._store, self._number = store, 0

        def append(self, path, data):
            self._store.create(f"{path}/{self._number:08d}", data)
            self._number += 1

        def read_appended(self, path, start):
            found = self._store.paths(path)
            return b"".join(self._store.read_all(found[start:])), len(found)

    def __init__(self, store):
        super().__init__(self.Store(store))

    def follow(self, start):
        return self.read(start)


def live(journal, seconds, clock):
    """Append and follow for so many simulated seconds; all that was appended has to be read."""
    position = seen = 0
    for second in range(seconds):
        clock.now = float(second)
        if second % EVERY_S == 0:
            journal.append([EVENT])
        events, position = journal.follow(position)
        seen += len(events)
    assert seen == -(-seconds // EVERY_S), seen


def per_batch_by_formula(seconds):
    batches = -(-seconds // EVERY_S)
    lists = sum(-(-(second // EVERY_S + 1) // LISTED) for second in range(seconds))
    return Counter(PUT=batches, GET=batches, LIST=lists)


def served(seconds, clock):
    """Requests that a server gets from either way within so many seconds."""
    from moto.server import ThreadedMotoServer

    server, heard = ThreadedMotoServer(ip_address="127.0.0.1", port=0), Counter()

    class Ear(logging.Handler):
        def emit(self, record):
            if match := re.search(r'"(\w+) (\S+) HTTP', record.getMessage()):
                kind = match[1] if "list-type" not in match[2] else "LIST"
                heard["DELETE" if kind == "POST" else kind] += 1

    log = logging.getLogger("werkzeug")
    log.handlers, log.propagate = [Ear()], False
    log.setLevel(logging.INFO)
    server.start()
    host, port = server.get_host_and_port()
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
    }
    import s3fs

    s3fs.S3FileSystem().mkdir("clipline")
    found = []
    for kind in (PerBatch, Journal):
        heard.clear()
        live(kind(ObjectStore(f"s3://clipline/{uuid.uuid4().hex}")), seconds, clock)
        found.append(Counter(heard))
    server.stop()
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=24 * 7)
    arguments = parser.parse_args()
    clock, short = Clock(), 600
    journals.time = SimpleNamespace(monotonic=clock.monotonic)

    def counted(seconds):
        store = Counting(f"memory://journal-{uuid.uuid4().hex}")
        live(Journal(store), seconds, clock)
        asked = Counter(store.asked)
        return asked, len(store.paths(Journal.PATH))

    on_server, by_count = served(short, clock), [per_batch_by_formula(short), counted(short)[0]]
    for heard, expected in zip(on_server, by_count, strict=True):
        assert heard == expected, f"the server counted {heard}, we {expected}"
    print(
        f"ten minutes at a server: an object a batch {on_server[0].total():,} requests, merged {on_server[1].total():,}"
    )

    seconds = round(arguments.hours * 3600)
    before, (after, objects) = per_batch_by_formula(seconds), counted(seconds)
    print(f"\n{arguments.hours:g} hours, a batch each {EVERY_S} s")
    kinds = ("LIST", "GET", "PUT", "DELETE")
    print(f"{'':>18}{''.join(f'{kind:>13}' for kind in (*kinds, 'all', 'objects'))}")
    for name, asked, left in (("an object a batch", before, before["PUT"]), ("merged", after, objects)):
        row = (*(asked[kind] for kind in kinds), asked.total(), left)
        print(f"{name:>18}{''.join(f'{number:>13,}' for number in row)}")
    print(f"{before.total() / after.total():.1f} x fewer requests")


if __name__ == "__main__":
    main()
