"""The way from a stage's workers to the hosts' books (``pipelines.web.politeness.limiter``), which all of them share.

A Ray actor keeps the books. A call costs it 0.6 ms and a host that a worker meets 0.08 ms, so one actor keeps up with
32 workers whatever they fetch; for a larger cluster there are more, each with the hosts that fall to it by name. One
that is lost with its process or its node is started again and asked again, so the stage goes on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from zlib import crc32

from infra.errors import TransientError
from pipelines.web.politeness.limiter import SILENCE_S, Books, News, Reply
from pipelines.web.politeness.single_flight import Answer
from pipelines.web.urls import host_of

if TYPE_CHECKING:
    from pipelines.web.fetcher import Web

__all__ = ["Link", "Local", "Split", "shared"]

_CPUS_PER_ACTOR = 32
_CALLS_PER_S = 25  # of one worker, to all actors together: one more of them should not cost it more
_LONGEST_PAUSE_S = 2.0  # well below SILENCE_S


class Link:
    """How a worker reaches the books: ``exchange`` and ``leave`` as :class:`Books` has them, without the clock.

    ``news`` returns when there is something to ask about, and what; it may also return nothing. ``parts`` are to be
    asked for news, each by itself. Raises TransientError if the books do not answer.
    """

    pause_s = 0.0  # between two exchanges of one worker

    async def exchange(
        self, worker: str, news: Mapping[str, News], asked: Iterable[str], found: Mapping[str, Answer]
    ) -> Reply:
        raise NotImplementedError

    async def news(self, worker: str) -> set[str]:
        raise NotImplementedError

    async def leave(self, worker: str) -> None:
        raise NotImplementedError

    @property
    def parts(self) -> Sequence[Link]:
        return (self,)


class Local(Link):
    """The books in this process; also the actor's inside."""

    def __init__(self, web: Web, clock: Callable[[], float] = time.monotonic) -> None:
        self._books = Books(web)
        self._clock = clock
        self._bells: dict[str, asyncio.Event] = {}

    async def exchange(
        self, worker: str, news: Mapping[str, News], asked: Iterable[str], found: Mapping[str, Answer]
    ) -> Reply:
        reply = self._books.exchange(worker, news, self._clock(), asked, found)
        self._ring()
        return reply

    async def news(self, worker: str) -> set[str]:
        bell = self._bells.setdefault(worker, asyncio.Event())
        try:
            async with asyncio.timeout(SILENCE_S):  # not wait_for, which can swallow a cancellation
                await bell.wait()
        except TimeoutError:
            return set()
        bell.clear()
        return self._books.woken.pop(worker, set())

    async def leave(self, worker: str) -> None:
        self._books.leave(worker, self._clock())
        self._bells.pop(worker, None)
        self._ring()

    def _ring(self) -> None:
        for worker in self._books.woken:
            if bell := self._bells.get(worker):
                bell.set()


class _Remote(Link):
    """The books in an actor. Pickles to workers."""

    pause_s = 0.1
    _PATIENCE_S = 60.0  # a lost process is replaced within seconds, a lost node may be missed later
    _AGAIN_S = 0.5

    def __init__(self, actor: Any) -> None:  # noqa: ANN401 - Ray's actor handles are untyped
        self._actor = actor

    async def exchange(
        self, worker: str, news: Mapping[str, News], asked: Iterable[str], found: Mapping[str, Answer]
    ) -> Reply:
        reply: Reply = await self._ask("exchange", worker, news, asked, found)
        return reply

    async def news(self, worker: str) -> set[str]:
        keys: set[str] = await self._ask("news", worker)
        return keys

    async def leave(self, worker: str) -> None:
        await self._ask("leave", worker)

    async def _ask(self, method: str, *arguments: object) -> Any:  # noqa: ANN401
        """What the actor answers, be it only once it has been started again."""
        from ray.exceptions import ActorUnavailableError, RayError

        try:
            async with asyncio.timeout(self._PATIENCE_S):
                while True:
                    try:
                        return await getattr(self._actor, method).remote(*arguments)
                    except ActorUnavailableError:
                        await asyncio.sleep(self._AGAIN_S)
        except (RayError, TimeoutError) as error:
            raise TransientError(
                "the hosts' books do not answer, so nobody may ask anything", found=f"{type(error).__name__}: {error}"
            ) from error


class Split(Link):
    """Several books, each with the hosts that fall to it by name, and their files."""

    def __init__(self, parts: Sequence[Link]) -> None:
        self._parts = parts
        self.pause_s = max(min(len(parts) / _CALLS_PER_S, _LONGEST_PAUSE_S), *(part.pause_s for part in parts))

    @property
    def parts(self) -> Sequence[Link]:
        return self._parts

    async def exchange(
        self, worker: str, news: Mapping[str, News], asked: Iterable[str], found: Mapping[str, Answer]
    ) -> Reply:
        """Each part hears its own, if only that there is nothing, or it would take the worker for dead."""
        words: list[tuple[dict[str, News], list[str], dict[str, Answer]]] = [({}, [], {}) for _ in self._parts]
        for host, said in news.items():
            words[self._of(host)][0][host] = said
        for url in asked:
            words[self._of(host_of(url))][1].append(url)
        for url, answer in found.items():
            words[self._of(host_of(url))][2][url] = answer
        replies = await asyncio.gather(
            *(part.exchange(worker, *word) for part, word in zip(self._parts, words, strict=True))
        )
        return Reply(
            {host: share for reply in replies for host, share in reply.shares.items()},
            {url: answer for reply in replies for url, answer in reply.files.items()},
            # What other parts have given out the worker will hear of again when it next speaks of it, which is at once.
            any(reply.stranger for reply in replies),
        )

    async def leave(self, worker: str) -> None:
        await asyncio.gather(*(part.leave(worker) for part in self._parts))

    def _of(self, host: str) -> int:
        return crc32(host.encode()) % len(self._parts)


@contextmanager
def shared(web: Web, actors: int | None = None) -> Iterator[Link]:
    """Books for all workers of a stage, in as many Ray ``actors`` as the cluster needs, for as long as the block lasts.

    What is yielded pickles: hand it to each worker's ``Fetcher(web, manners=...)``.
    """
    import ray

    if actors is None:
        resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        actors = 1 + int(resources.get("CPU", 1.0)) // (_CPUS_PER_ACTOR + 1)
    keeper = ray.remote(Local).options(
        num_cpus=0, scheduling_strategy="SPREAD", max_concurrency=10_000, max_restarts=-1
    )
    keepers: list[Any] = [keeper.remote(web) for _ in range(actors)]
    try:
        yield Split([_Remote(one) for one in keepers]) if actors > 1 else _Remote(keepers[0])
    finally:
        for one in keepers:
            ray.kill(one)
