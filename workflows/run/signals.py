"""Signals: the first asks a run to save its state and stop, the second ends the process at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["SignalHandler"]


class SignalHandler:
    """Handles SIGINT and SIGTERM; ``received`` is the number of the first, None before it came."""

    def __init__(self) -> None:
        self.received: int | None = None

    @classmethod
    @contextmanager
    def installed(cls) -> Iterator[SignalHandler]:
        """Handle signals inside the block, then restore the handlers of before. No-op outside the main thread."""
        handler = cls()
        if threading.current_thread() is not threading.main_thread():  # only there can signals be handled
            yield handler
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        handler.install()
        try:
            yield handler
        finally:
            for number, previous in before.items():
                signal.signal(number, previous)

    def install(self) -> None:
        """Install the handler, or install it again where something else replaced it."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._handle)
            signal.signal(signal.SIGTERM, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            os._exit(128 + number)
        self.received = number
