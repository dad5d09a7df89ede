"""A cluster of four nodes fetches from one server, and prints as JSON what the server saw. For test_politeness.py."""

import asyncio
import json
import logging
import sys
import threading
import time

import ray
from loopback import Site, answer
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipelines.web import Web
from pipelines.web.fetcher import Fetcher
from pipelines.web.politeness.actor import shared_limiter

NODES = 4
URLS = {"busy.example": 25, "calm.example": 2, "free.example": 10}  # per node


class Watched(Site):
    """Remembers when each request began and ended, by host."""

    def __init__(self):
        super().__init__({})
        self.spans = []

    async def _serve(self, reader, writer):
        while True:
            try:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
            except (asyncio.IncompleteReadError, ConnectionError):
                break
            path = head.split(" ")[1]
            host = next(line[6:] for line in head.split("\r\n") if line.lower().startswith("host: "))
            start = time.monotonic()
            await asyncio.sleep(0.02)
            rules = b"User-agent: *\nCrawl-delay: 0.4\n" if host == "calm.example" else b""
            writer.write(answer(rules if path == "/robots.txt" else b"<p>hello"))
            self.spans.append((host, path, start, time.monotonic()))
        writer.close()


def work(node, web, limiter):
    async def fetch_all():
        async with Fetcher(web, limiter=limiter) as fetcher:
            urls = [f"http://{host}/{node}/{number}" for host, count in URLS.items() for number in range(count)]
            return [response.status for response in await asyncio.gather(*(fetcher.get(url) for url in urls))]

    return ray.get_runtime_context().get_node_id(), asyncio.run(fetch_all())


def main():
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    site = Watched()
    asyncio.run_coroutine_threadsafe(site.__aenter__(), loop).result()
    web = Web(connect_to={"*.example": f"127.0.0.1:{site.port}"}, retries=0, host_concurrency=3)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    for _ in range(NODES - 1):
        cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    places = [
        NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        for node in sorted(ray.nodes(), key=lambda n: n["NodeID"])
    ]
    with shared_limiter(web, actors=2) as limiter:
        task = ray.remote(work)
        refs = [
            task.options(scheduling_strategy=place, num_cpus=1).remote(number, web, limiter)
            for number, place in enumerate(places)
        ]
        done = ray.get(refs, timeout=200)
    json.dump({"spans": site.spans, "nodes": [node for node, _ in done], "statuses": [s for _, s in done]}, sys.stdout)
    sys.stdout.flush()
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main()
