"""Politeness across workers, simulated: real rate limiters and queues on a virtual clock, and a server that records."""

import asyncio
import itertools
import json
import os
import selectors
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from infra.errors import TransientError
from pipelines.web import Web
from pipelines.web.politeness.client import LimiterClient, LocalLimiter, ShardedLimiter
from pipelines.web.politeness.limiter import WORKER_TIMEOUT_S, HostReport, RateLimiter
from pipelines.web.politeness.queue import HostDownError, HostQueue
from pipelines.web.politeness.single_flight import FileResult


class _Jump(selectors.DefaultSelector):
    """Instead of waiting, moves the clock."""

    now = 1000.0

    def select(self, timeout=None):
        ready = super().select(0)
        if not ready and timeout:
            self.now += timeout
        return ready


def run(scenario, clock_of=lambda loop: loop.time):
    """Run ``scenario(clock)`` in a loop whose time passes only when nothing else is left to do."""
    jump = _Jump()
    loop = asyncio.SelectorEventLoop(jump)
    loop.time = lambda: jump.now
    loop._clock_resolution = 1e-9
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(asyncio.wait_for(scenario(loop.time), 3_000))


class SlowClient(LimiterClient):
    """A client with latency. A worker that is ``cut`` off can no longer reach the limiter."""

    def __init__(self, limiter, delay_s=0.001, pause_s=0.1):
        self.limiter, self.delay_s, self.pause_s, self.cut = limiter, delay_s, pause_s, False

    async def _travel(self):
        await asyncio.sleep(self.delay_s)
        if self.cut:
            raise TransientError("cut off")

    async def exchange(self, *args):
        await self._travel()
        reply = await self.limiter.exchange(*args)
        await self._travel()
        return reply

    async def notifications(self, worker):
        keys = await self.limiter.notifications(worker)
        await self._travel()
        return keys

    async def leave(self, worker):
        await self._travel()
        await self.limiter.leave(worker)


class Server:
    """Sees every request: how many at once, and when each began."""

    def __init__(self, clock):
        self.clock, self.open, self.most, self.starts = clock, Counter(), Counter(), {}

    async def serve(self, queue, name, seconds):
        await queue.acquire(name)
        self.starts.setdefault(name, []).append(self.clock())
        self.open[name] += 1
        self.most[name] = max(self.most[name], self.open[name])
        try:
            await asyncio.sleep(seconds)
        finally:
            self.open[name] -= 1
            queue.release(name, seconds)

    def excess(self, name, delay):
        """The smallest number of requests without which all others are ``delay`` apart."""
        starts, last = sorted(self.starts[name]), float("-inf")
        kept = [last := start for start in starts if start - last >= delay - 1e-6]
        return len(starts) - len(kept)

    def gaps(self, name):
        starts = sorted(self.starts[name])
        return [after - before for before, after in itertools.pairwise(starts)]


bursts = st.lists(  # worker, host, when, how many requests at once, how long each takes
    st.tuples(
        st.integers(0, 3),
        st.sampled_from("aab"),
        st.sampled_from([0.0, 0.1, 2.5, 9.0, 30.0]),
        st.integers(1, 8),
        st.sampled_from([0.01, 0.3, 5.0]),
    ),
    min_size=1,
    max_size=20,
)


@pytest.mark.long
@settings(max_examples=100)
@given(
    bursts=bursts,
    shards=st.sampled_from([1, 3]),
    cap=st.integers(1, 5),
    delay=st.sampled_from([0.0, 0.0, 0.7]),
    lag=st.sampled_from([0.0, 0.001, 0.4]),
    connections=st.integers(1, 4),
    dies=st.none() | st.tuples(st.integers(0, 3), st.floats(0, 20)),
    lost=st.none() | st.floats(0, 20),
)
@example(
    bursts=[*5 * [(0, "a", 0.0, 1, 0.01)], (0, "b", 2.5, 1, 0.01), (1, "a", 0.0, 2, 0.01)],
    shards=1, cap=1, delay=0.7, lag=0.0, connections=1, dies=None, lost=2.5,
)  # fmt: skip
def test_tokens_never_exceed_the_cap_and_no_worker_starves(bursts, shards, cap, delay, lag, connections, dies, lost):
    """With one limiter or several; a worker may die, and limiters may be lost and restarted empty."""
    web = Web(host_concurrency=cap, delay_s=delay, concurrency=connections)

    async def scenario(clock):
        server, limiters = Server(clock), [LocalLimiter(web, clock) for _ in range(shards)]
        clients = [[SlowClient(one, lag) for one in limiters] for _ in range(4)]
        finished = Counter()

        async def worker(number):
            async with HostQueue(web, ShardedLimiter(clients[number])) as queue:

                async def burst(name, at, count, seconds):
                    await asyncio.sleep(at)
                    await asyncio.gather(*(server.serve(queue, name, seconds) for _ in range(count)))
                    finished[number] += count

                await asyncio.gather(*(burst(*rest) for who, *rest in bursts if who == number))

        async def lose():
            await asyncio.sleep(lost)
            for number in range(shards):
                restarted = LocalLimiter(web, clock)
                for client in clients:
                    client[number].limiter = restarted

        async def die():
            number, at = dies
            await asyncio.sleep(at)
            for client in clients[number]:
                client.cut = True
            tasks[number].cancel()  # its requests end, and its leave() does not arrive

        tasks = [asyncio.create_task(worker(number)) for number in range(4)]
        await asyncio.gather(*([lose()] if lost is not None else []), *([die()] if dies else []))
        for number, task in enumerate(tasks):
            if not dies or number != dies[0]:
                await task
        for name in server.starts:
            assert server.most[name] <= (cap if lost is None else 2 * cap)
            # After a loss one request of before comes between the new ones, which cannot know when the last one was.
            assert server.excess(name, delay) <= (0 if lost is None else 2)
        for who in range(4):
            assert finished[who] == sum(burst[3] for burst in bursts if burst[0] == who) or (dies and dies[0] == who)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    run(scenario)


def workers(count, web, clock, lag=0.001):
    limiter = LocalLimiter(web, clock)
    return [HostQueue(web, SlowClient(limiter, lag)) for _ in range(count)]


def test_a_file_is_fetched_by_one_for_all_and_by_another_if_that_one_dies():
    async def scenario(clock):
        first, *others = workers(4, Web(), clock)
        loads = Counter()

        async def load(who, seconds):
            loads[who] += 1
            await asyncio.sleep(seconds)
            return FileResult(200, b"rules", crawl_delay_s=2.0)

        async with others[0], others[1], others[2]:
            async with first:
                lost = asyncio.create_task(first.shared_file("http://a/robots.txt", lambda: load("first", 1e6)))
                await asyncio.sleep(1)
                waiting = [
                    asyncio.create_task(one.shared_file("http://a/robots.txt", lambda n=n: load(n, 1.0)))
                    for n, one in enumerate(others)
                ]
                await asyncio.sleep(30)
                assert loads == {"first": 1}
                lost.cancel()  # leaves in good order; the simulation above covers a worker that dies silently
            answers = await asyncio.gather(*waiting)
            assert {answer.body for answer in answers} == {b"rules"}
            assert sum(loads.values()) == 2
            server = Server(clock)
            await asyncio.gather(*(server.serve(one, "a", 0.1) for one in others for _ in range(2)))
            assert min(server.gaps("a")) >= 2.0 - 1e-6  # the Crawl-delay applies to all workers at once

    run(scenario)


@pytest.mark.long
def test_a_dead_host_costs_seconds_and_is_probed_again():
    web = Web(breaker_failures=5, breaker_s=30.0)

    async def scenario(clock):
        asked = []
        one, two = workers(2, web, clock)
        alive = False

        async def request(queue):
            try:
                await queue.acquire("dead")
            except HostDownError:
                return "down"
            asked.append(clock())
            await asyncio.sleep(1.0)
            queue.release("dead", 1.0 if alive else None, responded=alive)
            return alive

        async with one, two:
            start = clock()
            fates = Counter(await asyncio.gather(*(request(queue) for queue in (one, two) for _ in range(5000))))
            assert clock() - start < 10
            assert fates[False] == len(asked) <= 10  # the fifth failure, and what began before the word was out
            await asyncio.sleep(31)
            before = len(asked)
            assert Counter(await asyncio.gather(*(request(one) for _ in range(50)))) == {False: 1, "down": 49}
            await asyncio.sleep(31)
            assert await request(two) == "down"  # now for twice as long
            await asyncio.sleep(31)
            alive = True
            assert set(await asyncio.gather(*(request(queue) for queue in (one, two) for _ in range(5)))) == {True}
            assert len(asked) == before + 1 + 10

    run(scenario)


def test_a_pause_that_a_host_asks_for_is_kept_by_all():
    async def scenario(clock):
        one, two = workers(2, Web(host_concurrency=4), clock)
        server = Server(clock)
        async with one, two:
            await asyncio.gather(server.serve(one, "a", 0.1), server.serve(two, "a", 0.1))
            await one.acquire("a")
            paused = clock()
            one.pause("a", 20.0)
            one.release("a", 0.1, ok=False)
            await asyncio.sleep(0.5)  # for the report to travel
            await asyncio.gather(server.serve(one, "a", 0.1), server.serve(two, "a", 0.1))
            assert min(server.starts["a"][2:]) >= paused + 20.0 - 1e-6

    run(scenario)


def test_a_restarted_limiter_learns_of_a_crawl_delay():
    async def scenario(clock):
        one, two = workers(2, Web(host_concurrency=4), clock)
        server = Server(clock)

        async def fetch(queue):
            queue.set_crawl_delay("a", 5.0)  # as every fetch does that has read the site's robots.txt
            await server.serve(queue, "a", 0.1)

        async with one, two:
            await asyncio.gather(fetch(one), fetch(two))
            await asyncio.sleep(60)  # until no worker remembers the host
            one._limiter.limiter = two._limiter.limiter = LocalLimiter(Web(host_concurrency=4), clock)
            await asyncio.gather(*(fetch(queue) for queue in (one, two) * 3))
        assert min(server.gaps("a")) >= 5.0 - 1e-6

    run(scenario)


def test_the_delay_follows_autothrottle():
    web = Web(target_concurrency=2.0, max_delay_s=10.0)
    limiter, delay = RateLimiter(web), 0.0
    for latency, good in [(4.0, True), (1.0, True), (0.5, False), (30.0, False), (50.0, True), (0.0, True)]:
        seen = {"ok": (1, latency)} if good else {"not_ok": (1, latency)}
        grant = limiter.exchange("w", {"h": HostReport(need=1, **seen)}, 0.0).grants["h"]
        goal = (delay + latency / 2.0) / 2
        delay = min(10.0, goal if good else max(delay, goal))
        assert grant.interval_s == pytest.approx(delay)
    many = limiter.exchange("w", {"h": HostReport(need=1, ok=(40, 40.0))}, 0.0).grants["h"]  # as if reported one by one
    assert many.interval_s == pytest.approx(0.5, rel=1e-6)
    many = limiter.exchange("w", {"h": HostReport(need=1, ok=(5000, 5000.0))}, 0.0).grants["h"]
    limiter.exchange("w", {"h": HostReport(need=2)}, 0.0)
    other = limiter.exchange("v", {"h": HostReport(need=2)}, 0.0).grants["h"]
    assert other.tokens == 0  # until the first hands one back
    limiter.exchange("w", {"h": HostReport(need=2, returned=1)}, 0.0)
    both = [limiter.exchange(who, {"h": HostReport(need=2)}, 0.0).grants["h"] for who in "wv"]
    assert [grant.tokens for grant in both] == [1, 1]
    assert sum(1 / grant.interval_s for grant in both) == pytest.approx(1 / many.interval_s)


@pytest.mark.parametrize("under_way", [0.0, 0.03, 0.2])
def test_a_host_rests_after_pauses_that_were_waited(under_way):
    """Requests that were under way together ask for the same pause one after another; that is not two pauses."""
    limiter, now = RateLimiter(Web(max_delay_s=1.0, breaker_failures=2)), 0.0

    def asks(at: float) -> float:
        return limiter.exchange("w", {"h": HostReport(need=1, pause_s=0.99)}, at).grants["h"].rest_s

    for _ in range(2):
        assert [asks(now), asks(now + under_way / 2), asks(now + under_way)] == [0.0, 0.0, 0.0]
        now += under_way + 1.0
    assert asks(now) > 0.0


def test_a_worker_out_of_touch_starts_nothing_and_one_without_limiter_ends():
    async def scenario(clock):
        client = SlowClient(LocalLimiter(Web(), clock))
        async with HostQueue(Web(), client) as queue:
            await queue.acquire("a")
            queue.release("a", 0.1)
            client.delay_s = 60.0  # so slow that the limiter takes the worker for dead
            await asyncio.sleep(WORKER_TIMEOUT_S)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(30):
                    await queue.acquire("a")
            client.delay_s = 0.001
            await queue.acquire("a")
            queue.release("a", 0.1)
            client.cut = True
            await asyncio.sleep(2)
            with pytest.raises(TransientError):
                await queue.acquire("a")
            with pytest.raises(TransientError):
                await queue.shared_file("http://a/robots.txt", None)

    run(scenario)


def test_an_error_of_our_own_reaches_whoever_waits():
    class Broken(LocalLimiter):
        async def exchange(self, *args):
            raise ZeroDivisionError

    async def scenario(clock):
        async def load():
            raise ZeroDivisionError

        async with HostQueue(Web(), LocalLimiter(Web(), clock)) as queue:
            with pytest.raises(ZeroDivisionError):
                await queue.shared_file("http://a/robots.txt", load)
            await queue.acquire("a")
            queue.release("a")
        async with HostQueue(Web(), Broken(Web(), clock)) as queue:
            with pytest.raises(ZeroDivisionError):
                await queue.acquire("a")

    run(scenario)


def test_the_limiter_stays_small(monkeypatch):
    monkeypatch.setattr("pipelines.web.politeness.limiter._MAX_HOSTS", 100)
    monkeypatch.setattr("pipelines.web.politeness.single_flight._MAX_BYTES", 50_000)
    limiter = RateLimiter(Web(delay_s=1.0))
    for number in range(1000):
        name, url = f"h{number}", f"http://h{number}/robots.txt"
        reply = limiter.exchange("w", {name: HostReport(need=1)}, float(number), [url])
        assert reply.files == {url: None} and reply.grants[name].tokens >= 1
        limiter.exchange(
            "w", {name: HostReport(returned=reply.grants[name].tokens)}, number, (), {url: FileResult(200, b"x" * 1000)}
        )
        assert len(limiter._hosts) <= 102 and limiter._files.bytes <= 50_000
    assert limiter.exchange("v", {}, 1000.0, [url]).files[url].body == b"x" * 1000
    assert limiter.exchange("v", {}, 1000.0, ["http://h0/robots.txt"]).files == {"http://h0/robots.txt": None}


@pytest.mark.ray
def test_four_nodes_together_respect_the_limits_of_a_host():
    """Concurrency and Crawl-delay as the server sees them, with a Ray cluster of four nodes asking."""
    script = Path(__file__).with_name("four_nodes.py")
    path = os.pathsep.join([str(script.parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, script], env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads(done.stdout.splitlines()[-1])
    assert len(set(seen["nodes"])) == 4
    assert all(status == 200 for statuses in seen["statuses"] for status in statuses)
    by_host = {}
    for host, path, start, end in seen["spans"]:
        by_host.setdefault(host, []).append((start, end, path))
    for host, spans in by_host.items():
        assert [path for *_, path in spans].count("/robots.txt") == 1, host
        assert len(spans) == len({path for *_, path in spans})
        assert max(sum(a <= start < b for a, b, _ in spans) for start, *_ in spans) <= 3
    assert len(by_host["busy.example"]) == 101
    starts = sorted(start for start, *_ in by_host["calm.example"])
    # 0.4 s between starts, as the client keeps them; the way to the server takes a request a little more or less time
    assert min(after - before for before, after in itertools.pairwise(starts)) > 0.3
