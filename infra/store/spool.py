"""A place on disk for bytes that are finished before their turn to be written has come.

What is fetched side by side ends in any order, and what is written has one order. Keeping the early ones in memory
would let a slow server at the head of the queue fill it; here they wait in an unnamed temporary file.
"""

from __future__ import annotations

import os
import tempfile
from types import TracebackType
from typing import NamedTuple, Self

__all__ = ["Spool", "Ticket"]


class Ticket(NamedTuple):
    """Where the bytes lie in the spool."""

    offset: int
    size: int


class Spool:
    """A context manager around a temporary file (in ``TMPDIR``) that goes with the process, however that ends."""

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
        """Append ``data``. Raises OSError when the disk is full. Not for several threads at once."""
        ticket = Ticket(self.size, len(data))
        written = 0
        while written < len(data):  # one call writes 2 GiB at most
            written += os.pwrite(self._file.fileno(), memoryview(data)[written:], ticket.offset + written)
        self.size += len(data)
        return ticket

    def get(self, ticket: Ticket) -> bytes:
        """The bytes of ``ticket``."""
        pieces: list[bytes] = []
        offset, end = ticket.offset, ticket.offset + ticket.size
        while offset < end:
            pieces.append(os.pread(self._file.fileno(), end - offset, offset))
            offset += len(pieces[-1])
        return b"".join(pieces)
