"""Ask a run to stop through its folder in the root, from wherever that can be reached.

A request is a file with a content of its own, and stays. A run heeds one that came after it began, so no request
outlives its run, and nobody has to know on which machine the run works.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from infra.errors import CliplineError
from infra.store import LocalStore, Store

__all__ = ["StopRequest", "ask_to_stop", "heeding"]

_PATH = "stop"


def ask_to_stop(folder: Store) -> None:
    """Ask the process that carries out the run in ``folder`` to save its state and end."""
    folder.write(_PATH, uuid.uuid4().hex.encode())


class StopRequest:
    """Tells whether somebody has asked the run in ``folder`` to stop since this object was made."""

    def __init__(self, folder: Store) -> None:
        self._folder = folder
        self._before = self._read()
        self.poll_s = 1.0 if isinstance(folder, LocalStore) else 5.0

    def came(self) -> bool:
        return self._read() != self._before

    def _read(self) -> bytes:
        try:
            return self._folder.read(_PATH)
        except FileNotFoundError:
            return b""


@contextmanager
def heeding(requests: Sequence[StopRequest], stop: Callable[[], None]) -> Iterator[None]:
    """Within the block, call ``stop`` from a thread, once, when any of the requests came."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(max(request.poll_s for request in requests)):
            try:
                asked = any(request.came() for request in requests)
            except (OSError, CliplineError):  # the store does not answer: ask again
                continue
            if asked:
                stop()
                return

    thread = threading.Thread(target=watch, name="clipline-stop", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
