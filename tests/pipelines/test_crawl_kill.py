"""A crawl whose worker and driver are killed in the middle of rounds ends with the bytes of one nobody disturbed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
from loopback import NOT_FOUND, answer, serving

from infra.context import Context
from infra.manifest import Artifact
from pipelines import crawl
from pipelines.crawl import Config
from pipelines.web.fetch import Web

HOSTS = ("a", "b", "c")
PAGES = 9  # of each host, as a tree
DRIVER = """
import sys
from infra import cluster
from infra.context import Context
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


def run(folder, config):
    context = Context(folder)
    return Artifact(context.store, crawl.run(Config(**{**config, "web": Web(**config["web"])}), {}, context))


def wait_for(what):
    deadline = time.monotonic() + 60
    while not (seen := what()):
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)
    return seen


def fetching():
    """The workers of this process's cluster that are at work on a shard."""
    parents, busy = {}, []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended
            parents[int(process.name)] = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            if b"_lot_task" in (process / "cmdline").read_bytes():
                busy.append(int(process.name))
    return [pid for pid in busy if os.getpid() in _ancestors(pid, parents)]


def _ancestors(pid, parents):
    while pid := parents.get(pid, 0):
        yield pid


def test_killed_and_continued_it_ends_with_the_same_bytes(ray_cluster, tmp_path, monkeypatch):
    """The calm one hands every step to workers, the killed one takes the small ones itself, which must not matter."""
    import ray

    with serving(Slow()) as site:
        config = settings(site.port)
        with monkeypatch.context() as patch:
            patch.setattr("pipelines.crawl_rounds._SMALL", -1)
            calm = run(tmp_path / "calm", config)
        total = len(HOSTS) * PAGES
        assert calm.manifest.funnel.kept == total

        site.asked.clear()
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
        wait_for(lambda: not fetching())
        committed = {path.stem for path in (tmp_path / "killed/ledger").glob("*.json")}
        assert any("update" in name for name in committed) and not any("unvisited" in name for name in committed)
        killed = run(tmp_path / "killed", config)

    assert killed.manifest.to_bytes() == calm.manifest.to_bytes()
    assert not list(killed.verify())
    urls = Counter(
        row["url"]
        for file in killed.files("data/", ".urls.parquet")
        for row in pq.read_table(tmp_path / "killed" / file.path).to_pylist()
    )
    assert len(urls) == total and set(urls.values()) == {1}
