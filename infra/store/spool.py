"""Temporary file for results that arrive before they can be written.

Concurrent downloads finish in any order, and a shard is written in one order. Results that have to wait are kept in an
unnamed temporary file: in memory they could fill it while a slow server holds up the head of the queue.
"""

from __future__ import annotations

import os
import tempfile
from types import TracebackType
from typing import NamedTuple, Self

__all__ = ["Spool", "Ticket"]


class Ticket(NamedTuple):
    """Position of stored bytes in the spool."""

    offset: int
    size: int


class Spool:
    """Context manager around a temporary file in ``TMPDIR`` that disappears with the process, however it ends."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="clipline-spool-", buffering=0)  # noqa: SIM115 - closed in __exit__
        self.size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()

    def put(self, data: bytes) -> Ticket:
        """Append ``data``. Raises OSError when the disk is full. Not thread-safe."""
        ticket = Ticket(self.size, len(data))
        written = 0
        while written < len(data):  # one call writes 2 GiB at most
            written += os.pwrite(self._file.fileno(), memoryview(data)[written:], ticket.offset + written)
        self.size += len(data)
        return ticket

    def get(self, ticket: Ticket) -> bytes:
        """Read the bytes stored under ``ticket``."""
        pieces: list[bytes] = []
        offset, end = ticket.offset, ticket.offset + ticket.size
        while offset < end:
            pieces.append(os.pread(self._file.fileno(), end - offset, offset))
            offset += len(pieces[-1])
        return b"".join(pieces)
