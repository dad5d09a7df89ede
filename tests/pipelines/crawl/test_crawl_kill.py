"""A crawl that loses its worker, driver or books in the middle of rounds ends with the bytes of one left alone."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from loopback import NOT_FOUND, answer, serving

from infra.run.context import Context
from infra.run.manifest import Artifact
from pipelines import crawl
from pipelines.crawl.stage import Config
from pipelines.web.fetcher import Web

HOSTS = ("a", "b", "c")
PAGES = 9  # of each host, as a tree
DRIVER = """
import sys
from infra import cluster
from infra.run.context import Context
from pipelines import crawl

with cluster.connect():
    crawl.run(crawl.Config(**eval(sys.argv[2])), {}, Context(sys.argv[1]))
"""


class Slow(dict):
    """Three hosts of nine pages, each a tenth of a second away. The next host's tree hangs on every fourth page."""

    def get(self, address, default=None):
        if address.endswith("/robots.txt"):
            return NOT_FOUND

        async def slowly(writer):
            _, _, page = address.partition(".example/")
            number = int(page or 0)
            links = [f"/{child}" for child in range(3 * number + 1, 3 * number + 4) if child < PAGES]
            links += [f"http://{other}.example/{number or ''}" for other in HOSTS if number % 4 == 0]
            await asyncio.sleep(0.1)
            writer.write(answer("".join(f'<a href="{link}">x</a>' for link in links).encode()))
            await writer.drain()

        return slowly


def settings(port):
    web = {"connect_to": {"*.example": f"127.0.0.1:{port}"}, "retries": 0, "host_concurrency": 16, "concurrency": 2}
    return {
        "seeds": ["http://a.example/"],
        "allowed_hosts": ["*.example"],
        "warc_date": "2026-01-01T00:00:00Z",
        "web": web,
        "shard_urls": 4,
        "partitions": 2,
        "round_urls": 12,
        "host_urls": 5,
    }


def run(folder, config, **options):
    context = Context(folder, **options)
    return Artifact(context.store, crawl.run(Config(**{**config, "web": Web(**config["web"])}), {}, context))


def wait_for(what):
    deadline = time.monotonic() + 60
    while not (seen := what()):
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)
    return seen


def processes(title):
    """The processes of this one's cluster with ``title`` in their names."""
    parents, named = {}, []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended
            parents[int(process.name)] = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            if title in (process / "cmdline").read_text():
                named.append(int(process.name))
    return [pid for pid in named if os.getpid() in _ancestors(pid, parents)]


def fetching():
    """The workers at work on a shard."""
    return processes("_batch_task")


def _ancestors(pid, parents):
    while pid := parents.get(pid, 0):
        yield pid


@pytest.fixture(scope="module")
def calm(ray_cluster, tmp_path_factory):
    """The manifest of a crawl that nobody disturbs, and that hands every step to workers; a killed one takes the small
    ones itself, which must not matter."""
    with serving(Slow()) as site, pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipelines.crawl.rounds._SMALL", -1)
        manifest = run(tmp_path_factory.mktemp("calm"), settings(site.port)).manifest
    assert manifest.funnel.kept == len(HOSTS) * PAGES
    return manifest.to_bytes()


def test_killed_and_continued_it_ends_with_the_same_bytes(calm, tmp_path):
    import ray

    with serving(Slow()) as site:
        config = settings(site.port)
        address = ray.get_runtime_context().gcs_address
        command = [sys.executable, "-c", DRIVER, str(tmp_path / "killed"), repr(config)]
        driver = subprocess.Popen(command, env={**os.environ, "RAY_ADDRESS": address})
        try:
            wait_for(lambda: len(site.asked) > 5)
            os.kill(wait_for(fetching)[0], signal.SIGKILL)
            before = len(site.asked)
            wait_for(lambda: len(site.asked) > before + 9 or driver.poll() is not None)
            assert driver.poll() is None, "it ended before it could be killed"
        finally:
            driver.kill()
            driver.wait()
        wait_for(lambda: not fetching() and not processes("ray::Local"))  # the books end with whom they were kept for
        committed = {path.stem for path in (tmp_path / "killed/ledger").glob("*.json")}
        assert any("update" in name for name in committed) and not any("unvisited" in name for name in committed)
        killed = run(tmp_path / "killed", config)

    assert killed.manifest.to_bytes() == calm
    assert not list(killed.verify())
    urls = Counter(
        row["url"]
        for file in killed.files("data/", ".urls.parquet")
        for row in pq.read_table(tmp_path / "killed" / file.path).to_pylist()
    )
    assert len(urls) == len(HOSTS) * PAGES and set(urls.values()) == {1}


def test_a_crawl_outlives_the_process_that_keeps_the_books(calm, tmp_path):
    events = []
    with serving(Slow()) as site:

        def kill():
            wait_for(lambda: len(site.asked) > 5)
            for pid in processes("ray::Local"):
                os.kill(pid, signal.SIGKILL)
                lost.append(pid)

        lost = []
        killer = threading.Thread(target=kill)
        killer.start()
        crawled = run(tmp_path, settings(site.port), emit=events.append)
        killer.join()
    assert lost
    assert crawled.manifest.to_bytes() == calm
    assert not [event for event in events if event.kind == "shard_retry"]
