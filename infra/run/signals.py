"""The signals that ask a process to save its state and stop."""

from __future__ import annotations

import signal

__all__ = ["stop_signals"]


def stop_signals() -> list[signal.Signals]:
    """SIGINT, SIGTERM, and SIGHUP of a terminal that closes, unless it is to be ignored, as ``nohup`` has it."""
    hangs_up = signal.getsignal(signal.SIGHUP) != signal.SIG_IGN
    return [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hangs_up else [])]
