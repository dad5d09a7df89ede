"""The cluster's manners, by simulation: real books and real workers in a time that jumps, and a host that watches."""

import asyncio
import itertools
import selectors
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from infra.errors import TransientError
from pipelines.fetch import Web
from pipelines.hosts import Link, Local
from pipelines.turns import Turns


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


class Wire(Link):
    """A link that takes its time. A worker that is ``cut`` off never hears or says anything again."""

    def __init__(self, books, delay_s=0.001, pause_s=0.1):
        self.books, self.delay_s, self.pause_s, self.cut = books, delay_s, pause_s, False

    async def _travel(self):
        await asyncio.sleep(self.delay_s)
        if self.cut:
            raise TransientError("cut off")

    async def exchange(self, *args):
        await self._travel()
        reply = await self.books.exchange(*args)
        await self._travel()
        return reply

    async def news(self, worker):
        keys = await self.books.news(worker)
        await self._travel()
        return keys

    async def leave(self, worker):
        await self._travel()
        await self.books.leave(worker)


class Server:
    """Sees every request: how many at once, and when each began."""

    def __init__(self, clock):
        self.clock, self.open, self.most, self.starts = clock, Counter(), Counter(), {}

    async def serve(self, turns, name, seconds):
        await turns.take(name)
        self.starts.setdefault(name, []).append(self.clock())
        self.open[name] += 1
        self.most[name] = max(self.most[name], self.open[name])
        try:
            await asyncio.sleep(seconds)
        finally:
            self.open[name] -= 1
            turns.give(name, seconds)

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


@settings(max_examples=60)
@given(
    bursts=bursts,
    cap=st.integers(1, 5),
    delay=st.sampled_from([0.0, 0.0, 0.7]),
    lag=st.sampled_from([0.0, 0.001, 0.4]),
    connections=st.integers(1, 4),
    dies=st.none() | st.tuples(st.integers(0, 3), st.floats(0, 20)),
)
def test_tokens_never_exceed_the_cap_and_nobody_starves(bursts, cap, delay, lag, connections, dies):
    web = Web(host_concurrency=cap, delay_s=delay, concurrency=connections)

    async def scenario(clock):
        server, books = Server(clock), Local(web, clock)
        wires = [Wire(books, lag) for _ in range(4)]
        finished = Counter()

        async def worker(number):
            async with Turns(web, wires[number]) as turns:

                async def burst(name, at, count, seconds):
                    await asyncio.sleep(at)
                    await asyncio.gather(*(server.serve(turns, name, seconds) for _ in range(count)))
                    finished[number] += count

                await asyncio.gather(*(burst(*rest) for who, *rest in bursts if who == number))

        tasks = [asyncio.create_task(worker(number)) for number in range(4)]
        if dies:
            await asyncio.sleep(dies[1])
            wires[dies[0]].cut = True
            tasks[dies[0]].cancel()  # its requests end; it says no good-bye that anybody would hear
        for number, task in enumerate(tasks):
            if not dies or number != dies[0]:
                await task
        for name in server.starts:
            assert server.most[name] <= cap
            assert not delay or min(server.gaps(name), default=delay) >= delay - 1e-6
        for who in range(4):
            assert finished[who] == sum(burst[3] for burst in bursts if burst[0] == who) or (dies and dies[0] == who)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    run(scenario)
