"""Events from any process of the cluster to the driver, and the driver's request to stop back. Imports Ray."""

from __future__ import annotations

import threading
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from infra.events import Event

__all__ = ["Reporter", "mailbox"]


class _Mailbox:
    """Collects events until the driver takes them. Runs as a Ray actor on the driver's node."""

    def __init__(self) -> None:
        self._posts: list[tuple[str, list[Event]]] = []
        self._stop = False

    def post(self, sender: str, events: list[Event]) -> bool:
        """Add events; True if the sender should stop."""
        if events:
            self._posts.append((sender, events))
        return self._stop

    def take(self) -> list[tuple[str, list[Event]]]:
        """The events since the last call, with their senders."""
        posts, self._posts = self._posts, []
        return posts

    def stop(self) -> None:
        self._stop = True


def mailbox() -> Any:  # noqa: ANN401 - Ray's actor handles are untyped
    """Start a mailbox actor on this node; its methods are ``post``, ``take`` and ``stop``."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(_Mailbox).options(num_cpus=0, scheduling_strategy=here).remote()


class Reporter:
    """Sends events to a mailbox in the background and learns from its answers whether to stop. Pickles to workers.

    ``sender``: by which the driver tells apart stages of the same name.
    """

    INTERVAL_S = 0.5

    def __init__(self, mailbox: Any, sender: str = "") -> None:  # noqa: ANN401
        self._mailbox, self._sender = mailbox, sender
        self._lock = threading.Lock()
        self._flushing = threading.Lock()
        self._pending: list[Event] = []
        self._stop = False
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def __reduce__(self) -> tuple[object, ...]:
        return (Reporter, (self._mailbox, self._sender))

    def emit(self, event: Event) -> None:
        """Queue an event; it is sent within ``INTERVAL_S``."""
        with self._lock:
            self._pending.append(event)
            self._start()

    def stopping(self) -> bool:
        """True if the run was asked to stop, as of the last exchange with the mailbox."""
        with self._lock:
            self._start()
        return self._stop

    def flush(self) -> None:
        """Send what is pending and wait until it has arrived."""
        with self._flushing:  # keeps events in order when a caller and the thread flush at once
            with self._lock:
                events, self._pending = self._pending, []
            self._stop = bool(ray.get(self._mailbox.post.remote(self._sender, events)))

    def close(self) -> None:
        """Send what is pending and end the thread: a worker's process outlives what it is used for."""
        self._closed.set()
        self.flush()

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="clipline-reporter", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while not self._closed.wait(self.INTERVAL_S):
            try:
                self.flush()
            except RayError:
                # The driver is gone or going; Ray ends this process soon, and no one is left to report to.
                return
