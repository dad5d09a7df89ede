"""Signals: the first asks a run to save its state and stop, the second ends the process at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from infra.run.signals import stop_signals

__all__ = ["SignalHandler"]


class SignalHandler:
    """Handles :func:`~infra.run.signals.stop_signals`; ``received`` is the number of the first, None before it came.

    ``cause`` says for people what it was.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.cause = ""
        self._terminals = [descriptor for descriptor in (0, 1, 2) if os.isatty(descriptor)]

    @classmethod
    @contextmanager
    def installed(cls) -> Iterator[SignalHandler]:
        """Handle signals inside the block, then restore the handlers of before. No-op outside the main thread."""
        handler = cls()
        if threading.current_thread() is not threading.main_thread():  # only there can signals be handled
            yield handler
            return
        before = {number: signal.getsignal(number) for number in stop_signals()}
        handler.install()
        try:
            yield handler
        finally:
            for number, previous in before.items():
                signal.signal(number, previous)

    def install(self) -> None:
        """Install the handler, or install it again where something else replaced it."""
        if threading.current_thread() is threading.main_thread():
            for number in stop_signals():
                signal.signal(number, self._handle)

    def ask(self, cause: str) -> None:
        """Do what a first SIGTERM does; from any thread."""
        if self.received is None:
            self.cause, self.received = cause, signal.SIGTERM

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            self._leave_terminal()
        if self.received is not None:
            os._exit(128 + number)
        self.cause, self.received = signal.Signals(number).name, number

    def _leave_terminal(self) -> None:
        """Print into nothing from now on if the terminal is gone: an error of printing must not end the run."""
        for descriptor in self._terminals:
            if not os.isatty(descriptor):
                nothing = os.open(os.devnull, os.O_RDWR)
                os.dup2(nothing, descriptor)
                os.close(nothing)
