"""Signals: the first asks a run to save its state and stop, the second ends the process at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Stop"]


class Stop:
    """``signal`` is the number of the first SIGINT or SIGTERM, None before it came."""

    def __init__(self) -> None:
        self.signal: int | None = None

    @classmethod
    @contextmanager
    def installed(cls) -> Iterator[Stop]:
        stop = cls()
        if threading.current_thread() is not threading.main_thread():  # only there can signals be handled
            yield stop
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        stop.install()
        try:
            yield stop
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def install(self) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._handle)
            signal.signal(signal.SIGTERM, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            os._exit(128 + number)
        self.signal = number
