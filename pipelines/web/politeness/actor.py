"""Rate limiters as Ray actors, shared by all workers of a stage.

A call costs an actor 0.6 ms and a host that is new to a worker 0.08 ms, so one actor keeps up with 32 workers, whatever
they fetch; a larger cluster gets more, each with a part of the hosts. An actor that is lost with its process or its
node is restarted and called again, so the stage goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayError

from infra.errors import TransientError
from pipelines.web.config import Web
from pipelines.web.politeness.client import LimiterClient, LocalLimiter, ShardedLimiter
from pipelines.web.politeness.limiter import HostReport, Reply
from pipelines.web.politeness.single_flight import FileResult

__all__ = ["shared_limiter"]

_CPUS_PER_ACTOR = 32


class _ActorClient(LimiterClient):
    """Client of a limiter actor. Pickles to workers."""

    pause_s = 0.1
    _TIMEOUT_S = 60.0  # a lost process is replaced within seconds; a lost node takes longer to be noticed
    _RETRY_S = 0.5

    def __init__(self, actor: Any) -> None:  # noqa: ANN401 - Ray's actor handles are untyped
        self._actor = actor

    async def exchange(
        self,
        worker: str,
        reports: Mapping[str, HostReport],
        wanted: Iterable[str],
        fetched: Mapping[str, FileResult],
    ) -> Reply:
        reply: Reply = await self._call("exchange", worker, reports, wanted, fetched)
        return reply

    async def notifications(self, worker: str) -> set[str]:
        keys: set[str] = await self._call("notifications", worker)
        return keys

    async def leave(self, worker: str) -> None:
        await self._call("leave", worker)

    async def _call(self, method: str, *arguments: object) -> Any:  # noqa: ANN401
        """Call the actor, again while it is being restarted."""
        try:
            async with asyncio.timeout(self._TIMEOUT_S):
                while True:
                    try:
                        return await getattr(self._actor, method).remote(*arguments)
                    except ActorUnavailableError:
                        await asyncio.sleep(self._RETRY_S)
        except (RayError, TimeoutError) as error:
            raise TransientError(
                "the rate-limiter actor is unreachable", found=f"{type(error).__name__}: {error}"
            ) from error


@contextmanager
def shared_limiter(web: Web, actors: int | None = None) -> Iterator[LimiterClient]:
    """Start a rate limiter for all workers of a stage, in as many Ray ``actors`` as the cluster needs.

    Yields a client that pickles: hand it to each worker's ``Fetcher(web, limiter=...)``. The actors end with the block.
    """
    if actors is None:
        resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        actors = 1 + int(resources.get("CPU", 1.0)) // (_CPUS_PER_ACTOR + 1)
    actor_class = ray.remote(LocalLimiter).options(
        num_cpus=0, scheduling_strategy="SPREAD", max_concurrency=10_000, max_restarts=-1
    )
    handles: list[Any] = [actor_class.remote(web) for _ in range(actors)]
    try:
        yield ShardedLimiter([_ActorClient(one) for one in handles]) if actors > 1 else _ActorClient(handles[0])
    finally:
        for one in handles:
            ray.kill(one)
